"""A run's report: one HTML file that needs nothing else, no network and no other file.

Charts are drawn by a small script of our own. A library would bring more code than the charts take
(the smallest that draw survival curves and timelines weigh 45 kB and up), and none draws a timeline
of frames. Tables beside the charts hold the same figures, so the page says everything on paper too.

Nothing that a model, a camera or a scenario says is trusted. The template escapes everything; what
the script needs is embedded as JSON without any `<`; the script only sets text. The page's own
policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

__all__ = ["render", "write"]

import base64
import contextlib
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
import orjson
from markupsafe import Markup

from earlyfire_stream import __version__
from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import RunLog
from earlyfire_stream.report.gallery import MAX_BYTES, MAX_PICTURES, gallery
from earlyfire_stream.report.view import Page, page, seconds_text
from earlyfire_stream.scoring import Score
from earlyfire_stream.scoring.footage import footage, packed

REPORT_FILE = "report.html"


def write(folder: Path, log: RunLog, score: Score, output: Path | None = None) -> Path:
    """Write the report of a run folder, whole or not at all; gives its place."""
    path = output or folder / REPORT_FILE
    log, *_ = packed(log)
    everything = footage(log)
    text = render(page(log, score, everything, gallery(folder, log, everything)))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as why:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunFolderError(
            f"{path}: cannot be written: {why.strerror}; choose another place with -o"
        ) from why
    return path


def render(told: Page) -> str:
    """The page as HTML; no text of the run becomes markup or script."""
    script = _asset("page.js")
    html = _template().render(
        page=told,
        css=Markup(_asset("page.css")),
        script=Markup(script),
        policy=_policy(script),
        data=Markup(_embedded(told.data)),
        version=__version__,
        max_pictures=MAX_PICTURES,
        max_megabytes=MAX_BYTES / 1e6,
    )
    # A stranger's text may hold a lone surrogate, which UTF-8 cannot.
    return html.encode("utf-8", "replace").decode("utf-8")


def _embedded(data: object) -> str:
    """JSON that cannot end the script element it stands in, whatever its texts hold."""
    text = orjson.dumps(data).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    return files("earlyfire_stream.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("earlyfire_stream.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = seconds_text
    return environment.get_template("page.html.jinja")
