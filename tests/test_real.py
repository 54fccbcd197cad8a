"""Real camera sequences through the whole path: MQTT, sampling, baseline, records, score."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from earlyfire_stream import run
from earlyfire_stream.records import load
from earlyfire_stream.scenario.load import load as load_scenario
from tests.real_sequences import meta, onset, write_scenario

SMER = "pos_figlib_20160604_smer-tcs3-mobo-c"
RM_N = "neg_figlib_20160604_rm-n-mobo-c_preignition"
KNMI = "neg_knmi_meetterrein_201510"


@pytest.fixture(scope="module")
def played(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fire, a quiet sequence and the stills, at 600 times their speed."""
    folder = tmp_path_factory.mktemp("real")
    scenario = load_scenario(write_scenario(real_data, folder, (SMER, RM_N, KNMI), speed=600))
    options = run.Options(out=folder / "runs")
    outcome = asyncio.run(run.play(scenario, options, [], asyncio.Event()))
    return outcome.folder


def test_the_onset_of_a_figlib_sequence_is_its_mark(real_data: Path) -> None:
    assert onset(real_data, SMER) == 2400.0
    assert onset(real_data, RM_N) is None


def test_every_real_frame_is_looked_at_once(played: Path, real_data: Path) -> None:
    log = load(played)
    frames = {name: len(meta(real_data, name)["frame_list"]) for name in (SMER, RM_N)}
    seen = {plan.id: sum(f.camera == plan.id for f in log.frames) for plan in log.cameras}
    assert [frames[SMER], frames[RM_N]] == [81, 20]
    assert list(seen.values())[:2] == [81, 20]
    assert {f.fate for f in log.frames} == {"answered"}
    assert run.rescore(played).ledger.balanced is True


def test_the_fire_is_found_within_three_frames_of_its_first_box_and_where_it_burns(
    played: Path,
) -> None:
    (fire,) = run.rescore(played).to_json()["fires"]
    assert fire["located"] is True
    # onset at frame 40, first box at frame 41: three frames later is frame 44
    assert fire["ttfd_frames"] <= 4


def test_a_quiet_hour_of_a_real_camera_raises_no_alarm(played: Path) -> None:
    false_alarms = run.rescore(played).to_json()["false_alarms"]
    assert false_alarms["episodes"] == 0
    # 40 minutes before the fire at smer, and 38 minutes at rm-n with its last frame open
    assert false_alarms["camera_hours"] == pytest.approx((2400 + 19 * 120) / 3600)


def test_stills_count_for_frames_and_for_no_hours(played: Path) -> None:
    log = load(played)
    (stills,) = (plan for plan in log.cameras if plan.cadence_s is None)
    shown = [s for s in log.shots if s.camera == stills.id]
    assert len(shown) == 34
    assert {s.smoke for s in shown} == {False}
    assert stills.id not in run.rescore(played).to_json()["false_alarms"]["by_camera"]
