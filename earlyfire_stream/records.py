"""What happened: one line of JSON per frame and alarm, appended, never rewritten.

A run folder holds two logs that know nothing of each other, so that one can be held against the
other: `cameras.jsonl`, what the cameras scheduled (the camera side's own count), and
`records.jsonl`, the fate that each frame met in the consumer. Everything after this module works
offline from the folder.

Instants named `captured_at` are scenario seconds; `*_ns` are wall nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from earlyfire_stream.verdict import Alarm, Fate, Reason, Truth, Verdict


@dataclass(frozen=True, slots=True)
class Shot:
    """One frame that a camera scheduled. `unsent` says why it was never handed to the transport."""

    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    late_s: float = 0.0
    """Wall seconds between the instant it was due and the instant it was handed over."""
    unsent: Reason = Reason.NONE
    identity: str = ""
    size_bytes: int = 0
    smoke: bool | None = None
    """Is smoke to be seen? None where nobody knows."""
    truth: tuple[Truth, ...] = ()
    """The visible fires with their boxes; a Truth without box where the data has none."""
    boxed: bool = False
    """True if the truth of this frame includes boxes (so that an empty `truth` means: none)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request cost and brought. Durations of the server's own timing in wall seconds."""

    started_ns: int
    decided_ns: int
    answered_ns: int
    sent_size: tuple[int, int]
    """(width, height) of the image as the engine got it, pixels."""
    visual_tokens: int
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    finish: str = ""
    text: str = ""
    """The reply, at most 4,000 characters of it."""
    verdict: Verdict | None = None
    """None if it could not be read (bad_json)."""
    box_error: str = ""
    """Why the reply's box could not be used although `has_smoke` could."""
    server: Mapping[str, float] = field(default_factory=dict)
    """The engine's own timing split, such as load_s, prompt_s, generate_s."""


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """The one fate of one frame, written once."""

    camera: str
    seq: int
    captured_at: float
    captured_ns: int
    fate: Fate
    reason: Reason = Reason.NONE
    detail: str = ""
    received_ns: int | None = None
    """None for a frame that never came."""
    published_ns: int | None = None
    admitted: bool = False
    """Sampling wanted it: it entered the mailbox. Such frames count in Q and K."""
    identity: str = ""
    answer: Answer | None = None
    """Present for answered, bad_json and (as far as it got) engine_error."""


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """An alarm that completed k-of-n. `emitted` is False inside the repeat time."""

    alarm: Alarm
    emitted: bool
    alarmed_ns: int
    """Wall instant at which it was handed on."""


@dataclass(frozen=True, slots=True)
class FirePlan:
    """One fire of one camera, as the scenario states it. Scenario seconds."""

    id: str
    onset: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class CameraPlan:
    """One camera as it was played: what the scorer must know of the scenario."""

    id: str
    fires: tuple[FirePlan, ...] = ()
    cadence_s: float | None = None
    """Declared seconds between frames; None for stills (frame metrics only)."""
    truth: bool = True
    """False: nobody knows what is in it; it is left out of every score."""
    ignore: tuple[tuple[tuple[float, float], ...], ...] = ()
    outages: tuple[tuple[float, float], ...] = ()
    """Scripted (start, end); they count neither as exposure nor against anybody."""


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run folder, read. Frames and shots are in no particular order."""

    run: Mapping[str, Any]
    """`run.json` as it stands."""
    cameras: Sequence[CameraPlan]
    shots: Sequence[Shot]
    frames: Sequence[FrameRecord]
    alarms: Sequence[AlarmRecord]
    duplicates: int
    """Deliveries of a frame that had come before."""
    complete: bool
    """False for a run that was killed or is still going on."""
    torn_lines: int = 0
    duration_s: float | None = None
    """Scenario seconds that were played, None where the run did not say."""
    speed: float = 1.0
    alarm_policy: Mapping[str, Any] = field(default_factory=dict)
    """k, n, within (scenario seconds), min_confidence, repeat."""


