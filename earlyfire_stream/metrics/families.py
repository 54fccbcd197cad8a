"""What a run tells Prometheus: every metric that there is, declared once, in this file.

All names begin with `earlyfire_`. Base units; durations are wall seconds unless the text says
scenario seconds. No label grows with the length of a run: a camera's name is the only one that
grows with the fleet, and those series are left out for large fleets. The worker declares its own,
`earlyfire_worker_*`, in `worker.metrics`. A fire counts once for every camera that sees it.
"""

from __future__ import annotations

__all__ = ["FAMILIES", "LATENCY_S", "PREFIX", "TTFD_S", "Family", "Kind", "Role", "table"]

from dataclasses import dataclass
from enum import Enum, StrEnum

PREFIX = "earlyfire_"

LATENCY_S = (*(0.01 * 2**n for n in range(14)), 163.84, 327.68, 655.36)
"""10 ms to 81.92 s, doubling, and on to 655 s: from a simulated engine to a backlog."""
LATENESS_S = tuple(0.0005 * 2**n for n in range(16))
"""0.5 ms to 16.384 s, doubling: an idle loop is a millisecond late, a starved one seconds."""
TTFD_S = (1, 5, 15, 30, 60, 120, 180, 240, 300, 600, 900, 1200, 1800, 2400, 3600)
INTERVAL_S = (1, 2, 3, 5, 10, 15, 20, 30, 60, 120, 300, 600)
SILENT_AFTER_S = (10, 30, 60, 300)
"""Wall seconds without a frame from which a camera counts as silent."""
CAMERA_SERIES = 50
"""Cameras up to which each one has series of its own, unless told otherwise."""


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Role(Enum):
    """Which half of a run knows it; `earlyfire run` is both halves in one process."""

    CAMERAS = "cameras"
    CONSUMER = "consumer"
    EITHER = "each process"
    BOTH = "run alone"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` without prefix and, for counters and infos, without its ending."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    role: Role = Role.CONSUMER
    per_camera: bool = False

    @property
    def exposed(self) -> str:
        """The name to ask Prometheus for; a histogram's has _bucket, _sum and _count behind it."""
        ending = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")
        return PREFIX + self.name + ending


_MODEL = ("engine", "model")

FAMILIES: tuple[Family, ...] = (
    # --- what runs ---
    Family(
        "run",
        Kind.INFO,
        "What runs: always 1",
        ("run", "scenario", "role", "engine", "model", "policy", "clock", "version"),
        role=Role.EITHER,
    ),
    Family("run_playing", Kind.GAUGE, "1 while frames are streamed", role=Role.EITHER),
    Family("run_ended", Kind.GAUGE, "1 once the run is over and scored", role=Role.EITHER),
    Family(
        "scenario_time_seconds", Kind.GAUGE, "Scenario seconds since its begin", role=Role.EITHER
    ),
    Family("speed_ratio", Kind.GAUGE, "Scenario seconds per wall second", role=Role.EITHER),
    Family("cameras", Kind.GAUGE, "Cameras of this process", role=Role.EITHER),
    Family("onsets", Kind.COUNTER, "Fires whose onset has passed", role=Role.EITHER),
    Family("fires_burning", Kind.GAUGE, "Fires whose smoke is visible now", role=Role.EITHER),
    Family(
        "faults_active",
        Kind.GAUGE,
        "Cameras inside a scripted window of that kind now; kind: outage, network or a fault's",
        ("kind",),
        role=Role.EITHER,
    ),
    Family(
        "cameras_online",
        Kind.GAUGE,
        "Cameras that say that they are on; where only the cameras run: whose last frame was sent",
        role=Role.EITHER,
    ),
    Family(
        "event_loop_lag_seconds",
        Kind.HISTOGRAM,
        "How late a timer of the process fired, once a second",
        buckets=LATENESS_S,
        role=Role.EITHER,
    ),
    # --- the cameras' half ---
    Family("frames_scheduled", Kind.COUNTER, "Frames that fell due", role=Role.CAMERAS),
    Family("frames_published", Kind.COUNTER, "Frames handed to the transport", role=Role.CAMERAS),
    Family(
        "frames_unsent",
        Kind.COUNTER,
        "Frames that fell due and were not sent",
        ("reason",),
        role=Role.CAMERAS,
    ),
    Family("published_bytes", Kind.COUNTER, "Bytes of the frames sent", role=Role.CAMERAS),
    Family(
        "replay_lateness_seconds",
        Kind.HISTOGRAM,
        "From the instant a frame was due to its hand-over",
        buckets=LATENESS_S,
        role=Role.CAMERAS,
    ),
    # --- the consumer's half: frames ---
    Family("frames_received", Kind.COUNTER, "Payloads that came, refused ones included"),
    Family("frames_duplicate", Kind.COUNTER, "Deliveries of a frame that had come before"),
    Family("payloads_refused", Kind.COUNTER, "Payloads that were no frame of the run", ("reason",)),
    Family(
        "frames_fate",
        Kind.COUNTER,
        "Frames by the one fate each met; unsent frames count as lost where only the consumer runs",
        ("fate", "reason"),
    ),
    Family(
        "cameras_silent",
        Kind.GAUGE,
        "Cameras from which nothing came for longer than that (wall time, such as 30s)",
        ("over",),
    ),
    Family(
        "cameras_suspected",
        Kind.GAUGE,
        "Cameras under suspicion (a change, or a positive to confirm), which are looked at closely",
    ),
    Family("mailbox_frames", Kind.GAUGE, "Frames waiting for a look"),
    Family(
        "sampling_interval_seconds",
        Kind.HISTOGRAM,
        "Scenario seconds between two looks at a camera",
        buckets=INTERVAL_S,
    ),
    # --- the consumer's half: the engine ---
    Family("inflight_requests", Kind.GAUGE, "Frames that the engine is looking at"),
    Family("concurrency_limit", Kind.GAUGE, "Requests that may be under way at a time"),
    Family(
        "inference_requests",
        Kind.COUNTER,
        "Requests to the engine; purpose: verdict, second_look, explanation; outcome: answered, "
        "bad_json or the kind of engine error",
        (*_MODEL, "purpose", "outcome"),
    ),
    Family(
        "inference_duration_seconds",
        Kind.HISTOGRAM,
        "From a frame's request to its settled answer or failure",
        _MODEL,
        LATENCY_S,
    ),
    Family(
        "decision_duration_seconds",
        Kind.HISTOGRAM,
        "From a frame's request to the instant at which smoke or no smoke was decided",
        buckets=LATENCY_S,
    ),
    Family(
        "end_to_end_latency_seconds",
        Kind.HISTOGRAM,
        "From a frame's capture to its valid answer",
        buckets=LATENCY_S,
    ),
    Family(
        "stage_duration_seconds",
        Kind.HISTOGRAM,
        "Where the time to a valid answer went: send, transit, wait, infer",
        ("stage",),
        LATENCY_S,
    ),
    Family(
        "clock_skewed_frames",
        Kind.COUNTER,
        "Answers before their capture: the clocks of two hosts disagree, no latency is known",
    ),
    Family("visual_tokens", Kind.COUNTER, "Visual tokens sent to the engine", (*_MODEL, "purpose")),
    Family("prompt_tokens", Kind.COUNTER, "Prompt tokens, where the server counts them", _MODEL),
    Family("output_tokens", Kind.COUNTER, "Output tokens, where the server counts them", _MODEL),
    Family(
        "token_budget_tokens_per_second",
        Kind.GAUGE,
        "Visual tokens a second that may be spent, given or learned; absent while unknown",
    ),
    Family(
        "token_budget_utilization_ratio",
        Kind.GAUGE,
        "Visual tokens spent of late over those granted; 0 without a limit",
    ),
    Family(
        "token_budget_waited_seconds",
        Kind.COUNTER,
        "Wall time in which frames waited and the budget had no tokens for them",
    ),
    # --- the consumer's half: alarms ---
    Family(
        "alarms",
        Kind.COUNTER,
        "Alarms emitted; kind: true, false, unlocated (beside the fire), late (beyond a fire's "
        "horizon), unknown (no truth)",
        ("kind",),
    ),
    Family(
        "alarm_candidates",
        Kind.COUNTER,
        "Alarms emitted and alarms held back within the repeat time, by kind",
        ("kind",),
    ),
    Family("fires_alarmed", Kind.COUNTER, "Fires with an alarm while they burnt, wherever its box"),
    # --- the broker ---
    Family("transport_reconnects", Kind.COUNTER, "Times the broker was found again"),
    Family("transport_dropped_payloads", Kind.COUNTER, "Payloads dropped before they were read"),
    # --- known at the end ---
    Family("early_fire_score", Kind.GAUGE, "0 to 100; absent until the run is scored"),
    Family("score_term_ratio", Kind.GAUGE, "The score's terms D, F, C, L, Q, K", ("term",)),
    Family(
        "time_to_first_detection_seconds",
        Kind.HISTOGRAM,
        "Scenario seconds from onset to the first located alarm, of detected fires; when scored",
        buckets=TTFD_S,
    ),
    Family("fires_missed", Kind.GAUGE, "Fires without a located alarm; absent until scored"),
    Family(
        "false_alarms_per_camera_day",
        Kind.GAUGE,
        "Episodes of false alarms per camera and scenario day; absent until scored",
    ),
    Family(
        "ledger_unaccounted_frames",
        Kind.GAUGE,
        "Frames scheduled minus frames with a fate; 0 once the run has ended",
        role=Role.BOTH,
    ),
    Family(
        "ledger_faulty_frames",
        Kind.GAUGE,
        "Frames whose fate does not add up; kind: missing, double, unknown; absent until scored",
        ("kind",),
        role=Role.BOTH,
    ),
    # --- one camera each, for small fleets ---
    Family(
        "camera_last_frame_timestamp_seconds",
        Kind.GAUGE,
        "Unix time at which the camera's newest frame came",
        ("camera",),
        per_camera=True,
    ),
    Family(
        "camera_frames", Kind.COUNTER, "The camera's frames that came", ("camera",), per_camera=True
    ),
    Family(
        "camera_answers",
        Kind.COUNTER,
        "The camera's frames with a valid answer",
        ("camera",),
        per_camera=True,
    ),
    Family(
        "camera_latency_seconds",
        Kind.GAUGE,
        "From capture to answer, of the camera's last answer",
        ("camera",),
        per_camera=True,
    ),
    Family(
        "camera_sampling_interval_seconds",
        Kind.GAUGE,
        "Scenario seconds between the camera's last two looks",
        ("camera",),
        per_camera=True,
    ),
    Family(
        "camera_smoke", Kind.GAUGE, "1 if its last verdict is smoke", ("camera",), per_camera=True
    ),
    Family("camera_alarms", Kind.COUNTER, "The camera's alarms", ("camera",), per_camera=True),
)


def table() -> str:
    """All metrics as a table in Markdown: deploy/METRICS.md holds it."""
    lines = ["| metric | type | labels | told by | what it is |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(
            f"| `{family.exposed}` | {family.kind.value} | {labels} | {family.role.value} "
            f"| {family.text} |"
        )
    return "\n".join(lines) + "\n"
