"""How many requests an engine is given at a time, found by what it gets done.

Throughput rises with the number of requests under way until the engine is full; beyond that knee
only the waiting grows. `Knee` climbs: it measures answers a second while the limit is used up,
tries a higher limit, keeps it if that brought at least a twentieth more, and otherwise goes back
and rests. Now and then it tries a lower limit as well: what as few requests get done as quickly is
better, since each is answered sooner. An engine that says it is overloaded, or that fails to
answer, halves the limit. Instants are wall seconds.
"""

from __future__ import annotations

__all__ = ["Knee"]

from dataclasses import dataclass, field

GAIN = 1.05
"""A higher limit must bring this much more; a lower one may lose what this leaves."""
LEAST_ANSWERS = 6
ANSWERS_PER_SLOT = 3
"""A measurement lasts for so many answers: noise of one slow answer must not decide."""
REST = 8
"""Measurements between two trials once the knee was found; more while nothing changes."""
LONGEST_REST = 64
CALM_S = 2.0
"""After the limit was halved, failures of requests that were under way count no more for so long.
"""


@dataclass(slots=True)
class Knee:
    """`limit` requests may be under way; 1 <= limit <= highest, `first` to begin with."""

    first: int
    highest: int
    limit: int = field(init=False)
    _best: int = field(init=False)
    """The limit that is kept unless a trial beats it."""
    _rate: float | None = field(init=False, default=None)
    """Answers a second at `_best`."""
    _since_s: float | None = field(init=False, default=None)
    _answers: int = field(init=False, default=0)
    _resting: int = field(init=False, default=0)
    _vain: int = field(init=False, default=0)
    """Trials in a row that led back to `_best`."""
    _downwards: bool = field(init=False, default=False)
    _calm_until_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.highest:
            raise ValueError(f"first must lie between 1 and {self.highest}, not {self.first}")
        self.limit = self._best = self.first

    def answered(self, now_s: float, *, full: bool) -> None:
        """One answer came. `full`: all of the limit was in use and more frames were waiting.

        Only then does the number of answers say what the engine can do, and not what was asked.
        """
        if not full:
            self._since_s = None
            return
        if self._since_s is None:
            self._since_s, self._answers = now_s, 0
            return
        self._answers += 1
        if self._answers >= max(LEAST_ANSWERS, ANSWERS_PER_SLOT * self.limit):
            spent_s = now_s - self._since_s
            if spent_s > 0:
                self._measured(self._answers / spent_s)
            self._since_s, self._answers = now_s, 0

    def failed(self, now_s: float) -> None:
        """The engine was overloaded or did not answer in time."""
        self._since_s = None
        if now_s < self._calm_until_s:
            return
        self._calm_until_s = now_s + CALM_S
        self._best = self.limit = max(1, self.limit // 2)
        self._rate = None
        self._vain, self._resting = 0, REST

    def _measured(self, rate: float) -> None:
        if self.limit == self._best:
            self._rate = rate
            if self._resting > 0:
                self._resting -= 1
                return
            self._try()
            return
        assert self._rate is not None  # a trial begins from a measured limit
        up = self.limit > self._best
        if rate >= self._rate * GAIN if up else rate > self._rate / GAIN:
            # never lower on the way down: small losses would add up
            self._best, self._rate = self.limit, max(rate, self._rate)
            self._vain = 0
            self._try()  # on in the same direction
        else:
            self.limit = self._best
            # next time the other way
            self._downwards = up and self._best > 1
            self._vain += 1
            self._resting = self._rest

    @property
    def _rest(self) -> int:
        """Longer the more often both directions were tried in vain."""
        return min(LONGEST_REST, REST << min(self._vain // 2, 10))

    def _try(self) -> None:
        step = max(1, self._best // 2)
        if self._downwards:
            self.limit = max(1, self._best - max(1, self._best // 4))
        else:
            self.limit = min(self.highest, self._best + step)
        if self.limit == self._best:
            self._downwards = not self._downwards and self._best > 1
            self._vain += 1
            self._resting = self._rest
