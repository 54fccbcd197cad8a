"""The dashboards as they are written down: in step with their source, and as Grafana reads them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.deployed import DEPLOY, yaml_of

GRAFANA = DEPLOY / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


def source() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboards_source", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def boards() -> list[Any]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in FILES]


each_board = pytest.mark.parametrize("board", boards(), ids=lambda board: board["uid"])


def test_the_files_are_what_the_source_writes() -> None:
    module = source()
    assert {path.stem for path in FILES} == set(module.DASHBOARDS)
    for path in FILES:
        assert path.read_text(encoding="utf-8") == module.text(path.stem), "run build.py"


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{at}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{at}[{number}]")
    else:
        yield at, value


@each_board
def test_grafanas_own_types_keep_every_key_of_it(board: Any) -> None:
    """A key or option that Grafana 11.6 does not know would be missing after the round trip."""
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    kept = dict(leaves(read))
    lost = {
        at: value
        for at, value in leaves(board)
        # how Prometheus' own annotations are titled is the plugin's affair, not in these types
        if not (at.startswith(".annotations") and at.rpartition(".")[2] in PLUGINS_OWN)
        and kept.get(at, "nothing there") != value
    }
    assert lost == {}


PLUGINS_OWN = {"step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}


@each_board
def test_every_panel_says_what_it_shows_in_which_unit_and_what_is_missing(board: Any) -> None:
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(t["datasource"]["uid"] == "${datasource}" for t in panel["targets"])


@each_board
def test_panels_stand_side_by_side(board: Any) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@each_board
def test_every_dashboard_can_be_asked_for_runs_cameras_engines_and_models(board: Any) -> None:
    assert board["uid"].startswith("earlyfire-")
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names == ["datasource", "run", "camera", "engine", "model"]
    marks = [mark["name"] for mark in board["annotations"]["list"]]
    assert marks == ["Annotations & Alerts", "Onset", "Alarm", "Fault"]


def test_what_is_provisioned_is_what_is_there() -> None:
    (provider,) = yaml_of(GRAFANA / "provisioning" / "dashboards" / "earlyfire.yaml")["providers"]
    compose = yaml_of(DEPLOY / "compose.yaml")["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in compose["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source_,) = yaml_of(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")[
        "datasources"
    ]
    assert source_["type"] == "prometheus"
    assert source_["url"] == "$PROMETHEUS_URL"
    assert compose["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    home = compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.removeprefix(provider["options"]["path"] + "/") in {path.name for path in FILES}
    mapped = yaml_of(GRAFANA / "kustomization.yaml")["configMapGenerator"][0]["files"]
    assert {name.removeprefix("dashboards/") for name in mapped} == {path.name for path in FILES}
