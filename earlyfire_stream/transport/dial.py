"""A TCP connection whose making holds up no thread.

When a broker is away hundreds of clients try to reach it, each for seconds. In the event loop's
pool of threads they would take every one of them, and that pool also decodes pictures.
"""

from __future__ import annotations

__all__ = ["dial", "readable", "secured"]

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_NAMES = ThreadPoolExecutor(1, thread_name_prefix="names")
"""A name service that hangs holds this thread, and whoever asks for a name; nobody else."""

_Places = list[tuple[Any, Any, int, str, Any]]


async def dial(host: str, port: int) -> socket.socket:
    """A connected socket that does not block, to the first place of `host` that answers; OSError.

    The caller bounds the time. Cancelled, it leaves nothing behind.
    """
    loop = asyncio.get_running_loop()
    trouble = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in await _places(host, port):
        end = socket.socket(family, kind, protocol)
        try:
            end.setblocking(False)
            await loop.sock_connect(end, place)
        except OSError as why:
            end.close()
            trouble = why
        except BaseException:
            end.close()
            raise
        else:
            return end
    raise trouble


async def secured(end: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """TLS over a connected socket, which is closed if that fails: OSError (ssl.SSLError is one)."""
    loop = asyncio.get_running_loop()
    try:
        sealed = context.wrap_socket(end, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        end.close()
        raise
    try:
        while True:
            try:
                sealed.do_handshake()
            except ssl.SSLWantReadError:
                await readable(sealed)
            except ssl.SSLWantWriteError:
                await _until(sealed, loop.add_writer, loop.remove_writer)
            else:
                return sealed
    except BaseException:
        sealed.close()
        raise


async def readable(end: socket.socket) -> None:
    """Return when something can be read, with nothing read: cancelling loses no byte."""
    loop = asyncio.get_running_loop()
    await _until(end, loop.add_reader, loop.remove_reader)


async def _until(
    end: socket.socket, watch: Callable[..., None], forget: Callable[[Any], bool]
) -> None:
    ready = asyncio.Event()
    watch(end, ready.set)
    try:
        await ready.wait()
    finally:
        forget(end)


async def _places(host: str, port: int) -> _Places:
    try:
        # Numbers need no name service.
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_NAMES, _looked_up, host, port)


def _looked_up(host: str, port: int) -> _Places:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
