"""What may be compared: only runs over the same frames, under one clock and alarm policy.

Every reason is told at once. Grave ones leave nothing to pair; the others a wish overrules.
"""

from __future__ import annotations

__all__ = ["Doubt", "doubts", "refusal"]

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from earlyfire_stream.records import FrameTable, RunLog
from earlyfire_stream.scoring.compare.sides import Side, by_digest, label
from earlyfire_stream.scoring.compare.stated import legible, settings_unlike
from earlyfire_stream.scoring.early_fire import alarm_policy
from earlyfire_stream.verdict import Fate

_FATES = tuple(Fate)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason not to compare. `grave`: there is nothing to pair, and no wish changes that."""

    text: str
    grave: bool = False


def doubts(sides: Sequence[Side]) -> list[Doubt]:
    """Every reason why these sides are not comparable with the first, grave ones first."""
    said: dict[Doubt, None] = {}
    for place, side in enumerate(sides):
        said.update(dict.fromkeys(_own_doubts(label(place), side)))
    first = sides[0]
    for place, side in enumerate(sides[1:], 1):
        said.update(dict.fromkeys(_unlike(label(place), first, side)))
    return sorted(said, key=lambda doubt: not doubt.grave)


def _own_doubts(name: str, side: Side) -> Iterator[Doubt]:
    seen: dict[str, str] = {}
    for run, log in zip(side.names, side.logs, strict=True):
        digest = str(log.run.get("digest", ""))
        if digest in seen:
            yield Doubt(
                f"{name}: {seen[digest]} and {run} play the same scenario with the same seed; "
                "name one run for each seed",
                grave=True,
            )
        seen[digest] = run
        if log.run.get("settings") and log.run.get("engine") is None:
            yield Doubt(f"{run}: only cameras played there, nobody watched them", grave=True)
        if not log.complete:
            yield Doubt(f"{run}: the run is not complete; what it never saw counts as missed")
        elif log.run.get("interrupted"):
            yield Doubt(
                f"{run}: the run was interrupted after {log.duration_s or 0:g} scenario seconds"
            )
    for run, log in zip(side.names[1:], side.logs[1:], strict=True):
        for key, ours, theirs in settings_unlike(side.logs[0], log):
            if not key.startswith(("versions", "host")):
                yield Doubt(
                    f"{name}: {run} is no run of the same setting as {side.names[0]}: "
                    f"{key} {theirs} instead of {ours}"
                )


def _unlike(name: str, first: Side, other: Side) -> Iterator[Doubt]:
    ours, theirs = by_digest(first), by_digest(other)
    if ours.keys() != theirs.keys():
        yield Doubt(_unpaired(name, first, other), grave=True)
    clocks, speeds, policies = set(), set(), set()
    # where nothing can be paired the first runs stand for all, so that every reason is told at once
    both = [(ours[d], theirs[d]) for d in ours if d in theirs] or [(first.logs[0], other.logs[0])]
    for one, two in both:
        if (a := _clock(one)) != (b := _clock(two)):
            clocks.add((a, b))
        if one.speed != two.speed and (_distorted(one) or _distorted(two)):
            speeds.add((one.speed, two.speed))
        if (a := _policy(one)) != (b := _policy(two)):
            policies.add((a, b))
    for a, b in sorted(clocks):
        yield Doubt(
            f"{name}: {b} clock, the first ran in {a} time: latency in virtual time is none, and "
            "the score counts it"
        )
    for x, y in sorted(speeds):
        yield Doubt(
            f"{name}: speed {y:g} against speed {x:g}, and frames were dropped for lack of wall "
            "time (speed_distorted); play both at one speed"
        )
    for a, b in sorted(policies):
        yield Doubt(
            f"{name}: another alarm policy ({b}, not {a}); play both under one, or see "
            "`earlyfire score RUN --alarm`"
        )


def _unpaired(name: str, first: Side, other: Side) -> str:
    a, b = first.logs[0].run, other.logs[0].run
    texts = {log.run.get("scenario_text") for side in (first, other) for log in side.logs}
    seeds = [sorted({int(log.run.get("seed", 0)) for log in s.logs}) for s in (first, other)]
    if len(texts) == 1 and seeds[0] != seeds[1]:
        ours, theirs = (", ".join(map(str, each)) for each in seeds)
        return (
            f"{name}: another seed ({theirs}, not {ours}): other frames or other draws; compare "
            "runs of the same seeds, several of one setting written A1,A2 B1,B2"
        )
    if len(texts) == 1:
        return (
            f"{name}: the same scenario file, played with another duration or other cameras "
            f"(digest {legible(str(b.get('digest')))}, not {legible(str(a.get('digest')))})"
        )
    ours, theirs = (
        legible(f"{run.get('scenario')} seed {run.get('seed')} digest {run.get('digest')}")
        for run in (a, b)
    )
    return f"{name}: another scenario ({theirs}; not {ours})"


def _clock(log: RunLog) -> str:
    return str(log.run.get("clock", "wall"))


def _policy(log: RunLog) -> str:
    policy = alarm_policy(log)
    least = f", from P(smoke) {policy.min_confidence:g}" if policy.min_confidence else ""
    within = f" within {policy.within:g} s" if policy.k > 1 else ""
    return f"{policy.k} of {policy.n}{within}{least}, repeated after {policy.repeat:g} s"


def _distorted(log: RunLog) -> bool:
    """As in `Score.speed_distorted`."""
    if log.speed == 1:
        return False
    dropped = [_FATES.index(f) for f in (Fate.EXPIRED, Fate.SUPERSEDED, Fate.OVER_BUDGET)]
    return bool(np.isin(FrameTable.of(log.frames).column("fate"), dropped).any())


def refusal(found: Sequence[Doubt]) -> str:
    lines = ["these runs are not comparable:", *(f"  {doubt.text}" for doubt in found)]
    if not any(doubt.grave for doubt in found):
        lines.append("  (--anyway compares them all the same, and says so)")
    return "\n".join(lines)
