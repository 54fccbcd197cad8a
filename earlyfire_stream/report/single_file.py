"""A page as one HTML file that needs nothing else: styles, scripts and data stand in it.

Nothing that a model, a camera or a scenario says is trusted. The template escapes everything; what
the script needs is embedded as JSON without any `<`; the script only sets text. The page's own
policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

__all__ = ["filled", "write_whole"]

import base64
import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from earlyfire_stream import __version__
from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.report.view import seconds_text


def filled(
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Mapping[str, Any],
    **values: object,
) -> str:
    """The page as HTML; `data` is for the scripts, `values` for the template."""
    script = "\n".join(map(_asset, scripts))
    html = (
        _environment()
        .get_template(template)
        .render(
            css=Markup("\n".join(map(_asset, styles))),
            script=Markup(script),
            policy=_policy(script),
            data=Markup(_embedded(data)),
            version=__version__,
            **values,
        )
    )
    # A stranger's text may hold a lone surrogate, which UTF-8 cannot.
    return html.encode("utf-8", "replace").decode("utf-8")


def write_whole(path: Path, text: str) -> None:
    """Write the page whole or not at all."""
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would replace even /dev/null
        raise RunFolderError(f"{path}: is no file; choose another place with -o")
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
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("earlyfire_stream.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = seconds_text
    return environment
