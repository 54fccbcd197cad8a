"""What the worker tells Prometheus. Durations in seconds; no label grows with use.

Everything is in a registry of its own. Writing it out takes milliseconds: do it in a thread.
"""

from __future__ import annotations

__all__ = ["Metrics", "Outcome"]

from collections.abc import Mapping, Sequence
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from earlyfire_stream import __version__
from earlyfire_stream.worker.ask import Card, Timings

_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_SECONDS = tuple(0.001 * 2**n for n in range(17))
"""1 ms to 65 s, doubling: queueing, one forward pass, a long answer."""


class Outcome(StrEnum):
    """What became of a request to /v1/chat/completions."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    OVERLOADED = "overloaded"
    LOADING = "loading"
    STOPPING = "stopping"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    """Its client left, or read so slowly that it was left."""
    FAILED = "failed"


class Metrics:
    """Watches the batcher and the service; the gauges are set before each scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        reg = self.registry
        ProcessCollector(registry=reg)
        requests = Counter(
            "earlyfire_worker_requests", "Chat requests by outcome", ["outcome"], registry=reg
        )
        self._requests = {outcome: requests.labels(outcome.value) for outcome in Outcome}
        self._rows = Histogram(
            "earlyfire_worker_batch_rows",
            "Requests answered together",
            buckets=_ROWS,
            registry=reg,
        )

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(
                f"earlyfire_worker_{name}_seconds", text, buckets=_SECONDS, registry=reg
            )

        self._queue = seconds("queue", "Waiting of a request, preprocessing left out")
        self._preprocess = seconds("preprocess", "Decoding, resizing and tokenising of a request")
        self._prefill = seconds("prefill", "The pass over the prompts of a batch")
        self._decode = seconds("decode", "What a batch took after that pass")
        tokens = Counter("earlyfire_worker_tokens", "Tokens by kind", ["kind"], registry=reg)
        self._tokens = {
            kind: tokens.labels(kind) for kind in ("prompt", "visual", "output", "forced")
        }
        prefix = Counter(
            "earlyfire_worker_prefix_cache",
            "Prompts whose instructions were in the cache, or not",
            ["result"],
            registry=reg,
        )
        self._prefix = {result: prefix.labels(result) for result in ("hit", "miss")}
        self._splits = Counter(
            "earlyfire_worker_oom_splits", "Batches that did not fit into memory", registry=reg
        )
        self._dropped = Counter(
            "earlyfire_worker_dropped_rows",
            "Rows given up in mid-answer, their client gone",
            registry=reg,
        )
        self._memory = Gauge(
            "earlyfire_worker_memory_bytes", "Memory of the GPU", ["kind"], registry=reg
        )
        self.inflight = Gauge(
            "earlyfire_worker_inflight_requests", "Requests with the model", registry=reg
        )
        self.waiting = Gauge(
            "earlyfire_worker_waiting_requests", "Requests before the model", registry=reg
        )
        self.row_limit = Gauge(
            "earlyfire_worker_batch_row_limit",
            "Most rows a batch may have now; fewer after memory ran out",
            registry=reg,
        )
        self.ready = Gauge("earlyfire_worker_ready", "1 while it takes requests", registry=reg)
        self._info = Info("earlyfire_worker", "What is served, and by what", registry=reg)
        self._info.info({"version": __version__})

    def request(self, outcome: Outcome) -> None:
        self._requests[outcome].inc()

    def loaded(self, name: str, card: Card) -> None:
        """`name` as clients know it; the card may know a folder of this host."""
        self._info.info(
            {
                "version": __version__,
                "model": name,
                "family": card.family,
                "dtype": card.dtype,
                "device": card.device,
                "attention": card.attention,
            }
        )

    def memory(self, sizes: Mapping[str, int]) -> None:
        """Of `Brain.memory`; nothing is told where nothing is known."""
        for kind, size in sizes.items():
            self._memory.labels(kind).set(size)

    # --- the batcher's Watcher ---

    def prepared(self, took_s: float) -> None:
        self._preprocess.observe(took_s)

    def batch_began(self, rows: int, queued_s: Sequence[float]) -> None:
        self._rows.observe(rows)
        for one in queued_s:
            self._queue.observe(one)

    def batch_ended(self, timings: Timings) -> None:
        self._prefill.observe(timings.prompt_s)
        self._decode.observe(timings.predicted_s)
        self._tokens["prompt"].inc(timings.prompt_tokens)
        self._tokens["visual"].inc(timings.visual_tokens)
        self._tokens["output"].inc(timings.generated_tokens)
        self._tokens["forced"].inc(timings.forced_tokens)
        self._prefix["hit"].inc(timings.prefix_hits)
        self._prefix["miss"].inc(timings.prefix_misses)
        self._dropped.inc(len(timings.dropped_rows))

    def split(self) -> None:
        self._splits.inc()

    def text(self) -> bytes:
        """Prometheus' text form, version 0.0.4."""
        return generate_latest(self.registry)
