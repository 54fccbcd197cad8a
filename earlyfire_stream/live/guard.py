"""Who may look: the address to listen on, the names a browser may call us by, the token.

On this machine alone anybody may look. On any other interface a token is demanded: a browser gives
it once in a form and gets a cookie that tells nothing of it; a program sends it as Bearer. The
token comes from the environment or from a file that the environment names, never from arguments,
and stands in no log, record or answer.
"""

from __future__ import annotations

__all__ = [
    "DEFAULT_ADDRESS",
    "LiveAddress",
    "Tries",
    "cookie_for",
    "is_place",
    "needed",
    "read_token",
    "same",
]

import hashlib
import hmac
import ipaddress
import re
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from earlyfire_stream.errors import UsageError

DEFAULT_ADDRESS = "127.0.0.1:8787"
TOKEN_VARIABLE = "EARLYFIRE_LIVE_TOKEN"
TOKEN_FILE_VARIABLE = "EARLYFIRE_LIVE_TOKEN_FILE"
LEAST_TOKEN = 16
WRONG_TRIES = 10
"""A minute, of all who try; then nobody is let in for the rest of it."""
_FORM = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):)?(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True)
class LiveAddress:
    """Where the page is served. Port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> LiveAddress:
        found = _FORM.fullmatch(text)
        if found is None or int(found["port"]) > 65535:
            raise UsageError(
                f"live page at {text!r}: write HOST:PORT, such as {DEFAULT_ADDRESS} or 0.0.0.0:8787"
            )
        return cls((found["host"] or "127.0.0.1").strip("[]"), int(found["port"]))

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def listen(self) -> socket.socket:
        """A listening socket; UsageError if the address cannot be had."""
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                listener.listen(128)
            except OSError:
                listener.close()
                raise
        except OSError as why:
            raise UsageError(
                f"live page: {self.host}:{self.port} cannot be listened on: "
                f"{why.strerror or why}; choose another place, such as {self.host}:0 for any free "
                "port"
            ) from why
        listener.setblocking(False)
        return listener

    def answers_to(self, name: str) -> bool:
        """May a request call us by that Host? A stranger's name that leads here must not do.

        Names of this machine and bare addresses are safe: only a name can be made to lead
        elsewhere later. On loopback nothing but loopback is meant.
        """
        host = re.sub(r":\d*$", "", name).strip("[]").lower().rstrip(".")
        if host in ("localhost", self.host.lower()):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return not self.loopback and host == socket.gethostname().lower()
        return address.is_loopback or not self.loopback


def is_place(text: str) -> bool:
    """Does that read as HOST:PORT or PORT?"""
    return _FORM.fullmatch(text) is not None


def read_token(environ: Mapping[str, str]) -> str | None:
    """The token, None where none is set. UsageError for one that could be guessed."""
    token = environ.get(TOKEN_VARIABLE)
    source = TOKEN_VARIABLE
    if not token and (place := environ.get(TOKEN_FILE_VARIABLE)):
        source = f"{TOKEN_FILE_VARIABLE} {place}"
        try:
            token = Path(place).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as why:
            raise UsageError(f"{source}: cannot be read: {why}") from why
    if not token:
        return None
    if len(token) < LEAST_TOKEN:
        raise UsageError(
            f"{source}: the token is shorter than {LEAST_TOKEN} characters; make one with "
            "`openssl rand -hex 24`"
        )
    return token


def needed(address: LiveAddress, token: str | None) -> None:
    """UsageError if that address may not be opened without a token."""
    if token is None and not address.loopback:
        raise UsageError(
            f"a live page on {address.host} can be reached from other machines: set "
            f"{TOKEN_VARIABLE} (or {TOKEN_FILE_VARIABLE}) to a token of {LEAST_TOKEN} characters "
            "or more, such as `openssl rand -hex 24` prints"
        )


def same(one: str, other: str) -> bool:
    """Compared in constant time, whatever characters they hold."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))


def cookie_for(token: str) -> str:
    """What a browser keeps instead of the token; the same after a restart."""
    return hmac.new(token.encode(), b"earlyfire live page 1", hashlib.sha256).hexdigest()


class Tries:
    """Wrong tokens of the last minute."""

    def __init__(self) -> None:
        self._wrong: deque[float] = deque(maxlen=WRONG_TRIES)

    def exhausted(self, now: float) -> bool:
        return len(self._wrong) == WRONG_TRIES and now - self._wrong[0] < 60.0

    def wrong(self, now: float) -> None:
        self._wrong.append(now)
