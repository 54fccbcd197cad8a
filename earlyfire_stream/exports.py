"""A run as flat tables for other people's tools: one row a frame, one row an alarm.

Columns and their units stand in `FRAMES` and `ALARMS`; `schema()` tells them as JSON Schema, beside
that of the log's own lines. What a model or a camera wrote stays text: a cell of a CSV file that a
spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

__all__ = ["ALARMS", "FRAMES", "Column", "export", "parse_format", "schema", "score_schema"]

import ast
import contextlib
import csv
import functools
import importlib.resources
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter

from earlyfire_stream import records, verdict
from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import (
    AlarmRecord,
    Explanation,
    FrameRecord,
    RunLog,
    Shot,
)
from earlyfire_stream.scoring.detection import alarm_kind
from earlyfire_stream.scoring.footage import Footage, FrameOutcome, footage
from earlyfire_stream.verdict import Box

Format = Literal["csv", "parquet"]
Cell = str | int | float | bool | None
Kind = Literal["text", "integer", "number", "boolean"]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a spreadsheet may take a cell for a formula by (OWASP, CSV injection)."""
ROWS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Column:
    """One column; any cell may be empty."""

    name: str
    kind: Kind
    meaning: str


def _columns(kind: Kind, /, **meanings: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind, meaning) for name, meaning in meanings.items())


BOX = "as a fraction of the frame, origin top left"
FRAMES: tuple[Column, ...] = (
    *_columns("text", camera="The camera's name."),
    *_columns("integer", seq="Its number of the frame, from 0."),
    *_columns("number", captured_at_s="Capture, scenario seconds from the start."),
    *_columns("integer", captured_ns="Capture, wall nanoseconds since 1970."),
    *_columns(
        "text",
        fate="What became of it: answered, sampled_out, lost, …",
        reason="Why, where the fate alone does not say it.",
        detail="More about it, in words.",
        identity="Hash of the picture.",
    ),
    *_columns("integer", size_bytes="Of the JPEG."),
    *_columns("number", late_s="Wall seconds from the instant it was due to its sending."),
    *_columns("boolean", truth_smoke="Is smoke to be seen? Empty where nobody knows."),
    *_columns("text", truth_fires="The fires to be seen, with ; between."),
    *_columns("integer", truth_boxes="How many boxes the truth has."),
    *_columns(
        "number",
        truth_xc=f"Centre of the first, {BOX}.",
        truth_yc=f"Centre of the first, {BOX}.",
        truth_w="Its width.",
        truth_h="Its height.",
    ),
    *_columns("boolean", admitted="Sampling wanted it."),
    *_columns(
        "integer",
        published_ns="Sent, wall nanoseconds since 1970.",
        received_ns="Received.",
        started_ns="Request begun.",
        decided_ns="The token that settles has_smoke was there.",
        answered_ns="The whole answer was there.",
    ),
    *_columns("number", latency_s="Answered − captured, wall seconds."),
    *_columns(
        "integer",
        sent_width_px="Of the picture that the engine got.",
        sent_height_px="Of the picture that the engine got.",
        visual_tokens="Of the request.",
        prompt_tokens="Of the request.",
        output_tokens="Of the answer.",
    ),
    *_columns("text", finish="Why the answer ended."),
    *_columns("boolean", smoke="The verdict, as the engine gave it."),
    *_columns("number", confidence="P(smoke), 0 to 1."),
    *_columns(
        "number",
        box_xc=f"Centre of the predicted box, {BOX}.",
        box_yc=f"Centre of the predicted box, {BOX}.",
        box_w="Its width.",
        box_h="Its height.",
    ),
    *_columns(
        "text",
        repairs="What the parser mended, with ; between.",
        box_error="Why the box could not be used.",
        text="The reply: a model's words.",
    ),
)
ALARMS: tuple[Column, ...] = (
    *_columns("text", camera="The camera's name."),
    *_columns("integer", seq="The frame that completed it."),
    *_columns("text", seqs="All confirming frames, oldest first, with ; between."),
    *_columns("number", completed_at_s="Capture of the completing frame, scenario seconds."),
    *_columns(
        "integer",
        captured_ns="The same, wall nanoseconds since 1970.",
        decided_ns="Its verdict was decided.",
        alarmed_ns="The alarm was handed on.",
    ),
    *_columns("number", delay_s="Handed on − captured, wall seconds."),
    *_columns("boolean", emitted="False inside the repeat time of the alarm before."),
    *_columns("text", kind="true, false, unlocated (beside the smoke), late or unknown."),
    *_columns("number", confidence="P(smoke) of the completing frame, 0 to 1."),
    *_columns(
        "number",
        box_xc=f"Centre of the box, {BOX}.",
        box_yc=f"Centre of the box, {BOX}.",
        box_w="Its width.",
        box_h="Its height.",
    ),
)


def parse_format(text: str) -> Format:
    """UsageError for anything but csv and parquet."""
    if text == "csv":
        return "csv"
    if text == "parquet":
        return "parquet"
    raise UsageError(f"--format {text!r}: write csv or parquet")


def export(log: RunLog, format: Format, out: Path) -> tuple[Path, ...]:
    """Write `frames` and `alarms` into a folder; each file whole or not at all.

    Files of an earlier export are replaced. UsageError where nothing can be written, and for
    parquet without the package that writes it.
    """
    write = _write_csv if format == "csv" else _parquet_writer()
    cameras = footage(log)
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, columns, rows in (
            ("frames", FRAMES, _frame_rows(cameras)),
            ("alarms", ALARMS, _alarm_rows(log.alarms, cameras)),
        ):
            path = out / f"{name}.{format}"
            temporary = path.with_name(f".{path.name}.tmp")
            try:
                write(temporary, columns, rows)
                temporary.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            written.append(path)
    except OSError as why:
        raise UsageError(
            f"{why.filename or out}: cannot be written: {why.strerror or why}; choose another "
            "folder with --output"
        ) from why
    return tuple(written)


# --- rows ----------------------------------------------------------------------------------------

Row = tuple[Cell, ...]


def _frame_rows(cameras: Iterable[Footage]) -> Iterator[Row]:
    for camera in cameras:
        for frame in camera.frames:
            yield _frame_row(frame)


def _frame_row(frame: FrameOutcome) -> Row:
    shot, record = frame.shot, frame.record
    answer = record.answer if record is not None else None
    said = answer.verdict if answer is not None else None
    boxes = [t.box for t in frame.truth if t.box is not None]
    reason = shot.unsent or (record.reason if record is not None else "")
    return (
        shot.camera,
        shot.seq,
        shot.captured_at,
        shot.captured_ns,
        frame.fate.value,
        str(reason),
        record.detail if record is not None else "",
        shot.identity or (record.identity if record is not None else ""),
        shot.size_bytes or None,
        shot.late_s,
        frame.smoke,
        ";".join(t.fire for t in frame.truth),
        len(boxes),
        *_box_cells(boxes[0] if boxes else None),
        record.admitted if record is not None else None,
        record.published_ns if record is not None else None,
        record.received_ns if record is not None else None,
        *(
            (None,) * 11
            if answer is None
            else (
                answer.started_ns,
                answer.decided_ns,
                answer.answered_ns,
                (answer.answered_ns - shot.captured_ns) / 1e9,
                *answer.sent_size,
                answer.visual_tokens,
                answer.prompt_tokens,
                answer.output_tokens,
                answer.finish,
                None if said is None else said.has_smoke,
            )
        ),
        None if said is None else said.confidence,
        *_box_cells(None if said is None else said.box),
        "" if said is None else ";".join(said.repairs),
        "" if answer is None else answer.box_error,
        "" if answer is None else answer.text,
    )


def _box_cells(box: Box | None) -> Sequence[float | None]:
    return (None,) * 4 if box is None else (box.xc, box.yc, box.w, box.h)


def _alarm_rows(alarms: Iterable[AlarmRecord], cameras: Iterable[Footage]) -> Iterator[Row]:
    by_name = {camera.plan.id: camera for camera in cameras}
    frames: dict[str, dict[int, FrameOutcome]] = {}
    for record in alarms:
        alarm = record.alarm
        seq = alarm.seqs[-1]
        one = by_name.get(alarm.camera)
        if one is not None and alarm.camera not in frames:
            frames[alarm.camera] = {f.seq: f for f in one.frames}
        frame = frames.get(alarm.camera, {}).get(seq)
        kind, captured_ns = "unknown", None
        if one is not None and frame is not None:
            found = alarm_kind(one, frame)
            kind = "late" if found is None else found.value
            captured_ns = frame.shot.captured_ns
        yield (
            alarm.camera,
            seq,
            ";".join(map(str, alarm.seqs)),
            alarm.completed_at,
            captured_ns,
            alarm.decided_ns,
            record.alarmed_ns,
            None if captured_ns is None else (record.alarmed_ns - captured_ns) / 1e9,
            record.emitted,
            kind,
            alarm.confidence,
            *_box_cells(alarm.box),
        )


# --- files ---------------------------------------------------------------------------------------


def _write_csv(path: Path, columns: Sequence[Column], rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in columns)
        writer.writerows([_csv_cell(cell) for cell in row] for row in rows)


def _csv_cell(cell: Cell) -> Cell:
    """`true` and `false` for booleans; a stranger's text without NUL, and never a formula."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, str):
        text = cell.replace("\0", "")
        return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text
    return cell


Writer = Callable[[Path, Sequence[Column], Iterable[Row]], None]


def _parquet_writer() -> Writer:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(
            "parquet needs pyarrow: pip install 'earlyfire-stream[parquet]'; or --format csv"
        ) from None
    kinds = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
    }

    def write(path: Path, columns: Sequence[Column], rows: Iterable[Row]) -> None:
        shape = pyarrow.schema(
            [
                pyarrow.field(c.name, kinds[c.kind], metadata={"description": c.meaning})
                for c in columns
            ]
        )
        left = iter(rows)
        with pyarrow.parquet.ParquetWriter(path, shape, compression="zstd") as file:
            while batch := list(islice(left, ROWS_AT_ONCE)):
                arrays = [
                    pyarrow.array(cells, field.type)
                    for cells, field in zip(zip(*batch, strict=True), shape, strict=True)
                ]
                file.write_table(pyarrow.Table.from_arrays(arrays, schema=shape))

    return write


# --- what the files hold -------------------------------------------------------------------------

_JSON_TYPES: Mapping[Kind, str] = {
    "text": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
}


def schema() -> dict[str, Any]:
    """JSON Schema: `$defs/line` is one line of records.jsonl and cameras.jsonl, `$defs/frames_row`
    and `$defs/alarms_row` one row of each export."""
    kinds: Mapping[str, type] = {
        "shot": Shot,
        "frame": FrameRecord,
        "alarm": AlarmRecord,
        "explanation": Explanation,
    }
    shared: dict[str, Any] = {}
    lines = []
    for kind, record in kinds.items():
        told = TypeAdapter(record).json_schema(mode="serialization", ref_template="#/$defs/{model}")
        shared |= told.pop("$defs", {})
        shared[record.__name__] = told
        lines.append(_line(kind, {"$ref": f"#/$defs/{record.__name__}"}))
    for name, told in shared.items():
        for field_name, meaning in _meanings().get(name, {}).items():
            told["properties"][field_name]["description"] = meaning
    note = {
        "type": "object",
        "required": ["what", "wall_ns"],
        "properties": {"what": {"type": "string"}, "wall_ns": {"type": "integer"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The logs of a run folder, and its exports",
        "$ref": "#/$defs/line",
        "$defs": {
            **shared,
            "line": {"oneOf": [*lines, _line("note", note)]},
            "frames_row": _row_schema(FRAMES),
            "alarms_row": _row_schema(ALARMS),
        },
    }


@functools.cache
def _meanings() -> Mapping[str, Mapping[str, str]]:
    """The texts below the fields of the record classes: class → field → text."""
    found: dict[str, dict[str, str]] = {}
    for module in (records, verdict):
        for item in ast.parse(inspect.getsource(module)).body:
            if isinstance(item, ast.ClassDef):
                found[item.name] = {
                    before.target.id: inspect.cleandoc(after.value.value)
                    for before, after in pairwise(item.body)
                    if isinstance(before, ast.AnnAssign)
                    and isinstance(before.target, ast.Name)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                    and isinstance(after.value.value, str)
                }
    return found


def _line(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["k", "v"],
        "additionalProperties": False,
        "properties": {"k": {"const": kind}, "v": value},
    }


def _row_schema(columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [c.name for c in columns],
        "additionalProperties": False,
        "properties": {
            c.name: {"type": [_JSON_TYPES[c.kind], "null"], "description": c.meaning}
            for c in columns
        },
    }


@functools.cache
def score_schema() -> Mapping[str, Any]:
    """JSON Schema of score.json."""
    text = importlib.resources.files("earlyfire_stream.scoring").joinpath("score.schema.json")
    loaded: Mapping[str, Any] = orjson.loads(text.read_bytes())
    return loaded
