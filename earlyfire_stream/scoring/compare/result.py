"""All sides held against the first."""

from __future__ import annotations

__all__ = ["Against", "Comparison", "compare"]

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from earlyfire_stream.errors import UsageError
from earlyfire_stream.scoring.compare.comparable import doubts, refusal
from earlyfire_stream.scoring.compare.figures import Figure, Rates, figures, pair_ttfds, rates_of
from earlyfire_stream.scoring.compare.measured import Measured, measure
from earlyfire_stream.scoring.compare.moved import Detected, Moved, detected_by, moved_views
from earlyfire_stream.scoring.compare.sides import Side, by_digest, label
from earlyfire_stream.scoring.compare.stated import settings_unlike
from earlyfire_stream.scoring.compare.sureness import PERMUTATIONS, holm
from earlyfire_stream.scoring.pairs import Pairs, pairs
from earlyfire_stream.scoring.statistics import MIN_CLUSTERS, RESAMPLES, SEED


@dataclass(frozen=True, slots=True)
class Against:
    """One side against the first."""

    label: str
    figures: tuple[Figure, ...]
    detected: Detected
    false_alarms: Rates
    moved: tuple[Moved, ...]
    """Found by one side only first, then by the size of the change."""
    frames: Pairs
    """Frame by frame, frames that both asked about; `slower_s` of a single pair of runs only."""
    stated: tuple[tuple[str, str, str], ...]
    """(setting, the first's, the other's), where they differ."""
    fires: int
    cameras: int
    """Those without a fire."""
    why_no_interval: str

    def figure(self, key: str) -> Figure:
        return next(figure for figure in self.figures if figure.key == key)

    def to_json(self) -> dict[str, object]:
        return {
            "label": self.label,
            "figures": {figure.key: figure.to_json() for figure in self.figures},
            "detected": asdict(self.detected),
            "false_alarms": asdict(self.false_alarms),
            "moved": [moved.to_json() for moved in self.moved],
            "frames": {**asdict(self.frames), "p": self.frames.p_value},
            "differs": [
                {"setting": key, "first": ours, "other": theirs}
                for key, ours, theirs in self.stated
            ],
            "fires": self.fires,
            "cameras_without_fire": self.cameras,
            "why_no_interval": self.why_no_interval,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """All sides against the first, which is A."""

    sides: tuple[tuple[str, ...], ...]
    """The names of each side's runs."""
    against: tuple[Against, ...]
    doubts: tuple[str, ...]
    """Why they are not quite comparable, where that was wished all the same."""
    warnings: tuple[tuple[str, str], ...]
    """(whose, what) a reader must know of the runs themselves."""
    measured: tuple[Measured, ...]
    """What each side adds to it."""

    def to_json(self) -> dict[str, object]:
        return {
            "schema": 1,
            "sides": {label(i): list(names) for i, names in enumerate(self.sides)},
            "against": [against.to_json() for against in self.against],
            "doubts": list(self.doubts),
            "warnings": [{"side": side, "warning": said} for side, said in self.warnings],
            "resamples": RESAMPLES,
            "permutations": PERMUTATIONS,
            "seed": SEED,
        }


def compare(sides: Sequence[Side], anyway: bool = False) -> Comparison:
    """Hold every side against the first. UsageError with every reason if they are not comparable.

    `anyway` overrules what is only doubtful, never another scenario or seed.
    """
    if len(sides) < 2:
        raise UsageError("compare: name two runs at least")
    found = doubts(sides)
    if any(doubt.grave or not anyway for doubt in found):
        raise UsageError(refusal(found))
    measured = [measure(side) for side in sides]
    against = [
        _against(label(place), sides[0], side, measured[0], measured[place])
        for place, side in enumerate(sides)
        if place
    ]
    return Comparison(
        sides=tuple(side.names for side in sides),
        against=_adjusted(against),
        doubts=tuple(doubt.text for doubt in found),
        warnings=tuple(_warnings(measured)),
        measured=tuple(measured),
    )


def _warnings(measured: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    """What all runs say once, then what some say."""
    said = [dict.fromkeys(w for s in each.scores for w in s.warnings) for each in measured]
    everywhere = [w for w in said[0] if all(w in other for other in said)]
    yield from (("all", warning) for warning in everywhere)
    for place, each in enumerate(said):
        yield from ((label(place), warning) for warning in each if warning not in everywhere)


def _against(name: str, one: Side, two: Side, first: Measured, other: Measured) -> Against:
    keys = [key for key in first.views if key in other.views]
    pair_ttfds(keys, first, other)
    clusters = sorted(first.sums.keys() | other.sums.keys(), key=lambda c: (c[0] != "fire", c))
    fires = sum(kind == "fire" for kind, _ in clusters)
    rates = rates_of(first, other)
    ours, theirs = by_digest(one), by_digest(two)
    seeds = {d: log.run.get("seed") for d, log in ours.items()} if len(ours) > 1 else {}
    return Against(
        label=name,
        figures=tuple(figures(clusters, fires, keys, first, other, rates)),
        detected=detected_by(keys, first, other),
        false_alarms=rates,
        moved=moved_views(keys, first, other, seeds),
        frames=_together([pairs(ours[d], theirs[d]) for d in ours]),
        stated=tuple(settings_unlike(one.logs[0], two.logs[0])),
        fires=fires,
        cameras=len(clusters) - fires,
        why_no_interval=(
            ""
            if fires >= MIN_CLUSTERS
            else f"{fires} fire{'s' * (fires != 1)}, and under {MIN_CLUSTERS} a bootstrap says "
            "more than the data do; see the views"
        ),
    )


def _together(found: Sequence[Pairs]) -> Pairs:
    if len(found) == 1:
        return found[0]
    whole = {
        name: sum(getattr(each, name) for each in found)
        for name in Pairs.__slots__
        if name != "slower_s"
    }
    return Pairs(**whole, slower_s=None)


def _adjusted(against: Sequence[Against]) -> tuple[Against, ...]:
    figures = [{figure.key: figure for figure in each.figures} for each in against]
    for key in dict.fromkeys(key for each in figures for key in each):
        tested = [each for each in figures if key in each and each[key].p is not None]
        for each, p in zip(tested, holm([each[key].p or 0.0 for each in tested]), strict=True):
            each[key] = replace(each[key], p_holm=p)
    return tuple(
        replace(each, figures=tuple(own.values()))
        for each, own in zip(against, figures, strict=True)
    )
