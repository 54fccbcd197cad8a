"""What stands in deploy/: its expressions, the metrics that they name, a Prometheus to ask them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from earlyfire_stream.metrics import FAMILIES, PREFIX, Kind
from earlyfire_stream.worker.metrics import Metrics as WorkerMetrics
from tests.conftest import left_out
from tests.playing import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
NOT_METRICS = {"earlyfire_stream"}
"""The package's own name, which begins like a metric's."""


def program(name: str) -> str:
    """Prometheus or its tool; `make test` installs both."""
    found = shutil.which(name)
    if found is None:
        left_out(f"no {name} on PATH (Debian: apt-get install prometheus)")
    assert found is not None
    return found


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml_of(path)["groups"] for rule in group["rules"]]


# --- names ---------------------------------------------------------------------------------------


def exposed_names(in_words: bool = False) -> set[str]:
    """Every name under which Prometheus can find something that we declare.

    `in_words`: and those of whole histograms, which a text may name and no query can find.
    """
    names = {family.exposed for family in FAMILIES if in_words}
    for family in FAMILIES:
        endings = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {family.exposed + ending for ending in endings}
    for metric in WorkerMetrics().registry.collect():
        endings = {
            "counter": ("_total",),
            "info": ("_info",),
            "histogram": ("_bucket", "_sum", "_count"),
        }.get(metric.type, ("",))
        names |= {metric.name + ending for ending in endings}
    return {name for name in names if name.startswith(PREFIX)}


def named_in(text: str) -> set[str]:
    """Every word that can only be one of our metrics; recorded ones have colons before it."""
    found = re.findall(rf"(?<![\w:.-]){PREFIX}[a-z0-9_]+(?![\w:*]|/|\.py)", text)
    return {name for name in found if not name.endswith("_")} - NOT_METRICS


def recorded_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w:])[a-z]+:earlyfire_[a-z0-9_]+:[a-z0-9_]+", text))


# --- a Prometheus of one's own -------------------------------------------------------------------


class Prometheus:
    """The HTTP API of a running one. What it does not understand fails with its own words."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: Any) -> Any:
        question = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
        try:
            with urllib.request.urlopen(question, timeout=PATIENCE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as why:
            raise AssertionError(f"{parameters}: {why.read().decode()}") from why

    def query(self, expression: str, **parameters: Any) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expression, **parameters)["result"]
        return result

    def number(self, expression: str, **parameters: Any) -> float:
        (sample,) = self.query(expression, **parameters)
        return float(sample["value"][1])

    def range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        data = self.get("query_range", query=expression, start=start, end=end, step=1)
        result: list[dict[str, Any]] = data["result"]
        return result


@contextmanager
def prometheus(folder: Path, settings: dict[str, Any]) -> Iterator[Prometheus]:
    """A real one with these settings, on a free loopback port; it is gone afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    (folder / "prometheus.yml").write_text(json.dumps(settings))  # YAML reads JSON
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    there = Prometheus(f"http://127.0.0.1:{port}")

    def ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"{there.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_for(ready)
        yield there
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
