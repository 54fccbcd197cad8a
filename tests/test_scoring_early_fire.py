"""The Early-Fire Score, against the table that defines it and against each of its edge cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream.errors import RunFolderError
from earlyfire_stream.records import CameraPlan, FirePlan, RunLog
from earlyfire_stream.scoring import score
from earlyfire_stream.scoring.early_fire import Terms, earliness, few_false_alarms
from earlyfire_stream.verdict import Box, Fate, Reason, Verdict
from tests.scored_runs import NO, YES, answered, fated, one_camera, run_log, shot, verdicts

BOX = Box(0.5, 0.5, 0.2, 0.2)

STRATEGIES = {
    "perfect": "F" * 40 + "T" * 41,
    "3 frames late": "F" * 43 + "T" * 38,
    "10 late": "F" * 50 + "T" * 31,
    "one false alarm at frame 0, then perfect": "T" + "F" * 39 + "T" * 41,
    "always smoke": "T" * 81,
    "never": "F" * 81,
}


def figlib_like(letters: str, latency_s: float, with_boxes: bool) -> RunLog:
    """81 frames at 60 s, onset at index 40; truth has a box wherever the strategy is right.

    With `with_boxes` it is predicted exactly there, so that L is 1, else never, so that L is 0.
    """
    said = [
        replace(YES, box=BOX) if v.has_smoke and with_boxes and i >= 40 else v
        for i, v in enumerate(verdicts(letters))
    ]
    boxes = {i: BOX for i in range(40, 81) if letters[i] == "T"} or {40: BOX}
    return one_camera(said, onset=2400, boxes=boxes, latency_s=latency_s)


@pytest.mark.parametrize(
    ("strategy", "v1", "slow_without_boxes", "quick_with_boxes"),
    [
        ("perfect", 100.0, 77.4, 100.0),
        ("3 frames late", 95.9, 66.7, 86.1),
        ("10 late", 86.4, 52.1, 67.2),
        ("one false alarm at frame 0, then perfect", 100.0, 16.8, 21.7),
        ("always smoke", 70.6, 2.6, 3.4),
        ("never", 49.4, 0.0, 0.0),
    ],
)
def test_the_strategies_over_81_frames_score_as_the_definition_says(
    strategy: str, v1: float, slow_without_boxes: float, quick_with_boxes: float
) -> None:
    slow = score(figlib_like(STRATEGIES[strategy], 1.0, with_boxes=False))
    quick = score(figlib_like(STRATEGIES[strategy], 0.25, with_boxes=True))
    assert slow.frame_score_v1 is not None
    assert slow.early_fire_score is not None
    assert quick.early_fire_score is not None
    assert round(slow.frame_score_v1, 1) == v1
    assert round(slow.early_fire_score, 1) == slow_without_boxes
    assert round(quick.early_fire_score, 1) == quick_with_boxes
