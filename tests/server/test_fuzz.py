"""Hostile input: whatever comes in, the server answers with a clear error, tells nothing, and serves on.

2,000 calls; FUZZ_CALLS=20000, or `make fuzz`, makes more, other ones each time.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spoolway.v1 import job_service_pb2, job_service_pb2_grpc, storage_admin_pb2, storage_admin_pb2_grpc
from spoolway.v1 import job_service_pb2 as pb
from tests.server.hostile_messages import requests
from tests.server.server_process import ServerProcess, server_process, write_config

_log = logging.getLogger(__name__)

CALLS = int(os.environ.get("FUZZ_CALLS", "0"))
IN_CI = 2_000
TIMEOUT_S = 0.5
"""Of calls that may wait, or whose stream of answers has no end; the others get a minute."""
UNTIL_STUCK_S = 60.0
WAITING = {"WaitJob", "NextJob", "WatchJobs", "StreamNextJobs"}
GROWTH_MIB = 32
"""What two thirds of the calls leave behind: jobs, backends and storages that they made, in memory too."""
METADATA = [("spoolway-user", "mallory")]
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
LEAKS = ("Traceback", 'File "', "site-packages", "spoolway_server", "spoolway_providers", "sqlite3.", ".py")

METHODS: list[MethodDescriptor] = [
    method
    for module, service in ((job_service_pb2, "JobService"), (storage_admin_pb2, "StorageAdmin"))
    for method in module.DESCRIPTOR.services_by_name[service].methods
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the server writes."""
    return tmp_path / "server.log"


@pytest.fixture
def server(tmp_path: Path, log: Path) -> Iterator[ServerProcess]:
    """A server as users run it."""
    (tmp_path / "secret-folder").mkdir()
    config = write_config(tmp_path / "secret-folder")
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        yield runner.run(stack.enter_async_context(server_process(config, log=log)))
        runner.run(stack.aclose())


def known_names(stub: job_service_pb2_grpc.JobServiceStub, folder: Path) -> dict[str, list[str]]:
    """Names that mean something to the server, by their kind."""
    stub.RegisterBackend(pb.RegisterBackendRequest(backend="sim", config=b"{}"), metadata=METADATA)
    submit = pb.SubmitJobRequest(backend="sim", content=b'{"a": 1}')
    jobs = [stub.SubmitJob(submit, metadata=METADATA).job.name for _ in range(5)]
    spooler = pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"])
    taken = stub.NextJob(spooler, metadata=METADATA)
    stub.CancelJob(pb.CancelJobRequest(name=jobs[-1]), metadata=METADATA)
    start = pb.UploadContentRequest(start={"backend": "sim"})
    part = pb.UploadContentRequest(chunk=b'{"a": 1}')
    upload = stub.UploadContent(iter([start, part]), metadata=METADATA).upload
    return {
        "nothing": [""],
        "job": [*jobs, taken.assignment.job],
        "storage": ["main", "lab", "storages/main"],
        "token": ["0" * 16],
        "lease_token": [taken.assignment.lease_token],
        "session": [taken.session],
        "upload": [upload],
        "backend": ["sim", "backends/sim", "other"],
        "backends": ["sim", "other"],
        "spooler_id": ["s"],
        "instance_id": ["i"],
        "path": [str(folder / "made.sqlite"), str(folder), "", f"{folder}/\0", f"{folder}/{'x' * 5_000}"],
        "base_path": [str(folder / "made"), "", f"{folder}/\0", f"{folder}/../secret-folder/spoolway.sqlite"],
        "user": ["mallory"],
        "type": ["sqlite", "memory", "local"],
        "paths": ["max_queued", "login", "description", "paused", "*"],
    }


def _call(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes]) -> grpc.StatusCode | None:
    """Make a call and read it to its end; None: it went well."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    shapes = {False: "unary", True: "stream"}
    kind = f"{shapes[method.client_streaming]}_{shapes[method.server_streaming]}"
    given_ = iter(messages) if method.client_streaming else messages[0]
    timeout = TIMEOUT_S if method.name in WAITING else UNTIL_STUCK_S
    began = time.monotonic()
    try:
        answer = getattr(channel, kind)(path)(given_, metadata=METADATA, timeout=timeout)
        if method.server_streaming:
            for _ in answer:
                pass
    except grpc.RpcError as error:
        _check(method, error)
        assert time.monotonic() - began < UNTIL_STUCK_S, "the call hangs"
        return error.code()  # type: ignore[no-any-return,attr-defined]  # the types lack that it is a call too
    return None


def _check(method: MethodDescriptor, error: Any) -> None:
    told = f"{error.details()} {error.trailing_metadata()}"
    assert error.code() not in NEVER, f"{method.name}: {error.code()}: {told}"
    assert not [leak for leak in (*LEAKS, "secret-folder") if leak in told], f"{method.name}: {told}"
    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
        assert "grpc-status-details-bin" in dict(error.trailing_metadata()), f"{method.name}: {told}"


def _replenish(stub: job_service_pb2_grpc.JobServiceStub, jobs: list[str], place: int) -> None:
    """A new job in the place of one that is probably gone; the backend may be gone, too, or be limited."""
    with contextlib.suppress(grpc.RpcError):
        stub.RegisterBackend(pb.RegisterBackendRequest(backend="sim", config=b"{}"), metadata=METADATA)
        submit = pb.SubmitJobRequest(backend="sim", content=b"{}")
        jobs[place] = stub.SubmitJob(submit, metadata=METADATA).job.name


@pytest.mark.timeout(3600 if CALLS else 240)
def test_no_call_harms(server: ServerProcess, log: Path, tmp_path: Path) -> None:
    """Every call, unary and in streams, with fields from the edge, at random and broken."""
    folder = tmp_path / "made"
    folder.mkdir()
    count, answers = 0, dict[str, int]()
    with grpc.insecure_channel(server.address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        # Has the server import all drivers: what they take is not what the calls leave.
        admin = storage_admin_pb2_grpc.StorageAdminStub(channel)
        admin.ListProviderTypes(storage_admin_pb2.ListProviderTypesRequest(), metadata=METADATA)
        known = known_names(stub, folder)
        by_method = {method.name: requests(method.input_type, known) for method in METHODS}
        hello = pb.Hello(spooler_id="s", instance_id="f", protocol=1, backends=["sim"])
        opening = {"StreamNextJobs": pb.StreamNextJobsRequest(hello=hello).SerializeToString()}

        @settings(
            max_examples=CALLS or IN_CI,
            deadline=None,
            database=None,
            derandomize=not CALLS,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def one(data: st.DataObject) -> None:
            nonlocal count
            method = data.draw(st.sampled_from(METHODS), label="call")
            sizes = (1, 4) if method.client_streaming else (1, 1)
            messages = data.draw(
                st.lists(by_method[method.name], min_size=sizes[0], max_size=sizes[1]), label="messages"
            )
            if method.name in opening and data.draw(st.booleans(), label="opened well"):
                messages.insert(0, opening[method.name])
            code = _call(channel, method, messages)
            answers[code.name if code else "OK"] = answers.get(code.name if code else "OK", 0) + 1
            count += 1
            if count % 100 == 0:
                _replenish(stub, known["job"], count // 100 % 5)
            if count == (CALLS or IN_CI) // 3:
                server.watch_memory()

        one()
        stub.ListBackends(pb.ListBackendsRequest(), metadata=METADATA, timeout=UNTIL_STUCK_S)
    _log.info("%d calls: %s; %.1f MiB more", count, answers, server.lasting_growth_mib)

    assert "Traceback" not in log.read_text()
    assert server.lasting_growth_mib < GROWTH_MIB
    assert answers["OK"] > count / 20


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(path: str) -> bytes:
    """A block of headers, each a literal that is never indexed."""
    pairs = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "spoolway-user": "mallory",
    }
    return b"".join(
        b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in pairs.items()
    )


def _calling(*data: bytes) -> bytes:
    """A connection that begins a call and sends these frames of data."""
    opened = PREFACE + _frame(4, 0, 0, b"") + _frame(1, 4, 1, _headers("/spoolway.v1.JobService/SubmitJob"))
    return opened + b"".join(_frame(0, 1, 1, one) for one in data)


BROKEN = {
    "no HTTP at all": b"\x16\x03\x01" + b"\xff" * 300,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a preface": PREFACE[:10],
    "a frame of an unknown kind": PREFACE + _frame(99, 255, 7, b"x" * 100),
    "headers that are none": PREFACE + _frame(4, 0, 0, b"") + _frame(1, 4, 1, b"\xff" * 50),
    "data without a call": PREFACE + _frame(4, 0, 0, b"") + _frame(0, 1, 9, b"x"),
    "a message longer than its frame": _calling(struct.pack(">BI", 0, 1000) + b"x"),
    "a message of 4 GB": _calling(struct.pack(">BI", 0, 2**32 - 1)),
    "a compressed message without a method": _calling(struct.pack(">BI", 1, 3) + b"xyz"),
    "an unknown flag": _calling(struct.pack(">BI", 77, 3) + b"xyz"),
    "half a prefix": _calling(b"\0\0"),
    "data after the end": _calling(struct.pack(">BI", 0, 0), b"more"),
    "settings out of range": PREFACE + _frame(4, 0, 0, struct.pack(">HI", 5, 2**32 - 1)),
    "a window of nothing": PREFACE + _frame(4, 0, 0, b"") + _frame(8, 0, 0, b"\0\0\0\0"),
}


def test_broken_frames_harm_nobody_else(server: ServerProcess, log: Path) -> None:
    """Connections that break the protocol end by themselves; others are served meanwhile."""
    host, port = server.address.split(":")
    with grpc.insecure_channel(server.address) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        for sent in BROKEN.values():
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    while connection.recv(65536):
                        pass
            stub.ListBackends(pb.ListBackendsRequest(), metadata=METADATA, timeout=UNTIL_STUCK_S)

    assert "Traceback" not in log.read_text()
