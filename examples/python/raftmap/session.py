"""A session: what makes it safe to send a write again (Raft dissertation, section 6.3)."""

import threading
import time

from .contract import OpenSessionResponse, SessionTag
from .failures import Failed


class Session:
    """The servers keep the answers of a session from the lowest sequence on that its client still needs. So the bound is not on
    how many writes are under way, but on how far they are apart."""

    def __init__(self, opened: OpenSessionResponse) -> None:
        self._id, self._room = opened.session_id, max(1, opened.max_in_flight)
        self._next = 1
        self._unfinished: set[int] = set()
        self._changed = threading.Condition()

    def _lowest(self) -> int:
        return min(self._unfinished, default=self._next)

    def _has_room(self) -> bool:
        return self._next - self._lowest() < self._room

    def begin(self, until: float) -> int:
        """The sequence of a new write. Waits while one that takes long holds back those that are far ahead of it."""
        with self._changed:
            if not self._changed.wait_for(self._has_room, until - time.monotonic()):
                raise Failed("", "another write of this client holds back all that came after it", maybe_applied=False)
            sequence = self._next
            self._next += 1
            self._unfinished.add(sequence)
            return sequence

    def tag(self, sequence: int) -> SessionTag:
        """What a write carries. Between two of its attempts only the acknowledgement moves."""
        with self._changed:
            return SessionTag(session_id=self._id, sequence=sequence, acknowledged_below=self._lowest())

    def end(self, sequence: int) -> None:
        """Its answer, whatever it was, is not needed any more."""
        with self._changed:
            self._unfinished.discard(sequence)
            self._changed.notify_all()
