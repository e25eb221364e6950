"""The client: its calls, and the attempts of each."""

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from . import contract
from .cluster import Cluster
from .contract import Condition, Operation, PutEntry
from .failures import Failed, History, Next
from .session import Session

CHANNEL_OPTIONS = [
    # The library knows nothing of sessions: what is sent again is decided here alone.
    ("grpc.enable_retries", 0),
    # An answer has up to 4 MiB and what goes around it; the library takes 4 MiB.
    ("grpc.max_receive_message_length", 16 << 20),
    # A server that was restarted is found within a second, one that fell silent is given up after 14.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
]


@dataclass(frozen=True)
class Entry:
    key: bytes
    value: bytes
    revision: int


@dataclass(frozen=True)
class Committed:
    """The answer to a transaction: which branch ran, and what its gets found, in order."""

    succeeded: bool
    revision: int
    entries: list[Entry | None]


def absent(key: bytes) -> Condition:
    return Condition(key=key, revision=0)


def has_revision(key: bytes, revision: int) -> Condition:
    return Condition(key=key, revision=revision)


def has_value(key: bytes, value: bytes) -> Condition:
    return Condition(key=key, value=value)


def put(key: bytes, value: bytes) -> Operation:
    return Operation(put=PutEntry(key=key, value=value))


def get(key: bytes) -> Operation:
    return Operation(get=key)


class Client:
    """A client of one cluster, for all threads of a program."""

    def __init__(
        self,
        endpoints: Iterable[str],
        *,
        ca: bytes | None = None,
        certificate: bytes | None = None,
        key: bytes | None = None,
        token: str | None = None,
        timeout: float = 10.0,
        attempt_timeout: float = 2.0,
        discover: bool = True,
    ) -> None:
        """`endpoints` are servers to begin with (`host:port`), the others are learned from them unless `discover` says no.

        `ca`, and `certificate` with `key`, are PEM, as `raftmap certs` writes them; `token` is sent as `authorization: Bearer`.
        Without `ca` there is no TLS, for servers that were started with `--insecure`. A call takes `timeout` seconds at most, its
        attempts included, and turns to another server after `attempt_timeout`."""
        if token and ca is None:
            raise ValueError("a token would travel in the open: it takes TLS")
        credentials = None if ca is None else grpc.ssl_channel_credentials(ca, key, certificate)
        if token:
            bearer = grpc.access_token_call_credentials(token)
            credentials = grpc.composite_channel_credentials(credentials, bearer)

        def dial(address: str) -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(address, CHANNEL_OPTIONS)
            return grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)

        self._cluster = Cluster(endpoints, dial, discover)
        self._timeout, self._attempt_timeout = timeout, attempt_timeout
        self._session: Session | None = None
        self._opening = threading.Lock()

    @classmethod
    def from_environment(cls, **options) -> "Client":
        """With the variables that the command line takes: RAFTMAP_ENDPOINTS, and RAFTMAP_CERTS with RAFTMAP_AS, or a token in the place
        of a certificate (RAFTMAP_TOKEN, RAFTMAP_TOKEN_FILE), or RAFTMAP_INSECURE=true."""
        env = os.environ.get
        endpoints = [endpoint for endpoint in env("RAFTMAP_ENDPOINTS", "").split(",") if endpoint]
        if env("RAFTMAP_INSECURE") == "true":
            return cls(endpoints, **options)
        folder, name = env("RAFTMAP_CERTS"), env("RAFTMAP_AS", "client")
        if not folder:
            raise ValueError("which certificates? Set RAFTMAP_CERTS, or RAFTMAP_INSECURE=true for servers without TLS")
        options["ca"] = Path(folder, "ca.pem").read_bytes()
        token_file = env("RAFTMAP_TOKEN_FILE")
        if token := Path(token_file).read_text() if token_file else env("RAFTMAP_TOKEN"):
            return cls(endpoints, token=token.strip(), **options)
        identity = {"certificate": Path(folder, f"{name}.pem").read_bytes(), "key": Path(folder, f"{name}.key").read_bytes()}
        return cls(endpoints, **identity, **options)

    def get(self, key: bytes, *, timeout: float | None = None) -> Entry | None:
        """The value of `key`, if it is there: of every write that was acknowledged before."""
        got = self._read("Map.Get", contract.GetRequest(keys=[key]), timeout)
        return _entry(got.results[0])

    def put(self, key: bytes, value: bytes, *, timeout: float | None = None) -> int:
        """Sets `key`; answers with the revision of the write."""
        request = contract.PutRequest(entries=[PutEntry(key=key, value=value)])
        return self._write("Map.Put", request, timeout).revision

    def delete(self, key: bytes, *, timeout: float | None = None) -> bool:
        """Removes `key`; whether it was there."""
        return self._write("Map.Delete", contract.DeleteRequest(keys=[key]), timeout).deleted > 0

    def compare_and_swap(self, key: bytes, revision: int, value: bytes, *, timeout: float | None = None) -> int | None:
        """Sets `key` if it has `revision` (0: if it is absent). Answers with the new revision, or None if it was otherwise."""
        done = self.transact([has_revision(key, revision)], [put(key, value)], timeout=timeout)
        return done.revision if done.succeeded else None

    def transact(
        self,
        conditions: Sequence[Condition],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> Committed:
        """Runs `then` if all conditions hold, else `otherwise`, in one step."""
        request = contract.TxnRequest(conditions=conditions, then=then, otherwise=otherwise)
        done = self._write("Map.Txn", request, timeout)
        ran = then if done.succeeded else otherwise
        gets = [result for operation, result in zip(ran, done.results) if operation.HasField("get")]
        return Committed(done.succeeded, done.revision, [_entry(result) for result in gets])

    def scan(self, prefix: bytes = b"", *, timeout: float | None = None) -> list[Entry]:
        """All entries whose keys begin with `prefix`, in order, at one revision."""
        stem = prefix.rstrip(b"\xff")
        end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b""
        request = contract.ScanRequest(start=prefix, end=end)
        pages = self._read("Map.Scan", request, timeout, self._timeout if timeout is None else timeout)
        return [Entry(entry.key, entry.value, entry.revision) for page in pages for entry in page.entries]

    def members(self) -> contract.MembersResponse:
        """Who the members are, as one server sees it."""
        return self._read("Cluster.Members", contract.MembersRequest(), None)

    def close(self) -> None:
        self._cluster.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _read(self, method: str, request, timeout: float | None, attempt_timeout: float | None = None):
        """Asks until a server answers. A read may be sent as often as one likes."""
        deadline, history = self._deadline(timeout), History(is_read=True)
        while True:
            try:
                return self._attempt(method, request, deadline, attempt_timeout)
            except Failed as failed:
                self._follow(failed, history, deadline)

    def _write(self, method: str, request, timeout: float | None):
        """Writes in a session, so that it is applied once, however often it is sent."""
        deadline, history = self._deadline(timeout), History(is_read=False)
        while True:
            session = sequence = None
            try:
                session = self._current_session(deadline)
                sequence = session.begin(deadline)
                while True:
                    request.session.CopyFrom(session.tag(sequence))
                    try:
                        return self._attempt(method, request, deadline)
                    except Failed as failed:
                        if failed.next is Next.NEW_SESSION:
                            self._forget(session)
                        if self._follow(failed, history, deadline) is Next.NEW_SESSION:
                            break
            except Failed as failed:  # of the session
                self._follow(failed, history, deadline)
            finally:
                if sequence is not None:
                    session.end(sequence)

    def _attempt(self, method: str, request, deadline: float, attempt_timeout: float | None = None):
        until = min(deadline, time.monotonic() + (attempt_timeout or self._attempt_timeout))
        return self._cluster.ask(method, request, until)

    def _follow(self, failed: Failed, history: History, deadline: float) -> Next:
        """After a failed attempt: waits as long as is right and says how to go on, or ends the call."""
        after, pause = history.record(failed), history.pause(failed)
        if after is Next.END or time.monotonic() + pause >= deadline:
            raise history.error() from failed
        time.sleep(pause)
        return after

    def _current_session(self, deadline: float) -> Session:
        with self._opening:
            if self._session is None:
                try:
                    opened = self._attempt("Map.OpenSession", contract.OpenSessionRequest(), deadline)
                except Failed as failed:
                    # A session that nobody knows of expires: it is as if it had not been opened.
                    failed.maybe_applied = False
                    raise
                self._session = Session(opened)
            return self._session

    def _forget(self, session: Session) -> None:
        with self._opening:
            if self._session is session:
                self._session = None


def _entry(result) -> Entry | None:
    if not result.HasField("entry"):
        return None
    return Entry(result.entry.key, result.entry.value, result.entry.revision)
