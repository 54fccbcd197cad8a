"""Contract V1.0: what an engine is asked, and what its reply says.

    {"has_smoke": bool, "bbox": [x_center, y_center, width, height]}      fractions of the frame

`bbox` is null, empty or all zeros where no box is given. Models that were trained on corner
coordinates are asked for `"bbox_2d": [x1, y1, x2, y2]` in their own units instead, and converted
here. `has_smoke` stands first, so that a stream is decided as early as possible.

Reading goes down a ladder and stops at the first rung that holds:

1. strict JSON;
2. the first JSON object with `has_smoke` inside a code fence or prose (flagged);
3. json-repair on a short text (flagged), and never on a reply that was cut off.

Whatever the rung, the values are checked strictly. Nothing in here raises on a reply, whatever it
holds, and nothing takes long: sizes, nesting and repairs are bounded. Replies are material to
judge, not instructions.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import json_repair
import yaml

from earlyfire_stream.errors import UsageError
from earlyfire_stream.verdict import Box, CoordSpace, Reason, ResizeMode, Verdict

__all__ = [
    "BadJson",
    "Parsed",
    "Prompt",
    "box_from_corners",
    "corners_on_sent",
    "prompt",
    "prompt_names",
    "read_reply",
    "schema",
    "settled",
]

Size: TypeAlias = tuple[int, int]
"""(width, height) in pixels."""
Corners: TypeAlias = tuple[float, float, float, float]
"""(x1, y1, x2, y2)."""

MAX_CHARS = 100_000
"""A contract reply has about 60; more than this is a runaway."""
REPAIR_CHARS = 2_000
REPAIR_NESTING = 16
"""json-repair takes 4.6 s on 8,000 characters of `{'` (0.64, measured); within both bounds it
stays under 50 ms."""
OBJECTS_TRIED = 16
"""How many opening braces are tried in a text that is not JSON from the start."""
ALREADY_UNIT = 1.5
"""Native boxes whose four values all stay below this are fractions: no plume is one pixel wide."""
SENTINEL = "BAD_JSON"
DETAIL_CHARS = 120


@dataclass(frozen=True, slots=True)
class BadJson:
    """A reply that says nothing usable: a result to score, not an error."""

    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a reply says. `box_error`: why its box could not be used although `has_smoke` could."""

    result: Verdict | BadJson
    box_error: str = ""

    @property
    def verdict(self) -> Verdict | None:
        return self.result if isinstance(self.result, Verdict) else None

    @property
    def bad(self) -> BadJson | None:
        return self.result if isinstance(self.result, BadJson) else None


# --- while it streams ----------------------------------------------------------------------------

_SETTLED = re.compile(r'[^{]*\{\s*"has_smoke"\s*:\s*(true|false)')
_SAYS = re.compile(r"""["']?has_smoke["']?\s*:\s*["']?(true|false)""", re.IGNORECASE)


def settled(text: str) -> bool | None:
    """What `has_smoke` is, as soon as a growing reply settles it; None before.

    Only where it is the first key of the first object: anything else is decided by the whole reply.
    `{"has_smoke": tr` -> None, `{"has_smoke": true` -> True.
    """
    found = _SETTLED.match(text[:MAX_CHARS])
    return None if found is None else found[1] == "true"


# --- the whole reply -----------------------------------------------------------------------------


def read_reply(
    text: str,
    finish: str,
    space: CoordSpace,
    mode: ResizeMode,
    original: Size,
    sent: Size,
    confidence: float | None = None,
) -> Parsed:
    """What the reply says of the frame of size `original`, which the engine saw as `sent`.

    `space` is the prompt's (`Prompt.space`), `mode` the engine's. `finish` is `stop`, `cut` (we
    stopped reading once has_smoke was settled: valid, without a box) or anything else (the reply
    ended before its time: only a complete strict object counts).
    """
    confidence = _probability(confidence)
    if finish == "cut":
        early = settled(text)
        if early is None:
            return Parsed(BadJson(Reason.CUT_OFF, "cut before has_smoke was settled"))
        return Parsed(Verdict(early, confidence=confidence))
    if len(text) > MAX_CHARS:
        return Parsed(BadJson(Reason.CUT_OFF, f"longer than {MAX_CHARS:,} characters"))
    bare = text.strip()
    if not bare:
        return Parsed(BadJson(Reason.EMPTY))
    if bare.strip('"') == SENTINEL:
        return Parsed(BadJson(Reason.SENTINEL))

    found, repairs = _find_object(bare, whole=finish == "stop")
    if isinstance(found, BadJson):
        return Parsed(found)
    if found.clash:
        return Parsed(BadJson(Reason.SCHEMA, "has_smoke stands there twice and disagrees"))
    if "has_smoke" not in found.values:
        return Parsed(BadJson(Reason.SCHEMA, "has_smoke is missing"))
    has_smoke = found.values["has_smoke"]
    if not isinstance(has_smoke, bool):
        return Parsed(BadJson(Reason.SCHEMA, f"has_smoke is {_shown(has_smoke)}, not a boolean"))

    box, box_error, box_repairs = _read_box(found.values, space, mode, original, sent)
    if found.box_clash:
        box, box_error = None, "the box stands there twice and disagrees"
    repairs += box_repairs
    if box is not None and not has_smoke:
        box, repairs = None, (*repairs, "box_without_smoke")
    return Parsed(Verdict(has_smoke, box, confidence, repairs), box_error)


def _probability(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and 0 <= value <= 1 else None


def _shown(value: object) -> str:
    """A stranger's value in a message: short, ASCII, on one line."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**15:
        return "a huge number"  # converting it to text may itself raise
    try:
        shown = ascii(value)
    except (RecursionError, ValueError):
        return "something nested very deeply or very long"
    return shown if len(shown) <= DETAIL_CHARS else shown[:DETAIL_CHARS] + "..."


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object; of keys that stand there twice the first value is kept."""

    values: dict[str, Any]
    clash: bool = False
    """has_smoke stands there twice with different values."""
    box_clash: bool = False
    repeated: bool = False


def _members(pairs: list[tuple[str, Any]]) -> _Object:
    values: dict[str, Any] = {}
    clash = box_clash = repeated = False
    for key, value in pairs:
        if key not in values:
            values[key] = value
            continue
        repeated = True
        # `is not` for booleans: 1 == True in Python
        clash = clash or (key == "has_smoke" and values[key] is not value)
        box_clash = box_clash or (key in ("bbox", "bbox_2d") and values[key] != value)
    return _Object(values, clash, box_clash, repeated)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)
_BROKEN = (ValueError, RecursionError)
"""JSONDecodeError, integers of more than 4,300 digits, nesting bombs."""


def _find_object(bare: str, whole: bool) -> tuple[_Object | BadJson, tuple[str, ...]]:
    """The reply's object by the ladder, and what had to be mended. `whole`: it was not cut off."""
    try:
        value = _DECODER.decode(bare)
    except _BROKEN:
        pass
    else:
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], _Object):
            return _flagged(value[0], "unwrapped")
        if isinstance(value, _Object):
            return _flagged(value)
        return BadJson(Reason.SCHEMA, f"{_shown(value)} is no object"), ()

    if len({said.lower() for said in _SAYS.findall(bare)}) > 1:
        return BadJson(Reason.SCHEMA, "it says both true and false"), ()
    embedded = _first_embedded(bare)
    if embedded is not None:
        return _flagged(embedded, "extracted")
    if not whole:
        return BadJson(Reason.CUT_OFF, _shown(bare[-40:])), ()
    mended = _mend(bare)
    if mended is not None:
        return _flagged(mended, "json_repair")
    return BadJson(Reason.NOT_JSON, _shown(bare[:80])), ()


def _flagged(found: _Object, *repairs: str) -> tuple[_Object, tuple[str, ...]]:
    return found, (*repairs, "repeated_key") if found.repeated else repairs


def _first_embedded(bare: str) -> _Object | None:
    """The first complete object with has_smoke in a text: inside a fence, after prose."""
    at = -1
    for _ in range(OBJECTS_TRIED):
        at = bare.find("{", at + 1)
        if at < 0:
            return None
        try:
            value, _end = _DECODER.raw_decode(bare, at)
        except _BROKEN:
            continue
        if isinstance(value, _Object) and "has_smoke" in value.values:
            return value
    return None


def _mend(bare: str) -> _Object | None:
    start = bare.find("{")
    text = bare[start:]
    nesting = sum(text.count(c) for c in "{[(")
    if start < 0 or len(text) > REPAIR_CHARS or nesting > REPAIR_NESTING:
        return None
    try:
        value = json_repair.loads(text, skip_json_loads=True)
    except Exception:  # a heuristic parser on arbitrary text: whatever it trips over is no answer
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or "has_smoke" not in value:
        return None
    return _Object(dict(value))


# --- boxes ---------------------------------------------------------------------------------------


def _read_box(
    values: Mapping[str, Any], space: CoordSpace, mode: ResizeMode, original: Size, sent: Size
) -> tuple[Box | None, str, tuple[str, ...]]:
    """(box, why it cannot be used, what was mended); all empty where none is given."""
    native = values.get("bbox_2d") is not None
    given = values.get("bbox_2d") if native else values.get("bbox")
    mended: tuple[str, ...] = ()
    if isinstance(given, list) and given and all(isinstance(one, list) for one in given):
        if len(given) > 1:
            mended += ("first_of_several_boxes",)
        given = given[0]
    if given is None or given == []:
        return None, "", ()
    if not isinstance(given, list) or len(given) != 4:
        return None, f"{_shown(_plain(given))} is no list of four numbers", mended
    numbers = [_number(v) for v in given]
    a, b, c, d = (math.nan if n is None else n for n in numbers)
    if None in numbers:
        wrong = given[numbers.index(None)]
        return None, f"{_shown(_plain(wrong))} is no finite number", mended
    if a == b == c == d == 0:
        return None, "", mended
    if native:
        corners, repair, error_text = _native_corners((a, b, c, d), space, sent)
    else:
        corners, repair, error_text = _contract_corners((a, b, c, d), sent)
    if error_text:
        return None, error_text, mended
    if repair:
        mended += (repair,)
    if corners[0] > corners[2] or corners[1] > corners[3]:
        mended += ("corners_swapped",)
    try:
        return box_from_corners(corners, mode, original, sent), "", mended
    except ValueError:
        return None, f"{_shown(given)} leaves nothing inside the frame", mended


def _plain(value: Any) -> Any:
    return "an object" if isinstance(value, _Object | dict) else value


def _number(value: Any) -> float | None:
    """A finite float; None for anything else, booleans and numbers beyond all bounds included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= 1e9 else None


def _native_corners(four: Corners, space: CoordSpace, sent: Size) -> tuple[Corners, str, str]:
    """Corners on the sent image in pixels, what was mended, why not."""
    width, height = sent
    x1, y1, x2, y2 = four
    as_pixels = (x1 * width, y1 * height, x2 * width, y2 * height)
    if max(abs(v) for v in four) <= ALREADY_UNIT:
        return as_pixels, "" if space is CoordSpace.UNIT else "already_unit", ""
    if space is CoordSpace.REL1000:
        scaled = tuple(v / 1000 for v in as_pixels)
        return (scaled[0], scaled[1], scaled[2], scaled[3]), "", ""
    if space is CoordSpace.RESIZED_ABS:
        return four, "", ""
    return four, "", "bbox_2d is above 1 where fractions were asked for"


def _contract_corners(four: Corners, sent: Size) -> tuple[Corners, str, str]:
    width, height = sent
    xc, yc, w, h = four
    if max(abs(v) for v in four) > ALREADY_UNIT:
        return four, "", "bbox is not in fractions of the image"
    if w <= 0 or h <= 0:
        return four, "", "bbox has no area"
    left, top = (xc - w / 2) * width, (yc - h / 2) * height
    return (left, top, left + w * width, top + h * height), "", ""


def _letterbox(original: Size, sent: Size) -> tuple[float, float, float]:
    """(scale, left, top) of a picture centred on a black ground, as llama.cpp does it."""
    (width, height), (sent_width, sent_height) = original, sent
    scale = min(sent_width / width, sent_height / height)
    left = (sent_width - min(math.ceil(width * scale), sent_width)) // 2
    top = (sent_height - min(math.ceil(height * scale), sent_height)) // 2
    return scale, left, top


def box_from_corners(corners: Corners, mode: ResizeMode, original: Size, sent: Size) -> Box:
    """The box on the frame, from pixels of the sent image; ValueError if nothing lies inside.

    Stretch, 1280x720 sent as 1288x728: (322, 182, 644, 364) -> x 0.25 to 0.5, y 0.25 to 0.5.
    """
    x1, y1, x2, y2 = corners
    if mode is ResizeMode.STRETCH:
        width, height = sent
        return Box.from_corners(x1 / width, y1 / height, x2 / width, y2 / height)
    scale, left, top = _letterbox(original, sent)
    across, down = scale * original[0], scale * original[1]
    return Box.from_corners(
        (x1 - left) / across, (y1 - top) / down, (x2 - left) / across, (y2 - top) / down
    )


def corners_on_sent(box: Box, mode: ResizeMode, original: Size, sent: Size) -> Corners:
    """The inverse of `box_from_corners`: pixels on the sent image."""
    x1, y1, x2, y2 = box.corners
    if mode is ResizeMode.STRETCH:
        width, height = sent
        return (x1 * width, y1 * height, x2 * width, y2 * height)
    scale, left, top = _letterbox(original, sent)
    across, down = scale * original[0], scale * original[1]
    return (x1 * across + left, y1 * down + top, x2 * across + left, y2 * down + top)


# --- what is asked -------------------------------------------------------------------------------


def schema(space: CoordSpace) -> dict[str, object]:
    """The JSON schema of a reply in that space; `has_smoke` first, order kept by the servers.

    No titles, descriptions or bounds: they make grammar generators skip required fields.
    """
    key = "bbox" if space is CoordSpace.UNIT else "bbox_2d"
    number = "number" if space is CoordSpace.UNIT else "integer"
    four = {"type": "array", "items": {"type": number}, "minItems": 4, "maxItems": 4}
    return {
        "type": "object",
        "properties": {
            "has_smoke": {"type": "boolean"},
            key: {"anyOf": [{"type": "null"}, four]},
        },
        "required": ["has_smoke", key],
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is asked. `space` says how its answers write boxes."""

    name: str
    system: str
    user_template: str
    space: CoordSpace
    schema: Mapping[str, object] | None
    clip_template: str
    explain_template: str

    @property
    def digest(self) -> str:
        """Tells two wordings apart that bear one name."""
        texts = (self.system, self.user_template, self.clip_template, self.explain_template)
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]

    def user(self, width: int, height: int) -> str:
        """The text after the image, which is sent `width` x `height` pixels."""
        return _filled(self.user_template, width=width, height=height)

    def user_of_clip(self, width: int, height: int, frames: int, seconds: float) -> str:
        """The text after a clip of so many frames over so many scenario seconds."""
        return _filled(
            self.clip_template, width=width, height=height, frames=frames, seconds=f"{seconds:g}"
        )

    def explain(self, width: int, height: int, answer: str) -> str:
        """The text after the image when reasons for `answer`, the model's own, are asked for."""
        return _filled(self.explain_template, width=width, height=height, answer=answer)


def _filled(template: str, **values: object) -> str:
    """`{name}` replaced in one pass: braces elsewhere, and in the values, are left alone."""
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template)


def prompt_names() -> list[str]:
    """The prompts that come with the package."""
    folder = resources.files("earlyfire_stream") / "prompts"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


_PROMPT_KEYS = ("system", "user", "clip", "explain", "answers", "schema")
CLIP = "These are {frames} frames of one camera over {seconds} seconds; a box is on the last one. "
EXPLAIN = (
    "You answered {answer} for this image of {width}x{height} pixels. "
    "Explain your JSON in at most 20 words. Answer with plain text, not with JSON."
)
"""For prompt files that say nothing of their own."""


@functools.lru_cache(maxsize=32)
def prompt(name: str, space: CoordSpace) -> Prompt:
    """The prompt of that name (or the user's own YAML file) for a model with that box convention.

    A file holds a section per convention, or `any` for all of them, each with `system` and
    `user`, and optionally `clip` (in place of `user`, after several frames), `explain` (asks for
    the reasons of an answer), `answers` (the convention of the answers, if another) and
    `schema: false`. UsageError for an unknown name or a broken file.
    """
    return _prompt_from(name, _sections(name), space)


def check_prompt(name: str) -> None:
    """UsageError if there is no such prompt, or if any section of its file is broken."""
    sections = _sections(name)
    spaces = list(CoordSpace) if "any" in sections else [s for s in CoordSpace if s in sections]
    for space in spaces or [CoordSpace.UNIT]:
        _prompt_from(name, sections, space)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name


def _sections(name: str) -> dict[str, Any]:
    if _is_file(name):
        try:
            content = Path(name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the name
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"prompt file {name}: cannot be read: {why}") from error
    else:
        known = prompt_names()
        if name not in known:
            meant = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise UsageError(
                f"there is no prompt {name!r}{hint} Known: {', '.join(known)}; "
                "or give the path of a YAML file of your own"
            )
        folder = resources.files("earlyfire_stream") / "prompts"
        content = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        sections = yaml.safe_load(content)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"prompt file {name}: not YAML: {error}") from error
    if not isinstance(sections, dict):
        raise UsageError(f"prompt file {name}: needs sections such as `any:`, see v1-literal")
    return sections


def _prompt_from(name: str, sections: Mapping[str, Any], space: CoordSpace) -> Prompt:
    section = sections.get(space.value, sections.get("any"))
    if not isinstance(section, dict):
        raise UsageError(f"prompt file {name}: has neither a section {space.value!r} nor `any`")
    unknown = sorted(str(k) for k in section.keys() - set(_PROMPT_KEYS))
    if unknown:
        raise UsageError(
            f"prompt file {name}: unknown key {unknown[0]!r}; known: {', '.join(_PROMPT_KEYS)}"
        )
    system, user = section.get("system"), section.get("user")
    if not isinstance(system, str) or not isinstance(user, str) or not user.strip():
        raise UsageError(f"prompt file {name}: `system` and `user` must be texts")
    answers = section.get("answers", space.value)
    if answers not in list(CoordSpace):
        known = ", ".join(CoordSpace)
        raise UsageError(f"prompt file {name}: `answers` must be one of {known}, not {answers!r}")
    enforced = section.get("schema", True)
    if not isinstance(enforced, bool):
        raise UsageError(f"prompt file {name}: `schema` must be true or false")
    clip, explain = section.get("clip", CLIP + user), section.get("explain", EXPLAIN)
    if not isinstance(clip, str) or not isinstance(explain, str):
        raise UsageError(f"prompt file {name}: `clip` and `explain` must be texts")
    for text in (system, user, clip, explain):
        if text.encode(errors="replace").decode() != text:
            raise UsageError(f"prompt file {name}: half of a surrogate pair stands in a text")
    asked = CoordSpace(answers)
    form = schema(asked) if enforced else None
    return Prompt(name, system, user, asked, form, clip, explain)
