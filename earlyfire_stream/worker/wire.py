"""The wire: what `POST /v1/chat/completions` may carry, and how answers are written.

OpenAI's form, as much of it as this worker can honour. A field that it cannot honour (tools, n > 1,
a temperature) is refused by name rather than ignored; one that makes no difference to greedy
decoding (seed, top_p) is accepted. Our additions: `timestamps` beside a `video_url`,
`usage.prompt_tokens_details.image_tokens`, `timings`.

Everything here is hostile input: it is read in two steps, both pure. `read_chat` looks at the
shape and copies nothing; `read_ask` decodes the pictures, each of whose size is known from its
header before a pixel is decoded, and belongs into a thread. Both raise `BadRequest` and nothing
else, with the path of the field.
"""

from __future__ import annotations

__all__ = [
    "BadRequest",
    "Chat",
    "EncodedClip",
    "EncodedPicture",
    "Limits",
    "Writer",
    "error_body",
    "read_ask",
    "read_chat",
    "usage",
]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import orjson
import pybase64

from earlyfire_stream.frames import FrameLimits, Refused, parse
from earlyfire_stream.worker.ask import Ask, Clip, Picture, Pixels, TokenLogprob


class BadRequest(Exception):
    """The request is the client's mistake; `param` is the path of the field, or empty."""

    def __init__(self, message: str, param: str = "", status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for."""

    pictures: int = 16
    """Image parts and clips together."""
    frames: int = 64
    """Of one clip."""
    picture: FrameLimits = field(default_factory=FrameLimits)
    """Bytes and pixels of one picture; a clip's frames together may have four times as many."""
    text_characters: int = 100_000
    max_tokens: int = 4096
    default_tokens: int = 256
    """Where the request says nothing; an answer with a box has about 40."""
    schema_bytes: int = 50_000
    schema_depth: int = 40
    user_characters: int = 256


CLIP_FACTOR = 4
"""How many full-size pictures the frames of one clip, or all pictures of a request, may hold."""
PNG = b"\x89PNG\r\n\x1a\n"
MOST_TOPS = 20
LONGEST_CLIP_S = 86_400.0
"""A day from first frame to last; positions are counted in fractions of seconds."""
FARTHEST_S = 1e12

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "stop": ([], ""),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "store": (False,),
    "top_k": (1,),
    "min_p": (0,),
    "ignore_eos": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
"""Known fields of OpenAI and vLLM that mean something which is not done here, and the values that
ask for nothing (null always does)."""
_IGNORED = frozenset(
    {"seed", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "cache_prompt"}
)
"""Accepted as they are: none of them changes a greedy answer."""
_READ = frozenset(
    {
        "messages",
        "model",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "response_format",
        "logprobs",
        "top_logprobs",
        "stream",
        "stream_options",
        "user",
    }
)


# --- reading the shape ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as it came; `path` names the field it came in."""

    base64: str
    path: str


@dataclass(frozen=True, slots=True)
class EncodedClip:
    frames: tuple[str, ...]
    timestamps: tuple[float, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A request whose shape is right; its pictures have not been looked at."""

    system: str
    parts: tuple[EncodedPicture | EncodedClip | str, ...]
    model: str | None
    schema: Mapping[str, object] | None
    max_tokens: int
    logprobs: bool
    top_logprobs: int
    stream: bool
    include_usage: bool
    user: str


def read_chat(body: bytes, limits: Limits) -> Chat:
    """The shape of a request. BadRequest with the field's path if it is not right."""
    try:
        data = orjson.loads(body)  # refuses NaN, lone surrogates and nesting beyond 1024
    except orjson.JSONDecodeError as why:
        raise BadRequest(f"the body is no JSON: {_short(str(why))}") from why
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    for name, value in data.items():
        if name not in _READ and name not in _IGNORED:
            _check_neutral(name, value)
    system, parts = _messages(data.get("messages"), limits)
    logprobs = _flag(data, "logprobs")
    tops = _whole(data, "top_logprobs", 0, MOST_TOPS)
    if tops is not None and not logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    stream = _flag(data, "stream")
    temperature = _number(data, "temperature", 0, 2)
    if temperature:
        raise BadRequest("this worker decodes greedily: temperature must be 0", "temperature")
    _number(data, "top_p", 0, 1)
    user = _text(data.get("user"), "user", limits.user_characters)
    return Chat(
        system=system,
        parts=parts,
        model=_text(data["model"], "model", 1000) if data.get("model") is not None else None,
        schema=_schema(data.get("response_format"), limits),
        max_tokens=_max_tokens(data, limits),
        logprobs=logprobs,
        top_logprobs=tops or 0,
        stream=stream,
        include_usage=_include_usage(data.get("stream_options"), stream),
        user=user,
    )


def _short(value: object) -> str:
    """At most 60 characters of what a stranger sent."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_neutral(name: str, value: object) -> None:
    if name not in _NEUTRAL:
        raise BadRequest(f"field {_short(name)!r} is unknown to this worker", _short(name))
    if value is None:
        return
    for neutral in _NEUTRAL[name]:
        # True == 1 in Python
        if value == neutral and isinstance(value, bool) == isinstance(neutral, bool):
            return
    raise BadRequest(f"this worker does not do {name}: leave it out", name, code="unsupported")


def _flag(data: Mapping[str, Any], name: str, path: str = "") -> bool:
    value = data.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{path or name} must be true or false", path or name)
    return value


def _number(data: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}", name)
    return float(value)


def _whole(data: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}", name)
    return value


def _text(value: object, path: str, longest: int) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{path} must be text", path)
    if len(value) > longest:
        raise BadRequest(f"{path} has {len(value)} characters, {longest} are allowed", path)
    return value


def _max_tokens(data: Mapping[str, Any], limits: Limits) -> int:
    new = _whole(data, "max_completion_tokens", 1, limits.max_tokens)
    old = _whole(data, "max_tokens", 1, limits.max_tokens)
    if new is not None and old is not None and new != old:
        raise BadRequest("max_tokens and max_completion_tokens differ", "max_completion_tokens")
    return new or old or limits.default_tokens


def _include_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise BadRequest("stream_options must be an object", "stream_options")
    if not stream:
        raise BadRequest("stream_options needs stream to be true", "stream_options")
    for name in options.keys() - {"include_usage", "include_obfuscation"}:
        path = f"stream_options.{_short(name)}"
        raise BadRequest(f"{path} is unknown to this worker", path)
    if _flag(options, "include_obfuscation", "stream_options.include_obfuscation"):
        path = "stream_options.include_obfuscation"
        raise BadRequest("this worker does not obfuscate: leave it out", path, code="unsupported")
    return _flag(options, "include_usage", "stream_options.include_usage")


def _schema(wanted: object, limits: Limits) -> Mapping[str, object] | None:
    path = "response_format"
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise BadRequest(f"{path} must be an object", path)
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind != "json_schema":
        raise BadRequest(f"{path}.type must be json_schema or text", f"{path}.type")
    path += ".json_schema"
    inner = wanted.get("json_schema")
    if not isinstance(inner, dict):
        raise BadRequest(f"{path} must be an object", path)
    _text(inner.get("name"), f"{path}.name", 200)
    schema = inner.get("schema")
    path += ".schema"
    if not isinstance(schema, dict):
        raise BadRequest(f"{path} must be a JSON schema: an object", path)
    if _deeper_than(schema, limits.schema_depth):  # orjson writes at most 254 levels
        raise BadRequest(f"{path} is nested more than {limits.schema_depth} deep", path)
    size = len(orjson.dumps(schema))
    if size > limits.schema_bytes:
        raise BadRequest(f"{path} has {size} bytes, {limits.schema_bytes} are allowed", path)
    return schema


def _deeper_than(value: object, depth: int) -> bool:
    level: list[object] = [value]
    for _ in range(depth):
        level = [
            inner
            for one in level
            for inner in (
                one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            )
        ]
        if not level:
            return False
    return True


def _messages(
    messages: object, limits: Limits
) -> tuple[str, tuple[EncodedPicture | EncodedClip | str, ...]]:
    """The system text and the parts of the user's message."""
    if not isinstance(messages, list):
        raise BadRequest("messages must be a list", "messages")
    system = ""
    parts: tuple[EncodedPicture | EncodedClip | str, ...] | None = None
    for n, message in enumerate(messages):
        path = f"messages[{n}]"
        if n > 1:
            raise BadRequest("messages may be a system and a user message, no more", path)
        if not isinstance(message, dict):
            raise BadRequest(f"{path} must be an object", path)
        for name in message.keys() - {"role", "content", "name"}:
            raise BadRequest(f"{path}.{_short(name)} is unknown to this worker", path)
        role = message.get("role")
        content = _content(message.get("content"), f"{path}.content", limits)
        if role == "user" and parts is None:
            parts = content
        elif role in ("system", "developer") and n == 0:
            if not all(isinstance(part, str) for part in content):
                raise BadRequest("a system message may hold text alone", f"{path}.content")
            system = "".join(part for part in content if isinstance(part, str))
        else:
            raise BadRequest(
                "messages must be one user message, after one system message or none",
                f"{path}.role",
            )
    if parts is None:
        raise BadRequest("messages has no user message", "messages")
    if not parts:
        raise BadRequest("the user message is empty", "messages")
    _check_amount(system, parts, limits)
    return system, parts


def _check_amount(
    system: str, parts: Sequence[EncodedPicture | EncodedClip | str], limits: Limits
) -> None:
    characters = len(system) + sum(len(part) for part in parts if isinstance(part, str))
    if characters > limits.text_characters:
        raise BadRequest(
            f"the texts have {characters} characters, {limits.text_characters} are allowed",
            "messages",
        )
    pictures = sum(not isinstance(part, str) for part in parts)
    if pictures > limits.pictures:
        raise BadRequest(
            f"{pictures} pictures and clips, {limits.pictures} are allowed", "messages"
        )


def _content(
    content: object, path: str, limits: Limits
) -> tuple[EncodedPicture | EncodedClip | str, ...]:
    if isinstance(content, str):
        return (content,) if content else ()
    if not isinstance(content, list):
        raise BadRequest(f"{path} must be text or a list of parts", path)
    return tuple(_part(part, f"{path}[{n}]", limits) for n, part in enumerate(content))


def _part(part: object, path: str, limits: Limits) -> EncodedPicture | EncodedClip | str:
    if not isinstance(part, dict):
        raise BadRequest(f"{path} must be an object", path)
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise BadRequest(f"{path}.text must be text", f"{path}.text")
        return str(part["text"])
    if kind == "image_url":
        inner = _inner(part, "image_url", path)
        path += ".image_url"
        encoded = _data_uri(inner.get("url"), "image", ("jpeg", "jpg", "png"), f"{path}.url")
        return EncodedPicture(encoded, f"{path}.url")
    if kind == "video_url":
        inner = _inner(part, "video_url", path)
        path += ".video_url"
        encoded = _data_uri(inner.get("url"), "video", ("jpeg",), f"{path}.url")
        count = encoded.count(",") + 1
        if count > limits.frames:
            raise BadRequest(f"{count} frames, {limits.frames} are allowed", f"{path}.url")
        timestamps = _timestamps(inner.get("timestamps"), count, f"{path}.timestamps")
        return EncodedClip(tuple(encoded.split(",")), timestamps, f"{path}.url")
    raise BadRequest(f"{path}.type must be text, image_url or video_url", f"{path}.type")


def _inner(part: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    inner = part.get(name)
    if not isinstance(inner, dict):
        raise BadRequest(f"{path}.{name} must be an object", f"{path}.{name}")
    return inner


def _data_uri(url: object, kind: str, formats: Sequence[str], path: str) -> str:
    """What follows the comma of `data:image/jpeg;base64,...`."""
    if not isinstance(url, str):
        raise BadRequest(f"{path} must be text", path)
    # no longer than any header that is understood: the rest may be megabytes
    head, comma, _ = url[:40].partition(",")
    if not head.lower().startswith("data:"):
        raise BadRequest("this worker fetches nothing: send the picture in a data: URI", path)
    known = [f"data:{kind}/{form};base64" for form in formats]
    if not comma or head.lower() not in known:
        raise BadRequest(f"{path} must begin with {known[0]},", path)
    return url[len(head) + 1 :]


def _timestamps(value: object, frames: int, path: str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise BadRequest(f"{path} must list the seconds of each frame", path)
    if len(value) != frames:
        raise BadRequest(f"{path} has {len(value)} entries for {frames} frames", path)
    times: list[float] = []
    for at in value:
        if isinstance(at, bool) or not isinstance(at, int | float) or abs(at) > FARTHEST_S:
            raise BadRequest(f"{path} must hold numbers", path)
        if times and at <= times[-1]:
            raise BadRequest(f"{path} must ascend", path)
        times.append(float(at))
    if times[-1] - times[0] > LONGEST_CLIP_S:
        raise BadRequest(f"{path} span more than {LONGEST_CLIP_S:g} s", path)
    return tuple(times)


# --- decoding the pictures -----------------------------------------------------------------------


def read_ask(chat: Chat, limits: Limits) -> Ask:
    """Decode what `read_chat` left encoded. Takes milliseconds a picture: call it in a thread."""
    left = CLIP_FACTOR * limits.picture.max_pixels
    parts: list[Picture | Clip | str] = []
    for part in chat.parts:
        if isinstance(part, str):
            parts.append(part)
            continue
        one = isinstance(part, EncodedPicture)
        encoded = (part.base64,) if isinstance(part, EncodedPicture) else part.frames
        frames: list[Pixels] = []
        for n, text in enumerate(encoded):
            what = "the picture" if one else f"frame {n}"
            raw = _bytes(text, what, part.path, limits)
            left -= _pixels(raw, what, part.path, limits)
            if left < 0:
                raise BadRequest("the pictures together have too many pixels", "messages")
            frames.append(_decode(raw, what, part.path))
        try:
            parts.append(
                Picture(frames[0])
                if isinstance(part, EncodedPicture)
                else Clip(tuple(frames), part.timestamps)
            )
        except ValueError as why:
            raise BadRequest(str(why), part.path) from why
    try:
        return Ask(chat.system, tuple(parts), chat.schema, chat.max_tokens, chat.top_logprobs)
    except ValueError as why:
        raise BadRequest(str(why)) from why


def _bytes(text: str, what: str, path: str, limits: Limits) -> bytes:
    most = limits.picture.max_bytes
    if len(text) // 4 * 3 > most + 3:
        raise BadRequest(f"{what} has more than {most} bytes", path)
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as why:  # binascii.Error, and ValueError for what is not ASCII
        raise BadRequest(f"{what} is no base64: {_short(str(why))}", path) from why


def _pixels(raw: bytes, what: str, path: str, limits: Limits) -> int:
    """How many a picture says it has, from its header. BadRequest beyond the limit."""
    if raw.startswith(PNG):
        if raw[12:16] != b"IHDR" or len(raw) < 33:
            raise BadRequest(f"{what} is no PNG: its header is broken", path)
        if not _whole_png(raw):
            raise BadRequest(f"{what} is no PNG that can be read: a chunk is broken", path)
        width = int.from_bytes(raw[16:20], "big")
        height = int.from_bytes(raw[20:24], "big")
        if not 0 < width * height <= limits.picture.max_pixels:
            raise BadRequest(
                f"{what} has {width}x{height} pixels, {limits.picture.max_pixels} are allowed", path
            )
        return width * height
    frame = parse(raw, limits.picture)
    if isinstance(frame, Refused):
        raise BadRequest(f"{what} is no JPEG or PNG that can be read: {frame.detail}", path)
    return frame.width * frame.height


def _whole_png(raw: bytes) -> bool:
    """Each chunk lies within the data, up to the end; one picture. A decoder makes room for what a
    chunk says of its length: gigabytes, for twelve bytes."""
    at = len(PNG)
    while at + 12 <= len(raw):
        length, name = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        first = at == len(PNG)
        if at + 12 + length > len(raw) or name == b"acTL" or first != (name == b"IHDR"):
            return False
        if name == b"IEND":
            return True
        at += 12 + length
    return False


def _decode(raw: bytes, what: str, path: str) -> Pixels:
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as why:
        raise BadRequest(f"{what} cannot be decoded", path) from why
    if pixels is None:
        raise BadRequest(f"{what} cannot be decoded", path)
    return np.asarray(pixels, np.uint8)


# --- writing answers -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes one answer, whole or in pieces."""

    id: str
    created: int
    """Seconds since the Unix epoch."""
    model: str
    chat: Chat

    def chunk(
        self,
        text: str | None,
        tokens: Sequence[TokenLogprob] = (),
        finish: str | None = None,
        *,
        first: bool = False,
        timings: Mapping[str, float] | None = None,
    ) -> bytes:
        """One event of a stream; the `first` one names the role."""
        delta: dict[str, str] = {"role": "assistant"} if first else {}
        if text is not None:
            delta["content"] = text
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish,
        }
        return self._event([choice], None, timings)

    def usage_chunk(self, usage: Mapping[str, Any], timings: Mapping[str, float]) -> bytes:
        """The last event where usage was asked for; it has no choices."""
        return self._event([], usage, timings)

    def _event(
        self,
        choices: list[dict[str, Any]],
        usage: Mapping[str, Any] | None,
        timings: Mapping[str, float] | None,
    ) -> bytes:
        data: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if self.chat.include_usage:
            data["usage"] = usage
        if timings is not None:
            data["timings"] = timings
        return b"data: " + orjson.dumps(data) + b"\n\n"

    def whole(
        self,
        text: str,
        tokens: Sequence[TokenLogprob],
        finish: str,
        usage: Mapping[str, Any],
        timings: Mapping[str, float],
    ) -> bytes:
        return orjson.dumps(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text, "refusal": None},
                        "logprobs": self._logprobs(tokens),
                        "finish_reason": finish,
                    }
                ],
                "usage": usage,
                "timings": timings,
            }
        )

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self.chat.logprobs:
            return None
        return {
            "content": [
                _entry(token.text, token.logprob)
                | {"top_logprobs": [_entry(text, logprob) for text, logprob in token.top]}
                for token in tokens
            ],
            "refusal": None,
        }


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # JSON has no infinity; OpenAI's own floor for what is out of the question is -9999
    value = max(logprob, -9999.0) if not math.isnan(logprob) else -9999.0
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def usage(prompt_tokens: int, visual_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": visual_tokens},
    }


_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}


def error_body(status: int, message: str, code: str = "", param: str = "") -> bytes:
    """OpenAI's error object."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return orjson.dumps(
        {
            "error": {
                "message": message,
                "type": kind,
                "param": param or None,
                "code": code or None,
            }
        }
    )
