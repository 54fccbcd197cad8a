"""What a comparison says, in words: numbers with their units, facts, how they were made.

The terminal, the pipe and the page say the same; how it looks is theirs.
"""

from __future__ import annotations

__all__ = [
    "Verdict",
    "change_text",
    "facts_told",
    "fire_text",
    "interval_text",
    "method",
    "p_text",
    "plain_text",
    "sample_text",
    "signed_text",
    "through_text",
    "ttfd_text",
    "value_text",
    "verdict",
]

from collections.abc import Iterator
from dataclasses import dataclass

from earlyfire_stream.report.summary import duration, number
from earlyfire_stream.scoring.compare import IN_SECONDS, Against, Comparison, Figure, Moved

DIGITS = {"efs": 1, "v1": 1, "tokens": 0, "false_alarms": 2}

# --- numbers -------------------------------------------------------------------------------------


def plain_text(figure: Figure, value: float) -> str:
    if figure.key in IN_SECONDS:
        return duration(value)
    return number(value, DIGITS.get(figure.key, 3))


def value_text(figure: Figure, value: float | None) -> str:
    if value is None:
        return "n/a"
    return plain_text(figure, value).removesuffix(" min")


def signed_text(figure: Figure, value: float | None) -> str:
    return "" if value is None else _plus(value) + value_text(figure, value)


def _plus(value: float) -> str:
    return "+" if value > 0 else ""


def interval_text(figure: Figure) -> str:
    if figure.interval is None:
        return ""
    low, high = (signed_text(figure, end) for end in figure.interval)
    return f"{low} to {high}"


def p_text(value: float | None) -> str:
    if value is None:
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def sample_text(figure: Figure) -> str:
    one, two = (f"{n:,.0f}" if n >= 100 or n == int(n) else f"{n:.2g}" for n in figure.n)
    return one if one == two else f"{one}/{two}"


# --- the verdict ---------------------------------------------------------------------------------

SURE = 0.05
"""p from which on, adjusted, a difference may be chance."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone` is good, bad (surely so), open (nobody can say) or same."""

    tone: str
    short: str
    """`B is worse than A`"""
    because: str

    @property
    def sentence(self) -> str:
        return f"{self.short}: {self.because}."


def verdict(against: Against) -> Verdict:
    """One side against the first in a sentence: whether it is better, by what, how surely.

    Better or worse is said only where the interval of the Early-Fire Score's difference leaves out
    zero and p, adjusted, is below 0.05. Where there is no such score the share of views detected
    decides, without fires the false alarm rate.
    """
    other = against.label
    if not against.moved and not any(figure.difference for figure in against.figures):
        short = f"{other} does what A does"
        return Verdict("same", short, "not one figure differs")
    figures = {figure.key: figure for figure in against.figures}
    deciding = ("efs", "recall", "false_alarms")
    figure = next((figures[k] for k in deciding if figures[k].difference is not None), None)
    if figure is None:
        short = f"{other} and A cannot be compared"
        return Verdict("open", short, "neither saw a fire or time without smoke")
    p = figure.p_holm if figure.p_holm is not None else figure.p
    how = "better" if (figure.worse_by or 0.0) < 0 else "worse"
    name = NAMES[figure.key]
    told = (
        f"its {name} is {value_text(figure, figure.other)} against "
        f"{value_text(figure, figure.first)} ({', '.join(_surety(figure, p))})"
    )
    if not figure.difference:
        short = f"{other} is neither better nor worse than A"
        told = (
            f"its {name} is {value_text(figure, figure.first)} on both sides, but not all is alike"
        )
    elif figure.surely and p is not None and p < SURE:
        short = f"{other} is {how} than A"
        return Verdict("good" if how == "better" else "bad", short, told)
    else:
        short = f"{other} did {how} than A, which may be chance"
    return Verdict("open", short, told)


NAMES = {
    "efs": "Early-Fire Score",
    "recall": "share of views detected",
    "false_alarms": "rate of false alarms a camera-day",
}


def _surety(figure: Figure, p: float | None) -> Iterator[str]:
    yield f"difference {signed_text(figure, figure.difference)}"
    if figure.interval is not None:
        yield f"95 %: {interval_text(figure)}"
    else:
        yield "no interval"
    if p is not None:
        yield f"p {p_text(p)}"
    yield f"n {sample_text(figure)} {figure.of}"


# --- which fires moved ---------------------------------------------------------------------------


def fire_text(moved: Moved) -> str:
    return moved.fire if moved.seed is None else f"{moved.fire} (seed {moved.seed})"


def ttfd_text(seconds: float | None) -> str:
    return "missed" if seconds is None else duration(seconds).removesuffix(" min")


def change_text(moved: Moved) -> str:
    if moved.change_s is not None:
        return _plus(moved.change_s) + duration(moved.change_s).removesuffix(" min")
    return "lost" if moved.other_s is None else "gained"


def through_text(moved: Moved) -> str:
    part = moved.part.replace("_", " ")
    if moved.part_change_s is None:
        return part
    return f"{part} {_plus(moved.part_change_s)}{duration(moved.part_change_s)}".removesuffix(
        " min"
    )


# --- facts ---------------------------------------------------------------------------------------


def facts_told(against: Against) -> Iterator[tuple[str, str]]:
    other = against.label
    views = against.detected
    if views.views:
        yield (
            "views",
            f"{views.views}: detected by both {views.both}, by A only {views.only_first}, by "
            f"{other} only {views.only_other}, by neither {views.neither}",
        )
    rates = against.false_alarms
    said = (
        f"{rates.first_episodes} in {rates.first_hours:.3g} camera-hours against "
        f"{rates.other_episodes} in {rates.other_hours:.3g}"
    )
    if rates.low is not None:
        many = "infinitely" if rates.high is None else f"{rates.high:.3g}"
        ratio = "" if rates.ratio is None else f"{rates.ratio:.3g} times A's rate, "
        said += f"; {other}: {ratio}95 % {rates.low:.3g} to {many} times"
    yield "false alarms", said
    frames = against.frames
    if frames.n:
        yield (
            "frames",
            f"{frames.n:,} that both asked about: the same verdict on "
            f"{frames.both_smoke + frames.neither_smoke:,}, smoke in A only "
            f"{frames.only_first_smoke:,}, in {other} only {frames.only_second_smoke:,}; right "
            f"where the other is wrong: A {frames.only_first_right:,}, {other} "
            f"{frames.only_second_right:,} (McNemar p {p_text(frames.p_value)})",
        )
    else:
        yield "frames", "none that both asked about"


def method(found: Comparison) -> Iterator[str]:
    """How the intervals and p-values were made, without which they say nothing."""
    without = dict.fromkeys(a.why_no_interval for a in found.against if a.why_no_interval)
    if without:
        yield f"No bootstrap: {'; '.join(without)}."
    else:
        first = found.against[0]
        yield (
            f"Differences are the other's less A's. 95 %: bootstrap over {first.fires} fires and "
            f"{first.cameras} cameras without one."
        )
    yield "False alarms and F: exact Poisson intervals joined; p binomial, given their sum."
    unlike = max(
        (f.unlike or 0 for a in found.against for f in a.figures if f.key in ("recall", "rmst")),
        default=0,
    )
    floor = f"; {unlike} differ in TTFD, so {p_text(2.0 ** (1 - unlike))} there" if unlike else ""
    yield (
        "p otherwise: each fire's halves trade sides or not, all ways or 9,999 drawn. Where n "
        f"fires differ it cannot be below 2^-(n-1){floor}."
    )
    yield (
        "n: the views, frames, boxed frames, requests or camera-hours behind a figure, A's/the "
        "other's where they differ. Rates are per camera."
    )
    if len(found.against) > 1:
        yield (
            f"p is adjusted (Holm) over the {len(found.against)} comparisons of a figure, not over "
            "the figures."
        )
