"""The second look: a crop around a suspected box, sent again before the verdict is settled."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import orjson
import pytest

from earlyfire_stream.clock import Clock
from earlyfire_stream.consumer import check
from earlyfire_stream.engines.base import Request, Traits
from earlyfire_stream.engines.simulated import SimulatedEngine
from earlyfire_stream.errors import EngineOverloaded, UsageError
from earlyfire_stream.records import FrameRecord, FrameTable
from earlyfire_stream.scenario import models
from earlyfire_stream.second_look import inside, outside, settle, window
from earlyfire_stream.verdict import Box, Fate, Truth, Verdict
from tests.test_consumer import BLANK, NO, YES, Say, Script, Stage, scenario, watched

LOOK_AGAIN = {"policy": "every", "second_look": True}
HD = (1280, 720)
# YES has its box at 0.375..0.625 x 0.1875..0.3125 of the frame: 2.5 x 0.25 = 0.625 of the width is
# 800 px around 640, half of the height is 360 px around 180.
CROP = (240, 0, 1040, 360)


def two(first: Say, second: Say) -> Script:
    return lambda request: second if request.crop else first


def one_frame(script: Script, **more: Any) -> Stage:
    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0)
        stage.end()

    return watched(feed, script, **({"sampling": LOOK_AGAIN} | more))


def only(stage: Stage) -> FrameRecord:
    (record,) = stage.frames
    return record


def test_the_crop_is_two_and_a_half_boxes_and_at_least_a_quarter_of_the_frame() -> None:
    assert window(Box(0.5, 0.5, 0.1, 0.1), HD) == (320, 180, 960, 540)
    assert window(Box(0.5, 0.5, 0.3, 0.1), HD) == (160, 180, 1120, 540)
    assert window(Box(0.5, 0.25, 0.25, 0.125), HD) == CROP


def test_a_crop_that_would_stick_out_is_moved_inside() -> None:
    assert window(Box(0.95, 0.95, 0.1, 0.1), HD) == (640, 360, 1280, 720)
    assert window(Box(0.0, 0.0, 0.1, 0.1), HD) == (0, 0, 640, 360)


def test_a_box_so_large_that_the_crop_would_be_the_frame_is_not_looked_at_again() -> None:
    assert window(Box(0.5, 0.5, 0.4, 0.4), HD) is None
    assert window(Box(0.5, 0.5, 0.4, 0.1), HD) == (0, 180, 1280, 540)


def test_a_box_is_carried_into_the_crop_and_back() -> None:
    # the whole crop of 800 x 360 at (240, 0) is the frame's 0.1875..0.8125 x 0..0.5
    assert outside(Box(0.5, 0.5, 1, 1), CROP, HD) == Box(0.5, 0.25, 0.625, 0.5)
    inner = inside(Box(0.5, 0.25, 0.25, 0.125), CROP, HD)
    assert inner is not None
    assert inner.corners == pytest.approx((0.3, 0.375, 0.7, 0.625))
    assert inside(Box(0.9, 0.9, 0.1, 0.1), CROP, HD) is None


def test_the_second_verdict_decides_and_smoke_without_a_box_keeps_the_first_ones() -> None:
    first = Verdict(True, Box(0.5, 0.5, 0.2, 0.2), 0.6)
    assert settle(first, Verdict(False, None, 0.1)) == Verdict(False, None, 0.1)
    better = Verdict(True, Box(0.5, 0.5, 0.1, 0.1), 0.9)
    assert settle(first, better) == better
    assert settle(first, Verdict(True, None, 0.9)) == Verdict(True, first.box, 0.9)


def test_a_confirmed_positive_takes_the_box_of_the_second_look() -> None:
    whole = '{"has_smoke": true, "bbox": [0.5, 0.5, 1.0, 1.0]}'
    stage = one_frame(two(Say(YES), Say(whole)))
    answer = only(stage).answer
    assert answer is not None
    assert answer.second is not None
    assert answer.verdict is not None
    assert answer.verdict.box == Box(0.5, 0.25, 0.625, 0.5)
    assert answer.second.first.box == Box(0.5, 0.25, 0.25, 0.125)
    assert answer.second.crop == Box(0.5, 0.25, 0.625, 0.5)
    assert answer.second.text == whole
    assert [a.alarm.box for a in stage.alarms] == [answer.verdict.box]


def test_a_withdrawn_positive_raises_no_alarm_and_keeps_its_one_fate() -> None:
    stage = one_frame(two(Say(YES), Say(NO)))
    assert stage.alarms == []
    assert stage.fates() == {0: (Fate.ANSWERED, "")}
    answer = only(stage).answer
    assert answer is not None
    assert answer.verdict == Verdict(False)
    assert answer.second is not None
    assert answer.second.first.has_smoke


def test_both_requests_count_in_tokens_and_in_time() -> None:
    # 1280 x 720 is 46 x 26 = 1,196 tokens; the crop of 800 x 360 is sent twice as large, as far as
    # 1,280 tokens go: 53 x 24 = 1,272
    stage = one_frame(two(Say(YES, after_s=0.5), Say(YES, after_s=0.25)))
    answer = only(stage).answer
    assert answer is not None
    assert answer.second is not None
    assert answer.second.visual_tokens == 1272
    assert answer.second.sent_size == (53 * 28, 24 * 28)
    assert answer.visual_tokens == 1196 + 1272
    assert stage.consumer.tokens_spent == 1196 + 1272
    assert (answer.answered_ns - answer.started_ns) / 1e9 == pytest.approx(0.75)
    assert [(r.seq, r.crop, r.visual_tokens) for r in stage.engine.requests] == [
        (0, False, 1196),
        (0, True, 1272),
    ]


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (Say(error=EngineOverloaded("busy")), "overloaded: busy"),
        (Say("no idea"), "not_json: "),
        (Say(hangs=True), "timeout: no answer"),
    ],
)
def test_where_the_second_look_fails_the_first_verdict_stands(second: Say, error: str) -> None:
    stage = one_frame(two(Say(YES), second))
    answer = only(stage).answer
    assert answer is not None
    assert answer.second is not None
    assert answer.second.verdict is None
    assert answer.second.error.startswith(error)
    assert answer.verdict == answer.second.first
    assert len(stage.alarms) == 1


@pytest.mark.parametrize("text", [NO, '{"has_smoke": true, "bbox": null}', "no idea"])
def test_only_a_positive_with_a_box_is_looked_at_again(text: str) -> None:
    stage = one_frame(two(Say(text), Say(NO)))
    assert len(stage.engine.requests) == 1
    answer = only(stage).answer
    assert answer is not None
    assert answer.second is None


def test_without_the_setting_nothing_is_sent_again() -> None:
    stage = one_frame(two(Say(YES), Say(NO)), sampling={"policy": "every"})
    assert len(stage.engine.requests) == 1
    assert len(stage.alarms) == 1


def test_a_second_look_waits_for_the_budget_and_gives_up_at_the_deadline() -> None:
    # a bucket of 1,200 tokens holds the first look and is full again after 11.96 s at 100 a second
    budget = {"tokens_per_s": 100, "burst": 12}
    stage = one_frame(two(Say(YES, after_s=0.0), Say(YES)), budget=budget)
    first, second = (at for _, _, at in stage.engine.asked)
    assert second - first == pytest.approx(11.96, abs=0.001)
    stage = one_frame(
        two(Say(YES, after_s=0.0), Say(YES)),
        budget=budget,
        engine={"concurrency": 1, "deadline": 3},
    )
    answer = only(stage).answer
    assert answer is not None
    assert answer.second is not None
    assert answer.second.error == "over_budget: no tokens before the deadline"
    assert answer.second.visual_tokens == 0
    assert answer.visual_tokens == 1196
    assert len(stage.alarms) == 1


def test_the_crop_is_cut_from_the_picture_in_its_own_resolution() -> None:
    picture = np.zeros((720, 1280, 3), np.uint8)
    picture[0:360, 240:1040] = 255  # exactly the crop
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()

    async def feed(stage: Stage) -> None:
        stage.deliver("a", 0, jpeg=jpeg)
        stage.end()

    stage = watched(feed, two(Say(YES), Say(YES)), needs_pixels=True, sampling=LOOK_AGAIN)
    first, second = (r.image for r in stage.engine.requests)
    assert first is not None
    assert second is not None
    assert first.shape == (728, 1288, 3)
    assert second.shape == (672, 1484, 3)
    assert second[4:-4, 4:-4].mean() > 250


def test_reasons_are_asked_for_where_the_verdict_was_settled() -> None:
    engine = {"concurrency": 1, "explain": "always"}
    stage = one_frame(two(Say(YES), Say(NO)), engine=engine)
    question = stage.engine.requests[-1]
    assert question.crop
    assert NO in question.user
    assert "1484x672" in question.user


@pytest.mark.parametrize("name", ["baseline", "recorded"])
def test_an_engine_that_needs_whole_frames_refuses_it(name: str) -> None:
    wanted = scenario(sampling=LOOK_AGAIN)
    with pytest.raises(UsageError, match=f"engine {name} cannot look at a part of a frame"):
        check(wanted, Traits(name, "m", crops=False))


def test_a_second_look_is_written_and_read_again() -> None:
    record = only(one_frame(two(Say(YES), Say(YES))))
    table = FrameTable()
    table.take(orjson.loads(orjson.dumps(record)))
    assert table[0] == record
    assert record.answer is not None
    older = orjson.loads(orjson.dumps(record))
    del older["answer"]["second"]
    table.take(older)
    without = dataclasses.replace(record, answer=dataclasses.replace(record.answer, second=None))
    assert table[1] == without


async def test_the_simulated_engine_sees_the_truth_of_the_crop() -> None:
    settings = models.Engine(name="simulated", profile="perfect")
    engine = SimulatedEngine(settings, Clock())
    request = Request(
        camera="a",
        seq=0,
        captured_at=0.0,
        image=None,
        jpeg=BLANK,
        visual_tokens=377,
        system="",
        user="",
        schema=None,
        deadline_ns=Clock().wall_ns() + 10_000_000_000,
        truth=(Truth("f", Box(0.5, 0.5, 0.4, 0.25)),),
        smoke=True,
        crop=True,
    )
    async with engine:
        reply = await engine.infer(request)
    assert orjson.loads(reply.text)["bbox"] == [0.5, 0.5, 0.4, 0.25]
