"""What is counted is what happened, in words that Prometheus reads."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain
from prometheus_client.samples import Sample

from earlyfire_stream.clock import VIRTUAL_EPOCH_NS, Clock, virtual_run
from earlyfire_stream.metrics import FAMILIES
from earlyfire_stream.metrics.endpoint import plain_text, registry_of_process
from earlyfire_stream.metrics.observer import Metrics
from earlyfire_stream.records import (
    AlarmRecord,
    Answer,
    CameraPlan,
    Explanation,
    FaultPlan,
    FirePlan,
    FrameRecord,
    Playing,
    SecondLook,
    Shot,
    Snapshot,
)
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Truth, Verdict
from tests.conftest import left_out

BEGUN_NS = VIRTUAL_EPOCH_NS
SECOND_NS = 1_000_000_000
CALM = Snapshot(
    received=0,
    waiting=0,
    in_flight=0,
    tokens_spent=0,
    tokens_per_s=None,
    utilization=0.0,
    concurrency=1,
    duplicates=0,
    refused={},
)
NORTH = CameraPlan("north", (FirePlan("camp", 60.0, 120.0),), 1.0)
YES, NO = Verdict(True, Box(0.5, 0.5, 0.2, 0.2)), Verdict(False)


class Scene:
    """Metrics of a run that has begun, and what a scraper reads of them."""

    def __init__(
        self,
        plans: Sequence[CameraPlan] = (NORTH,),
        role: str = "run",
        camera_series: int = 50,
        network_outages: tuple[tuple[float, float], ...] = (),
        faults: tuple[FaultPlan, ...] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, camera_series)
        self.snapshot = CALM
        self.metrics.opened(
            Playing(
                "r", "s", role, "simulated", "m", "fixed", "virtual", None, network_outages, faults
            )
        )

        async def begin() -> None:
            self.clock = Clock()
            told = None if role == "cameras" else lambda: self.snapshot
            self.metrics.begin(plans, self.clock, told)

        virtual_run(begin())

    def at(self, scenario_s: float) -> None:
        """It is that scenario second now."""
        self.clock.begin(self.clock.wall_ns() - round(scenario_s * SECOND_NS))

    @property
    def samples(self) -> list[Sample]:
        text = plain_text(self.registry).decode()
        return [sample for metric in read_plain(text) for sample in metric.samples]

    def told(self, name: str, **labels: str) -> float | None:
        """The one sample of that name with these labels; None if there is none."""
        wanted = labels.items()
        found = [s.value for s in self.samples if s.name == name and wanted <= s.labels.items()]
        assert len(found) <= 1, found
        return found[0] if found else None

    def all_told(self, name: str, label: str) -> dict[str, float]:
        """By that label, the ones that are not 0."""
        return {s.labels[label]: s.value for s in self.samples if s.name == name and s.value}


def shot(seq: int, camera: str = "north", **more: object) -> Shot:
    told = {"captured_at": float(seq), "captured_ns": BEGUN_NS + seq * SECOND_NS, **more}
    return Shot(camera, seq, **told)  # type: ignore[arg-type]


def frame(
    seq: int,
    fate: Fate = Fate.SAMPLED_OUT,
    reason: Reason = Reason.NONE,
    camera: str = "north",
    answer: Answer | None = None,
) -> FrameRecord:
    """Sent 10 ms and received 30 ms after its capture."""
    captured_ns = BEGUN_NS + seq * SECOND_NS
    lost = fate is Fate.LOST
    return FrameRecord(
        camera,
        seq,
        float(seq),
        captured_ns,
        fate,
        reason,
        received_ns=None if lost else captured_ns + 30_000_000,
        published_ns=None if lost else captured_ns + 10_000_000,
        identity=f"{seq:032x}",
        answer=answer,
    )


def answered(seq: int, latency_s: float = 1.0, verdict: Verdict | None = NO) -> FrameRecord:
    """Its request went out 40 ms after capture and was decided 10 ms before the answer."""
    captured_ns = BEGUN_NS + seq * SECOND_NS
    answered_ns = captured_ns + round(latency_s * SECOND_NS)
    answer = Answer(
        started_ns=captured_ns + 40_000_000,
        decided_ns=answered_ns - 10_000_000,
        answered_ns=answered_ns,
        sent_size=(1288, 728),
        visual_tokens=1196,
        prompt_tokens=1300,
        output_tokens=12,
        verdict=verdict,
    )
    fate = Fate.ANSWERED if verdict is not None else Fate.BAD_JSON
    return frame(seq, fate, Reason.NONE if verdict else Reason.NOT_JSON, answer=answer)


def alarm(seq: int, box: Box | None = YES.box, emitted: bool = True) -> AlarmRecord:
    at_ns = BEGUN_NS + seq * SECOND_NS
    return AlarmRecord(Alarm("north", (seq,), float(seq), at_ns, box), emitted, at_ns)


# --- what there is -------------------------------------------------------------------------------


def test_every_declared_metric_is_told_and_no_other() -> None:
    scene = Scene()
    told = {metric.name for metric in scene.metrics.collect()}
    assert told == {"earlyfire_" + family.name for family in FAMILIES}


def test_no_two_metrics_share_a_name() -> None:
    names = [family.exposed for family in FAMILIES]
    assert len(names) == len(set(names))


def test_labels_are_bounded_and_name_no_frame() -> None:
    labels = {label for family in FAMILIES for label in family.labels}
    assert labels == {
        "run", "scenario", "role", "engine", "model", "policy", "clock", "version", "kind",
        "reason", "fate", "over", "purpose", "outcome", "stage", "term", "camera",
    }  # fmt: skip
    assert all(("camera" in family.labels) == family.per_camera for family in FAMILIES)


@pytest.mark.parametrize(
    ("role", "absent", "present"),
    [
        ("cameras", "earlyfire_frames_fate", "earlyfire_frames_scheduled"),
        ("consume", "earlyfire_frames_scheduled", "earlyfire_frames_fate"),
    ],
)
def test_a_half_tells_what_it_knows_and_is_silent_on_the_rest(
    role: str, absent: str, present: str
) -> None:
    told = {metric.name for metric in Scene(role=role).metrics.collect()}
    assert present in told
    assert absent not in told
    assert "earlyfire_ledger_unaccounted_frames" not in told
    assert "earlyfire_run" in told


def test_what_runs_is_told_in_labels_of_one_series() -> None:
    (info,) = [s for s in Scene().samples if s.name == "earlyfire_run_info"]
    assert info.value == 1
    assert {k: v for k, v in info.labels.items() if k != "version"} == {
        "run": "r", "scenario": "s", "role": "run", "engine": "simulated", "model": "m",
        "policy": "fixed", "clock": "virtual",
    }  # fmt: skip


def test_both_text_forms_can_be_read_back() -> None:
    scene = Scene()
    for seq in range(5):
        scene.metrics.shot(shot(seq, late_s=0.001))
        scene.metrics.frame(answered(seq))
    plain = {metric.name for metric in read_plain(plain_text(scene.registry).decode())}
    opened = {metric.name for metric in read_open(openmetrics_text(scene.registry).decode())}
    assert len(plain) == len(opened) == len(FAMILIES)


def test_prometheus_own_linter_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        left_out("no promtool on PATH (Debian: apt-get install prometheus)")
    assert promtool is not None
    scene = Scene()
    scene.metrics.frame(answered(0))
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=plain_text(scene.registry),
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == b""


def test_creation_times_are_for_openmetrics_alone() -> None:
    scene = Scene()
    created = [
        sample
        for metric in read_open(openmetrics_text(scene.registry).decode())
        for sample in metric.samples
        if sample.name == "earlyfire_frames_scheduled_created"
    ]
    assert [sample.value for sample in created] == [1_700_000_000.0]
    assert b"_created" not in plain_text(scene.registry)


# --- frames --------------------------------------------------------------------------------------


def test_every_scheduled_frame_is_counted_with_how_late_it_was() -> None:
    scene = Scene()
    for seq, late_s in enumerate((0.0, 0.0005, 0.002, 40.0)):
        scene.metrics.shot(shot(seq, late_s=late_s, size_bytes=100))
    assert scene.told("earlyfire_frames_scheduled_total") == 4
    assert scene.told("earlyfire_frames_published_total") == 4
    assert scene.told("earlyfire_published_bytes_total") == 400
    name = "earlyfire_replay_lateness_seconds"
    assert scene.told(name + "_bucket", le="0.0005") == 2  # a bound is part of its bucket
    assert scene.told(name + "_bucket", le="0.001") == 2
    assert scene.told(name + "_bucket", le="0.002") == 3
    assert scene.told(name + "_bucket", le="16.384") == 3
    assert scene.told(name + "_bucket", le="+Inf") == scene.told(name + "_count") == 4
    assert scene.told(name + "_sum") == pytest.approx(40.0025)


def test_a_frame_that_was_never_sent_has_one_fate_though_the_consumer_sees_the_gap() -> None:
    scene = Scene()
    scene.metrics.shot(shot(0, unsent=Reason.OUTAGE))
    scene.metrics.shot(shot(1))
    scene.metrics.frame(frame(1, Fate.SAMPLED_OUT, Reason.IDLE))
    scene.metrics.frame(frame(0, Fate.LOST, Reason.GAP))
    assert scene.all_told("earlyfire_frames_fate_total", "fate") == {"unsent": 1, "sampled_out": 1}
    assert scene.told("earlyfire_frames_unsent_total", reason="outage") == 1
    assert scene.told("earlyfire_ledger_unaccounted_frames") == 0


def test_a_consumer_alone_counts_an_unsent_frame_as_lost() -> None:
    scene = Scene(role="consume")
    scene.metrics.frame(frame(0, Fate.LOST, Reason.GAP))
    assert scene.all_told("earlyfire_frames_fate_total", "fate") == {"lost": 1}


def test_frames_under_way_are_not_yet_accounted_for() -> None:
    scene = Scene()
    for seq in range(3):
        scene.metrics.shot(shot(seq))
    scene.metrics.frame(frame(0))
    assert scene.told("earlyfire_ledger_unaccounted_frames") == 2


def test_every_fate_stands_at_zero_before_its_first_frame() -> None:
    told = [s for s in Scene().samples if s.name == "earlyfire_frames_fate_total"]
    assert {s.labels["fate"] for s in told} == {fate.value for fate in Fate}
    assert all(s.value == 0 for s in told)


def test_what_only_the_consumer_knows_is_read_from_its_snapshot() -> None:
    scene = Scene()
    scene.snapshot = replace(
        CALM,
        received=7,
        waiting=3,
        in_flight=2,
        tokens_per_s=4000.0,
        utilization=0.5,
        concurrency=8,
        duplicates=1,
        refused={"not_jpeg": 2},
        turned_away={"not_jpeg": 1, "size": 4},
        online=frozenset({"north"}),
        budget_waited_s=1.5,
        dropped=5,
        reconnects=6,
        suspected=frozenset({"north", "south"}),
    )
    scene.metrics._look()
    for name, value in {
        "frames_received_total": 7,
        "mailbox_frames": 3,
        "inflight_requests": 2,
        "token_budget_tokens_per_second": 4000,
        "token_budget_utilization_ratio": 0.5,
        "concurrency_limit": 8,
        "frames_duplicate_total": 1,
        "cameras_online": 1,
        "token_budget_waited_seconds_total": 1.5,
        "transport_dropped_payloads_total": 5,
        "transport_reconnects_total": 6,
        "cameras_suspected": 2,
    }.items():
        assert scene.told("earlyfire_" + name) == value, name
    assert scene.all_told("earlyfire_payloads_refused_total", "reason") == {
        "not_jpeg": 3,
        "size": 4,
    }


# --- answers -------------------------------------------------------------------------------------


def test_latency_counts_from_capture_in_buckets_that_hold_their_bound() -> None:
    scene = Scene()
    for seq, latency_s in enumerate((0.08, 0.1, 0.64, 700.0)):
        scene.metrics.frame(answered(seq, latency_s))
    name = "earlyfire_end_to_end_latency_seconds"
    assert scene.told(name + "_bucket", le="0.04") == 0
    assert scene.told(name + "_bucket", le="0.08") == 1
    assert scene.told(name + "_bucket", le="0.16") == 2
    assert scene.told(name + "_bucket", le="0.64") == 3
    assert scene.told(name + "_bucket", le="655.36") == 3
    assert scene.told(name + "_bucket", le="+Inf") == scene.told(name + "_count") == 4
    assert scene.told(name + "_sum") == pytest.approx(700.82)


def test_the_stages_of_an_answer_add_up_to_its_latency() -> None:
    scene = Scene()
    scene.metrics.frame(answered(0, 1.0))
    stages = scene.all_told("earlyfire_stage_duration_seconds_sum", "stage")
    assert stages == pytest.approx({"send": 0.01, "transit": 0.02, "wait": 0.01, "infer": 0.96})
    assert scene.told("earlyfire_decision_duration_seconds_sum") == pytest.approx(0.95)
    assert scene.told("earlyfire_inference_duration_seconds_sum") == pytest.approx(0.96)


def test_an_answer_before_its_capture_has_no_latency() -> None:
    scene = Scene()
    scene.metrics.frame(answered(0, -2.0))
    assert scene.told("earlyfire_clock_skewed_frames_total") == 1
    assert scene.told("earlyfire_end_to_end_latency_seconds_count") == 0


def test_requests_are_counted_by_what_became_of_them() -> None:
    scene = Scene()
    scene.metrics.frame(answered(0))
    scene.metrics.frame(answered(1, verdict=None))
    failed = answered(2, verdict=None)
    for reason in (Reason.TIMEOUT, Reason.TIMEOUT, Reason.UNAVAILABLE):
        scene.metrics.frame(replace(failed, fate=Fate.ENGINE_ERROR, reason=reason))
    assert scene.all_told("earlyfire_inference_requests_total", "outcome") == {
        "answered": 1,
        "bad_json": 1,
        "timeout": 2,
        "unavailable": 1,
    }
    # nobody was there for the last one, so it has cost nothing
    assert scene.told("earlyfire_visual_tokens_total") == 4 * 1196
    assert scene.told("earlyfire_prompt_tokens_total") == 4 * 1300
    assert scene.told("earlyfire_output_tokens_total") == 4 * 12


def test_a_second_look_and_an_explanation_are_requests_of_their_own() -> None:
    scene = Scene()
    first = answered(0, verdict=YES)
    assert first.answer is not None
    look = SecondLook(Box(0.5, 0.5, 0.4, 0.4), (280, 280), 0, 0, 100, YES, YES)
    both = replace(first.answer, visual_tokens=1296, second=look)
    scene.metrics.frame(replace(first, answer=both))
    broken = replace(both, second=replace(look, verdict=None, error="timeout: no answer"))
    scene.metrics.frame(replace(first, seq=1, captured_at=1.0, answer=broken))
    never = replace(first.answer, second=replace(look, visual_tokens=0, error="over_budget: none"))
    scene.metrics.frame(replace(first, seq=2, captured_at=2.0, answer=never))
    scene.metrics.explanation(Explanation("north", 0, 0, 1, 1196, "smoke"))
    scene.metrics.explanation(Explanation("north", 1, 0, 1, 1196, error="schema: odd"))
    told = {
        (s.labels["purpose"], s.labels["outcome"]): s.value
        for s in scene.samples
        if s.name == "earlyfire_inference_requests_total" and s.value
    }
    assert told == {
        ("verdict", "answered"): 3,
        ("second_look", "answered"): 1,
        ("second_look", "timeout"): 1,
        ("explanation", "answered"): 1,
        ("explanation", "bad_json"): 1,
    }
    assert scene.all_told("earlyfire_visual_tokens_total", "purpose") == {
        "verdict": 3 * 1196,
        "second_look": 200,
        "explanation": 2 * 1196,
    }


def test_the_sampling_interval_is_between_two_looks_at_one_camera() -> None:
    scene = Scene()
    for seq in (0, 5, 7):
        scene.metrics.frame(answered(seq))
    scene.metrics.frame(frame(8, Fate.SAMPLED_OUT, Reason.IDLE))
    name = "earlyfire_sampling_interval_seconds"
    assert scene.told(name + "_sum") == 7
    assert scene.told(name + "_bucket", le="2.0") == 1
    assert scene.told(name + "_bucket", le="5.0") == 2
    assert scene.told("earlyfire_camera_sampling_interval_seconds", camera="north") == 2


# --- alarms and what is to be seen ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq", "truth", "kind"),
    [
        (30, (), "false"),
        (70, (), "true"),
        (70, (Truth("camp", Box(0.5, 0.5, 0.1, 0.1)),), "true"),
        (70, (Truth("camp", Box(0.1, 0.1, 0.1, 0.1)),), "unlocated"),
        (130, (), "false"),
    ],
)
def test_an_alarm_is_of_the_kind_that_scoring_would_call_it(
    seq: int, truth: tuple[Truth, ...], kind: str
) -> None:
    scene = Scene()
    scene.metrics.shot(shot(seq, truth=truth))
    scene.metrics.frame(answered(seq, verdict=YES))
    scene.metrics.alarm(alarm(seq))
    assert scene.all_told("earlyfire_alarms_total", "kind") == {kind: 1}
    assert scene.told("earlyfire_fires_alarmed_total") == (1 if seq == 70 else 0)


def test_an_alarm_of_a_camera_without_truth_is_of_unknown_kind() -> None:
    scene = Scene(())
    scene.metrics.alarm(alarm(3))
    assert scene.all_told("earlyfire_alarms_total", "kind") == {"unknown": 1}


def test_an_alarm_within_the_repeat_time_is_a_candidate_and_not_emitted() -> None:
    scene = Scene()
    scene.metrics.alarm(alarm(70))
    scene.metrics.alarm(alarm(75, emitted=False))
    assert scene.all_told("earlyfire_alarm_candidates_total", "kind") == {"true": 2}
    assert scene.all_told("earlyfire_alarms_total", "kind") == {"true": 1}
    assert scene.told("earlyfire_camera_alarms_total", camera="north") == 1


@pytest.mark.parametrize(
    ("at", "onsets", "burning"), [(59.9, 0, 0), (60.0, 1, 1), (119.0, 1, 1), (120.0, 1, 0)]
)
def test_onsets_pass_and_fires_burn_as_the_scenario_says(
    at: float, onsets: int, burning: int
) -> None:
    scene = Scene()
    scene.at(at)
    assert scene.told("earlyfire_scenario_time_seconds") == pytest.approx(at)
    assert scene.told("earlyfire_onsets_total") == onsets
    assert scene.told("earlyfire_fires_burning") == burning


def test_cameras_inside_a_scripted_fault_are_told_by_its_kind() -> None:
    off = CameraPlan("off", cadence_s=1.0, outages=((10.0, 20.0),))
    scene = Scene((off,), network_outages=((15.0, 25.0), (15.0, 30.0)))
    scene.at(17.0)
    assert scene.all_told("earlyfire_faults_active", "kind") == {"outage": 1, "network": 2}
    scene.at(27.0)
    assert scene.all_told("earlyfire_faults_active", "kind") == {"network": 1}


def test_faults_on_purpose_are_told_by_their_kind_from_the_begin_on() -> None:
    plans = tuple(CameraPlan(name, cadence_s=1.0) for name in ("a", "b", "c"))
    faults = (
        FaultPlan("one", "camera-flap", 10.0, 20.0, ("a", "b")),
        FaultPlan("two", "camera-flap", 15.0, 30.0, ("c",)),
        FaultPlan("restart", "broker-restart", 40.0, 40.0),
    )
    scene = Scene(plans, faults=faults)

    def active(at: float) -> dict[str, float]:
        scene.at(at)
        return scene.all_told("earlyfire_faults_active", "kind")

    kinds = [s.labels["kind"] for s in scene.samples if s.name == "earlyfire_faults_active"]
    assert sorted(kinds) == ["broker-restart", "camera-flap", "network", "outage"]
    assert active(5.0) == {}
    assert active(12.0) == {"camera-flap": 2}
    assert active(17.0) == {"camera-flap": 3}
    assert active(25.0) == {"camera-flap": 1}
    assert active(41.0) == {"broker-restart": 3}  # a moment lasts 15 s, or no scrape would see it
    assert active(56.0) == {}


def test_a_fault_of_cameras_that_play_elsewhere_is_under_way_here_too() -> None:
    scene = Scene((), role="consume", faults=(FaultPlan("f", "engine-slow", 10.0, 20.0, ("x",)),))
    scene.at(12.0)
    assert scene.told("earlyfire_faults_active", kind="engine-slow") == 1


def test_a_camera_is_silent_when_nothing_came_though_it_says_that_it_is_on() -> None:
    plans = tuple(CameraPlan(name, cadence_s=1.0) for name in ("quiet", "talks", "gone"))
    scene = Scene(plans)
    scene.snapshot = replace(CALM, online=frozenset({"quiet", "talks"}))
    scene.metrics._look()
    scene.metrics.frame(frame(40, camera="talks"))
    now_ns = BEGUN_NS + 45 * SECOND_NS
    scene.clock.wall_ns = lambda: now_ns  # type: ignore[method-assign]
    assert scene.all_told("earlyfire_cameras_silent", "over") == {"10s": 1, "30s": 1}


# --- fleets --------------------------------------------------------------------------------------


def fleet(size: int) -> tuple[CameraPlan, ...]:
    return tuple(CameraPlan(f"cam-{n:05}", cadence_s=1.0) for n in range(size))


def test_ten_thousand_cameras_need_no_more_series_than_one_without_its_own() -> None:
    counts = []
    for plans in (fleet(1), fleet(10_000)):
        scene = Scene(plans, camera_series=0)
        for number, plan in enumerate(plans):
            scene.metrics.shot(shot(number, plan.id))
            scene.metrics.frame(frame(number, camera=plan.id))
        counts.append(len(scene.samples))
    assert counts[0] == counts[1]
    assert counts[1] < 400


def test_fleets_up_to_the_limit_have_series_of_each_camera() -> None:
    for size, expected in ((50, 50), (51, 0)):
        scene = Scene(fleet(size))
        told = [s for s in scene.samples if s.name == "earlyfire_camera_frames_total"]
        assert len(told) == expected


def test_strangers_beyond_the_limit_take_no_series() -> None:
    scene = Scene((), role="consume", camera_series=50)
    for number in range(10_000):
        scene.metrics.frame(frame(0, camera=f"stranger {number}"))
    assert not [s for s in scene.samples if "camera" in s.labels]
    assert scene.told("earlyfire_cameras") == 10_000


def test_a_strangers_name_cannot_forge_a_line() -> None:
    scene = Scene((), role="consume")
    name = 'x"} 1\nearlyfire_early_fire_score 100\\'
    scene.metrics.frame(frame(0, camera=name))
    assert scene.told("earlyfire_camera_frames_total", camera=name) == 1
    assert scene.told("earlyfire_early_fire_score") is None


# --- exemplars -----------------------------------------------------------------------------------


def exemplars(registry: CollectorRegistry, name: str) -> list[Mapping[str, str]]:
    return [
        sample.exemplar.labels
        for metric in read_open(openmetrics_text(registry).decode())
        for sample in metric.samples
        if sample.name == name and sample.exemplar is not None
    ]


def test_a_bucket_names_the_newest_frame_in_it() -> None:
    scene = Scene()
    for seq in (3, 4):
        scene.metrics.shot(shot(seq, identity=f"{seq:032x}"))
        scene.metrics.frame(answered(seq, 0.3))
    expected = {"camera": "north", "seq": "4", "identity": f"{4:032x}"}
    assert exemplars(scene.registry, "earlyfire_end_to_end_latency_seconds_bucket") == [expected]
    assert exemplars(scene.registry, "earlyfire_replay_lateness_seconds_bucket") == [expected]
    assert exemplars(scene.registry, "earlyfire_frames_fate_total") == [expected]


def test_an_exemplar_is_never_longer_than_prometheus_takes() -> None:
    scene = Scene((), role="consume")
    scene.metrics.frame(replace(answered(10**15, 0.3), camera="ü" * 200))
    (told,) = exemplars(scene.registry, "earlyfire_frames_fate_total")
    assert sum(len(name) + len(value) for name, value in told.items()) <= 128


# --- scraping while it runs ----------------------------------------------------------------------


def test_a_scrape_in_another_thread_is_sound_while_frames_are_counted() -> None:
    scene = Scene(())
    enough = threading.Event()
    texts: list[str] = []

    def scrape() -> None:
        while not enough.is_set() or len(texts) < 3:
            texts.append(openmetrics_text(scene.registry).decode())

    thread = threading.Thread(target=scrape)
    thread.start()
    for seq in range(4000):
        name = f"cam-{seq % 60}"  # new cameras come while others are told
        scene.metrics.shot(shot(seq, name))
        scene.metrics.frame(replace(answered(seq, seq % 50 / 10), camera=name))
    enough.set()
    thread.join()
    for text in texts:
        for metric in read_open(text):  # it checks that buckets only grow and end in the count
            assert metric.type in ("counter", "gauge", "histogram", "info")
    assert scene.told("earlyfire_end_to_end_latency_seconds_count") == 4000


def test_memory_of_unsent_frames_ends_with_their_gap() -> None:
    scene = Scene()
    for seq in range(100):
        scene.metrics.shot(shot(seq, unsent=Reason.BROKER_DOWN))
        scene.metrics.frame(frame(seq, Fate.LOST, Reason.GAP))
    assert not scene.metrics._unsent_frames


async def test_the_process_is_looked_at_once_a_second_while_frames_stream() -> None:
    registry = registry_of_process()
    metrics = Metrics(registry)
    looks = itertools.count()
    second = asyncio.Event()

    def snapshot() -> Snapshot:
        if next(looks) == 1:
            second.set()
        return CALM

    metrics.begin((NORTH,), Clock(), snapshot)
    async with asyncio.timeout(30):
        await second.wait()
    text = plain_text(registry).decode()
    assert "earlyfire_event_loop_lag_seconds_count 1.0" in text
    assert "process_resident_memory_bytes" in text
    assert "python_gc_objects_collected_total" in text
