"""`python -m tests.scale`: what it takes to score a run of one million frames, and to compare two.

A run folder as a fleet of 200 cameras leaves it is written into a temporary folder, its logs by the
logs' own writer, and scored in a process of its own. Beside it stands what merely parsing every
line of the same files with orjson takes, in the same run: ratios travel better than figures.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson

from earlyfire_stream.records import (
    CAMERAS_LOG,
    RECORDS_LOG,
    RUN_FILE,
    Answer,
    FrameRecord,
    Log,
    Shot,
    load,
    write_json,
)
from earlyfire_stream.report import comparison_page
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.compare import Side, compare
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict

FRAMES = 1_000_000
CAMERAS = 200
CADENCE_S = 10.0
START_NS = 1_700_000_000_000_000_000
OTHERS = [
    (0.40, Fate.SAMPLED_OUT, Reason.IDLE),
    (0.12, Fate.SAMPLED_OUT, Reason.LOAD),
    (0.10, Fate.SUPERSEDED, Reason.NEWER),
    (0.02, Fate.EXPIRED, Reason.NONE),
    (0.01, Fate.LOST, Reason.GAP),
    (0.01, Fate.BAD_JSON, Reason.NOT_JSON),
    (0.01, Fate.ENGINE_ERROR, Reason.TIMEOUT),
    (0.33, Fate.ANSWERED, Reason.NONE),
]
"""Shares of fates; about what an engine leaves that keeps up with a third of its frames."""


def write_run(folder: Path, frames: int, cameras: int = CAMERAS, seed: int = 4) -> None:
    """A complete run folder; every tenth camera sees a fire in the middle of its frames.

    Another seed is another engine over the same frames.
    """
    folder.mkdir(parents=True)
    each = frames // cameras
    fires = dict.fromkeys(range(0, cameras, 10), each // 2 * CADENCE_S)
    write_json(
        folder / RUN_FILE,
        {
            "schema": 1,
            "digest": "scale",
            "complete": True,
            "speed": 1.0,
            "played_s": each * CADENCE_S,
            "engine": {"name": "scale", "model": str(seed)},
            "settings": {"alarm": {"k": 1, "n": 1}},
            "cameras": [
                {
                    "id": f"camera-{c:03}",
                    "fires": [{"id": f"fire-{c:03}", "onset": fires[c], "end": None}]
                    if c in fires
                    else [],
                    "cadence_s": CADENCE_S,
                    "truth": True,
                    "ignore": [],
                    "outages": [],
                }
                for c in range(cameras)
            ],
        },
    )
    asyncio.run(_write_logs(folder, each, cameras, fires, seed))


async def _write_logs(
    folder: Path, each: int, cameras: int, fires: dict[int, float], seed: int
) -> None:
    async with Log(folder / CAMERAS_LOG) as shots, Log(folder / RECORDS_LOG) as records:
        for number, (shot, record) in enumerate(_played(each, cameras, fires, seed)):
            shots.write(shot)
            records.write(record)
            if number % 20_000 == 0:
                shots._flush()
                records._flush()


def _played(
    each: int, cameras: int, fires: dict[int, float], seed: int
) -> Iterator[tuple[Shot, FrameRecord]]:
    rng, pictures = np.random.default_rng(seed), np.random.default_rng(0)
    shares = [share for share, _, _ in OTHERS]
    for seq in range(each):
        at = seq * CADENCE_S
        chosen = rng.choice(len(OTHERS), size=cameras, p=shares)
        sure = rng.random(cameras)
        late = rng.exponential(0.8, cameras) + 0.2
        names = [pictures.bytes(16).hex() for _ in range(cameras)]
        for c in range(cameras):
            name = f"camera-{c:03}"
            smoke = c in fires and at >= fires[c]
            captured_ns = START_NS + round(at * 1e9) + c * 1000
            box = Box(0.5, 0.4, 0.1, 0.1)
            truth = (Truth(f"fire-{c:03}", box),) if smoke else ()
            shot = Shot(
                name, seq, at, captured_ns, 0.001 * float(sure[c]), Reason.NONE, names[c], 93_000,
                smoke, truth, True,
            )  # fmt: skip
            _, fate, reason = OTHERS[chosen[c]]
            yield (
                shot,
                FrameRecord(
                    name,
                    seq,
                    at,
                    captured_ns,
                    fate,
                    reason,
                    received_ns=None if fate is Fate.LOST else captured_ns + 4_000_000,
                    published_ns=captured_ns + 1_000_000,
                    admitted=fate not in (Fate.LOST, Fate.SAMPLED_OUT),
                    identity=names[c],
                    answer=_answer(fate, captured_ns, smoke, float(sure[c]), float(late[c])),
                ),
            )


def _answer(fate: Fate, captured_ns: int, smoke: bool, sure: float, late_s: float) -> Answer | None:
    if fate not in (Fate.ANSWERED, Fate.BAD_JSON, Fate.ENGINE_ERROR):
        return None
    told = None
    text = "I see a mountain."
    if fate is Fate.ANSWERED:
        claimed = sure < 0.7 if smoke else sure < 0.002
        box = Box(0.45 + 0.1 * sure, 0.4, 0.1, 0.1) if claimed else None
        told = Verdict(claimed, box, round(0.5 + sure / 2 if claimed else sure / 2, 6))
        text = orjson.dumps({"has_smoke": claimed, "bbox": box}).decode()
    answered_ns = captured_ns + round(late_s * 1e9)
    return Answer(
        started_ns=answered_ns - 150_000_000,
        decided_ns=answered_ns - 20_000_000,
        answered_ns=answered_ns,
        sent_size=(644, 364),
        visual_tokens=299,
        prompt_tokens=420,
        output_tokens=17,
        finish="stop",
        text=text,
        verdict=told,
        server={"prompt_s": 0.08, "generate_s": 0.05, "queue_s": 0.002},
    )


# --- measuring -----------------------------------------------------------------------------------


def parse_only(folder: Path) -> str:
    """Every line of both logs through orjson, nothing kept."""
    count = 0
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in io.BufferedReader(file, 1 << 20):
                orjson.loads(line)
                count += 1
    return f"{count:,} lines"


def load_only(folder: Path) -> str:
    log = load(folder)
    return f"{len(log.shots):,} shots, {len(log.frames):,} fates"


def load_and_score(folder: Path) -> str:
    result = score(load(folder))
    assert result.ledger.balanced
    efs, found = result.early_fire_score, sum(v.parts is not None for v in result.fires)
    return f"EFS {efs}, {found} of {len(result.fires)} views, {result.answers.valid:,} answers"


def compare_two(folder: Path) -> str:
    """As `earlyfire compare`, its page included."""
    names = (folder, _other(folder))
    found = compare([Side((name.name,), (load(name),)) for name in names])
    page = comparison_page.write(folder / comparison_page.COMPARISON_FILE, found)
    (against,) = found.against
    assert against.frames.n
    return f"{against.frames.n:,} frames in common, page of {page.stat().st_size / 1000:.0f} kB"


def _other(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-other")


def _measured(what: Callable[[Path], str], folder: Path, told: object) -> None:
    """In a child: its own time, its children's included, and its own peak memory."""
    wall = time.perf_counter()
    said = what(folder)
    wall = time.perf_counter() - wall
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(u.ru_utime + u.ru_stime for u in used)
    peak_mb, beside_mb = (u.ru_maxrss / 1024 for u in used)
    if beside_mb:  # it has ended before the objects of scoring are made, so they do not add up
        said += f"; {beside_mb:.0f} MB in a second process while the logs are read"
    told.send((wall, cpu, peak_mb, said))  # type: ignore[attr-defined]


def measure(what: Callable[[Path], str], folder: Path) -> tuple[float, float, float, str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_measured, args=(what, folder, there))
    child.start()
    there.close()
    try:
        found: tuple[float, float, float, str] = here.recv()
    finally:
        child.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--keep", type=Path, help="write both here, or use those that are")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary) / "run"
        for place, seed in ((folder, 4), (_other(folder), 5)):
            if not place.exists():
                write_run(place, chosen.frames, seed=seed)
        size = sum(p.stat().st_size for p in folder.glob("*.jsonl*"))
        print(f"{chosen.frames:,} frames, {size / 1e6:,.0f} MB on disk")
        print(f"{'':<16}{'wall s':>8}{'CPU s':>8}{'ratio':>8}{'peak MB':>9}")
        bare = 0.0
        for what in (parse_only, load_only, load_and_score, compare_two):
            wall, cpu, peak_mb, said = measure(what, folder)
            bare = bare or cpu
            name = what.__name__.replace("_", " ")
            print(f"{name:<16}{wall:8.1f}{cpu:8.1f}{cpu / bare:8.2f}{peak_mb:9.0f}  {said}")


if __name__ == "__main__":
    main()
