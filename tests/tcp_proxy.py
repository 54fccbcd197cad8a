"""A TCP proxy for tests: cut every connection, refuse new ones, freeze, resume, count bytes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a target port. Frozen, it reads nothing and sends nothing, and
    neither side is told: what a pulled cable looks like."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.accepted = 0
        self._target_port = target_port
        self._server: asyncio.Server
        self._running = asyncio.Event()
        self._running.set()
        self._refusing = False
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self.cut()
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Reset every connection."""
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def refuse(self) -> None:
        """Reset every connection and every new one, until `resume`."""
        self._refusing = True
        await self.cut()

    def freeze(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._refusing = False
        self._running.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.accepted += 1
        up: asyncio.StreamWriter | None = None
        try:
            down, up = await asyncio.open_connection("127.0.0.1", self._target_port)
            pumps = [
                asyncio.create_task(self._pump(reader, up, "bytes_up")),
                asyncio.create_task(self._pump(down, writer, "bytes_down")),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # cut, or the target is away: the client sees a reset either way
        finally:
            self._handlers.discard(task)
            for end in (writer, up):
                if end is not None:
                    end.transport.abort()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str
    ) -> None:
        with suppress(OSError):
            while True:
                await self._running.wait()
                data = await reader.read(65_536)
                await self._running.wait()
                if not data:
                    return
                setattr(self, counter, getattr(self, counter) + len(data))
                writer.write(data)
                await writer.drain()
