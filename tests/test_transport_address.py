"""Broker addresses, and the first handshake against brokers of every bad kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from earlyfire_stream.errors import TransportError, UsageError
from earlyfire_stream.transport import address as address_module
from earlyfire_stream.transport.address import (
    BrokerAddress,
    Login,
    mqtt_version,
    read_password,
)
from tests.playing import PATIENCE_S

# --- parsing -------------------------------------------------------------------------------------


def test_the_shortest_address_gets_the_usual_port() -> None:
    assert BrokerAddress.parse("mqtt://broker") == BrokerAddress("broker", 1883)
    assert BrokerAddress.parse("mqtts://broker") == BrokerAddress("broker", 8883, tls=True)


def test_a_full_address_is_read_and_written_back() -> None:
    text = (
        "mqtts://al%40ice@[::1]:9000?ca=/c/ca.pem&cert=c.pem&key=k.pem&insecure=yes&version=3.1.1"
    )
    address = BrokerAddress.parse(text, "secret")
    assert address == BrokerAddress(
        host="::1",
        port=9000,
        login=Login("al@ice", "secret"),
        tls=True,
        ca="/c/ca.pem",
        cert="c.pem",
        key="k.pem",
        insecure=True,
        level=4,
    )
    assert str(address) == text
    assert BrokerAddress.parse(str(address), "secret") == address


def test_neither_str_nor_repr_shows_the_password() -> None:
    address = BrokerAddress.parse("mqtt://alice@broker", "hunter2")
    assert "hunter2" not in str(address) + repr(address)


def test_a_password_in_the_address_is_refused_with_the_remedy_and_not_repeated() -> None:
    with pytest.raises(UsageError, match=r"EARLYFIRE_MQTT_PASSWORD.*--password-file") as caught:
        BrokerAddress.parse("mqtt://alice:hunter2@broker")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("broker:1883", "no scheme"),
        ("http://broker", "not mqtt or mqtts"),
        ("mqtt://", "no host"),
        ("mqtt://broker:http", "cannot be read"),
        ("mqtt://broker:70000", "cannot be read"),
        ("mqtt://broker:0", "port 0"),
        ("mqtt://broker/topic", "nothing may follow"),
        ("mqtt://broker?ca=x.pem", "only with mqtts"),
        ("mqtts://broker?cafile=x.pem", "unknown option 'cafile'"),
        ("mqtts://broker?ca=", "ca is empty"),
        ("mqtts://broker?ca=a&ca=b", "given twice"),
        ("mqtts://broker?cert=a", "belong together"),
        ("mqtts://broker?insecure=maybe", "yes or no"),
        ("mqtt://broker?version=4", "5 or 3.1.1"),
    ],
)
def test_a_broken_address_is_a_clear_usage_error(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BrokerAddress.parse(text)


def test_a_password_without_user_is_refused() -> None:
    with pytest.raises(UsageError, match="without a user"):
        BrokerAddress.parse("mqtt://broker", "secret")
    with pytest.raises(UsageError, match="without a user"):
        BrokerAddress.parse("mqtt://broker").with_password("secret")


def test_the_password_file_wins_over_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\nanother line\n", encoding="utf-8")
    environ = {"EARLYFIRE_MQTT_PASSWORD": "from environment"}
    assert read_password(file, environ) == "from file"
    assert read_password(None, environ) == "from environment"
    assert read_password(None, {}) is None


def test_an_unusable_password_file_is_a_clear_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_password(tmp_path / "missing", {})
    (tmp_path / "empty").write_text("")
    with pytest.raises(UsageError, match="first line is empty"):
        read_password(tmp_path / "empty", {})


def test_unusable_tls_files_are_clear_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no usable PEM file"):
        BrokerAddress.parse(f"mqtts://h?ca={tmp_path}/missing").tls_context()
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(UsageError, match="no usable PEM file"):
        BrokerAddress.parse(f"mqtts://h?ca={tmp_path}/junk").tls_context()
    with pytest.raises(UsageError, match="no usable pair"):
        BrokerAddress.parse(f"mqtts://h?cert={tmp_path}/junk&key={tmp_path}/junk").tls_context()


# --- the handshake -------------------------------------------------------------------------------

Answer = Callable[[bytes], Awaitable[bytes | None]]
"""From the CONNECT packet to what the broker says; None: it says nothing and waits."""


@pytest.fixture(autouse=True)
def never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is merely held up is not taken for one without MQTT 5."""
    monkeypatch.setattr(address_module, "_SILENCE_S", 60.0)


@asynccontextmanager
async def scripted_broker(answer: Answer) -> AsyncIterator[BrokerAddress]:
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            said = await answer(await reader.read(4096))
            if said is None:
                await reader.read()
            else:
                writer.write(said)
                await writer.drain()
        except asyncio.CancelledError:
            pass
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def level_of(connect: bytes) -> int:
    at = connect.index(b"\x00\x04MQTT") + 6
    return connect[at]


async def test_a_broker_that_speaks_both_is_spoken_to_in_version_5() -> None:
    async def answer(connect: bytes) -> bytes:
        return b"\x20\x03\x00\x00\x00" if level_of(connect) == 5 else b"\x20\x02\x00\x00"

    async with scripted_broker(answer) as address:
        assert await mqtt_version(address, PATIENCE_S) == 5


@pytest.mark.parametrize(
    "refusal",
    [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""],
    ids=["refused in 3.1.1", "refused in 5", "hangs up"],
)
async def test_a_broker_without_version_5_is_spoken_to_in_3_1_1(refusal: bytes) -> None:
    async def answer(connect: bytes) -> bytes:
        return refusal if level_of(connect) == 5 else b"\x20\x02\x00\x00"

    async with scripted_broker(answer) as address:
        assert await mqtt_version(address, PATIENCE_S) == 4


async def test_a_broker_that_is_silent_on_version_5_is_spoken_to_in_3_1_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address_module, "_SILENCE_S", 0.1)

    async def answer(connect: bytes) -> bytes | None:
        return None if level_of(connect) == 5 else b"\x20\x02\x00\x00"

    async with scripted_broker(answer) as address:
        assert await mqtt_version(address, PATIENCE_S) == 4


@pytest.mark.parametrize("code", [4, 5, 0x86, 0x87])
async def test_a_refused_login_names_the_user_and_the_remedy(code: int) -> None:
    async def answer(connect: bytes) -> bytes:
        return b"\x20\x03\x00" + bytes([code]) + b"\x00"

    async with scripted_broker(answer) as address:
        with pytest.raises(TransportError, match=r"without user name.*EARLYFIRE_MQTT_PASSWORD"):
            await mqtt_version(address, PATIENCE_S)


async def test_something_that_is_no_broker_is_called_so() -> None:
    async def answer(connect: bytes) -> bytes:
        return b"HTTP/1.1 400 Bad Request\r\n\r\n"

    async with scripted_broker(answer) as address:
        with pytest.raises(TransportError, match="is this an MQTT port"):
            await mqtt_version(address, PATIENCE_S)


async def test_a_busy_broker_is_tried_again() -> None:
    answers = iter([b"\x20\x03\x00\x89\x00", b"\x20\x03\x00\x88\x00", b"\x20\x03\x00\x00\x00"])

    async def answer(connect: bytes) -> bytes:
        return next(answers)

    async with scripted_broker(answer) as address:
        assert await mqtt_version(address, PATIENCE_S) == 5


async def test_a_silent_broker_is_given_up_in_time() -> None:
    async def answer(connect: bytes) -> None:
        return None

    async with scripted_broker(answer) as address:
        with pytest.raises(TransportError, match=r"cannot reach.*no answer within 0.3 s"):
            await mqtt_version(address, 0.3)


async def test_nobody_listening_is_given_up_in_time_and_says_so() -> None:
    async with scripted_broker(lambda _: asyncio.sleep(0, b"")) as address:
        pass
    with pytest.raises(TransportError, match=rf"cannot reach the broker {address}.*is it running"):
        await mqtt_version(address, 0.3)


async def test_a_broker_that_starts_late_is_waited_for() -> None:
    async def answer(connect: bytes) -> bytes:
        return b"\x20\x03\x00\x00\x00"

    async with scripted_broker(answer) as address:
        pass
    waiting = asyncio.create_task(mqtt_version(address, PATIENCE_S))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", address.port)
    async with server:
        assert await waiting == 5


async def test_an_unknown_host_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # The real name service may take longer to say so than we wait for a broker.
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(TransportError, match=r"nobody knows the host 'no-such-host\.invalid'"):
        await mqtt_version(BrokerAddress("no-such-host.invalid", 1883), 5.0)


async def test_cancelling_the_handshake_leaves_nothing_behind() -> None:
    heard = asyncio.Event()

    async def answer(connect: bytes) -> None:
        heard.set()

    async with scripted_broker(answer) as address:
        shaking = asyncio.create_task(mqtt_version(address, PATIENCE_S))
        await asyncio.wait_for(heard.wait(), PATIENCE_S)
        shaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shaking
