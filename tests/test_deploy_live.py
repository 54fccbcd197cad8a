"""Real runs over a real Mosquitto, scraped by a real Prometheus with our rules, asked what the
dashboards and the alerts ask.

Two runs play side by side, once for all questions: `whole` in one process and `halves` in two. Both
have a fire, an outage and few tokens. At their end they stay up until everything was asked.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import start_http_server

from earlyfire_stream.worker.ask import Timings
from earlyfire_stream.worker.metrics import Metrics as WorkerMetrics
from earlyfire_stream.worker.metrics import Outcome
from tests.deployed import DEPLOY, RULES, Prometheus, prometheus, rules, yaml_of
from tests.playing import (
    Command,
    Nursery,
    camera,
    free_port,
    open_mosquitto,
    pictures,
    run_folder,
    scenario,
    wait_for,
)

LONG_S = 120.0
pytestmark = pytest.mark.timeout(400)  # the first question waits for both runs
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


@dataclass(frozen=True)
class Seen:
    """What can be asked once both runs are over, while their last values are still served."""

    prometheus: Prometheus
    score: Any
    """score.json of the run in one process."""
    begun: float
    ended: float
    """An instant at which all is told and every target was reached. Later ones need not be such: a
    target that stands still for a second counts as gone."""

    def filled(self, expression: str, run: str = "whole") -> str:
        """As Grafana fills in what stands at the top of a dashboard."""
        for name, value in (
            ("$__rate_interval", "8s"),  # also where a scrape or two came late
            ("$__range", f"{int(self.ended - self.begun) + 1}s"),
            ("$run", run),
            ("$camera", ".*"),
            ("$engine", "simulated"),
            ("$model", ".*"),
        ):
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        return expression

    def drawn(self, expression: str) -> list[Any]:
        """Every point that a panel would draw of the run `whole`; NaN is not drawn."""
        series = self.prometheus.range(self.filled(expression), self.begun, self.ended)
        return [point for one in series for point in one["values"] if point[1] != "NaN"]

    def at_the_end(self, expression: str, run: str = "whole") -> float:
        return self.prometheus.number(self.filled(expression, run), time=self.ended)


@pytest.fixture(scope="module")
def seen(
    mosquitto: str, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("watched")
    pictures(folder / "pictures", 200)
    scenario(
        folder,
        camera("north", fires=[{"id": "oak-fire", "onset": "6s"}]),
        camera("south", outages=[{"start": "3s", "end": "8s"}]),
        duration="15s",
        alarm={"k": 1, "n": 1},
        budget={"tokens_per_s": 1000},
        engine={"name": "simulated", "profile": "spec-gpu"},
    )
    begun = time.time()
    with ExitStack() as stack:
        port = stack.enter_context(open_mosquitto(mosquitto, folder))
        commands: dict[str, Command] = {}

        worker = WorkerMetrics()
        server, thread = start_http_server(0, "127.0.0.1", worker.registry)
        stack.callback(lambda: (server.shutdown(), server.server_close(), thread.join()))
        targets = {
            job: f"127.0.0.1:{free_port()}"
            for job in ("earlyfire-run", "earlyfire-cameras", "earlyfire-consumer")
        }
        targets["earlyfire-worker"] = f"127.0.0.1:{server.server_address[1]}"
        # it must look on before anything begins, or an onset is a count that was always there
        there = stack.enter_context(prometheus(folder, _settings(folder, targets)))
        wait_for(lambda: there.query("earlyfire_worker_ready"))
        _one_batch(worker)

        def start(half: str, name: str, run: str) -> None:
            place = targets["earlyfire-" + {"whole": "run"}.get(name, name)]
            command = commands[name] = nursery.start(
                *(half, "tiny.yaml", "--broker", f"mqtt://127.0.0.1:{port}", "--run", run),
                *("--out", name, "--metrics", place, "--linger", "1h"),
                cwd=folder,
            )
            wait_for(lambda: f"metrics: http://{place}/metrics" in command.err or _alive(command))

        start("consume", "consumer", "halves")
        wait_for(lambda: "waiting for the cameras" in commands["consumer"].out)
        start("run", "whole", "whole")
        start("cameras", "cameras", "halves")

        def told(at: float) -> bool:
            return all(
                there.query(question, time=at)
                for question in (
                    "sum(up) == 4",
                    "sum(earlyfire_run_ended) == 3",
                    "count(run:earlyfire_unaccounted_frames:difference == 0) == 2",
                    # long enough for a panel's steps to meet what is told only at the end
                    "count_over_time(earlyfire_early_fire_score[10s]) >= 3",
                )
            )

        def over() -> float | None:
            for command in commands.values():
                _alive(command)
            at = time.time()
            if not told(at):
                return None
            # what was still being scraped then has come in, and has changed nothing
            wait_for(lambda: there.query(f"count(timestamp(up) > {at}) == 4"))
            return at if told(at) else None

        ended = wait_for(over, LONG_S)
        score = json.loads((run_folder(folder / "whole") / "score.json").read_text())
        yield Seen(there, score, begun, ended)
        for command in commands.values():
            wait_for(lambda command=command: "metrics stay at" in command.err)
            command.send(signal.SIGTERM)
        assert [command.wait() for command in commands.values()] == [0, 0, 0]


def _alive(command: Command) -> None:
    assert not command.ended, command.err


def _settings(folder: Path, targets: dict[str, str]) -> dict[str, Any]:
    """Our own settings and rules at a quicker pace, and where these processes are."""
    settings = yaml_of(DEPLOY / "prometheus" / "prometheus.yml")
    ours = {job["job_name"] for job in settings["scrape_configs"]}
    assert ours <= targets.keys()
    for name in settings["rule_files"]:
        rule_file = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(rule_file.replace("interval: 15s", "interval: 1s"))
    settings["global"] = dict.fromkeys(settings["global"], "1s")
    settings["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [target]}]}
        for job, target in targets.items()
    ]
    return settings


def _one_batch(worker: WorkerMetrics) -> None:
    """What a worker with a GPU would tell of a batch; the exporter is the real one."""
    worker.prepared(0.02)
    worker.batch_began(2, [0.01, 0.02])
    worker.batch_ended(
        Timings(
            rows=2,
            prompt_tokens=2400,
            visual_tokens=2200,
            prompt_s=0.2,
            predicted_s=0.1,
            generated_tokens=20,
            forced_tokens=8,
            prefix_hits=1,
            prefix_misses=1,
        )
    )
    worker.request(Outcome.OK)
    worker.memory({"allocated": 10**9})
    worker.ready.set(1)


# --- dashboards ----------------------------------------------------------------------------------


def panels() -> list[Any]:
    return [
        pytest.param(target["expr"], id=f"{path.stem}: {panel['title']} {target['refId']}")
        for path in BOARDS
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", [])
    ]


@pytest.mark.parametrize("expression", panels())
def test_every_panel_of_every_dashboard_draws_something(seen: Seen, expression: str) -> None:
    assert seen.drawn(expression), seen.filled(expression)


@pytest.mark.parametrize("name", ["Onset", "Alarm", "Fault"])
def test_onsets_alarms_and_faults_are_marked_for_a_while_and_not_always(
    seen: Seen, name: str
) -> None:
    board = json.loads(BOARDS[0].read_text(encoding="utf-8"))
    (mark,) = [m for m in board["annotations"]["list"] if m["name"] == name]
    marked = {point[0] for point in seen.drawn(mark["expr"])}
    playing = {point[0] for point in seen.drawn('earlyfire_run_playing{job="earlyfire-run"}')}
    assert marked
    assert playing - marked


def test_what_can_be_chosen_is_there(seen: Seen) -> None:
    board = json.loads(BOARDS[0].read_text(encoding="utf-8"))
    offered = {}
    for variable in board["templating"]["list"][1:]:
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked is not None
        series = seen.filled(asked[1], run=".*")
        values = seen.prometheus.get(f"label/{asked[2]}/values", **{"match[]": series})
        offered[variable["name"]] = {value for value in values if value}
    assert offered["run"] == {"whole", "halves"}
    assert offered["camera"] == {"north", "south"}
    assert offered["engine"] == {"simulated"}
    assert offered["model"]


# --- rules ---------------------------------------------------------------------------------------


def test_prometheus_evaluates_every_rule_without_error(seen: Seen) -> None:
    groups = seen.prometheus.get("rules")["groups"]
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    expected = {rule.get("alert") or rule["record"] for path in RULES for rule in rules(path)}
    assert found.keys() == expected
    assert {name: rule["lastError"] for name, rule in found.items() if "lastError" in rule} == {}
    assert {rule["health"] for rule in found.values()} == {"ok"}


def alerts() -> list[Any]:
    return [
        pytest.param(rule["expr"], id=rule["alert"])
        for path in RULES
        for rule in rules(path)
        if "alert" in rule
    ]


@pytest.mark.parametrize("expression", alerts())
def test_everything_that_an_alert_looks_at_exists(seen: Seen, expression: str) -> None:
    seen.prometheus.query(expression)  # it is understood
    selectors = re.findall(r"(?:\bup\b|[a-z:]*earlyfire_[a-z0-9_:]+)(?:\{[^}]*\})?", expression)
    assert selectors
    for selector in selectors:
        assert seen.drawn(selector), selector


def test_no_alert_fires_at_the_end_of_a_run_that_went_well(seen: Seen) -> None:
    firing = seen.prometheus.query('ALERTS{alertstate="firing"}', time=seen.ended)
    assert [alert["metric"]["alertname"] for alert in firing] == []


# --- numbers -------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_runs_own_score(seen: Seen) -> None:
    score, ask = seen.score, seen.at_the_end
    of_run = ' and on (job, instance) earlyfire_run_info{run="whole"}'
    assert ask(f"earlyfire_early_fire_score{of_run}") == pytest.approx(score["early_fire_score"])
    known = {term: value for term, value in score["terms"].items() if value is not None}
    assert set(known) == {"D", "F", "C", "Q", "K"}  # these pictures have no true boxes
    for term, value in known.items():
        assert ask(f'earlyfire_score_term_ratio{{term="{term}"}}{of_run}') == pytest.approx(value)
    (fire,) = score["fires"]
    assert fire["ttfd_s"] is not None
    ttfd = "earlyfire_time_to_first_detection_seconds"
    assert ask(f"{ttfd}_count{of_run}") == 1
    assert ask(f"{ttfd}_sum{of_run}") == pytest.approx(fire["ttfd_s"])
    assert ask(f"earlyfire_fires_missed{of_run}") == 0
    assert ask(f"earlyfire_onsets_total{of_run}") == 1
    answers = score["answers"]
    requests = f"earlyfire_inference_requests_total{of_run}"
    assert ask(f"sum({requests})") == answers["sent"]
    answered = 'earlyfire_inference_requests_total{outcome="answered"}'
    assert ask(f"sum({answered}{of_run})") == answers["valid"]
    assert ask(f"earlyfire_end_to_end_latency_seconds_count{of_run}") == score["latency_s"]["n"]
    assert ask(f"sum(earlyfire_visual_tokens_total{of_run})") == score["tokens"]["visual"]
    p50 = ask(
        "histogram_quantile(0.5, sum by (le) "
        f"(earlyfire_end_to_end_latency_seconds_bucket{of_run}))"
    )
    # Buckets double, so a quantile is known within a factor of two.
    assert score["latency_s"]["p50"] / 2 <= p50 <= score["latency_s"]["p50"] * 2


def test_the_ledger_is_that_of_the_run(seen: Seen) -> None:
    of_run = ' and on (job, instance) earlyfire_run_info{run="whole"}'
    asked = f"sum by (fate) (earlyfire_frames_fate_total{of_run}) > 0"
    told = seen.prometheus.query(asked, time=seen.ended)
    fates = {sample["metric"]["fate"]: int(sample["value"][1]) for sample in told}
    assert fates == seen.score["ledger"]["fates"]
    scheduled = f"earlyfire_frames_scheduled_total{of_run}"
    assert seen.at_the_end(scheduled) == seen.score["ledger"]["scheduled"]
    assert seen.at_the_end(f"sum(earlyfire_ledger_faulty_frames{of_run})") == 0
    # south: 5 s of outage, ten frames a second
    assert fates["unsent"] == 50


@pytest.mark.parametrize("run", ["whole", "halves"])
def test_the_sums_of_cameras_and_watcher_agree_over_processes(seen: Seen, run: str) -> None:
    of_run = " and on (job, instance) earlyfire_run_info"
    scheduled = f'sum(earlyfire_frames_scheduled_total{of_run}{{run="{run}"}})'
    told = f'sum(earlyfire_frames_fate_total{of_run}{{run="{run}"}})'
    assert seen.at_the_end(scheduled) == 300
    assert seen.at_the_end(told) == 300


@pytest.mark.parametrize("run", ["whole", "halves"])
def test_what_both_halves_tell_is_counted_once(
    seen: Seen, run: str, dashboard_query: Callable[[str, str], str]
) -> None:
    assert seen.at_the_end(dashboard_query("fleet", "Fires so far"), run) == 1


@pytest.fixture
def dashboard_query() -> Callable[[str, str], str]:
    def query(board: str, title: str) -> str:
        path = DEPLOY / "grafana" / "dashboards" / f"{board}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["panels"]
        (panel,) = [panel for panel in found if panel["title"] == title]
        return str(panel["targets"][0]["expr"])

    return query
