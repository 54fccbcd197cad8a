"""Reads scenario files: every problem of a file at once, each with its line and its remedy.

YAML is read as editors read it (YAML 1.2: `1:30`, `010` and dates are text), with `yes`, `no`,
`on`, `off` kept as truth values. Aliases and merge keys (`<<`) are expanded; what they expand to
is bounded. What a model refuses is cut out and the rest is read again, until nothing new is found.
"""

from __future__ import annotations

__all__ = [
    "FORMAT",
    "Loaded",
    "Part",
    "Shard",
    "digest",
    "load",
    "loads",
    "overridden",
    "resolved",
    "schema",
    "with_overrides",
]

import difflib
import hashlib
import json
import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from earlyfire_stream.errors import Problem, ScenarioError, UsageError
from earlyfire_stream.scenario import datasets, fleet
from earlyfire_stream.scenario.models import ENGINES, ENV, Conflicts, Engine, Scenario

FORMAT = 1
"""The version in `earlyfire: 1`."""
MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 200_000
"""Values of one file with its aliases expanded: 2,000 cameras with a hundred settings each."""
MAX_DEPTH = 24
MAX_CAMERAS = 10_000
MAX_FAULTS = 12
"""Of one dataset that are told one by one; the rest is counted."""
MAX_MEETINGS = 2_000_000
"""Faults, or their patterns, times cameras: 200 faults of a fleet of 10,000."""
MAX_HINTS = 12
"""Cameras among which a mistyped one is looked for."""
SCHEMA_ID = "urn:earlyfire-stream:scenario:1"

Scalar = str | int | float | bool | None

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?\.inf|\.nan)", re.IGNORECASE)
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None}
_WORDS |= dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_SOURCE_KINDS = ["synthetic", "video", "images", "stills", "stream"]
_STAND_INS: dict[str, Scalar | dict[str, str]] = {
    "earlyfire": FORMAT,
    "name": "unnamed",
    "source": {"kind": "synthetic"},
}
"""Read in place of what is missing or wrong, so that the rest is looked at as well."""


Shard = tuple[int, int]
"""(k, n): the k-th of n parts of the fleet, from 0."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a scenario is a part of."""

    k: int
    n: int
    whole: Scenario
    groups: Mapping[str, str]
    """Camera -> what decides its part, of recordings; the others go by their fire or id."""
    begins: Mapping[str, float]
    """Camera -> its phase, of recordings that play in turn: each part has turns of its own."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A scenario with the file it came from."""

    scenario: Scenario
    text: str
    file: str
    base: Path
    """The folder that paths of sources start from."""
    part: Part | None = None
    """Where `scenario` is a part of a fleet (`--shards`)."""


def load(path: str | Path, *, files: bool = True, shard: Shard | None = None) -> Loaded:
    """Read a scenario file. ScenarioError names everything that is wrong with it.

    Datasets are read as well and their recordings stand among the cameras. With `shard` only that
    part of the fleet is left, all cameras of a fire in the same one.
    """
    path = Path(path)
    file = str(path)
    try:
        if path.is_dir():
            raise _refused(file, "is a folder", "name a .yaml file in it")
        if path.stat().st_size > MAX_BYTES:
            raise _refused(file, f"is larger than {MAX_BYTES // 2**20} MiB")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise _refused(file, "there is no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _refused(file, "is not UTF-8 text", "save it as UTF-8", line) from error
    except (OSError, ValueError) as error:
        raise _refused(file, f"cannot be read: {error}") from error
    return loads(text, file, path.parent, files=files, shard=shard)


def loads(
    text: str,
    file: str = "scenario",
    base: Path = Path(),
    *,
    files: bool = True,
    shard: Shard | None = None,
) -> Loaded:
    """Read a scenario's text. With `files` False, sources need not exist on this machine, and
    datasets stay unread.
    """
    reading = _Reading()
    root = reading.tree(text)
    scenario, part = None, None
    if root is not None:
        scenario = _validated(root, reading)
        _check_everywhere(root, reading)
        _check_ids(root, reading)
        if files:
            for source, path in _sources(root):
                _check_source(source, path, base, reading)
        if files and scenario is not None and not reading.problems:
            scenario, part = _with_recordings(scenario, root, base, reading, shard)
        if scenario is not None and not reading.problems:
            _check_faults(scenario if part is None else part.whole, root, reading)
    if reading.problems or scenario is None:
        found = sorted(set(reading.problems), key=lambda p: (p.line, p.path))
        raise ScenarioError(file, tuple(found))
    if part is not None:
        part = replace(part, whole=_placed(part.whole, base))
    return Loaded(_placed(scenario, base), text, file, base, part)


def _with_recordings(
    scenario: Scenario, root: _Node, base: Path, reading: _Reading, shard: Shard | None
) -> tuple[Scenario, Part | None]:
    """With a camera for each recording of each dataset; only those of `shard` where one is given.

    What is wrong with a dataset is said at its own line, its first few recordings by name.
    """
    cameras = list(scenario.cameras)
    groups: dict[str, str] = {}
    begins: dict[str, float] = {}
    taken = {i for c in cameras for i in (c.id, *fleet.copies(c.id, c.count))}
    for n, dataset in enumerate(scenario.datasets):
        place, line = f"datasets[{n}]", _line_of(root, "datasets", n)
        found = datasets.find(dataset, base)
        for fault in found.faults[:MAX_FAULTS]:
            reading.say(line, place, fault.message, fault.hint)
        if (more := len(found.faults) - MAX_FAULTS) > 0:
            hint = "earlyfire import … --skip-broken writes them into skip"
            reading.say(line, place, f"and {more} more recordings like these", hint)
        if found.faults:
            continue
        try:
            made = datasets.cameras(dataset, found.recordings)
        except ValidationError as error:
            reading.say(line, place, _first_words(error))
            continue
        if twice := next((c.id for c in made if c.id in taken), None):
            message = f"{twice!r:.80} is a camera already"
            reading.say(line, place, message, "tell them apart with prefix")
        taken |= {camera.id for camera in made}
        cameras += made
        if shard is not None:
            mine = [r for r in found.recordings if fleet.in_shard(r.group, shard)]
            turns = dict(zip(map(id, mine), datasets.turns(dataset, mine), strict=True))
            for camera, recording in zip(made, found.recordings, strict=True):
                groups[camera.id] = recording.group
                if (begin := turns.get(id(recording))) is not None:
                    begins[camera.id] = begin
        elif len(cameras) > MAX_CAMERAS:
            reading.say(line, place, f"makes more than {MAX_CAMERAS:,} cameras")
    if reading.problems:
        return scenario, None
    whole = scenario.model_copy(update={"cameras": tuple(cameras), "datasets": ()})
    part = None if shard is None else Part(*shard, whole, groups, begins)
    asked = whole if part is None else _share(part)
    if scenario.datasets:
        for conflict in tuple(asked.conflicts())[:MAX_FAULTS]:
            place = _dotted(conflict.at)
            if conflict.at[0] == "cameras" and isinstance(conflict.at[1], int):
                place = f"camera {asked.cameras[conflict.at[1]].id}: " + _dotted(conflict.at[2:])
            line = _line_of(root, "duration")
            reading.say(line, "duration", f"{place}: {conflict.message}", conflict.hint)
    return asked, part


def _share(part: Part) -> Scenario:
    """The cameras of the part; UsageError if there are none, or too many."""
    shared = fleet.share(part.whole, part.k, part.n, part.groups)
    name = f"--shards {part.k}/{part.n}"
    if not shared.cameras:
        raise UsageError(f"{name}: no camera falls into this part; take a smaller n")
    if len(shared.cameras) > MAX_CAMERAS:
        raise UsageError(f"{name}: more than {MAX_CAMERAS:,} cameras; take a larger n")
    cameras = tuple(
        c.model_copy(update={"phase": part.begins[c.id]}) if c.id in part.begins else c
        for c in shared.cameras
    )
    return shared.model_copy(update={"cameras": cameras})


def overridden(loaded: Loaded, settings: Sequence[str] = (), **options: Any) -> Loaded:
    """The same with the command line's settings in it, as `with_overrides` reads them.

    A part is taken from the whole after that: another seed draws other copies in every part.
    """
    if loaded.part is None:
        return replace(loaded, scenario=with_overrides(loaded.scenario, settings, **options))
    part = replace(loaded.part, whole=with_overrides(loaded.part.whole, settings, **options))
    return replace(loaded, scenario=_share(part), part=part)


def _line_of(root: _Node, *names: str | int) -> int:
    """The line of what stands at that place, or of the last on the way to it that the file has."""
    node = root
    for name in names:
        if isinstance(node.value, dict) and name in node.value:
            node = node.value[str(name)]
        elif isinstance(node.value, list) and isinstance(name, int):
            node = node.value[name]
        else:
            break
    return node.line


def _first_words(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{_dotted(detail['loc'])}: {detail['msg'].removeprefix('Value error, ')}"


def _placed(scenario: Scenario, base: Path) -> Scenario:
    """With the prompt's file found from the scenario's folder, as the sources are."""
    name = scenario.engine.prompt
    if not name.endswith((".yaml", ".yml")) or Path(name).is_absolute():
        return scenario
    engine = scenario.engine.model_copy(update={"prompt": str(base / name)})
    return scenario.model_copy(update={"engine": engine})


def _refused(file: str, message: str, hint: str = "", line: int = 0) -> ScenarioError:
    return ScenarioError(file, (Problem(line, "", message, hint),))


# --- text to a tree that knows its lines ----------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Node:
    """One value of the file. `line` is that of its key where it has one."""

    line: int
    value: Scalar | list[_Node] | dict[str, _Node]
    raw: str = ""
    """A scalar as it was written."""
    size: int = 1
    depth: int = 1
    wrong: bool = False
    """Cut out: something in it was refused and reported."""
    read: dict[str | int, tuple[str | int, _Node]] = field(default_factory=dict)
    """What the models were last given: name or position there -> name or position in the file."""

    def children(self) -> list[_Node]:
        if isinstance(self.value, dict):
            return list(self.value.values())
        return self.value if isinstance(self.value, list) else []

    def plain(self) -> Any:
        """What the models are given: all that has not been cut out."""
        if isinstance(self.value, dict):
            self.read = {k: (k, n) for k, n in self.value.items() if not n.wrong}
            return {k: n.plain() for k, n in self.value.items() if not n.wrong}
        if isinstance(self.value, list):
            left = [(i, n) for i, n in enumerate(self.value) if not n.wrong]
            self.read = dict(enumerate(left))
            return [n.plain() for _, n in left]
        return self.value

    def copy(self, line: int) -> _Node:
        value = self.value
        if isinstance(value, dict):
            value = {k: n.copy(n.line) for k, n in value.items()}
        elif isinstance(value, list):
            value = [n.copy(n.line) for n in value]
        return _Node(line, value, self.raw, self.size, self.depth, self.wrong)


class _TooMuch(Exception):
    """The file expands to more than we are willing to hold."""


@dataclass(slots=True)
class _Reading:
    """The problems found so far, and the events still to be read."""

    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, _Node] = field(default_factory=dict)
    nodes: int = 0

    def say(self, line: int, path: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(line, path, message, hint))

    def tree(self, text: str) -> _Node | None:
        """The root, or None where nothing can be made of the text."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            line = text[: error.start].count("\n") + 1
            self.say(line, "", "is not UTF-8 text", "save it as UTF-8")
            return None
        if size > MAX_BYTES:
            self.say(0, "", f"is larger than {MAX_BYTES // 2**20} MiB")
            return None
        try:
            return self._document(yaml.parse(text, _Loader))
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            self.say(line, "", "holds a character that is no text", "save it as plain UTF-8 text")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = 0 if mark is None else mark.line + 1
            tabs = "\t" in "".join(text.split("\n")[line - 1 : line])
            self.say(line, "", *_syntax(error, tabs))
        except _TooMuch as error:
            self.say(0, "", str(error))
        return None

    def _document(self, events: Iterator[Any]) -> _Node | None:
        root: _Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents == 2:
                    mark = event.start_mark
                    line = 0 if mark is None else mark.line + 1
                    self.say(line, "", "a second document begins", "one scenario a file")
                    return None
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, events, "", MAX_DEPTH)
        if root is None or (root.value is None and not root.raw):
            self.say(0, "", "is empty", "write a starter file with: earlyfire scenario init")
            return None
        if not isinstance(root.value, dict):
            self.say(root.line, "", "must be a mapping of settings, such as `name: my-fleet`")
            return None
        return root

    def _node(self, event: Any, events: Iterator[Any], path: str, depth: int) -> _Node:
        line = event.start_mark.line + 1
        if depth == 0:
            raise _TooMuch(f"is nested more than {MAX_DEPTH} deep (line {line})")
        if isinstance(event, yaml.AliasEvent):
            known = self.anchors.get(str(event.anchor))
            if known is None:
                self.say(line, path, f"nothing above is marked &{event.anchor}")
                return _Node(line, None, wrong=True)
            self._count(known.size, line)
            if known.depth > depth:
                raise _TooMuch(f"is nested more than {MAX_DEPTH} deep (line {line})")
            return known.copy(line)
        self._count(1, line)
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, line, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[_Node] = []
            while not isinstance(inner := next(events), yaml.SequenceEndEvent):
                items.append(self._node(inner, events, f"{path}[{len(items)}]", depth - 1))
            node = _Node(line, items)
        else:
            node = _Node(line, self._mapping(events, path, depth))
        if node.children():
            node.size += sum(n.size for n in node.children())
            node.depth += max(n.depth for n in node.children())
        if event.tag is not None and event.tag not in _TAGS:
            self.say(line, path, f"the tag {event.tag} is not read here", "remove it")
            node.wrong = True
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _mapping(self, events: Iterator[Any], path: str, depth: int) -> dict[str, _Node]:
        own: dict[str, _Node] = {}
        merged: dict[str, _Node] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarEvent):
                self._node(key, events, path, depth - 1)
                self._node(next(events), events, path, depth - 1)
                self.say(line, path, "a key must be a plain word")
                continue
            name: str = key.value
            inner = path if name == "<<" else f"{path}.{name}".removeprefix(".")
            value = self._node(next(events), events, inner, depth - 1)
            if name == "<<" and key.implicit[0]:
                parts = value.value if isinstance(value.value, list) else [value]
                for part in parts:
                    if isinstance(part.value, dict):
                        for k, n in part.value.items():
                            merged.setdefault(k, n)
                    elif not part.wrong:
                        self.say(line, path, "`<<` merges mappings only")
            elif name in own:
                self.say(line, inner, f"is given twice, first in line {own[name].line}", "keep one")
            else:
                value.line = line
                own[name] = value
        return own | {k: n for k, n in merged.items() if k not in own}

    def _scalar(self, event: Any, line: int, path: str) -> _Node:
        raw: str = event.value
        if not raw.isprintable() and any("\ud800" <= c <= "\udfff" for c in raw):
            self.say(line, path, "holds half a character", "write it as plain UTF-8 text")
            return _Node(line, None, raw, wrong=True)
        if not event.implicit[0]:
            return _Node(line, raw, raw)
        if raw.lower() in _WORDS:
            return _Node(line, _WORDS[raw.lower()], raw)
        if _NOT_FINITE.fullmatch(raw) or (_FLOAT.fullmatch(raw) and not _finite(raw)):
            self.say(line, path, f"{raw:.40} is no finite number")
            return _Node(line, None, raw, wrong=True)
        if _INT.fullmatch(raw):
            return _Node(line, int(raw), raw)
        if _FLOAT.fullmatch(raw) and not re.match(r"[-+]?0[0-9]", raw):
            return _Node(line, float(raw), raw)
        return _Node(line, raw, raw)

    def _count(self, more: int, line: int) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            raise _TooMuch(
                f"expands to more than {MAX_NODES:,} values (line {line}): too many aliases"
            )


def _finite(raw: str) -> bool:
    return len(raw) <= 40 and math.isfinite(float(raw))


def _syntax(error: yaml.MarkedYAMLError, tabs: bool) -> tuple[str, str]:
    problem = str(error.problem or error.context or "cannot be read as YAML")
    if tabs:
        return problem, "indent with spaces, not tabs"
    if "mapping values" in problem:
        return problem, "quote a text that holds `: `, or look at the indentation"
    return problem, "look at the indentation, quotes and brackets of this line and the one before"


# --- the models' objections, in plain words -------------------------------------------------------


def _validated(root: _Node, reading: _Reading) -> Scenario | None:
    """The scenario, None where something is wrong; each round cuts out what was refused."""
    while True:
        text = json.dumps(root.plain())
        try:
            scenario = Scenario.model_validate_json(text, strict=True)
        except ValidationError as error:
            if not _report(root, error, reading):
                return None
        else:
            return None if reading.problems else scenario


def _report(root: _Node, error: ValidationError, reading: _Reading) -> bool:
    """Say what is new and cut out what is wrong; False if the root itself is beyond reading."""
    places: dict[tuple[str | int, ...], list[tuple[ErrorDetails, _Found]]] = {}
    for detail in error.errors(include_url=False):
        found = _find(root, detail["loc"])
        places.setdefault((*found.names, *found.missing), []).append((detail, found))
    for together in places.values():
        detail, found = together[0]
        if detail["type"] == "value_error" and isinstance(detail["ctx"]["error"], Conflicts):
            _report_conflicts(root, found, detail["ctx"]["error"], reading)
            continue
        node = found.node
        if detail["type"] == "missing" and found.missing:
            known = _was_there(node, found.missing[-1])
            if not _stand_in(node, str(found.missing[-1]), reading):
                node.wrong = True
            if known:
                continue
        elif detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic does not count the entries that it refuses
        else:
            node.wrong = True
            if detail["type"] == "too_short" and node.children():
                continue
        message, hint = _plain_words(detail, found, [d for d, _ in together])
        names = found.names if isinstance(node.value, list) else (*found.names, *found.missing)
        reading.say(node.line, _dotted(names), message, hint)
    return not root.wrong


def _was_there(node: _Node, name: str | int) -> bool:
    """Something missing has been cut out before: that was said already."""
    if isinstance(node.value, dict):
        return name in node.value
    return any(n.wrong for n in node.children())


def _stand_in(node: _Node, name: str, reading: _Reading) -> bool:
    if not isinstance(node.value, dict):
        return False
    if name == "id":
        reading.nodes += 1
        node.value[name] = _Node(node.line, f"unnamed-{reading.nodes}")
    elif name in _STAND_INS:
        value = _STAND_INS[name]
        if isinstance(value, dict):
            stand_in = _Node(node.line, {k: _Node(node.line, v) for k, v in value.items()})
        else:
            stand_in = _Node(node.line, value)
        node.value[name] = stand_in
    else:
        return False
    return True


def _report_conflicts(root: _Node, found: _Found, error: Conflicts, reading: _Reading) -> None:
    model = found.node
    inside = model.value if isinstance(model.value, dict) else {}
    for conflict in error.found:
        place = _find(model, conflict.at)
        node = place.node if not place.missing else model
        touched = [inside[name] for name in conflict.fields if name in inside]
        doubtful = any(n.wrong or any(c.wrong for c in n.children()) for n in touched)
        node.wrong = True
        if doubtful or ("cameras" in conflict.fields and reading.problems):
            continue
        names = (*found.names, *place.names, *place.missing)
        reading.say(node.line, _dotted(names), conflict.message, conflict.hint)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where an error's location ends in the file."""

    node: _Node
    names: tuple[str | int, ...]
    """The way to it, with the positions of the file itself."""
    trail: tuple[_Node, ...]
    """The nodes on that way, the first one included."""
    missing: tuple[str | int, ...] = ()
    """What of the location is not in the file."""


def _find(node: _Node, loc: tuple[str | int, ...]) -> _Found:
    names: list[str | int] = []
    trail = [node]
    for i, part in enumerate(loc):
        if part in node.read:
            name, node = node.read[part]
            names.append(name)
            trail.append(node)
        elif isinstance(node.value, dict) and node.read.keys() >= {"kind"}:
            if node.read["kind"][1].value != part:
                return _Found(node, tuple(names), tuple(trail), tuple(loc[i:]))
            # pydantic names the chosen kind of source: no part of the file
        elif isinstance(node.value, dict) or (isinstance(node.value, list) and type(part) is int):
            return _Found(node, tuple(names), tuple(trail), tuple(loc[i:]))
        else:
            break  # pydantic names the branch of a union
    return _Found(node, tuple(names), tuple(trail))


def _dotted(names: tuple[str | int, ...]) -> str:
    text = "".join(f"[{n}]" if isinstance(n, int) else f".{n}" for n in names)
    return text.removeprefix(".")


_BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
}
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of settings",
    "model_type": "a mapping of settings",
    "model_attributes_type": "a mapping of settings",
    "datetime_type": "a date and time such as 2025-08-14T13:30:00",
}


def _plain_words(
    detail: ErrorDetails, found: _Found, branches: list[ErrorDetails]
) -> tuple[str, str]:
    """(message, hint) for one place; `branches` are the objections of each branch of a union."""
    kind, context, node = detail["type"], detail.get("ctx", {}), found.node
    if kind == "missing":
        if isinstance(node.value, list):
            return f"needs more than {_entries(len(node.value))}", ""
        return "is missing", _about(found, str(found.missing[-1]) if found.missing else "")
    if kind == "extra_forbidden":
        return "unknown field", _meant(str(found.names[-1]), _fields(found))
    if kind == "union_tag_not_found":
        return "kind is missing", "one of " + ", ".join(_SOURCE_KINDS)
    if kind == "union_tag_invalid":
        given = node.value.get("kind") if isinstance(node.value, dict) else None
        tag = given.raw if given else ""
        return f"kind {tag!r:.40} is not known", _meant(tag, _SOURCE_KINDS)
    if node.value is None and not isinstance(detail["input"], str):
        return "has no value", "write one, or remove the line"
    if len(branches) > 1:
        parts = [_plain_words(branch, found, [branch]) for branch in branches]
        return _sentence(m for m, _ in parts), _sentence(h for _, h in parts)
    if kind in ("literal_error", "enum"):
        allowed = [w.strip("'") for w in re.split(r", | or ", str(context["expected"]))]
        if found.names == ("earlyfire",):
            return f"version {node.raw} of the format is not known", "this program reads version 1"
        return f"{_shown(node)} is not known", _meant(node.raw, allowed)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        bound = context[name]
        return f"{words} {bound:{',' if isinstance(bound, int) else 'g'}}, not {node.raw:.40}", ""
    if kind in _KINDS:
        return f"needs {_KINDS[kind]}, not {_shown(node)}", _retyped(kind, node)
    if kind == "string_pattern_mismatch":
        if found.names[-1] == "url":
            return "is no address of a camera", "begin with rtsp://, rtsps://, http:// or https://"
        hint = "letters, digits, `_`, `.` and `-`, at most 64, a letter or digit first"
        return f"{_shown(node)} is no name", hint
    if kind in ("too_short", "too_long"):
        if kind == "too_short":
            return f"needs at least {_entries(context['min_length'])}", ""
        return f"needs at most {_entries(context['max_length'])}", ""
    if kind == "value_error":
        message, _, hint = str(context["error"]).partition("; ")
        return message, hint
    return detail["msg"].removeprefix("Input ").lower(), ""


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def _sentence(parts: Iterator[str] | Any) -> str:
    return "; or ".join(dict.fromkeys(p for p in parts if p))


def _shown(node: _Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping"
    return "a list" if isinstance(node.value, list) else repr(node.raw[:40])


def _retyped(kind: str, node: _Node) -> str:
    """How the value would have to be written."""
    if kind == "string_type" and isinstance(node.value, bool | int | float):
        return f'put it in quotes: "{node.raw}"'
    if kind in ("int_type", "float_type") and isinstance(node.value, str):
        bare = re.sub(r"^0+(?=[0-9])", "", node.raw.strip().replace("_", ""))
        if _INT.fullmatch(bare) or (kind == "float_type" and _FLOAT.fullmatch(bare)):
            return f"write {bare}"
    if kind == "model_type" and not isinstance(node.value, list):
        return "its settings stand below it, indented"
    return ""


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), known, 1)
    return f"did you mean {close[0]}?" if close else "one of " + ", ".join(known)


def _about(found: _Found, name: str) -> str:
    """What the model says of its field."""
    model = _model_at(found.trail, found.names)
    known = model.model_fields.get(name) if model else None
    return ((known.description if known else None) or "").split("\n")[0].rstrip(".")


def _fields(found: _Found) -> list[str]:
    model = _model_at(found.trail[:-1], found.names[:-1])
    return sorted(model.model_fields) if model else []


def _model_at(trail: tuple[_Node, ...], names: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model that reads the value at the end of a trail."""
    here: Any = Scenario
    for name, node in zip(names, trail[1:], strict=True):
        if isinstance(name, int):
            here = next((a for a in typing.get_args(here) if a is not Ellipsis), None)
        else:
            known = here.model_fields.get(name) if _is_model(here) else None
            here = known.annotation if known else None
        if typing.get_origin(here) is typing.Annotated:
            here = typing.get_args(here)[0]
        if typing.get_origin(here) in (typing.Union, types.UnionType):
            options = [a for a in typing.get_args(here) if a is not type(None)]
            here = options[0] if len(options) == 1 else _of_kind(options, node)
    return here if _is_model(here) else None


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _of_kind(options: list[Any], node: _Node) -> Any:
    kind = node.value.get("kind") if isinstance(node.value, dict) else None
    for option in options:
        known = option.model_fields.get("kind") if _is_model(option) else None
        if kind and known and kind.value in typing.get_args(known.annotation):
            return option
    return None


# --- what no single model can see -----------------------------------------------------------------


def _check_everywhere(root: _Node, reading: _Reading) -> None:
    """`${…}` outside a stream's url."""
    streams = {id(s.value.get("url")) for s, _ in _sources(root) if isinstance(s.value, dict)}
    todo: list[tuple[_Node, tuple[str | int, ...]]] = [(root, ())]
    while todo:
        node, names = todo.pop()
        if isinstance(node.value, dict):
            todo += [(child, (*names, name)) for name, child in node.value.items()]
        elif isinstance(node.value, list):
            todo += [(child, (*names, i)) for i, child in enumerate(node.value)]
        elif isinstance(node.value, str) and names != ("description",):
            variable = ENV.search(node.value)
            if variable and id(node) not in streams:
                reading.say(
                    node.line,
                    _dotted(names),
                    f"{variable[0]} is not filled in here",
                    "only in the url of a stream source",
                )


def _check_ids(root: _Node, reading: _Reading) -> None:
    """Every camera and every copy has an id of its own, and so has what they are copies of."""
    lines: dict[str, int] = {}
    total = 0
    for i, camera in _cameras(root):
        inside = camera.value if isinstance(camera.value, dict) else {}
        named, counted = inside.get("id"), inside.get("count")
        count = counted.value if counted and type(counted.value) is int else 1
        count = min(max(count, 1), MAX_CAMERAS + 1)  # before a name is made for each of a billion
        total += count
        if total > MAX_CAMERAS:
            reading.say(camera.line, f"cameras[{i}]", f"makes more than {MAX_CAMERAS:,} cameras")
            return
        if named is None or not isinstance(named.value, str):
            continue
        ids = dict.fromkeys((named.value, *fleet.copies(named.value, count)))
        taken = next((c for c in ids if c in lines), None)
        if taken is not None:
            message = f"{taken!r:.80} is a camera in line {lines[taken]} already"
            reading.say(named.line, f"cameras[{i}].id", message, "ids must differ, copies included")
        lines = dict.fromkeys(ids, named.line) | lines


def _check_faults(scenario: Scenario, root: _Node, reading: _Reading) -> None:
    """Each pattern of a fault means at least one camera; unread datasets may hold any."""
    if scenario.datasets:
        return
    known = [c.id if c.count == 1 else f"{c.id}-*" for c in scenario.cameras[:MAX_HINTS]]
    ids = [name for camera in scenario.cameras for name in fleet.copies(camera.id, camera.count)]
    if sum(len(fault.cameras) or 1 for fault in scenario.faults) * len(ids) > MAX_MEETINGS:
        message = f"are too many for {len(ids):,} cameras"
        hint = f"patterns x cameras may be {MAX_MEETINGS:,}; name fewer, or leave cameras out"
        reading.say(_line_of(root, "faults"), "faults", message, hint)
        return
    for i, fault in enumerate(scenario.faults):
        for j, pattern in enumerate(fault.cameras):
            if any(fleet.matches(name, (pattern,)) for name in ids):
                continue
            line = _line_of(root, "faults", i, "cameras", j)
            place, message = f"faults[{i}].cameras[{j}]", f"no camera is called {pattern!r:.80}"
            reading.say(line, place, message, _meant(pattern, known))


def _cameras(root: _Node) -> Iterator[tuple[int, _Node]]:
    inside = root.value if isinstance(root.value, dict) else {}
    cameras = inside.get("cameras")
    if cameras is not None and isinstance(cameras.value, list):
        yield from enumerate(cameras.value)


def _sources(root: _Node) -> Iterator[tuple[_Node, tuple[str | int, ...]]]:
    for i, camera in _cameras(root):
        inside = camera.value if isinstance(camera.value, dict) else {}
        if "source" in inside:
            yield inside["source"], ("cameras", i, "source")
        vary = inside.get("vary")
        several = vary.value.get("sources") if vary and isinstance(vary.value, dict) else None
        if several is not None and isinstance(several.value, list):
            for j, source in enumerate(several.value):
                yield source, ("cameras", i, "vary", "sources", j)


def _check_source(
    source: _Node, names: tuple[str | int, ...], base: Path, reading: _Reading
) -> None:
    """The files of one source are there, the variables of its url are set."""
    inside = source.value if isinstance(source.value, dict) else {}
    kind = inside["kind"].value if "kind" in inside else None
    if kind in ("video", "images", "stills"):
        for name, folder in (("path", kind != "video"), ("times", False), ("labels", True)):
            node = inside.get(name)
            if node is None or not isinstance(node.value, str) or ENV.search(node.value):
                continue
            if name == "labels" and node.value.lower().endswith(".json"):
                folder = False
            path = os.path.join(base, node.value)
            if (os.path.isdir if folder else os.path.isfile)(path):
                continue
            other = os.path.exists(path)
            what = f"is a {'file' if folder else 'folder'}, not a {'folder' if folder else 'file'}"
            reading.say(
                node.line,
                _dotted((*names, name)),
                f"{node.value!r:.200} {what if other else 'is not there'}",
                _beside(path, node.value) if not other else "",
            )
    elif kind == "stream" and "url" in inside and isinstance(inside["url"].value, str):
        for variable in dict.fromkeys(ENV.findall(inside["url"].value)):
            if variable not in os.environ:
                reading.say(
                    inside["url"].line,
                    _dotted((*names, "url")),
                    f"the environment variable {variable} is not set",
                    f"export {variable}=…",
                )


def _beside(path: str, given: str) -> str:
    """The nearest name in the folder where the file should be."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        close = difflib.get_close_matches(name, os.listdir(folder or "."), 1)
    except (OSError, ValueError):
        close = []
    if close:
        return f"did you mean {os.path.join(os.path.dirname(given.rstrip('/')), close[0])}?"
    return "paths start at the scenario's own folder"


# --- a scenario as others need it -----------------------------------------------------------------


def resolved(scenario: Scenario) -> dict[str, Any]:
    """The whole scenario with every default, as JSON has it; `Scenario.model_validate` reads it."""
    return scenario.model_dump(mode="json")


def digest(scenario: Scenario) -> str:
    """16 hexadecimal digits of what both halves of a run must agree on, and two compared runs too.

    That is what the cameras show and when: not how it is consumed (sampling, budget, alarm,
    engine), how fast, or what it is called.
    """
    shown = scenario.model_dump(mode="json", include={"seed", "duration", "cameras"})
    text = json.dumps({"format": FORMAT, **shown}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def schema() -> dict[str, Any]:
    """JSON Schema of scenario files, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **Scenario.model_json_schema(),
        "title": "earlyfire-stream scenario",
        "anyOf": [{"required": ["cameras"]}, {"required": ["datasets"]}],
    }


_OPTIONS: dict[str, tuple[str, ...]] = {
    "engine": ("engine", "name"),
    "model": ("engine", "model"),
    "profile": ("engine", "profile"),
    "url": ("engine", "url"),
    "concurrency": ("engine", "concurrency"),
    "deadline": ("engine", "deadline"),
    "timeout": ("engine", "timeout"),
    "prompt": ("engine", "prompt"),
    "worker": ("engine", "workers"),
    "recording": ("engine", "recording"),
    "policy": ("sampling", "policy"),
    "idle": ("sampling", "idle"),
    "tokens_per_s": ("budget", "tokens_per_s"),
    "connections": ("connections",),
    "speed": ("speed",),
    "clock": ("clock",),
    "duration": ("duration",),
    "seed": ("seed",),
}


def with_overrides(scenario: Scenario, settings: Sequence[str] = (), **options: Any) -> Scenario:
    """The scenario with the command line's settings in it; None leaves one as it is.

    `settings` are written `engine.explain=always`: a setting's place in the file and its value in
    YAML. Another engine brings its own defaults: what the file gives for its own engine alone
    (model, url, options and the like) is dropped. UsageError names the option that cannot be.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - _OPTIONS.keys():
        raise TypeError(f"no such override: {', '.join(sorted(unknown))}")
    if "engine" in given and given["engine"] not in ENGINES:
        known = _meant(str(given["engine"]), list(ENGINES))
        raise UsageError(f"--engine: {given['engine']!r} is not known ({known})")
    places = {f"--{name.replace('_', '-')}": _OPTIONS[name] for name in given}
    values = dict(zip(places, given.values(), strict=True))
    for setting in settings:
        name, place, value = _setting(setting)
        places[name], values[name] = place, value
    data = scenario.model_dump()
    if given.get("engine", scenario.engine.name) != scenario.engine.name:
        own = ("model", "profile", "url", "workers", "recording", "options")
        unset = Engine().model_dump()
        data["engine"] |= {name: unset[name] for name in own}
    for name, place in places.items():
        inside = data
        for part in place[:-1]:
            inside = inside.get(part)  # type: ignore[assignment]
            if not isinstance(inside, dict):
                raise UsageError(f"{name}: there is no such setting")
        inside[place[-1]] = values[name]
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise UsageError(_objection(error, places)) from error


def _setting(text: str) -> tuple[str, tuple[str, ...], Any]:
    """`engine.explain=always` -> its name in messages, its place, its value."""
    path, sign, value = text.partition("=")
    place = tuple(part.strip() for part in path.split("."))
    if not sign or not all(place):
        raise UsageError(f"--set {text!r}: write it as engine.explain=always")
    name = f"--set {'.'.join(place)}"
    if place[0] not in SETTINGS:
        known = _meant(place[0], list(SETTINGS))
        raise UsageError(f"{name}: there is no such setting ({known})")
    try:
        return name, place, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: {value!r} is no value in YAML") from error


SETTINGS = ("sampling", "budget", "alarm", "engine", "connections", "speed", "clock", "duration")
"""What `settings` may change; what the cameras show is the scenario itself."""


def _objection(error: ValidationError, places: Mapping[str, tuple[str, ...]]) -> str:
    """The first objection, under the name of the option that caused it."""
    detail = error.errors(include_url=False)[0]
    place, text = detail["loc"], detail["msg"].removeprefix("Value error, ")
    raised = detail.get("ctx", {}).get("error")
    if isinstance(raised, Conflicts):
        conflict = raised.found[0]
        place = (*place, *conflict.at)
        text = f"{_dotted(place)}: {conflict.message}"
    elif detail["type"] == "literal_error":
        text = "must be " + str(detail["ctx"]["expected"])
    elif detail["type"] == "extra_forbidden":
        text = "there is no such setting"
    named = [o for o, at in places.items() if place[: len(at)] == at]
    # fires, phases and windows after the end are the duration's fault
    named = named or [o for o in places if o == "--duration"] or list(places)
    return ", ".join(named) + f": {text}"
