"""When an engine that does not answer is left alone, and when it is tried again.

Each frame sent to a dead engine meets its fate as an error, and the next one with it. `Breaker`
opens after `TROUBLE` failures in a row: from then on frames wait, each giving way to a fresher one
of its camera, and one request at a time asks whether somebody answers again, after 0.5 s, 1 s, and
then every 2 s. The first answer closes it. So an engine that comes back gets the freshest frames
there are, within that time of its return. (The pattern is M. Nygard's circuit breaker, Release It!,
2007.) Instants are wall seconds.
"""

from __future__ import annotations

__all__ = ["Breaker"]

from dataclasses import dataclass

TROUBLE = 5
"""Failures without an answer between them: fewer happen to a live engine that is restarted."""
FIRST_REST_S = 0.5
LONGEST_REST_S = 2.0
"""What the rest may add to the time until an alarm, once the engine is back."""


@dataclass(slots=True)
class Breaker:
    """Closed to begin with: nothing waits."""

    _failures: int = 0
    _rest_s: float = FIRST_REST_S
    _again_at_s: float = 0.0
    _probe: int | None = None
    """The request under way that asks whether somebody is there."""
    _probes: int = 0

    @property
    def is_open(self) -> bool:
        return self._failures >= TROUBLE

    def wait_s(self, now_s: float) -> float | None:
        """How long the next request has to wait, 0 for none; None: until the one under way ends."""
        if not self.is_open:
            return 0.0
        if self._probe is not None:
            return None
        return max(0.0, self._again_at_s - now_s)

    def sent(self) -> int | None:
        """A request goes out. Its number, if it is the one that asks whether somebody is there."""
        if not self.is_open:
            return None
        self._probes += 1
        self._probe = self._probes
        return self._probe

    def done(self, probe: int) -> None:
        """The request that asked has ended, perhaps without having been sent at all."""
        if probe == self._probe:
            self._probe = None

    def answered(self) -> bool:
        """Somebody answered, whatever it was. True if it was closed by that."""
        was_open = self.is_open
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._probe = None
        return was_open

    def failed(self, now_s: float, probe: int | None = None) -> bool:
        """Nobody answered the request, which was that `probe` or none. True if opened by that."""
        was_open = self.is_open
        self._failures += 1
        if was_open:
            if probe is None or probe != self._probe:
                return False  # it was under way when others had failed already
            self._probe = None
            self._rest_s = min(LONGEST_REST_S, 2 * self._rest_s)
        if self.is_open:
            self._again_at_s = now_s + self._rest_s
        return self.is_open and not was_open
