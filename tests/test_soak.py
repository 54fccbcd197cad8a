"""The arithmetic of a soak: ramps, legs, windows, trends, verdicts, the knee, the disk."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import AlarmRecord, Answer, CameraPlan, FirePlan, FrameRecord, Shot
from earlyfire_stream.scenario.models import SLO, Engine, Fault, Sampling, Scenario
from earlyfire_stream.scoring.trend import trend
from earlyfire_stream.soak.asked import (
    Asked,
    Ramp,
    leg,
    looks_due,
    parse_bytes,
    parse_ramp,
    repeated,
    steps,
    unjudged,
    window_length,
)
from earlyfire_stream.soak.disk import need
from earlyfire_stream.soak.histogram import Histogram, percentile_interval
from earlyfire_stream.soak.judging import State, Verdict, judge, knee, trends
from earlyfire_stream.soak.processes import Looker, Usage, engine_port
from earlyfire_stream.soak.tables import verdict_line, window_line
from earlyfire_stream.soak.windows import Gathering, Level, Part, Window, levels
from earlyfire_stream.soak.words import knee_line
from earlyfire_stream.verdict import Alarm, Fate, Reason
from earlyfire_stream.verdict import Verdict as Seen

HOUR_S = 3600.0
ASKED = Asked(for_s=600.0, window_s=50.0, slo=SLO(), memory_bytes=8_000_000_000)


def scenario(**more: Any) -> Scenario:
    whole: dict[str, Any] = {
        "earlyfire": 1,
        "name": "tiny",
        "duration": "60s",
        "cameras": [{"id": "mast", "cadence": "1s", "source": {"kind": "synthetic"}}],
    }
    return Scenario.model_validate(whole | more)


def histogram(*seconds: float) -> Histogram:
    made = Histogram()
    for each in seconds:
        made.add(each)
    return made


def window(number: int = 1, **more: Any) -> Window:
    """A steady one of 50 s: ten frames a second, one look a second in a tenth of one."""
    begin_s = 50.0 * (number - 1)
    plain: dict[str, Any] = {
        "leg": 1,
        "part": Part.MEASURED,
        "begin_s": begin_s,
        "end_s": begin_s + 50.0,
        "cameras": 10,
        "due_per_s": 1.0,
        "offered": 500,
        "unsent": 0,
        "fates": {"answered": 50, "sampled_out": 450},
        "wanted": 50,
        "thinned": 0,
        "errors": {},
        "latency": histogram(*[0.2] * 50),
        "request": histogram(*[0.1] * 50),
        "decision": histogram(*[0.08] * 50),
        "late": histogram(*[0.001] * 500),
        "visual_tokens": 10_000,
        "output_tokens": 500,
        "alarms": 0,
        "onsets": 0,
        "found": (),
        "concurrency": 1,
        "processes": {"harness": level(200_000_000)},
    }
    return Window(number=number, **(plain | more))


def level(rss_bytes: int, pid: int = 7) -> Level:
    return Level(pid, rss_bytes, rss_bytes, files=20, threads=8, cpu=0.5)


def verdict_of(what: str, windows: list[Window], asked: Asked = ASKED) -> Verdict:
    (found,) = [v for v in judge(windows, asked) if v.what == what]
    return found


# --- what is asked ---


def test_a_ramp_adds_cameras_at_the_begin_of_each_step() -> None:
    ramp = parse_ramp("cameras=10:200:+10/5m")
    assert ramp == Ramp(10, 200, 10, 300.0)
    assert [ramp.at(s) for s in (0, 299, 300, 5699, 5700, 9000)] == [10, 10, 20, 190, 200, 200]
    assert [ramp.begins_s(place) for place in (0, 9, 10, 19, 20, 199)] == [
        0,
        0,
        300,
        300,
        600,
        5700,
    ]
    assert ramp.full_s == 5700


def test_a_ramp_that_does_not_divide_ends_with_fewer() -> None:
    ramp = parse_ramp("cameras=1:4:+2/10s")
    assert [ramp.at(s) for s in (0, 10, 20, 30)] == [1, 3, 4, 4]
    assert [ramp.begins_s(place) for place in range(4)] == [0, 10, 10, 20]
    assert steps(ramp, 60) == [(0, 10, 1), (10, 20, 3), (20, 60, 4)]
    assert steps(ramp, 15) == [(0, 10, 1), (10, 15, 3)]


@pytest.mark.parametrize(
    "text", ["", "10:200", "cameras=0:5:+1/5m", "cameras=9:5:+1/5m", "cameras=1:5:+0/5m"]
)
def test_a_ramp_that_cannot_be_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="--ramp"):
        parse_ramp(text)


def test_sizes_are_written_as_people_do() -> None:
    assert [parse_bytes(text, "--memory-limit") for text in ("500", "20MB", "2GiB", "1.5k")] == [
        *(500, 20_000_000, 2_147_483_648, 1500)
    ]
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes("plenty", "--memory-limit")


def test_windows_last_five_minutes_and_less_in_a_short_soak_or_a_ramp() -> None:
    assert window_length(8 * HOUR_S, None, None) == 300
    assert window_length(1800, None, None) == 150
    assert window_length(8 * HOUR_S, 60, None) == 60
    ramp = Ramp(10, 200, 10, 300.0)
    assert window_length(8 * HOUR_S, None, ramp) == 150, "two a step"
    assert window_length(8 * HOUR_S, 70, ramp) == 60, "a step holds a whole number of them"
    with pytest.raises(UsageError, match="choose --for and --window"):
        window_length(60, 90, None)


def test_faults_are_repeated_under_names_of_their_own() -> None:
    once = (
        Fault(kind="engine-hang", id="stuck", start=10, end=20),
        Fault(kind="broker-restart", start=30),
    )
    again = repeated(once, 100.0, 225.0)
    assert [(f.id, f.kind, f.start, f.end) for f in again] == [
        ("stuck", "engine-hang", 10, 20),
        (None, "broker-restart", 30, None),
        ("stuck.2", "engine-hang", 110, 120),
        ("broker-restart.2", "broker-restart", 130, None),
        ("stuck.3", "engine-hang", 210, 220),
    ]
    with pytest.raises(UsageError, match="repeat them less often"):
        repeated(once, 25.0, 225.0)


def test_a_leg_plays_what_is_left_with_ramp_and_faults_moved() -> None:
    asked = replace(ASKED, for_s=100.0, ramp=Ramp(1, 3, 1, 40.0))
    faults = [
        {"kind": "engine-hang", "start": 5, "end": 15},
        {"kind": "engine-slow", "start": 45, "end": 60},
        {"kind": "broker-restart", "start": 20},
        {"kind": "broker-restart", "start": 70},
    ]
    left = leg(scenario(faults=faults, duration="5m"), asked, 50.0)
    assert left.duration == 50
    assert [(f.kind, f.start, f.end) for f in left.faults] == [
        ("engine-slow", 0, 10),
        ("broker-restart", 20, None),
    ]
    # the second camera began at 40 s, ten seconds ago; the third begins at 80 s
    assert [c.id for c in left.cameras] == ["mast-001", "mast-002", "mast-003"]
    begins = [math.floor(c.phase or 0) for c in left.cameras]
    assert begins == [0, 0, 30]


def test_a_leg_at_another_speed_lasts_as_long_on_the_wall() -> None:
    asked = replace(ASKED, for_s=100.0, ramp=Ramp(1, 2, 1, 40.0))
    left = leg(scenario(speed=10), asked, 20.0)
    assert left.duration == 800
    assert math.floor(left.cameras[1].phase or 0) == 200, "20 wall seconds on"


def test_a_ramp_over_several_cameras_plays_them_again_and_again() -> None:
    two = [
        {"id": name, "cadence": "1s", "source": {"kind": "synthetic", "seed": 1}}
        for name in ("north", "south")
    ]
    left = leg(scenario(cameras=two), replace(ASKED, ramp=Ramp(1, 5, 4, 10.0)), 0.0)
    assert [c.id for c in left.cameras] == ["north", "south", "north.2", "south.2", "north.3"]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ({"kind": "video", "path": "a.mp4"}, "write loop: true"),
        ({"kind": "images", "path": "frames", "interval": 10}, "use a looped video"),
    ],
)
def test_footage_that_ends_is_refused_with_the_remedy(source: dict[str, Any], remedy: str) -> None:
    ends = scenario(cameras=[{"id": "mast", "source": source}])
    with pytest.raises(UsageError, match=rf"camera mast: its footage .* ends by itself.*{remedy}"):
        leg(ends, ASKED, 0.0)


def test_a_quiet_camera_is_due_a_look_at_the_first_frame_after_the_idle_interval() -> None:
    idle = Sampling(policy="adaptive", idle=5)
    assert looks_due(1.0, idle, 1.0) == pytest.approx(1 / 5)
    assert looks_due(2.0, idle, 1.0) == pytest.approx(1 / 6)
    assert looks_due(30.0, idle, 1.0) == pytest.approx(1 / 30)
    assert looks_due(1.0, idle, 10.0) == pytest.approx(2.0)
    assert looks_due(2.0, Sampling(policy="every"), 1.0) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("for_s", "window_s", "ramp", "words"),
    [
        # the tenth and last step of ten more comes at 50 min
        (
            1800.0,
            150.0,
            Ramp(10, 110, 10, 300.0),
            "after 3000 s, and the soak ends at 1800 s with 60",
        ),
        (3000.0, 150.0, Ramp(10, 110, 10, 300.0), "and the soak ends at 3000 s with 100 cameras"),
        # 60 s of windows of 15 s
        (90.0, 15.0, Ramp(1, 2, 1, 30.0), "4 windows after the ramp's last step"),
        (6.0, 1.0, None, "5 windows after warming up"),
    ],
)
def test_what_cannot_be_judged_is_known_beforehand(
    for_s: float, window_s: float, ramp: Ramp | None, words: str
) -> None:
    told = unjudged(replace(ASKED, for_s=for_s, window_s=window_s, ramp=ramp))
    assert told is not None
    assert words in told


def test_six_windows_are_enough_to_judge_by() -> None:
    assert unjudged(replace(ASKED, for_s=7.0, window_s=1.0)) is None
    ramp = Ramp(1, 2, 1, 30.0)
    assert unjudged(replace(ASKED, for_s=120.0, window_s=15.0, ramp=ramp)) is None
    told = unjudged(replace(ASKED, for_s=8.0, window_s=1.0, slo=SLO(p95_latency=1.0)))
    assert told is not None, "but not for p95"
    assert told.startswith("7 windows after warming up, and p95 latency is judged by 8 or more")


# --- trends and histograms ---


def test_a_trend_is_not_moved_by_one_strange_point() -> None:
    found = trend([(0, 1), (1, 2), (2, 3), (3, 100), (4, 5), (5, 6)])
    assert found is not None
    assert found.slope == 1
    assert found.level == 4
    assert found.grown == 5
    # the line runs through the medians (2.5 s, 4), so at 5 s it stands at 6.5
    assert found.at_end == 6.5


def test_a_trend_of_a_straight_line_is_sure_and_of_five_points_is_none() -> None:
    straight = [(10.0 * n, 3.0 + 0.5 * n) for n in range(8)]
    found = trend(straight)
    assert found is not None
    assert found.interval == pytest.approx((0.05, 0.05))
    assert found.later == pytest.approx(0.05)
    assert trend(straight[:5]) is None


def test_what_settles_has_no_slope_in_its_later_half() -> None:
    found = trend([(n, min(n, 6)) for n in range(14)])
    assert found is not None
    assert found.slope > 0
    assert found.later == 0


def test_percentiles_are_right_to_half_a_hundredth_and_withheld_where_few() -> None:
    held = histogram(*[n / 1000 for n in range(1, 201)])  # 1 to 200 ms
    assert held.n == 200
    assert held.percentile(50) == pytest.approx(0.100, rel=0.006)
    assert held.percentile(95) == pytest.approx(0.190, rel=0.006)
    assert held.percentile(99) is None, "it takes 662"
    assert histogram(*[1.0] * 129).percentile(95) is None
    assert Histogram().percentile(50) is None


def test_histograms_stay_small_and_survive_being_written() -> None:
    held = histogram(0.0, 1e-9, 1e9, *[1.01**n for n in range(-2000, 2000)])
    assert len(held.counts) <= 2000
    again = Histogram.from_json(held.to_json())
    assert again == held
    assert Histogram.summed([held, again]).n == 2 * held.n


def test_the_interval_of_a_percentile_knows_that_windows_differ() -> None:
    same = [histogram(*[1.0] * 50) for _ in range(8)]
    low, high = percentile_interval(same, 95) or (0, 0)
    assert low == high == pytest.approx(1.0, rel=0.006)
    # one window in eight is late: without it p95 is 1 s, with it 9 s
    mixed = [*same[:7], histogram(*[9.0] * 50)]
    assert percentile_interval(mixed, 95) == pytest.approx((1.0, 9.0), rel=0.006)
    assert percentile_interval(same[:7], 95) is None, "seven windows are too few"


# --- windows ---


def frame(fate: Fate, **more: Any) -> FrameRecord:
    plain: dict[str, Any] = {"camera": "a", "seq": 0, "captured_at": 0.0, "captured_ns": 1_000}
    return FrameRecord(**(plain | {"fate": fate} | more))


def answer(took_s: float, **more: Any) -> Answer:
    """Asked 0.5 s after a capture at 1 µs, settled in half the time."""
    begun = 1_000 + 500_000_000
    half, whole = round(took_s * 5e8), round(took_s * 1e9)
    plain: dict[str, Any] = {"sent_size": (28, 28), "visual_tokens": 100, "output_tokens": 10}
    return Answer(begun, begun + half, begun + whole, verdict=Seen(False), **(plain | more))


async def gathering(**more: Any) -> Gathering:
    plain: dict[str, Any] = {
        "leg": 1,
        "played_s": 0.0,
        "first": 1,
        "due": lambda plan: 0.5,
        "begins_s": {"b": 10.0},
    }
    made = Gathering(**(plain | more))
    clock = Clock()
    clock.begin(clock.wall_ns())
    plans = [CameraPlan("a", (FirePlan("f", 2.0), FirePlan("g", 20.0))), CameraPlan("b")]
    made.begin(plans, clock, None)
    return made


async def test_a_window_counts_what_became_known_in_it() -> None:
    watching = await gathering()
    for seq in range(3):
        watching.shot(Shot("a", seq, 0.0, 1_000, late_s=0.002))
    watching.shot(Shot("a", 3, 0.0, 1_000, unsent=Reason.BROKER_DOWN))
    watching.frame(frame(Fate.ANSWERED, admitted=True, answer=answer(0.2)))
    watching.frame(frame(Fate.SUPERSEDED, admitted=True, reason=Reason.NEWER))
    watching.frame(frame(Fate.SUPERSEDED, reason=Reason.STALE_ON_ARRIVAL))
    watching.frame(frame(Fate.SAMPLED_OUT, reason=Reason.LOAD))
    watching.frame(frame(Fate.ENGINE_ERROR, admitted=True, reason=Reason.TIMEOUT))
    watching.frame(frame(Fate.LOST, reason=Reason.GAP))  # the one that was never sent
    watching.frame(frame(Fate.LOST, reason=Reason.GAP))
    done = watching.close(10.0)
    assert (done.offered, done.unsent) == (4, 1)
    assert done.fates == {
        "answered": 1,
        "engine_error": 1,
        "lost": 1,
        "sampled_out": 1,
        "superseded": 2,
    }
    assert (done.wanted, done.served, done.dropped, done.thinned) == (3, 1, 2, 1)
    assert (done.requests, done.failed, done.errors) == (2, 1, {"timeout": 1})
    assert done.latency.percentile(50) == pytest.approx(0.7, rel=0.006)
    assert done.request.percentile(50) == pytest.approx(0.2, rel=0.006)
    assert done.decision.percentile(50) == pytest.approx(0.1, rel=0.006)
    assert done.late.percentile(50) == pytest.approx(0.002, rel=0.006)
    assert done.a_second(done.offered) == 0.4
    assert (done.visual_tokens, done.output_tokens) == (100, 10)
    # b begins at 10 s, so only a is due its look every two seconds
    assert (done.cameras, done.due_per_s) == (1, 0.5)
    assert watching.close(20.0).offered == 0, "the next one begins empty"


async def test_warming_up_ends_with_the_window_of_the_first_answer() -> None:
    watching = await gathering()
    parts = [watching.close(10.0).part]
    watching.frame(frame(Fate.ANSWERED, admitted=True, answer=answer(0.2)))
    parts += [watching.close(20.0).part, watching.close(30.0).part]
    assert parts == [Part.WARM_UP, Part.WARM_UP, Part.MEASURED]


async def test_a_window_tells_the_faults_that_touch_it_and_when_fires_were_found() -> None:
    watching = await gathering(faults=[("hang", 4.0, 12.0), ("restart", 25.0, 25.0)])
    clock = watching.clock
    assert clock is not None
    alarm = Alarm("a", (3,), 3.0, clock.wall_of(5.0))
    watching.alarm(AlarmRecord(alarm, True, 0))
    watching.alarm(AlarmRecord(alarm, False, 0))
    done = [watching.close(edge) for edge in (10.0, 20.0, 30.0)]
    assert [w.faults for w in done] == [("hang",), ("hang",), ("restart",)]
    assert [w.onsets for w in done] == [1, 0, 1]
    assert [w.found for w in done] == [(3.0,), (), ()]
    assert done[0].alarms == 1


async def test_a_later_leg_goes_on_with_the_soaks_time_and_numbers() -> None:
    watching = await gathering(leg=2, played_s=150.0, first=4)
    done = watching.close(50.0)
    assert (done.number, done.leg, done.begin_s, done.end_s) == (4, 2, 150.0, 200.0)


def test_a_window_survives_being_written() -> None:
    plain = window(3, faults=("hang",), errors={"timeout": 2}, found=(1.5,))
    written = plain.to_json()
    written["processes"] = {
        "harness": {
            name: getattr(level(200_000_000), name)
            for name in (
                "pid",
                "rss_bytes",
                "most_rss_bytes",
                "files",
                "threads",
                "cpu",
                "gpu_bytes",
            )
        }
    }
    assert Window.from_json(written) == plain
    assert written["offered_per_s"] == 10
    assert written["seconds"]["latency"]["p99"] is None, "50 are too few for it"


def test_a_process_that_was_replaced_is_told_by_its_successor() -> None:
    def used(pid: int, rss_bytes: int, cpu_s: float) -> dict[str, Usage]:
        return {"worker": Usage(pid, rss_bytes, 30, 4, cpu_s)}

    looks = [(0.0, used(1, 900, 50.0)), (2.0, used(2, 100, 1.0)), (6.0, used(2, 300, 3.0))]
    assert levels(looks) == {"worker": Level(2, 200, 300, 30, 4, cpu=0.5)}


# --- verdicts ---


def test_a_steady_soak_holds() -> None:
    slo = SLO(p95_latency=1.0, drop_share=0.2, error_share=0.2)
    found = judge([window(n) for n in range(1, 12)], replace(ASKED, slo=slo))
    assert {v.what: v.state for v in found} == {
        "p95_latency": State.HELD,
        "drop_share": State.HELD,
        "error_share": State.HELD,
        "rss_slope harness": State.HELD,
        "latency_slope": State.HELD,
    }
    assert found[0].value == pytest.approx(0.2, rel=0.006)
    assert (found[0].n, found[1].n) == (550, 550)


def test_a_share_is_judged_by_wilsons_interval() -> None:
    """8 of 10 is 0.490 to 0.943: beyond 0.4, within 0.95, and nothing to say about 0.8."""

    def judged(limit: float) -> State:
        ten = [window(1, wanted=10, fates={"answered": 2})]
        return verdict_of("drop_share", ten, replace(ASKED, slo=SLO(drop_share=limit))).state

    assert judged(0.4) is State.BREACHED
    assert judged(0.95) is State.HELD
    assert judged(0.8) is State.UNDECIDED


def test_nothing_counted_is_no_pass() -> None:
    found = verdict_of("error_share", [], replace(ASKED, slo=SLO(error_share=0.5)))
    assert (found.state, found.value, found.why) == (
        *(State.UNDECIDED, None, "there is nothing to count"),
    )


def test_none_at_all_may_be_asked_for() -> None:
    asked = replace(ASKED, slo=SLO(error_share=0.0))
    assert verdict_of("error_share", [window(1)], asked).state is State.HELD
    failed = window(1, errors={"timeout": 1}, fates={"answered": 50, "engine_error": 1})
    assert verdict_of("error_share", [failed], asked).state is State.BREACHED


def test_warming_up_faults_and_the_rest_are_not_judged() -> None:
    slow = histogram(*[9.0] * 50)
    left_out = [
        window(12, latency=slow, part=Part.WARM_UP),
        window(13, latency=slow, faults=("hang",)),
        window(14, latency=slow, part=Part.END),
    ]
    asked = replace(ASKED, slo=SLO(p95_latency=1.0))
    found = verdict_of("p95_latency", [*(window(n) for n in range(1, 12)), *left_out], asked)
    assert (found.state, found.n) == (State.HELD, 550)


def test_late_answers_breach_p95() -> None:
    late = [window(n, latency=histogram(*[3.0] * 50)) for n in range(1, 12)]
    asked = replace(ASKED, slo=SLO(p95_latency=1.0))
    assert verdict_of("p95_latency", late, asked).state is State.BREACHED


def test_the_median_ttfd_counts_fires_that_were_not_found() -> None:
    asked = replace(ASKED, slo=SLO(ttfd=30.0))
    quick = window(1, onsets=8, found=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0))
    found = verdict_of("ttfd", [quick], asked)
    # eight values, the last unknown: least and greatest enclose the median (2/256), so the
    # greatest is nowhere
    assert (found.state, found.value, found.n) == (State.UNDECIDED, 4.0, 8)
    assert found.interval == (1.0, None)
    assert found.why == "1 of 8 not found"
    none = verdict_of("ttfd", [window(1, onsets=8)], asked)
    assert (none.state, none.value) == (State.BREACHED, None)
    few = verdict_of("ttfd", [window(1, onsets=2, found=(1.0, 2.0))], asked)
    assert few.state is State.UNDECIDED


def growing(bytes_a_window: int, count: int = 11, **more: Any) -> list[Window]:
    return [
        window(n, processes={"engine": level(1_000_000_000 + n * bytes_a_window)}, **more)
        for n in range(1, count + 1)
    ]


def test_a_leak_is_a_tenth_an_hour_and_says_when_memory_is_full() -> None:
    """12 MB in 50 s are 864 MB/h of 1,072 MB: beyond 107.2 MB/h, and 120 MB in all. At 1,132 MB in
    the last window of 0.24 MB/s there is room for 6,868 MB: 28,617 s."""
    found = verdict_of("rss_slope engine", growing(12_000_000))
    assert found.state is State.BREACHED
    assert found.value == pytest.approx(864e6)
    assert found.limit == pytest.approx(107.2e6)
    assert found.interval == pytest.approx((864e6, 864e6))
    assert found.exhausted_s == pytest.approx(28_616.67)
    assert found.given is False


def test_slow_growth_and_what_settles_are_no_leak() -> None:
    # 1 MB in 50 s: 72 MB/h of 1 GB
    assert verdict_of("rss_slope engine", growing(1_000_000)).state is State.HELD
    filled = [
        window(n, processes={"engine": level(1_000_000_000 + min(n, 6) * 30_000_000)})
        for n in range(1, 13)
    ]
    settled = verdict_of("rss_slope engine", filled)
    assert settled.state is not State.BREACHED


def test_growth_that_an_hour_allows_is_too_short_to_judge() -> None:
    """5 MB in 50 s are 360 MB/h of 1,030 MB, but 50 MB in all, of the 103 MB that are a tenth."""
    young = verdict_of("rss_slope engine", growing(5_000_000))
    assert (young.state, young.why, young.exhausted_s) == (
        State.UNDECIDED,
        "too short to judge: it grew by 50.0 MB in all, and what is young fills up",
        None,
    )
    # 15 MB are more than a tenth of 109 MB, and may still be first buffers
    small = [
        window(n, processes={"broker": level(100_000_000 + n * 1_500_000)}) for n in range(1, 12)
    ]
    assert verdict_of("rss_slope broker", small).state is State.UNDECIDED


def test_nothing_holds_while_growth_at_the_limit_could_not_be_seen() -> None:
    """A tenth of 200 MB an hour is 56 kB in 10 s, and of 0.1 s it is 28 µs: no page, no bin."""
    short = [window(n, begin_s=n - 1.0, end_s=float(n)) for n in range(1, 12)]
    for what in ("rss_slope harness", "latency_slope"):
        found = verdict_of(what, short)
        assert (found.state, found.value) == (State.UNDECIDED, 0.0)
        assert found.why == "too short to judge: growth at the limit would not show yet"
    # 2 GB an hour are 5.6 MB in 10 s
    asked = replace(ASKED, slo=SLO(rss_slope=2e9))
    assert verdict_of("rss_slope harness", short, asked).state is State.HELD


def test_a_limit_of_ones_own_is_breached_by_what_it_allows_in_an_hour() -> None:
    """72 MB/h, and 10 MB in all: under what is told from first buffers where nobody set a limit."""
    for limit, state in ((8e6, State.BREACHED), (50e6, State.UNDECIDED), (80e6, State.HELD)):
        asked = replace(ASKED, slo=SLO(rss_slope=limit))
        found = verdict_of("rss_slope engine", growing(1_000_000), asked)
        assert (found.state, found.limit, found.given) == (state, limit, True)


def test_a_process_that_was_started_again_is_judged_by_its_longest_life() -> None:
    """Seven windows of a leaking one, then three of its successor; a line across would fall."""
    lives = [
        window(n, processes={"worker": level(500_000_000 + n * 10_000_000, pid=1)})
        for n in range(1, 8)
    ] + [window(n, processes={"worker": level(300_000_000, pid=2)}) for n in range(8, 11)]
    found = verdict_of("rss_slope worker", lives)
    assert (found.state, found.n) == (State.BREACHED, 7)
    assert trends(lives, ASKED)["worker"].slope == pytest.approx(200_000)


def test_a_model_that_is_loaded_again_is_no_leak() -> None:
    """Killed in the second window, it loads in four and answers in the seventh; then it is calm."""
    nothing = {"request": histogram(), "latency": histogram(), "fates": {"engine_error": 5}}
    lives = [
        window(1, processes={"worker": level(530_000_000, pid=1)}),
        *(
            window(n, processes={"worker": level(n * 80_000_000, pid=2)}, **nothing)
            for n in range(2, 7)
        ),
        *(window(n, processes={"worker": level(560_000_000, pid=2)}) for n in range(7, 14)),
    ]
    found = verdict_of("rss_slope worker", lives)
    assert (found.state, found.value, found.n) == (State.HELD, 0.0, 6)


def test_an_engine_that_gets_slower_is_told_by_its_own_time() -> None:
    """100 ms and 10 ms more in each window of 50 s: 0.2 ms a second of 160 ms are 450 % an hour."""
    slower = [window(n, request=histogram(*[0.09 + 0.01 * n] * 50)) for n in range(1, 12)]
    found = verdict_of("latency_slope", slower)
    assert found.state is State.BREACHED
    assert found.value == pytest.approx(4.8, rel=0.1)
    # the wait before the request is what the load makes
    waiting = [window(n, latency=histogram(*[0.1 * n] * 50)) for n in range(1, 12)]
    assert verdict_of("latency_slope", waiting).state is State.HELD


def test_a_request_that_takes_a_little_longer_is_judged_by_a_limit_of_ones_own() -> None:
    """2 ms more in each window are 20 ms of 0.112 s, 128 % an hour; 1 ms is 10 of 0.106 s."""

    def judged(more_s: float, **limit: float) -> State:
        slower = [window(n, request=histogram(*[0.1 + more_s * n] * 50)) for n in range(1, 12)]
        return verdict_of("latency_slope", slower, replace(ASKED, slo=SLO(**limit))).state

    assert judged(0.002) is State.UNDECIDED, "under a quarter"
    assert judged(0.002, latency_slope=0.1) is State.BREACHED
    assert judged(0.001, latency_slope=0.1) is State.UNDECIDED, "under a tenth"


def test_one_step_up_is_no_slow_down() -> None:
    step = [window(n, request=histogram(*[0.1 if n < 4 else 0.2] * 50)) for n in range(1, 13)]
    assert verdict_of("latency_slope", step).state is not State.BREACHED


# --- the knee ---


def test_the_knee_is_the_last_step_before_the_first_that_does_not_hold() -> None:
    """Steps of 100 s with 10, 20, 30 cameras due 1, 2, 3 looks a second; 2 can be had."""
    ramp = Ramp(10, 30, 10, 100.0)
    served = {1: 50, 2: 50, 3: 100, 4: 100, 5: 100, 6: 100}
    due = {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 3.0, 6: 3.0}
    windows = [
        window(n, due_per_s=due[n], fates={"answered": served[n]}, wanted=served[n])
        for n in range(1, 7)
    ]
    found = knee(windows, ramp, replace(ASKED, for_s=300.0, ramp=ramp))
    assert [(s.cameras, s.holds) for s in found.steps] == [(10, True), (20, True), (30, False)]
    assert found.cameras == 20
    assert found.broken_at is not None
    assert found.broken_at.windows == (6,), "of a step its later half"
    assert knee_line(found) == (
        "knee: 20 cameras; at 30 (windows 6 to 6): 2 looks/s of the 3 that are due"
    )


def test_drops_and_p95_bend_a_ramp_too() -> None:
    ramp = Ramp(10, 20, 10, 100.0)
    asked = replace(ASKED, for_s=200.0, ramp=ramp, slo=SLO(p95_latency=1.0))
    calm = [window(n) for n in (1, 2, 3)]
    drops = knee([*calm, window(4, wanted=100)], ramp, asked)
    assert (drops.cameras, drops.broken_at and drops.broken_at.why) == (10, "drops 50.0 %")
    late = window(4, latency=histogram(*[2.0] * 130))
    found = knee([*calm, late], ramp, asked)
    assert (found.cameras, found.broken_at and found.broken_at.why) == (10, "p95 2 s")
    whole = knee([*calm, window(4)], ramp, asked)
    assert (whole.cameras, whole.broken_at) == (20, None)
    assert knee_line(whole) == "knee: not reached; 20 cameras held"


def test_of_a_ramp_only_what_follows_its_last_step_is_judged() -> None:
    ramp = Ramp(10, 20, 10, 300.0)
    asked = replace(ASKED, ramp=ramp, slo=SLO(error_share=0.1))
    failing = [window(n, errors={"timeout": 50}, fates={"engine_error": 50}) for n in range(1, 7)]
    after = [window(n) for n in range(7, 13)]
    found = verdict_of("error_share", [*failing, *after], asked)
    assert (found.state, found.n) == (State.HELD, 300)


# --- the disk, the engine's place, the words ---


def test_the_disk_is_reckoned_before() -> None:
    """200 cameras at 1 fps for 1,800 s: 360,000 frames x 560 + 72,000 answers x 500 bytes."""
    camera = scenario().cameras[0].model_copy(update={"phase": 0.0})
    told = need([(camera, 1.0)] * 200, 1800.0, 40.0, 1800.0, 12)
    assert (told.frames, told.looks, told.raw_bytes) == (360_000, 72_000, 237_600_000)
    # all of it may lie unpacked, and be written once more packed; 12 windows; 30 MB beside
    assert told.most_bytes == 2 * 237_600_000 + 144_000 + 30_000_000
    assert str(told).endswith(
        "= 238 MB of logs, packed and with what waits for it at most 505 MB on disk"
    )
    day = need([(camera, 1.0)] * 200, 86_400.0, 40.0, 86_400.0, 289)
    assert day.raw_bytes == 9_676_800_000 + 1_728_000_000
    # 512 MB lie unpacked, 256 MB are being packed, of the other 10,892.8 MB there is 0.12 left
    assert day.most_bytes == 768_000_000 + 1_307_136_000 + 289 * 12_000 + 30_000_000


@pytest.mark.parametrize(
    ("engine", "environ", "port"),
    [
        ({"name": "ollama", "url": "http://127.0.0.1:9999"}, "", 9999),
        ({"name": "ollama"}, "", 11434),
        ({"name": "ollama"}, "0.0.0.0:4321", 4321),
        ({"name": "ollama"}, "gpu-box:4321", None),
        ({"name": "openai", "url": "https://api.example.com/v1"}, "", None),
        ({"name": "openai", "url": "http://localhost:8000/v1"}, "", 8000),
        ({"name": "hf", "workers": ["localhost:8300"]}, "", 8300),
        ({"name": "simulated"}, "", None),
    ],
)
def test_an_engine_on_this_machine_is_found_by_its_port(
    monkeypatch: pytest.MonkeyPatch, engine: dict[str, Any], environ: str, port: int | None
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", environ)
    assert engine_port(Engine.model_validate(engine)) == port


SMI = """#!/bin/sh
case "$1" in
  *compute-apps*) {apps} ;;
  *) printf '1024\\n512\\n' ;;
esac
"""


@pytest.mark.parametrize(
    ("apps", "roles"),
    [
        # of two GPUs 300 MiB are ours, in two pieces
        ("printf '{pid}, 100\\n{pid}, 200\\n1, 700\\n'", {"harness": 300 * 2**20}),
        # a container sees no processes, or not by our numbers: then all of them stand together
        ("printf '999999, 100\\n'", {"gpu": 1536 * 2**20}),
        ("printf '[N/A]\\n'", {"gpu": 1536 * 2**20}),
        ("exit 9", {"gpu": 1536 * 2**20}),
    ],
)
def test_gpu_memory_is_told_by_process_or_else_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apps: str, roles: dict[str, int]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.replace("{apps}", apps.replace("{pid}", str(os.getpid()))))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    looker = Looker(None)
    seen = looker.look(gpu=True)
    told = {role: usage.gpu_bytes for role, usage in seen.items() if usage.gpu_bytes is not None}
    assert told == roles
    assert seen["harness"].rss_bytes > 10_000_000
    assert all(usage.gpu_bytes is None for usage in looker.look().values()), "it was not asked"


def test_the_words_of_a_window_and_a_verdict() -> None:
    assert window_line(window(3), 600.0) == (
        "soak  2:30 of 10:00  10 cameras  offered 10.0/s  served 1.0/s  drops 0.0 %  p50 0.199 s  "
        "p95 n/a  harness 200 MB"
    )
    line = verdict_line(verdict_of("rss_slope engine", growing(12_000_000)))
    assert line.plain == (
        "✗ rss_slope engine +864.0 MB/h (+864.0 MB/h to +864.0 MB/h), limit +107.2 MB/h, n 11: at "
        "that slope memory is full in 7:56:57 h"
    )


async def test_gathering_keeps_no_more_however_much_comes() -> None:
    watching = await gathering()
    for number in range(2_000):
        watching.frame(frame(Fate.ANSWERED, admitted=True, answer=answer(0.001 * number)))
        watching.saw({"harness": Usage(1, 100, 1, 1, 0.0)})
    done = watching.close(10.0)
    assert done.request.n == 2_000
    assert len(done.request.counts) < 700
    assert done.processes["harness"].rss_bytes == 100
