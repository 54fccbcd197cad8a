"""`make speed`: what the harness itself costs, against a baseline measured in the same run.

Nothing here is asserted: machines differ. Ratios travel better than figures, so each figure stands
beside the same work done by the bare library.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import aiomqtt
import cv2
import numpy as np
import orjson
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from earlyfire_stream import engines, records, run
from earlyfire_stream.clock import Clock, virtual_run
from earlyfire_stream.consumer import Consumer, _decode
from earlyfire_stream.contract import prompt
from earlyfire_stream.engines.base import Check, Reply, Request, Traits
from earlyfire_stream.frames import Capture, frame_topic, wrap
from earlyfire_stream.live.tally import Tally
from earlyfire_stream.metrics.endpoint import open_text
from earlyfire_stream.metrics.observer import Metrics
from earlyfire_stream.records import AlarmRecord, Answer, CameraPlan, FrameRecord, Shot, Snapshot
from earlyfire_stream.scenario import models
from earlyfire_stream.scenario.load import loads
from earlyfire_stream.tokens import fit
from earlyfire_stream.transport.address import BrokerAddress
from earlyfire_stream.transport.broker import embedded_broker
from earlyfire_stream.transport.mqtt import MqttInlet
from earlyfire_stream.verdict import CoordSpace, Fate, Reason, Verdict

RUN = "speed"
FRAMES = 4000
CAMERAS = 20
ROUNDS = 3
console = Console()


def noise_jpeg(width: int, height: int, wanted_bytes: int) -> bytes:
    """A picture of about that size: noise, its strength found by bisection."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (height, width, 3))
    low, high = 0.0, 60.0
    jpeg = b""
    for _ in range(12):
        strength = (low + high) / 2
        image = np.clip(128 + noise * strength, 0, 255).astype(np.uint8)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        low, high = (strength, high) if len(jpeg) < wanted_bytes else (low, strength)
    return jpeg


class NullEngine:
    """Says no at once."""

    traits = Traits("null", "null", needs_pixels=False)

    async def infer(self, request: Request) -> Reply:
        now = time.time_ns()
        return Reply('{"has_smoke":false,"bbox":null}', "stop", now, now, request.visual_tokens)

    async def check(self) -> list[Check]:
        return []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


# --- intake --------------------------------------------------------------------------------------


def flood(host: str, port: int, user: str, password: str, jpeg: bytes) -> None:
    """A process of its own that publishes as fast as the broker takes it."""

    async def send() -> None:
        async with aiomqtt.Client(host, port, username=user, password=password) as client:
            client.pending_calls_threshold = 1_000_000
            for number in range(FRAMES):
                camera = f"cam-{number % CAMERAS:02}"
                seq = number // CAMERAS
                now = time.time_ns()
                capture = Capture(RUN, camera, seq, float(seq), now, now)
                await client.publish(frame_topic(RUN, camera), wrap(jpeg, capture), qos=0)

    asyncio.run(send())


async def flooded(address: BrokerAddress, jpeg: bytes) -> None:
    login = address.login
    assert login is not None
    process = multiprocessing.get_context("spawn").Process(
        target=flood, args=(address.host, address.port, login.user, login.password, jpeg)
    )
    process.start()
    await asyncio.to_thread(process.join)


async def bare_intake(address: BrokerAddress, jpeg: bytes) -> tuple[float, float]:
    """(messages/s, CPU ms a message) of a subscriber that only counts."""
    login = address.login
    assert login is not None
    stamps: list[float] = []
    async with aiomqtt.Client(
        address.host, address.port, username=login.user, password=login.password
    ) as client:
        await client.subscribe(f"earlyfire/{RUN}/#")

        async def count() -> None:
            async for _ in client.messages:
                stamps.append(time.perf_counter())

        counting = asyncio.create_task(count())
        cpu = time.process_time()
        await flooded(address, jpeg)
        await settled(lambda: len(stamps))
        cpu = time.process_time() - cpu
        counting.cancel()
    return (len(stamps) - 1) / (stamps[-1] - stamps[0]), cpu / len(stamps) * 1e3


async def consumer_intake(address: BrokerAddress, jpeg: bytes) -> tuple[float, float]:
    """The same of our consumer: header, gaps, sampling, mailbox, engine, records on disk."""
    loaded = loads(
        "{earlyfire: 1, name: speed, duration: 1h, cameras: [{id: none, source: {kind: synthetic}}]"
        ", sampling: {policy: fixed, idle: 5s}}"
    )
    clock = Clock()
    stamps: list[float] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = await stack.enter_async_context(records.Log(folder / "records.jsonl"))
        inlet = await stack.enter_async_context(MqttInlet(address, RUN, clock.wall_ns))

        def emit(record: FrameRecord | AlarmRecord) -> None:
            log.write(record)
            stamps.append(time.perf_counter())

        consumer = Consumer(RUN, loaded.scenario, {}, inlet, NullEngine(), clock, emit)
        watching = asyncio.create_task(consumer.watch())
        cpu = time.process_time()
        await flooded(address, jpeg)
        await settled(lambda: consumer.received)
        cpu = time.process_time() - cpu
        consumer.stop()
        await watching
    return (consumer.received - 1) / (stamps[-1] - stamps[0]), cpu / consumer.received * 1e3


async def settled(count: object) -> None:
    """Return when a count has stood still for a while."""
    assert callable(count)
    last = -1
    while count() != last:
        last = count()
        await asyncio.sleep(0.5)


async def intake(table: Table) -> float:
    """Gives the CPU ms that a frame costs."""
    jpeg = noise_jpeg(1280, 720, 100_000)
    bare: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    async with embedded_broker("auto") as broker:
        for _ in range(ROUNDS):
            bare.append(await bare_intake(broker.address, jpeg))
            ours.append(await consumer_intake(broker.address, jpeg))
        kind = broker.kind
    bare_rate, our_rate = (statistics.median(r for r, _ in rows) for rows in (bare, ours))
    ratio = statistics.median(o[0] / b[0] for o, b in zip(ours, bare, strict=True))
    table.add_row(
        f"intake, {len(jpeg) / 1000:.0f} KB frames, {kind}",
        f"{our_rate:,.0f} frames/s",
        f"{bare_rate:,.0f} frames/s, bare aiomqtt",
        f"{ratio:.2f}",
    )
    bare_cpu, our_cpu = (statistics.median(c for _, c in rows) for rows in (bare, ours))
    table.add_row(
        "CPU a frame, socket to record",
        f"{our_cpu:.3f} ms",
        f"{bare_cpu:.3f} ms, bare aiomqtt",
        f"{our_cpu - bare_cpu:+.3f} ms",
    )
    return our_cpu


# --- metrics -------------------------------------------------------------------------------------


async def observing(table: Table, frame_ms: float, cameras: int = 200) -> None:
    """What counting adds to a frame, and what a scrape takes from the loop that it runs beside."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, camera_series=cameras)
    names = [f"cam-{number:05}" for number in range(cameras)]
    empty = Snapshot(0, 0, 0, 0, None, 0.0, 1, 0, {}, frozenset(names))
    metrics.begin([CameraPlan(name, cadence_s=1.0) for name in names], Clock(), lambda: empty)
    answer = Answer(1_100, 1_200, 1_300, (1288, 728), 1196, 1300, 12, verdict=Verdict(False))
    shots, sampled, answered = [], [], []
    for number in range(FRAMES * 5):
        name, seq = names[number % cameras], number // cameras
        shots.append(Shot(name, seq, float(seq), 1_000, 0.001, size_bytes=100_000))
        told = FrameRecord(
            name, seq, float(seq), 1_000, Fate.SAMPLED_OUT, Reason.IDLE,
            received_ns=1_050, published_ns=1_010,
        )  # fmt: skip
        sampled.append(told)
        answered.append(replace(told, fate=Fate.ANSWERED, reason=Reason.NONE, answer=answer))

    def cpu_us(told: Callable[[Any], None], items: Iterable[object]) -> float:
        began = time.process_time()
        for item in items:
            told(item)
        return (time.process_time() - began) / len(shots) * 1e6

    rounds = [
        (
            cpu_us(metrics.shot, shots),
            cpu_us(metrics.frame, sampled),
            cpu_us(metrics.frame, answered),
        )
        for _ in range(ROUNDS)
    ]
    shot, left, looked = (statistics.median(column) for column in zip(*rounds, strict=True))
    # In `intake` every fifth frame is looked at.
    mixed = shot + left * 4 / 5 + looked / 5
    for what, us in (
        ("sampled out", shot + left),
        ("answered", shot + looked),
        ("every fifth answered", mixed),
    ):
        table.add_row(
            f"metrics, CPU a frame, {what}",
            f"{us:.2f} µs",
            f"{frame_ms * 1e3:.0f} µs, socket to record",
            f"{us / frame_ms / 1e3:.2%}",
        )

    enough = threading.Event()
    took: list[float] = []

    def scrape() -> None:
        while not enough.wait(0.2):
            began = time.perf_counter()
            open_text(registry)
            took.append((time.perf_counter() - began) * 1e3)

    async def lags() -> list[float]:
        found = []
        for _ in range(1000):
            due = time.perf_counter() + 0.002
            await asyncio.sleep(0.002)
            found.append((time.perf_counter() - due) * 1e3)
        return found

    alone = await lags()
    thread = threading.Thread(target=scrape)
    thread.start()
    beside = await lags()
    enough.set()
    thread.join()
    table.add_row(
        f"timer lateness, scraped 5 times a second ({statistics.median(took):.0f} ms each)",
        spread(beside),
        f"{spread(alone)}, not scraped",
        "",
    )


# --- replay --------------------------------------------------------------------------------------


async def lateness(cameras: int, folder: Path) -> tuple[list[float], list[float]]:
    """(ours, bare timers): ms that frames of a fleet at 1 fps were late, 100 KB over Mosquitto."""
    seconds = 15
    frames = folder / "frames"
    if not frames.exists():
        frames.mkdir()
        jpeg = noise_jpeg(1280, 720, 100_000)
        for number in range(seconds):
            (frames / f"{number:03}.jpg").write_bytes(jpeg)
    loaded = loads(
        f"""
        earlyfire: 1
        name: replay
        duration: {seconds}s
        connections: shared
        cameras:
          - id: cam
            count: {cameras}
            cadence: 1s
            source: {{kind: images, path: {frames}, interval: 1s}}
        """
    )
    async with embedded_broker("auto") as broker:
        options = run.Options(broker=broker.address, out=folder)
        outcome = await run.play_cameras(loaded, options, [Tally()], asyncio.Event())
    log = outcome.folder / records.CAMERAS_LOG
    ours = [shot.late_s * 1e3 for shot in records.read_shots(log)]

    loop = asyncio.get_running_loop()
    bare: list[float] = []
    start = loop.time() + 0.5

    async def tick(phase: float) -> None:
        for second in range(seconds):
            due = start + phase + second
            await asyncio.sleep(due - loop.time())
            bare.append((loop.time() - due) * 1e3)

    await asyncio.gather(*(tick(n / cameras) for n in range(cameras)))
    return ours, bare


def spread(values: Sequence[float]) -> str:
    p50, p99, top = np.percentile(values, [50, 99, 100])
    return f"{p50:.1f} / {p99:.1f} / {top:.1f} ms"


# --- decoding ------------------------------------------------------------------------------------


def decoding(table: Table) -> None:
    cv2.setNumThreads(1)
    for width, height, size in ((1280, 720, 134_000), (1920, 1080, 249_000)):
        jpeg = noise_jpeg(width, height, size)
        to_width, to_height, _ = fit(width, height, 256, 1280)
        ours, bare = [], []
        for _ in range(ROUNDS):
            ours.append(per_second(lambda: _decode(jpeg, to_width, to_height)))  # noqa: B023
            bare.append(per_second(lambda: cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)))  # noqa: B023
        table.add_row(
            f"decode + resize, {width}x{height}",
            f"{statistics.median(ours):,.0f} frames/s",
            f"{statistics.median(bare):,.0f} frames/s, cv2.imdecode alone",
            f"{statistics.median(o / b for o, b in zip(ours, bare, strict=True)):.2f}",
        )


def per_second(work: object, seconds: float = 1.0) -> float:
    assert callable(work)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - began)


# --- virtual time --------------------------------------------------------------------------------


def virtual(table: Table, folder: Path) -> None:
    cameras, seconds = 1000, 60
    loaded = loads(
        f"""
        earlyfire: 1
        name: virtual
        duration: {seconds}s
        clock: virtual
        cameras:
          - id: cam
            count: {cameras}
            cadence: 1s
            source: {{kind: synthetic, size: [320, 240]}}
            vary: {{distinct: 1}}
        sampling: {{policy: fixed, idle: 5s}}
        engine: {{name: simulated, profile: spec-gpu, concurrency: 8, mailbox: 2000}}
        """
    )

    async def play() -> run.Outcome:
        return await run.play(loaded, run.Options(out=folder), [], asyncio.Event())

    began = time.perf_counter()
    outcome = virtual_run(play())
    ours = cameras * seconds / (time.perf_counter() - began)
    assert outcome.score is not None

    async def bare() -> None:
        async def tick() -> None:
            for _ in range(seconds):
                await asyncio.sleep(1)

        await asyncio.gather(*(tick() for _ in range(cameras)))

    began = time.perf_counter()
    virtual_run(bare())
    timers = cameras * seconds / (time.perf_counter() - began)
    table.add_row(
        f"virtual time, {cameras} cameras, scoring included",
        f"{ours:,.0f} frames/s",
        f"{timers:,.0f} bare timers/s",
        f"{ours / timers:.2f}",
    )


# --- client overhead -----------------------------------------------------------------------------

AT_A_TIME = 32
LOOKS = 3000
ANSWER = ("{", '"', "has", "_smoke", '":', " false", ",", ' "bbox', "_2d", '":', " null", "}")


def null_reply(streamed: bool) -> bytes:
    """What vLLM sends for a short no, in one piece."""

    def chunk(said: dict[str, object], finish: str | None) -> dict[str, object]:
        choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}
        return {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1,
                "model": "null", "choices": [choice]}  # fmt: skip

    usage = {"prompt_tokens": 1300, "completion_tokens": len(ANSWER), "total_tokens": 1312}
    if not streamed:
        message = {"role": "assistant", "content": "".join(ANSWER)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = orjson.dumps({"model": "null", "choices": [choice], "usage": usage})
        head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\n" + head.encode() + body
    events = [chunk({"role": "assistant", "content": ""}, None)]
    events += [chunk({"content": token}, None) for token in ANSWER]
    events += [chunk({"content": ""}, "stop"), chunk({}, None) | {"choices": [], "usage": usage}]
    parts = [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]
    parts.append(b"data: [DONE]\n\n")
    head = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\n" + head.encode() + chunks + b"0\r\n\r\n"


class NullServer(asyncio.Protocol):
    """Counts a body's bytes and answers: as little as a server can do."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply
        self.head = b""
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.left == 0:
            self.head += data
            head, mark, body = self.head.partition(b"\r\n\r\n")
            if not mark:
                return
            self.head = b""
            if head.startswith(b"GET"):
                models = b'{"object":"list","data":[{"id":"null"}]}'
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(models), models)
                )
                return
            length = next(
                line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            self.left, data = int(length.split(b":")[1]), body
        self.left -= len(data)
        if self.left == 0:
            self.transport.write(self.reply)


def serve_null(streamed: bool, ports: multiprocessing.Queue[int]) -> None:
    """A process of its own."""

    async def serve() -> None:
        reply = null_reply(streamed)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: NullServer(reply), "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def many(look: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """(requests/s, CPU ms a request) with so many at a time."""
    left = iter(range(LOOKS))

    async def work() -> None:
        for _ in left:
            await look()

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    cpu = time.process_time() - cpu
    return LOOKS / (time.perf_counter() - began), cpu / LOOKS * 1e3


async def overhead(url: str, jpeg: bytes, streamed: bool, table: Table) -> None:
    """The openai engine beside aiohttp alone: the same picture, prompt and fields."""
    asked = prompt("v1", CoordSpace.RESIZED_ABS)
    clock = Clock()
    settings = models.Engine(name="openai", url=url, options={"coord_space": "resized_abs"})
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "encoding": [], "bare": []}
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(engines.create(settings, clock))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )

        def body() -> dict[str, object]:
            uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
            picture = {"type": "image_url", "image_url": {"url": uri}}
            text = {"type": "text", "text": asked.user(1288, 728)}
            form = {"name": "verdict", "schema": asked.schema, "strict": True}
            return {
                "model": "null",
                "messages": [
                    {"role": "system", "content": asked.system},
                    {"role": "user", "content": [picture, text]},
                ],
                "max_tokens": 96, "temperature": 0.0, "top_p": 1.0, "stream": True, "seed": 0,
                "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 5,
                "response_format": {"type": "json_schema", "json_schema": form},
            }  # fmt: skip

        async def ours() -> None:
            request = Request(
                camera="cam", seq=0, captured_at=0.0, image=None, jpeg=jpeg, visual_tokens=1196,
                system=asked.system, user=asked.user(1288, 728), schema=asked.schema,
                deadline_ns=clock.wall_ns() + 30_000_000_000,
            )  # fmt: skip
            reply = await engine.infer(request)
            assert reply.output_tokens == len(ANSWER)

        async def encoding() -> None:
            async with session.post(f"{url}/chat/completions", json=body()) as response:
                await response.read()

        ready = orjson.dumps(body())
        headers = {"Content-Type": "application/json"}

        async def bare() -> None:
            async with session.post(
                f"{url}/chat/completions", data=ready, headers=headers
            ) as response:
                await response.read()

        for _ in range(ROUNDS):
            for name, look in (("ours", ours), ("encoding", encoding), ("bare", bare)):
                seconds[name].append(await many(look))
    told = {
        name: (statistics.median(r for r, _ in found), statistics.median(c for _, c in found))
        for name, found in seconds.items()
    }
    for name, what in (("encoding", "encoding each image"), ("bare", "body encoded before")):
        table.add_row(
            f"openai engine, 100 KB images, {'a stream' if streamed else 'one object'} back",
            f"{told['ours'][0]:,.0f} requests/s, {told['ours'][1]:.2f} CPU ms",
            f"{told[name][0]:,.0f} requests/s, {told[name][1]:.2f} CPU ms, aiohttp, {what}",
            f"{told['ours'][0] / told[name][0]:.2f}",
        )


def client_overhead(table: Table) -> None:
    jpeg = noise_jpeg(1280, 720, 100_000)
    spawn = multiprocessing.get_context("spawn")
    for streamed in (True, False):
        ports = spawn.Queue()
        process = spawn.Process(target=serve_null, args=(streamed, ports), daemon=True)
        process.start()
        try:
            url = f"http://127.0.0.1:{ports.get()}/v1"
            asyncio.run(overhead(url, jpeg, streamed, table))
        finally:
            process.terminate()
            process.join()


def main() -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", title="harness speed")
    for title in ("", "ours", "baseline, same run", "ratio"):
        table.add_column(title, overflow="fold")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        console.print("intake: our consumer and a bare subscriber in turn …")
        frame_ms = asyncio.run(intake(table))
        console.print("metrics …")
        asyncio.run(observing(table, frame_ms))
        for cameras in (50, 200):
            console.print(f"replay lateness, {cameras} cameras …")
            ours, bare = asyncio.run(lateness(cameras, folder))
            table.add_row(
                f"lateness p50/p99/max, {cameras} cameras at 1 fps",
                spread(ours),
                f"{spread(bare)}, bare timers",
                "",
            )
        console.print("decoding …")
        decoding(table)
        console.print("client overhead …")
        client_overhead(table)
        console.print("virtual time …")
        virtual(table, folder)
    console.print(table)


if __name__ == "__main__":
    main()
