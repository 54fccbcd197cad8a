"""The shipped scenarios, starter files and the schema for editors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from earlyfire_stream.errors import UsageError
from earlyfire_stream.scenario.catalogue import TEMPLATES, find, init, listed
from earlyfire_stream.scenario.fleet import expand
from earlyfire_stream.scenario.load import load, loads, schema

BENCH = [
    "bench-calibration",
    "bench-early",
    "bench-explainability",
    "bench-localization",
    "bench-robustness",
]
NAMES = [*BENCH, "calm", "demo", "overload", "smoke-test", "soak", "sweep"]


def valid(data: Any) -> bool:
    checker = jsonschema.Draft202012Validator(schema())
    return bool(checker.is_valid(data))


def test_the_shipped_scenarios_are_listed_with_what_is_in_them() -> None:
    entries = {e.name: (e.cameras, e.fires, e.duration_s) for e in listed()}
    assert entries == {
        "bench-calibration": (10, 0, 60.0),
        "bench-early": (6, 4, 360.0),
        "bench-explainability": (3, 2, 120.0),
        "bench-localization": (7, 6, 180.0),
        "bench-robustness": (4, 3, 150.0),
        "calm": (12, 0, 120.0),
        "demo": (8, 3, 90.0),
        "overload": (200, 3, 60.0),
        "smoke-test": (3, 1, 12.0),
        "soak": (60, 3, 600.0),
        "sweep": (36, 9, 480.0),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_scenario_has_its_files_name_and_a_description(name: str) -> None:
    scenario = load(find(name)).scenario
    assert scenario.name == name
    assert scenario.description.endswith(".")


def test_the_overload_renders_ten_masts_for_two_hundred_cameras() -> None:
    fleet = expand(load(find("overload")).scenario)
    assert len(fleet) == 200
    assert len({c.source_key for c in fleet}) == 10


def test_the_demo_shows_each_thing_that_it_promises() -> None:
    fleet = expand(load(find("demo")).scenario)
    onsets = sorted({f.onset for c in fleet for f in c.fires})
    assert onsets == [22.0, 28.0, 38.0, 50.0]
    assert sorted({f.plume.size for c in fleet for f in c.fires}) == ["large", "medium", "small"]
    assert sum(bool(c.outages) for c in fleet) == 1
    times = {c.source.scene.time_of_day for c in fleet if c.source.kind == "synthetic"}
    assert times == {"day", "dusk", "night"}


def test_a_scenario_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("")
    assert find(mine) == mine
    assert find("demo").name == "demo.yaml"
    assert find("scenarios/demo.yaml").name == "demo.yaml"


def test_an_unknown_scenario_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"^dmo: there is no such scenario \(did you mean demo\?"):
        find("dmo")
    with pytest.raises(
        UsageError, match=r"shipped are bench-.*, calm, demo, overload, smoke-test, soak, sweep"
    ):
        find("xyzzy")
    with pytest.raises(UsageError, match=r"^x/y.yaml: there is no such scenario file$"):
        find("x/y.yaml")


def test_a_folder_is_no_scenario_and_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder; name the scenario file in it"):
        find(tmp_path)


@pytest.mark.parametrize("template", ["small", "video", "figlib", "rtsp"])
def test_a_starter_file_is_a_valid_scenario_once_its_files_are_there(
    template: str, tmp_path: Path
) -> None:
    written = init(tmp_path / "fleet.yaml", template)
    text = written.read_text()
    assert text == TEMPLATES[template]
    assert loads(text, files=False).scenario.earlyfire == 1
    assert valid(yaml.safe_load(text))
    assert [p.name for p in tmp_path.iterdir()] == ["fleet.yaml"]


def test_a_starter_file_replaces_nothing_unless_it_is_told_to(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("mine")
    with pytest.raises(UsageError, match=r"fleet\.yaml is there already; --force replaces it"):
        init(file)
    assert file.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["fleet.yaml"]
    init(file, force=True)
    assert file.read_text() == TEMPLATES["small"]


def test_a_starter_file_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not known \(did you mean figlib\?\)"):
        init(tmp_path / "x.yaml", "figlb")
    with pytest.raises(UsageError, match="is a folder; name a file in it"):
        init(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is a device or a pipe"):
        init(tmp_path / "pipe", force=True)
    assert not (tmp_path / "pipe").is_file()
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        init(tmp_path / "none" / "x.yaml")


def test_the_schema_is_a_schema_and_says_which() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema()["$id"] == "urn:earlyfire-stream:scenario:1"
    assert schema()["title"] == "earlyfire-stream scenario"


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_scenario_fits_the_schema(name: str) -> None:
    assert valid(yaml.safe_load(find(name).read_text()))


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"duration": "90s"}, True),
        ({"duration": 90}, True),
        ({"duration": "-90s"}, False),
        ({"duration": "soon"}, False),
        ({"speeed": 1}, False),
        ({"cameras": []}, False),
        ({"cameras": [{"id": "a", "source": {}}]}, False),
        ({"cameras": [{"id": "a", "source": {"kind": "video"}}]}, False),
        ({"cameras": [{"id": "a", "source": {"kind": "video", "path": "x"}}]}, True),
        ({"engine": {"name": "olama"}}, False),
    ],
)
def test_the_schema_refuses_what_an_editor_should_underline(
    change: dict[str, object], fits: bool
) -> None:
    base = {
        "earlyfire": 1,
        "name": "t",
        "duration": 1,
        "cameras": [{"id": "a", "source": {"kind": "synthetic"}}],
    }
    assert valid(base | change) is fits
