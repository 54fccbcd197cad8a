"""Bytes made wrong: by the byte, by the word, by the block; everything decided by one seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

MOST_BYTES = 100_000
ODD = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff",
    b"\xed\xa0\x80", b"\xef\xbf\xbf", b"\xf0\x9f\x94\xa5", b"\xe2\x80\xa8", b"\r\n", b"\n", b" ",
    b"0", b"-1", b"1e999", b"-0.0", b"9223372036854775808", b"18446744073709551616", b"NaN",
    b"Infinity", b"null", b"true", b'""', b"[]", b"{}", b'"', b"\\", b"\\ud800", b"9" * 400,
    b"[" * 40, b"{" * 40, b"../../etc/passwd", b"%00", b"<script>", b"${HOME}",
)  # fmt: skip
"""What parsers trip over."""


def mutated(seeds: Sequence[bytes], words: Sequence[bytes], seed: int) -> bytes:
    """One of the seeds with one to eight things done to it."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        chance.choice(_WAYS)(data, chance, seeds, words)
    return bytes(data[:MOST_BYTES])


Way = Callable[[bytearray, random.Random, Sequence[bytes], Sequence[bytes]], None]


def _span(data: bytearray, chance: random.Random) -> tuple[int, int]:
    start = chance.randint(0, len(data))
    return start, min(len(data), start + chance.choice((1, 1, 2, 4, 16, 64, 512)))


def _flip(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _cut(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    start, end = _span(data, chance)
    del data[start:end]


def _short(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    del data[chance.randint(0, len(data)) :]


def _twice(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    start, end = _span(data, chance)
    at = chance.randint(0, len(data))
    data[at:at] = data[start:end] * chance.choice((1, 1, 2, 30))


def _odd(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    start, end = _span(data, chance)
    data[start : chance.choice((start, end))] = chance.choice(ODD)


def _word(
    data: bytearray, chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]
) -> None:
    """A word of the language in the place of another one, where there is one to be found."""
    new, old = chance.choice(words), chance.choice(words)
    at = data.find(old, chance.randint(0, len(data)))
    if at < 0:
        at = chance.randint(0, len(data))
        data[at:at] = new
    else:
        data[at : at + len(old)] = new


def _value(data: bytearray, chance: random.Random, *_: Sequence[bytes]) -> None:
    """What stands behind a colon up to the next comma or line's end."""
    at = data.find(b":", chance.randint(0, len(data)))
    if at >= 0:
        ends = [e for e in (data.find(c, at) for c in (b",", b"\n", b"}")) if e >= 0]
        data[at + 1 : min(ends, default=len(data))] = b" " + chance.choice(ODD)


def _splice(
    data: bytearray, chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]
) -> None:
    other = chance.choice(seeds)
    start, end = _span(data, chance)
    begin = chance.randint(0, len(other))
    data[start:end] = other[begin : begin + chance.choice((8, 64, 512, 4096))]


_WAYS: tuple[Way, ...] = (
    _flip, _byte, _byte, _cut, _short, _twice, _odd, _odd, _word, _word, _value, _value, _splice,
)  # fmt: skip
