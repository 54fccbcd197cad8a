"""The last scrape of a run says what its score and its ledger say, to the last frame."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from earlyfire_stream.clock import virtual_run
from earlyfire_stream.errors import RunFolderError, UsageError
from earlyfire_stream.lingering import lingering
from earlyfire_stream.metrics.endpoint import (
    Endpoint,
    parse_place,
    plain_text,
    registry_of_process,
    write,
)
from earlyfire_stream.metrics.observer import Metrics
from earlyfire_stream.run import Options, play
from tests.playing import (
    Nursery,
    camera,
    loaded,
    open_mosquitto,
    pictures,
    run_folder,
    scenario,
    wait_for,
    within,
)

Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in read_plain(text)
        for sample in metric.samples
    }


def of(values: Values, name: str, **labels: str) -> float:
    """The sum over all series of that name with these labels."""
    found = [v for (n, told), v in values.items() if n == name and labels.items() <= told]
    assert found, f"no {name} {labels}"
    return sum(found)


def by(values: Values, name: str, label: str, **labels: str) -> dict[str, float]:
    """By that label, what is not 0."""
    sums: Counter[str] = Counter()
    for (n, told), value in values.items():
        if n == name and labels.items() <= told:
            sums[dict(told)[label]] += value  # type: ignore[assignment]
    return {key: value for key, value in sums.items() if value}


def agree(values: Values, score: Mapping[str, Any]) -> None:
    """Every number that both tell is the same in both, exactly."""
    ledger, asked = score["ledger"], score["answers"]
    assert of(values, "earlyfire_frames_scheduled_total") == ledger["scheduled"]
    assert by(values, "earlyfire_frames_fate_total", "fate") == ledger["fates"]
    reasons = {
        f"{dict(told)['fate']}({dict(told)['reason']})".removesuffix("()"): value
        for (name, told), value in values.items()
        if name == "earlyfire_frames_fate_total" and value
    }
    assert reasons == ledger["reasons"]
    assert of(values, "earlyfire_frames_duplicate_total") == ledger["duplicates"]
    assert of(values, "earlyfire_ledger_unaccounted_frames") == 0
    assert by(values, "earlyfire_ledger_faulty_frames", "kind") == {}

    requests = "earlyfire_inference_requests_total"
    outcomes = by(values, requests, "outcome", purpose="verdict")
    assert outcomes.pop("answered", 0) == asked["valid"]
    assert outcomes.pop("bad_json", 0) == asked["bad_json"]
    assert outcomes == asked["errors"]

    latency = score["latency_s"]
    count = of(values, "earlyfire_end_to_end_latency_seconds_count")
    assert count == latency["n"]
    assert of(values, "earlyfire_clock_skewed_frames_total") == latency["skewed"]
    if count:
        mean = of(values, "earlyfire_end_to_end_latency_seconds_sum") / count
        assert mean == pytest.approx(latency["mean"], rel=1e-12)
    tokens = score["tokens"]
    spent = by(values, "earlyfire_visual_tokens_total", "purpose")
    explained = score["explanations"]
    assert spent.pop("explanation", 0) == explained["visual_tokens"]
    assert sum(spent.values()) == tokens["visual"]
    asked_again = by(values, requests, "outcome", purpose="explanation")
    assert sum(asked_again.values()) == explained["asked"]
    assert asked_again.get("answered", 0) == explained["given"]
    assert of(values, "earlyfire_prompt_tokens_total") == tokens["prompt"]
    assert of(values, "earlyfire_output_tokens_total") == tokens["output"]

    assert of(values, "earlyfire_alarms_total") == score["alarms"]["emitted"]
    kinds = by(values, "earlyfire_alarm_candidates_total", "kind")
    assert kinds == score["alarms"]["candidates"]
    times = [fire["ttfd_s"] for fire in score["fires"] if fire["ttfd_s"] is not None]
    ttfd = "earlyfire_time_to_first_detection_seconds"
    assert of(values, ttfd + "_count") == len(times)
    assert of(values, ttfd + "_sum") == pytest.approx(sum(times), rel=1e-12)
    assert of(values, "earlyfire_fires_missed") == len(score["fires"]) - len(times)
    assert of(values, "earlyfire_onsets_total") == len(score["fires"])
    assert of(values, "earlyfire_early_fire_score") == score["early_fire_score"]
    terms = {k: v for k, v in score["terms"].items() if v}
    assert by(values, "earlyfire_score_term_ratio", "term") == terms
    told = of(values, "earlyfire_false_alarms_per_camera_day")
    assert told == score["false_alarms"]["per_camera_day"]
    assert of(values, "earlyfire_run_ended") == 1
    assert of(values, "earlyfire_run_playing") == 0


def left_in(folder: Path) -> tuple[Values, Mapping[str, Any]]:
    text = (folder / "metrics.prom").read_text(encoding="utf-8")
    return read(text), json.loads((folder / "score.json").read_text())


TROUBLE = {"delay": "20ms", "jitter": "20ms", "loss": 0.1, "duplicate": 0.1, "reorder": 0.1}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sampling": {"policy": "adaptive"}, "budget": {"tokens_per_s": 600}},
        {"sampling": {"policy": "every", "second_look": True}},
        {"engine": {"name": "baseline"}},
        {
            "engine": {
                "name": "simulated",
                "profile": "spec-gpu",
                "explain": "positives",
                "timeout": "2s",
                "options": {"bad_json": 0.2, "unavailable": 0.1, "overloaded": 0.1, "hang": 0.1},
            }
        },
        {
            "engine": {
                "name": "simulated",
                "profile": "spec-cpu-int4",
                "deadline": "2s",
                "mailbox": 2,
            }
        },
    ],
    ids=["calm", "budget", "second look", "baseline", "broken", "overloaded"],
)
def test_the_last_scrape_of_a_virtual_run_is_its_score(
    tmp_path: Path, more: Mapping[str, Any]
) -> None:
    pictures(tmp_path / "pictures", 60)
    played = loaded(
        tmp_path,
        camera("north", interval="1s", fires=[{"id": "oak", "onset": "20s", "end": "50s"}]),
        camera("south", interval="1s", network=TROUBLE),
        camera("east", interval="1s", outages=[{"start": "10s", "end": "15s"}]),
        **{"clock": "virtual", "engine": {"name": "simulated", "profile": "spec-gpu"}, **more},
    )

    async def go() -> Path:
        observers = [Metrics(registry_of_process())]
        return (
            await play(played, Options(out=tmp_path / "runs"), observers, asyncio.Event())
        ).folder

    values, score = left_in(virtual_run(go()))
    assert score["ledger"]["balanced"]
    assert score["ledger"]["scheduled"] == 180
    agree(values, score)


async def test_the_last_scrape_of_a_real_run_is_its_score(tmp_path: Path, mosquitto: str) -> None:
    pictures(tmp_path / "pictures", 40)
    played = loaded(
        tmp_path,
        camera("north", fires=[{"id": "oak", "onset": "1s"}]),
        camera("south", network=TROUBLE),
        camera("east", outages=[{"start": "1s", "end": "2s"}]),
    )
    registry = registry_of_process()
    outcome = await within(
        play(played, Options(out=tmp_path / "runs"), [Metrics(registry)], asyncio.Event())
    )
    values, score = left_in(outcome.folder)
    assert score["ledger"]["scheduled"] == 120
    agree(values, score)
    agree(read(plain_text(registry).decode()), score)


# --- the command ---------------------------------------------------------------------------------


def scraped(url: str, accept: str = "text/plain") -> tuple[str, str]:
    """(content type, text)"""
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def place(err: Callable[[], str]) -> str:
    found = wait_for(lambda: re.search(r"^metrics: (http://127\.0\.0\.1:\d+/metrics)", err(), re.M))
    return str(found[1])


def test_a_run_is_scraped_while_it_plays_and_until_lingering_ends(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 60)
    scenario(tmp_path, camera("north", fires=[{"id": "oak", "onset": "1s"}]), camera("south"))
    options = ("--metrics", "0", "--linger", "10m")
    command = nursery.start("run", "tiny.yaml", *options, cwd=tmp_path)
    url = place(lambda: command.err)
    wait_for(lambda: "earlyfire_run_playing 1.0" in scraped(url)[1])
    wait_for(lambda: "metrics stay at" in command.err)
    values = read(scraped(url)[1])
    folder = run_folder(tmp_path / "runs")
    left, score = left_in(folder)
    agree(values, score)
    assert {k for k in values if k[0].startswith("earlyfire")} == {
        k for k in left if k[0].startswith("earlyfire")
    }
    command.send(signal.SIGINT)
    assert command.wait() == 0
    assert "metrics.prom" in command.out


def test_two_halves_tell_together_what_one_process_tells(
    nursery: Nursery, tmp_path: Path, mosquitto: str
) -> None:
    pictures(tmp_path / "pictures", 30)
    scenario(
        tmp_path,
        camera("north", fires=[{"id": "oak", "onset": "1s"}]),
        camera("east", outages=[{"start": "1s", "end": "2s"}]),
    )
    with open_mosquitto(mosquitto, tmp_path) as port:
        broker = ("--broker", f"mqtt://127.0.0.1:{port}")
        consumer = nursery.start("consume", "tiny.yaml", *broker, "--out", "c", cwd=tmp_path)
        wait_for(lambda: "waiting for the cameras" in consumer.out)
        cameras = nursery.start("cameras", "tiny.yaml", *broker, "--out", "k", cwd=tmp_path)
        assert (cameras.wait(), consumer.wait()) == (0, 0)
    played = read((run_folder(tmp_path / "k") / "metrics.prom").read_text())
    watched = read((run_folder(tmp_path / "c") / "metrics.prom").read_text())
    assert of(played, "earlyfire_frames_scheduled_total") == 60
    assert of(played, "earlyfire_frames_unsent_total", reason="outage") == 10
    assert of(played, "earlyfire_frames_published_total") == 50
    assert of(watched, "earlyfire_frames_received_total") == 50
    # the consumer sees the gap of what was never sent
    assert by(watched, "earlyfire_frames_fate_total", "fate") == {"answered": 50, "lost": 10}
    assert not [name for name, _ in watched if name.startswith("earlyfire_frames_scheduled")]


def test_a_taken_port_is_told_before_anything_is_played(nursery: Nursery, tmp_path: Path) -> None:
    pictures(tmp_path / "pictures", 3)
    scenario(tmp_path, camera("north"), clock="virtual")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, command = nursery.run("run", "tiny.yaml", "--metrics", port, cwd=tmp_path)
    assert code == 2
    assert f"--metrics 127.0.0.1:{port}: cannot be listened on: Address already" in command.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--metrics", "here"), "--metrics here: write a port or host:port"),
        (("--metrics", "1:99999"), "--metrics 1:99999: write a port or host:port"),
        (("--linger", "3s"), "--linger serves"),
        (("--metrics", "0", "--linger", "soon"), "soon"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_message(
    nursery: Nursery, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    pictures(tmp_path / "pictures", 3)
    scenario(tmp_path, camera("north"), clock="virtual")
    code, command = nursery.run("run", "tiny.yaml", *options, cwd=tmp_path)
    assert code == 2
    assert told in command.err
    assert not (tmp_path / "runs").exists()


def test_a_failed_threshold_still_lingers_and_keeps_its_exit_code(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 3)
    scenario(tmp_path, camera("north"), clock="virtual")
    options = ("--metrics", "0", "--linger", "10m", "--fail-under", "efs=101")
    command = nursery.start("run", "tiny.yaml", *options, cwd=tmp_path)
    wait_for(lambda: "metrics stay at" in command.err)
    # While it stands still any of its threads may take the signal; only the main one can act on it.
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        command.send(number)
    assert command.wait() == 99


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_from_the_word_that_we_linger_and_a_second_changes_nothing(
    number: signal.Signals,
) -> None:
    before = {known: signal.getsignal(known) for known in (signal.SIGINT, signal.SIGTERM)}
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        signal.raise_signal(number)

    try:
        with lingering("metrics stay", 1e6, say):
            pass
        signal.raise_signal(number)
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
    assert said == ["metrics stay for 1e+06 s (Ctrl-C: no longer)"]


# --- the endpoint --------------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(registry_of_process(), "127.0.0.1", 0) as endpoint:
        yield endpoint


def test_who_asks_for_openmetrics_gets_it_and_a_browser_gets_plain_text(
    endpoint: Endpoint,
) -> None:
    kind, text = scraped(endpoint.url)
    assert kind.startswith("text/plain; version=0.0.4")
    assert list(read_plain(text))
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    kind, text = scraped(endpoint.url, accept)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert list(read_open(text))


def test_nothing_but_metrics_is_served(endpoint: Endpoint) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scraped(endpoint.url.replace("/metrics", "/etc/passwd"))


def test_a_client_that_never_asks_holds_nobody_up(endpoint: Endpoint) -> None:
    host, port = endpoint.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port))):
        assert scraped(endpoint.url)[1]


def test_a_client_that_goes_away_leaves_no_words(
    endpoint: Endpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    host, port = endpoint.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 200
    connection.close()
    assert capfd.readouterr().err == ""


def test_leaving_frees_the_port_and_ends_the_thread() -> None:
    with Endpoint(CollectorRegistry(), "127.0.0.1", 0) as first:
        port = int(first.url.split(":")[2].split("/")[0])
        assert [t for t in threading.enumerate() if t.name == "metrics"]
        with pytest.raises(UsageError, match="take another port"):
            Endpoint(CollectorRegistry(), "127.0.0.1", port)
    assert not [t for t in threading.enumerate() if t.name == "metrics"]
    with Endpoint(CollectorRegistry(), "127.0.0.1", port) as second:
        assert second.url == first.url


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("9464", "127.0.0.1", 9464),
        ("0.0.0.0:9464", "0.0.0.0", 9464),
        ("[::1]:0", "::1", 0),
        (":9464", "127.0.0.1", 9464),
    ],
)
def test_without_a_host_this_machine_alone_can_scrape(text: str, host: str, port: int) -> None:
    assert parse_place(text) == (host, port)


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").mkdir()
    with pytest.raises(RunFolderError, match=r"metrics.prom: cannot be written"):
        write(tmp_path / "metrics.prom", CollectorRegistry())
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.prom"]
