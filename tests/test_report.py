"""The report of a run: what it says, and that a real browser shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from playwright.async_api import Browser

from earlyfire_stream import run
from earlyfire_stream.records import (
    GAUGES_LOG,
    CameraPlan,
    Explanation,
    FaultPlan,
    FirePlan,
    RunLog,
)
from earlyfire_stream.records import load as load_run
from earlyfire_stream.report.gallery import Gallery, gallery
from earlyfire_stream.report.gauges import gauges
from earlyfire_stream.report.page import render, write
from earlyfire_stream.report.view import Page, page
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.footage import footage
from earlyfire_stream.verdict import Fate, Reason, Verdict
from tests.browser import browser, opened
from tests.fakes.ollama import Answer, FakeOllama
from tests.playing import Nursery, camera, loaded, pictures, run_folder, scenario
from tests.scored_runs import (
    NO,
    SECOND,
    START_NS,
    YES,
    answered,
    fated,
    one_camera,
    run_log,
    shot,
    verdicts,
)

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
)
SMOKE = '{"has_smoke": true, "bbox_2d": [100, 100, 300, 200]}'
CLEAR = '{"has_smoke": false, "bbox_2d": null}'


def told(log: RunLog) -> Page:
    return page(log, score(log), footage(log), Gallery((), 0, 0))


def late_by_three() -> RunLog:
    """Onset with frame 40 of 81 at 60 s; the alarm comes with frame 43, answered after 1 s."""
    return one_camera(verdicts("F" * 43 + "T" * 38), onset=2400)


# --- what it says --------------------------------------------------------------------------------


def test_the_parts_of_a_time_to_first_detection_add_up_to_it() -> None:
    parts = told(late_by_three()).data["parts"]
    # 180 s until the first positive, then 1 s of inference
    assert dict(zip(parts["names"], parts["rows"][0]["parts"], strict=True)) == {
        "cadence_wait": 0.0,
        "sampling": 0.0,
        "model_miss": 180.0,
        "confirmation": 0.0,
        "transport": 0.0,
        "queue": 0.0,
        "inference": 1.0,
        "alarm": 0.0,
    }
    assert parts["rows"][0]["ttfd"] == 181.0


def test_the_survival_curve_has_its_numbers_at_risk() -> None:
    curve = told(late_by_three()).data["survival"]
    assert curve["steps"] == [[181.0, 1.0]]
    assert curve["ticks"] == [0.0, 60.0, 120.0, 180.0, 240.0, 300.0]
    assert curve["at_risk"] == [1, 1, 1, 1, 0, 0]


def three_fires() -> RunLog:
    """Detected 60 s and 120 s after the onset, and not at all until 2400 s after it."""
    plans, shots, frames = [], [], []
    for place, first in enumerate((1, 2, 99)):
        plans.append(CameraPlan(f"c{place}", (FirePlan(f"f{place}", 600.0),), 60.0))
        for seq in range(51):
            taken = shot(f"c{place}", seq, 60.0 * seq)
            shots.append(taken)
            frames.append(answered(taken, YES if seq >= 10 + first else NO, answered_s=0.0))
    return run_log(plans, shots, frames)


def test_the_survival_curve_has_its_band() -> None:
    # of three: Greenwood on the scale log(−log), worked out in test_scoring_statistics
    curve = told(three_fires()).data["survival"]
    assert [step[0] for step in curve["band"]] == [60.0, 120.0, 2400.0]
    assert curve["band"][0][1:] == pytest.approx([1 - 0.9452, 1 - 0.0541], abs=1e-4)
    assert curve["band"][1][1:] == pytest.approx([1 - 0.7742, 1 - 0.0090], abs=1e-4)
    facts = {fact.label: fact for fact in told(three_fires()).detection}
    assert facts["Median, misses counted"].value == "2:00 min"
    assert facts["Median, misses counted"].interval == "1:00 min to not reached"
    assert facts["Mean time undetected"].value == "14:20 min"  # 860 s
    assert "an interval from 8 fires on" in facts["Mean time undetected"].note


def test_the_head_tells_on_what_and_for_how_many_tokens() -> None:
    log = late_by_three()
    found = told(replace(log, run={**log.run, "host": {"cores": 2}}))
    assert (found.cameras, found.host) == ("1 camera", "2 cores")
    # 81 answers of 300 tokens in 80 minutes
    assert (found.spent.value, found.spent.n) == ("18,225", "81 requests in 1.33 camera-hours")
    assert found.latency.note.startswith("p95 n/a; ")  # of 130 answers at least
    assert found.ttfd_interval == ""  # of 6 views at least
    assert "2 cores" in render(found)
    assert "18,225" in render(found)


def test_a_single_detection_has_no_band() -> None:
    assert told(late_by_three()).data["survival"]["band"] == []


def test_false_alarms_of_each_camera_have_exposure_and_interval() -> None:
    # 2 episodes in 12 hours: 4 a camera-day, 0.484 to 14.449; none in 12 hours: below 7.378
    plans = [CameraPlan(c, cadence_s=3600) for c in ("east", "west")]
    shots = [shot(p.id, i, i * 3600.0) for p in plans for i in range(13)]
    frames = [answered(s, YES if s.camera == "east" and s.seq in (3, 5) else NO) for s in shots]
    found = told(run_log(plans, shots, frames))
    ((camera, episodes, hours, rate, low, high),) = found.data["blamed"]
    assert (camera, episodes, hours, rate) == ("east", 2, 12.0, 4.0)
    assert (low, high) == pytest.approx((0.4844, 14.4493), abs=1e-4)
    (row,) = found.blamed
    assert (row.label, row.value, row.interval, row.n) == (
        "east", "4.0", "0.5 to 14.4", "2 in 12.00 h"
    )  # fmt: skip
    assert found.quiet == (
        "1 camera without a false alarm, 12.00 camera-hours together: 0 a camera-day, 95 % below "
        "7.38."
    )
    assert found.data["hours"][3][:4] == [3, 1, 2.0, 12.0]
    assert "7.38." in render(found)


def test_latency_is_held_against_the_engine_s_own_reference_or_the_specification_s() -> None:
    log = late_by_three()
    facts = {fact.label: fact for fact in told(log).latencies}
    assert facts["Median to the specification's GPU, 0.25 s"].value == "4.00 ×"
    assert facts["Median to the specification's CPU, 1 s"].value == "1.00 ×"
    stated = replace(log, run={"engine": {"reference_s": 0.5}})
    facts = {fact.label: fact for fact in told(stated).latencies}
    assert facts["Median to the engine's own reference"].value == "2.00 ×"


def pulse(at: float, cpu_s: float) -> dict[str, object]:
    return {
        "what": "pulse",
        "wall_ns": START_NS + round(at * SECOND),
        "scenario_s": at,
        "rss_bytes": 200_000_000,
        "cpu_s": cpu_s,
    }


def test_the_harness_tells_what_it_cost_itself() -> None:
    # 81 frames, of which 20 were scheduled from 0 to 1200 s, at 24 s of CPU: 1.2 s a frame
    log = late_by_three()
    log = replace(log, notes=[pulse(0.0, 1.0), pulse(1200.0, 25.0)], run={"host": {"cores": 2}})
    slow = [replace(f, received_ns=f.captured_ns + 50_000_000) for f in log.frames]
    facts = {fact.label: fact for fact in told(replace(log, frames=slow)).harness}
    assert facts["Cores kept busy"].value == "0.02"
    assert facts["CPU a scheduled frame"].value == "1.20 s"
    assert facts["CPU a scheduled frame"].n == "20 frames"
    assert facts["Capture to receipt, median"].value == "50 ms"
    assert facts["Capture to receipt, p95"].value == "n/a"  # of 81, where 130 are needed
    assert facts["Most memory"].value == "200 MB"


def distorted() -> RunLog:
    log = late_by_three()
    return replace(log, speed=20.0, frames=[fated(log.shots[0], Fate.EXPIRED), *log.frames[1:]])


def saturated() -> RunLog:
    notes = [pulse(0.0, 0.0), pulse(10.0, 18.0)]
    return replace(late_by_three(), notes=notes, run={"host": {"cores": 2}})


def belated() -> RunLog:
    log = late_by_three()
    return replace(log, shots=[replace(s, late_s=0.7 if s.seq == 3 else 0.0) for s in log.shots])


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (late_by_three(), "low exposure: 0.667 camera-hours without smoke"),
        (distorted(), "speed 20 distorts"),
        (saturated(), "saturated host: up to 1.8 of 2 cores were busy"),
        (belated(), "the cameras themselves were up to 0.70 s late"),
        (replace(late_by_three(), complete=False), "the run is not complete"),
        (replace(late_by_three(), shots=[]), "no cameras’ log"),
    ],
)
def test_a_reader_is_warned_before_the_figures(log: RunLog, said: str) -> None:
    before = render(told(log)).replace("&#39;", "’").partition('<section id="score">')[0]
    assert "Before you believe it" in before
    assert said in before


def test_what_the_engine_s_server_told_is_drawn_and_its_names_stay_text(tmp_path: Path) -> None:
    lines = [
        {"k": "note", "v": {"what": "gauges", "wall_ns": at * SECOND, "scenario_s": at,
                            "values": {HOSTILE: at, "memory_bytes": 8_190_000_000.0}}}
        for at in range(3)
    ]  # fmt: skip
    (tmp_path / GAUGES_LOG).write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in lines))
    log = late_by_three()
    found = page(log, score(log), footage(log), Gallery((), 0, 0), gauges(tmp_path))
    assert found.data["gauges"][0]["points"] == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert [(fact.label, fact.value) for fact in found.steady] == [("memory_bytes", "8.19 G")]
    text = render(found)
    assert "asked 3 times during the run" in text
    assert "<script>document" not in text
    assert "No server was asked" in render(told(log))


def test_every_frame_stands_in_its_camera_s_timeline() -> None:
    (lane,) = told(late_by_three()).data["lanes"]
    assert lane["frames"]["g"] == "n" * 43 + "S" * 38
    assert sum(lane["bins"]["n"]) == 43
    assert sum(lane["bins"]["S"]) == 38
    assert lane["fires"] == [["f1", 2400.0, None]]
    assert lane["until"] == 4860.0  # the 81st frame, and the minute that it stands for


def faulty() -> RunLog:
    """`late_by_three` with frames 20 to 25 lost in a partition that ends with 25, then a frozen
    picture while it burns."""
    log = late_by_three()
    lost = [fated(log.shots[seq], Fate.LOST, Reason.GAP) for seq in range(20, 26)]
    faults = (
        FaultPlan("cut", "network-partition", 1200.0, 1500.0),
        FaultPlan("camera-frozen", "camera-frozen", 2400.0, 2520.0, ("north",)),
        FaultPlan("broken", "host-cpu", 3000.0, 3060.0),
    )
    note = {"what": "fault", "wall_ns": START_NS, "id": "broken", "state": "failed"}
    return replace(
        log,
        frames=[*log.frames[:20], *lost, *log.frames[26:]],
        faults=faults,
        notes=[{**note, "scenario_s": 3000.0, "detail": HOSTILE}],
    )


def test_what_each_fault_did_is_told_in_a_row() -> None:
    found = told(faulty())
    cut, frozen, broken = found.faults
    assert (cut.fault, cut.kind, cut.when) == ("cut", "network-partition", "20:00 to 25:00")
    assert (cut.cameras, frozen.cameras) == ("all", "north")
    assert (cut.harmed, cut.harmed_note) == ("6 of 6", "dropped 100.0 %")
    # the partition ends at frame 25, the next one came: a minute later
    assert cut.recovery == "1:00 min"
    assert cut.recovery_note == ("median 1:00 min, 1 of 1 camera harmed; told to within 1:00 min")
    assert (cut.latency, cut.ttfd) == ("–", "–")
    assert (frozen.kind, frozen.harmed, frozen.recovery) == ("", "0 of 2", "at once")
    assert (frozen.latency, frozen.latency_note) == ("1.00 s", "2 answers")
    assert (frozen.ttfd, frozen.ttfd_note) == ("3:01 min", "1 view")
    assert frozen.notes == (
        "the run noted no begin: times as planned",
        "the same picture again and again: frames come, their worth shows in the TTFD",
    )
    assert broken.harmed == "–"
    assert broken.notes == (f"could not be played: {HOSTILE}",)
    # 81 frames, 6 and 2 of them in faults
    assert found.faults_outside == (
        "median latency 1.00 s, p95 n/a (n 73); dropped 0.0 %, 95 %: 0.0 % to 5.0 % (n 73)"
    )
    text = render(found)
    assert "What went wrong on purpose" in text
    assert "<script>document" not in text
    assert "What went wrong on purpose" not in render(told(late_by_three()))


def test_faults_stand_in_the_timelines_of_the_cameras_that_they_met() -> None:
    log = faulty()
    spared = replace(log.cameras[0], id="south", fires=())
    data = told(replace(log, cameras=[*log.cameras, spared])).data
    assert [fault[:4] for fault in data["faults"]] == [
        ["cut", "network-partition", 1200.0, 1500.0],
        ["camera-frozen", "camera-frozen", 2400.0, 2520.0],
    ]
    assert [(lane["id"], lane["faults"]) for lane in data["lanes"]] == [
        ("north", [0, 1]),
        ("south", [0]),
    ]


def test_what_each_term_costs_is_told() -> None:
    # K, L aside: D = 0.4 + 0.6·2^(−181/240) = 0.756, F = 1, C = 0.861, Q = 0.5;
    # (0.70 + 0.075)/0.85 = 0.912 → 78.5; with D = 1: 91.2
    by_symbol = {term.symbol: term for term in told(late_by_three()).terms}
    assert by_symbol["D"].text == "0.756"
    assert by_symbol["D"].gain == "+12.7"
    assert by_symbol["K"].gain == "+0.0"


def test_points_of_the_operating_curve_have_their_intervals() -> None:
    sure = [Verdict(letter == "T", confidence=0.7) for letter in "F" * 43 + "T" * 38]
    text = render(told(one_camera(sure, onset=2400)))
    # one of one detected: 1/(1 + 1.96²) to 1; no false alarm in 40 min: up to 3.6889 · 24 / (2/3)
    assert "21 to 100 %" in text
    assert "0.00 to 132.80" in text


def test_a_run_without_a_fire_says_why_it_has_no_score() -> None:
    found = told(one_camera(verdicts("FFFF")))
    assert found.why_null == "no fire: D cannot be measured, F is reported alone"
    text = render(found)
    assert "This run has no fire" in text
    assert "no fire: D cannot be measured" in text


def test_an_empty_run_has_a_report() -> None:
    assert "Not one answer could be read." in render(told(run_log([CameraPlan("north")], [], [])))


def test_a_long_run_stays_small() -> None:
    several = one_camera(verdicts("F" * 30_000), cadence_s=1.0)
    found = told(several)
    assert found.figures.lane_frames_hidden == 30_000  # no fire, no alarm: density strips alone
    assert len(render(found)) < 200_000


def test_frames_near_the_onset_are_kept_one_by_one() -> None:
    (lane,) = told(one_camera(verdicts("F" * 2000), onset=1000.0, cadence_s=1.0)).data["lanes"]
    times = lane["frames"]["t"]
    assert (times[0], times[-1]) == (850.0, 1449.0)


def test_at_most_500_cameras_have_timelines_and_the_page_says_so() -> None:
    plans = [CameraPlan(f"c{i}", cadence_s=60.0) for i in range(600)]
    plans.append(CameraPlan("burning", (FirePlan("f", 0.0),), 60.0))
    found = told(run_log(plans, [], []))
    assert found.figures.lanes == 500
    assert found.data["lanes"][0]["id"] == "burning"
    assert "101 more cameras" in render(found)


def test_nothing_that_a_stranger_says_becomes_markup() -> None:
    log = one_camera(verdicts("FT"), onset=60, plan={"outages": ((0.0, 1.0),)})
    plan = replace(log.cameras[0], fires=(FirePlan(HOSTILE, 60.0),))
    spoken = Explanation("north", 1, START_NS, START_NS, 10, HOSTILE + "\ud800")
    log = replace(
        log,
        cameras=[plan],
        explanations=[spoken],
        run={"scenario": HOSTILE, "scenario_text": HOSTILE, "engine": {"model": HOSTILE}},
    )
    text = render(told(log))
    assert "<script>document" not in text
    assert "<img src=x" not in text
    assert text.count("<script") == 2  # the data and our own script


def test_the_page_s_policy_lets_only_its_own_script_run() -> None:
    text = render(told(late_by_three()))
    assert "default-src &#39;none&#39;; script-src &#39;sha256-" in text


# --- key frames ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Path:
    """A real run of two cameras, one with a fire, over a broker; its report is written."""
    home = tmp_path_factory.mktemp("reported")
    pictures(home / "pictures", 20, (320, 200))
    scenario(
        home,
        camera("north", fires=[{"id": "f", "onset": "1s"}]),
        camera("south"),
    )
    code, command = nursery.run("run", "tiny.yaml", cwd=home)
    assert code == 0
    assert "report.html" in command.out
    return run_folder(home / "runs")


def test_alarms_are_shown_with_their_pictures(finished: Path) -> None:
    log = load_run(finished)
    (picture,) = gallery(finished, log, footage(log)).pictures
    assert (picture.kind, picture.camera) == ("true", "north")
    assert picture.data.startswith("data:image/jpeg;base64,")
    assert (picture.width, picture.height) == (320, 200)


def test_a_file_that_is_not_the_frame_it_is_named_after_is_not_shown(
    finished: Path, tmp_path: Path
) -> None:
    log = load_run(finished)
    (name,) = [path.name for path in (finished / "frames").iterdir()]
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / name).write_bytes(b"\xff\xd8 nonsense")
    found = gallery(tmp_path, log, footage(log))
    assert (found.pictures, found.unusable) == ((), 1)


def test_the_report_can_be_written_elsewhere(
    finished: Path, nursery: Nursery, tmp_path: Path
) -> None:
    code, command = nursery.run("report", finished, "-o", tmp_path / "x.html", cwd=tmp_path)
    assert (code, command.out) == (0, f"written: {tmp_path / 'x.html'}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
    code, command = nursery.run("report", finished, "-o", tmp_path / "no" / "x", cwd=tmp_path)
    assert code == 2
    assert "choose another place with -o" in command.err


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


@pytest.fixture
async def explained(tmp_path: Path) -> Path:
    """The report of a real run whose model's explanations try to take the page over."""
    pictures(tmp_path / "pictures", 6, (640, 480))
    async with FakeOllama() as server:
        server.script.append(Answer(CLEAR))  # the warm-up
        for reply in (CLEAR, CLEAR, SMOKE, SMOKE, SMOKE, SMOKE):
            server.script += [Answer(reply), Answer(HOSTILE)]
        asked = loaded(
            tmp_path,
            camera("north", interval="400ms", fires=[{"id": "f", "onset": "390ms"}]),
            engine={
                "name": "ollama",
                "url": server.url,
                "explain": "always",
                "concurrency": 1,
                "options": {"retries": 0},
            },
        )
        options = run.Options(broker="memory", out=tmp_path / "runs")
        outcome = await run.play(asked, options, [], asyncio.Event())
    return outcome.folder / "report.html"


DRAWN = """[...document.querySelectorAll('[data-chart]')].filter(
    (f) => f.querySelectorAll('svg path, svg rect, svg circle').length === 0
).map((f) => f.dataset.chart)"""
PAINTED = """[...document.querySelectorAll('#lanes canvas[data-drawn]')].map((c) => {
    const dots = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    return new Set(new Uint32Array(dots.buffer)).size;
})"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def test_a_browser_draws_every_chart_and_asks_for_nothing(
    chromium: Browser, finished: Path
) -> None:
    async with opened(chromium, finished / "report.html") as told:
        await told.page.locator("#lanes").scroll_into_view_if_needed()
        for part in (".strip", ".detail canvas"):
            await told.page.wait_for_selector(f"#lanes .open {part}[data-drawn]")
        await told.page.wait_for_selector("#lanes .lane:not(.open) .strip[data-drawn]")
        assert await told.ask(DRAWN) == []
        # two strips and the open timeline of the burning camera
        painted = await told.ask(PAINTED)
        assert len(painted) == 3
        assert min(painted) > 1  # colours beside the ground's
        assert await told.ask("document.querySelectorAll('.shot img').length") == 1
        assert await told.ask("document.querySelector('.shot img').naturalWidth") == 320
        assert told.said == []
        assert told.requests == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_telephone_shows_it_without_scrolling_sideways(
    chromium: Browser, finished: Path, scheme: str
) -> None:
    async with opened(chromium, finished / "report.html", width=390, scheme=scheme) as told:
        assert await told.ask(OVERFLOW) == 0
        assert told.said == []


async def test_it_is_dark_where_the_reader_s_system_is_and_can_be_switched(
    chromium: Browser, finished: Path
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with opened(chromium, finished / "report.html", scheme="light") as told:
        light = await told.ask(ground)
    async with opened(chromium, finished / "report.html", scheme="dark") as told:
        dark = await told.ask(ground)
        await told.page.click("#theme")
        switched = await told.ask(ground)
        assert await told.page.inner_text("#theme") == "theme: light"
        assert told.said == []
    assert light == switched != dark


async def test_the_first_frame_in_which_a_fire_was_missed_is_shown(explained: Path) -> None:
    log = load_run(explained.parent)
    found = gallery(explained.parent, log, footage(log)).pictures
    # the fire begins with frame 1, which the model called clear; it saw smoke from frame 2 on
    assert [(p.kind, p.caption.split(",")[0]) for p in found] == [
        ("true", "frame 2 at 0:01"),
        ("missed", "frame 1 at 0:00"),
    ]
    assert found[0].explanation == HOSTILE


async def test_a_script_that_a_model_sends_stays_text(chromium: Browser, explained: Path) -> None:
    async with opened(chromium, explained) as told:
        assert await told.page.locator(".told q").first.inner_text() == HOSTILE
        assert "Early-Fire report" in await told.page.title()
        assert await told.ask("document.querySelectorAll('script').length") == 2
        assert await told.ask("document.querySelectorAll('img[onerror]').length") == 0
        assert told.said == []
        assert told.requests == []


async def test_cameras_can_be_filtered_and_opened(chromium: Browser, finished: Path) -> None:
    shown = "[...document.querySelectorAll('.lane')].filter((l) => !l.hidden).length"
    async with opened(chromium, finished / "report.html") as told:
        assert await told.ask(shown) == 2
        await told.page.fill("#filter", "SOUTH")
        assert await told.ask(shown) == 1
        lane = told.page.locator(".lane:not([hidden]) > button")
        assert await lane.get_attribute("aria-expanded") == "false"
        await lane.click()
        assert await lane.get_attribute("aria-expanded") == "true"
        assert told.said == []


async def test_cameras_whose_names_begin_alike_are_told_apart(
    chromium: Browser, tmp_path: Path
) -> None:
    one = one_camera(verdicts("F" * 40 + "T" * 20), onset=2400)
    names = [f"20160619_FIRE_north-ridge-{which}-mobo-c" for which in ("east", "west")]
    plans = [
        replace(one.cameras[0], id=name, fires=(replace(one.cameras[0].fires[0], id=name[:13]),))
        for name in names
    ]
    log = replace(
        one,
        cameras=plans,
        shots=[replace(s, camera=name) for name in names for s in one.shots],
        frames=[replace(f, camera=name) for name in names for f in one.frames],
    )
    cut_off = """[...document.querySelectorAll('.lane .name b')].filter(
        (b) => b.scrollWidth > b.clientWidth || getComputedStyle(b).textOverflow === 'ellipsis'
    ).length"""
    labels = """[...document.querySelectorAll('[data-chart=parts] svg text')]
        .map((t) => t.textContent).filter((t) => t.endsWith('mobo-c')).sort()"""
    async with opened(chromium, write(tmp_path, log, score(log))) as told:
        assert await told.ask(cut_off) == 0
        # 29 letters of 36: 11 of the beginning, 17 of the end
        assert await told.ask(labels) == [
            "20160619_FI…ridge-east-mobo-c",
            "20160619_FI…ridge-west-mobo-c",
        ]
        assert told.said == []


@pytest.mark.parametrize(
    ("width", "minutes"), [(1280, ["1 min", "3 min", "5 min"]), (390, ["5 min"])]
)
async def test_marks_of_the_detection_curve_do_not_lie_on_each_other(
    chromium: Browser, tmp_path: Path, width: int, minutes: list[str]
) -> None:
    late = one_camera(verdicts("F" * 62 + "T" * 19), onset=2400)  # 22 minutes
    shown = "[...document.querySelectorAll('text.minutes')].map((t) => t.textContent)"
    async with opened(chromium, write(tmp_path, late, score(late)), width=width) as told:
        assert await told.ask(shown) == minutes


CROSSED = """[...document.querySelectorAll('[data-chart=operating] svg')].flatMap((chart) => {
    const curve = chart.querySelector('path.curve');
    const names = [...chart.querySelectorAll('text')].filter(
        (t) => /^(as played|0\\.\\d)$/.test(t.textContent));
    const within = (b, x, y) =>
        b.x < x && x < b.x + b.width && b.y + 3 < y && y < b.y + b.height - 3;
    return names.filter((name) => {
        const box = name.getBBox();
        for (let at = 0; at <= curve.getTotalLength(); at += 1) {
            const { x, y } = curve.getPointAtLength(at);
            if (within(box, x, y)) return true;
        }
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        return names.some((other) => other !== name && within(other.getBBox(), x, y));
    }).map((name) => name.textContent);
})"""
"""Names of points through which the curve runs, or which lie on each other."""


@pytest.mark.parametrize("width", [1280, 390])
async def test_names_of_the_operating_points_are_not_crossed_by_their_curve(
    chromium: Browser, tmp_path: Path, width: int
) -> None:
    # ever more false alarms at lower thresholds, and the fire found at each up to 0.7
    before = [Verdict(False, confidence=(0.05, 0.15, 0.25, 0.35)[i % 4]) for i in range(40)]
    log = one_camera([*before, *[Verdict(True, confidence=0.75)] * 41], onset=2400)
    async with opened(chromium, write(tmp_path, log, score(log)), width=width) as told:
        named = "[...document.querySelectorAll('[data-chart=operating] text.strong')].length"
        assert await told.ask(named) == 2  # as played, over each axis
        assert await told.ask(CROSSED) == []
        assert told.said == []


BARS = """[...document.querySelectorAll('#lanes canvas[data-drawn]')].map((c) => {
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let found = 0;
    for (let i = 0; i < d.length; i += 4) found += `${d.slice(i, i + 3)}` === '106,75,196';
    return found > 20;
})"""
"""Of each timeline: has it a bar in the colour of faults?"""


@pytest.mark.parametrize("width", [1280, 390])
async def test_faults_are_drawn_and_can_be_read_at_any_width(
    chromium: Browser, tmp_path: Path, width: int
) -> None:
    log = faulty()
    async with opened(chromium, write(tmp_path, log, score(log)), width=width) as told:
        page = told.page
        await page.locator("#lanes").scroll_into_view_if_needed()
        for part in (".strip", ".detail canvas"):
            await page.wait_for_selector(f"#lanes .open {part}[data-drawn]")
        assert await told.ask(BARS) == [True, True]
        assert "fault on purpose" in await page.inner_text("#legend")
        over_time = page.locator("[data-chart=latency_time]")
        assert await over_time.locator("rect.fault").count() == 2
        assert await over_time.locator("text.fault-name").first.text_content() == "cut"
        row = page.locator("#faults tbody tr").first
        labels = "(r) => [...r.cells].slice(1).map((c) => getComputedStyle(c, '::before').content)"
        told_beside = await row.evaluate(labels)
        if width == 390:
            named = ("when", "cameras", "harmed", "latency", "recovery", "TTFD")
            assert told_beside == [f'"{name}"' for name in named]
            assert await page.locator("#faults thead").is_hidden()
        else:
            assert set(told_beside) == {"none"}
        assert await told.ask(OVERFLOW) == 0
        assert await page.locator("#faults").evaluate("(s) => s.scrollWidth <= s.clientWidth")
        assert (told.said, told.requests) == ([], [])


async def test_two_hundred_cameras_stay_usable(chromium: Browser, tmp_path: Path) -> None:
    one = one_camera(verdicts("F" * 40 + "T" * 20), onset=2400)
    plans = [replace(one.cameras[0], id=f"camera-{i}") for i in range(200)]
    log = replace(
        one,
        cameras=plans,
        shots=[replace(s, camera=p.id) for p in plans for s in one.shots],
        frames=[replace(f, camera=p.id) for p in plans for f in one.frames],
    )
    path = write(tmp_path, log, score(log))
    assert path.stat().st_size < 2_000_000
    async with opened(chromium, path) as told:
        assert await told.ask("document.querySelectorAll('.lane').length") == 200
        assert await told.ask("document.querySelectorAll('.lane.open').length") == 12
        shown = "[...document.querySelectorAll('.lane')].filter((l) => !l.hidden).length"
        assert await told.ask(shown) == 40
        assert await told.page.inner_text("#more") == "show the other 160 cameras"
        await told.page.fill("#filter", "camera-19")  # 19 and 190 to 199
        assert await told.ask(shown) == 11
        await told.page.fill("#filter", "")
        await told.page.click("#more")
        assert await told.ask(shown) == 200
        assert told.said == []
