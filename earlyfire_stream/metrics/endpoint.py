"""Serves a registry over HTTP from threads of its own, and writes it to a file.

Whoever asks for OpenMetrics, as Prometheus does, gets exemplars and creation times; a person with
a browser gets the plain text form without them.
"""

from __future__ import annotations

__all__ = ["Endpoint", "open_text", "parse_place", "plain_text", "registry_of_process", "write"]

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, ThreadingWSGIServer
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from earlyfire_stream.errors import RunFolderError, UsageError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
PATIENCE_S = 10.0
"""How long a client may take to ask."""
OPENMETRICS = "application/openmetrics-text"


def registry_of_process() -> CollectorRegistry:
    """A registry of our own that knows this process: memory, CPU, files, garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def parse_place(text: str) -> tuple[str, int]:
    """`9464`, `0.0.0.0:9464` or `[::1]:9464`; without a host this machine alone can scrape."""
    host, _, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOOPBACK
    if not number.isascii() or not number.isdigit() or int(number) > 65535:
        raise UsageError(f"--metrics {text}: write a port or host:port, such as 9464")
    return host, int(number)


class _Plain:
    """A registry without what the plain text form would show as metrics of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if s.name != metric.name + "_created"]
            yield metric


def _plain(registry: CollectorRegistry) -> CollectorRegistry:
    plain = CollectorRegistry()
    plain.register(_Plain(registry))
    return plain


def plain_text(registry: CollectorRegistry) -> bytes:
    """Prometheus' text form, version 0.0.4."""
    # Our names are valid in every form. Told to escape others, the library looks at each letter
    # of each line, which takes twice as long.
    return generate_latest(_plain(registry), openmetrics.ALLOWUTF8)


def open_text(registry: CollectorRegistry) -> bytes:
    """OpenMetrics 1.0: with exemplars and creation times."""
    text: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
        registry, openmetrics.ALLOWUTF8
    )
    return text


def write(path: Path, registry: CollectorRegistry) -> None:
    """Write what a scraper would see now, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(plain_text(registry))
        temporary.replace(path)
    except OSError as why:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{path}: cannot be written: {why.strerror}") from why


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""


class _Server(ThreadingWSGIServer):
    allow_reuse_port = False  # two runs on one port would share the scrapes between them

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or never asked is its own business."""
        log.debug("a scrape from %s came to nothing", client_address, exc_info=True)


class Endpoint:
    """Serves `registry` at /metrics while it is entered; the port is taken when it is made."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """UsageError if that address cannot be listened on. Port 0 takes a free one."""

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            status, kind = "200 OK", CONTENT_TYPE_PLAIN_0_0_4
            if environ["PATH_INFO"] not in ("/metrics", "/"):
                status, text = "404 Not Found", b"look at /metrics\n"
            elif environ["REQUEST_METHOD"] != "GET":
                status, text = "405 Method Not Allowed", b"only GET\n"
            elif OPENMETRICS in environ.get("HTTP_ACCEPT", ""):
                kind, text = openmetrics.CONTENT_TYPE_LATEST, open_text(registry)
            else:
                text = plain_text(registry)
            start_response(status, [("Content-Type", kind)])
            return [text]

        try:
            family, *_, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            kind = type("_ServerOfFamily", (_Server,), {"address_family": family})
            self._server: WSGIServer = make_server(
                str(address[0]), port, answer, server_class=kind, handler_class=_Handler
            )
        except OSError as why:
            told = why.strerror or os.strerror(why.errno or 0)
            raise UsageError(
                f"--metrics {host}:{port}: cannot be listened on: {told}; take another port"
            ) from why
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        told = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{told}:{port}/metrics"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
