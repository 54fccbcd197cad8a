"""Where the broker is, and a first handshake with it: does it answer, let us in, speak MQTT 5?

The handshake is a bare CONNECT and CONNACK of our own because the client library hides what went
wrong: a broker that speaks another version, or none, looks to it like a slow one.
"""

from __future__ import annotations

__all__ = ["BrokerAddress", "Login", "mqtt_version", "read_password"]

import asyncio
import re
import secrets
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from earlyfire_stream.errors import TransportError, UsageError

PASSWORD_VARIABLE = "EARLYFIRE_MQTT_PASSWORD"
_FORM = "mqtt[s]://[user@]host[:port][?ca=FILE&cert=FILE&key=FILE&insecure=yes&version=5]"
_PASSWORD_REMEDY = f"give it in the environment as {PASSWORD_VARIABLE} or with --password-file"

Level = Literal[4, 5]
"""Protocol level on the wire: 4 is MQTT 3.1.1, 5 is MQTT 5."""
_VERSIONS: dict[str, Level] = {"5": 5, "3.1.1": 4}
_NAMES = {level: name for name, level in _VERSIONS.items()}


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password; neither repr nor str shows the password."""

    user: str
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """One broker. `str()` gives an address that `parse` reads, without the password."""

    host: str
    port: int
    login: Login | None = None
    tls: bool = False
    ca: str | None = None
    """PEM file of the authority that signed the broker's certificate; None: the system's."""
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    """Accept any certificate: encrypted, but nobody knows with whom."""
    level: Level | None = None
    """`version=` of the address; None: find out."""

    @classmethod
    def parse(cls, text: str, password: str | None = None) -> BrokerAddress:
        """Read an address; UsageError says what is wrong and what to write instead."""
        shown = re.sub(r"//[^/]*@", "//…@", text)  # never repeat a password in a message
        if "://" not in text:
            raise UsageError(f"broker {shown!r} has no scheme; write {_FORM}")
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError as why:
            raise UsageError(f"broker {shown!r} cannot be read; write {_FORM}") from why
        if url.password is not None:
            raise UsageError(
                f"broker {shown!r}: a password in the address ends up in logs and process lists; "
                f"{_PASSWORD_REMEDY}"
            )
        if url.scheme not in ("mqtt", "mqtts"):
            raise UsageError(f"broker {shown!r}: scheme {url.scheme!r} is not mqtt or mqtts")
        if not url.hostname:
            raise UsageError(f"broker {shown!r} names no host; write {_FORM}")
        if url.path not in ("", "/") or url.fragment:
            raise UsageError(f"broker {shown!r}: nothing may follow the port; write {_FORM}")
        if port == 0:
            raise UsageError(f"broker {shown!r}: port 0 cannot be reached")
        user = unquote(url.username) if url.username else None
        if password is not None and user is None:
            raise UsageError(f"a password without a user; write mqtt://USER@{url.hostname}")
        tls = url.scheme == "mqtts"
        options = _options(url.query, shown)
        version = options.pop("version", None)
        if version not in (None, *_VERSIONS):
            raise UsageError(f"broker {shown!r}: version is 5 or 3.1.1, not {version!r}")
        if options and not tls:
            raise UsageError(f"broker {shown!r}: {', '.join(options)} only with mqtts://")
        if ("cert" in options) != ("key" in options):
            raise UsageError(f"broker {shown!r}: cert and key belong together")
        insecure = options.get("insecure", "no")
        if insecure not in ("yes", "no"):
            raise UsageError(f"broker {shown!r}: insecure is yes or no, not {insecure!r}")
        return cls(
            host=url.hostname,
            port=port or (8883 if tls else 1883),
            login=None if user is None else Login(user, password or ""),
            tls=tls,
            ca=options.get("ca"),
            cert=options.get("cert"),
            key=options.get("key"),
            insecure=insecure == "yes",
            level=None if version is None else _VERSIONS[version],
        )

    def __str__(self) -> str:
        user = f"{quote(self.login.user, safe='')}@" if self.login else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        options = [
            f"{name}={quote(value)}"
            for name, value in (("ca", self.ca), ("cert", self.cert), ("key", self.key))
            if value is not None
        ] + ["insecure=yes"] * self.insecure
        options += [f"version={name}" for name, level in _VERSIONS.items() if level == self.level]
        query = "?" + "&".join(options) if options else ""
        return f"mqtt{'s' * self.tls}://{user}{host}:{self.port}{query}"

    def with_password(self, password: str) -> BrokerAddress:
        if self.login is None:
            raise UsageError(f"a password without a user; write mqtt://USER@{self.host}")
        return replace(self, login=replace(self.login, password=password))

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS. UsageError where a file cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as why:  # ssl.SSLError is one
            raise UsageError(f"ca={self.ca}: no usable PEM file ({_words(why)})") from why
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as why:
                raise UsageError(
                    f"cert={self.cert}, key={self.key}: no usable pair of PEM files ({_words(why)})"
                ) from why
        return context


def _options(query: str, shown: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("ca", "cert", "key", "insecure", "version"):
            raise UsageError(f"broker {shown!r}: unknown option {name!r}; write {_FORM}")
        if name in options:
            raise UsageError(f"broker {shown!r}: {name} is given twice")
        if name == "insecure" and value in ("", "1", "true"):
            value = "yes"
        if not value:
            raise UsageError(f"broker {shown!r}: {name} is empty")
        options[name] = value
    return options


def read_password(file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The broker's password from a file (its first line) or the environment; the file wins."""
    if file is None:
        return environ.get(PASSWORD_VARIABLE) or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as why:
        raise UsageError(f"--password-file {file} cannot be read ({_words(why)})") from why
    if not lines or not lines[0]:
        raise UsageError(f"--password-file {file}: its first line is empty")
    return lines[0]


# --- the handshake -------------------------------------------------------------------------------

_WRONG_LOGIN = frozenset({4, 5, 0x86, 0x87, 0x8C})
"""CONNACK codes of MQTT 3.1.1 (table 3.1) and 5 (3.2.2.2): bad user name or password, not
authorised, bad authentication method."""
_WRONG_VERSION = frozenset({1, 0x84})
_DATED = frozenset({9, 10})
"""OpenSSL's codes of a certificate that is not valid yet, and of one that has expired."""
_TRY_LATER = frozenset({3, 0x88, 0x89})

_RETRY_S, _RETRY_LIMIT_S = 0.02, 0.5
_SILENCE_S = 1.0
"""A broker that does not know MQTT 5 may wait for the rest of what it takes for a longer packet
(amqtt does). One that is merely slow is spoken to in MQTT 3.1.1, which does no harm."""


class _NotYet(Exception):
    """The broker may still be starting: worth another attempt within the time allowed."""


class _OtherVersion(Exception):
    """The broker refused this protocol version, or hung up on it without a word."""


async def mqtt_version(address: BrokerAddress, timeout_s: float = 5.0) -> Level:
    """The newest protocol level that the broker speaks with us: 5, or 4 for MQTT 3.1.1.

    A broker that cannot be reached yet is tried again until `timeout_s` is over. TransportError,
    within about that time, names the address and the remedy.
    """
    context = address.tls_context()
    delay_s = _RETRY_S
    trouble = silence = f"no answer within {timeout_s:g} s"
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                trouble = silence
                try:
                    return await _newest(address, context)
                except _NotYet as why:
                    trouble = str(why)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, _RETRY_LIMIT_S)
    except TimeoutError:
        raise TransportError(
            f"cannot reach the broker {address}: {trouble}; is it running there, and is the port "
            "open to this machine?"
        ) from None


async def _newest(address: BrokerAddress, context: ssl.SSLContext | None) -> Level:
    levels: tuple[Level, ...] = (5, 4) if address.level is None else (address.level,)
    for level in levels:
        try:
            await _shake_hands(address, context, level)
        except _OtherVersion:
            continue
        return level
    wrong_scheme = "try mqtt://" if address.tls else "if the port wants TLS, write mqtts://"
    raise TransportError(
        f"{address} does not answer in MQTT {' or '.join(_NAMES[level] for level in levels)}; is "
        f"this an MQTT port? ({wrong_scheme})"
    )


async def _shake_hands(
    address: BrokerAddress, context: ssl.SSLContext | None, level: Level
) -> None:
    reader, writer = await _open(address, context)
    try:
        writer.write(_connect_packet(address.login, level))
        await writer.drain()
        patience_s = _SILENCE_S if level == 5 and address.level is None else None
        try:
            async with asyncio.timeout(patience_s):
                code = await _read_connack(reader)
        except TimeoutError as why:
            raise _OtherVersion from why
        if code == 0:
            writer.write(b"\xe0\x00")  # DISCONNECT
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as why:
        raise _OtherVersion from why
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    if code in _WRONG_VERSION:
        raise _OtherVersion
    if code in _WRONG_LOGIN:
        who = f"user {address.login.user!r}" if address.login else "a client without user name"
        raise TransportError(
            f"the broker {address} does not let {who} in: wrong password or not authorised; "
            f"name the user as mqtt://USER@{address.host} and the password: {_PASSWORD_REMEDY}"
        )
    if code in _TRY_LATER:
        raise _NotYet(f"it says that it is not available (code {code})")
    if code != 0:
        raise TransportError(f"the broker {address} refuses connections (MQTT code 0x{code:02x})")


async def _open(
    address: BrokerAddress, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if context is None:
            return await asyncio.open_connection(address.host, address.port)
        return await asyncio.open_connection(
            address.host, address.port, ssl=context, ssl_shutdown_timeout=1.0
        )
    except ssl.SSLCertVerificationError as why:
        if why.verify_code in _DATED:
            raise TransportError(
                f"the certificate of {address} does not hold today: {why.verify_message}; renew "
                "it, or set this machine's clock"
            ) from why
        raise TransportError(
            f"the certificate of {address} is not trusted: {why.verify_message}; name the "
            "authority that signed it with ?ca=FILE, and the host as the certificate does"
        ) from why
    except ssl.SSLError as why:
        raise TransportError(
            f"TLS with {address} failed ({_words(why)}); without TLS write mqtt://, and where the "
            "broker asks for a client certificate add ?cert=FILE&key=FILE"
        ) from why
    except (socket.gaierror, UnicodeError) as why:
        raise TransportError(
            f"cannot reach the broker {address}: nobody knows the host {address.host!r} "
            f"({_words(why)}); check its spelling and the name service"
        ) from why
    except ConnectionResetError as why:
        if context is not None:
            raise TransportError(
                f"{address} hangs up when TLS begins; without TLS write mqtt://"
            ) from why
        raise _NotYet("connection reset") from why
    except OSError as why:
        raise _NotYet(_words(why)) from why


def _connect_packet(login: Login | None, level: Level) -> bytes:
    """CONNECT with a clean start, keep-alive 10 s and no will (MQTT 3.1.1 and 5, section 3.1)."""
    flags = 0x02
    payload = _text(f"ef-{secrets.token_hex(8)}")
    if login is not None:
        flags |= 0xC0
        payload += _text(login.user) + _text(login.password)
    properties = b"\x00" if level == 5 else b""
    body = _text("MQTT") + bytes([level, flags]) + b"\x00\x0a" + properties + payload
    length, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128)
        length.append(digit | (0x80 if left else 0))
        if not left:
            return b"\x10" + bytes(length) + body


def _text(value: str) -> bytes:
    data = value.encode()
    if len(data) > 65_535:
        raise UsageError("user name and password take at most 65535 bytes each")
    return len(data).to_bytes(2, "big") + data


async def _read_connack(reader: asyncio.StreamReader) -> int:
    """The reason code; `_OtherVersion` if what comes is no CONNACK."""
    if await reader.readexactly(1) != b"\x20":
        raise _OtherVersion
    for _ in range(4):  # the remaining length: 7 bits a byte, at most 4 bytes
        if (await reader.readexactly(1))[0] < 0x80:
            break
    return (await reader.readexactly(2))[1]


def _words(why: BaseException) -> str:
    """The error in words, without the C source lines that OpenSSL adds."""
    if isinstance(why, ssl.SSLError):
        return (why.reason or str(why)).replace("_", " ").lower()
    if isinstance(why, OSError) and why.strerror:
        return why.strerror.lower()
    return str(why)
