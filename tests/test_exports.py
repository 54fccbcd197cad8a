"""Exports: flat tables that other tools read, and the schemas that real runs must fit."""

from __future__ import annotations

import csv
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pyarrow.parquet
import pytest

from earlyfire_stream.errors import UsageError
from earlyfire_stream.exports import ALARMS, FRAMES, export, schema, score_schema
from earlyfire_stream.records import AlarmRecord, FrameRecord, RunLog, Shot
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.operating import operating_curve
from earlyfire_stream.verdict import Alarm, Box, Fate, Reason, Verdict
from tests.playing import Nursery, camera, pictures, run_folder, scenario
from tests.scored_runs import SECOND, START_NS, one_camera

SMOKE = Box(0.5, 0.4, 0.25, 0.125)


def a_fire(text: str = "", name: str = "north") -> RunLog:
    """Four frames a minute apart; smoke from 60 s on, seen at 120 s; the last one lost."""
    said = [
        Verdict(False, None, 0.25),
        Verdict(False),
        Verdict(True, SMOKE, 0.75, ("fences",)),
        None,
    ]
    log = one_camera(said, onset=60.0, boxes={1: SMOKE, 2: SMOKE, 3: SMOKE})
    frames = list(log.frames)
    told = frames[2].answer
    assert told is not None
    frames[2] = replace(frames[2], answer=replace(told, text=text))
    frames[3] = replace(frames[3], fate=Fate.LOST, reason=Reason.GAP, received_ns=None)
    completed = START_NS + 120 * SECOND
    alarm = AlarmRecord(
        Alarm(name, (2,), 120.0, completed + SECOND, SMOKE, 0.75), True, completed + 2 * SECOND
    )
    return replace(
        log,
        cameras=[replace(plan, id=name) for plan in log.cameras],
        shots=[replace(shot, camera=name) for shot in log.shots],
        frames=[replace(frame, camera=name) for frame in frames],
        alarms=[alarm],
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- what stands in them -------------------------------------------------------------------------


def test_csv_holds_a_row_a_frame_and_a_row_an_alarm(tmp_path: Path) -> None:
    written = export(a_fire("smoke above the ridge"), "csv", tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["frames.csv", "alarms.csv"]
    frames = rows(written[0])
    assert list(frames[0]) == [column.name for column in FRAMES]
    assert [f["fate"] for f in frames] == ["answered", "answered", "answered", "lost"]
    seen = frames[2]
    assert (seen["camera"], seen["seq"], seen["captured_at_s"]) == ("north", "2", "120.0")
    assert (seen["truth_smoke"], seen["truth_fires"], seen["truth_xc"]) == ("true", "f1", "0.5")
    assert (seen["smoke"], seen["confidence"], seen["box_w"]) == ("true", "0.75", "0.25")
    assert (seen["latency_s"], seen["sent_width_px"], seen["repairs"]) == ("1.0", "1280", "fences")
    assert seen["text"] == "smoke above the ridge"
    assert frames[0]["truth_smoke"] == "false"
    assert frames[1]["confidence"] == ""
    assert (frames[3]["reason"], frames[3]["received_ns"], frames[3]["smoke"]) == ("gap", "", "")
    (alarm,) = rows(written[1])
    assert list(alarm) == [column.name for column in ALARMS]
    assert (alarm["kind"], alarm["seqs"], alarm["delay_s"], alarm["emitted"]) == (
        "true", "2", "2.0", "true",
    )  # fmt: skip


def test_parquet_holds_the_same_with_types_and_meanings(tmp_path: Path) -> None:
    frames, alarms = export(a_fire("=1+1"), "parquet", tmp_path)
    table = pyarrow.parquet.read_table(frames)
    assert table.column_names == [column.name for column in FRAMES]
    assert table.column("seq").to_pylist() == [0, 1, 2, 3]
    assert table.column("confidence").to_pylist() == [0.25, None, 0.75, None]
    assert table.column("truth_smoke").to_pylist() == [False, True, True, True]
    assert table.column("text").to_pylist()[2] == "=1+1"  # no spreadsheet reads parquet
    meaning = table.schema.field("latency_s").metadata[b"description"].decode()
    assert meaning == "Answered − captured, wall seconds."
    assert pyarrow.parquet.read_table(alarms).column("kind").to_pylist() == ["true"]


def test_a_run_without_anything_exports_the_headings(tmp_path: Path) -> None:
    empty = replace(a_fire(), cameras=(), shots=(), frames=(), alarms=())
    frames, alarms = export(empty, "csv", tmp_path)
    assert rows(frames) == rows(alarms) == []
    frames, alarms = export(empty, "parquet", tmp_path)
    assert pyarrow.parquet.read_table(frames).num_rows == 0


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "＝"])
def test_a_models_words_are_no_formula_in_a_spreadsheet(tmp_path: Path, first: str) -> None:
    text = f'{first}HYPERLINK("http://evil.example","smoke")'
    frames, _ = export(a_fire(text), "csv", tmp_path)
    assert rows(frames)[2]["text"] == f"'{text}"


def test_a_cameras_name_is_no_formula_either_and_nul_is_left_out(tmp_path: Path) -> None:
    frames, alarms = export(a_fire("a\0b", name="@SUM(A1)"), "csv", tmp_path)
    assert rows(frames)[2]["text"] == "ab"
    assert rows(frames)[0]["camera"] == rows(alarms)[0]["camera"] == "'@SUM(A1)"


def test_numbers_below_zero_stay_numbers(tmp_path: Path) -> None:
    log = a_fire()
    early = [replace(shot, late_s=-0.5) for shot in log.shots]
    frames, _ = export(replace(log, shots=early), "csv", tmp_path)
    assert rows(frames)[0]["late_s"] == "-0.5"


# --- bad weather ---------------------------------------------------------------------------------


def test_without_pyarrow_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'earlyfire-stream\[parquet\]'"):
        export(a_fire(), "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file.*cannot be written.*--output"):
        export(a_fire(), "csv", tmp_path / "file")


def test_an_export_that_fails_leaves_the_one_before_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(a_fire("first"), "csv", tmp_path)

    def full(*_: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("earlyfire_stream.exports._csv_cell", full)
    with pytest.raises(UsageError, match="No space left on device"):
        export(a_fire("second"), "csv", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alarms.csv", "frames.csv"]
    assert rows(tmp_path / "frames.csv")[2]["text"] == "first"


# --- schemas -------------------------------------------------------------------------------------


def fits(data: object, form: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(form)
    jsonschema.Draft202012Validator(form).validate(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Path:
    """The folder of a real run of one camera with a fire."""
    home = tmp_path_factory.mktemp("exported")
    pictures(home / "pictures", 20)
    scenario(home, camera("north", fires=[{"id": "f", "onset": "1s"}]), clock="virtual")
    code, command = nursery.run("run", "tiny.yaml", cwd=home)
    assert code == 0, command.err
    return run_folder(home / "runs")


def test_the_score_and_every_line_of_a_real_run_fit_their_schemas(finished: Path) -> None:
    fits(orjson.loads((finished / "score.json").read_bytes()), score_schema())
    form = schema()
    for log in ("cameras.jsonl", "records.jsonl"):
        lines = (finished / log).read_bytes().splitlines()
        assert lines
        for line in lines:
            fits(orjson.loads(line), form)


def test_scores_of_all_sorts_fit_the_schema() -> None:
    whole = score(a_fire())
    told = whole.to_json()
    told["operating_curve"] = [p.to_json() for p in operating_curve(a_fire(), (0.5,))]
    fits(orjson.loads(orjson.dumps(told)), score_schema())
    empty = replace(a_fire(), cameras=(), shots=(), frames=(), alarms=(), complete=False)
    fits(orjson.loads(orjson.dumps(score(empty).to_json())), score_schema())


def test_what_is_no_score_does_not_fit() -> None:
    told = orjson.loads(orjson.dumps(score(a_fire()).to_json()))
    for wrong in ({"early_fire_score": 101}, {"colour": "red"}, {"terms": {"D": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            fits(told | wrong, score_schema())


def test_every_field_of_the_log_stands_in_the_schema() -> None:
    known = schema()["$defs"]
    for record in (Shot, FrameRecord, AlarmRecord):
        assert set(known[record.__name__]["properties"]) == {f.name for f in fields(record)}
    late = known["Shot"]["properties"]["late_s"]["description"]
    assert late.startswith("Wall seconds between the instant it was due")


def test_exported_rows_fit_their_schema(tmp_path: Path) -> None:
    form = schema()
    for path, name in zip(export(a_fire(), "parquet", tmp_path), ("frames", "alarms"), strict=True):
        for row in pyarrow.parquet.read_table(path).to_pylist():
            fits(row, {"$ref": f"#/$defs/{name}_row", "$defs": form["$defs"]})


# --- the command ---------------------------------------------------------------------------------


def test_the_command_exports_a_real_run(nursery: Nursery, finished: Path, tmp_path: Path) -> None:
    code, command = nursery.run("export", finished, "-o", tmp_path / "out", cwd=tmp_path)
    assert code == 0, command.err
    assert len(rows(tmp_path / "out" / "frames.csv")) == 20
    assert "frames.csv" in command.out

    code, command = nursery.run("export", finished, "--format", "xlsx", cwd=tmp_path)
    assert code == 2
    assert "csv or parquet" in command.err


def test_the_commands_print_their_schemas(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("score", "--schema", cwd=tmp_path)
    assert code == 0, command.err
    assert orjson.loads(command.out) == score_schema()
    code, command = nursery.run("export", "--schema", cwd=tmp_path)
    assert code == 0, command.err
    assert orjson.loads(command.out) == schema()
