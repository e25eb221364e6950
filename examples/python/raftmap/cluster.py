"""The servers that the client knows, and which of them to ask."""

import random
import threading
import time
from collections.abc import Callable, Iterable

import grpc

from . import contract
from .failures import Failed, Next, judge

SET_ASIDE = 1.0  # seconds for which a server that failed is asked last
GREETING_HOLDS = 30.0  # seconds after which the members are asked for again, though nothing failed
GREETING_TIMEOUT = 1.0  # a server that is about to start takes connections, and answers nothing yet


class Server:
    """One server, and the channel to it."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address, self._channel = address, channel
        self._services = {"Map": contract.MapStub(channel), "Cluster": contract.ClusterStub(channel)}
        self.greeted_at = self.aside_until = float("-inf")

    def call(self, method: str, request, until: float):
        """Calls `Map.Put` or another method."""
        service, name = method.split(".")
        try:
            answer = getattr(self._services[service], name)(request, timeout=max(0.001, until - time.monotonic()))
            return list(answer) if name == "Scan" else answer
        except grpc.RpcError as error:
            raise judge(self.address, error) from error

    def close(self) -> None:
        self._channel.close()


class Cluster:
    """All of them. One that left the cluster stays known, and is asked in vain now and then: this is an example."""

    def __init__(self, endpoints: Iterable[str], dial: Callable[[str], grpc.Channel], discover: bool) -> None:
        self._dial, self._discover = dial, discover
        self._lock = threading.Lock()
        self._servers = {address: Server(address, dial(address)) for address in endpoints}
        if not self._servers:
            raise ValueError("no endpoint was given: name at least one server as host:port")
        self._turn = random.randrange(len(self._servers))
        self._leader: Server | None = None
        self._term = self._membership_index = 0
        self._failed_at = float("-inf")

    def ask(self, method: str, request, until: float):
        """One attempt, at the leader if it is known, else at the next server in turn, which passes it on.

        A server is greeted before it is asked, with a question that changes nothing. So it is certain that a write never left if
        there is no connection, which the status of a call does not tell; and the answer says who leads, and who the members are.
        """
        server = self._pick()
        try:
            while not self._is_greeted(server):
                self._greet(server, until)
                server = self._pick()
            return server.call(method, request, until)
        except Failed as failed:
            self._learn(server, failed)
            raise

    def _pick(self) -> Server:
        with self._lock:
            now = time.monotonic()
            if self._leader and self._leader.aside_until <= now:
                return self._leader
            self._turn += 1
            servers = list(self._servers.values())
            start = self._turn % len(servers)
            in_turn = servers[start:] + servers[:start]
            return next((server for server in in_turn if server.aside_until <= now), in_turn[0])

    def _is_greeted(self, server: Server) -> bool:
        """Since anything failed, and not too long ago."""
        return server.greeted_at > max(self._failed_at, time.monotonic() - GREETING_HOLDS)

    def _greet(self, server: Server, until: float) -> None:
        began = time.monotonic()
        try:
            known = server.call("Cluster.Members", contract.MembersRequest(), min(until, began + GREETING_TIMEOUT))
        except Failed as failed:
            failed.maybe_applied = False
            raise
        with self._lock:
            server.greeted_at = began
            if self._discover and known.membership_index >= self._membership_index:
                self._membership_index = known.membership_index
                for member in known.members:
                    address = member.client_address
                    if address and address not in self._servers:
                        self._servers[address] = Server(address, self._dial(address))
            if known.term >= self._term:
                leader = next((member.client_address for member in known.members if member.leader), "")
                # Of two answers of one term, one may be from before its leader was elected.
                if leader or known.term > self._term:
                    self._leader = self._servers.get(leader)
                self._term = known.term

    def _learn(self, server: Server, failed: Failed) -> None:
        """Where to go after an attempt that failed."""
        if failed.next is not Next.ELSEWHERE:
            return
        with self._lock:
            self._failed_at = time.monotonic()
            server.aside_until = self._failed_at + SET_ASIDE
            if self._leader is server:
                self._leader = None
            if self._leader is None and failed.leader != server.address:
                self._leader = self._servers.get(failed.leader)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()
