"""What every test may ask for: the real camera data, a real Mosquitto."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.playing import Nursery

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")


def pytest_configure() -> None:
    # How long an example takes says nothing where the machine is busy with others.
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")
    # A shell starts background jobs with SIGINT ignored, and so would be every command of ours.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def left_out(what: str) -> None:
    """Skip with a reason at a desk; fail in CI, where everything must be there."""
    if IN_CI:
        pytest.fail(f"{what}: in CI that is a failure, not a skip")
    pytest.skip(what)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    report = _nothing_is_skipped_in_ci((yield))
    # Reports of several processes travel as UTF-8, which half a surrogate pair is not.
    report.sections = [(title, _printable(text)) for title, text in report.sections]
    return report


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, Any]:
    return _nothing_is_skipped_in_ci((yield))


def _nothing_is_skipped_in_ci(report: Any) -> Any:
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"left out, which in CI is a failure: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real camera sequences (environment variable EARLYFIRE_DATA)."""
    root = os.environ.get("EARLYFIRE_DATA")
    if not root or not Path(root).is_dir():
        left_out("EARLYFIRE_DATA names no folder of real camera data")
    assert root is not None
    return Path(root)


@pytest.fixture(scope="session")
def mosquitto() -> str:
    """The path of a real Mosquitto."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if found is None:
        left_out("no mosquitto on PATH (Debian: apt-get install mosquitto)")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts the command as processes of its own, and leaves none behind."""
    nursery = Nursery(tmp_path_factory.mktemp("commands"))
    yield nursery
    nursery.close()
