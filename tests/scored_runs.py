"""Small runs written by hand, for the tests of scoring: what each frame got, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from earlyfire_stream.records import (
    AlarmRecord,
    Answer,
    CameraPlan,
    FirePlan,
    FrameRecord,
    RunLog,
    Shot,
)
from earlyfire_stream.verdict import Box, Fate, Reason, Truth, Verdict

START_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000

YES = Verdict(True)
NO = Verdict(False)


def verdicts(letters: str) -> list[Verdict]:
    """One per letter: T smoke, F none."""
    return [YES if letter == "T" else NO for letter in letters]


def shot(camera: str, seq: int, at: float, **more: Any) -> Shot:
    return Shot(camera, seq, at, START_NS + round(at * SECOND), **more)


def answer(
    captured_ns: int,
    verdict: Verdict | None,
    received_s: float = 0.0,
    started_s: float = 0.0,
    decided_s: float | None = None,
    answered_s: float = 1.0,
    sent_size: tuple[int, int] = (1280, 720),
) -> Answer:
    """Each instant in wall seconds after the capture; decided when answered unless said."""
    return Answer(
        started_ns=captured_ns + round(started_s * SECOND),
        decided_ns=captured_ns + round((answered_s if decided_s is None else decided_s) * SECOND),
        answered_ns=captured_ns + round(answered_s * SECOND),
        sent_size=sent_size,
        visual_tokens=300,
        verdict=verdict,
    )


def fated(frame: Shot, fate: Fate, reason: Reason = Reason.NONE, **more: Any) -> FrameRecord:
    return FrameRecord(
        frame.camera,
        frame.seq,
        frame.captured_at,
        frame.captured_ns,
        fate,
        reason,
        received_ns=None if fate is Fate.LOST else frame.captured_ns,
        **{"admitted": fate not in (Fate.LOST, Fate.SAMPLED_OUT), **more},
    )


def answered(frame: Shot, verdict: Verdict, **times: Any) -> FrameRecord:
    made = fated(frame, Fate.ANSWERED, answer=answer(frame.captured_ns, verdict, **times))
    received_s = times.get("received_s", 0.0)
    return replace(made, received_ns=frame.captured_ns + round(received_s * SECOND))


def run_log(
    cameras: Sequence[CameraPlan],
    shots: Sequence[Shot],
    frames: Sequence[FrameRecord],
    alarms: Sequence[AlarmRecord] = (),
    policy: Mapping[str, float] | None = None,
    complete: bool = True,
    speed: float = 1.0,
    duplicates: int = 0,
) -> RunLog:
    return RunLog(
        run={},
        cameras=cameras,
        shots=shots,
        frames=frames,
        alarms=alarms,
        notes=(),
        duplicates=duplicates,
        complete=complete,
        speed=speed,
        alarm_policy=policy or {},
    )


def one_camera(
    said: Sequence[Verdict | None],
    onset: float | None = None,
    cadence_s: float = 60.0,
    boxes: Mapping[int, Box] | None = None,
    end: float | None = None,
    latency_s: float = 1.0,
    policy: Mapping[str, float] | None = None,
    plan: Mapping[str, Any] | None = None,
    **log: Any,
) -> RunLog:
    """Camera `north`, a frame each `cadence_s`; fire `f1` from `onset` on, `boxes` by frame index.

    A None in `said` is an unreadable answer.
    """
    fires = () if onset is None else (FirePlan("f1", onset, end),)
    camera = CameraPlan("north", fires, cadence_s, **(plan or {}))
    shots, frames = [], []
    for seq, verdict in enumerate(said):
        box = (boxes or {}).get(seq)
        truth = (Truth("f1", box),) if box is not None else ()
        taken = shot("north", seq, seq * cadence_s, truth=truth, boxed=boxes is not None)
        shots.append(taken)
        if verdict is None:
            frames.append(fated(taken, Fate.BAD_JSON, Reason.NOT_JSON))
        else:
            frames.append(answered(taken, verdict, answered_s=latency_s))
    return run_log([camera], shots, frames, policy=policy, **log)
