"""The code that protoc makes of the contract, the files in `proto/` of this repository.

It is made at the first start, into the folder `generated`, and again whenever the contract is another one.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1]
PROTO = EXAMPLE.parents[1] / "proto"
FILES = ["map.proto", "cluster.proto"]


def generated() -> Path:
    """The folder with the generated modules, named after what they were made of."""
    digest = hashlib.sha256(b"".join((PROTO / name).read_bytes() for name in FILES)).hexdigest()
    made = EXAMPLE / "generated" / digest[:16]
    if made.exists():
        return made
    # Imported here, as it is of no use once the modules are there.
    from grpc_tools import protoc

    made.parent.mkdir(exist_ok=True)
    place = tempfile.mkdtemp(dir=made.parent)
    out = [f"-I{PROTO}", f"--python_out={place}", f"--grpc_python_out={place}"]
    try:
        if protoc.main(["protoc", *out, *FILES]) != 0:
            raise RuntimeError(f"protoc could not make modules of {PROTO}: see its messages above")
        # In one step: a program that starts at the same time finds all of it or nothing.
        Path(place).rename(made)
    except OSError:
        if not made.exists():
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return made


# The generated modules import each other by their bare names.
sys.path.append(str(generated()))

from cluster_pb2 import MembersRequest, MembersResponse  # noqa: F401
from cluster_pb2_grpc import ClusterStub  # noqa: F401
from map_pb2 import (  # noqa: F401
    Condition,
    DeleteRequest,
    Failure,
    GetRequest,
    OpenSessionRequest,
    OpenSessionResponse,
    Operation,
    PutEntry,
    PutRequest,
    ScanRequest,
    SessionTag,
    TxnRequest,
)
from map_pb2_grpc import MapStub  # noqa: F401
