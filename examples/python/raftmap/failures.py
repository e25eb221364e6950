"""How a call fails, and what follows from an attempt that failed."""

import random
from enum import Enum

import grpc
from grpc_status import rpc_status

from .contract import Failure

# Seconds: the longest pause before the second attempt, which doubles with each one; its bound; what a server can ask for.
PAUSE_FIRST, PAUSE_MAX, RETRY_AFTER_MAX = 0.01, 0.5, 5.0


class RaftmapError(Exception):
    """A call that has no answer."""

    def __init__(self, failed: "Failed", attempts: int) -> None:
        facts = [failed.code, failed.server, f"{attempts} attempts"]
        super().__init__(f"{failed} ({', '.join(fact for fact in facts if fact)})")
        self.code = failed.code  # a name of Failure.Code in map.proto; empty if no server said anything
        self.is_final = failed.next is Next.END  # it would end the same way again


class NotApplied(RaftmapError):
    """The write certainly was not applied, by no attempt, and will not be: it may be sent again. Every read that fails is this."""


class OutcomeUnknown(RaftmapError):
    """The write may have been applied, or may be later. A new call would be a new write: read before you decide."""


class Next(Enum):
    """What to do after an attempt that failed."""

    END = "no attempt can end otherwise"
    ELSEWHERE = "ask another server"
    AGAIN = "ask again: the server works, and has too much to do"
    NEW_SESSION = "send it as a new write, in a new session"


# Of all other codes: END.
NEXT = {
    Failure.OVERLOADED: Next.AGAIN,
    Failure.NO_LEADER: Next.ELSEWHERE,
    Failure.NO_QUORUM: Next.ELSEWHERE,
    Failure.DEADLINE: Next.ELSEWHERE,
    Failure.LEADERSHIP_LOST: Next.ELSEWHERE,
    Failure.NODE_UNFIT: Next.ELSEWHERE,
    Failure.SHUTTING_DOWN: Next.ELSEWHERE,
    Failure.BEHIND: Next.ELSEWHERE,
    Failure.SCAN_LOST: Next.ELSEWHERE,  # a scan is repeated from its beginning here
    Failure.SESSION_UNKNOWN: Next.NEW_SESSION,
}


class Failed(Exception):
    """One attempt that brought no answer."""

    def __init__(self, server: str, reason: str, *, maybe_applied: bool, next: Next = Next.ELSEWHERE) -> None:
        super().__init__(reason)
        self.server, self.maybe_applied, self.next = server, maybe_applied, next
        self.code, self.leader, self.retry_after = "", "", 0.0


def judge(server: str, error: grpc.RpcError) -> Failed:
    """What the status says with which an attempt ended. Whatever fails in a server has a `Failure` among its details."""
    failure = Failure()
    status = rpc_status.from_call(error)
    if status is None or not any(detail.Unpack(failure) for detail in status.details):
        # The connection broke, or the time was over. The request may have been taken.
        return Failed(server, f"{error.code().name}: {error.details()}", maybe_applied=True)
    # An unknown session applies nothing: what is unknown then is whether an earlier attempt was applied.
    unknown = failure.outcome != Failure.NOT_APPLIED and failure.code != Failure.SESSION_UNKNOWN
    failed = Failed(server, failure.reason, maybe_applied=unknown, next=NEXT.get(failure.code, Next.END))
    # A code of a newer server has no name here.
    failed.code = Failure.Code.Name(failure.code) if failure.code in Failure.Code.values() else str(failure.code)
    failed.leader = failure.leader
    failed.retry_after = min(failure.retry_after_ms / 1000, RETRY_AFTER_MAX)
    return failed


class History:
    """What became of a call's attempts so far."""

    def __init__(self, is_read: bool) -> None:
        self._is_read = is_read
        self._attempts = 0
        self._maybe_applied = False
        self._last: Failed | None = None

    def record(self, failed: Failed) -> Next:
        self._attempts += 1
        self._maybe_applied |= failed.maybe_applied and not self._is_read
        # What a server said tells more than that a connection broke or the time was over.
        if self._last is None or failed.code not in ("", "DEADLINE") or failed.next is Next.END:
            self._last = failed
        # In a new session it would be a second write.
        in_vain = failed.next is Next.NEW_SESSION and self._maybe_applied
        return Next.END if in_vain else failed.next

    def pause(self, failed: Failed) -> float:
        """Seconds before the next attempt: the first one fails over at once, later ones wait longer and longer, by chance, so that
        those who failed together do not come back together."""
        if self._attempts == 1 and failed.next is not Next.AGAIN:
            return failed.retry_after
        bound = min(PAUSE_FIRST * 2 ** min(self._attempts - 1, 16), PAUSE_MAX)
        return failed.retry_after + random.uniform(0, bound)

    def error(self) -> RaftmapError:
        """The error of a call that ends here."""
        last = self._last or Failed("", "there was no time for an attempt", maybe_applied=False)
        return (OutcomeUnknown if self._maybe_applied else NotApplied)(last, self._attempts)
