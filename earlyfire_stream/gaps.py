"""Which frames of a camera have come, which came twice, and which are missing.

Pure; one `Gaps` a camera. Sequence numbers start at 0. A missing one may still come late
(reordering); who asks decides when it counts as lost.
"""

from __future__ import annotations

__all__ = ["Coming", "Gaps", "Unsent"]

from enum import Enum

from earlyfire_stream.verdict import Fate


class Coming(Enum):
    NEW = "new"
    AGAIN = "again"
    """Delivered before: a duplicate."""
    ABSURD = "absurd"
    """So far ahead that no camera can have sent it."""


class Gaps:
    """Bookkeeping of one camera's sequence numbers."""

    def __init__(self) -> None:
        self.next_seq = 0
        self._missing: dict[int, int] = {}

    def came(self, seq: int, now_ns: int, highest: int) -> Coming:
        """Note an arrival; numbers that it skipped are missing from `now_ns` on.

        `highest` is the last number that the camera can have reached by now: what a stranger claims
        beyond it must not make us list billions of missing frames.
        """
        if seq >= self.next_seq:
            if seq > highest:
                return Coming.ABSURD
            for skipped in range(self.next_seq, seq):
                self._missing[skipped] = now_ns
            self.next_seq = seq + 1
            return Coming.NEW
        return Coming.NEW if self._missing.pop(seq, None) is not None else Coming.AGAIN

    def overdue(self, before_ns: int) -> list[int]:
        """Give up the numbers that have been missing since before that instant, lowest first."""
        # Insertion order is order of noticing, so the first young one ends the search.
        gone: list[int] = []
        for seq, since_ns in self._missing.items():
            if since_ns >= before_ns:
                break
            gone.append(seq)
        for seq in gone:
            del self._missing[seq]
        return gone

    def close(self, last_seq: int) -> list[int]:
        """Give up everything missing up to the camera's last frame, lowest first."""
        gone = sorted(self._missing) + list(range(self.next_seq, last_seq + 1))
        self._missing.clear()
        self.next_seq = max(self.next_seq, last_seq + 1)
        return gone

    def has_all(self, last_seq: int) -> bool:
        return self.next_seq > last_seq and not self._missing


class Unsent:
    """Frames that their cameras did not send, each until its gap is noted.

    The camera's half says that a frame was not sent, the consumer notes the same one as lost: that
    is one event and not two fates. For whoever counts both halves as they tell, the cameras' word
    first.
    """

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[int, int]]] = {}
        """Camera -> spans (first, last), ascending: hours of silence take no more than a moment."""

    def __len__(self) -> int:
        return sum(last - first + 1 for spans in self._spans.values() for first, last in spans)

    def withheld(self, camera: str, seq: int) -> None:
        """The camera did not send it. Told in order of seq, each once."""
        spans = self._spans.setdefault(camera, [])
        if spans and spans[-1][1] == seq - 1:
            spans[-1] = (spans[-1][0], seq)
        else:
            spans.append((seq, seq))

    def explains(self, camera: str, seq: int, fate: Fate) -> bool:
        """Is this fate only the gap that an unsent frame left? Asked once a frame."""
        spans = self._spans.get(camera, [])
        for place, (first, last) in enumerate(spans):
            if first <= seq <= last:
                rest = [(first, seq - 1), (seq + 1, last)]
                spans[place : place + 1] = [span for span in rest if span[0] <= span[1]]
                return fate is Fate.LOST
        return False
