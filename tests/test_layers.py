"""Imports go from higher layers to lower ones only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import earlyfire_stream

PACKAGE = Path(earlyfire_stream.__file__).parent

LAYERS: dict[str, int] = {
    "errors": 0,
    "clock": 0,
    "signals": 0,
    "verdict": 1,
    "scenario": 1,
    "frames": 1,
    "records": 1,
    "merged": 1,
    "tokens": 2,
    "sampling": 2,
    "mailbox": 2,
    "knee": 2,
    "breaker": 2,
    "gaps": 2,
    "contract": 2,
    "alarms": 2,
    "second_look": 2,
    "scoring": 2,
    "sources": 3,
    "reel": 3,
    "transport": 3,
    "engines": 3,
    "worker": 3,
    "importers": 3,
    "report": 3,
    "exports": 3,
    "live": 3,
    "metrics": 3,
    "camera": 4,
    "consumer": 4,
    "folder": 4,
    "faults": 4,
    "lookout": 4,
    "drill": 4,
    "run": 5,
    "bench": 6,
    "blocks": 6,
    "soak": 6,
    "doctor": 5,
    "logs": 3,
    "lingering": 2,
    "cli": 7,
    "__main__": 8,
}

SIBLINGS: set[tuple[str, str]] = {
    ("lookout", "consumer"),
    ("drill", "faults"),
    ("drill", "lookout"),
    ("scenario", "verdict"),
    ("scenario", "records"),  # a camera's plan is what the scorer knows of a scenario
    ("records", "verdict"),
    ("merged", "records"),
    ("merged", "verdict"),
    ("frames", "verdict"),
    ("mailbox", "sampling"),
    ("scoring", "alarms"),  # one alarm policy, online and offline
    ("reel", "sources"),
    ("live", "report"),  # both draw a camera's frames with the same script
    ("blocks", "bench"),  # engines and samplings are written alike in both
    ("importers", "sources"),  # a video's length is what its source says
    ("engines", "worker"),  # doctor tells the memory that the worker asks for
}

PURE = {
    "tokens",
    "sampling",
    "mailbox",
    "knee",
    "breaker",
    "gaps",
    "contract",
    "alarms",
    "second_look",
    "scoring",
}
IMPURE_MODULES = {"asyncio", "logging", "time", "socket", "threading", "subprocess", "random"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names.add(node.module)
            if node.module == "earlyfire_stream":
                names |= {f"earlyfire_stream.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer() -> None:
    unknown = {part_of(p) for p in modules()} - LAYERS.keys() - {"__init__"}
    assert unknown == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for name in imported(path):
        words = name.split(".")
        if words[0] != "earlyfire_stream" or len(words) < 2 or words[1] == part:
            continue
        other = words[1]
        if other == "__version__":
            continue
        down = LAYERS[other] < LAYERS[part]
        assert down or (part, other) in SIBLINGS, f"{part} must not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_decisions_do_not_touch_the_world(path: Path) -> None:
    if part_of(path) in PURE:
        assert imported(path) & IMPURE_MODULES == set()


HEAVY = {"torch", "transformers", "llguidance", "accelerate", "bitsandbytes"}
TORCHLESS = {"__init__.py", "ask.py", "loading.py"}
"""Of the worker: what the command and `doctor` read without the extra `hf`."""


def test_only_the_worker_knows_torch() -> None:
    for path in modules():
        if part_of(path) != "worker":
            assert not {name.split(".")[0] for name in imported(path)} & HEAVY


@pytest.mark.parametrize("name", sorted(TORCHLESS))
def test_the_workers_words_import_without_torch(name: str) -> None:
    tree = ast.parse((PACKAGE / "worker" / name).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & HEAVY
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.module.split(".")[0] not in HEAVY
            assert not node.module.startswith("earlyfire_stream.worker") or (
                node.module.rsplit(".", 1)[1] + ".py" in TORCHLESS
            )
