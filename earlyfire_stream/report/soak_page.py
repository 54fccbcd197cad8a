"""A soak's page: one HTML file like a run's report, with its windows drawn over time.

What is judged, and how it is said, is the soak's own business: this lays out what it is given.
"""

from __future__ import annotations

__all__ = ["SOAK_FILE", "render", "write"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyfire_stream.report.single_file import filled, write_whole
from earlyfire_stream.report.summary import duration

SOAK_FILE = "soak.html"
STATES = {
    "held": ("good", "held", "Every limit held"),
    "breached": ("bad", "breached", "A limit was breached"),
    "undecided": ("late", "undecided", "Too little was measured to decide"),
}
ROLES = ("harness", "pictures", "broker", "worker", "engine", "gpu")
"""In this order each has its own colour."""


def write(
    folder: Path,
    told: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, str]],
    knee: str,
) -> Path:
    """Write the page whole or not at all; gives its place. `told` is what soak.json holds."""
    path = folder / SOAK_FILE
    write_whole(path, render(told, verdicts, knee))
    return path


def render(told: Mapping[str, Any], verdicts: Sequence[Mapping[str, str]], knee: str) -> str:
    """The page as HTML; no text of the run becomes markup or script."""
    windows = told["windows"]
    processes = _processes(windows)
    tone, _, headline = STATES[told["state"]]
    undecided = sum(cells["state"] == "undecided" for cells in verdicts)
    if told["state"] == "held" and undecided:
        headline = f"Nothing breached, {undecided} undecided"
    if not told["complete"]:
        headline += ", of what was played"
    return filled(
        "soak.html.jinja",
        styles=["page.css", "soak.css"],
        scripts=["drawing.js", "soak.js"],
        data=_drawn(told),
        told=told,
        tone=tone,
        headline=headline,
        played=duration(told["played_s"]),
        asked_for=duration(told["for_s"]),
        window=duration(told["window_s"]),
        verdicts=[
            {**cells, "tone": STATES[cells["state"]][0], "word": STATES[cells["state"]][1]}
            for cells in verdicts
        ],
        knee=knee,
        rows=[_row(window) for window in windows],
        processes=processes,
        on_gpu=any(row[-1] for row in processes),
        cold=[duration(leg["cold_start_s"]) for leg in _legs(told) if leg["cold_start_s"]],
        gaps=[
            (leg["number"], duration(leg["begin_s"]), _or_unknown(leg["gap_s"]))
            for leg in _legs(told)[1:]
        ],
        errors=_errors(windows),
    )


def _legs(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(told["legs"])


def _or_unknown(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else duration(seconds)


def _drawn(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the charts need: a row a window, and the lines through memory."""
    windows = told["windows"]
    broken = (told["knee"] or {}).get("broken_at")
    return {
        "for": told["for_s"],
        "windows": [
            {
                "begin": w["begin_s"],
                "end": w["end_s"],
                "part": w["part"],
                "faults": w["faults"],
                "cameras": w["cameras"],
                "offered": w["offered_per_s"],
                "served": w["served_per_s"],
                "due": w["due_per_s"],
                "drops": w["drop_share"],
                "errors": _part(sum(w["errors"].values()), _requests(w)),
                "latency": [w["seconds"]["latency"][rank] for rank in ("p50", "p95", "p99")],
                "request": w["seconds"]["request"]["p50"],
                "n": w["seconds"]["latency"]["n"],
                "tokens": w["visual_tokens_per_s"],
                "memory": {
                    role: (level["gpu_bytes"] if role == "gpu" else level["rss_bytes"])
                    for role, level in w["processes"].items()
                },
            }
            for w in windows
        ],
        "roles": [role for role in ROLES if any(role in w["processes"] for w in windows)],
        "trends": told["trends"],
        "limits": {name: told["slo"][name] for name in ("p95_latency", "drop_share")},
        "knee": None if broken is None else [broken["begin_s"], told["knee"]["cameras"]],
        "gaps": [leg["begin_s"] for leg in _legs(told)[1:]],
    }


def _requests(window: Mapping[str, Any]) -> int:
    return int(window["served"] + window["fates"].get("engine_error", 0))


def _part(count: int, of: int) -> float | None:
    return count / of if of else None


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"


def _seconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3g}"


def _row(window: Mapping[str, Any]) -> dict[str, Any]:
    seconds = window["seconds"]
    words = []
    if window["part"] != "measured":
        words.append("warming up" if window["part"] == "warm-up" else "after the end")
    rates = [
        f"{window['offered_per_s']:.1f}",
        f"{window['served_per_s']:.2f}",
        f"{window['visual_tokens_per_s']:,.0f}",
    ]
    if window["part"] == "end":  # what is settled then has no rate
        rates = ["", "", ""]
    return {
        "until": "" if window["part"] == "end" else _clock(window["end_s"]),
        "cells": [
            str(window["cameras"]),
            *rates[:2],
            _percent(window["drop_share"]),
            _percent(_part(sum(window["errors"].values()), _requests(window))),
            *(_seconds(seconds["latency"][rank]) for rank in ("p50", "p95", "p99")),
            f"{seconds['latency']['n']:,}",
            _seconds(seconds["decision"]["p50"]),
            rates[2],
            _seconds(seconds["late"]["p99"]),
        ],
        "note": ", ".join([*words, *window["faults"]]),
        "measured": window["part"] == "measured",
    }


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if abs(whole - seconds) > 0.01 or whole < 60:
        return f"{seconds:g} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _processes(windows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row a role: memory first, last and most, then files, threads, cores of its last window."""
    rows: list[tuple[str, ...]] = []
    whole = [w for w in windows if w["part"] != "end"] or windows
    for role in ROLES:
        seen = [w["processes"][role] for w in whole if role in w["processes"]]
        if not seen:
            continue
        name = "gpu_bytes" if role == "gpu" else "rss_bytes"
        cpu = [level["cpu"] for level in seen if level["cpu"] is not None]
        on_gpu = seen[-1]["gpu_bytes"]
        rows.append(
            (
                role,
                f"{seen[0][name] / 1e6:,.0f}",
                f"{seen[-1][name] / 1e6:,.0f}",
                f"{max(max(level['most_rss_bytes'], level[name]) for level in seen) / 1e6:,.0f}",
                "" if seen[-1]["files"] is None else str(seen[-1]["files"]),
                str(seen[-1]["threads"] or ""),
                f"{sum(cpu) / len(cpu):.2f}" if cpu else "",
                "" if on_gpu is None else f"{on_gpu / 1e6:,.0f}",
            )
        )
    return rows


def _errors(windows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Reasons and how often, the most frequent first."""
    total: dict[str, int] = {}
    for window in windows:
        for reason, count in window["errors"].items():
            total[reason] = total.get(reason, 0) + count
    ranked = sorted(total.items(), key=lambda entry: -entry[1])
    return [(reason, f"{count:,}") for reason, count in ranked]
