"""What a request to the worker may say: everything else is refused with the field's path."""

from __future__ import annotations

import base64
import copy
import json
import math
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyfire_stream.frames import FrameLimits
from earlyfire_stream.worker.ask import Clip, Picture, TokenLogprob
from earlyfire_stream.worker.wire import (
    BadRequest,
    Chat,
    Limits,
    Writer,
    error_body,
    read_ask,
    read_chat,
)

LIMITS = Limits()
SCHEMA = {
    "type": "object",
    "properties": {"has_smoke": {"type": "boolean"}},
    "required": ["has_smoke"],
}


def encoded(kind: str = ".jpg", width: int = 56, height: int = 28, shade: int = 90) -> str:
    pixels = np.full((height, width, 3), shade, np.uint8)
    return base64.b64encode(cv2.imencode(kind, pixels)[1].tobytes()).decode()


JPEG = encoded()


def body(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}}
    return {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "You look for smoke."},
            {
                "role": "user",
                "content": list(parts) or [picture, {"type": "text", "text": "Smoke?"}],
            },
        ],
        **more,
    }


def video(frames: int = 2, timestamps: Any = None, **more: Any) -> dict[str, Any]:
    given_times = [0.5 * n for n in range(frames)] if timestamps is None else timestamps
    url = "data:video/jpeg;base64," + ",".join([JPEG] * frames)
    return {
        "type": "video_url",
        "video_url": {"url": url, "timestamps": given_times} | more,
    }


def picture(data: str, kind: str = "jpeg") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{data}"}}


def read(data: Any, limits: Limits = LIMITS) -> Chat:
    return read_chat(json.dumps(data).encode(), limits)


def refusal(data: Any, limits: Limits = LIMITS) -> tuple[str, str]:
    """The path of the field, and the message."""
    with pytest.raises(BadRequest) as why:
        read_ask(read(data, limits), limits)
    assert len(str(why.value)) < 400
    return why.value.param, str(why.value)


# --- what is understood --------------------------------------------------------------------------


def test_a_picture_with_instructions_and_question_is_understood() -> None:
    chat = read(body(user="cam-7", max_tokens=40))
    assert (chat.system, chat.user, chat.model) == ("You look for smoke.", "cam-7", "tiny")
    assert (chat.schema, chat.logprobs, chat.stream, chat.max_tokens) == (None, False, False, 40)
    ask = read_ask(chat, LIMITS)
    shown, question = ask.parts
    assert isinstance(shown, Picture)
    assert shown.pixels.shape == (28, 56, 3)
    assert abs(int(shown.pixels.mean()) - 90) <= 1
    assert question == "Smoke?"
    assert ask.max_tokens == 40


def test_colours_are_blue_green_red() -> None:
    pixels = np.zeros((28, 28, 3), np.uint8)
    pixels[..., 2] = 255
    red = base64.b64encode(cv2.imencode(".png", pixels)[1].tobytes()).decode()
    (shown,) = read_ask(read(body(picture(red, "png"))), LIMITS).parts
    assert isinstance(shown, Picture)
    assert shown.pixels[0, 0].tolist() == [0, 0, 255]


def test_a_clip_keeps_its_frames_and_their_times() -> None:
    ask = read_ask(read(body(video(3, [10, 10.5, 12.25]))), LIMITS)
    (clip,) = ask.parts
    assert isinstance(clip, Clip)
    assert len(clip.frames) == 3
    assert clip.timestamps == (10.0, 10.5, 12.25)


def test_texts_may_be_plain_strings_and_may_be_in_any_script() -> None:
    chat = read(
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "Улица, 煙, 🔥"}]},
                {"role": "user", "content": "Ist da Rauch? 有烟吗?"},
            ],
            "user": "caméra-東",
        }
    )
    assert chat.system == "Улица, 煙, 🔥"
    assert chat.parts == ("Ist da Rauch? 有烟吗?",)
    assert chat.user == "caméra-東"


def test_a_schema_is_taken_as_it_is() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA, "strict": True}}
    assert read(body(response_format=wanted)).schema == SCHEMA
    assert read(body(response_format={"type": "text"})).schema is None


def test_what_makes_no_difference_to_a_greedy_answer_is_taken() -> None:
    chat = read(
        body(
            temperature=0,
            top_p=0.9,
            seed=7,
            n=1,
            stop=None,
            tools=[],
            logit_bias=None,
            frequency_penalty=0.0,
            metadata={"a": "b"},
            max_completion_tokens=12,
            logprobs=True,
            top_logprobs=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert (chat.max_tokens, chat.logprobs, chat.top_logprobs) == (12, True, 5)
    assert chat.stream
    assert chat.include_usage


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"stop": ["\n"]}, "stop"),
        ({"temperature": 0.7}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"top_k": 40}, "top_k"),
        ({"colour": "blue"}, "colour"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"user": 5}, "user"),
        ({"user": "u" * 257}, "user"),
        ({"model": 5}, "model"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": "a"}] * 3}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_honoured_is_refused_by_its_path(
    more: dict[str, Any], param: str
) -> None:
    assert refusal(body(**more))[0] == param


URL = "messages[1].content[0].image_url.url"
VIDEO = "messages[1].content[0].video_url"


@pytest.mark.parametrize(
    ("part", "param", "says"),
    [
        (picture("!!!"), URL, "no base64"),
        (picture("é" * 40), URL, "no base64"),
        (picture(""), URL, "no JPEG"),
        (picture(base64.b64encode(b"GIF89a" + bytes(40)).decode()), URL, "no JPEG"),
        (picture(JPEG[: len(JPEG) // 2 // 4 * 4]), URL, "no JPEG"),
        (picture(JPEG, "webp"), URL, "must begin with data:image/jpeg;base64,"),
        ({"type": "image_url"}, "messages[1].content[0].image_url", "object"),
        ({"type": "image_url", "image_url": {"url": 5}}, URL, "text"),
        (
            {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
            URL,
            "fetches nothing",
        ),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, URL, "fetches nothing"),
        ({"type": "input_audio"}, "messages[1].content[0].type", "must be text"),
        (video(2, [0.0]), f"{VIDEO}.timestamps", "1 entries for 2 frames"),
        (video(2, [1.0, 1.0]), f"{VIDEO}.timestamps", "ascend"),
        (video(2, [2.0, 1.0]), f"{VIDEO}.timestamps", "ascend"),
        (video(2, [0.0, "1"]), f"{VIDEO}.timestamps", "numbers"),
        (video(2, [False, True]), f"{VIDEO}.timestamps", "numbers"),
        (video(2, [0.0, 1e300]), f"{VIDEO}.timestamps", "numbers"),
        (video(2, [0.0, 1e6]), f"{VIDEO}.timestamps", "span more"),
        (video(2, "now"), f"{VIDEO}.timestamps", "list"),
        (video(65), f"{VIDEO}.url", "65 frames"),
        (video(2, url=f"data:video/jpeg;base64,{JPEG},"), f"{VIDEO}.url", "frame 1 is no"),
        (
            video(2, url=f"data:video/jpeg;base64,{JPEG},{encoded(width=84)}"),
            f"{VIDEO}.url",
            "one size",
        ),
        (video(2, url=f"data:video/mp4;base64,{JPEG}"), f"{VIDEO}.url", "data:video/jpeg"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_part_that_is_no_picture_is_refused_by_its_path(
    part: dict[str, Any], param: str, says: str
) -> None:
    found, message = refusal(body(part))
    assert found == param
    assert says in message


def test_timestamps_without_numbers_are_refused_before_anything_is_decoded() -> None:
    text = json.dumps(body(video(2, [0.0, 7777]))).replace("7777", "NaN")
    with pytest.raises(BadRequest, match="no JSON"):
        read_chat(text.encode(), LIMITS)


def png_that_says(width: int, height: int) -> str:
    """A few bytes that claim any size."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return base64.b64encode(raw + bytes(40)).decode()


def jpeg_that_says(width: int, height: int) -> str:
    raw = bytearray(base64.b64decode(JPEG))
    at = raw.index(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize(
    "bomb",
    [png_that_says(60_000, 60_000), jpeg_that_says(60_000, 60_000), png_that_says(0, 5)],
    ids=["png", "jpeg", "no pixels"],
)
def test_a_picture_that_claims_a_huge_size_is_refused_by_its_header(
    bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*args: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    assert refusal(body(picture(bomb)))[0] == URL


def test_many_pictures_together_may_not_be_huge_either() -> None:
    limits = Limits(picture=FrameLimits(max_pixels=56 * 28))
    assert read_ask(read(body(*[picture(JPEG)] * 4), limits), limits)
    assert "too many pixels" in refusal(body(*[picture(JPEG)] * 5), limits)[1]
    assert "17 pictures" in refusal(body(*[picture(JPEG)] * 17))[1]


def test_base64_is_measured_before_it_is_decoded() -> None:
    limits = Limits(picture=FrameLimits(max_bytes=100))
    assert "more than 100 bytes" in refusal(body(picture("A" * 1000)), limits)[1]


def test_pixels_that_cannot_be_decoded_are_the_client_s_mistake() -> None:
    assert refusal(body(picture(png_that_says(10, 10))))[0] == URL


def test_texts_are_limited_in_all() -> None:
    long = {"type": "text", "text": "x" * 60_000}
    assert "120019 characters" in refusal(body(long, long))[1]


def test_a_schema_is_limited_in_size_and_depth() -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"not": deep}
    path = "response_format.json_schema.schema"

    def wanted(schema: object) -> dict[str, Any]:
        inner = {"name": "v", "schema": schema}
        return body(response_format={"type": "json_schema", "json_schema": inner})

    assert refusal(wanted(deep)) == (path, f"{path} is nested more than 40 deep")
    assert refusal(wanted({"enum": ["x" * 60_000]}))[0] == path


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 5000,
        b'{"user": "\\ud800"}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read_chat(raw, LIMITS)


def test_a_stranger_s_words_come_back_shortened() -> None:
    param, message = refusal(body(**{"x" * 5000: 1}))
    assert len(param) <= 60
    assert len(message) < 150


# --- no body makes it raise anything else --------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["user", "system", "text", "image_url", "video_url", "json_schema", JPEG]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)

WHOLE = body(
    picture(JPEG),
    video(2),
    {"type": "text", "text": "Smoke?"},
    response_format={"type": "json_schema", "json_schema": {"name": "v", "schema": SCHEMA}},
    stream=True,
    stream_options={"include_usage": True},
    logprobs=True,
    top_logprobs=3,
    temperature=0,
    n=1,
    stop=None,
    user="cam",
    max_tokens=5,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(p for key, one in inner for p in paths(one, (*path, key)))]


def answered_or_refused(raw: bytes) -> None:
    try:
        read_ask(read_chat(raw, LIMITS), LIMITS)
    except BadRequest as why:
        error_body(why.status, str(why), why.code, why.param)  # can be told


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(raw: bytes) -> None:
    answered_or_refused(raw)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(paths(WHOLE)[1:]), anything)
def test_no_value_in_any_place_raises_anything_but_a_refusal(
    path: tuple[Any, ...], value: Any
) -> None:
    whole = copy.deepcopy(WHOLE)
    inside: Any = whole
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    answered_or_refused(json.dumps(whole).encode())


@settings(deadline=None)
@given(st.data())
def test_no_damaged_picture_raises_anything_but_a_refusal(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([".jpg", ".png"]))
    raw = bytearray(base64.b64decode(encoded(kind)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    answered_or_refused(json.dumps(body(picture(base64.b64encode(cut).decode()))).encode())


# --- what is written -----------------------------------------------------------------------------


def test_probabilities_that_json_cannot_hold_are_written_as_openai_does() -> None:
    chat = read(body(logprobs=True, top_logprobs=2))
    token = TokenLogprob(" true", -0.25, ((" true", -0.25), ("é", -math.inf)))
    data = json.loads(Writer("id", 5, "tiny", chat).whole(" true", [token], "stop", {}, {}))
    assert data["choices"][0]["logprobs"]["content"] == [
        {
            "token": " true",
            "logprob": -0.25,
            "bytes": [32, 116, 114, 117, 101],
            "top_logprobs": [
                {"token": " true", "logprob": -0.25, "bytes": [32, 116, 114, 117, 101]},
                {"token": "é", "logprob": -9999.0, "bytes": [195, 169]},
            ],
        }
    ]


def test_without_being_asked_for_no_probabilities_are_told() -> None:
    writer = Writer("id", 5, "tiny", read(body()))
    data = json.loads(writer.whole("x", [TokenLogprob("x", -1.0)], "stop", {}, {}))
    assert data["choices"][0]["logprobs"] is None
