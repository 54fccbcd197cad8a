"""What the program says while it works: one line an event, for people or as JSON, on stderr.

Modules call `logging.getLogger`; the command alone calls `configure`. The standard library does it
with one handler: everything here, our libraries included, logs through it already, so a library for
structured logs (structlog) would render the same records a second way and bring nothing of what
this module is for. Every line carries the run and, where it is about one, the camera. Rules:

- A line is one line. What a camera, a model or a server said cannot end it, colour it, turn it
  around or forge another: control characters are written out.
- Secrets are masked: passwords in addresses, authorisation headers, values called password, token
  or key, and whatever the environment or a password file holds of them.
- A flood stays readable: of one place in the code BURST lines pass in WINDOW_S seconds; the next
  line that passes says how many were left out, and so does the end.
"""

from __future__ import annotations

__all__ = ["FORMATS", "LEVELS", "Narrator", "about", "bind", "configure", "hide", "inert", "masked"]

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self, get_args

import orjson

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import AlarmRecord, CameraPlan, FrameRecord, Shot, Snapshot
from earlyfire_stream.verdict import Reason, burns

Format = Literal["console", "json"]
FORMATS: tuple[str, ...] = get_args(Format)
LEVELS = ("debug", "info", "warning", "error")
BURST = 20
"""Lines of one place in the code that pass in WINDOW_S."""
WINDOW_S = 10.0
LONGEST = 4000
"""Characters of a message; a reply or a traceback may be of any length."""
HIDDEN_FROM = 4
"""Shorter secrets are not looked for by their value: they would be found everywhere."""
MASK = "***"

_camera: ContextVar[str] = ContextVar("camera", default="")
_run = ""
_secrets: set[str] = set()

_SECRET_NAME = r"[\w.-]*(?:password|passwd|secret|token|api[_-]?key|\w[_-]key)"
_SECRET_VARIABLE = re.compile(r"(?i)(PASSWORD|PASSWD|SECRET|TOKEN|KEY|CREDENTIALS?)$")
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ of an address; whoever forgets to write a password's own @ and / as %40 and
    # %2F has it masked as well, up to the last @
    (
        re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):(?:[^\s\"',]{1,200}|[^\s/@]+)@"),
        rf"\1:{MASK}@",
    ),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+[\w.~+/=-]{4,}"), rf"\1 {MASK}"),
    (
        re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?!\s*(?:bearer|basic|digest)\b)[^\s\"',;}]+"),
        rf"\1{MASK}",
    ),
    # quoted values may hold spaces
    (re.compile(rf"(?i)(\b{_SECRET_NAME}[\"']?\s*[:=]\s*)(\"[^\"]*\"|'[^']*')"), rf'\1"{MASK}"'),
    (re.compile(rf"(?i)(\b{_SECRET_NAME}[\"']?\s*[:=]\s*)[^\s\"',;&}}]+"), rf"\1{MASK}"),
    (re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[opsu]_\w{16,})"), MASK),
)  # fmt: skip
# C0 and C1 controls, line and paragraph separators, everything that turns text around, halves of
# characters, and the byte order mark
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


# --- what a line is about ------------------------------------------------------------------------


def bind(run: str) -> None:
    """All further lines of this process are about this run; "" for none."""
    global _run
    _run = run


@contextlib.contextmanager
def about(camera: str) -> Iterator[None]:
    """What is logged inside, by the same task and those that it starts, is about this camera."""
    token = _camera.set(camera)
    try:
        yield
    finally:
        _camera.reset(token)


# --- what a line must not hold -------------------------------------------------------------------


def hide(secret: str | None) -> None:
    """Mask this value wherever it turns up."""
    if secret is not None and len(secret) >= HIDDEN_FROM:
        _secrets.add(secret)


def masked(text: str) -> str:
    """`mqtt://me:pw@host` → `mqtt://me:***@host` · `token=abc` → `token=***`."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def inert(text: str) -> str:
    r"""One line that only shows characters: a line feed becomes `\n`, an escape `\x1b`."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def _clean(text: str) -> str:
    text = inert(masked(text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


# --- lines ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """One place in the code that logs."""

    since: float
    passed: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class Lines(logging.Handler):
    """Writes each record as one line to stderr, whatever stderr is at that moment."""

    def __init__(self, form: Format) -> None:
        super().__init__()
        self.form = form
        self._places: dict[tuple[str, int], _Place] = {}

    def emit(self, record: logging.LogRecord) -> None:
        left_out = self._left_out(record)
        if left_out is not None:
            self._write(record, left_out)

    def close(self) -> None:
        """Tell what was left out and never told."""
        with self.lock or contextlib.nullcontext():
            for place in self._places.values():
                if place.left_out and place.last is not None:
                    self._write(place.last, place.left_out - 1)
            self._places.clear()
        super().close()

    def _left_out(self, record: logging.LogRecord) -> int | None:
        """How many like it were left out before it; None if it is left out as well."""
        now = record.created
        place = self._places.setdefault((record.pathname, record.lineno), _Place(now))
        if not 0 <= now - place.since < WINDOW_S:
            told, place.since, place.passed, place.left_out = place.left_out, now, 1, 0
            return told
        if place.passed < BURST:
            place.passed += 1
            return 0
        place.left_out += 1
        place.last = record
        return None

    def _write(self, record: logging.LogRecord, left_out: int) -> None:
        try:
            line = (_json if self.form == "json" else _plain)(record, left_out)
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more, which must not end the run
        except Exception:
            self.handleError(record)


def _told(record: logging.LogRecord) -> tuple[str, str]:
    """Its message and its traceback, both of them safe."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a message whose placeholders do not fit
        message = f"{record.msg} {record.args}"
    trace = ""
    if record.exc_info and record.exc_info[0] is not None:
        trace = logging.Formatter().formatException(record.exc_info)
    return _clean(message), "\n".join(_clean(line) for line in trace.split("\n")) if trace else ""


def _fields(record: logging.LogRecord) -> dict[str, str]:
    camera = getattr(record, "camera", None) or _camera.get()
    found = {"run": _run, "camera": str(camera)}
    return {name: _clean(value) for name, value in found.items() if value}


def _json(record: logging.LogRecord, left_out: int) -> str:
    message, trace = _told(record)
    line: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": message,
        **_fields(record),
    }
    extra = getattr(record, "fields", None)
    if isinstance(extra, Mapping):
        line |= {
            str(key): _clean(value) if isinstance(value, str) else value
            for key, value in extra.items()
            if key not in line
        }
    if trace:
        line["trace"] = trace.split("\n")
    if left_out:
        line["left_out"] = left_out
    return orjson.dumps(line, default=str).decode()


def _plain(record: logging.LogRecord, left_out: int) -> str:
    message, trace = _told(record)
    at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
    bound = " ".join(f"{name}={value}" for name, value in _fields(record).items())
    line = f"{at} {record.levelname:<7} {message}"
    if bound:
        line += f"  [{bound}]"
    if left_out:
        line += f"  ({left_out:,} more like this left out)"
    if trace:
        line += "".join(f"\n  | {text}" for text in trace.split("\n"))
    return line


# --- the command's part --------------------------------------------------------------------------

_asked: dict[str, str | None] = {"format": None, "level": None}


def configure(form: str | None = None, level: str | None = None) -> None:
    """Log to stderr from now on. What is None stays as it was asked for before.

    Without a level the console shows warnings, and JSON, which nobody reads as it goes by, events.
    """
    for name, value, known in (("format", form, FORMATS), ("level", level, LEVELS)):
        if value is None:
            continue
        if value not in known:
            raise UsageError(f"--log-{name} {value!r:.40}: write {', '.join(known)}")
        _asked[name] = value
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name):
            hide(value)
    shown = _asked["level"] or ("info" if is_json() else "warning")
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, Lines)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(Lines("json" if is_json() else "console"))
    root.setLevel(shown.upper())
    # Loading a model takes minutes: what the worker says of it is progress.
    if shown == "warning":
        logging.getLogger("earlyfire_stream.engines.supervisor").setLevel(logging.INFO)
    # Its broker logs every client's coming and going, and its transport reconnects by itself.
    for noisy in ("amqtt", "transitions", "mqtt"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def is_json() -> bool:
    return _asked["format"] == "json"


class Narrator:
    """A run as log lines, where lines are asked for instead of a screen: stages, cameras, alarms.

    Single frames are not told: their records are in the run folder.
    """

    def __init__(self) -> None:
        self._log = logging.getLogger("earlyfire_stream.run")
        self._stage = ""
        self._plans: Mapping[str, CameraPlan] = {}
        self._off: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def stage(self, text: str, share: float | None = None) -> None:
        if text != self._stage:
            self._stage = text
            self._log.info("%s", text)

    def begin(
        self,
        plans: Sequence[CameraPlan],
        clock: Clock,
        snapshot: Callable[[], Snapshot] | None,
    ) -> None:
        self._plans = {plan.id: plan for plan in plans}
        fires = len({fire.id for plan in plans for fire in plan.fires})
        told = {"cameras": len(plans), "fires": fires, "speed": clock.speed}
        self._log.info("%d cameras, %d fires", len(plans), fires, extra={"fields": told})

    def shot(self, shot: Shot) -> None:
        off = shot.unsent is not Reason.NONE
        if off == (shot.camera in self._off):
            return
        (self._off.add if off else self._off.discard)(shot.camera)
        told = {"at_s": shot.captured_at, "reason": shot.unsent.value}
        extra = {"camera": shot.camera, "fields": told}
        self._log.info("camera %s", "off" if off else "back", extra=extra)

    def frame(self, record: FrameRecord) -> None:
        return None

    def alarm(self, record: AlarmRecord) -> None:
        if not record.emitted:
            return
        at = record.alarm.completed_at
        plan = self._plans.get(record.alarm.camera)
        fire = next((f.id for f in plan.fires if burns(f, at)), None) if plan is not None else None
        told = {"at_s": at, "fire": fire}
        extra = {"camera": record.alarm.camera, "fields": told}
        self._log.info("alarm", extra=extra)
