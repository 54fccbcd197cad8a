"""The knee: found by what an engine gets done, given up when it fails."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest

from earlyfire_stream.knee import Knee


def limits_of(knee: Knee, servers: int, answers: int, noise: float = 0.2) -> list[int]:
    """The limit after each answer of an engine that works on `servers` requests at a time.

    Each takes 0.3 s; what is more than `servers` queues up inside the engine.
    """
    draw = random.Random(1)
    free = [0.0] * servers
    under_way: list[float] = []
    now_s = 0.0
    limits = []
    for _ in range(answers):
        while len(under_way) < knee.limit:
            begin = max(heapq.heappop(free), now_s)
            end = begin + 0.3 * (1 + noise * (draw.random() - 0.5))
            heapq.heappush(free, end)
            heapq.heappush(under_way, end)
        now_s = heapq.heappop(under_way)
        knee.answered(now_s, full=True)
        limits.append(knee.limit)
    return limits


@pytest.mark.parametrize(
    ("servers", "least", "most"), [(1, 1, 1), (2, 2, 2), (4, 4, 6), (8, 8, 10), (16, 15, 20)]
)
def test_the_limit_settles_at_what_the_engine_works_on_at_a_time(
    servers: int, least: int, most: int
) -> None:
    limits = limits_of(Knee(first=1, highest=64), servers, answers=4000)
    usual, _ = Counter(limits[1000:]).most_common(1)[0]
    assert least <= usual <= most


def test_a_limit_that_began_too_high_comes_down() -> None:
    limits = limits_of(Knee(first=16, highest=64), servers=2, answers=4000)
    usual, _ = Counter(limits[2000:]).most_common(1)[0]
    assert 2 <= usual <= 4


def test_the_highest_limit_is_never_exceeded() -> None:
    assert max(limits_of(Knee(first=4, highest=5), servers=64, answers=2000)) == 5


def test_answers_of_an_engine_that_is_not_full_change_nothing() -> None:
    knee = Knee(first=3, highest=64)
    for n in range(1000):
        knee.answered(n * 0.1, full=False)
    assert knee.limit == 3


def test_a_measurement_is_not_stretched_over_a_pause() -> None:
    knee = Knee(first=1, highest=2)
    for n in range(5):
        knee.answered(n * 1.0, full=True)
    knee.answered(5.0, full=False)
    # six more answers would make a measurement only together with those before the pause
    for n in range(5):
        knee.answered(100.0 + n, full=True)
    assert knee.limit == 1
    knee.answered(105.0, full=True)
    knee.answered(106.0, full=True)
    assert knee.limit == 2  # measured once: now the first trial


def test_a_failing_engine_gets_half_and_never_nothing() -> None:
    knee = Knee(first=16, highest=64)
    for second in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0):
        knee.failed(second)
    assert knee.limit == 1


def test_failures_of_one_burst_count_once() -> None:
    knee = Knee(first=16, highest=64)
    for n in range(16):
        knee.failed(10.0 + n * 0.1)
    assert knee.limit == 8


def test_after_a_failure_the_limit_climbs_again() -> None:
    knee = Knee(first=8, highest=64)
    limits_of(knee, servers=8, answers=500)
    knee.failed(1000.0)
    low = knee.limit
    limits = limits_of(knee, servers=8, answers=3000)
    assert low <= 7
    assert Counter(limits[1500:]).most_common(1)[0][0] >= 8


@pytest.mark.parametrize("first", [0, 65])
def test_an_impossible_first_limit_is_refused(first: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        Knee(first, 64)
