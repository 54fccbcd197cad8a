"""Link and inlet against real brokers: Mosquitto (MQTT 5 and 3.1.1) and amqtt (3.1.1)."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path

import aiomqtt
import orjson
import pytest
from PIL import Image

from earlyfire_stream.clock import Clock
from earlyfire_stream.errors import TransportError, UsageError
from earlyfire_stream.frames import Capture, Frame, parse, shard_of, wrap
from earlyfire_stream.transport import mqtt as mqtt_module
from earlyfire_stream.transport.address import BrokerAddress, Level, mqtt_version
from earlyfire_stream.transport.base import Arrival, Control, Inlet, IntakeLimits, Link
from earlyfire_stream.transport.broker import EmbeddedBroker, embedded_broker
from earlyfire_stream.transport.mqtt import (
    Connections,
    MqttInlet,
    MqttLink,
    MqttTiming,
    TopicTemplate,
    wait_s,
)
from earlyfire_stream.transport.proxy import Proxy
from earlyfire_stream.verdict import Reason
from tests.conftest import left_out

PATIENCE_S = 60
QUICK = MqttTiming(
    connect_s=PATIENCE_S,
    publish_s=PATIENCE_S,
    confirm_s=PATIENCE_S,
    close_s=PATIENCE_S,
    keepalive_s=PATIENCE_S,
    backoff_s=0.02,
    backoff_limit_s=0.1,
)
"""Back again at once; nothing else is in a hurry, so that a broker or a test that is held up for
some seconds is not taken for one that is gone."""
WATCHFUL = replace(QUICK, keepalive_s=1)
"""Notices a connection over which nothing comes."""
with io.BytesIO() as _buffer:
    Image.new("L", (16, 16), 128).save(_buffer, "JPEG")
    JPEG = _buffer.getvalue()


@pytest.fixture
async def mosquitto_broker(mosquitto: str) -> AsyncIterator[EmbeddedBroker]:
    async with embedded_broker("mosquitto") as broker:
        yield broker


@pytest.fixture(params=["mosquitto 5", "mosquitto 3.1.1", "amqtt"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedBroker]:
    kind, _, version = request.param.partition(" ")
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto")
    async with embedded_broker("amqtt" if kind == "amqtt" else "mosquitto") as broker:
        if version == "3.1.1":
            broker.address = replace(broker.address, level=4)
        yield broker


def inlet_on(broker: EmbeddedBroker, run: str = "r", **settings: object) -> MqttInlet:
    settings.setdefault("timing", QUICK)
    return MqttInlet(broker.address, run, Clock().wall_ns, **settings)  # type: ignore[arg-type]


def link_on(
    broker: EmbeddedBroker, *cameras: str, run: str = "r", connections: Connections = "auto"
) -> MqttLink:
    return MqttLink(broker.address, run, cameras, connections=connections, timing=QUICK)


async def next_of(arrivals: AsyncIterator[Arrival]) -> Arrival:
    return await asyncio.wait_for(anext(arrivals), PATIENCE_S)


@asynccontextmanager
async def listening(broker: EmbeddedBroker, topic: str) -> AsyncIterator[asyncio.Queue[tuple]]:
    """(topic, payload, retained) of what a stranger with the password sees on `topic`."""
    heard: asyncio.Queue[tuple] = asyncio.Queue()
    login = broker.address.login
    assert login is not None

    async def listen(ready: asyncio.Event) -> None:
        async with aiomqtt.Client(
            broker.address.host,
            broker.address.port,
            username=login.user,
            password=login.password,
        ) as client:
            await client.subscribe(topic, qos=1)
            ready.set()
            async for message in client.messages:
                heard.put_nowait((str(message.topic), message.payload, message.retain))

    ready = asyncio.Event()
    listener = asyncio.create_task(listen(ready))
    try:
        await asyncio.wait_for(ready.wait(), PATIENCE_S)
        yield heard
    finally:
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)


async def publish_until_taken(link: Link, camera: str, seqs: Iterator[int]) -> int:
    """Publish one frame after another until one is taken; its seq."""
    async with asyncio.timeout(PATIENCE_S):
        for seq in seqs:
            if await link.publish(camera, seq, b"%d" % seq) is Reason.NONE:
                return seq
            await asyncio.sleep(0.01)  # as a camera's cadence would
    raise AssertionError


async def eventually(condition: Callable[[], bool]) -> None:
    """For what no event tells: bounded, and looked at often."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def publish_until_it_arrives(
    link: Link, camera: str, seqs: Iterator[int], arrivals: AsyncIterator[Arrival]
) -> Arrival:
    """Publish frames until one comes through: both sides are connected again."""
    arriving = asyncio.ensure_future(anext(arrivals))
    async with asyncio.timeout(PATIENCE_S):
        while not arriving.done():
            await publish_until_taken(link, camera, seqs)
            await asyncio.wait([arriving], timeout=0.05)
    return await arriving


def test_link_and_inlet_have_the_shape_that_cameras_and_consumer_expect() -> None:
    def check(link: Link, inlet: Inlet) -> None: ...

    async def main() -> None:
        address = BrokerAddress("h", 1)
        check(MqttLink(address, "r", ["a"]), MqttInlet(address, "r", Clock().wall_ns))

    asyncio.run(main())


# --- the way of a frame --------------------------------------------------------------------------


@pytest.mark.parametrize("connections", ["per_camera", "shared"])
async def test_frames_travel_unchanged(broker: EmbeddedBroker, connections: Connections) -> None:
    clock = Clock()
    big = b"\xff\xd8" + bytes(range(256)) * 4000
    async with (
        inlet_on(broker) as inlet,
        link_on(broker, "north", "south", connections=connections) as link,
    ):
        assert link.level == inlet.level == broker.address.level
        arrivals = inlet.arrivals()
        frame = wrap(JPEG, Capture("r", "north", 0, 0.0, clock.wall_ns(), clock.wall_ns()))
        before = clock.wall_ns()
        assert await link.publish("north", 0, frame) is Reason.NONE
        arrival = await next_of(arrivals)
        assert (arrival.camera, arrival.payload) == ("north", frame)
        assert before <= arrival.received_ns <= clock.wall_ns()
        parsed = parse(arrival.payload)
        assert isinstance(parsed, Frame)
        assert parsed.capture is not None
        assert parsed.capture.seq == 0
        assert await link.publish("south", 0, big) is Reason.NONE
        arrival = await next_of(arrivals)
        assert (arrival.camera, arrival.payload) == ("south", big)
        assert inlet.counts.received == 2
        assert inlet.counts.dropped == 0


async def test_a_frame_over_the_limit_is_not_sent(mosquitto_broker: EmbeddedBroker) -> None:
    address = mosquitto_broker.address
    async with MqttLink(address, "r", ["a"], max_frame_bytes=10) as link:
        assert await link.publish("a", 0, b"x" * 11) is Reason.TOO_LARGE
        assert await link.publish("a", 0, b"x" * 10) is Reason.NONE


async def test_an_oversized_frame_from_elsewhere_is_kept_out(broker: EmbeddedBroker) -> None:
    limits = IntakeLimits(frame_bytes=1000)
    async with inlet_on(broker, limits=limits) as inlet, link_on(broker, "a") as link:
        await link.publish("a", 0, b"x" * 200_000)
        await link.publish("a", 1, b"fits")
        assert (await next_of(inlet.arrivals())).payload == b"fits"
        # in MQTT 5 the broker keeps it to itself, in 3.1.1 it must be read to be refused
        assert inlet.counts.refused == ({} if inlet.level == 5 else {"size": 1})


async def test_version_5_frames_carry_content_type_and_expiry(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    login = mosquitto_broker.address.login
    assert login is not None
    async with aiomqtt.Client(
        mosquitto_broker.address.host,
        mosquitto_broker.address.port,
        username=login.user,
        password=login.password,
        protocol=aiomqtt.ProtocolVersion.V5,
    ) as client:
        await client.subscribe("earlyfire/r/+/a/frame")
        async with link_on(mosquitto_broker, "a") as link:
            await link.publish("a", 0, b"x")
            message = await asyncio.wait_for(anext(aiter(client.messages)), PATIENCE_S)
    assert message.properties is not None
    assert message.properties.ContentType == "image/jpeg"
    assert message.properties.MessageExpiryInterval == 60
    assert (message.qos, message.retain) == (0, False)


async def test_many_cameras_arrive_each_in_its_own_order(broker: EmbeddedBroker) -> None:
    cameras = [f"cam-{n}" for n in range(8)]
    async with inlet_on(broker) as inlet, link_on(broker, *cameras) as link:

        async def play(camera: str) -> None:
            for seq in range(25):
                assert await link.publish(camera, seq, b"%d" % seq) is Reason.NONE

        async with asyncio.TaskGroup() as group:
            for camera in cameras:
                group.create_task(play(camera))
        seen: dict[str, list[int]] = {camera: [] for camera in cameras}
        arrivals = inlet.arrivals()
        for _ in range(200):
            arrival = await next_of(arrivals)
            seen[arrival.camera].append(int(arrival.payload))
    assert seen == {camera: list(range(25)) for camera in cameras}


async def test_an_unread_inlet_drops_the_oldest_and_counts_them(broker: EmbeddedBroker) -> None:
    limits = IntakeLimits(frames=5)
    async with inlet_on(broker, limits=limits) as inlet, link_on(broker, "a") as link:
        for seq in range(20):
            assert await link.publish("a", seq, b"%d" % seq) is Reason.NONE
        await eventually(lambda: inlet.counts.received == 20)
    assert [int(a.payload) async for a in inlet.arrivals()] == [15, 16, 17, 18, 19]
    assert inlet.counts.dropped == 15
    assert inlet.counts.dropped_by_camera == {"a": 15}


async def test_shards_divide_the_cameras_between_two_inlets(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    cameras = [f"cam-{n}" for n in range(12)]
    even = frozenset(range(0, 64, 2))
    odd = frozenset(range(1, 64, 2))
    async with (
        inlet_on(mosquitto_broker, shards=even) as first,
        inlet_on(mosquitto_broker, shards=odd) as second,
        link_on(mosquitto_broker, *cameras, connections="shared") as link,
    ):
        for camera in cameras:
            await link.publish(camera, 0, b"x")
        mine = [c for c in cameras if shard_of(c) % 2 == 0]
        yours = [c for c in cameras if shard_of(c) % 2 == 1]
        assert mine
        assert yours
        from_first, from_second = first.arrivals(), second.arrivals()
        assert [(await next_of(from_first)).camera for _ in mine] == mine
        assert [(await next_of(from_second)).camera for _ in yours] == yours


# --- foreign topics ------------------------------------------------------------------------------


async def test_plain_pictures_from_foreign_topics_are_taken(broker: EmbeddedBroker) -> None:
    login = broker.address.login
    assert login is not None
    async with (
        inlet_on(broker, topic_template="site/{camera}/image") as inlet,
        aiomqtt.Client(
            broker.address.host,
            broker.address.port,
            username=login.user,
            password=login.password,
        ) as client,
    ):
        await client.publish("site//image", b"nameless")
        await client.publish("site/" + "x" * 201 + "/image", b"too long")
        await client.publish("site/hill top/image", JPEG)
        arrival = await next_of(inlet.arrivals())
        assert (arrival.camera, arrival.payload) == ("hill top", JPEG)
        assert inlet.counts.refused == {"name": 2}


async def test_an_old_picture_that_the_broker_kept_is_not_taken_for_new(
    broker: EmbeddedBroker,
) -> None:
    login = broker.address.login
    assert login is not None
    async with aiomqtt.Client(
        broker.address.host, broker.address.port, username=login.user, password=login.password
    ) as client:
        await client.publish("site/a/image", b"old", qos=1, retain=True)
        async with inlet_on(broker, topic_template="site/{camera}/image") as inlet:
            await client.publish("site/b/image", b"new", qos=1)
            assert (await next_of(inlet.arrivals())).payload == b"new"
            await eventually(lambda: inlet.counts.refused == {"retained": 1})


# --- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "topic"), [(None, "earlyfire/r/#"), ("site/{camera}/image", "site/+/image")]
)
async def test_an_inlet_to_which_nothing_comes_says_what_may_be_the_reason(
    mosquitto_broker: EmbeddedBroker,
    caplog: pytest.LogCaptureFixture,
    template: str | None,
    topic: str,
) -> None:
    timing = replace(QUICK, silence_s=0.05)
    async with inlet_on(mosquitto_broker, topic_template=template, timing=timing):
        await eventually(lambda: bool(caplog.messages))
    (said,) = caplog.messages
    assert f"on {topic} for 0.05 s: does anybody send there, and may this user read it?" in said


@pytest.mark.parametrize("template", [None, "site/{camera}/image"])
async def test_the_first_that_comes_ends_the_watch_for_silence(
    mosquitto_broker: EmbeddedBroker, template: str | None
) -> None:
    def watched() -> bool:
        return any(task.get_name() == "mqtt silence" for task in asyncio.all_tasks())

    timing = replace(QUICK, silence_s=3600)
    async with (
        inlet_on(mosquitto_broker, topic_template=template, timing=timing) as inlet,
        link_on(mosquitto_broker, "a") as link,
    ):
        await link.set_status("a", online=True)
        await eventually(lambda: inlet.online == {"a"})
        if template is not None:
            assert watched()  # a run's cameras are not those that are waited for
            login = mosquitto_broker.address.login
            assert login is not None
            async with aiomqtt.Client(
                mosquitto_broker.address.host,
                mosquitto_broker.address.port,
                username=login.user,
                password=login.password,
            ) as client:
                await client.publish("site/a/image", JPEG)
        await eventually(lambda: not watched())


async def test_cameras_that_go_without_a_last_word_are_missed(
    mosquitto_broker: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    login = mosquitto_broker.address.login
    assert login is not None
    status = "earlyfire/r/fleet/x/status"
    async with (
        inlet_on(mosquitto_broker, timing=replace(QUICK, silence_s=0.05)) as inlet,
        aiomqtt.Client(
            mosquitto_broker.address.host,
            mosquitto_broker.address.port,
            username=login.user,
            password=login.password,
        ) as client,
    ):
        for start_ns, last_seqs in ((1, {"a": 7}), (2, None)):  # only the first says its last word
            said = {"run": "r", "digest": "d", "start_ns": start_ns, "speed": 1.0, "fleet": "x"}
            await client.publish(status, b"online", 1)
            await client.publish("earlyfire/r/control", orjson.dumps(said | {"last_seqs": None}), 1)
            await inlet.control(start_ns)
            if last_seqs is not None:
                said["last_seqs"] = last_seqs
                await client.publish("earlyfire/r/control", orjson.dumps(said), 1)
                await inlet.ended()
            await client.publish(status, b"offline", 1)
        gone = "the cameras of run r went away 0.05 s ago without a last word"
        await eventually(lambda: any(gone in line for line in caplog.messages))
    assert sum(gone in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    "text", ["site/image", "a/{camera}/{camera}", "cam-{camera}/x", "a/{name}/b", "{camera}/#",
             "a+/{camera}", "$SYS/{camera}", "a/{camera}/\n"],
)  # fmt: skip
def test_a_topic_template_that_cannot_work_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="topic"):
        TopicTemplate(text)


def test_a_topic_template_becomes_a_subscription() -> None:
    template = TopicTemplate("+/site/{camera}/image")
    assert template.subscription == "+/site/+/image"
    assert template.camera_level == 2


@pytest.mark.parametrize("run", ["", "a/b", "a+", "#", "a\n"])
def test_a_run_that_cannot_stand_in_a_topic_is_refused(run: str) -> None:
    with pytest.raises(UsageError, match="stands in topics"):
        MqttLink(BrokerAddress("h", 1), run, ["a"])


# --- control, status, verdicts -------------------------------------------------------------------


async def test_control_is_retained_and_its_end_is_seen(broker: EmbeddedBroker) -> None:
    begun = Control("r", "digest", 123, 2.0)
    ended = Control("r", "digest", 123, 2.0, {"a": 7, "b": -1})
    async with link_on(broker, "a") as link:
        await link.announce(begun)
        async with inlet_on(broker) as inlet:
            assert await asyncio.wait_for(inlet.control(), PATIENCE_S) == begun
            waiting = asyncio.create_task(inlet.ended())
            await link.announce(ended)
            assert await asyncio.wait_for(waiting, PATIENCE_S) == ended


@pytest.mark.parametrize(
    "body",
    [b"", b"junk", b"[]", b"{}", b'{"run":"other","digest":"d","start_ns":1,"speed":1,'
     b'"last_seqs":null}', b'{"run":"r","digest":"d","start_ns":1,"speed":0,"last_seqs":null}',
     b'{"run":"r","digest":"d","start_ns":1.5,"speed":1,"last_seqs":null}',
     b'{"run":"r","digest":"d","start_ns":1,"speed":1,"last_seqs":{"a":"x"}}'],
)  # fmt: skip
async def test_a_control_message_that_is_none_is_refused(
    mosquitto_broker: EmbeddedBroker, body: bytes
) -> None:
    login = mosquitto_broker.address.login
    assert login is not None
    good = Control("r", "d", 1, 1.0)
    async with (
        inlet_on(mosquitto_broker) as inlet,
        aiomqtt.Client(
            mosquitto_broker.address.host,
            mosquitto_broker.address.port,
            username=login.user,
            password=login.password,
        ) as client,
    ):
        await client.publish("earlyfire/r/control", body, qos=1)
        async with link_on(mosquitto_broker, "a") as link:
            await link.announce(good)
            assert await asyncio.wait_for(inlet.control(), PATIENCE_S) == good
        assert inlet.counts.refused == {"control": 1}


async def test_verdicts_go_out_in_order(broker: EmbeddedBroker) -> None:
    async with listening(broker, "earlyfire/r/#") as heard:
        async with inlet_on(broker) as inlet:
            for number in range(40):
                inlet.post("a", "verdict", b"%d" % number)
            inlet.post("a", "alarm", b"{}")
        topic = f"earlyfire/r/{shard_of('a')}/a"
        seen = [await asyncio.wait_for(heard.get(), PATIENCE_S) for _ in range(41)]
    assert seen[:40] == [(f"{topic}/verdict", b"%d" % n, False) for n in range(40)]
    assert seen[40] == (f"{topic}/alarm", b"{}", False)
    assert inlet.counts.unsent_json == 0


async def test_an_alarm_raised_while_the_broker_is_away_is_sent_when_it_is_back(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    async with (
        Proxy(mosquitto_broker.address) as proxy,
        listening(mosquitto_broker, "earlyfire/r/+/a/alarm") as heard,
        MqttInlet(proxy.address, "r", Clock().wall_ns, timing=QUICK) as inlet,
    ):
        await proxy.gone()
        inlet.post("a", "alarm", b"fire")
        assert heard.empty()
        proxy.back()
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"fire"


async def test_verdicts_that_never_got_out_are_counted(mosquitto_broker: EmbeddedBroker) -> None:
    async with inlet_on(mosquitto_broker, timing=replace(QUICK, close_s=2)) as inlet:
        await mosquitto_broker.stop()
        for _ in range(1005):
            inlet.post("a", "verdict", b"{}")
        assert inlet.counts.unsent_json == 5
        inlet.post("a", "verdict", b"x" * 300_000)
        assert inlet.counts.unsent_json == 6
    assert inlet.counts.unsent_json == 1006


async def test_status_is_retained_and_says_offline_after_a_goodbye(broker: EmbeddedBroker) -> None:
    topic = f"earlyfire/r/{shard_of('a')}/a/status"
    async with link_on(broker, "a") as link:
        await link.set_status("a", True)
        async with listening(broker, topic) as heard:
            assert await asyncio.wait_for(heard.get(), PATIENCE_S) == (topic, b"online", True)
    async with listening(broker, topic) as heard:
        assert await asyncio.wait_for(heard.get(), PATIENCE_S) == (topic, b"offline", True)


async def test_the_will_speaks_for_a_camera_that_was_killed(broker: EmbeddedBroker) -> None:
    topic = f"earlyfire/r/{shard_of('a')}/a/status"
    async with (
        Proxy(broker.address) as proxy,
        listening(broker, topic) as heard,
        inlet_on(broker) as inlet,
        MqttLink(proxy.address, "r", ["a"], timing=QUICK) as link,
    ):
        await link.set_status("a", True)
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"online"
        await proxy.gone()
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"offline"
        proxy.back()
        # back again, it says so without being asked
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"online"
        assert inlet.counts.reconnects == 0


async def test_the_will_of_a_shared_connection_takes_all_its_cameras_offline(
    broker: EmbeddedBroker,
) -> None:
    async with (
        Proxy(broker.address) as proxy,
        listening(broker, "earlyfire/r/fleet/+/status") as heard,
        inlet_on(broker) as inlet,
        MqttLink(
            proxy.address,
            "r",
            ["a", "b"],
            connections="shared",
            timing=QUICK,
        ) as link,
    ):
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"online"
        await link.set_status("a", True)
        await link.set_status("b", True)
        await link.announce(Control("r", "d", 0, 1.0))
        await asyncio.wait_for(inlet.control(), PATIENCE_S)
        await eventually(lambda: inlet.online == {"a", "b"})
        await proxy.gone()
        assert (await asyncio.wait_for(heard.get(), PATIENCE_S))[1] == b"offline"
        await eventually(lambda: inlet.online == frozenset())


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", ["per_camera", "shared"])
async def test_a_broker_restart_is_reported_and_survived(
    broker: EmbeddedBroker, connections: Connections
) -> None:
    address = broker.address
    seqs = count()
    async with inlet_on(broker) as inlet, link_on(broker, "a", connections=connections) as link:
        arrivals = inlet.arrivals()
        await link.announce(Control("r", "d", 0, 1.0))
        await link.set_status("a", True)
        await publish_until_it_arrives(link, "a", seqs, arrivals)
        await broker.stop()
        async with asyncio.timeout(PATIENCE_S):
            for seq in seqs:
                if await link.publish("a", seq, b"x") is not Reason.NONE:
                    break
        assert await link.publish("a", next(seqs), b"x") is Reason.BROKER_DOWN
        await broker.start()
        broker.address = address
        await publish_until_it_arrives(link, "a", seqs, aiter(inlet.arrivals()))
        assert inlet.counts.reconnects == 1
        assert link.reconnects >= 1
        # the broker had forgotten everything; a consumer that joins now finds it again
        async with inlet_on(broker) as late:
            assert (await asyncio.wait_for(late.control(), PATIENCE_S)).digest == "d"


async def test_every_accepted_frame_is_received_or_shows_as_a_gap(
    broker: EmbeddedBroker,
) -> None:
    cameras = ["a", "b", "c"]
    accepted: dict[str, list[int]] = {c: [] for c in cameras}
    unsent: dict[str, list[int]] = {c: [] for c in cameras}
    received: dict[str, list[int]] = {c: [] for c in cameras}
    padding = b"." * 50_000
    async with (
        Proxy(broker.address) as proxy,
        inlet_on(broker) as inlet,
        MqttLink(proxy.address, "r", cameras, timing=QUICK) as link,
    ):

        async def play(camera: str) -> None:
            for seq in count():
                if all_cut.is_set() and len(accepted[camera]) >= 150:
                    break
                taken = await link.publish(camera, seq, b"%d " % seq + padding)
                (accepted if taken is Reason.NONE else unsent)[camera].append(seq)
                await asyncio.sleep(0.004)  # the camera's cadence
            await publish_until_taken(link, camera, repeat(last))

        async def cut_now_and_then() -> None:
            for limit in (2_000_000, 5_000_000, 8_000_000):
                await eventually(lambda limit=limit: proxy.counts.bytes_up >= limit)
                await (proxy.gone() if limit == 5_000_000 else proxy.cut())
                await asyncio.sleep(0.05)  # an outage has a length
                proxy.back()
            all_cut.set()

        last = 1_000_000_000
        all_cut = asyncio.Event()
        async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
            group.create_task(cut_now_and_then())
            for camera in cameras:
                group.create_task(play(camera))
            ended: set[str] = set()
            async for arrival in inlet.arrivals():
                seq = int(arrival.payload.split(b" ")[0])
                if seq == last:
                    ended.add(arrival.camera)
                else:
                    received[arrival.camera].append(seq)
                if len(ended) == len(cameras):
                    break
    assert link.reconnects > 0
    for camera in cameras:
        played = sorted(accepted[camera] + unsent[camera])
        assert played == list(range(len(played)))
        assert received[camera] == sorted(set(received[camera])), "in order, none twice"
        assert set(received[camera]) <= set(accepted[camera]), "what was unsent never arrives"
        # the rest are gaps: frames that were on their way when the connection was cut
        assert len(received[camera]) > 50


async def test_a_dead_connection_is_noticed_by_publishing_in_bounded_time(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    """By that alone: the ping would take an hour."""
    timing = replace(QUICK, publish_s=0.5, keepalive_s=3600)
    big = b"x" * 4_000_000
    async with (
        Proxy(mosquitto_broker.address) as proxy,
        MqttLink(proxy.address, "r", ["a"], timing=timing) as link,
    ):
        proxy.freeze()
        async with asyncio.timeout(PATIENCE_S):
            for seq in count():  # the first ones fit into the operating system's buffers
                if await link.publish("a", seq, big) is Reason.BROKER_DOWN:
                    break
        proxy.thaw()
        await publish_until_taken(link, "a", count())


async def test_an_idle_dead_connection_is_noticed_by_keepalive(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    async with (
        Proxy(mosquitto_broker.address) as proxy,
        MqttInlet(
            proxy.address,
            "r",
            Clock().wall_ns,
            timing=WATCHFUL,
        ) as inlet,
        link_on(mosquitto_broker, "a") as link,
    ):
        proxy.freeze()
        await eventually(lambda: inlet._session.trouble == "connection lost")
        proxy.thaw()
        await publish_until_it_arrives(link, "a", count(), inlet.arrivals())
        assert inlet.counts.reconnects >= 1


# --- coming back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "sessions", "luck", "waits_s"),
    [(0, 1, 0.5, 0.1), (0, 1, 0.0, 0.0), (3, 1, 1.0, 1.6), (4, 1, 1.0, 2.0), (6, 40, 1.0, 2.0),
     (6, 100, 1.0, 5.0), (10_000, 1, 0.25, 0.5), (0, 200, 1.0, 4.0), (0, 200, 0.5, 2.0),
     (20, 200, 1.0, 10.0), (20, 1000, 1.0, 20.0), (0, 10, 1.0, 0.2)],
)  # fmt: skip
def test_a_wait_doubles_to_its_limit_and_has_room_for_all(
    failures: int, sessions: int, luck: float, waits_s: float
) -> None:
    assert wait_s(MqttTiming(), failures, sessions, luck) == pytest.approx(waits_s)


def test_two_hundred_cameras_that_are_cut_at_once_come_back_spread_out() -> None:
    """50 a second for 4 s: in the fullest tenth of a second 5 of them on average; before there
    was a window for all, 200."""
    draw = random.Random(3)
    back = [wait_s(MqttTiming(), 0, 200, draw.random()) for _ in range(200)]
    tenths = Counter(int(10 * at_s) for at_s in back)
    assert max(tenths.values()) <= 20
    assert min(sum(s <= at_s < s + 1 for at_s in back) for s in range(4)) >= 25
    assert max(back) <= 4


def test_two_hundred_cameras_find_a_broker_that_was_long_away_spread_out() -> None:
    """All lost it in the same moment; ten minutes later nothing of that is left. They then try
    every 5 s on average, 40 a second of them, and all are back within one window of 10 s."""
    draw = random.Random(4)
    back = []
    for _ in range(200):
        at_s, failures = 0.0, 0
        while at_s < 600:
            at_s += wait_s(MqttTiming(), failures, 200, draw.random())
            failures += 1
        back.append(at_s - 600)
    tenths = Counter(int(10 * at_s) for at_s in back)
    assert max(tenths.values()) <= 20
    assert max(Counter(map(int, back)).values()) <= 80
    assert max(back) <= 10


async def test_a_broker_that_throws_clients_out_at_once_is_asked_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[tuple[int, int]] = []

    def none(timing: MqttTiming, failures: int, sessions: int, luck: float) -> float:
        waits.append((failures, sessions))
        return 0.0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let in, and hang up at the first thing that is asked for."""
        with suppress(ConnectionError):
            await reader.read(4096)
            writer.write(b"\x20\x02\x00\x00")
            if len(waits) < 5:
                subscribed = await reader.read(4096)
                writer.write(b"\x90\x05" + subscribed[2:4] + b"\x00\x01\x01")
        writer.close()

    monkeypatch.setattr(mqtt_module, "wait_s", none)
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        address = BrokerAddress("127.0.0.1", server.sockets[0].getsockname()[1], level=4)
        # held up for an hour, a connection would count as a sound one
        timing = replace(QUICK, sound_s=3600)
        async with MqttInlet(address, "r", Clock().wall_ns, timing=timing) as inlet:
            await eventually(lambda: len(waits) >= 8)
            assert inlet.counts.reconnects >= 4
    assert waits[:8] == [(n, 1) for n in range(1, 9)]


async def test_a_quiet_publisher_notices_a_pulled_cable_and_nothing_is_lost_untold(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    """Its small frames fit into the kernel's buffers, so nothing but MQTT's ping can tell."""
    sent: list[int] = []
    received: list[int] = []
    async with (
        Proxy(mosquitto_broker.address) as proxy,
        inlet_on(mosquitto_broker) as inlet,
        MqttLink(proxy.address, "r", ["a"], timing=WATCHFUL) as link,
    ):
        seqs = count()
        first = await publish_until_it_arrives(link, "a", seqs, inlet.arrivals())
        received.append(int(first.payload))
        proxy.freeze()
        async with asyncio.timeout(PATIENCE_S):
            for seq in seqs:
                if await link.publish("a", seq, b"%d" % seq) is Reason.BROKER_DOWN:
                    break
                sent.append(seq)
                await asyncio.sleep(0.01)  # as a camera's cadence would
        proxy.thaw()
        back = await publish_until_taken(link, "a", seqs)
        arrivals = inlet.arrivals()
        while received[-1] < back:
            came = await publish_until_it_arrives(link, "a", seqs, arrivals)
            received.append(int(came.payload))
    assert sent, "for a while nobody could know"
    assert received == sorted(set(received))
    assert seq not in received


# --- first connections ---------------------------------------------------------------------------


async def test_a_wrong_password_is_a_clear_error_on_both_sides(broker: EmbeddedBroker) -> None:
    address = broker.address.with_password("wrong")
    with pytest.raises(TransportError, match="wrong password or not authorised"):
        async with MqttLink(address, "r", ["a"]):
            pass
    with pytest.raises(TransportError, match="wrong password or not authorised"):
        async with MqttInlet(address, "r", Clock().wall_ns):
            pass


async def test_an_unreachable_broker_is_a_clear_error_in_bounded_time() -> None:
    timing = MqttTiming(connect_s=0.3)
    address = BrokerAddress("127.0.0.1", 1)
    with pytest.raises(TransportError, match="cannot reach the broker mqtt://127"):
        async with MqttLink(address, "r", ["a"], timing=timing):
            pass
    with pytest.raises(TransportError, match="cannot reach the broker mqtt://127"):
        async with MqttInlet(address, "r", Clock().wall_ns, timing=timing):
            pass


async def test_an_exception_of_the_body_passes_unchanged(mosquitto_broker: EmbeddedBroker) -> None:
    with pytest.raises(KeyError, match="the body's own"):
        async with link_on(mosquitto_broker, "a"), inlet_on(mosquitto_broker):
            raise KeyError("the body's own")


# --- cancellation --------------------------------------------------------------------------------


@asynccontextmanager
async def half_dead_broker() -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Answers the first handshake and never says a word after it; the event: somebody waits."""
    handlers: set[asyncio.Task[None]] = set()
    waiting = asyncio.Event()
    answers = iter([b"\x20\x03\x00\x00\x00"])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            await reader.read(4096)
            answer = next(answers, None)
            if answer is None:
                waiting.set()
            else:
                writer.write(answer)
            await reader.read()
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], waiting
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


@pytest.mark.parametrize("side", ["link", "inlet"])
async def test_cancelling_while_the_first_connection_waits_for_an_answer(side: str) -> None:
    """At once: the connection alone would be waited for for an hour."""
    timing = replace(QUICK, connect_s=3600)
    async with half_dead_broker() as (port, waiting):
        before = asyncio.all_tasks()
        address = BrokerAddress("127.0.0.1", port, level=5)
        opened: MqttLink | MqttInlet = (
            MqttLink(address, "r", ["a"], timing=timing)
            if side == "link"
            else MqttInlet(address, "r", Clock().wall_ns, timing=timing)
        )
        opening = asyncio.create_task(opened.__aenter__())
        await asyncio.wait_for(waiting.wait(), PATIENCE_S)
        opening.cancel()
        await asyncio.wait([opening], timeout=PATIENCE_S)
        assert opening.cancelled()
        left = {t for t in asyncio.all_tasks() - before if "handle" not in repr(t.get_coro())}
        assert left == set()


async def test_a_broker_that_stops_answering_after_the_handshake_is_an_error_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def patient(address: BrokerAddress, timeout_s: float) -> Level:
        return await mqtt_version(address, PATIENCE_S)

    monkeypatch.setattr(mqtt_module, "mqtt_version", patient)
    timing = replace(QUICK, connect_s=0.4)
    async with half_dead_broker() as (port, _):
        address = BrokerAddress("127.0.0.1", port, level=5)
        with pytest.raises(TransportError, match="connections to mqtt://127"):
            async with MqttLink(address, "r", ["a"], timing=timing):
                pass


async def test_cancelling_a_publish_that_waits_leaves_the_link_usable(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    slow = replace(QUICK, publish_s=30, keepalive_s=60)
    async with (
        Proxy(mosquitto_broker.address) as proxy,
        MqttLink(proxy.address, "r", ["a"], timing=slow) as link,
    ):
        proxy.freeze()

        async def flood() -> None:
            for seq in count():
                await link.publish("a", seq, b"x" * 4_000_000)

        flooding = asyncio.create_task(flood())
        done, _ = await asyncio.wait([flooding], timeout=0.5)  # until the buffers are full
        assert not done
        flooding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flooding
        proxy.thaw()
        assert await link.publish("a", 0, b"x") is Reason.NONE


async def test_cancelling_the_owner_closes_both_sides_cleanly(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    before = asyncio.all_tasks()
    up = asyncio.Event()
    topic = f"earlyfire/r/{shard_of('a')}/a/status"

    async def own() -> None:
        async with inlet_on(mosquitto_broker) as inlet, link_on(mosquitto_broker, "a") as link:
            await link.set_status("a", True)
            up.set()
            async for _ in inlet.arrivals():
                pass

    owner = asyncio.create_task(own())
    await asyncio.wait_for(up.wait(), PATIENCE_S)
    owner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await owner
    async with listening(mosquitto_broker, topic) as heard:
        assert await asyncio.wait_for(heard.get(), PATIENCE_S) == (topic, b"offline", True)
    assert {t for t in asyncio.all_tasks() - before if not t.done()} == set()


async def test_closing_while_the_broker_is_away_takes_no_long_time(
    mosquitto_broker: EmbeddedBroker,
) -> None:
    """Whatever else may take its time, the goodbye has a bound of its own."""
    hour = {"connect_s": 3600, "publish_s": 3600, "confirm_s": 3600, "keepalive_s": 3600}
    timing = replace(QUICK, close_s=1, **hour)
    async with asyncio.timeout(PATIENCE_S):
        async with (
            inlet_on(mosquitto_broker, timing=timing),
            MqttLink(mosquitto_broker.address, "r", ["a"], timing=timing) as link,
        ):
            await link.set_status("a", True)
            await mosquitto_broker.stop()


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs server.pem (127.0.0.1) and client.pem; other.pem is a stranger's authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        left_out("no openssl on PATH")
    assert openssl is not None
    folder = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
            "-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


@pytest.fixture(params=["anybody", "client certificate"])
async def tls_broker(
    request: pytest.FixtureRequest,
    mosquitto: str,
    certificates: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[EmbeddedBroker, int, bool]]:
    """A Mosquitto with a second, encrypted listener: broker, port, client certificate needed."""
    from earlyfire_stream.transport import broker as broker_module

    asks = request.param == "client certificate"
    port = broker_module._free_port()
    tls = (
        f"listener {port} 127.0.0.1\ncafile {certificates}/ca.pem\n"
        f"certfile {certificates}/server.pem\nkeyfile {certificates}/server.key\n"
        f"require_certificate {'true' if asks else 'false'}\n"
    )
    monkeypatch.setattr(broker_module, "_MOSQUITTO", broker_module._MOSQUITTO + tls)
    async with embedded_broker("mosquitto") as broker:
        yield broker, port, asks


async def test_frames_travel_over_tls_with_a_private_authority(
    tls_broker: tuple[EmbeddedBroker, int, bool], certificates: Path
) -> None:
    broker, port, asks = tls_broker
    options = f"ca={certificates}/ca.pem"
    if asks:
        options += f"&cert={certificates}/client.pem&key={certificates}/client.key"
    login = broker.address.login
    assert login is not None
    address = BrokerAddress.parse(
        f"mqtts://{login.user}@127.0.0.1:{port}?{options}", login.password
    )
    async with (
        MqttInlet(address, "r", Clock().wall_ns, timing=QUICK) as inlet,
        MqttLink(address, "r", ["a"], timing=QUICK) as link,
    ):
        arrivals = inlet.arrivals()
        for seq in range(3):
            assert await link.publish("a", seq, b"x" * 300_000) is Reason.NONE
            assert len((await next_of(arrivals)).payload) == 300_000
        await broker.stop()
        await broker.start()
        await publish_until_it_arrives(link, "a", count(), inlet.arrivals())


async def test_a_certificate_of_a_stranger_is_refused_with_the_remedy(
    tls_broker: tuple[EmbeddedBroker, int, bool], certificates: Path
) -> None:
    _, port, _ = tls_broker
    for options in (f"?ca={certificates}/other.pem", ""):
        address = BrokerAddress.parse(f"mqtts://u@127.0.0.1:{port}{options}", "p")
        with pytest.raises(TransportError, match=r"not trusted.*\?ca=FILE"):
            async with MqttLink(address, "r", ["a"]):
                pass


async def test_a_missing_client_certificate_is_a_clear_error(
    tls_broker: tuple[EmbeddedBroker, int, bool], certificates: Path
) -> None:
    broker, port, asks = tls_broker
    if not asks:
        return
    address = replace(broker.address, port=port, tls=True, ca=f"{certificates}/ca.pem", level=None)
    with pytest.raises(TransportError, match=r"client certificate|MQTT port"):
        async with MqttLink(address, "r", ["a"], timing=QUICK):
            pass


async def test_insecure_accepts_any_certificate(
    tls_broker: tuple[EmbeddedBroker, int, bool],
) -> None:
    broker, port, asks = tls_broker
    if asks:
        return
    address = replace(broker.address, port=port, tls=True, insecure=True)
    async with MqttLink(address, "r", ["a"], timing=QUICK) as link:
        assert await link.publish("a", 0, b"x") is Reason.NONE


async def test_mixing_up_mqtt_and_mqtts_is_a_clear_error(
    tls_broker: tuple[EmbeddedBroker, int, bool], certificates: Path
) -> None:
    broker, port, _ = tls_broker
    with pytest.raises(TransportError, match="mqtts://"):
        async with MqttLink(replace(broker.address, port=port), "r", ["a"], timing=QUICK):
            pass
    plain = replace(broker.address, tls=True, ca=f"{certificates}/ca.pem")
    with pytest.raises(TransportError, match="mqtt://"):
        async with MqttLink(plain, "r", ["a"], timing=QUICK):
            pass
