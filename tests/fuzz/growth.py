"""Does the time for an input grow with its square? Eight times the size may take eight times the
time, and some more; not sixty-four times."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.fuzz.targets import Target
from tests.fuzz.watch import CPU_S, Finding

STEEP = 3.0
"""Times more than in proportion; a square has eight."""
WORTH_S = 0.1
"""Below it nothing is too slow, and little can be measured."""


def steep(target: Target) -> Iterator[Finding]:
    small, large = target.sizes
    with target.opened() as check:
        for name, made in target.grow.items():
            little, much = made(small), made(large)
            try:
                took_s = _took_s(check, much)
                before_s = max(_took_s(check, little), 1e-4)
            except Exception as why:
                yield Finding(f"{type(why).__name__}: {str(why)[:160]}", name, much[:200])
                continue
            growth = took_s / before_s / max(1.0, len(much) / max(1, len(little)))
            if took_s > CPU_S or (took_s > WORTH_S and growth > STEEP):
                what = (
                    f"{took_s:.2f} s for {len(much):,} bytes, {before_s:.3f} s for {len(little):,}"
                )
                yield Finding(what, name, much[:200])


def _took_s(check: object, data: bytes) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        check(data)  # type: ignore[operator]
        best = min(best, time.thread_time() - began)
        if best > CPU_S:
            break
    return best
