"""Prometheus' own tool judges configuration and rules; every rule is tested, every name exists."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.deployed import (
    DEPLOY,
    ROOT,
    RULES,
    exposed_names,
    named_in,
    program,
    recorded_in,
    rules,
    yaml_of,
)

CASES = DEPLOY / "prometheus" / "tests" / "alerts.yml"


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_scrape_configuration(tmp_path: Path) -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "worker_key").write_text("key\n")
    (tmp_path / "rules").symlink_to(DEPLOY / "prometheus" / "rules")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/credentials", str(tmp_path)))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", *RULES)


def test_the_rules_do_what_their_tests_say() -> None:
    promtool("test", "rules", CASES)


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    alerts = {rule["alert"] for path in RULES for rule in rules(path) if "alert" in rule}
    tested = [case for test in yaml_of(CASES)["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in tested if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in tested if not case.get("exp_alerts")} == alerts


def test_every_alert_says_what_to_do() -> None:
    for path in RULES:
        for rule in rules(path):
            if "alert" in rule:
                assert rule["labels"]["severity"] in ("warning", "critical")
                assert {*rule["annotations"]} - {"scripted"} == {"summary", "description"}


def test_every_alert_that_a_scripted_fault_can_raise_names_the_fault() -> None:
    """All but those of the ledger, which must balance, and of a worker that never got ready."""
    alerts = {rule["alert"]: rule for path in RULES for rule in rules(path) if "alert" in rule}
    silent = {name for name, rule in alerts.items() if "scripted" not in rule["annotations"]}
    assert silent == {
        "EarlyfireLedgerMismatch", "EarlyfireLedgerFaulty", "EarlyfireWorkerNotReady"
    }  # fmt: skip


def texts() -> list[Path]:
    """Everything in deploy/ and every document that may name a metric."""
    found = [
        path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    return sorted([*found, *ROOT.glob("*.md")])


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_names_a_metric_that_nobody_exports(path: Path) -> None:
    known = exposed_names(in_words=path.suffix in (".md", ".py"))
    assert named_in(path.read_text(encoding="utf-8")) - known == set()


def test_a_metric_that_nobody_exports_is_seen() -> None:
    text = "rate(earlyfire_frames_lost_total[5m]) / earlyfire_cameras, earlyfire_stream/run.py"
    assert named_in(text) == {"earlyfire_frames_lost_total", "earlyfire_cameras"}
    assert "earlyfire_frames_lost_total" not in exposed_names()
    assert "earlyfire_cameras" in exposed_names()


def test_what_is_recorded_is_used_and_what_is_used_is_recorded() -> None:
    recorded = {rule["record"] for path in RULES for rule in rules(path) if "record" in rule}
    used = set()
    for path in texts():
        if path.name not in ("recording.yml",) and path != CASES:
            used |= recorded_in(path.read_text(encoding="utf-8"))
    assert used == recorded
