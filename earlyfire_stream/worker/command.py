"""`earlyfire worker`: the process around the service. Imports without torch.

Once it listens it prints one line of JSON to standard output, `{"listening": URL, "model": NAME}`;
everything else goes to standard error. SIGTERM, SIGINT and, where guarded, the end of standard
input let it finish what is under way; a second signal ends it at once.

Exit codes: 0 stopped as told; 1 the model broke; 2 it could not begin (UsageError); 130 or 143
after a second signal.
"""

from __future__ import annotations

__all__ = ["serve", "worker"]

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Annotated

import orjson
import typer
from prometheus_client import disable_created_metrics

from earlyfire_stream.errors import UsageError
from earlyfire_stream.signals import hearing
from earlyfire_stream.worker.loading import ModelSettings, load_model
from earlyfire_stream.worker.service import KEY_VARIABLE, ModelBroken, Service, WorkerSettings

log = logging.getLogger(__name__)

MODEL_BROKE = 1


def worker(
    model: Annotated[
        str, typer.Option("--model", help="A folder, or a name on the Hugging Face hub.")
    ] = "Qwen/Qwen2.5-VL-7B-Instruct",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help=f"Where to listen; others than this machine need a key in {KEY_VARIABLE}.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8100,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bfloat16 or float32.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, cuda:1, cpu.")] = "auto",
    attention: Annotated[
        str, typer.Option("--attention", help="auto, sdpa, eager or flash_attention_2.")
    ] = "auto",
    four_bit: Annotated[bool, typer.Option("--four-bit", help="Load it in 4 bit (NF4).")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="The model's revision on the hub.")
    ] = None,
    min_visual_tokens: Annotated[
        int, typer.Option("--min-visual-tokens", help="Smaller pictures are enlarged.")
    ] = 4,
    max_visual_tokens: Annotated[
        int, typer.Option("--max-visual-tokens", help="Larger pictures are shrunk.")
    ] = 16384,
    max_batch: Annotated[
        int, typer.Option("--max-batch", help="Most requests that are answered together.")
    ] = 8,
    wait_ms: Annotated[
        float,
        typer.Option("--wait-ms", help="How long an idle model waits to fill a batch."),
    ] = 20.0,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", help="Requests that may wait; others get 503.")
    ] = 256,
    body_limit: Annotated[int, typer.Option("--body-limit", help="Most bytes of a request.")] = 32
    * 2**20,
    held_limit: Annotated[
        int, typer.Option("--held-limit", help="Most bytes of all requests; others get 503.")
    ] = 512 * 2**20,
    threads: Annotated[int, typer.Option("--threads", help="Threads that prepare pictures.")] = 2,
    stdin_guard: Annotated[
        bool, typer.Option("--stdin-guard", help="End when standard input closes.")
    ] = False,
) -> None:
    """Serve a Qwen-VL model over HTTP, for `--engine hf` and any OpenAI client."""
    try:
        which = ModelSettings(
            model=model,
            dtype=dtype,
            device=device,
            attention=attention,
            four_bit=four_bit,
            min_visual_tokens=min_visual_tokens,
            max_visual_tokens=max_visual_tokens,
            revision=revision,
        )
    except ValueError as why:
        raise UsageError(str(why)) from why
    serve(
        WorkerSettings(
            which,
            host=host,
            port=port,
            max_batch=max_batch,
            wait_ms=wait_ms,
            max_waiting=max_waiting,
            body_limit=body_limit,
            held_limit=held_limit,
            threads=threads,
            stdin_guard=stdin_guard,
            key=os.environ.get(KEY_VARIABLE),
        )
    )


def serve(settings: WorkerSettings) -> None:
    """Serve until told to stop. UsageError if it cannot begin; SystemExit(1) if the model broke."""
    code = 0
    busy = False
    try:
        busy = asyncio.run(_serve(settings))
    except ModelBroken as why:
        _say(f"earlyfire worker: {why}")
        code = MODEL_BROKE
    if busy:
        # Python would wait for its thread, or pull the ground from under it.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


async def _serve(settings: WorkerSettings) -> bool:
    """True if the model's thread is still at work."""
    # each counter has a second series otherwise, which nobody reads
    disable_created_metrics()  # type: ignore[no-untyped-call]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    signalled = False

    def told(number: int) -> None:
        nonlocal signalled
        if signalled:  # a supervisor closes standard input and signals: that is one wish
            os._exit(128 + number)
        signalled = True
        log.info("told to stop by %s", signal.Signals(number).name)
        loop.call_soon_threadsafe(stop.set)

    with hearing(told, done=lambda: True):  # afterwards the loop that is told is closed
        async with Service(settings, lambda: load_model(settings.model, _say)) as service:
            line = {"listening": service.url, "model": settings.name}
            print(orjson.dumps(line).decode(), flush=True)
            if settings.stdin_guard:
                guard = threading.Thread(
                    target=_guard, args=(loop, stop), name="stdin", daemon=True
                )
                guard.start()
            await service.work(stop)
    return service.busy


def _guard(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Nothing is expected from standard input but its end: whoever started us has gone."""
    while os.read(0, 4096):
        pass
    try:
        loop.call_soon_threadsafe(stop.set)
    except RuntimeError:
        log.info("standard input closed after the service did")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
