"""The private broker: a child process that leaves nothing behind, however its parent ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from earlyfire_stream.errors import TransportError
from earlyfire_stream.transport import broker as broker_module
from earlyfire_stream.transport.address import mqtt_version
from earlyfire_stream.transport.broker import BrokerKind, EmbeddedBroker, embedded_broker
from tests.playing import PATIENCE_S, Nursery, camera, pictures, run_folders, scenario, wait_for

ROOT = Path(__file__).parents[1]


def contents(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def child_of(me: psutil.Process, before: set[psutil.Process]) -> psutil.Process:
    while True:  # it appears within a few passes of the loop
        if new := set(me.children()) - before:
            return new.pop()
        await asyncio.sleep(0)


@pytest.fixture(params=["mosquitto", "amqtt"])
def kind(request: pytest.FixtureRequest) -> BrokerKind:
    if request.param == "mosquitto":
        request.getfixturevalue("mosquitto")
    chosen: BrokerKind = request.param
    return chosen


@pytest.fixture(autouse=True)
def temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the broker's folder appears, so that what remains can be seen."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


async def test_it_answers_with_its_credentials_and_with_no_others(kind: BrokerKind) -> None:
    async with embedded_broker(kind) as broker:
        assert broker.kind == kind
        assert await mqtt_version(broker.address) == (5 if kind == "mosquitto" else 4)
        with pytest.raises(TransportError, match="wrong password or not authorised"):
            await mqtt_version(broker.address.with_password("wrong"))


async def test_it_leaves_no_process_and_no_folder(kind: BrokerKind, temp_folder: Path) -> None:
    async with embedded_broker(kind) as broker:
        pid = broker.pid
        assert pid is not None
        assert psutil.pid_exists(pid)
        assert contents(temp_folder) == []  # it has read what it was given
    assert broker.pid is None
    assert not psutil.pid_exists(pid)
    assert contents(temp_folder) == []


async def test_its_password_is_not_on_a_command_line(kind: BrokerKind) -> None:
    async with embedded_broker(kind) as broker:
        assert broker.pid is not None
        assert broker.address.login is not None
        password = broker.address.login.password
        assert password not in " ".join(psutil.Process(broker.pid).cmdline())


async def test_what_it_is_given_to_read_only_we_can_read_and_only_while_it_starts(
    kind: BrokerKind, temp_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    async def look(self: EmbeddedBroker, process: asyncio.subprocess.Process) -> None:
        (folder,) = contents(temp_folder)
        seen.append(stat.S_IMODE(folder.stat().st_mode))
        seen.extend(stat.S_IMODE(file.stat().st_mode) for file in contents(folder))
        await answering(self, process)

    answering = EmbeddedBroker._answering
    monkeypatch.setattr(EmbeddedBroker, "_answering", look)
    async with embedded_broker(kind) as broker:
        assert seen == [0o700] + [0o600] * (2 if kind == "mosquitto" else 1)
        assert contents(temp_folder) == []
        await broker.stop()
        await broker.start()
        assert contents(temp_folder) == []


async def test_it_listens_on_loopback_only(kind: BrokerKind) -> None:
    async with embedded_broker(kind) as broker:
        sockets = psutil.Process(broker.pid).net_connections(kind="inet")
        listening = [c.laddr for c in sockets if c.status == psutil.CONN_LISTEN]
        assert [(a.ip, a.port) for a in listening] == [("127.0.0.1", broker.address.port)]


async def test_it_can_be_restarted_on_its_port(kind: BrokerKind) -> None:
    async with embedded_broker(kind) as broker:
        before = broker.pid
        await broker.stop()
        assert broker.pid is None
        await broker.stop()
        await broker.start()
        assert broker.pid not in (None, before)
        await mqtt_version(broker.address)


async def test_cancelling_its_owner_ends_it(kind: BrokerKind, temp_folder: Path) -> None:
    running = asyncio.Event()
    pids: list[int | None] = []

    async def own() -> None:
        async with embedded_broker(kind) as broker:
            pids.append(broker.pid)
            running.set()
            await asyncio.Event().wait()

    owner = asyncio.create_task(own())
    await asyncio.wait_for(running.wait(), PATIENCE_S)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    assert pids[0] is not None
    assert not psutil.pid_exists(pids[0])
    assert contents(temp_folder) == []


async def test_cancelling_while_it_starts_ends_it(kind: BrokerKind, temp_folder: Path) -> None:
    me = psutil.Process()
    before = set(me.children())
    starting = asyncio.create_task(embedded_broker(kind).__aenter__())
    await asyncio.wait_for(child_of(me, before), PATIENCE_S)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert set(me.children()) == before
    assert contents(temp_folder) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's promise is Linux's")
async def test_it_dies_with_a_parent_that_is_killed(kind: BrokerKind, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from earlyfire_stream.transport.broker import embedded_broker\n"
        "async def main():\n"
        "    async with embedded_broker(sys.argv[1]) as broker:\n"
        "        print(broker.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        kind,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await asyncio.wait_for(parent.stdout.readline(), PATIENCE_S)))
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [child], PATIENCE_S)
    # in a container nobody may reap it: a zombie is dead as well
    assert all(p.status() == psutil.STATUS_ZOMBIE for p in alive)
    assert contents(tmp_path) == [script]


async def test_a_broker_that_cannot_start_is_reported_with_its_last_words(
    mosquitto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        broker_module, "_MOSQUITTO", broker_module._MOSQUITTO + "no_such_setting true\n"
    )
    with pytest.raises(TransportError, match=r"did not start: it ended.*no_such_setting"):
        async with embedded_broker("mosquitto"):
            pass


async def test_a_taken_port_is_told_and_nothing_is_left(
    kind: BrokerKind, monkeypatch: pytest.MonkeyPatch, temp_folder: Path
) -> None:
    before = set(psutil.Process().children())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(broker_module, "_free_port", lambda: taken.getsockname()[1])
        with pytest.raises(TransportError, match=r"did not start.*[Aa]ddress already in use"):
            async with embedded_broker(kind):
                pass
    assert set(psutil.Process().children()) == before
    assert contents(temp_folder) == []


def test_a_broker_that_dies_at_the_start_ends_the_command_with_its_last_words(
    nursery: Nursery, tmp_path: Path
) -> None:
    pictures(tmp_path / "pictures", 3)
    scenario(tmp_path, camera("north"))
    programs, temporary = tmp_path / "bin", tmp_path / "temporary"
    programs.mkdir()
    temporary.mkdir()
    dying = programs / "mosquitto"
    dying.write_text("#!/bin/sh\necho no room for a broker here >&2\nexit 7\n")
    dying.chmod(0o755)
    environ = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(temporary)}
    code, command = nursery.run("run", "tiny.yaml", cwd=tmp_path, environ=environ)
    said = " ".join(command.err.split())
    assert code == 2
    assert "the mosquitto broker did not start: it ended at once" in said
    assert "no room for a broker here" in said
    assert "--broker" in said
    assert "Traceback" not in said
    wait_for(lambda: not command.family())
    assert contents(temporary) == []
    assert run_folders(tmp_path / "runs") == []


async def test_a_broker_that_ends_by_itself_is_reported(
    kind: BrokerKind, caplog: pytest.LogCaptureFixture
) -> None:
    async with embedded_broker(kind) as broker:
        assert broker.pid is not None
        watch = broker._watch
        assert watch is not None
        os.kill(broker.pid, signal.SIGKILL)
        await asyncio.wait_for(asyncio.shield(watch), PATIENCE_S)
        assert broker.pid is None
    assert f"the {kind} broker ended by itself (-9)" in caplog.text


async def test_without_mosquitto_auto_takes_amqtt_and_asking_for_it_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_module, "find_mosquitto", lambda: None)
    with pytest.raises(TransportError, match="apt-get install mosquitto"):
        async with embedded_broker("mosquitto"):
            pass
    async with embedded_broker("auto") as broker:
        assert broker.kind == "amqtt"
