"""A side taken apart by fire: what each fire, and each camera without one, adds to every figure.

Uncertainty is drawn by fire: the cameras of one fire are no independent witnesses, and what a
camera saw outside its fires goes with its first fire; a camera without any stands for itself.
"""

from __future__ import annotations

__all__ = [
    "COLUMN",
    "COLUMNS",
    "CURVE_FRAMES",
    "THRESHOLDS",
    "Cluster",
    "Floats",
    "Measured",
    "ViewKey",
    "measure",
]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earlyfire_stream.errors import UsageError
from earlyfire_stream.records import FrameTable, RunLog
from earlyfire_stream.scenario.load import loads
from earlyfire_stream.scoring.accuracy import (
    IOU_MATCH,
    best_iou,
    confusion,
    judged_sequences,
    mean_frame_score_v1,
)
from earlyfire_stream.scoring.answers import WORTHLESS, Served, quickness
from earlyfire_stream.scoring.compare.sides import Side
from earlyfire_stream.scoring.compare.stuck import stuck
from earlyfire_stream.scoring.detection import View, false_alarms, watched_hours
from earlyfire_stream.scoring.early_fire import Score, alarm_policy, earliness, score
from earlyfire_stream.scoring.footage import Footage, footage, packed
from earlyfire_stream.scoring.operating import OperatingPoint, operating_curve
from earlyfire_stream.verdict import Fate, Reason, Verdict

Floats = NDArray[np.float64]
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CURVE_FRAMES = 60_000
"""Frames up to which operating curves are computed; each threshold reads them all again."""
COLUMNS = (
    "views",
    "worth",  # Σ u, the earliness
    "found",
    "both",  # views that both sides detected
    "ttfd",  # Σ TTFD of those
    "episodes",
    "hours",  # without smoke
    "matched",
    "predicted",
    "boxed",  # answered frames with truth boxes
    "quick",  # Σ quickness of frames that sampling admitted
    "admitted",
    "valid",
    "sent",
    "tp",
    "fp",
    "fn",
    "tn",
    "v1",
    "sequences",
    "visual",
    "watched",
)
COLUMN = {name: place for place, name in enumerate(COLUMNS)}
Cluster = tuple[str, str]
"""("fire", its id) or ("camera", its id); with the seed where another seed draws another one."""
ViewKey = tuple[str, str, str]
"""(digest, fire, camera)"""


@dataclass(slots=True)
class Measured:
    """What a side's runs add to every figure, by cluster."""

    sums: dict[Cluster, Floats]
    views: dict[ViewKey, View]
    stuck: dict[ViewKey, str]
    """Of missed views: the part in which they got stuck."""
    cluster_of: dict[ViewKey, Cluster]
    latencies: dict[Cluster, list[Floats]]
    boxes: list[tuple[Cluster, float, float | None]]
    """(cluster, IoU with the best truth box, confidence) of each predicted box."""
    boxed: bool
    """The truth has boxes."""
    scores: list[Score]
    runs: list[Mapping[str, Any]]
    """Each one's `run.json`."""
    curves: list[tuple[OperatingPoint, ...]]
    """Each one's operating curve; empty where there is none."""
    why_no_curve: str


def measure(side: Side) -> Measured:
    found = Measured({}, {}, {}, {}, {}, [], False, [], [], [], "")
    for log in side.logs:
        digest = str(log.run.get("digest", ""))
        mark = f" seed {log.run.get('seed')}" if len(side.logs) > 1 and _redrawn(log) else ""
        result = score(log)
        found.scores.append(result)
        found.runs.append(log.run)
        points, why = _curve(log, result)
        found.curves.append(points)
        found.why_no_curve = found.why_no_curve or why
        by_camera: dict[str, list[View]] = {}
        for view in result.fires:
            by_camera.setdefault(view.camera, []).append(view)
        everything = footage(log)
        for one, spent in zip(everything, _served(log, everything), strict=True):
            _take_in(found, log, one, spent, by_camera.get(one.plan.id, ()), digest, mark)
    return found


def _curve(log: RunLog, result: Score) -> tuple[tuple[OperatingPoint, ...], str]:
    """The operating curve, or why there is none."""
    if not result.fires or not result.false_alarms.camera_hours:
        return (), "It needs fires and time without smoke."
    if len(log.frames) > CURVE_FRAMES:
        return (), f"Not computed for runs of more than {CURVE_FRAMES:,} frames."
    confidences = FrameTable.of(log.frames).answer_column("confidence")
    if not np.isfinite(confidences).any():
        return (), "An engine gave no confidence, so that no threshold can be moved."
    return operating_curve(log, THRESHOLDS), ""


def _redrawn(log: RunLog) -> bool:
    """Does another seed show other fires? So it is where all cameras are synthetic.

    Footage stays the same fire whatever the seed. A scenario that cannot be read again counts as
    footage, which claims less.
    """
    try:
        scenario = loads(str(log.run.get("scenario_text", ""))).scenario
    except UsageError:
        return False
    return bool(scenario.cameras) and all(c.source.kind == "synthetic" for c in scenario.cameras)


@dataclass(frozen=True, slots=True)
class _Spent:
    """What one camera's requests cost and brought, as `answers` counts them."""

    visual: int
    sent: int
    valid: int
    admitted: int
    quick: float
    latencies: Floats


def _served(log: RunLog, everything: Sequence[Footage]) -> Iterator[_Spent]:
    """By camera. The columns are taken once, as a camera of its own would copy them each time."""
    log, _, frames = packed(log)
    served = Served(frames, everything)
    valid = served.valid
    reached = served.reason != tuple(Reason).index(Reason.UNAVAILABLE)
    sent = served.met(Fate.ANSWERED, Fate.BAD_JSON) | (served.met(Fate.ENGINE_ERROR) & reached)
    costly = reached & (served.answer >= 0)
    visual = np.zeros(len(valid))
    visual[costly] = served.of_answers("visual_tokens", costly)
    answered = served.met(Fate.ANSWERED) & (served.answer >= 0)
    spent_s = np.full(len(valid), np.nan)
    spent_s[answered] = (
        served.of_answers("answered_ns", answered) - served.captured_ns[answered]
    ) / 1e9
    known = spent_s >= 0
    worthy = served.admitted & known
    counted = worthy | (served.admitted & served.met(*WORTHLESS))
    end = 0
    for one in everything:
        begin, end = end, end + int((one.records >= 0).sum())
        here = slice(begin, end)
        yield _Spent(
            visual=int(visual[here].sum()),
            sent=int(sent[here].sum()),
            valid=int(valid[here].sum()),
            admitted=int(counted[here].sum()),
            quick=float(quickness(spent_s[here][worthy[here]]).sum()),
            latencies=spent_s[here][valid[here] & known[here]],
        )


def _take_in(
    found: Measured,
    log: RunLog,
    one: Footage,
    spent: _Spent,
    views: Sequence[View],
    digest: str,
    mark: str,
) -> None:
    plan = one.plan
    fires = [fire.id for fire in plan.fires]
    home: Cluster = ("fire", fires[0] + mark) if fires else ("camera", plan.id + mark)
    row = _row(found, home)
    row[COLUMN["visual"]] += spent.visual
    row[COLUMN["watched"]] += watched_hours([one])
    found.latencies.setdefault(home, []).append(spent.latencies)
    if not plan.truth:
        return

    for view in views:
        key = (digest, view.fire, view.camera)
        cluster = ("fire", view.fire + mark)
        found.views[key] = view
        found.cluster_of[key] = cluster
        own = _row(found, cluster)
        own[COLUMN["views"]] += 1
        own[COLUMN["worth"]] += earliness(view.ttfd_s)
        own[COLUMN["found"]] += view.parts is not None
        if view.parts is None:
            plans = {fire.id: fire for fire in plan.fires}
            found.stuck[key] = stuck(one, plans[view.fire], view)
    raised = false_alarms([one], alarm_policy(log))
    right = confusion([one])
    v1 = mean_frame_score_v1(judged_sequences([one]))
    boxes = list(_boxes(one))
    found.boxes += [(home, iou, verdict.confidence) for _, iou, verdict in boxes if verdict]
    marked = one.those(np.flatnonzero(one.marked))
    has_boxes = any(t.box is not None for f in marked for t in f.truth)
    found.boxed = found.boxed or has_boxes
    for name, value in {
        "episodes": raised.episodes,
        "hours": raised.camera_hours,
        "matched": sum(iou >= IOU_MATCH for _, iou, verdict in boxes if verdict),
        "predicted": sum(verdict is not None for _, _, verdict in boxes),
        "boxed": sum(in_truth for in_truth, _, _ in boxes),
        "quick": spent.quick,
        "admitted": spent.admitted,
        "valid": spent.valid,
        "sent": spent.sent,
        "tp": right.tp,
        "fp": right.fp,
        "fn": right.fn,
        "tn": right.tn,
        "v1": v1 or 0.0,
        "sequences": v1 is not None,
    }.items():
        row[COLUMN[name]] += value


def _row(found: Measured, cluster: Cluster) -> Floats:
    return found.sums.setdefault(cluster, np.zeros(len(COLUMNS)))


def _boxes(one: Footage) -> Iterator[tuple[bool, float, Verdict | None]]:
    """(boxes in the truth, IoU, verdict if it has a box) of each frame that counts for boxes.

    As `accuracy.localization` counts them, but also for a camera without truth boxes of its own.
    """
    # a frame that shows no box and of which no smoke is claimed adds nothing
    for frame in one.those(np.flatnonzero(one.marked | (one.says == 1))):
        truth = [t.box for t in frame.truth if t.box is not None]
        verdict = frame.verdict
        if verdict is None or frame.smoke is None or (frame.smoke and not truth):
            continue
        box = verdict.box if verdict.has_smoke else None
        iou = best_iou(box, truth) if box is not None else 0.0
        yield bool(truth), iou, verdict if box is not None else None
