"""Log lines: whole, bound, without secrets, and few of a kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from earlyfire_stream import logs
from earlyfire_stream.errors import UsageError
from tests.playing import Nursery, camera, pictures, proof, run_folder, scenario

log = logging.getLogger("earlyfire_stream.test")
Said = Callable[[], list[str]]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """What stands on stderr, and the state of logging put back afterwards."""
    written: list[str] = []

    def read() -> list[str]:
        written.extend(capsys.readouterr().err.splitlines())
        return written

    monkeypatch.setattr(logs, "_secrets", set())
    monkeypatch.setattr(logs, "_run", "")
    monkeypatch.setattr(logs, "_asked", {"format": None, "level": None})
    root = logging.getLogger()
    level = root.level
    yield read
    for handler in [h for h in root.handlers if isinstance(h, logs.Lines)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def told(said: Said) -> list[dict]:
    return [orjson.loads(line) for line in said()]


# --- lines ---------------------------------------------------------------------------------------


def test_a_line_of_json_says_when_how_grave_who_and_about_what(said: Said) -> None:
    logs.configure("json")
    logs.bind("r1")
    with logs.about("north"):
        log.info("%d frames", 3)
    log.warning("on the fleet")
    first, second = told(said)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "earlyfire_stream.test",
        "message": "3 frames",
        "run": "r1",
        "camera": "north",
    }
    assert "camera" not in second
    assert second["level"] == "warning"


def test_the_console_shows_warnings_with_run_and_camera_behind(said: Said) -> None:
    logs.configure()
    logs.bind("r1")
    log.info("not shown")
    with logs.about("north"):
        log.warning("slow")
    (line,) = said()
    assert line[8:] == " WARNING slow  [run=r1 camera=north]"


def test_a_level_can_be_asked_for(said: Said) -> None:
    logs.configure("json", "error")
    log.warning("not shown")
    logs.configure(level="debug")
    log.debug("shown")
    assert [line["message"] for line in told(said)] == ["shown"]


@pytest.mark.parametrize("wrong", [{"form": "xml"}, {"level": "loud"}])
def test_an_unknown_format_or_level_is_refused(said: Said, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--log-"):
        logs.configure(**wrong)


def test_a_traceback_is_told_line_by_line(said: Said) -> None:
    logs.configure("json")
    try:
        raise ValueError("password=hunter22\x1b[31m")
    except ValueError:
        log.exception("it broke")
    (line,) = told(said)
    assert line["trace"][0] == "Traceback (most recent call last):"
    assert line["trace"][-1] == r"ValueError: password=***"


def test_placeholders_that_do_not_fit_lose_no_line(said: Said) -> None:
    record = logging.LogRecord("x", logging.WARNING, "x.py", 7, "%d frames", ("many",), None)
    logs.Lines("json").handle(record)
    (line,) = told(said)
    assert line["message"] == "%d frames ('many',)"


# --- what a stranger may have said ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a\nWARNING forged", r"a\nWARNING forged"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("half \ud800", r"half \ud800"),
        ("\u2028", r"\u2028"),
        ("größe ✓", "größe ✓"),
    ],
)
@pytest.mark.parametrize("form", ["console", "json"])
def test_control_characters_are_written_out(said: Said, form: str, sent: str, shown: str) -> None:
    logs.configure(form)
    with logs.about(sent):
        log.warning("camera said %s", sent)
    (line,) = said()
    assert sent == shown or sent not in line
    message = orjson.loads(line)["message"] if form == "json" else line
    assert f"camera said {shown}" in message


def test_a_long_message_is_cut(said: Said) -> None:
    logs.configure("json")
    log.warning("x" * 5000)
    (line,) = told(said)
    assert line["message"] == "x" * 4000 + "… (5,000 characters)"


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no way to mqtt://me:p4ss:w0rd@host:1883", "no way to mqtt://me:***@host:1883"),
        ("http://:p4ssw0rd@host", "http://:***@host"),
        ("to mqtt://me:p@ss/w@host:1883, then", "to mqtt://me:***@host:1883, then"),
        ("worker_key=zzzz private-key: 'a b'", 'worker_key=*** private-key: "***"'),
        ("monkey: none", "monkey: none"),
        ("mqtt://host:1883 and a@b", "mqtt://host:1883 and a@b"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("authorization=abcdef", "authorization=***"),
        ("OPENAI_API_KEY=abcdef12", "OPENAI_API_KEY=***"),
        ('{"api_key": "abc def"}', '{"api_key": "***"}'),
        ("EARLYFIRE_MQTT_PASSWORD=abc, then", "EARLYFIRE_MQTT_PASSWORD=***, then"),
        ("?token=abc&x=1", "?token=***&x=1"),
        ("key sk-abcdefghijklmnop1234 refused", "key *** refused"),
        ("tokens=300 max_tokens: 1280, 5 tokens", "tokens=300 max_tokens: 1280, 5 tokens"),
        ("keyboard: de", "keyboard: de"),
    ],
)
def test_secrets_are_masked_by_their_form(text: str, shown: str) -> None:
    assert logs.masked(text) == shown


def test_secrets_of_the_environment_and_of_files_are_masked_wherever_they_stand(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARLYFIRE_MQTT_PASSWORD", "trout-lake")
    monkeypatch.setenv("OPENAI_API_KEY", "pineneedle")
    monkeypatch.setenv("HF_TOKEN", "abc")  # too short to be looked for
    logs.configure("json")
    logs.hide("from-a-file")
    log.warning("%s", {"x": "trout-lake"}, extra={"fields": {"said": "pineneedle"}})
    log.warning("from-a-file abc")
    first, second = told(said)
    assert first["message"] == "{'x': '***'}"
    assert first["said"] == "***"
    assert second["message"] == "*** abc"


# --- floods --------------------------------------------------------------------------------------


def records(count: int, at: float, line: int = 7) -> list[logging.LogRecord]:
    made = []
    for number in range(count):
        record = logging.LogRecord("x", logging.WARNING, "x.py", line, f"no {number}", (), None)
        record.created = at
        made.append(record)
    return made


def test_of_a_flood_some_lines_pass_and_the_next_says_how_many_did_not(said: Said) -> None:
    lines = logs.Lines("json")
    for record in [*records(1000, at=100.0), *records(1, at=100.0, line=8)]:
        lines.handle(record)
    assert len(said()) == 20 + 1, "another place in the code is not held back"
    for record in records(2, at=110.0):
        lines.handle(record)
    later = told(said)[21:]
    assert [line.get("left_out") for line in later] == [980, None]


def test_what_was_left_out_at_last_is_told_at_the_end(said: Said) -> None:
    lines = logs.Lines("console")
    for record in records(50, at=100.0):
        lines.handle(record)
    lines.close()
    assert len(said()) == 21
    assert said()[-1].endswith("no 49  (29 more like this left out)")


def test_a_clock_that_is_set_back_does_not_silence_a_place(said: Said) -> None:
    lines = logs.Lines("json")
    for record in [*records(25, at=100.0), *records(1, at=50.0)]:
        lines.handle(record)
    assert told(said)[-1]["left_out"] == 5


# --- a real run ----------------------------------------------------------------------------------


def test_a_real_run_tells_its_stages_and_alarms_as_json(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 10)
    scenario(
        tmp_path,
        camera("north", fires=[{"id": "oak", "onset": "300ms"}]),
        camera("south", outages=[{"start": "200ms", "end": "400ms"}]),
    )
    code, command = nursery.run(
        *("run", "tiny.yaml", "--broker", "memory", "--log-format", "json"), cwd=tmp_path
    )
    assert code == 0, command.err
    folder = run_folder(tmp_path / "runs")
    proof(folder)
    lines = [orjson.loads(line) for line in command.err.splitlines()]
    assert {line["run"] for line in lines} == {folder.name}
    alarms = [line for line in lines if line["message"] == "alarm"]
    assert [(line["camera"], line["fire"]) for line in alarms] == [("north", "oak")]
    seen = [(line["camera"], line["message"]) for line in lines if "reason" in line]
    assert seen == [("south", "camera off"), ("south", "camera back")]
    assert any(line.get("cameras") == 2 for line in lines)
    assert "Early-Fire Score" in command.out


def test_a_refusal_is_a_line_of_json_as_well(nursery: Nursery, tmp_path: Path) -> None:
    code, command = nursery.run("--log-format", "json", "score", "nowhere", cwd=tmp_path)
    assert code == 2
    (line,) = [orjson.loads(text) for text in command.err.splitlines()]
    assert (line["level"], line["message"]) == ("error", "nowhere: no such run folder")


def test_the_brokers_password_is_nowhere_in_the_log(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 2)
    scenario(tmp_path, camera("north"))
    (tmp_path / "secret").write_text("trout-lake\n")
    code, command = nursery.run(
        *("run", "tiny.yaml", "--broker", "mqtt://me@127.0.0.1:1", "--password-file", "secret"),
        *("--log-format", "json", "--log-level", "debug"),
        cwd=tmp_path,
    )
    assert code == 2
    assert "trout-lake" not in command.err + command.out
    for text in command.err.splitlines():
        orjson.loads(text)
