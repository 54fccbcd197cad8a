"""What a soak came to, in words that the terminal and the page share."""

from __future__ import annotations

__all__ = ["clock", "knee_line", "seconds", "share", "verdict_cells"]

from earlyfire_stream.report.view import seconds_text
from earlyfire_stream.soak.judging import Knee, State, Verdict


def knee_line(found: Knee) -> str:
    broken = found.broken_at
    if broken is None:
        if found.cameras is None:
            return "knee: no step of the ramp was measured"
        return f"knee: not reached; {found.cameras} cameras held"
    where = f"windows {broken.windows[0]} to {broken.windows[-1]}" if broken.windows else ""
    kept = "not even the first step held" if found.cameras is None else f"{found.cameras} cameras"
    return f"knee: {kept}; at {broken.cameras} ({where}): {broken.why}"


def verdict_cells(verdict: Verdict) -> dict[str, str]:
    """`what`, `state`, `value`, `interval`, `limit`, `n` and `why`; empty where there is none."""
    why = [verdict.why] if verdict.why else []
    if verdict.exhausted_s is not None and verdict.state is not State.HELD:
        why.append(f"at that slope memory is full in {_long(verdict.exhausted_s)}")
    value = interval = ""
    if verdict.value is not None:
        value = _in_unit(verdict.value, verdict.unit)
    elif verdict.interval is not None:
        value = "never"  # the median fire was not found
    if verdict.interval is not None:
        low, high = (
            "never" if end is None else _in_unit(end, verdict.unit) for end in verdict.interval
        )
        interval = f"{low} to {high}"
    return {
        "what": verdict.what,
        "state": verdict.state.value,
        "value": value,
        "interval": interval,
        "limit": "" if verdict.limit is None else _in_unit(verdict.limit, verdict.unit),
        "n": f"{verdict.n:,}" if verdict.n else "",
        "why": "; ".join(why),
    }


def _in_unit(value: float, unit: str) -> str:
    match unit:
        case "s":
            return f"{value:.3g} s"
        case "share":
            return f"{100 * value:.3g} %"
        case "bytes/h":
            return f"{value / 1e6:+.1f} MB/h"
        case _:
            return f"{100 * value:+.1f} %/h"


def share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %" if of else "n/a"


def seconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g} s"


def clock(seconds: float) -> str:
    """`7:30`, `1:02:30`; under a minute `12.5 s`."""
    if seconds < 60:
        return f"{seconds:g} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    tail = f"{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
    return f"{hours}:{tail}" if hours else tail


def _long(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds >= 172_800 else seconds_text(seconds)
