"""Intervals from drawing fires again.

Most tests have eight cameras, four at the best and four at the worst a figure can be. How many of
the best are among eight drawn is Binomial(8, 1/2): 0.4 % none, 3.5 % at most one, so that the
central 95 % of draws have one to seven of them.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from earlyfire_stream.records import CameraPlan, FirePlan
from earlyfire_stream.scoring.accuracy import CameraBoxes
from earlyfire_stream.scoring.footage import footage
from earlyfire_stream.scoring.resampling import Intervals, _average_precision, clusters, intervals
from tests.scored_runs import run_log

HIT = CameraBoxes(True, 1, [(0.9, 0.8)])
MISS = CameraBoxes(True, 1, [])


def found(
    boxes: list[CameraBoxes] | None = None,
    pairs: list[tuple[float, float]] | None = None,
    v1: list[tuple[float, float, float]] | None = None,
    latencies: list[list[float]] | None = None,
    cluster: list[int] | None = None,
) -> Intervals:
    count = len(boxes or pairs or v1 or latencies or ())
    columns: NDArray[np.float64] = np.array(pairs or [(0.0, 0.0)] * count, float)
    return intervals(
        np.array(cluster or range(count)),
        boxes=boxes or [CameraBoxes(False, 0, [])] * count,
        quality=columns,
        v1=np.array(v1 or [(0.0, 0.0, 0.0)] * count, float),
        streamed=columns,
        latencies=[np.array(values, float) for values in latencies or [[]] * count],
    )


def test_cameras_with_a_fire_in_common_are_one_cluster() -> None:
    f, g = FirePlan("f", 0.0), FirePlan("g", 0.0)
    plans = [("a", (f,)), ("b", (f, g)), ("c", (g,)), ("d", ()), ("e", ())]
    log = run_log([CameraPlan(name, fires, 60.0) for name, fires in plans], [], [])
    assert clusters(footage(log)).tolist() == [0, 0, 0, 1, 2]


def test_localization_of_four_cameras_that_match_and_four_that_see_nothing() -> None:
    # k of 8 drawn match: precision 1, recall k/8
    told = found(boxes=[HIT] * 4 + [MISS] * 4)
    assert told.localization == pytest.approx((1 / 8, 7 / 8))
    assert told.ap40 == pytest.approx((1 / 8, 7 / 8))
    assert told.ap50 == pytest.approx((1 / 8, 7 / 8))


def test_boxes_without_a_confidence_have_no_ranked_precision_to_be_unsure_of() -> None:
    told = found(boxes=[CameraBoxes(True, 1, [(0.9, None)])] * 8)
    assert told.localization == pytest.approx((1.0, 1.0))
    assert told.ap40 is None


def test_ranked_precision_of_a_draw_is_the_area_under_its_envelope() -> None:
    # hit at .9, miss at .8, hit at .7, two frames: 1/2·1 + 1/2·2/3
    hits, boxes, n = [1, 0, 1], [1, 1, 1], [2]
    assert _average_precision(np.array([[*hits, *boxes, *n]], float)) == pytest.approx([5 / 6])


def test_a_latency_score_is_weighed_by_its_frames() -> None:
    # k cameras with 10 of 10, 8 - k with 0 of 10
    told = found(pairs=[(10, 10)] * 4 + [(0, 10)] * 4)
    assert told.latency == pytest.approx((1 / 8, 7 / 8))
    assert told.streaming_accuracy == pytest.approx((1 / 8, 7 / 8))


def test_the_frame_score_is_a_mean_over_sequences() -> None:
    told = found(v1=[(100, 100, 1)] * 4 + [(0, 100, 1)] * 4 + [(0, 0, 0)])
    assert told.frame_score_v1 is not None
    low, high = told.frame_score_v1
    assert low < 25  # the ninth camera has no sequence: some draws have seven or fewer
    assert high > 75
    assert told.frame_score_v1_parity == pytest.approx((100, 100))


def test_latencies_in_seconds_have_intervals_of_mean_and_percentiles() -> None:
    # k cameras at 3 s, 8 - k at 1 s: mean 1 + 2k/8; the median is the one or the other
    told = found(latencies=[[1.0] * 10] * 4 + [[3.0] * 10] * 4).latency_s
    assert told is not None
    assert told["mean"] == pytest.approx((1.25, 2.75))
    assert told["p50"] == pytest.approx((1.0, 3.0))
    assert told["p99"] == pytest.approx((3.0, 3.0))


def test_there_is_no_interval_under_eight_witnesses() -> None:
    assert found(boxes=[HIT] * 7).localization is None
    assert found(pairs=[(1, 1)] * 7).latency is None
    # a ninth camera that was never asked is none, two cameras of one fire are one
    assert found(pairs=[(1, 1)] * 7 + [(0, 0)] * 2).latency is None
    assert found(pairs=[(1, 1)] * 9, cluster=[0, 0, 0, 1, 2, 3, 4, 5, 6]).latency is None
    assert found(pairs=[(1, 1)] * 8).latency == (1.0, 1.0)


def test_a_run_without_cameras_has_no_interval() -> None:
    told = found()
    assert told.localization is told.latency is told.frame_score_v1 is None
    assert told.latency_s == dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))


def test_a_hundred_cameras_of_each_fire_make_nothing_surer() -> None:
    cluster = [place // 100 for place in range(800)]
    told = found(boxes=[HIT] * 400 + [MISS] * 400, cluster=cluster)
    assert told.localization == pytest.approx((1 / 8, 7 / 8))
