"""The local worker's keeper: it starts again what ends, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import psutil
import pytest

from earlyfire_stream.engines.supervisor import Supervisor, pause_before_restart
from earlyfire_stream.errors import EngineUnavailable
from tests.fakes.worker import command, environ
from tests.playing import time_passes, until, wait_for, within


def supervisor(mode: str = "well", load_s: float = 60.0) -> Supervisor:
    return Supervisor(command(mode), environ(), load_s, pause=at_once)


def at_once(ended_at: Sequence[float], now_s: float) -> float | None:
    """No pause; the third end is the last."""
    return 0.0 if len(ended_at) < 3 else None


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- when it is started again --------------------------------------------------------------------


def test_pauses_grow_and_the_sixth_end_within_ten_minutes_is_the_last() -> None:
    ends = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    pauses = [pause_before_restart(ends[: n + 1], ends[n]) for n in range(6)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, None]


def test_ends_that_lie_long_ago_are_forgiven() -> None:
    assert pause_before_restart([0.0, 10.0, 20.0, 30.0, 40.0, 700.0], 700.0) == 1.0
    assert pause_before_restart([0.0, 500.0], 500.0) == 2.0


# --- a worker that runs --------------------------------------------------------------------------


async def test_entered_the_worker_is_ready_and_left_it_is_gone() -> None:
    async with supervisor() as keeper:
        pid = keeper.pid
        assert pid is not None
        assert keeper.address is not None
        assert keeper.address.host == "127.0.0.1"
        assert keeper.restarts == 0
        # a group of its own, so that Ctrl-C at our terminal does not reach it
        assert os.getpgid(pid) == pid != os.getpgid(0)
    assert is_gone(pid)
    assert keeper.address is None
    assert keeper.trouble == "the worker was stopped"


async def test_a_killed_worker_is_told_at_once_and_started_again() -> None:
    async with supervisor() as keeper:
        first, address = keeper.pid, keeper.address
        assert first is not None
        assert address is not None
        os.kill(first, signal.SIGKILL)
        assert await within(keeper.lost(address, 60.0))
        assert "signal 9" in keeper.trouble
        await until(lambda: keeper.address is not None)
        assert keeper.restarts == 1
        assert keeper.pid != first
        second = keeper.pid
        assert second is not None
    assert is_gone(first)
    assert is_gone(second)


async def test_a_worker_that_lives_is_not_lost() -> None:
    async with supervisor() as keeper:
        assert keeper.address is not None
        assert not await keeper.lost(keeper.address, 0.0)


async def test_a_worker_that_keeps_ending_is_given_up_with_its_last_words() -> None:
    async with supervisor() as keeper:
        for round_ in range(3):
            await until(lambda: keeper.pid is not None and keeper.address is not None)
            assert keeper.restarts == round_
            address, pid = keeper.address, keeper.pid
            assert address is not None
            assert pid is not None
            os.kill(pid, signal.SIGTERM if round_ else signal.SIGKILL)
            assert await within(keeper.lost(address, 60.0))
        await until(lambda: keeper.given_up)
        assert keeper.address is None
        # it ended because somebody told it to, which nobody here did
        assert keeper.trouble == (
            "the worker ended (exit code 0): loading 100% | loaded the model; "
            "it ended too often and is not started again"
        )


# --- a worker that does not start ----------------------------------------------------------------


async def test_a_worker_that_ends_before_it_is_ready_says_why() -> None:
    with pytest.raises(
        EngineUnavailable,
        match=r"^the worker ended \(exit code 3\): loading \| there is no such model$",
    ):
        async with supervisor("dies"):
            pass


async def test_a_worker_that_is_never_ready_is_given_up_and_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    keeper = supervisor("loads", load_s=300.0)
    entering = asyncio.create_task(keeper.__aenter__())
    pid = await until(lambda: keeper.pid)
    await until(lambda: "loaded the model" in caplog.text)
    time_passes(300.0)
    with pytest.raises(EngineUnavailable, match=r"not ready within 300 s .*loaded the model"):
        await entering
    assert is_gone(pid)


async def test_an_interruption_while_it_loads_leaves_no_worker() -> None:
    keeper = supervisor("loads")
    entering = asyncio.create_task(keeper.__aenter__())
    pid = await until(lambda: keeper.pid)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert is_gone(pid)


async def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(EngineUnavailable, match="cannot be started"):
        async with Supervisor(("/no/such/program",), {}, 1.0):
            pass


# --- no process is left --------------------------------------------------------------------------


async def test_a_worker_that_does_not_listen_to_anybody_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("earlyfire_stream.engines.supervisor.STOP_S", 0.2)
    async with supervisor("deaf") as keeper:
        pid = keeper.pid
        assert pid is not None
    assert is_gone(pid)


@pytest.mark.parametrize("end", ["left", "killed"])
async def test_children_of_the_worker_go_with_it(end: str) -> None:
    async with supervisor("parent") as keeper:
        assert keeper.pid is not None
        family = psutil.Process(keeper.pid).children()
        assert len(family) == 1
        if end == "killed":
            os.kill(keeper.pid, signal.SIGKILL)
            await until(lambda: is_gone(family[0].pid))
    # it was sent the signal by now; on a busy machine it has yet to die of it
    await until(lambda: is_gone(family[0].pid))


def test_the_worker_ends_with_us_even_if_we_are_killed() -> None:
    code = (
        "import asyncio\n"
        "from tests.test_supervisor import supervisor\n"
        "async def main():\n"
        "    async with supervisor() as keeper:\n"
        "        print(keeper.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ()
    ) as ours:
        assert ours.stdout is not None
        pid = int(ours.stdout.readline())
        assert not is_gone(pid)
        ours.kill()
    wait_for(lambda: is_gone(pid))
