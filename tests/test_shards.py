"""Several run folders of one run: scored together they are the run of one process, to the byte."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from earlyfire_stream import merged
from earlyfire_stream.cli import app
from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.run import Options, play, report, rescore
from earlyfire_stream.scenario.load import load, overridden
from earlyfire_stream.scoring.ledger import balance
from tests.playing import camera, pictures, scenario

FLEET = (
    camera("lake", fires=[{"id": "oak", "onset": "3s"}], interval="1s"),
    camera("mast", fires=[{"id": "oak", "onset": "5s"}], interval="1s"),
    camera("north", fires=[{"id": "fir", "onset": "4s"}], interval="700ms"),
    camera("ridge", interval="1s", outages=[{"start": "2s", "end": "4s"}]),
    camera("south", interval="1s", network={"loss": 0.3, "delay": "100ms"}),
    {
        "id": "hill",
        "count": 4,
        "cadence": "500ms",
        "source": {"kind": "synthetic", "size": [320, 240]},
        "fires": [{"id": "elm", "onset": "2s", "plume": {"size": "medium"}}],
        "vary": {"fire_share": 0.5, "onset": "3s"},
    },
)
ENGINE = {"name": "simulated", "profile": "spec-gpu", "options": {"slots": 64}}
"""So many at a time that none waits for another's answer: each process has slots of its own."""
SETTINGS: Mapping[str, Any] = {
    "engine": ENGINE,
    "clock": "virtual",
    "duration": "12s",
    "alarm": {"k": 2, "n": 3, "within": "20s"},
}


def files(base: Path, **more: Any) -> Path:
    pictures(base / "pictures", 12)
    return scenario(base, *FLEET, **{**SETTINGS, **more})


def played(path: Path, out: Path, shard: tuple[int, int] | None = None, **options: Any) -> Path:
    asked = overridden(load(path, shard=shard), **options)

    async def go() -> Path:
        return (await play(asked, Options(out=out), [], asyncio.Event())).folder

    return virtual_run(go())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """One whole run, and the same fleet played as three parts."""
    base = tmp_path_factory.mktemp("parts")
    path = files(base)
    one = played(path, base / "one")
    return one, [played(path, base / f"part-{k}", (k, 3)) for k in range(3)]


@pytest.fixture
def copied(parts: tuple[Path, list[Path]], tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(part, tmp_path / f"p{k}")) for k, part in enumerate(parts[1])]


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    told = orjson.loads((folder / "run.json").read_bytes())
    change(told)
    (folder / "run.json").write_bytes(orjson.dumps(told))


def refusal(*arguments: object) -> str:
    with pytest.raises(UsageError) as refused:
        merged.whole(*arguments)  # type: ignore[arg-type]
    return str(refused.value)


# --- the whole is the run of one process ---------------------------------------------------------


def test_three_parts_score_as_the_one_run_that_plays_all_cameras(
    parts: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    one, three = parts
    rescore(three, output=tmp_path / "whole")
    assert (tmp_path / "whole" / "score.json").read_bytes() == (one / "score.json").read_bytes()
    told = orjson.loads((one / "score.json").read_bytes())
    assert told["ledger"]["balanced"] is True
    assert told["ledger"]["scheduled"] > 150
    assert {"lost", "answered", "unsent"} <= told["ledger"]["fates"].keys()
    assert len(told["fires"]) == 5  # oak twice, fir, and half of four hills
    cameras = [len(merged.load(part).cameras) for part in three]
    assert sum(cameras) == 9
    assert min(cameras) >= 1


def test_faults_of_the_parts_are_those_of_the_whole(tmp_path: Path) -> None:
    flap = {"kind": "camera-flap", "start": "3s", "end": "7s", "period": "2s", "cameras": ["h*"]}
    loss = {"kind": "network-loss", "start": "5s", "end": "9s", "share": 0.5}
    path = files(tmp_path, faults=[loss, flap])
    one = played(path, tmp_path / "one")
    three = [played(path, tmp_path / f"part-{k}", (k, 3)) for k in range(3)]
    rescore(three, output=tmp_path / "whole")
    told, whole = (
        orjson.loads((folder / "score.json").read_bytes())["faults"]
        for folder in (one, tmp_path / "whole")
    )
    assert whole == told
    assert [fault["id"] for fault in told] == ["camera-flap", "network-loss"]
    assert (len(told[0]["cameras"]), told[1]["cameras"]) == (4, [])
    assert all(fault["frames"]["harmed"] > 0 and fault["frames"]["exact"] for fault in told)


def test_every_frame_of_the_parts_is_the_frame_of_the_whole(
    parts: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    one, three = parts
    rescore(three, output=tmp_path / "whole")
    log, whole = merged.load(one), merged.load(tmp_path / "whole")
    assert whole.cameras == log.cameras

    def shown(run: Any) -> list[tuple[Any, ...]]:
        return sorted((s.camera, s.seq, s.captured_at, s.identity, s.unsent) for s in run.shots)

    assert shown(whole) == shown(log)
    assert whole.run["digest"] == log.run["digest"]
    assert balance(whole).balanced


def test_another_seed_draws_the_same_copies_in_the_parts_as_in_the_whole(tmp_path: Path) -> None:
    path = files(tmp_path)
    one = played(path, tmp_path / "one", seed=11)
    two = [played(path, tmp_path / f"part-{k}", (k, 2), seed=11) for k in range(2)]
    rescore(two, output=tmp_path / "whole")
    scores = [(folder / "score.json").read_bytes() for folder in (one, tmp_path / "whole")]
    assert scores[0] == scores[1]


def test_parts_of_recordings_that_play_in_turn_detect_what_the_whole_detects(
    tmp_path: Path,
) -> None:
    """Each part has turns of its own, so that only the instants on the run's clock differ."""
    offsets = range(-300, 301, 60)
    for fire in range(6):
        taken = 1_465_063_200 + fire * 86_400
        for camera_name in ("a-n", "b-s")[: 1 + fire % 2]:
            folder = tmp_path / "data" / f"2016060{fire}_FIRE_{camera_name}"
            for made, offset in zip(
                sorted(pictures(folder, len(offsets)).iterdir()), offsets, strict=True
            ):
                made.rename(folder / f"{taken + offset}_{offset:+06d}.jpg")
    entry = {"layout": "figlib", "path": "data", "at_once": 2}
    engine = {**ENGINE, "profile": "smokebench-qwen2.5vl-7b"}
    text = {"earlyfire": 1, "name": "f", "clock": "virtual", "engine": engine, "datasets": [entry]}
    path = tmp_path / "f.yaml"
    path.write_bytes(orjson.dumps(text))
    one = played(path, tmp_path / "one")
    two = [played(path, tmp_path / f"part-{k}", (k, 2)) for k in range(2)]
    rescore(two, output=tmp_path / "whole")
    told = [orjson.loads((f / "score.json").read_bytes()) for f in (one, tmp_path / "whole")]
    assert told[0]["early_fire_score"] == told[1]["early_fire_score"]
    assert told[0]["ledger"] == told[1]["ledger"]
    views = [{(v["fire"], v["camera"]): v["ttfd_s"] for v in score["fires"]} for score in told]
    assert len(views[0]) == 9
    assert views[0] == views[1]


def test_the_order_of_the_folders_does_not_matter(
    parts: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    rescore(parts[1], output=tmp_path / "a")
    rescore(parts[1][::-1], output=tmp_path / "b")
    scores = [(tmp_path / name / "score.json").read_bytes() for name in "ab"]
    assert scores[0] == scores[1]


def test_the_report_of_the_whole_shows_the_pictures_of_its_parts(tmp_path: Path) -> None:
    path = files(tmp_path, sampling={"policy": "adaptive", "idle": "3s"})  # looks at real pixels
    three = [played(path, tmp_path / f"part-{k}", (k, 3)) for k in range(3)]
    kept = [len(list((part / "frames").glob("*.jpg"))) for part in three]
    assert sum(1 for number in kept if number) >= 2, kept
    page = report(three, output=tmp_path / "whole").read_text()
    assert page.count("data:image/jpeg") == sum(kept)
    assert not (tmp_path / "whole" / "frames").exists()


def test_the_folder_of_a_whole_is_read_like_any_run(
    copied: list[Path], tmp_path: Path, parts: tuple[Path, list[Path]]
) -> None:
    runner = CliRunner()
    asked = [*map(str, copied), "--output", str(tmp_path / "whole")]
    first = runner.invoke(app, ["score", *asked])
    assert first.exit_code == 0, first.output
    assert "ledger" in first.output
    shutil.move(tmp_path, tmp_path.with_name("moved"))  # with its parts beside it
    whole = str(tmp_path.with_name("moved") / "whole")
    again = runner.invoke(app, ["score", whole, "--json"])
    assert again.exit_code == 0, again.output
    assert orjson.loads(again.output) == orjson.loads((parts[0] / "score.json").read_bytes())
    for command in (["report", whole], ["export", whole], ["compare", str(parts[0]), whole]):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    curve = runner.invoke(app, ["score", whole, "--threshold", "0.5"])
    assert curve.exit_code == 0, curve.output


# --- what does not belong together ---------------------------------------------------------------


def test_a_missing_part_is_named_and_refused(copied: list[Path], tmp_path: Path) -> None:
    said = refusal([copied[0], copied[2]])
    lacking = len(merged.load(copied[1]).cameras)
    assert said.startswith(f"{lacking} of 9 cameras are in none of these folders (missing: 1/3)")
    assert "--partial" in said
    with pytest.raises(UsageError):
        rescore([copied[0], copied[2]], output=tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_what_is_there_can_be_scored_and_says_what_it_lacks(
    copied: list[Path], tmp_path: Path
) -> None:
    two = [copied[0], copied[2]]
    result = rescore(two, output=tmp_path / "whole", partial=True)
    lacking = len(merged.load(copied[1]).cameras)
    assert result.warnings[0].startswith(f"partial: {lacking} of 9 cameras are in none")
    assert result.ledger.balanced
    assert result.ledger.scheduled == sum(len(merged.load(part).shots) for part in two)
    again = rescore(tmp_path / "whole")
    assert again == result


def test_one_folder_named_twice_is_refused(copied: list[Path]) -> None:
    again = copied[0].parent / "." / copied[0].name
    assert "named twice" in refusal([copied[0], again])


def test_two_parts_with_one_camera_are_refused_by_its_name(
    copied: list[Path], tmp_path: Path
) -> None:
    again = Path(shutil.copytree(copied[0], tmp_path / "again"))
    name = merged.load(again).cameras[0].id
    said = refusal([*copied, again])
    assert f"{again} and {copied[0]} both watched camera {name}" in said


def test_another_scenario_seed_or_duration_is_refused(copied: list[Path], tmp_path: Path) -> None:
    other = played(files(tmp_path), tmp_path / "other", (1, 3), seed=5)
    said = refusal([copied[0], other, copied[2]])
    assert f"{other} and {copied[0]} are not parts of one run: they play another scenario" in said


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("sampling", "idle"), 7.0, "sampling.idle 7.0 instead of 5.0"),
        (("alarm", "k"), 1, "alarm.k 1 instead of 2"),
        (("engine", "model"), "x\n\x1b[31m", r"engine.model x\\n\\x1b[31m instead of"),
    ],
)
def test_another_setting_is_refused_by_its_place(
    copied: list[Path], place: tuple[str, str], value: object, said: str
) -> None:
    edit(copied[1], lambda told: told["settings"][place[0]].update({place[1]: value}))
    assert said.replace("\\\\", "\\") in refusal(copied)


def test_another_model_or_speed_is_refused(copied: list[Path]) -> None:
    edit(copied[1], lambda told: told["engine"].update(model="other"))
    assert "used engine.model other instead of" in refusal(copied)
    edit(copied[2], lambda told: told.update(speed=2.0))
    assert "speed 2.0 instead of 1.0" in refusal([copied[0], copied[2]])


def test_parts_may_have_their_engines_in_different_places(copied: list[Path]) -> None:
    edit(copied[1], lambda told: told["settings"]["engine"].update(url="http://other:11434"))
    merged.whole(copied)


def test_a_whole_run_and_a_part_of_it_do_not_add_up(
    parts: tuple[Path, list[Path]],
) -> None:
    assert "one watched a fleet that others played" in refusal([parts[0], parts[1][0]])


def test_a_score_of_several_folders_is_no_part(copied: list[Path], tmp_path: Path) -> None:
    rescore(copied, output=tmp_path / "whole")
    assert "was scored from several folders itself" in refusal([tmp_path / "whole", copied[0]])


def test_several_folders_need_a_place_that_is_no_runs_own(copied: list[Path]) -> None:
    before = (copied[0] / "run.json").read_bytes()
    with pytest.raises(UsageError, match="name its folder with --output"):
        rescore(copied)
    with pytest.raises(UsageError, match="is the folder of a run itself"):
        rescore(copied, output=copied[0])
    assert (copied[0] / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "parts_told",
    [{}, {"folders": "x"}, {"folders": [3], "cameras": None, "partial": False}, 7, [1]],
)
def test_a_broken_list_of_parts_is_told_as_such(
    copied: list[Path], tmp_path: Path, parts_told: object
) -> None:
    rescore(copied, output=tmp_path / "whole")
    edit(tmp_path / "whole", lambda told: told.update(parts=parts_told))
    with pytest.raises((RunFolderError, UsageError)):
        merged.load(tmp_path / "whole")


@pytest.mark.parametrize(
    "part", [{}, {"of": "cameras"}, 3, {"of": "cameras", "name": "0/3", "digest": "x",
             "cameras": 9, "places": [99]}],
)  # fmt: skip
def test_a_broken_part_is_told_as_such(copied: list[Path], part: object) -> None:
    edit(copied[0], lambda told: told.update(part=part))
    with pytest.raises(RunFolderError, match=r"run\.json"):
        merged.whole(copied)


# --- parts that are not complete -----------------------------------------------------------------


def test_a_killed_part_is_scored_with_a_warning(copied: list[Path], tmp_path: Path) -> None:
    edit(copied[1], lambda told: told.update(complete=False))
    records = copied[1] / "records.jsonl"
    records.write_bytes(b"".join(records.read_bytes().splitlines(keepends=True)[:5]))
    result = rescore(copied, output=tmp_path / "whole")
    assert not result.complete
    assert result.ledger.balanced
    assert result.ledger.inferred > 0
    assert result.warnings[0] == f"parts that are not complete: {copied[1]}"


def test_a_killed_part_does_not_hide_what_a_complete_one_lost(
    copied: list[Path], tmp_path: Path
) -> None:
    edit(copied[1], lambda told: told.update(complete=False))
    records = copied[0] / "records.jsonl"
    lines = records.read_bytes().splitlines(keepends=True)
    frames = [line for line in lines if line.startswith(b'{"k":"frame"')]
    gone = next(f for f in frames if orjson.loads(f)["v"]["fate"] == "answered")
    records.write_bytes(b"".join(line for line in lines if line != gone))
    result = rescore(copied, output=tmp_path / "whole")
    key = orjson.loads(gone)["v"]
    assert any(
        "frames without a fate in parts that say they are complete: 1 "
        f"({key['camera']}/{key['seq']})" in text
        for text in result.warnings
    )
