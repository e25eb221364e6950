"""A client of raftmap over gRPC.

    with Client(["host1:7000", "host2:7000"], ca=..., certificate=..., key=...) as client:
        client.put(b"greeting", b"hello")
        print(client.get(b"greeting").value)

It finds the leader, turns to another server when one fails, and repeats a call until its time is over. Every write carries
the tag of a session, so that it is applied once however often it is sent. A call without an answer ends with `NotApplied`
or with `OutcomeUnknown`: the difference is whether the write may have happened.
"""

from .client import Client, Committed, Entry, absent, get, has_revision, has_value, put
from .failures import NotApplied, OutcomeUnknown, RaftmapError

__all__ = [
    "Client",
    "Committed",
    "Entry",
    "NotApplied",
    "OutcomeUnknown",
    "RaftmapError",
    "absent",
    "get",
    "has_revision",
    "has_value",
    "put",
]
