"""Scenario files: what is refused, where, in which words; and what is read."""

from __future__ import annotations

import contextlib
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from earlyfire_stream.errors import ScenarioError, UsageError
from earlyfire_stream.scenario.fleet import planned_faults
from earlyfire_stream.scenario.load import (
    Loaded,
    digest,
    load,
    loads,
    resolved,
    with_overrides,
)
from earlyfire_stream.scenario.models import Camera, Engine, Scenario, SyntheticSource

HEAD = "earlyfire: 1\nname: t\nduration: 60s\n"
CAMERA = "cameras: [{id: a, source: {kind: synthetic}}]\n"


def problems(text: str, base: Path = Path()) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        loads(textwrap.dedent(text), "fleet.yaml", base)
    return [str(problem) for problem in caught.value.problems]


def with_camera(settings_text: str) -> str:
    """A valid file but for what stands in line 4, its one camera's own settings."""
    return HEAD + f"cameras: [{{id: a, source: {{kind: synthetic}}, {settings_text}}}]\n"


def with_source(source: str) -> str:
    """A valid file but for the source in line 4."""
    return HEAD + f"cameras: [{{id: a, source: {{{source}}}}}]\n"


def read(text: str) -> Scenario:
    return loads(textwrap.dedent(text), files=False).scenario


# --- what is read ---------------------------------------------------------------------------------


def test_a_small_file_is_read_with_every_default() -> None:
    scenario = read(HEAD + CAMERA)
    assert scenario.duration == 60.0
    assert scenario.speed == 1.0
    assert scenario.engine == Engine(name="baseline")
    assert scenario.cameras[0] == Camera(id="a", source=SyntheticSource())


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("250ms", 0.25), ("1d", 86400.0), ("7", 7.0)],
)
def test_durations_are_written_as_people_write_them(written: str, seconds: float) -> None:
    scenario = read(f"earlyfire: 1\nname: t\nduration: {written}\n" + CAMERA)
    assert scenario.duration == seconds


def test_names_that_look_like_numbers_or_dates_stay_text() -> None:
    scenario = read("""
        earlyfire: 1
        name: 2025-08-14
        duration: 1e2
        cameras: [{id: 007, source: {kind: synthetic}}]
    """)
    assert scenario.name == "2025-08-14"
    assert scenario.cameras[0].id == "007"
    assert scenario.duration == 100.0


def test_yes_and_off_are_truth_values_where_one_is_wanted() -> None:
    assert read(with_camera("truth: off")).cameras[0].truth is False
    assert read(with_camera("truth: yes")).cameras[0].truth is True


def test_an_alias_and_a_merge_share_settings_between_cameras() -> None:
    scenario = read("""
        earlyfire: 1
        name: t
        duration: 60s
        cameras:
          - &first {id: a, cadence: 2s, source: &scene {kind: synthetic, seed: 4}}
          - {<<: *first, id: b}
          - {id: c, source: *scene}
    """)
    assert [c.id for c in scenario.cameras] == ["a", "b", "c"]
    assert scenario.cameras[1].cadence == 2.0
    assert scenario.cameras[2].source == SyntheticSource(kind="synthetic", seed=4)


def test_paths_start_at_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "fire.mp4").write_bytes(b"")
    file = tmp_path / "fleet.yaml"
    file.write_text(with_source("kind: video, path: clips/fire.mp4"))
    loaded = load(file)
    assert isinstance(loaded, Loaded)
    assert loaded.base == tmp_path


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + (HEAD + CAMERA).encode())
    assert load(file).scenario.name == "t"


# --- all problems at once -------------------------------------------------------------------------


def test_six_mistakes_give_six_problems_each_with_its_line() -> None:
    assert problems("""\
        earlyfire: 1
        name: my fleet
        duration: 60s
        speeed: 2
        cameras:
          - id: a
            source: {kind: vidoe}
            fires:
              - {id: f, onset: 100s}
          - id: a
            source: {kind: video, path: nowhere.mp4}
    """) == [
        "line 2: name: 'my fleet' is no name (letters, digits, `_`, `.` and `-`, at most 64, "
        "a letter or digit first)",
        "line 4: speeed: unknown field (did you mean speed?)",
        "line 7: cameras[0].source: kind 'vidoe' is not known (did you mean video?)",
        "line 9: cameras[0].fires[0].onset: fire f begins at 100 s, "
        "after the scenario's end at 60 s",
        "line 10: cameras[1].id: 'a' is a camera in line 6 already "
        "(ids must differ, copies included)",
        "line 11: cameras[1].source.path: 'nowhere.mp4' is not there "
        "(paths start at the scenario's own folder)",
    ]


def test_the_error_names_the_file_and_counts() -> None:
    with pytest.raises(ScenarioError) as caught:
        loads("earlyfire: 1\nname: t\n" + CAMERA + "seed: -1\nspeed: 0\n", "fleet.yaml")
    assert str(caught.value) == (
        "fleet.yaml: 2 problems\n"
        "  line 4: seed: must be at least 0, not -1\n"
        "  line 5: speed: must be above 0, not 0"
    )


def test_a_place_keeps_its_number_when_an_entry_before_it_was_refused() -> None:
    assert problems(
        HEAD
        + """\
cameras:
  - {id: a, source: {kind: synthetic}, outages: [{start: 5, end: 1}]}
  - id: b
    source: {kind: synthetic}
    fires:
      - {id: f, onset: soon}
      - {id: g, onset: 70s}
"""
    ) == [
        "line 5: cameras[0].outages[0].end: must come after start (5 s), not at 1 s",
        "line 9: cameras[1].fires[0].onset: 'soon' is no duration (write 250ms, 90s, 10m or 2h)",
        "line 10: cameras[1].fires[1].onset: fire g begins at 70 s, "
        "after the scenario's end at 60 s",
    ]


def test_a_wrong_setting_brings_no_second_complaint_about_its_default() -> None:
    text = HEAD + CAMERA + "sampling: {idle: soon, slowest: 4s, suspect: 1s}\n"
    assert problems(text) == [
        "line 5: sampling.idle: 'soon' is no duration (write 250ms, 90s, 10m or 2h)"
    ]


# --- one field ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("duration: 1:30", "line 3: duration: '1:30' is no duration (write 90s)"),
        ("duration: 1:00:00", "line 3: duration: '1:00:00' is no duration (write 3600s)"),
        ("duration: yes", "line 3: duration: True is no duration (write 250ms, 90s, 10m or 2h)"),
        ("duration: 0", "line 3: duration: must be above 0"),
        ("duration:", "line 3: duration: is missing, and no camera's source ends by itself"),
        ("seed: yes", "line 3: seed: needs a whole number, not 'yes'"),
        ("seed: '5'", "line 3: seed: needs a whole number, not '5' (write 5)"),
        ("seed: 010", "line 3: seed: needs a whole number, not '010' (write 10)"),
        ("seed: 1.5", "line 3: seed: needs a whole number, not '1.5'"),
        ("seed: 4294967296", "line 3: seed: must be below 4,294,967,296, not 4294967296"),
        ("speed: .inf", "line 3: speed: .inf is no finite number"),
        ("speed: 1e999", "line 3: speed: 1e999 is no finite number"),
        ("speed: fast", "line 3: speed: needs a number, not 'fast'"),
        ("clock: virtul", "line 3: clock: 'virtul' is not known (did you mean virtual?)"),
        ("clock: cuckoo", "line 3: clock: 'cuckoo' is not known (one of wall, virtual)"),
        ("description: no", "line 3: description: needs text, not 'no' (put it in quotes: \"no\")"),
        ("description: !!binary aaa", "line 3: description: the tag"),
        ("budget: none", "line 3: budget: needs a mapping of settings, not 'none'"),
        ("budget:", "line 3: budget: has no value (write one, or remove the line)"),
        ("alarm: {k: 3}", "line 3: alarm.k: must not lie above n (1)"),
        ("sampling: {idle: 1s}", "line 3: sampling.idle: must be at least 3s"),
        (
            "engine: {name: olama}",
            "line 3: engine.name: 'olama' is not known (did you mean ollama?",
        ),
        (
            "engine: {name: gpt}",
            "line 3: engine.name: 'gpt' is not known "
            "(one of baseline, ollama, hf, openai, simulated, recorded)",
        ),
        ("engine: {profile: perfect}", "line 3: engine.profile: only the simulated engine has"),
        ("engine: {url: 'http://h:1'}", "line 3: engine.url: the baseline engine has no server"),
        (
            "engine: {name: ollama, url: '${HOST}'}",
            "line 3: engine.url: ${HOST} is not filled in here "
            "(only in the url of a stream source)",
        ),
        (
            "budget: {tokens_per_s: -1}",
            "line 3: budget.tokens_per_s: must be above 0, not -1; "
            "or '-1' is not known (one of auto, none)",
        ),
        ("name: u", "line 3: name: is given twice, first in line 2 (keep one)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line_and_remedy(text: str, said: str) -> None:
    duration = "" if text.startswith("duration") else "duration: 60s\n"
    found = problems(f"earlyfire: 1\nname: t\n{text}\n{duration}{CAMERA}")
    assert len(found) == 1
    assert found[0].startswith(said)


@pytest.mark.parametrize(
    ("settings_text", "said"),
    [
        ("cadense: 1", "cameras[0].cadense: unknown field (did you mean cadence?)"),
        ("cadence: 0", "cameras[0].cadence: must be above 0"),
        ("perturb: {haze: 2}", "cameras[0].perturb.haze: must be at most 1, not 2"),
        ("fires: [{id: f}]", "cameras[0].fires[0].onset: is missing"),
        ("fires: {id: f}", "cameras[0].fires: needs a list, not a mapping"),
        (
            "fires: [{id: f, onset: -5}]",
            "cameras[0].fires[0].onset: smoke cannot begin before the camera does, at -5 s "
            "(write 0 for a camera that starts in smoke)",
        ),
        (
            "fires: [{id: f, onset: 9, end: 9}]",
            "cameras[0].fires[0].end: must come after onset (9 s), not at 9 s",
        ),
        (
            "fires: [{id: f, onset: 9, plume: {size: hug}}]",
            "cameras[0].fires[0].plume.size: 'hug' is not known (one of small, medium, large)",
        ),
        (
            "fires: [{id: f, onset: 9}, {id: g, onset: 20}]",
            "cameras[0].fires[1].onset: fire g begins while fire f still burns "
            "(give f an end before that: an alarm could not be told apart)",
        ),
        (
            "fires: [{id: f, onset: 9, end: 10}, {id: f, onset: 20}]",
            "cameras[0].fires[1].id: two fires here are called 'f'",
        ),
        (
            "fires: [{id: f, onset: 9, boxes: [{at: 3, box: [0.5, 0.5, 0.1, 0.1]}]}]",
            "cameras[0].fires[0].boxes[0].at: a box at 3 s, when the fire shows no smoke",
        ),
        (
            "fires: [{id: f, onset: 1, boxes: [{at: 3, box: [0.5, 0.5, 0.1]}]}]",
            "cameras[0].fires[0].boxes[0].box: needs more than 3 entries",
        ),
        (
            "fires: [{id: f, onset: 1, boxes: [{at: 3, box: [0.5, 0.5, 0, 0]}]}]",
            "cameras[0].fires[0].boxes[0].box: box without an area: (0.5, 0.5, 0.0, 0.0)",
        ),
        ("ignore: [[[0, 0], [1, 1]]]", "cameras[0].ignore[0]: a polygon needs at least 3 points"),
        (
            "outages: [{start: 61, end: 62}]",
            "cameras[0].outages[0]: begins at 61 s, after the scenario's end at 60 s",
        ),
        (
            "outages: [{start: 1, end: 9}, {start: 8, end: 10}]",
            "cameras[0].outages[1]: overlaps the window from 1 s to 9 s "
            "(make one window of the two)",
        ),
        (
            "network: {outages: [{start: 90, end: 99}]}",
            "cameras[0].network.outages[0]: begins at 90 s, after the scenario's end at 60 s",
        ),
        ("phase: 60", "cameras[0].phase: the first frame would come after the scenario's end"),
        ("vary: {onset: 1}", "cameras[0].vary: needs count above 1"),
        (
            "count: 2, fires: [{id: f, onset: 50}], vary: {onset: 10}",
            "cameras[0].vary.onset: may move fire f to 60 s, after the scenario's end at 60 s",
        ),
        ("count: 0", "cameras[0].count: must be at least 1, not 0"),
    ],
)
def test_a_wrong_camera_is_named_with_its_path(settings_text: str, said: str) -> None:
    found = problems(with_camera(settings_text))
    assert len(found) == 1
    assert found[0].startswith("line 4: " + said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("size: [640, 360]", "source: kind is missing (one of synthetic, video, images, stills,"),
        ("kind: synthetic, scene: {terain: hills}", "source.scene.terain: unknown field (did you"),
        ("kind: synthetic, size: [64, 64]", "source.size: size must lie between 320x240 and"),
        ("kind: synthetic, size: [640]", "source.size: needs more than 1 entry"),
        ("kind: synthetic, path: x", "source.path: unknown field (one of kind, quality, scene,"),
        ("kind: video", "source.path: is missing"),
        ("kind: images, path: .", "source: say when the images were taken: exactly one of"),
        ("kind: images, path: ., interval: 0", "source.interval: must be above 0"),
        ("kind: stills, path: ., labels: ., smoke: yes", "source.smoke: give labels or smoke"),
        ("kind: stream, url: ftp://h", "source.url: is no address of a camera (begin with rtsp://"),
    ],
)
def test_a_wrong_source_is_named_with_its_path(source: str, said: str) -> None:
    found = problems(with_source(source))
    assert len(found) == 1
    assert found[0].startswith("line 4: cameras[0]." + said)


def test_a_copy_may_not_take_another_cameras_id() -> None:
    assert problems(
        HEAD
        + """\
cameras:
  - {id: mast, source: {kind: synthetic}, count: 3}
  - {id: mast-002, source: {kind: synthetic}}
"""
    ) == [
        "line 6: cameras[1].id: 'mast-002' is a camera in line 5 already "
        "(ids must differ, copies included)"
    ]


def test_more_cameras_than_can_be_played_are_refused() -> None:
    cameras = "".join(
        f"  - {{id: c{i}, source: {{kind: synthetic}}, count: 6000}}\n" for i in range(2)
    )
    assert problems(HEAD + "cameras:\n" + cameras) == [
        "line 6: cameras[1]: makes more than 10,000 cameras"
    ]


def test_a_fleet_that_never_ends_needs_a_duration() -> None:
    assert problems("earlyfire: 1\nname: t\n" + CAMERA) == [
        "line 1: duration: is missing, and no camera's source ends by itself (write duration: 90s)"
    ]


# --- files, urls, variables -----------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "fire.mp4").write_bytes(b"")
    said = problems(with_source("kind: video, path: clips/fier.mp4"), tmp_path)
    assert said == [
        "line 4: cameras[0].source.path: 'clips/fier.mp4' is not there "
        "(did you mean clips/fire.mp4?)"
    ]


def test_missing_times_and_labels_are_found_as_well(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    source = "kind: images, path: images, times: times.csv, labels: labels"
    assert problems(with_source(source), tmp_path) == [
        "line 4: cameras[0].source.labels: 'labels' is not there "
        "(paths start at the scenario's own folder)",
        "line 4: cameras[0].source.times: 'times.csv' is not there "
        "(paths start at the scenario's own folder)",
    ]


def test_a_folder_where_a_video_should_be_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    assert problems(with_source("kind: video, path: clips"), tmp_path) == [
        "line 4: cameras[0].source.path: 'clips' is a folder, not a file"
    ]


def test_the_files_of_varied_sources_are_looked_for_too(tmp_path: Path) -> None:
    text = with_camera("count: 2, vary: {sources: [{kind: video, path: a.mp4}]}")
    assert problems(text, tmp_path) == [
        "line 4: cameras[0].vary.sources[0].path: 'a.mp4' is not there "
        "(paths start at the scenario's own folder)"
    ]


def test_without_the_pictures_a_scenario_can_be_read_elsewhere() -> None:
    text = with_source("kind: video, path: nowhere.mp4")
    assert loads(text, files=False).scenario.cameras[0].source.kind == "video"


@pytest.mark.parametrize(
    "url", ["rtsp://me:hunter2@h/s", "http://h/s?user=me&password=hunter2", "http://:hunter2@h/"]
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    (said,) = problems(with_source(f"kind: stream, url: '{url}'"))
    assert said == (
        "line 4: cameras[0].source.url: a password stands in the file "
        "(write ${CAM_PASSWORD} in its place and set that variable in the environment)"
    )


def test_a_password_from_the_environment_is_filled_in_at_the_last_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAM_PASSWORD", "hunter2")
    text = with_source("kind: stream, url: 'rtsp://me:${CAM_PASSWORD}@h/s'")
    scenario = loads(text).scenario
    assert "hunter2" not in str(resolved(scenario))
    source = scenario.cameras[0].source
    assert source.kind == "stream"
    assert source.url == "rtsp://me:${CAM_PASSWORD}@h/s"
    assert source.opened({"CAM_PASSWORD": "hunter2"}) == "rtsp://me:hunter2@h/s"


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAM_PASSWORD", raising=False)
    assert problems(with_source("kind: stream, url: 'rtsp://me:${CAM_PASSWORD}@h/s'")) == [
        "line 4: cameras[0].source.url: the environment variable CAM_PASSWORD is not set "
        "(export CAM_PASSWORD=…)"
    ]


def test_variables_are_filled_in_nowhere_else() -> None:
    assert problems(with_source("kind: video, path: '${HOME}/fire.mp4'")) == [
        "line 4: cameras[0].source.path: ${HOME} is not filled in here "
        "(only in the url of a stream source)"
    ]


# --- files that are no scenario at all ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty (write a starter file with: earlyfire scenario init)"),
        ("# nothing\n", "is empty (write a starter file with: earlyfire scenario init)"),
        ("- a\n", "line 1: must be a mapping of settings, such as `name: my-fleet`"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document begins (one scenario a file)"),
        ("a: \0\n", "line 1: holds a character that is no text (save it as plain UTF-8 text)"),
        ("a: 1\nb: \ud800\n", "line 2: is not UTF-8 text (save it as UTF-8)"),
        ("[" * 100_000, "is nested more than 24 deep (line 1)"),
        ("a: '" + "x" * 5_000_000, "is larger than 4 MiB"),
    ],
)
def test_what_is_no_mapping_is_refused_with_one_reason(text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        loads(text)
    assert [str(p) for p in caught.value.problems] == [said]


def test_broken_yaml_is_refused_with_its_line_and_advice() -> None:
    (tab,) = problems("name: t\nengine:\n\tname: baseline\n")
    assert tab.startswith("line 3: ")
    assert tab.endswith("(indent with spaces, not tabs)")
    (colon,) = problems("name: t\ndescription: one: two\n")
    assert colon.startswith("line 2: mapping values are not allowed")


def test_an_alias_bomb_is_refused_before_it_expands() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for above, below in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{below}: &{below} [{', '.join([f'*{above}'] * 10)}]")
    began = time.perf_counter()
    assert problems("\n".join(lines)) == [
        "expands to more than 200,000 values (line 6): too many aliases"
    ]
    assert time.perf_counter() - began < 5


def test_an_alias_of_itself_ends_nowhere_and_is_refused() -> None:
    assert "line 1: a[0]: nothing above is marked &a" in problems("a: &a [*a]")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: t\ndescription: caf\xe9\n")
    with pytest.raises(ScenarioError, match=r"line 2: is not UTF-8 text \(save it as UTF-8\)"):
        load(tmp_path / "latin.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load("a\0b.yaml")


# --- no text brings it down -----------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *("earlyfire: 1", "name: x", "duration: 9s", "cameras:", "  - id: a", "    count: 3"),
        *("    source: {kind: synthetic}", "    source: {kind: video, path: x}", "    fires:"),
        *("      - {id: f, onset: 1}", "      - {id: f, onset: 8, end: 2}", "    vary: {onset: 9}"),
        *(
            "    source: {kind: stream, url: 'http://[x'}",
            "engine: {name: ollama, url: 'http://['}",
        ),
        *("budget: {tokens_per_s: x}", "sampling: {idle: 1}", "&a", "*a", "<<: *a", "  - *a", "["),
        *("{", "]", "}", "- ", ": ", "? ", "!!x ", "~", "'", '"\\ud800"', "|", ".nan", "\t", "#"),
        *("    outages: [{start: 1, end: 3}, {start: 2, end: 4}]", "cameras: [~, 1, {}]", "\n"),
        *("    perturb: {crop: [0, 0, 0, 0]}", "    ignore: [[]]", "    fires: [{}, {}]"),
    ]
)


@given(st.text() | st.lists(FRAGMENTS, max_size=14).map("\n".join))
@settings(max_examples=300, deadline=None)
def test_no_text_raises_anything_but_a_scenario_error(text: str) -> None:
    with contextlib.suppress(ScenarioError):
        assert loads(text).scenario.cameras


# --- built in code --------------------------------------------------------------------------------


def test_a_scenario_built_in_code_is_checked_as_well() -> None:
    with pytest.raises(ValidationError, match="begins at 70 s, after the scenario's end at 60 s"):
        Scenario.model_validate(
            {
                "earlyfire": 1,
                "name": "t",
                "duration": 60,
                "cameras": [
                    {
                        "id": "a",
                        "source": {"kind": "synthetic"},
                        "fires": [{"id": "f", "onset": 70}],
                    }
                ],
            }
        )


def test_a_resolved_scenario_reads_back_equal() -> None:
    scenario = read(with_camera("fires: [{id: f, onset: 5s, plume: {size: large}}]"))
    assert Scenario.model_validate(resolved(scenario)) == scenario


# --- faults ---------------------------------------------------------------------------------------

FLEET = """\
cameras:
  - {id: mast, source: {kind: synthetic}}
  - {id: ridge, count: 12, source: {kind: synthetic}}
"""


def with_faults(*entries: str, more: str = "") -> str:
    """The first of the entries stands in line 8 (`more` must be one line), each in one line."""
    lines = "".join(f"  - {{{entry}}}\n" for entry in entries)
    return HEAD + FLEET + (more or "seed: 1") + "\nfaults:\n" + lines


def test_faults_of_cameras_by_name_and_by_pattern_are_read() -> None:
    text = with_faults("kind: camera-black, start: 5s, end: 8s, cameras: [mast, 'ridge-00?']")
    (fault,) = loads(text).scenario.faults
    assert (fault.kind, fault.start, fault.until) == ("camera-black", 5.0, 8.0)
    assert fault.cameras == ("mast", "ridge-00?")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("masst", "did you mean mast?"),
        ("rigde-*", "did you mean ridge-*?"),
        ("Mast", "did you mean mast?"),
        ("ridge", "did you mean ridge-*?"),
        ("ridge-013", "did you mean ridge-*?"),
        ("zzz", "one of mast, ridge-*"),
    ],
)
def test_a_fault_of_a_camera_that_is_not_there_is_refused(pattern: str, hint: str) -> None:
    text = with_faults(
        "kind: engine-hang, start: 1s, end: 2s",
        f"kind: camera-black, start: 5s, end: 8s, cameras: [mast, {pattern!r}]",
    )
    said = f"line 10: faults[1].cameras[1]: no camera is called {pattern!r} ({hint})"
    assert problems(text) == [said]


def test_what_recordings_there_are_is_not_known_while_datasets_stay_unread() -> None:
    text = (
        HEAD
        + "datasets: [{layout: figlib, path: nowhere}]\n"
        + "faults: [{kind: camera-black, start: 1s, end: 2s, cameras: [anything]}]\n"
    )
    assert read(text).faults[0].cameras == ("anything",)


def test_two_faults_that_are_on_or_off_must_not_overlap() -> None:
    text = with_faults(
        "kind: broker-gone, start: 5s, end: 9s",
        "kind: broker-gone, start: 1s, end: 6s",
        "kind: broker-gone, start: 9s, end: 9500ms",
        "kind: engine-slow, start: 1s, end: 6s",
        "kind: engine-slow, start: 2s, end: 7s",
    )
    assert problems(text) == [
        "line 9: faults[0].start: begins before the broker-gone from 1 s to 6 s is over "
        "(make one fault of the two)"
    ]


def test_two_faults_of_one_name_are_refused() -> None:
    text = with_faults(
        "kind: engine-hang, start: 1s, end: 2s",
        "kind: engine-slow, id: night, start: 3s, end: 4s",
        "kind: camera-black, id: night, start: 5s, end: 6s",
        "kind: engine-hang, start: 7s, end: 8s",
        "kind: engine-half, id: engine-hang-2, start: 9s, end: 10s",
    )
    assert problems(text) == [
        "line 11: faults[2].id: two faults are called 'night' (give one of them another id)",
        "line 13: faults[4].id: two faults are called 'engine-hang-2' "
        "(give one of them another id)",
    ]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("start: 1e9, end: 2", "faults[0].start: must be at most 1e+08, not 1e9"),
        ("start: 1, end: 1e300", "faults[0].end: must be at most 1e+08, not 1e300"),
        ("start: 1, end: 2, shift: -3e9", "faults[0].shift: must be at least -2e+09, not -3e9"),
        ("start: 2, end: 2", "faults[0].end: must come after start (2 s), not at 2 s"),
        ("start: 1", "faults[0].end: is missing (write when the fault ends, such as end: 60s)"),
        (
            "start: 1, end: 2, height: 50",
            "faults[0].height: has no meaning for camera-clock "
            "(it takes id, start, end, cameras, shift)",
        ),
        ("start: 61, end: 70", "faults[0].start: begins at 61 s, after the scenario's end at 60 s"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_where_it_stands(entry: str, said: str) -> None:
    assert problems(with_faults(f"kind: camera-clock, {entry}")) == [f"line 9: {said}"]


WALL = [
    "kind: broker-restart, start: 1s",
    "kind: broker-gone, start: 1s, end: 2s",
    "kind: broker-refuses, start: 1s, end: 2s",
    "kind: broker-slow, start: 1s, end: 2s",
    "kind: broker-disconnects, start: 1s",
    "kind: network-partition, start: 1s, end: 2s",
    "kind: camera-storm, start: 1s",
    "kind: host-disk-full, start: 1s, end: 2s",
    "kind: host-cpu, start: 1s, end: 2s",
    "kind: host-consumer-killed, start: 1s, end: 2s",
]
ANY = [
    "kind: network-delay, start: 1s, end: 2s",
    "kind: network-jitter, start: 1s, end: 2s",
    "kind: network-loss, start: 1s, end: 2s",
    "kind: camera-flap, start: 1s, end: 2s",
    "kind: camera-frozen, start: 1s, end: 2s",
    "kind: camera-black, start: 1s, end: 2s",
    "kind: camera-clock, start: 1s, end: 2s",
    "kind: camera-duplicate, start: 1s, end: 2s",
    "kind: camera-reorder, start: 1s, end: 2s",
    "kind: camera-corrupt, start: 1s, end: 2s",
    "kind: camera-wrong-size, start: 1s, end: 2s",
    "kind: engine-overloaded, start: 1s, end: 2s",
    "kind: engine-hang, start: 1s, end: 2s",
    "kind: engine-slow, start: 1s, end: 2s",
    "kind: engine-garbage, start: 1s, end: 2s",
    "kind: engine-endless, start: 1s, end: 2s",
    "kind: engine-half, start: 1s, end: 2s",
    "kind: engine-restart, start: 1s, end: 2s",
    "kind: engine-out-of-memory, start: 1s, end: 2s",
]
NO_BROKER = (
    "needs the wall clock: in virtual time there are no broker, no connections and no other "
    "processes"
)


def test_every_kind_is_read_in_wall_time() -> None:
    killed = "kind: host-worker-killed, start: 1s"
    text = with_faults(*ANY, *WALL, killed, more="engine: {name: hf}")
    assert len({fault.kind for fault in read(text).faults}) == 30


def test_faults_of_cameras_networks_and_engines_are_read_in_virtual_time() -> None:
    assert len(read(with_faults(*ANY, more="clock: virtual")).faults) == 19


@pytest.mark.parametrize("entry", WALL)
def test_faults_of_brokers_connections_and_hosts_are_refused_in_virtual_time(entry: str) -> None:
    kind = entry.split(",")[0].removeprefix("kind: ")
    text = with_faults(ANY[0], entry, more="clock: virtual")
    said = f"line 10: faults[1].kind: {kind} {NO_BROKER} (write clock: wall, or remove it)"
    assert problems(text) == [said]


def test_the_command_line_cannot_take_such_a_fault_into_virtual_time_either() -> None:
    scenario = read(with_faults(WALL[1]))
    with pytest.raises(
        UsageError, match=r"^--clock: faults\[0\]\.kind: broker-gone needs the wall"
    ):
        with_overrides(scenario, clock="virtual")
    assert with_overrides(read(with_faults(ANY[0])), clock="virtual").clock == "virtual"


@pytest.mark.parametrize(
    "engine", ["{name: baseline}", "{name: hf, workers: ['http://127.0.0.1:8100']}"]
)
def test_only_a_worker_that_is_started_here_can_be_killed(engine: str) -> None:
    text = with_faults("kind: host-worker-killed, start: 1s", more=f"engine: {engine}")
    assert problems(text) == [
        "line 9: faults[0].kind: host-worker-killed needs a worker that is started here "
        "(write engine: {name: hf} without workers, or remove it)"
    ]


def test_a_wrong_clock_or_engine_is_not_held_against_the_faults_as_well() -> None:
    text = with_faults("kind: broker-gone, start: 1s, end: 2s", more="clock: virtually")
    assert problems(text) == ["line 7: clock: 'virtually' is not known (did you mean virtual?)"]
    text = with_faults("kind: host-worker-killed, start: 1s", more="engine: {name: hff}")
    assert problems(text) == ["line 7: engine.name: 'hff' is not known (did you mean hf?)"]


def test_a_fault_of_a_camera_that_falls_into_another_part_is_none_of_this_ones() -> None:
    text = with_faults(
        "kind: camera-black, start: 1s, end: 2s, cameras: [mast]",
        "kind: engine-hang, start: 3s, end: 4s",
    )
    parts = [loads(text, shard=(k, 2)).scenario for k in (0, 1)]
    kinds = [[plan.kind for plan in planned_faults(part)] for part in parts]
    assert sorted(kinds) == [["camera-black", "engine-hang"], ["engine-hang"]]


def test_more_faults_than_can_be_kept_apart_are_refused() -> None:
    entries = ["kind: camera-black, start: 1s, end: 2s, cameras: ['*']"] * 201
    fleet = "cameras: [{id: ridge, count: 10000, source: {kind: synthetic}}]\n"
    named = ", ".join(f"{{{entry}, id: f{n}}}" for n, entry in enumerate(entries))
    assert problems(HEAD + fleet + f"faults: [{named}]\n") == [
        "line 5: faults: are too many for 10,000 cameras (patterns x cameras may be 2,000,000; "
        "name fewer, or leave cameras out)"
    ]


# --- digest ---------------------------------------------------------------------------------------


def test_the_digest_follows_what_the_cameras_show_and_nothing_else() -> None:
    plain = digest(read(HEAD + CAMERA))
    assert len(plain) == 16
    assert digest(read("# a comment\n" + HEAD + CAMERA)) == plain
    assert digest(read(HEAD + CAMERA + "engine: {name: ollama}\nspeed: 2\n")) == plain
    assert digest(read(HEAD + CAMERA + "seed: 1\n")) != plain
    assert digest(read(with_camera("cadence: 2s"))) != plain


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_replace_settings_and_leave_the_rest() -> None:
    scenario = read(HEAD + CAMERA + "sampling: {idle: 7s}\n")
    changed = with_overrides(scenario, speed=4, duration="2m", seed=9, model=None)
    assert (changed.speed, changed.duration, changed.seed) == (4.0, 120.0, 9)
    assert changed.sampling.idle == 7.0
    assert scenario.speed == 1.0


def test_another_engine_does_not_inherit_the_files_model() -> None:
    text = HEAD + CAMERA + "engine: {name: simulated, profile: perfect, options: {slots: 1}}\n"
    scenario = read(text)
    assert with_overrides(scenario, engine="simulated").engine.profile == "perfect"
    changed = with_overrides(scenario, engine="ollama", model="qwen2.5vl:7b").engine
    assert (changed.name, changed.model, changed.profile) == ("ollama", "qwen2.5vl:7b", None)
    assert changed.options == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "olama"}, "--engine: 'olama' is not known (did you mean ollama?)"),
        ({"speed": 0}, "--speed: Input should be greater than 0"),
        ({"clock": "sun"}, "--clock: must be 'wall' or 'virtual'"),
        ({"duration": "1:30"}, "--duration: '1:30' is no duration; write 90s"),
        ({"tokens_per_s": -1}, "--tokens-per-s: Input should be greater than 0"),
        (
            {"duration": 10, "speed": 2},
            "--duration: cameras[0].fires[0].onset: fire f begins at 20 s, "
            "after the scenario's end at 10 s",
        ),
        ({"profile": "perfect"}, "--profile: engine.profile: only the simulated engine has"),
    ],
)
def test_an_override_that_cannot_be_names_its_option(options: dict[str, object], said: str) -> None:
    scenario = read(with_camera("fires: [{id: f, onset: 20s}]"))
    with pytest.raises(UsageError) as caught:
        with_overrides(scenario, **options)
    assert str(caught.value).startswith(said)


def test_an_unknown_override_is_the_programs_own_mistake() -> None:
    with pytest.raises(TypeError, match="no such override: colour"):
        with_overrides(read(HEAD + CAMERA), colour="red")


def test_any_setting_can_be_given_by_its_place() -> None:
    changed = with_overrides(
        read(HEAD + CAMERA),
        ["engine.explain=always", "sampling.idle=9s", "engine.options.num_ctx=8192", "speed=2"],
        engine="ollama",
    )
    assert changed.engine.explain == "always"
    assert changed.sampling.idle == 9.0
    assert changed.engine.options == {"num_ctx": 8192}
    assert changed.speed == 2.0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.explain", "--set 'engine.explain': write it as engine.explain=always"),
        ("engine.explain=sometimes", "--set engine.explain: must be 'never', 'positives'"),
        ("engine.colour=red", "--set engine.colour: there is no such setting"),
        ("enigne.explain=always", "--set enigne.explain: there is no such setting (did you mean"),
        ("engine.model.size=3", "--set engine.model.size: there is no such setting"),
        ("sampling.idle=1s", "--set sampling.idle: sampling.idle: must be at least 3s"),
        ("cameras=3", "--set cameras: there is no such setting"),
        ("engine.model={", "--set engine.model: '{' is no value in YAML"),
    ],
)
def test_a_setting_that_cannot_be_names_its_place(setting: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_overrides(read(HEAD + CAMERA), [setting])
    assert str(caught.value).startswith(said)
