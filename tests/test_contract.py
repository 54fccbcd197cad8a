"""Contract V1.0: what replies say, and that no reply whatsoever brings the reader down."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream import contract
from earlyfire_stream.contract import (
    Parsed,
    box_from_corners,
    check_prompt,
    corners_on_sent,
    prompt,
    read_reply,
    schema,
    settled,
)
from earlyfire_stream.errors import UsageError
from earlyfire_stream.verdict import Box, CoordSpace, Reason, ResizeMode, Verdict

ABS, REL, UNIT = CoordSpace.RESIZED_ABS, CoordSpace.REL1000, CoordSpace.UNIT
STRETCH, LETTERBOX = ResizeMode.STRETCH, ResizeMode.LETTERBOX
FRAME = (1280, 720)
SENT = (1288, 728)
unhurried = settings(deadline=None)
"""On a busy machine any example may take a while."""


def read(
    text: str,
    finish: str = "stop",
    space: CoordSpace = UNIT,
    mode: ResizeMode = STRETCH,
    original: tuple[int, int] = FRAME,
    sent: tuple[int, int] = SENT,
) -> Parsed:
    return read_reply(text, finish, space, mode, original, sent)


def verdict(text: str, finish: str = "stop", space: CoordSpace = UNIT) -> Verdict:
    found = read(text, finish, space).verdict
    assert found is not None
    return found


def reason(text: str, finish: str = "stop") -> Reason:
    bad = read(text, finish).bad
    assert bad is not None
    return bad.reason


def test_a_strict_reply_is_taken_as_it_stands() -> None:
    assert verdict('{"has_smoke": false, "bbox": null}') == Verdict(False)
    assert verdict('{"has_smoke": true, "bbox": [0.5, 0.25, 0.25, 0.5]}') == Verdict(
        True, Box(0.5, 0.25, 0.25, 0.5)
    )


@pytest.mark.parametrize("box", ["null", "[]", "[0, 0, 0, 0]", "[0.0, 0.0, 0.0, 0.0]"])
@pytest.mark.parametrize("says", ["true", "false"])
def test_no_box_null_empty_or_zeros_is_a_valid_answer_without_one(box: str, says: str) -> None:
    parsed = read(f'{{"has_smoke": {says}, "bbox": {box}}}')
    assert parsed == Parsed(Verdict(says == "true"))


def test_a_missing_box_key_is_no_error_either() -> None:
    assert read('{"has_smoke": true}') == Parsed(Verdict(True))


@pytest.mark.parametrize(
    "box",
    [
        '"here"',
        "[0.1, 0.2, 0.3]",
        "[0.1, 0.2, 0.3, 0.4, 0.5]",
        '[0.1, 0.2, 0.3, "x"]',
        "[true, true, true, true]",
        "[1e999, 0.5, 0.1, 0.1]",
        "[" + "9" * 400 + ", 0.5, 0.1, 0.1]",
        "[0.5, 0.5, 0, 0.1]",
        "[0.5, 0.5, -0.1, 0.1]",
        "[640, 360, 100, 100]",
        "[1.4, 0.5, 0.1, 0.1]",
        '{"x": 1}',
        "[[]]",
        "true",
    ],
)
def test_a_broken_box_beside_a_valid_has_smoke_is_a_box_error_and_not_bad_json(box: str) -> None:
    parsed = read(f'{{"has_smoke": true, "bbox": {box}}}')
    assert parsed.verdict is not None
    assert parsed.verdict.has_smoke
    assert parsed.verdict.box is None
    assert (parsed.box_error != "") == (box != "[[]]")


def test_a_box_without_smoke_is_dropped_and_flagged() -> None:
    found = verdict('{"has_smoke": false, "bbox": [0.5, 0.5, 0.1, 0.1]}')
    assert found == Verdict(False, repairs=("box_without_smoke",))


@pytest.mark.parametrize("says", ["1", "0", '"true"', "null", "[true]", "{}"])
def test_has_smoke_must_be_a_boolean(says: str) -> None:
    assert reason(f'{{"has_smoke": {says}, "bbox": null}}') is Reason.SCHEMA


@pytest.mark.parametrize("text", ["[]", "17", '"yes"', "null", "true", '{"smoke": true}', "[1,2]"])
def test_json_that_is_not_the_contract_is_a_schema_error(text: str) -> None:
    assert reason(text) is Reason.SCHEMA


def test_the_sentinel_is_told_from_other_replies_that_are_not_json() -> None:
    assert reason("BAD_JSON") is Reason.SENTINEL
    assert reason('  "BAD_JSON"\n') is Reason.SENTINEL
    assert reason("BAD_JSON.") is Reason.NOT_JSON
    assert reason("bad_json") is Reason.NOT_JSON


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_silence_is_empty(text: str) -> None:
    assert reason(text) is Reason.EMPTY


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"has_smoke": true, "bbox": null}\n```',
        'Here you are: {"has_smoke": true, "bbox": null} I hope that helps.',
        'In {brackets} first, then {"has_smoke": true, "bbox": null}',
    ],
)
def test_a_fence_or_prose_around_the_answer_is_taken_off_and_flagged(text: str) -> None:
    assert verdict(text) == Verdict(True, repairs=("extracted",))


def test_an_answer_in_a_list_of_one_is_unwrapped_and_flagged() -> None:
    assert verdict('[{"has_smoke": true}]') == Verdict(True, repairs=("unwrapped",))


@pytest.mark.parametrize(
    "text",
    [
        "{'has_smoke': True, 'bbox': None}",
        "{has_smoke: true, bbox: null}",
        '{"has_smoke": true, "bbox": null,',
        '{"has_smoke": true "bbox": []}',
    ],
)
def test_nearly_json_is_repaired_and_flagged(text: str) -> None:
    found = verdict(text)
    assert found.has_smoke
    assert found.repairs == ("json_repair",)


@pytest.mark.parametrize("finish", ["length", "", "error", "load"])
def test_nothing_is_repaired_in_a_reply_that_ended_before_its_time(finish: str) -> None:
    assert reason('{"has_smoke": true, "bbox": [0.5, 0.5, 0.', finish) is Reason.CUT_OFF
    assert reason('{"has_smoke": tr', finish) is Reason.CUT_OFF
    assert verdict('{"has_smoke": true, "bbox": null}', finish) == Verdict(True)


def test_a_reply_we_cut_after_false_is_valid() -> None:
    assert verdict('{"has_smoke": false', "cut") == Verdict(False)
    assert verdict('{"has_smoke": true', "cut") == Verdict(True)
    assert reason('{"has_smoke": fal', "cut") is Reason.CUT_OFF


def test_nan_and_infinity_are_refused_as_coordinates() -> None:
    for word in ("NaN", "Infinity", "-Infinity"):
        parsed = read(f'{{"has_smoke": true, "bbox": [{word}, 0.5, 0.1, 0.1]}}')
        assert parsed.box_error
        assert parsed.verdict is not None
        assert parsed.verdict.box is None


def test_a_key_that_stands_twice_is_flagged_and_refused_where_it_disagrees() -> None:
    twice = verdict('{"has_smoke": true, "bbox": null, "has_smoke": true}')
    assert twice == Verdict(True, repairs=("repeated_key",))
    assert reason('{"has_smoke": true, "has_smoke": false}') is Reason.SCHEMA
    assert reason('{"has_smoke": true, "has_smoke": 1}') is Reason.SCHEMA
    parsed = read('{"has_smoke": true, "bbox": [0.5,0.5,0.1,0.1], "bbox": [0.2,0.2,0.1,0.1]}')
    assert parsed.verdict is not None
    assert parsed.verdict.box is None
    assert "twice" in parsed.box_error


def test_two_answers_that_disagree_are_no_answer() -> None:
    assert reason('{"has_smoke": true}\n{"has_smoke": false}') is Reason.SCHEMA
    assert reason("{'has_smoke': true, 'has_smoke': False}") is Reason.SCHEMA


def test_native_pixels_become_fractions_of_the_frame() -> None:
    found = verdict('{"has_smoke": true, "bbox_2d": [322, 182, 644, 364]}', space=ABS)
    assert found.box == Box(0.375, 0.375, 0.25, 0.25)
    assert found.repairs == ()


def test_thousandths_become_fractions_of_the_frame() -> None:
    found = verdict('{"has_smoke": true, "bbox_2d": [250, 250, 500, 500]}', space=REL)
    assert found.box is not None
    assert found.box.corners == pytest.approx((0.25, 0.25, 0.5, 0.5))


@pytest.mark.parametrize("space", [ABS, REL])
def test_native_boxes_that_are_fractions_already_are_taken_so_and_flagged(
    space: CoordSpace,
) -> None:
    found = verdict('{"has_smoke": true, "bbox_2d": [0.25, 0.25, 0.5, 0.5]}', space=space)
    assert found.box is not None
    assert found.box.corners == pytest.approx((0.25, 0.25, 0.5, 0.5))
    assert found.repairs == ("already_unit",)


def test_corners_in_the_wrong_order_are_swapped_and_flagged() -> None:
    found = verdict('{"has_smoke": true, "bbox_2d": [644, 364, 322, 182]}', space=ABS)
    assert found.box == Box(0.375, 0.375, 0.25, 0.25)
    assert found.repairs == ("corners_swapped",)


def test_of_several_boxes_the_first_is_taken_and_flagged() -> None:
    text = '{"has_smoke": true, "bbox_2d": [[322, 182, 644, 364], [0, 0, 10, 10]]}'
    found = verdict(text, space=ABS)
    assert found.box == Box(0.375, 0.375, 0.25, 0.25)
    assert found.repairs == ("first_of_several_boxes",)


def test_a_box_that_sticks_out_is_clipped_and_one_outside_is_an_error() -> None:
    found = verdict('{"has_smoke": true, "bbox_2d": [966, 546, 2000, 2000]}', space=ABS)
    assert found.box is not None
    assert found.box.corners == pytest.approx((0.75, 0.75, 1.0, 1.0))
    assert read('{"has_smoke": true, "bbox_2d": [2000, 0, 2100, 50]}', space=ABS).box_error


def test_a_letterboxed_box_is_freed_of_its_padding() -> None:
    # 1280x720 on 1024x1024: scale 0.8, 1024x576 of picture, (1024-576)//2 = 224 black above
    parsed = read(
        '{"has_smoke": true, "bbox_2d": [256, 368, 512, 512]}', "stop", ABS, LETTERBOX, FRAME,
        (1024, 1024),
    )  # fmt: skip
    assert parsed.verdict is not None
    assert parsed.verdict.box is not None
    assert parsed.verdict.box.corners == pytest.approx((0.25, 0.25, 0.5, 0.5))


def test_a_box_in_the_black_padding_is_a_box_error() -> None:
    parsed = read(
        '{"has_smoke": true, "bbox_2d": [0, 0, 500, 200]}', "stop", ABS, LETTERBOX, FRAME,
        (1024, 1024),
    )  # fmt: skip
    assert parsed.box_error


sizes = st.tuples(st.integers(28, 4096), st.integers(28, 4096))


@unhurried
@given(st.tuples(*[st.floats(0, 1)] * 4), sizes, sizes, st.sampled_from(list(ResizeMode)))
def test_boxes_go_there_and_back_within_a_pixel(
    four: tuple[float, float, float, float],
    original: tuple[int, int],
    sent: tuple[int, int],
    mode: ResizeMode,
) -> None:
    x1, y1, x2, y2 = sorted(four[:2]) + sorted(four[2:])
    x1, x2, y1, y2 = x1, y1, x2, y2
    if x2 - x1 < 1e-3 or y2 - y1 < 1e-3:
        return
    box = Box.from_corners(x1, y1, x2, y2)
    back = box_from_corners(corners_on_sent(box, mode, original, sent), mode, original, sent)
    pixel = 1 / max(original)
    assert back.corners == pytest.approx(box.corners, abs=pixel)


def test_a_reply_longer_than_any_answer_is_cut_off() -> None:
    assert reason('{"has_smoke": true}' + " " * 10 + "x" * 100_000) is Reason.CUT_OFF


BOMBS = [
    "[" * 50_000,
    '{"a":' * 15_000,
    '{"has_smoke": true, "bbox": ' + "[" * 50_000,
    '{"has_smoke": true, "bbox": ' + "[" * 900 + "]" * 900 + "}",
    "{'" * 4_000,
    "{'" * 50_000,
    "({[" * 650,
    '{"has_smoke": true, "bbox": [' + "1" * 5_000 + "]}",
    '{"has_smoke": ' + "1" * 4_000 + "}",
    '{"has_smoke": true, "bbox": "\\ud800"}',
    '{"has_smoke": "\ud800"}',
    "\ud800\udfff\x00",
    '{"has_smoke"' + ":" * 50_000,
    '{"has_smoke"' + " " * 90_000,
    "has_smoke" * 10_000,
    "{" * 16 + "'" * 1_900,
    '{"a" "b" ' * 16 + '"' * 1_500,
]


@pytest.mark.parametrize("text", BOMBS)
@pytest.mark.parametrize("finish", ["stop", "length", "cut"])
def test_no_bomb_raises_or_takes_long(text: str, finish: str) -> None:
    began = time.process_time()
    parsed = read(text, finish, ABS)
    assert parsed.verdict is not None or parsed.bad is not None
    assert time.process_time() - began < 1.0


words = st.sampled_from(
    ['{"has_smoke"', ": ", "true", "false", ", ", '"bbox": ', '"bbox_2d": ', "[", "]", "}", "{",
     "0.5", "300", "-1", "1e999", "NaN", "null", "'", '"', "```", "```json\n", "BAD_JSON", "\\",
     "\ud800", "9" * 400, "//", "has_smoke", "\n"]
)  # fmt: skip


@unhurried
@given(
    st.one_of(st.text(), st.lists(words, max_size=30).map("".join)),
    st.sampled_from(["stop", "length", "cut", ""]),
    st.sampled_from(list(CoordSpace)),
    st.sampled_from(list(ResizeMode)),
)
def test_no_text_makes_the_reader_raise_or_return_what_is_not_finite(
    text: str, finish: str, space: CoordSpace, mode: ResizeMode
) -> None:
    parsed = read(text, finish, space, mode)
    if parsed.verdict is not None and parsed.verdict.box is not None:
        assert all(math.isfinite(v) and 0 <= v <= 1 for v in parsed.verdict.box.corners)
        assert parsed.verdict.has_smoke
    if parsed.bad is not None:
        assert parsed.bad.detail.isascii()
    assert parsed.box_error.isascii()


@unhurried
@given(st.lists(words, max_size=12).map("".join), st.integers(0, 200))
def test_what_a_stream_settled_is_what_the_whole_reply_says(text: str, at: int) -> None:
    early = settled(text[:at])
    late = read(text).verdict
    if early is not None and late is not None:
        assert late.has_smoke is early


def test_has_smoke_is_settled_at_its_last_letter_and_not_before() -> None:
    whole = '{"has_smoke": false, "bbox": null}'
    seen = [settled(whole[:n]) for n in range(len(whole) + 1)]
    first = whole.index("false") + len("false")
    assert seen == [None] * first + [False] * (len(whole) + 1 - first)
    assert settled('```json\n{ "has_smoke" :true') is True
    assert settled('I think it is "has_smoke": true') is None


def test_a_confidence_outside_zero_to_one_is_left_out() -> None:
    def confidence(value: float | None) -> float | None:
        text = '{"has_smoke": true, "bbox": null}'
        found = read_reply(text, "stop", UNIT, STRETCH, FRAME, SENT, value).verdict
        assert found is not None
        return found.confidence

    assert confidence(0.7) == 0.7
    assert confidence(math.nan) is None
    assert confidence(1.2) is None
    assert confidence(None) is None


def test_the_default_prompt_asks_each_family_in_its_own_units() -> None:
    native = prompt("v1", ABS)
    assert "bbox_2d" in native.system
    assert "pixels" in native.system
    assert native.space is ABS
    assert native.schema == schema(ABS)
    assert "1288 pixels wide and 728 pixels high" in native.user(1288, 728)
    assert "0 to 1000" in prompt("v1", REL).system
    assert "x_center" in prompt("v1", UNIT).system


def test_the_constant_instructions_do_not_hold_the_size() -> None:
    for name in contract.prompt_names():
        for space in CoordSpace:
            assert "{width}" not in prompt(name, space).system


def test_the_literal_prompt_asks_for_the_contract_whatever_the_model() -> None:
    for space in CoordSpace:
        literal = prompt("v1-literal", space)
        assert literal.space is UNIT
        assert literal.schema is None
        assert "BAD_JSON" in literal.system
        assert "[x_center, y_center, width, height]" in literal.system


def test_the_schema_puts_has_smoke_first_and_needs_both_keys() -> None:
    for space, key in ((UNIT, "bbox"), (ABS, "bbox_2d"), (REL, "bbox_2d")):
        text = json.dumps(schema(space))
        assert text.index("has_smoke") < text.index(key)
        assert schema(space)["required"] == ["has_smoke", key]


def test_an_unknown_prompt_names_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'v1-literal'"):
        prompt("v1-litteral", ABS)
    with pytest.raises(UsageError, match="Known: v1, v1-literal"):
        prompt("zzzzzz", ABS)


def test_a_prompt_file_of_ones_own_works(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("any: {system: Look., user: 'Smoke in {width}?', answers: rel1000}\n")
    mine = prompt(str(file), ABS)
    assert mine.user(56, 28) == "Smoke in 56?"
    assert mine.space is REL
    assert mine.schema == schema(REL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "needs sections"),
        ("unit: {system: a, user: b}\n", "neither a section 'resized_abs'"),
        ("any: {system: a}\n", "must be texts"),
        ("any: {system: a, user: b, temperature: 1}\n", "unknown key 'temperature'"),
        ("any: {system: a, user: b, answers: pixels}\n", "answers"),
        ("any: {system: a, user: b, schema: 3}\n", "true or false"),
        ("any: [\n", "not YAML"),
    ],
)
def test_a_broken_prompt_file_says_what_is_wrong(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        prompt(str(file), ABS)


def test_a_missing_prompt_file_is_named() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        prompt("./no-such-prompt.yaml", ABS)


def test_a_prompt_file_may_say_how_clips_and_reasons_are_asked_for(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "any:\n  system: Watch.\n  user: One picture.\n"
        "  clip: '{frames} pictures over {seconds} s, {width} x {height}, {other}'\n"
        "  explain: 'Why {answer}?'\n",
        encoding="utf-8",
    )
    mine = prompt(str(own), CoordSpace.UNIT)
    assert mine.user_of_clip(28, 56, 3, 4.5) == "3 pictures over 4.5 s, 28 x 56, {other}"
    # what the model said is text: its braces are no places to fill
    assert mine.explain(28, 56, '{"width": {width}}') == 'Why {"width": {width}}?'


def test_prompts_without_such_words_get_the_usual_ones() -> None:
    usual = prompt("v1", CoordSpace.UNIT)
    assert usual.user_of_clip(28, 56, 3, 4.5).startswith(
        "These are 3 frames of one camera over 4.5"
    )
    assert "20 words" in usual.explain(28, 56, "{}")


def test_two_wordings_of_one_name_are_told_apart(tmp_path: Path) -> None:
    digests = []
    for folder, words in (("a", "Watch."), ("b", "Watch!"), ("c", "Watch.")):
        (tmp_path / folder).mkdir()
        own = tmp_path / folder / "p.yaml"
        own.write_text(f"any: {{system: {words}, user: Smoke}}\n", encoding="utf-8")
        digests.append(prompt(str(own), CoordSpace.UNIT).digest)
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resized_abs: {system: s, user: u}\nunit: {system: s}\n", "`system` and `user` must be"),
        ("any: {system: s, user: u, explain: 3}\n", "`clip` and `explain` must be texts"),
        ("colour: {system: s, user: u}\n", "neither a section"),
        ('any: {system: "\\ud800", user: u}\n', "half of a surrogate pair"),
        ("[]\n", "needs sections"),
    ],
)
def test_a_prompt_file_is_checked_whole_before_a_model_is_known(
    tmp_path: Path, text: str, said: str
) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        check_prompt(str(own))


def test_a_prompt_for_one_family_alone_is_no_mistake(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("resized_abs: {system: s, user: u}\n", encoding="utf-8")
    check_prompt(str(own))
