"""Cameras and consumer over MQTT: topics, sessions that reconnect, a bounded intake.

    address = BrokerAddress.parse("mqtt://user@host", password)
    async with MqttLink(address, run, cameras) as link: ...
    async with MqttInlet(address, run, clock.wall_ns) as inlet: ...

Frames go at QoS 0: a fresh one is worth more than an old one delivered late, and a lost one shows
as a gap in the camera's seqs. Nothing is buffered while the broker is away. Status, control,
verdicts and alarms go at QoS 1.

The first connection fails with a TransportError that names the remedy; after that, a lost
connection is replaced for ever, until the link or inlet is closed.
"""

from __future__ import annotations

__all__ = ["BrokerAddress", "MqttInlet", "MqttLink", "MqttTiming", "TopicTemplate", "clients"]

import asyncio
import logging
import math
import random
import secrets
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Literal, Self

import aiomqtt
import orjson
from aiomqtt import Message, MqttError, ProtocolVersion, Will
from paho.mqtt.client import MQTTMessageInfo
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from earlyfire_stream.errors import TransportError, UsageError
from earlyfire_stream.frames import ROOT, control_topic, frame_topic, shard_of, status_topic
from earlyfire_stream.transport.address import BrokerAddress, Level, mqtt_version
from earlyfire_stream.transport.base import (
    DEFAULT_LIMITS,
    Arrival,
    Control,
    Crew,
    Intake,
    IntakeCounts,
    IntakeLimits,
    is_camera_name,
)
from earlyfire_stream.transport.dial import dial, secured
from earlyfire_stream.verdict import Reason

log = logging.getLogger(__name__)
_client_log = log.getChild("client")
# paho calls every lost connection an error; here it is what sessions are for, and they say so.
_client_log.setLevel(logging.CRITICAL)

ONLINE, OFFLINE = b"online", b"offline"
PER_CAMERA_LIMIT = 50
"""Up to so many cameras each get a connection of their own where nothing else is asked."""

_UNSENT_BYTES = 131_072
_AT_ONCE = 16
"""QoS 1 messages in flight at a time; paho's own window is 20."""

Connections = Literal["auto", "per_camera", "shared"]


@dataclass(frozen=True, slots=True)
class MqttTiming:
    """Bounds of every wait, wall seconds."""

    connect_s: float = 5.0
    """For the first connection, retries included; later for each attempt."""
    publish_s: float = 5.0
    """If one frame takes longer to leave, the connection counts as dead and is replaced."""
    confirm_s: float = 10.0
    """For the broker's confirmation of a QoS 1 message."""
    close_s: float = 2.0
    """For saying goodbye."""
    keepalive_s: int = 10
    """A connection over which nothing comes any more, such as one whose cable was pulled, is given
    up after at most two of these and two seconds: 22 s (MQTT's ping, looked after once a second).
    That holds for a publisher as for a subscriber; one whose frames no longer leave notices after
    `publish_s`. What was handed over meanwhile is lost, and shows as a gap in the seqs."""
    backoff_s: float = 0.2
    """The longest wait before the first new attempt; see `wait_s`."""
    backoff_limit_s: float = 10.0
    """The longest wait before any, for a large fleet."""
    few_limit_s: float = 2.0
    """The longest wait of up to 40 sessions: what it may add to an alarm once the broker is back,
    and no load to anybody."""
    sound_s: float = 1.0
    """A connection that lasted so long was no failure: the next waits are short again."""
    connects_per_s: float = 50.0
    """New connections of one link, at most on average over such a wait, when all were lost at
    once. One broker met by several links sees the sum."""
    silence_s: float = 30.0
    """An inlet to which nothing has come for so long says so: a broker may grant a subscription
    and keep all to itself, as Mosquitto does with who lacks the right to read. It also says when
    the cameras have been gone for so long."""
    expiry_s: float = 60.0
    """A frame that the broker could not deliver within this time is worthless (MQTT 5 only)."""


DEFAULT_TIMING = MqttTiming()


def wait_s(timing: MqttTiming, failures: int, sessions: int, luck: float) -> float:
    """How long one of `sessions` waits before it tries to connect again, wall seconds.

    `luck` (0 to 1, drawn anew each time) of a window: clients that lost their connections in the
    same moment come back evenly spread over it. The window doubles with each failure in a row, up
    to `few_limit_s`, or to 0.05 s a session where that is more (40 attempts a second on average),
    at most to `backoff_limit_s`; it is never too short for all of them at `connects_per_s`.

    By default: 0.1 for (failures 0, sessions 1, luck 0.5); 1.6 for (3, 1, 1.0); 2 for (20, 1, 1.0);
    10 for (20, 200, 1.0); 4 for (0, 200, 1.0), so that 200 cameras come back at 50 a second.
    """
    limit = min(timing.backoff_limit_s, max(timing.few_limit_s, 0.05 * sessions))
    window = min(limit, timing.backoff_s * 2.0 ** min(failures, 20))
    return luck * max(window, sessions / timing.connects_per_s)


_NOT_AUTHORIZED = 0x87
"""Of a PUBACK, MQTT 5 section 3.4.2.1; MQTT 3.1.1 brokers confirm what they throw away."""

# --- one connection ------------------------------------------------------------------------------


class _Client(aiomqtt.Client):
    """aiomqtt's client, with four things it lacks: an end at once, QoS 0 sends whose outcome is
    certain, and connecting that holds up no thread and leaves nothing behind when it is cancelled.

    Its protected members are used for that; `aiomqtt<3` and `paho-mqtt<3` are pinned.
    """

    def __init__(
        self,
        address: BrokerAddress,
        context: ssl.SSLContext | None,
        connect_s: float,
        **settings: Any,
    ) -> None:
        super().__init__(address.host, address.port, timeout=connect_s, **settings)
        self._address = address
        self._context = context
        self._dialled: socket.socket | None = None
        # paho would dial by itself, in a thread that nothing can interrupt.
        vars(self._client)["_create_socket"] = self._hand_over
        self.denied = False
        """The broker took a message and threw it away for want of rights (MQTT 5 tells)."""
        # The default warns on every publish with more than 10 pending: a burst is no trouble here.
        self.pending_calls_threshold = 1_000_000

    async def open(self) -> None:
        """Connect; MqttError if that fails."""
        await self._dial()
        opening = asyncio.create_task(self.__aenter__(), name="mqtt connect")
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # paho takes the socket in a thread that nothing can interrupt; left alone it would
            # hang it on the loop after everybody has gone. That takes a moment; the broker's
            # answer, which would come next, is not waited for.
            if not self._connected.done():
                self._connected.set_exception(MqttError("cancelled"))
                self._connected.exception()
            with suppress(MqttError):
                await opening
            self.drop()
            raise
        except MqttError:
            self.drop()
            raise

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                end = await dial(self._address.host, self._address.port)
                if self._context is not None:
                    end = await secured(end, self._context, self._address.host)
        except TimeoutError:
            raise MqttError(f"no connection within {self.timeout:g} s") from None
        except OSError as why:
            raise MqttError(str(why)) from why
        self._dialled = end

    def _hand_over(self) -> socket.socket:
        end, self._dialled = self._dialled, None
        if end is None:
            raise ConnectionError("this client connects once")
        return end

    def _on_disconnect(self, *event: Any) -> None:
        # aiomqtt waits out its timeout for a broker that hangs up instead of answering, as every
        # port forwarder does whose broker is away.
        if not self._connected.done():
            self._connected.set_exception(MqttError("the broker hung up without an answer"))
        super()._on_disconnect(*event)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        self.denied |= getattr(reason_code, "value", reason_code) == _NOT_AUTHORIZED
        super()._on_publish(client, userdata, mid, reason_code, properties)

    async def gone(self) -> None:
        """Return when the connection is lost or dropped."""
        await asyncio.wait((self._disconnected,))

    async def leave(self) -> None:
        """Say goodbye, so that the broker does not publish the will; the caller bounds the time."""
        if self._client.disconnect() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            await self.gone()

    def drop(self) -> None:
        """End the connection now; whatever was not fully written never leaves. Idempotent."""
        if not self._disconnected.done():
            self._disconnected.set_result(None)
        elif not self._disconnected.cancelled():
            self._disconnected.exception()  # looked at, or asyncio would log it as forgotten
        self._client._sock_close()

    def start_send(
        self, topic: str, payload: bytes, properties: Properties | None
    ) -> MQTTMessageInfo:
        """Queue at QoS 0 for writing; see `written`."""
        return self._client.publish(topic, payload, 0, False, properties)

    async def written(self, info: MQTTMessageInfo) -> None:
        """Wait until the whole message is with the operating system."""
        if info.is_published():
            return
        written = self._pending_publishes[info.mid] = asyncio.Event()
        try:
            await written.wait()
        finally:
            self._pending_publishes.pop(info.mid, None)


class _Session:
    """One client that connects again whenever it was lost, until it is closed.

    `greet` runs after every connect and before anything else is sent: subscriptions, statuses.
    `siblings` sessions, this one included, are likely to lose their connections together.
    """

    def __init__(
        self,
        address: BrokerAddress,
        level: Level,
        context: ssl.SSLContext | None,
        timing: MqttTiming,
        greet: Callable[[_Client], Awaitable[None]],
        *,
        client: str,
        siblings: int = 1,
        will: Will | None = None,
        queue: type[asyncio.Queue[Message]] | None = None,
        packet_bytes: int | None = None,
    ) -> None:
        self.up = asyncio.Event()
        self.connected = 0
        """How often a connection came about."""
        self.trouble = ""
        """Why the last attempt failed."""
        self._address = address
        self._context = context
        self._timing = timing
        self._siblings = siblings
        self._greet = greet
        self._closing = False
        self._client: _Client | None = None
        self._limits: set[asyncio.Timeout] = set()
        # Two at a time: the next frame is ready when one has left, and a frame that gives up
        # waiting for its turn was never handed over, so it can be called unsent with certainty.
        self._turns = asyncio.Semaphore(2)
        self._settings: dict[str, Any] = {
            "username": address.login.user if address.login else None,
            "password": address.login.password if address.login else None,
            "protocol": ProtocolVersion.V5 if level == 5 else ProtocolVersion.V311,
            # Kept over reconnects: the broker then ends the old connection before it greets the
            # new one, and the old will (offline) cannot overwrite the new status (online).
            "identifier": client,
            "keepalive": timing.keepalive_s,
            "will": will,
            "queue_type": queue,
            "logger": _client_log,
            "socket_options": _socket_options(timing),
        }
        if level == 5 and packet_bytes is not None:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = packet_bytes
            self._settings["properties"] = properties

    async def run(self) -> None:
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            client = _Client(self._address, self._context, self._timing.connect_s, **self._settings)
            try:
                await client.open()
                if self._closing:
                    return
                await self._greet(client)
                self.connected += 1
                up_at = loop.time()
                self._client = client
                self.up.set()
                await client.gone()
                if self._closing:
                    return
                # A broker that lets us in and throws us out at once is no sound one.
                sound = loop.time() - up_at >= self._timing.sound_s
                failures = 0 if sound else failures + 1
                self.trouble = "connection lost"
                log.info("connection to %s lost, connecting again", self._address)
            except MqttError as why:
                self.trouble = str(why)
                failures += 1
                log.info("no connection to %s: %s", self._address, why)
            finally:
                self._client = None
                self.up.clear()
                client.drop()
                self._wake_waiters()
            await asyncio.sleep(wait_s(self._timing, failures, self._siblings, random.random()))

    @property
    def denied(self) -> bool:
        """This user may not write what it wrote last, as far as the broker tells."""
        return self._client is not None and self._client.denied

    def _wake_waiters(self) -> None:
        """Nobody waits out his time limit for a connection that is known to be gone."""
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(now)

    async def send(self, topic: str, payload: bytes, properties: Properties | None) -> bool:
        """At QoS 0. True: it is with the operating system. False: it never leaves this machine."""
        client, info = self._client, None
        if client is None:
            return False
        try:
            async with asyncio.timeout(self._timing.publish_s) as limit:
                self._limits.add(limit)
                try:
                    async with self._turns:
                        if self._client is not client:
                            return False
                        info = client.start_send(topic, payload, properties)
                        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                            return False
                        await client.written(info)
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if info is None:
                return False
            if info.is_published():
                return True
            if self._client is client:
                log.warning("%s takes no data, connecting again", self._address)
            client.drop()
            return False
        return True

    async def confirmed(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """At QoS 1. True once the broker has it; False if that is not known in time."""
        client = self._client
        if client is None:
            return False
        try:
            async with asyncio.timeout(self._timing.confirm_s) as limit:
                self._limits.add(limit)
                try:
                    await client.publish(topic, payload, 1, retain, timeout=math.inf)
                finally:
                    self._limits.discard(limit)
        except (TimeoutError, MqttError):
            return False
        return True

    async def close(self, farewell: Callable[[], Awaitable[None]] | None = None) -> None:
        """Say goodbye within `close_s`; the owner cancels `run` afterwards."""
        self._closing = True
        client = self._client
        if client is None:
            return
        try:
            async with asyncio.timeout(self._timing.close_s):
                if farewell is not None:
                    await farewell()
                await client.leave()
        except (TimeoutError, MqttError):
            pass
        finally:
            client.drop()


def _new_client() -> str:
    """An identifier that nobody else has; 23 characters are what every broker takes."""
    return f"ef-{secrets.token_hex(8)}"


def _check_run(run: str) -> None:
    if not is_camera_name(run) or any(c in run for c in "+#"):
        raise UsageError(f"run {run!r:.80} stands in topics: no '/', '+', '#' or line breaks")


def _socket_options(timing: MqttTiming) -> tuple[tuple[int, int, int], ...]:
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Linux: data that the peer does not acknowledge for so long ends the connection.
        limit_ms = max(1, timing.keepalive_s * 2) * 1000
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        # What waits in the kernel grows old there, and is lost untold with the connection; left to
        # itself it takes megabytes. What is on its way to the peer is not limited by this.
        options.append((socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES))
    return tuple(options)


async def _all_up(sessions: Iterable[_Session], address: BrokerAddress, within_s: float) -> None:
    """TransportError if one of the first connections does not come about in time."""
    waiting = list(sessions)
    try:
        async with asyncio.timeout(within_s):
            for session in waiting:
                await session.up.wait()
    except TimeoutError:
        down = [s for s in waiting if not s.up.is_set()]
        why = next((s.trouble for s in down if s.trouble), f"nothing within {within_s:g} s")
        raise TransportError(
            f"{len(down)} of {len(waiting)} connections to {address} failed: {why}; does the "
            "broker limit connections, topics or rights?"
        ) from None


# --- the fleet's side ----------------------------------------------------------------------------


def _settled(connections: Connections, cameras: int) -> Connections:
    if connections != "auto":
        return connections
    return "per_camera" if cameras <= PER_CAMERA_LIMIT else "shared"


def clients(connections: Connections, cameras: int) -> int:
    """How many connections a link for so many cameras makes: its own, and theirs."""
    return 1 if _settled(connections, cameras) == "shared" else 1 + cameras


class MqttLink:
    """Publishes for the fleet; a `Link`.

    `per_camera`: each camera has a connection and a last will of its own, as real cameras do.
    `shared`: one connection for all, with its will on `earlyfire/<run>/fleet/<id>/status`.
    `auto`: per camera up to 50 cameras.
    """

    def __init__(
        self,
        address: BrokerAddress,
        run: str,
        cameras: Iterable[str],
        *,
        connections: Connections = "auto",
        timing: MqttTiming = DEFAULT_TIMING,
        max_frame_bytes: int = DEFAULT_LIMITS.frame_bytes,
    ) -> None:
        _check_run(run)
        names = tuple(dict.fromkeys(cameras))
        self.connections = _settled(connections, len(names))
        self.level: Level | None = None
        """Protocol level that the broker speaks; known after entering."""
        fleet = _new_client()
        self.client_of: Mapping[str, str] = {
            camera: fleet if self.connections == "shared" else _new_client() for camera in names
        }
        """Camera -> the identifier of its MQTT client, the same over reconnects. `shared` cameras
        have one client between them."""
        self._address = address
        self._run = run
        self._timing = timing
        self._max_frame_bytes = max_frame_bytes
        self._fleet_client = fleet
        self._topics = {camera: frame_topic(run, camera) for camera in names}
        self._fleet_id = secrets.token_hex(4)
        self._fleet_topic = f"{ROOT}/{run}/fleet/{self._fleet_id}/status"
        self._statuses: dict[str, bool] = {}
        self._control: Control | None = None
        self._crew = Crew()
        self._fleet: _Session
        self._sessions: dict[str, _Session] = {}
        self._properties: Properties | None = None

    @property
    def reconnects(self) -> int:
        sessions = {id(s): s for s in (self._fleet, *self._sessions.values())}
        return sum(max(0, s.connected - 1) for s in sessions.values())

    async def __aenter__(self) -> Self:
        context = self._address.tls_context()
        self.level = await mqtt_version(self._address, self._timing.connect_s)
        if self.level == 5:
            self._properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            self._properties.ContentType = "image/jpeg"
            self._properties.MessageExpiryInterval = max(1, math.ceil(self._timing.expiry_s))

        def session(
            greet: Callable[[_Client], Awaitable[None]], client: str, will_topic: str
        ) -> _Session:
            will = Will(will_topic, OFFLINE, qos=1, retain=True)
            assert self.level is not None
            return _Session(
                self._address,
                self.level,
                context,
                self._timing,
                greet,
                client=client,
                siblings=len({self._fleet_client, *self.client_of.values()}),
                will=will,
            )

        self._fleet = session(self._greet_fleet, self._fleet_client, self._fleet_topic)
        for camera in self._topics:
            if self.connections == "shared":
                self._sessions[camera] = self._fleet
            else:
                greet = _bound(self._greet_camera, camera)
                topic = status_topic(self._run, camera)
                self._sessions[camera] = session(greet, self.client_of[camera], topic)
        sessions = self._distinct_sessions()
        await self._crew.muster()
        try:
            for number, each in enumerate(sessions):
                self._crew.start(each.run(), name=f"mqtt link {number}")
            await _all_up(sessions, self._address, self._timing.connect_s + 0.2 * len(sessions))
        except BaseException:
            await self._crew.dismiss()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._say_goodbye()
        finally:
            await self._crew.dismiss()

    async def publish(self, camera: str, seq: int, payload: bytes) -> Reason:
        """BROKER_DOWN at once while disconnected, and after `publish_s` if nothing moves."""
        if len(payload) > self._max_frame_bytes:
            return Reason.TOO_LARGE
        session = self._sessions[camera]
        sent = await session.send(self._topics[camera], payload, self._properties)
        return Reason.NONE if sent else Reason.BROKER_DOWN

    async def announce(self, control: Control) -> None:
        """TransportError if the broker does not confirm it within `connect_s` + `confirm_s`."""
        self._control = control
        body = _control_body(control, self._fleet_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.connect_s + self._timing.confirm_s):
                while True:
                    await self._fleet.up.wait()
                    if await self._fleet.confirmed(control_topic(self._run), body, retain=True):
                        self._check_rights()
                        return
                    await asyncio.sleep(self._timing.backoff_s)
        raise TransportError(
            f"the broker {self._address} does not confirm the run's control message; is it "
            f"reachable, and may this user publish to {control_topic(self._run)}?"
        )

    def _check_rights(self) -> None:
        if self._fleet.denied:
            raise TransportError(
                f"the broker {self._address} takes this user's messages and throws them away: give "
                f"it the right to write to {ROOT}/{self._run}/# (in Mosquitto's ACL file: "
                f"`topic readwrite {ROOT}/#`)"
            )

    async def set_status(self, camera: str, online: bool) -> None:
        self._statuses[camera] = online
        # If that fails, greeting the broker after the next connect makes up for it.
        await self._sessions[camera].confirmed(*self._status(camera), retain=True)

    def _status(self, camera: str) -> tuple[str, bytes]:
        state = ONLINE if self._statuses[camera] else OFFLINE
        return status_topic(self._run, camera), state

    def _distinct_sessions(self) -> list[_Session]:
        return list({id(s): s for s in (self._fleet, *self._sessions.values())}.values())

    async def _greet_fleet(self, client: _Client) -> None:
        await client.publish(self._fleet_topic, ONLINE, 1, True)
        if self._control is not None:  # a broker that was restarted may have lost it
            body = _control_body(self._control, self._fleet_id)
            await client.publish(control_topic(self._run), body, 1, True)
        if self.connections == "shared":
            cameras = list(self._statuses)
            for at in range(0, len(cameras), _AT_ONCE):
                group = cameras[at : at + _AT_ONCE]
                await asyncio.gather(*(client.publish(*self._status(c), 1, True) for c in group))

    async def _greet_camera(self, client: _Client, camera: str) -> None:
        if camera in self._statuses:
            await client.publish(*self._status(camera), 1, True)

    async def _say_goodbye(self) -> None:
        """A clean goodbye suppresses the wills, so say what they would have said."""

        async def leave(session: _Session, last: list[tuple[str, bytes]]) -> None:
            async def farewell() -> None:
                await asyncio.gather(*(session.confirmed(*word, retain=True) for word in last))

            await session.close(farewell)

        last: dict[int, list[tuple[str, bytes]]] = {id(self._fleet): [(self._fleet_topic, OFFLINE)]}
        for camera, online in self._statuses.items():
            if online:
                words = last.setdefault(id(self._sessions[camera]), [])
                words.append((status_topic(self._run, camera), OFFLINE))
        await asyncio.gather(*(leave(s, last.get(id(s), [])) for s in self._distinct_sessions()))


def _bound(
    greet: Callable[[_Client, str], Awaitable[None]], camera: str
) -> Callable[[_Client], Awaitable[None]]:
    return lambda client: greet(client, camera)


def _control_body(control: Control, fleet: str) -> bytes:
    return orjson.dumps({**asdict(control), "fleet": fleet})


# --- the consumer's side -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """Foreign frame topics such as `site/{camera}/image`; `+` may stand for other levels."""

    text: str

    def __post_init__(self) -> None:
        levels = self.text.split("/")
        if levels.count("{camera}") != 1 or self.text.count("{") != 1:
            raise UsageError(
                f"topic {self.text!r}: exactly one whole level must be {{camera}}, as in "
                "'site/{camera}/image'"
            )
        if "#" in self.text or any("+" in level and level != "+" for level in levels):
            raise UsageError(
                f"topic {self.text!r}: only + is allowed, for one whole level, as in "
                "'+/{camera}/image'"
            )
        if self.text.startswith("$"):
            raise UsageError(f"topic {self.text!r}: topics that begin with $ are the broker's own")
        if not self.text.isprintable() or len(self.text.encode()) > 1000:
            raise UsageError("topic: at most 1000 printable characters")

    @property
    def subscription(self) -> str:
        return self.text.replace("{camera}", "+")

    @property
    def camera_level(self) -> int:
        return self.text.split("/").index("{camera}")


@dataclass(slots=True)
class _Letter:
    topic: str
    body: bytes
    tries: int = 0


_LETTERS = 1000
"""Most verdicts and alarms that wait for the broker; then the oldest is given up and counted."""
_LETTER_BYTES = 256_000
_LETTER_TRIES = 3
"""Attempts over a working connection; waiting for a broker that is away costs none."""
_CONTROL_BYTES = 16_000_000
_CAMERAS = 10_000


class MqttInlet:
    """Receives for the consumer; an `Inlet`.

    `shards` subscribes to those shards only (None: all). With a `topic_template` frames come from
    foreign topics instead, and nobody publishes a control message for them.
    """

    def __init__(
        self,
        address: BrokerAddress,
        run: str,
        wall_ns: Callable[[], int],
        *,
        shards: frozenset[int] | None = None,
        topic_template: str | None = None,
        limits: IntakeLimits = DEFAULT_LIMITS,
        timing: MqttTiming = DEFAULT_TIMING,
    ) -> None:
        _check_run(run)
        if shards is not None and not shards:
            raise UsageError("a consumer without shards would receive nothing")
        if topic_template is not None and shards is not None:
            raise UsageError("foreign topics have no shards; give --topic or --shard, not both")
        self.level: Level | None = None
        """Protocol level that the broker speaks; known after entering."""
        self.client = _new_client()
        """The identifier of its MQTT client, the same over reconnects."""
        self._address = address
        self._run = run
        self._wall_ns = wall_ns
        self._timing = timing
        self._intake = Intake(limits)
        if topic_template is not None:
            template = TopicTemplate(topic_template)
            self._subscriptions = [template.subscription]
            self._camera_level = template.camera_level
        else:
            kept = ["+"] if shards is None else [str(s) for s in sorted(shards)]
            self._subscriptions = [f"{ROOT}/{run}/{shard}/+/frame" for shard in kept]
            self._camera_level = 3
        self._control_topic = control_topic(run)
        self._status_prefix = f"{ROOT}/{run}/"
        self._control: Control | None = None
        self._control_from = ""
        """The fleet that sent it."""
        self._follows_ns: int | None = None
        """`start_ns` of the fleet that `control` gave."""
        self._news = asyncio.Event()
        """A control message or a fleet's status has come."""
        self._something = asyncio.Event()
        """What is watched for has come: a picture from foreign topics, else any message."""
        self._foreign = topic_template is not None
        self._online: set[str] = set()
        self._fleets: set[str] = set()
        self._letters: deque[_Letter] = deque()
        self._written = asyncio.Event()
        self._posted = asyncio.Event()
        self._posted.set()
        self._crew = Crew()
        self._session: _Session

    @property
    def counts(self) -> IntakeCounts:
        return self._intake.counts

    @property
    def online(self) -> frozenset[str]:
        return frozenset(self._online)

    async def __aenter__(self) -> Self:
        context = self._address.tls_context()
        self.level = await mqtt_version(self._address, self._timing.connect_s)
        self._session = _Session(
            self._address,
            self.level,
            context,
            self._timing,
            self._subscribe,
            client=self.client,
            queue=_straight_to(self._take),
            # room for topic and properties; the broker then keeps larger ones to itself
            packet_bytes=min(self._intake.limits.frame_bytes + 70_000, 268_435_455),
        )
        await self._crew.muster()
        try:
            self._crew.start(self._session.run(), name="mqtt inlet")
            self._crew.start(self._post(), name="mqtt verdicts")
            self._crew.start(self._tell_silence(), name="mqtt silence")
            if not self._foreign:
                self._crew.start(self._tell_gone(), name="mqtt fleet")
            await _all_up([self._session], self._address, self._timing.connect_s)
        except BaseException:
            await self._crew.dismiss()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._intake.close()
        try:
            if self._session.up.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.close_s):
                        await self._posted.wait()
            await self._session.close()
        finally:
            await self._crew.dismiss()
            self.counts.unsent_json += len(self._letters)
            self._letters.clear()

    def arrivals(self) -> AsyncIterator[Arrival]:
        return self._intake.drain()

    async def control(self, start_ns: int | None = None) -> Control:
        def plays(control: Control) -> bool:
            return control.start_ns == start_ns or (
                # A fleet that was killed could not say that it ended; its last will could.
                control.last_seqs is None and self._control_from in self._fleets
            )

        control = await self._heard(plays)
        self._follows_ns = control.start_ns
        return control

    async def ended(self) -> Control:
        def ends(control: Control) -> bool:
            follows_ns = self._follows_ns
            if follows_ns is None or control.start_ns == follows_ns:
                return control.last_seqs is not None
            return control.start_ns > follows_ns

        return await self._heard(ends)

    async def _heard(self, wanted: Callable[[Control], bool]) -> Control:
        def heard() -> bool:
            return self._control is not None and wanted(self._control)

        await self._when(heard)
        assert self._control is not None
        return self._control

    async def _when(self, so: Callable[[], bool]) -> None:
        while not so():
            self._news.clear()
            await self._news.wait()

    def post(self, camera: str, what: str, body: bytes) -> None:
        """Queued, sent in order, and sent again after a lost connection (at least once)."""
        if len(body) > _LETTER_BYTES:
            self.counts.unsent_json += 1
            return
        topic = f"{ROOT}/{self._run}/{shard_of(camera)}/{camera}/{what}"
        self._letters.append(_Letter(topic, body))
        if len(self._letters) > _LETTERS:
            self._letters.popleft()
            self.counts.unsent_json += 1
        self._posted.clear()
        self._written.set()

    # --- what comes in

    async def _subscribe(self, client: _Client) -> None:
        self.counts.reconnects = self._session.connected
        wanted = [(topic, 0) for topic in self._subscriptions]
        wanted += [(self._control_topic, 1), (f"{self._status_prefix}+/+/status", 1)]
        answers: list[Any] = list(await client.subscribe(wanted))
        for (topic, _), answer in zip(wanted, answers, strict=True):
            if getattr(answer, "value", answer) >= 0x80:  # a ReasonCode, or a bare int
                raise MqttError(f"this user may not subscribe to {topic}")

    async def _tell_silence(self) -> None:
        await self._session.up.wait()
        try:
            async with asyncio.timeout(self._timing.silence_s):
                await self._something.wait()
        except TimeoutError:
            topic = self._subscriptions[0] if self._foreign else f"{self._status_prefix}#"
            log.warning(
                "nothing has come from %s on %s for %g s: does anybody send there, and may this "
                "user read it? A broker may grant a subscription and deliver nothing",
                self._address,
                topic,
                self._timing.silence_s,
            )

    async def _tell_gone(self) -> None:
        """A fleet that was killed cannot say that it ended; whoever waits for that should know."""
        while True:
            await self._when(lambda: bool(self._fleets))
            await self._when(lambda: not self._fleets)
            try:
                async with asyncio.timeout(self._timing.silence_s):
                    await self._when(lambda: bool(self._fleets) or self._is_over())
            except TimeoutError:
                log.warning(
                    "the cameras of run %s went away %g s ago without a last word; they are waited "
                    "for until they come back, or somebody ends this",
                    self._run,
                    self._timing.silence_s,
                )

    def _is_over(self) -> bool:
        return self._control is not None and self._control.last_seqs is not None

    def _take(self, message: Message) -> None:
        """Called by the client for each message as it is read from the socket; must not raise."""
        topic, payload = message.topic.value, message.payload
        assert isinstance(payload, bytes)
        if not self._foreign:
            self._something.set()
        if topic == self._control_topic:
            self._take_control(payload)
        elif topic.startswith(self._status_prefix) and topic.endswith("/status"):
            self._take_status(topic, payload)
        elif message.retain:
            # An old picture that the broker kept: taken for new it could raise an alarm.
            self.counts.refused["retained"] += 1
            self._something.set()
        else:
            self._something.set()
            camera = topic.split("/")[self._camera_level]
            self._intake.put(Arrival(camera, payload, self._wall_ns()))

    def _take_control(self, payload: bytes) -> None:
        read = _read_control(payload, self._run)
        if read is None:
            self.counts.refused["control"] += 1
            return
        self._control, self._control_from = read
        self._news.set()

    def _take_status(self, topic: str, payload: bytes) -> None:
        shard, name = topic.split("/")[2:4]
        known = self._fleets if shard == "fleet" else self._online
        if payload == ONLINE and is_camera_name(name) and len(known) < _CAMERAS:
            known.add(name)
            self._news.set()
            return
        known.discard(name)
        self._news.set()
        if shard == "fleet" and not known:
            self._online.clear()  # cameras of a shared connection have no will of their own

    # --- what goes out

    async def _post(self) -> None:
        while True:
            await self._written.wait()
            await self._session.up.wait()
            batch = [self._letters.popleft() for _ in range(min(_AT_ONCE, len(self._letters)))]
            try:
                done = await asyncio.gather(
                    *(self._session.confirmed(letter.topic, letter.body) for letter in batch)
                )
            except asyncio.CancelledError:
                self._letters.extendleft(reversed(batch))
                raise
            again = []
            for letter, confirmed in zip(batch, done, strict=True):
                letter.tries += self._session.up.is_set()
                if confirmed:
                    continue
                if letter.tries < _LETTER_TRIES:
                    again.append(letter)
                else:
                    self.counts.unsent_json += 1
            self._letters.extendleft(reversed(again))
            if not self._letters:
                self._written.clear()
                self._posted.set()
            elif again:
                await asyncio.sleep(self._timing.backoff_s)


def _straight_to(take: Callable[[Message], None]) -> type[asyncio.Queue[Message]]:
    """A queue class for aiomqtt that keeps nothing: its own is unbounded, or drops the newest."""

    class Straight(asyncio.Queue[Message]):
        def put_nowait(self, item: Message) -> None:
            take(item)

    return Straight


def _read_control(payload: bytes, run: str) -> tuple[Control, str] | None:
    """The message and its fleet's id; None for anything that is no control message of this run."""
    if len(payload) > _CONTROL_BYTES:
        return None
    try:
        data = orjson.loads(payload)
        last = data["last_seqs"]
        fleet = data["fleet"]
        if data["run"] != run or not isinstance(data["digest"], str) or not isinstance(fleet, str):
            return None
        start_ns, speed = data["start_ns"], float(data["speed"])
        if type(start_ns) is not int or not 0 < speed < math.inf:
            return None
        if last is not None and not all(type(seq) is int and seq >= -1 for seq in last.values()):
            return None
        return Control(run, data["digest"], start_ns, speed, last), fleet
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
        return None
