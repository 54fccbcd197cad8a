"""The page of a comparison: what it says, and that a real browser shows it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.async_api import Browser

from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import CameraPlan, FirePlan, RunLog
from earlyfire_stream.report.comparison_page import render, write
from earlyfire_stream.report.comparison_view import ComparisonPage, comparison_page
from earlyfire_stream.report.comparison_words import verdict
from earlyfire_stream.report.single_file import write_whole
from earlyfire_stream.scoring.compare import Comparison, Side, compare
from earlyfire_stream.scoring.curves import detection_curve
from earlyfire_stream.verdict import Box, Fate, Truth, Verdict
from tests.browser import browser, opened
from tests.scored_runs import answered, fated, run_log, shot

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
)
AT_ONCE, LATE, NEVER = "FFTTTTTTTT", "FFFFFFTTTT", "FFFFFFFFFF"
"""A frame a minute, the onset with the third; LATE is found after 240 s."""


def played(
    said: Sequence[str], quiet: str = "FFFFFFFFFF", sure: bool = False, fire: str = "f", **run: str
) -> RunLog:
    """A camera with a fire of its own for each word, and one without a fire."""
    plans, shots, frames = [], [], []
    for number, letters in enumerate([*said, quiet]):
        name = f"c{number}"
        burning = (FirePlan(f"{fire}{number}", 120.0),) if number < len(said) else ()
        plans.append(CameraPlan(name, burning, 60.0))
        for seq, letter in enumerate(letters):
            box = Box(0.5, 0.5, 0.2, 0.2)
            truth = (Truth(burning[0].id, box),) if burning and seq >= 2 else ()
            taken = shot(name, seq, 60.0 * seq, truth=truth, boxed=True)
            shots.append(taken)
            if letter == ".":
                frames.append(fated(taken, Fate.SAMPLED_OUT))
                continue
            smoke = letter == "T"
            told = Verdict(smoke, box if smoke else None, (0.8 if smoke else 0.1) if sure else None)
            frames.append(answered(taken, told, answered_s=0.5 + seq / 10))
    log = run_log(plans, shots, frames)
    return replace(
        log,
        run={
            "digest": "d",
            "scenario": "hills",
            "seed": 1,
            "engine": {"name": "simulated", "model": "spec-gpu"},
            "settings": {"sampling": {"policy": "every"}},
            **run,
        },
    )


def held(*logs: RunLog, anyway: bool = False) -> Comparison:
    return compare([Side((f"runs/run{i}",), (log,)) for i, log in enumerate(logs)], anyway)


def told(*logs: RunLog) -> ComparisonPage:
    return comparison_page(held(*logs))


# --- what it says --------------------------------------------------------------------------------


def test_surely_worse_is_said_where_interval_and_p_agree() -> None:
    said = verdict(held(played([AT_ONCE] * 9), played([LATE] * 9)).against[0])
    # both find all without a false alarm: C falls from 1 to 2 x 0.7/1.7 = 0.824
    assert (said.tone, said.short) == ("bad", "B is worse than A")
    assert said.sentence.startswith("B is worse than A: its Early-Fire Score is ")
    assert "p 0.004, n 9 views" in said.sentence  # 2 of 2^9 signings


def test_the_other_way_round_it_is_better() -> None:
    said = verdict(held(played([LATE] * 9), played([AT_ONCE] * 9)).against[0])
    assert (said.tone, said.short) == ("good", "B is better than A")


def test_of_few_fires_nothing_is_said_for_sure() -> None:
    said = verdict(held(played([AT_ONCE] * 3), played([LATE] * 3)).against[0])
    assert (said.tone, said.short) == ("open", "B did worse than A, which may be chance")
    assert "no interval, p 0.250" in said.sentence


def test_a_run_against_itself_does_the_same() -> None:
    log = played([AT_ONCE, LATE])
    assert verdict(held(log, log).against[0]).short == "B does what A does"


def test_without_a_fire_false_alarms_decide_and_the_rest_says_why_not() -> None:
    found = told(played([]), played([], quiet="TFFFFFFFFF"))
    (section,) = found.against
    assert "rate of false alarms a camera-day is" in section.verdict.sentence
    assert (found.data["views"], found.data["survival"]) == (None, None)
    text = render(found)
    assert "These runs have no fire" in text
    assert "It needs fires and time without smoke." in text


def test_views_that_one_side_missed_come_first() -> None:
    rows = told(played([AT_ONCE, AT_ONCE, AT_ONCE]), played([AT_ONCE, LATE, NEVER])).data["views"]
    assert [(r["fire"], r["ttfd"][1]) for r in rows["rows"]] == [
        ("f2", None),
        ("f1", pytest.approx(241.1)),  # the fourth smoky frame later, answered after 1.1 s
        ("f0", pytest.approx(0.7)),
    ]


def test_seconds_are_taken_apart_on_both_sides() -> None:
    found = told(played([AT_ONCE]), played(["FF..TTTTTT"]))
    mean, view = found.data["parts"]["rows"]
    names = found.data["parts"]["names"]
    assert mean["bars"] == view["bars"]
    first, other = (dict(zip(names, bar, strict=True)) for bar in view["bars"])
    assert (first["sampling"], other["sampling"]) == (0.0, 120.0)
    assert (first["inference"], other["inference"]) == (0.7, 0.9)
    assert [(row.part, row.change) for row in found.against[0].parts][1] == (
        "sampling",
        "+2:00",
    )


def test_a_figure_without_a_difference_says_why() -> None:
    notes = {
        row.title: row.note for row in told(played([AT_ONCE]), played([NEVER])).against[0].rows
    }
    assert notes["TTFD, both found"] == "no view was detected by both"
    assert notes["latency p95"] == "stated from 130 answers on"
    assert notes["AP@0.4"] == "an engine gave its boxes no confidence"


def test_differences_point_to_the_right_where_they_are_better() -> None:
    panels = told(played([AT_ONCE] * 9), played([LATE] * 9)).data["forest"]
    rows = {row["title"]: row["marks"][0] for panel in panels for row in panel["rows"]}
    ttfd = rows["TTFD, both found"]
    assert (ttfd["gain"], ttfd["said"]) == (pytest.approx(-240.4), "+4:00")
    assert rows["Early-Fire Score"]["gain"] < 0


def test_bands_are_drawn_from_eight_fires_on() -> None:
    times, found = [60.0, 120.0] * 4, [True] * 8
    assert detection_curve(times[:7], found[:7], range(7)).band == ()  # type: ignore[union-attr]
    curve = detection_curve(times, found, range(8))
    assert curve is not None
    (first, low, high), (last, *ends) = curve.band
    # of eight fires each with probability 1/2: 1 to 7 are left after 60 s, 95 % of the time
    assert (first, last, ends) == (60.0, 120.0, [0.0, 0.0])
    assert np.allclose([low, high], [1 / 8, 7 / 8])


def test_operating_curves_need_a_confidence_on_every_side() -> None:
    sure, unsure = played([AT_ONCE, LATE], sure=True), played([AT_ONCE, NEVER])
    assert "gave no confidence" in told(sure, unsure).why_no_curve
    points = told(sure, sure).data["operating"][0]
    assert [p["threshold"] for p in points if p["chosen"]] == [None]
    assert [p["detected"] for p in points if p["threshold"] in (0.1, 0.9)] == [2, 0]


def test_why_a_comparison_would_have_been_refused_is_told() -> None:
    broken = replace(played([LATE]), complete=False)
    text = render(comparison_page(held(played([AT_ONCE]), broken, anyway=True)))
    assert "Not quite comparable" in text
    assert "runs/run1: the run is not complete" in text


def test_nothing_that_a_run_says_becomes_markup() -> None:
    mine = {"scenario": HOSTILE, "engine": {"name": HOSTILE, "model": HOSTILE}}
    logs = [played([word] * 2, fire=HOSTILE, **mine) for word in (AT_ONCE, LATE)]  # type: ignore[arg-type]
    found = compare([Side((HOSTILE,), (log,)) for log in logs])
    text = render(comparison_page(found))
    assert "<script>document" not in text
    assert "<img src=x" not in text
    assert text.count("<script") == 2  # the data and our own script


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sides, with false alarms, missed views and confidences."""
    sides = (
        played([AT_ONCE] * 9, sure=True),
        played([LATE] * 8 + [NEVER], quiet="TFFFFFFFFF", sure=True),
        played([AT_ONCE] * 4 + [LATE] * 5, sure=True),
    )
    return write(tmp_path_factory.mktemp("compared") / "comparison.html", held(*sides))


UNDRAWN = """[...document.querySelectorAll('[data-chart]')].filter(
    (f) => f.querySelectorAll('svg path, svg rect, svg circle').length === 0
).map((f) => f.dataset.chart)"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def test_a_browser_draws_every_chart_and_asks_for_nothing(
    chromium: Browser, page: Path
) -> None:
    async with opened(chromium, page) as told:
        drawn = await told.ask("[...document.querySelectorAll('[data-chart]')].length")
        assert drawn == 9
        assert await told.ask(UNDRAWN) == []
        curves = "document.querySelectorAll('[data-chart=survival] .side-curve').length"
        assert await told.ask(curves) == 3
        assert (told.said, told.requests) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_telephone_shows_it_without_scrolling_sideways(
    chromium: Browser, page: Path, scheme: str
) -> None:
    async with opened(chromium, page, width=390, scheme=scheme) as told:
        assert await told.ask(OVERFLOW) == 0
        assert await told.ask(UNDRAWN) == []
        assert told.said == []


async def test_it_is_dark_where_the_reader_s_system_is(chromium: Browser, page: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with opened(chromium, page, scheme="light") as told:
        light = await told.ask(ground)
    async with opened(chromium, page, scheme="dark") as told:
        assert await told.ask(ground) != light
        await told.page.click("#theme")
        assert await told.ask(ground) == light


async def test_a_script_as_a_run_s_name_stays_text(chromium: Browser, tmp_path: Path) -> None:
    mine = {"scenario": HOSTILE, "engine": {"name": HOSTILE, "model": "x"}}
    logs = [played([word] * 2, fire=HOSTILE, **mine) for word in (AT_ONCE, LATE)]  # type: ignore[arg-type]
    path = write(tmp_path / "x.html", compare([Side((HOSTILE,), (log,)) for log in logs]))
    async with opened(chromium, path) as told:
        assert await told.page.locator("h1").inner_text() == HOSTILE
        assert "Early-Fire comparison" in await told.page.title()
        assert await told.ask("document.querySelectorAll('script').length") == 2
        assert await told.ask("document.querySelectorAll('img').length") == 0
        assert (told.said, told.requests) == ([], [])


async def test_on_paper_it_is_light_and_whole(chromium: Browser, page: Path) -> None:
    async with opened(chromium, page, scheme="dark") as told:
        await told.page.emulate_media(media="print")
        ground = await told.ask("getComputedStyle(document.body).backgroundColor")
        assert re.sub(r"\s", "", ground) == "rgb(255,255,255)"
        assert await told.ask(UNDRAWN) == []
        assert len(await told.page.pdf()) > 20_000


def test_what_is_no_file_is_not_replaced_by_a_page(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunFolderError, match="pipe: is no file; choose another place with -o"):
        write_whole(tmp_path / "pipe", "<p>")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
