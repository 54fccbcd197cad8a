"""The five blocks of the benchmark: which runs each one takes, and what it says of them.

A block is a suite of runs of one shipped scenario, or of the user's own footage with the block's
settings. All engines see the same frames. Engines of this process play in virtual time, those with
a server in wall time. Every finished run is noted in the bench's folder, so that an interrupted
bench goes on where it was; the figures are read from the run folders alone.
"""

from __future__ import annotations

__all__ = [
    "BLOCKS",
    "Cell",
    "Job",
    "Ledger",
    "Plan",
    "details",
    "jobs",
    "measure",
    "overview",
    "parse_blocks",
    "play_all",
]

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import orjson
from rich.table import Table

from earlyfire_stream.bench import engine_options, sampling_options
from earlyfire_stream.errors import RunFolderError, SourceError, UsageError
from earlyfire_stream.frames import Frame, parse
from earlyfire_stream.records import RunLog, load, read_run, write_json
from earlyfire_stream.reel import Shelf
from earlyfire_stream.run import Options, Outcome
from earlyfire_stream.scenario import catalogue
from earlyfire_stream.scenario.fleet import expand
from earlyfire_stream.scenario.load import Loaded, digest, resolved, with_overrides
from earlyfire_stream.scenario.load import load as load_scenario
from earlyfire_stream.scenario.models import Camera, Perturb, Scenario
from earlyfire_stream.scoring import Score, score
from earlyfire_stream.scoring.footage import footage
from earlyfire_stream.scoring.pace import Pace, pace
from earlyfire_stream.scoring.pairs import Pairs, pairs
from earlyfire_stream.scoring.resolution import calibration
from earlyfire_stream.scoring.smoke_size import SizeBin, by_size
from earlyfire_stream.scoring.statistics import wilson_interval
from earlyfire_stream.sources.open import open_source

BLOCKS = ("calibration", "early", "localization", "robustness", "explainability")
HEIGHTS = (480, 720, 1080, 1440, 2160)
"""The specification's range, by the usual sizes within it."""
MIN_IDLE_S = 3.0
"""The specification's N: one frame every N seconds, N >= 3."""
IDLE_S = 5.0
GRADES = ("mild", "medium", "severe")
STRENGTHS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "shake": ({"shake_px": 1}, {"shake_px": 3}, {"shake_px": 8}),
    "motion blur": ({"blur_px": 3}, {"blur_px": 8}, {"blur_px": 20}),
    "haze": ({"haze": 0.2}, {"haze": 0.4}, {"haze": 0.7}),
    "rain": ({"rain": 0.2}, {"rain": 0.5}, {"rain": 0.9}),
    "night noise": ({"night_noise": 0.2}, {"night_noise": 0.5}, {"night_noise": 0.9}),
    "JPEG": ({"quality": 50}, {"quality": 25}, {"quality": 10}),
}
"""Settings of `perturb:` by strength; pixels at 1280 wide."""
OWN_TIME = ("baseline", "simulated", "recorded")
"""Engines of this process: they play in virtual time."""
NOT_FOR: Mapping[str, Mapping[str, str]] = {
    "explainability": {
        "baseline": "a detector gives no reasons",
        "simulated": "a model of a model gives no reasons",
    },
    "robustness": {"simulated": "it answers from the truth, which nothing perturbs"},
}
"""Blocks that say nothing of an engine, and why."""
WHOLE_FRAMES = {
    "baseline": "it compares whole frames of one view",
    "recorded": "only whole frames were recorded",
}
STATE_FILE = "state.json"
RESULT_FILE = "bench.json"
SCHEMA = 1


def parse_blocks(text: str) -> tuple[str, ...]:
    """`all`, one block, or several with commas; UsageError names the known ones."""
    if text.strip() == "all":
        return BLOCKS
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"--block: name one of {', '.join(BLOCKS)}, or all")
    for name in names:
        if name not in BLOCKS:
            raise UsageError(f"--block: {name!r} is not known; one of {', '.join(BLOCKS)}, or all")
    return names


# --- which runs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """One run. Its key names it in the bench's state."""

    block: str
    part: str
    engine: str
    loaded: Loaded

    @property
    def key(self) -> str:
        return f"{self.block}/{self.part}/{self.engine}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All runs of a bench in the order in which they are played, and what is not played and why."""

    jobs: tuple[Job, ...]
    left_out: Mapping[tuple[str, str], str]
    """(block, engine) -> why it is not played at all."""
    notes: tuple[str, ...]
    """What was left out of a block, in words."""


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    loaded: Loaded
    refused: Mapping[str, str] = field(default_factory=dict)
    """Engines that cannot play it, with the reason."""


def jobs(
    blocks: Sequence[str],
    engines: Sequence[str],
    data: Loaded | None = None,
    settings: Sequence[str] = (),
    **overrides: Any,
) -> Plan:
    """`engines` are written `ollama:qwen2.5vl:7b`; `data` is a user's own footage."""
    made: list[Job] = []
    left_out: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    for block in blocks:
        for part in _parts(block, data, notes):
            for engine in engines:
                name = engine.partition(":")[0]
                if name in part.refused or name in NOT_FOR.get(block, {}):
                    continue
                made.append(
                    Job(block, part.name, engine, _asked(part, engine, settings, overrides))
                )
        for engine in engines:
            if not any(job.block == block and job.engine == engine for job in made):
                name = engine.partition(":")[0]
                reasons = NOT_FOR.get(block, {})
                left_out[block, engine] = reasons.get(name, "no footage that it could be shown")
    return Plan(tuple(made), left_out, tuple(notes))


def _asked(
    part: _Part, engine: str, settings: Sequence[str], overrides: Mapping[str, Any]
) -> Loaded:
    options = engine_options(engine)
    clock = "virtual" if options["engine"] in OWN_TIME else "wall"
    scenario = with_overrides(part.loaded.scenario, settings, **options, clock=clock, **overrides)
    return replace(part.loaded, scenario=scenario)


def _parts(block: str, data: Loaded | None, notes: list[str]) -> list[_Part]:
    suite = load_scenario(catalogue.find(f"bench-{block}"))
    shown = suite if data is None else _with_footage(suite, data)
    match block:
        case "calibration":
            if data is not None:
                shown = _in_heights(shown, notes)
            return [_Part("heights", shown)] if shown.scenario.cameras else []
        case "early":
            idle_s = IDLE_S if data is None else max(IDLE_S, _usual_gap_s(shown))
            return [
                _Part(text, _changed(shown, **sampling_options(text), slowest=max(60, 6 * idle_s)))
                for text in _samplings(idle_s)
            ]
        case "localization":
            return [
                _Part("one look", shown),
                _Part("second look", _changed(shown, second_look=True), WHOLE_FRAMES),
            ]
        case "robustness":
            return [_Part("clean", shown), *_perturbed(shown)]
        case _:
            return [
                _Part("explained", _explaining(shown, "positives")),
                _Part("unexplained", _explaining(shown, "never")),
            ]


def _samplings(idle_s: float) -> list[str]:
    """From the dearest to the cheapest; 5 s: fixed:5s fixed:10s fixed:30s adaptive:10s …:30s."""
    fixed = [f"fixed:{n * idle_s:g}s" for n in (1, 2, 6)]
    return [*fixed, *(f"adaptive:{n * idle_s:g}s" for n in (2, 6))]


def _with_footage(suite: Loaded, data: Loaded) -> Loaded:
    """The suite's settings over the user's cameras; how they are played is theirs."""
    own = data.scenario
    if any(camera.source.kind == "stream" for camera in own.cameras):
        raise UsageError(
            f"{data.file}: a live camera shows nothing twice; a bench needs recordings"
        )
    if not any(camera.truth for camera in own.cameras):
        raise UsageError(f"{data.file}: no camera has a truth to measure against")
    # validated anew, so that the block's settings and the user's footage agree
    scenario = Scenario.model_validate(
        {
            **suite.scenario.model_dump(),
            "cameras": own.model_dump()["cameras"],
            "seed": own.seed,
            "duration": own.duration,
            "speed": own.speed,
            "budget": own.budget.model_dump(),
            "alarm": own.alarm.model_dump(),
            "engine": suite.scenario.engine.model_dump()
            | {"deadline": own.engine.deadline, "timeout": own.engine.timeout},
        }
    )
    return replace(data, scenario=scenario)


def _changed(loaded: Loaded, **sampling: Any) -> Loaded:
    given = {name: value for name, value in sampling.items() if value is not None}
    data = loaded.scenario.model_dump()
    data["sampling"] |= given
    data["sampling"]["suspect"] = min(data["sampling"]["suspect"], data["sampling"]["idle"])
    return replace(loaded, scenario=Scenario.model_validate(data))


def _explaining(loaded: Loaded, explain: str) -> Loaded:
    data = loaded.scenario.model_dump()
    data["engine"]["explain"] = explain
    return replace(loaded, scenario=Scenario.model_validate(data))


def _with_cameras(loaded: Loaded, cameras: Iterable[Camera]) -> Loaded:
    return replace(loaded, scenario=loaded.scenario.model_copy(update={"cameras": tuple(cameras)}))


def _perturbed(loaded: Loaded) -> list[_Part]:
    """Each perturbation in three strengths, laid over what a camera has of its own."""
    parts = []
    for name, strengths in STRENGTHS.items():
        for grade, change in zip(GRADES, strengths, strict=True):
            cameras = [
                camera.model_copy(
                    update={
                        "perturb": Perturb.model_validate({**camera.perturb.model_dump(), **change})
                    }
                )
                for camera in loaded.scenario.cameras
            ]
            parts.append(_Part(f"{name} {grade}", _with_cameras(loaded, cameras)))
    return parts


def _usual_gap_s(loaded: Loaded) -> float:
    """The median time between two frames of the fleet's cameras."""
    gaps = []
    for camera in expand(loaded.scenario):
        gap_s = camera.cadence
        if gap_s is None:
            with contextlib.closing(_opened(camera, loaded)) as source:
                gap_s = source.cadence_s
        gaps.append(gap_s or 1.0)
    return median(gaps)


def _opened(camera: Camera, loaded: Loaded) -> Any:
    scenario = loaded.scenario
    return open_source(camera, loaded.base, scenario.seed, scenario.duration)


def _in_heights(loaded: Loaded, notes: list[str]) -> Loaded:
    """Every quiet camera at each height that its pictures have, cut to 16:9 and scaled down.

    Where no camera is without a fire, all are taken: what they show before it counts.
    """
    fleet = [camera for camera in expand(loaded.scenario) if camera.truth]
    quiet = [camera for camera in fleet if not camera.fires] or fleet
    made: dict[str, Camera] = {}
    for camera in quiet:
        size = _native_size(camera, loaded)
        if size is None:
            notes.append(f"calibration: {camera.id} left out: it has no picture that can be read")
            continue
        crop: tuple[float, float, float, float] | None = camera.perturb.crop or _wide(size)
        inside = size[1] if camera.perturb.crop else round(size[1] * _wide(size)[3])
        fitting = [height for height in HEIGHTS if height <= inside]
        synthetic = camera.source.kind == "synthetic"
        if synthetic:  # drawn anew at each height
            fitting, crop = list(HEIGHTS), camera.perturb.crop
        if len(fitting) < len(HEIGHTS):
            told = ", ".join(str(h) for h in HEIGHTS if h not in fitting)
            notes.append(
                f"calibration: {camera.id} is {size[0]}x{size[1]}; {told} lines would enlarge it "
                "and are left out"
            )
        for height in fitting:
            name = f"{camera.id[:59]}-{height:04}"
            if name in made:
                raise UsageError(
                    f"{loaded.file}: the ids of two cameras begin with {camera.id[:59]}; shorten "
                    "them (datasets: `prefix`)"
                )
            perturb = camera.perturb.model_copy(update={"height": height, "crop": crop})
            phase = 0.0 if camera.phase is None else camera.phase
            made[name] = camera.model_copy(update={"id": name, "perturb": perturb, "phase": phase})
    return _with_cameras(loaded, made.values())


def _wide(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest 16:9 part in the middle: 1920 x 1440 -> the whole width, 3/4 of the height."""
    width, height = size
    if width * 9 >= height * 16:
        return 0.5, 0.5, min(1.0, height * 16 / 9 / width), 1.0
    return 0.5, 0.5, 1.0, min(1.0, width * 9 / 16 / height)


def _native_size(camera: Camera, loaded: Loaded) -> tuple[int, int] | None:
    """Of the first picture that can be read, as the camera shows it."""
    if camera.source.kind == "synthetic":
        return camera.source.size
    try:
        with contextlib.closing(_opened(camera, loaded)) as source:
            times = source.native_times or (0.0,)
            for picture in source.pictures(times[:5]):
                found = parse(picture.jpeg) if picture is not None else None
                if isinstance(found, Frame):
                    return found.width, found.height
    except SourceError:
        return None
    return None


# --- playing them --------------------------------------------------------------------------------

Play: TypeAlias = Callable[[Job, Options], Outcome]
"""Plays one run to its end, showing how it goes."""


_ASKED: Mapping[str, Any] = {
    "block": str,
    "engine": str,
    "data": str | None,
    "prompt": str | None,
    "settings": list,
    "speed": float | int | None,
    "duration": float | int | None,
    "seed": int | None,
}
"""What a bench was begun with, by name."""


class Ledger:
    """The folder of a bench: what was asked, and the run folder of everything that is finished."""

    def __init__(self, folder: Path, asked: Mapping[str, Any], done: Mapping[str, Any]) -> None:
        self.folder = folder
        self.asked = asked
        self._done: dict[str, Any] = dict(done)

    @classmethod
    def new(cls, out: Path, asked: Mapping[str, Any]) -> Ledger:
        """A new folder in `out`; its name is the time."""
        stem = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-bench"
        names = (stem if n == 1 else f"{stem}-{n}" for n in itertools.count(1))
        for name in names:
            folder = out / name
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as why:
                raise RunFolderError(
                    f"{folder}: cannot be made: {why.strerror}; choose another place with --out"
                ) from why
            ledger = cls(folder, asked, {})
            ledger._write()
            return ledger
        raise AssertionError("there is always another number")

    @classmethod
    def resume(cls, folder: Path) -> Ledger:
        """The bench that was begun there. UsageError where none was."""
        path = folder / STATE_FILE
        try:
            state = orjson.loads(path.read_bytes())
            if state["schema"] != SCHEMA:
                raise UsageError(f"{path}: of another version of this command; start a new bench")
            asked, done = state["asked"], state["done"]
            if not isinstance(asked, dict) or not isinstance(done, dict):
                raise TypeError("asked and done must be objects")
            for name, kinds in _ASKED.items():
                if not isinstance(asked.get(name), kinds):
                    raise TypeError(f"asked: {name} is {asked.get(name)!r:.40}")
            if not all(isinstance(setting, str) for setting in asked["settings"]):
                raise TypeError("asked: settings must be texts")
        except FileNotFoundError:
            raise UsageError(f"--resume {folder}: no bench was begun there") from None
        except (OSError, LookupError, TypeError, ValueError) as why:
            raise RunFolderError(f"{path}: cannot be read: {why}") from why
        return cls(folder, asked, done)

    def run_of(self, job: Job) -> Path | None:
        """Its finished run; None if it is still to be played, or was played otherwise."""
        found = self._done.get(job.key)
        if not isinstance(found, dict) or found.get("asked") != _print_of(job.loaded.scenario):
            return None
        folder = self.folder / Path(str(found.get("folder", ""))).name
        try:
            complete = bool(read_run(folder)["complete"])
        except (UsageError, RunFolderError):
            return None
        return folder if complete else None

    def finished(self, job: Job, folder: Path) -> None:
        asked = _print_of(job.loaded.scenario)
        self._done[job.key] = {"folder": folder.name, "asked": asked}
        self._write()

    def _write(self) -> None:
        state = {"schema": SCHEMA, "asked": self.asked, "done": self._done}
        write_json(self.folder / STATE_FILE, state)


def _print_of(scenario: Scenario) -> str:
    """What a run was asked to be: the same again only if footage and settings are the same."""
    settings = resolved(scenario)
    told = {name: settings[name] for name in ("sampling", "budget", "alarm", "engine", "speed")}
    text = orjson.dumps([digest(scenario), told], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:16]


def play_all(
    plan: Plan, ledger: Ledger, play: Play, told: Callable[[str], None]
) -> tuple[dict[str, Path], bool]:
    """Play what is not finished. The second value says that it was interrupted.

    The interrupted run stays as it is, unfinished, and is played anew when the bench goes on.
    """
    shelf = Shelf()
    folders: dict[str, Path] = {}
    for number, job in enumerate(plan.jobs, 1):
        found = ledger.run_of(job)
        if found is None:
            told(f"playing {number} of {len(plan.jobs)}: {job.block}, {job.part}, {job.engine}")
            options = Options(out=ledger.folder, shelf=shelf)
            outcome = play(job, options)
            if outcome.interrupted:
                return folders, True
            found = outcome.folder
            ledger.finished(job, found)
        folders[job.key] = found
    return folders, False


# --- what they say -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """One block of one engine."""

    block: str
    engine: str
    headline: tuple[str, ...]
    """A few short lines for the table."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """All figures, as a table."""
    notes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    """Why it was not measured."""

    def to_json(self) -> dict[str, Any]:
        return {
            "measured": not self.why,
            "why_not": self.why,
            "headline": list(self.headline),
            "notes": list(self.notes),
            **self.data,
        }


@dataclass(frozen=True, slots=True)
class _Run:
    log: RunLog
    score: Score


def measure(plan: Plan, folders: Mapping[str, Path], result: Path | None = None) -> list[Cell]:
    """Every block and engine, in order; of an interrupted bench those that are finished.

    `result` is the file to write, bench.json.
    """
    wanted = list(
        dict.fromkeys(
            [(job.block, job.engine) for job in plan.jobs] + list(plan.left_out)
        )
    )  # fmt: skip
    order = {name: place for place, name in enumerate(BLOCKS)}
    cells = []
    for block, engine in sorted(wanted, key=lambda pair: order[pair[0]]):
        mine = [job for job in plan.jobs if (job.block, job.engine) == (block, engine)]
        if not mine:
            cells.append(Cell(block, engine, (), why=plan.left_out[block, engine]))
            continue
        if any(job.key not in folders for job in mine):
            cells.append(Cell(block, engine, (), why="not finished"))
            continue
        runs = {}
        for job in mine:
            log = load(folders[job.key])
            runs[job.part] = _Run(log, score(log))
        cells.append(replace(_MEASURES[block](engine, runs), block=block, engine=engine))
    if result is not None:
        write_json(result, _to_json(plan, folders, cells))
    return cells


def _to_json(plan: Plan, folders: Mapping[str, Path], cells: Sequence[Cell]) -> dict[str, Any]:
    blocks: dict[str, dict[str, Any]] = {}
    for cell in cells:
        runs = {
            job.part: folders[job.key].name
            for job in plan.jobs
            if (job.block, job.engine) == (cell.block, cell.engine) and job.key in folders
        }
        blocks.setdefault(cell.block, {})[cell.engine] = {**cell.to_json(), "runs": runs}
    return {"schema": SCHEMA, "blocks": blocks, "notes": list(plan.notes)}


def _calibration(engine: str, runs: Mapping[str, _Run]) -> Cell:
    log = runs["heights"].log
    said: dict[int, dict[tuple[str, float], bool]] = {}
    for one in footage(log):
        scene, _, height = one.plan.id.rpartition("-")
        for frame in one.frames:
            if frame.smoke is False and frame.verdict is not None:
                said.setdefault(int(height), {})[scene, float(frame.seq)] = frame.verdict.has_smoke
    found = calibration(said)
    whole = found.whole
    tested = "p n/a" if found.p_value is None else f"p {found.p_value:.2g}"
    return Cell(
        "",
        engine,
        (f"false positives {_rate(whole.false, whole.n)}", f"by height: {tested}"),
        ("height", "false positives", "n"),
        tuple((str(r.height), _rate(r.false, r.n, told=False), str(r.n)) for r in found.rates),
        (f"does the height change it: {found.test}",),
        {"calibration": found.to_json()},
    )


def _early(engine: str, runs: Mapping[str, _Run]) -> Cell:
    paces = {name: pace(run.log) for name, run in runs.items()}
    rows = []
    for name, run in runs.items():
        curve = run.score.survival
        rows.append(
            (
                name,
                _number(run.score.tokens.visual_per_camera_hour, 0),
                _found(run.score),
                _number(run.score.median_ttfd_s, 1, " s"),
                "n/a" if curve is None else f"{curve.rmst_s:,.0f} s",
                _number(run.score.false_alarms.per_camera_day, 1),
                _number(paces[name].shortest_gap_s, 0, " s"),
            )
        )
    given = [each for each in paces.values() if each.rate is not None]
    kept = all(each.kept for each in given)
    check = (
        "no budget was given"
        if not given
        else f"tokens within the budget: {'yes' if kept else 'NO'}"
    )
    names = list(runs)
    chosen = [names[0], names[-1]]
    lines: list[str] = []
    for name in chosen:
        found = runs[name].score
        lines += [
            f"{name}: {_found(found)}, {_number(found.median_ttfd_s, 1, ' s')}",
            f"  at {_number(found.tokens.visual_per_camera_hour, 0)} tokens/h",
        ]
    return Cell(
        "",
        engine,
        (*lines, check),
        ("sampling", "tokens/h", "found", "median TTFD", "RMST", "false/day", "shortest gap"),
        tuple(rows),
        (_pace_line(given), _interval_line(runs)),
        {
            "sweep": {
                name: _early_json(run.score, paces[name]) for name, run in runs.items()
            },
            "within_budget": kept if given else None,
        },
    )  # fmt: skip


def _pace_line(given: Sequence[Pace]) -> str:
    if not given:
        return "no budget was given, so none could be exceeded"
    first = given[0]
    worst = max(each.excess or 0.0 for each in given)
    held = (
        "no span of any run spent more"
        if worst <= 0
        else f"EXCEEDED: one span spent {worst:,.0f} tokens more"
    )
    spent, span_s = sum(each.spent for each in given), sum(each.span_s for each in given)
    return (
        f"budget {first.rate:,.0f} tokens/s with a burst of {first.burst_s:g} s: {held} than burst "
        f"+ rate x time ({spent:,} tokens over {span_s:,.0f} s in {len(given)} runs)"
    )


def _interval_line(runs: Mapping[str, _Run]) -> str:
    """Of the fixed samplings: one frame every N s, N >= 3."""
    shortest = [
        gap
        for name, run in runs.items()
        if name.startswith("fixed") and (gap := pace(run.log).shortest_gap_s) is not None
    ]
    if not shortest:
        return "no two looks at one camera"
    kept = "yes" if min(shortest) >= MIN_IDLE_S - 0.001 else "NO"
    return (
        f"one frame every N s, N >= 3: {kept}, fixed sampling looked at a camera every "
        f"{min(shortest):g} s at the soonest"
    )


def _early_json(found: Score, kept: Pace) -> dict[str, Any]:
    told = found.to_json()
    return {
        "tokens_per_camera_hour": told["tokens"]["visual_per_camera_hour"],
        "views": told["views"],
        "rmst_s": None if told["survival"] is None else told["survival"]["rmst_s"],
        "false_alarms": told["false_alarms"],
        "pace": kept.to_json(),
    }


def _localization(engine: str, runs: Mapping[str, _Run]) -> Cell:
    lines: list[str] = []
    rows: list[tuple[str, ...]] = []
    data: dict[str, dict[str, Any]] = {}
    for name, run in runs.items():
        found = run.score.localization
        if found is None:
            return Cell("", engine, (), why="the truth has no boxes")
        bins = by_size(footage(run.log))
        lines.append(
            f"{name}: PxR {found.value:.2f}, "
            f"mAP {_number(found.ap40, 2)} / {_number(found.ap50, 2)}"
        )
        rows.append(
            (
                name,
                "all, other frames too",
                _rate(found.matched, found.predicted, told=False),
                _rate(found.matched, found.n, told=False),
                f"{found.value:.3f}",
                _number(found.ap40, 3),
                _number(found.ap50, 3),
                f"{found.n}",
            )
        )
        rows += [_bin_row(name, each) for each in bins if each.n]
        looks = [f.answer.second for f in run.log.frames if f.answer and f.answer.second]
        withdrawn = sum(each.verdict is not None and not each.verdict.has_smoke for each in looks)
        data[name] = {
            "precision": found.matched / found.predicted if found.predicted else None,
            "precision_interval": _pair(wilson_interval(found.matched, found.predicted)),
            "recall": found.matched / found.n if found.n else None,
            "recall_interval": _pair(wilson_interval(found.matched, found.n)),
            "precision_x_recall": found.value,
            "ap40": found.ap40,
            "ap50": found.ap50,
            "n": found.n,
            "by_size": [each.to_json() for each in bins],
            "second_looks": {
                "asked": len(looks),
                "failed": sum(each.verdict is None for each in looks),
                "withdrawn": withdrawn,
                "visual_tokens": sum(each.visual_tokens for each in looks),
            },
        }
    whole = runs["one look"].score.localization
    assert whole is not None
    lines.insert(1, f"recall {_rate(whole.matched, whole.n)}")
    notes = ["PxR: precision x recall at IoU >= 0.4; mAP at 0.4 and 0.5 over confidence"]
    if "second look" not in runs:
        why = WHOLE_FRAMES.get(engine.partition(":")[0], "not played")
        lines.append("second look: n/a")
        notes.append(f"second look: n/a, {why}")
    else:
        told = data["second look"]["second_looks"]
        notes.append(
            f"second looks: {told['asked']}, {told['withdrawn']} withdrew the smoke, "
            f"{told['failed']} failed, {told['visual_tokens']:,} visual tokens"
        )
    columns = ("looks", "smoke, of the frame", "precision", "recall", "PxR", "mAP@0.4", "mAP@0.5")
    return Cell(
        "", engine, tuple(lines), (*columns, "n"), tuple(rows), tuple(notes), {"looks": data}
    )


def _bin_row(name: str, each: SizeBin) -> tuple[str, ...]:
    span = (
        f"under {100 * each.high:g} %"
        if not each.low
        else f"from {100 * each.low:g} %"
        if each.high >= 1
        else f"{100 * each.low:g} to {100 * each.high:g} %"
    )
    return (
        name,
        span,
        _rate(each.matched, each.predicted, told=False),
        _rate(each.matched, each.n, told=False),
        _number(each.value, 3),
        _number(each.ap40, 3),
        _number(each.ap50, 3),
        str(each.n),
    )


def _robustness(engine: str, runs: Mapping[str, _Run]) -> Cell:
    clean = runs["clean"]
    confusion = clean.score.frames
    rows = [
        (
            "clean",
            _rate(confusion.tp + confusion.tn, confusion.n, told=False),
            "",
            _found(clean.score),
            "",
            _number(clean.score.latency.p50, 3, " s"),
            str(confusion.n),
        )
    ]
    data: dict[str, Any] = {"clean": _robust_json(clean.score)}
    worst: tuple[float, str, Pairs] | None = None
    delays = []
    for name, run in runs.items():
        if name == "clean":
            continue
        both = pairs(clean.log, run.log, same_pictures=False)
        right = both.both_right + both.only_second_right
        later_s = _later_s(clean.score, run.score)
        if both.known and (worst is None or right / both.known < worst[0]):
            worst = (right / both.known, name, both)
        if both.slower_s is not None:
            delays.append(both.slower_s)
        rows.append(
            (
                name,
                _rate(right, both.known, told=False),
                f"{both.p_value:.2g}",
                _found(run.score),
                _signed(later_s, 1),
                _signed(both.slower_s, 3),
                str(both.known),
            )
        )
        data[name] = {
            **_robust_json(run.score),
            "paired_frames": both.known,
            "right": right,
            "right_interval": _pair(wilson_interval(right, both.known)),
            "only_clean_right": both.only_first_right,
            "only_perturbed_right": both.only_second_right,
            "mcnemar_p": both.p_value,
            "later_s": later_s,
            "extra_latency_s": both.slower_s,
        }
    lines = [f"clean: right on {_rate(confusion.tp + confusion.tn, confusion.n)}"]
    if worst is not None:
        _, name, both = worst
        right = both.both_right + both.only_second_right
        lines += [f"worst ({name}): {_rate(right, both.known)}"]
    if delays:
        lines.append(f"extra latency at most {_signed(max(delays), 3)}")
    return Cell(
        "",
        engine,
        tuple(lines),
        ("perturbation", "right", "McNemar p", "found", "TTFD later", "latency", "n"),
        tuple(rows),
        (
            "frame by frame against the clean twin; TTFD later: median over the views found in "
            "both; latency: the clean median, then the median of the differences",
        ),
        {"twins": data},
    )


def _later_s(clean: Score, other: Score) -> float | None:
    """Median over views that were found in both."""
    first = {(v.fire, v.camera): v.ttfd_s for v in clean.fires if v.ttfd_s is not None}
    later = [
        v.ttfd_s - first[v.fire, v.camera]
        for v in other.fires
        if v.ttfd_s is not None and (v.fire, v.camera) in first
    ]
    return median(later) if later else None


def _robust_json(found: Score) -> dict[str, Any]:
    told = found.to_json()
    return {
        "views": told["views"],
        "frames": told["frames"],
        "false_alarms": told["false_alarms"],
        "latency_s": told["latency_s"],
    }


def _explainability(engine: str, runs: Mapping[str, _Run]) -> Cell:
    told, without = runs["explained"].score, runs["unexplained"].score
    cost = told.explanations
    each_s = cost.seconds / cost.asked if cost.asked else None
    each_tokens = cost.output_tokens / cost.given if cost.given else None
    more_s = None
    if told.latency.p50 is not None and without.latency.p50 is not None:
        more_s = told.latency.p50 - without.latency.p50
    return Cell(
        "",
        engine,
        (
            f"{cost.given} of {cost.asked} explained",
            f"{_number(each_s, 2, ' s')}, {_number(each_tokens, 0)} output tokens each",
            f"verdicts {_signed(more_s, 3)} (median)",
        ),
        ("", "explained", "unexplained"),
        (
            ("requests for reasons", str(cost.asked), "0"),
            ("answered", str(cost.given), "0"),
            ("wall seconds, all", f"{cost.seconds:.2f}", "0"),
            ("seconds each, median", _number(cost.p50_s, 3), ""),
            ("visual tokens, all", f"{cost.visual_tokens:,}", "0"),
            ("output tokens, all", f"{cost.output_tokens:,}", "0"),
            (
                "latency of verdicts, median",
                _number(told.latency.p50, 3, " s"),
                _number(without.latency.p50, 3, " s"),
            ),
        ),
        ("what a model says of its reasons is stored and shown, never scored",),
        {
            "explanations": told.to_json()["explanations"],
            "latency_s": {
                "explained": told.to_json()["latency_s"],
                "unexplained": without.to_json()["latency_s"],
            },
        },
    )


_MEASURES: Mapping[str, Callable[[str, Mapping[str, _Run]], Cell]] = {
    "calibration": _calibration,
    "early": _early,
    "localization": _localization,
    "robustness": _robustness,
    "explainability": _explainability,
}


# --- showing them --------------------------------------------------------------------------------


def overview(cells: Sequence[Cell]) -> Table:
    """Blocks × engines, the headline of each."""
    engines = list(dict.fromkeys(cell.engine for cell in cells))
    table = Table(box=None, pad_edge=False, header_style="dim", show_lines=False)
    table.add_column("block", no_wrap=True)
    for engine in engines:
        table.add_column(engine, overflow="fold")
    told = {(cell.block, cell.engine): cell for cell in cells}
    for block in BLOCKS:
        if not any((block, engine) in told for engine in engines):
            continue
        shown = []
        for engine in engines:
            cell = told.get((block, engine))
            if cell is None:
                shown.append("")
            elif cell.why:
                shown.append(f"n/a: {cell.why}")
            else:
                shown.append("\n".join(cell.headline))
        table.add_row(block, *shown, end_section=True)
    return table


def details(cell: Cell) -> Table:
    """Everything that one block says of one engine."""
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        title=f"{cell.block}: {cell.engine}",
        title_justify="left",
        caption="\n".join(cell.notes),
        caption_justify="left",
    )
    for n, column in enumerate(cell.columns):
        table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
    for row in cell.rows:
        table.add_row(*row)
    return table


def _rate(hits: int, of: int, *, told: bool = True) -> str:
    """`12.5 % [4.3–31.0], n 24`; without `told` the n stands elsewhere."""
    interval = wilson_interval(hits, of)
    if interval is None:
        return "n/a"
    low, high = interval
    text = f"{100 * hits / of:.1f} % [{100 * low:.1f}–{100 * high:.1f}]"
    return f"{text}, n {of}" if told else text


def _found(found: Score) -> str:
    """`3 of 4 [30–95 %]`, views and Wilson's interval of their share."""
    hits = sum(view.ttfd_s is not None for view in found.fires)
    interval = wilson_interval(hits, len(found.fires))
    if interval is None:
        return "no fires"
    low, high = interval
    return f"{hits} of {len(found.fires)} [{100 * low:.0f}–{100 * high:.0f} %]"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}{unit}"


def _signed(value: float | None, digits: int) -> str:
    # adding 0 takes the sign off a zero
    return "n/a" if value is None else f"{round(value, digits) + 0.0:+.{digits}f} s"


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
