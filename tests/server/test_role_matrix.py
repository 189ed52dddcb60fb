"""Who may do what: every call by every role, on own and foreign objects, without a good token (F14)."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from spoolway.v1 import job_service_pb2, job_service_pb2_grpc, storage_admin_pb2, storage_admin_pb2_grpc
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin
from spoolway_server.app import SpoolwayServer
from spoolway_server.auth import Role
from spoolway_server.clock import Clock
from spoolway_server.config import Config
from tests.server.lab import Lab
from tests.server.refusals import Refused, error_info

ROLES = ("user", "spooler", "operator", "admin")
ALL = frozenset(ROLES)
CLIENTS = ALL - {"spooler"}
SPOOLERS = frozenset({"spooler", "admin"})
OPERATORS = frozenset({"operator", "admin"})
ADMINS = frozenset({"admin"})

CALLER = {"user": "alice", "spooler": "lamp-pc", "operator": "olga", "admin": "ada"}
"""Who calls in each role. The jobs are alice's, on the backend lamp, which lamp-pc is bound to."""
STRANGER = {"user": "mallory", "spooler": "laser-pc"}
"""The same role, but not the owner, and bound to another backend."""
LEASE = "0" * 32
NO_JOB = "backends/lamp/jobs/000000000000000000000000"
NEVER_GOOD = ("REVOKED", "EXPIRED", "MISSING")
TIMEOUT_S = 20.0

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}


@dataclass(frozen=True)
class Call:
    """One row: who may, and what is asked for."""

    roles: frozenset[str]
    request: Callable[[str], Any]
    """By the name of a job of alice's, or another one's."""
    of: str = ""
    """A `job` is its owner's, a `backend` is served by who is bound to it; all else is anybody's."""


def _start(message: Any, **fields: Any) -> Any:
    return message(start=fields)


JOB_CALLS = {
    "SubmitJob": Call(CLIENTS, lambda _: pb.SubmitJobRequest(backend="lamp", content=b"{}")),
    "SubmitJobs": Call(
        CLIENTS,
        lambda _: pb.SubmitJobsRequest(requests=[pb.SubmitJobRequest(backend="lamp", content=b"{}")]),
    ),
    "GetJob": Call(CLIENTS, lambda job: pb.GetJobRequest(name=job), "job"),
    "GetStatus": Call(CLIENTS, lambda job: pb.GetStatusRequest(name=job), "job"),
    "WaitJob": Call(CLIENTS, lambda job: pb.WaitJobRequest(name=job, timeout=Duration(nanos=1)), "job"),
    "WatchJobs": Call(CLIENTS, lambda job: pb.WatchJobsRequest(names=[job]), "job"),
    "GetResult": Call(CLIENTS, lambda job: pb.GetResultRequest(name=job), "job"),
    "ReadResult": Call(CLIENTS, lambda job: pb.ReadResultRequest(name=job), "job"),
    "UploadContent": Call(CLIENTS, lambda _: _start(pb.UploadContentRequest, backend="lamp")),
    "GetUpload": Call(ALL, lambda _: pb.GetUploadRequest(backend="lamp", upload=LEASE)),
    "ListJobs": Call(CLIENTS, lambda _: pb.ListJobsRequest()),
    "CancelJob": Call(CLIENTS, lambda job: pb.CancelJobRequest(name=job), "job"),
    "RetryJob": Call(CLIENTS, lambda job: pb.RetryJobRequest(name=job), "job"),
    "DeleteJob": Call(CLIENTS, lambda job: pb.DeleteJobRequest(name=job), "job"),
    "ExplainJob": Call(CLIENTS, lambda job: pb.ExplainJobRequest(name=job), "job"),
    "ListBackends": Call(ALL, lambda _: pb.ListBackendsRequest()),
    "GetBackend": Call(ALL, lambda _: pb.GetBackendRequest(name="lamp")),
    "StreamNextJobs": Call(
        SPOOLERS,
        lambda _: pb.StreamNextJobsRequest(
            hello=pb.Hello(spooler_id="s", instance_id="i", protocol=1, backends=["lamp"])
        ),
        "backend",
    ),
    "NextJob": Call(
        SPOOLERS,
        lambda _: pb.NextJobRequest(
            spooler_id="s", instance_id="i", backends=["lamp"], wait_timeout=Duration(nanos=1)
        ),
        "backend",
    ),
    "ReadContent": Call(SPOOLERS, lambda job: pb.ReadContentRequest(job=job, lease_token=LEASE), "backend"),
    "UploadResult": Call(
        SPOOLERS, lambda job: _start(pb.UploadResultRequest, job=job, lease_token=LEASE), "backend"
    ),
    "CompleteJob": Call(
        SPOOLERS, lambda job: pb.CompleteJobRequest(job=job, lease_token=LEASE, result=b"{}"), "backend"
    ),
    "FailJob": Call(SPOOLERS, lambda job: pb.FailJobRequest(job=job, lease_token=LEASE), "backend"),
    "ReleaseJob": Call(SPOOLERS, lambda job: pb.ReleaseJobRequest(job=job, lease_token=LEASE), "backend"),
    "ExtendLeases": Call(
        SPOOLERS,
        lambda job: pb.ExtendLeasesRequest(
            session=LEASE, leases=[pb.ExtendedLease(job=job, lease_token=LEASE)]
        ),
        "backend",
    ),
    "UnregisterBackend": Call(
        SPOOLERS | OPERATORS, lambda _: pb.UnregisterBackendRequest(backend="lamp"), "backend"
    ),
    "RegisterBackend": Call(
        SPOOLERS, lambda _: pb.RegisterBackendRequest(backend="lamp", config=b"{}"), "backend"
    ),
}
ADMIN_CALLS = {
    "ListStorages": Call(OPERATORS, lambda _: admin.ListStoragesRequest()),
    "GetStorage": Call(OPERATORS, lambda _: admin.GetStorageRequest(name="main")),
    "GetStorageStats": Call(OPERATORS, lambda _: admin.GetStorageStatsRequest(name="main")),
    "ListProviderTypes": Call(OPERATORS, lambda _: admin.ListProviderTypesRequest()),
    "ActivateStorage": Call(OPERATORS, lambda _: admin.ActivateStorageRequest(name="main")),
    "DeactivateStorage": Call(OPERATORS, lambda _: admin.DeactivateStorageRequest(name="main")),
    "CreateStorage": Call(
        ADMINS,
        lambda _: admin.CreateStorageRequest(
            name="main", login=admin.StorageLogin(memory=admin.MemoryLogin())
        ),
    ),
    "UpdateStorage": Call(ADMINS, lambda _: admin.UpdateStorageRequest(name="main", description="x")),
    "DeleteStorage": Call(ADMINS, lambda _: admin.DeleteStorageRequest(name="main")),
    "TestStorage": Call(ADMINS, lambda _: admin.TestStorageRequest(name="main")),
    "GetSignInPage": Call(
        ADMINS,
        lambda _: admin.GetSignInPageRequest(login=admin.StorageLogin(memory=admin.MemoryLogin())),
    ),
    "SetBackendPolicy": Call(
        OPERATORS,
        lambda _: admin.SetBackendPolicyRequest(name="lamp", update_mask=FieldMask(paths=["max_queued"])),
    ),
    "PauseBackend": Call(OPERATORS, lambda _: admin.PauseBackendRequest(name="lamp")),
    "ResumeBackend": Call(OPERATORS, lambda _: admin.ResumeBackendRequest(name="lamp")),
    "PurgeBackend": Call(OPERATORS, lambda _: admin.PurgeBackendRequest(name="lamp")),
    "HoldJob": Call(OPERATORS, lambda job: admin.HoldJobRequest(name=job)),
    "ResumeJob": Call(OPERATORS, lambda job: admin.ResumeJobRequest(name=job)),
    "FailHeldJob": Call(OPERATORS, lambda job: admin.FailHeldJobRequest(name=job)),
    "ListSpoolers": Call(OPERATORS, lambda _: admin.ListSpoolersRequest()),
    "RevokeSpooler": Call(OPERATORS, lambda _: admin.RevokeSpoolerRequest(session=LEASE)),
    "CopyStorage": Call(OPERATORS, lambda _: admin.CopyStorageRequest(source="main", target="nowhere")),
    "CheckStorage": Call(OPERATORS, lambda _: admin.CheckStorageRequest(name="main")),
    "GetOperation": Call(OPERATORS, lambda _: admin.GetOperationRequest(name=LEASE)),
    "ListOperations": Call(OPERATORS, lambda _: admin.ListOperationsRequest()),
    "WatchOperation": Call(OPERATORS, lambda _: admin.WatchOperationRequest(name=LEASE)),
    "CancelOperation": Call(OPERATORS, lambda _: admin.CancelOperationRequest(name=LEASE)),
    "ImportStorage": Call(ADMINS, lambda _: admin.ImportStorageRequest(target="main", type="memory")),
    "ListAuditEvents": Call(OPERATORS, lambda _: admin.ListAuditEventsRequest()),
    "CreateToken": Call(ADMINS, lambda _: admin.CreateTokenRequest(user="eve", role=admin.ROLE_ADMIN)),
    "ListTokens": Call(ADMINS, lambda _: admin.ListTokensRequest()),
    "RevokeToken": Call(ADMINS, lambda _: admin.RevokeTokenRequest(name="0" * 16)),
}
CALLS = {**JOB_CALLS, **ADMIN_CALLS}
"""Every call; a new one gets its row here and in spoolway_server/permissions.py."""
FINDS_NOTHING = {
    *("RevokeToken", "RevokeSpooler", "GetUpload"),
    *("CopyStorage", "GetOperation", "WatchOperation", "CancelOperation"),
}
"""Calls that are let in here and then look for what is not there."""


@dataclass
class Scene:
    """A running server that wants tokens, and stubs that block."""

    lab: Lab
    channel: grpc.Channel
    loop: asyncio.AbstractEventLoop
    secrets: dict[str, str] = field(default_factory=dict)

    def call(self, rpc: str, request: Any, who: str | None) -> Refused | Any:
        """The first answer of a call, or how it was refused."""
        stubs = (
            job_service_pb2_grpc.JobServiceStub(self.channel),
            storage_admin_pb2_grpc.StorageAdminStub(self.channel),
        )
        method = next(getattr(stub, rpc) for stub in stubs if hasattr(stub, rpc))
        metadata = [("spoolway-user", "ada")]
        metadata += [("authorization", f"Bearer {self.secrets[who]}")] if who else []
        streamed = isinstance(method, grpc.StreamStreamMultiCallable | grpc.StreamUnaryMultiCallable)
        given = iter([request]) if streamed else request
        try:
            answer = method(given, metadata=metadata, timeout=TIMEOUT_S)
            if isinstance(answer, grpc.Call) and hasattr(answer, "__next__"):
                first = next(answer, None)
                answer.cancel()
                return first
        except grpc.RpcError as error:
            return error_info(error)  # type: ignore[arg-type]  # the blocking twin tells the same
        return answer

    def submit(self) -> str:
        """A new job of alice's, in the queue."""
        request = pb.SubmitJobRequest(backend="lamp", content=b"{}")
        name: str = self.call("SubmitJob", request, "alice").job.name
        return name


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A server in a thread of its own; every test makes the objects that it needs."""
    ready = threading.Event()
    made: list[Scene] = []
    stop = asyncio.Event()

    async def serve() -> None:
        config = Config.model_validate(
            {
                "server": {"port": 0},
                "auth": {"mode": "tokens"},
                "storages": {"main": {"type": "memory"}},
            }
        )
        server = SpoolwayServer(config)
        await server.start()
        lab = Lab(server, Clock())
        await _people(lab)
        channel = grpc.insecure_channel(server.address)
        made.append(Scene(lab, channel, asyncio.get_running_loop(), lab.secrets))
        ready.set()
        await stop.wait()
        await lab.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    [scene] = made
    for backend, spooler in (("lamp", "lamp-pc"), ("laser", "laser-pc")):
        scene.call("RegisterBackend", pb.RegisterBackendRequest(backend=backend, config=b"{}"), spooler)
    yield scene
    scene.channel.close()
    scene.loop.call_soon_threadsafe(stop.set)
    thread.join(TIMEOUT_S)


async def _people(lab: Lab) -> None:
    now = datetime.now(UTC)
    for role in Role:
        bound = ["lamp"] if role is Role.SPOOLER else []
        await lab.give_token(CALLER[role], role, backends=bound)
        for state in ("REVOKED", "EXPIRED"):
            expires = now - timedelta(seconds=1) if state == "EXPIRED" else None
            token = await lab.give_token(f"{role}-{state}", role, backends=bound, expires_at=expires)
            if state == "REVOKED":
                await lab.server.tokens.revoke(token.id)
    await lab.give_token("mallory", Role.USER)
    await lab.give_token("laser-pc", Role.SPOOLER, backends=["laser"])


def test_every_call_has_a_row() -> None:
    """A new call without one fails here."""
    services = (
        job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
        storage_admin_pb2.DESCRIPTOR.services_by_name["StorageAdmin"],
    )

    assert set(CALLS) == {method.name for service in services for method in service.methods}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rpc", CALLS)
def test_a_role_and_its_own(scene: Scene, rpc: str, role: str) -> None:
    """Who may is let in, to what is his own or anybody's; operators to all jobs. Nobody else is."""
    call = CALLS[rpc]
    answer = scene.call(rpc, call.request(scene.submit()), CALLER[role])

    code = answer.code if isinstance(answer, Refused) else grpc.StatusCode.OK
    if role not in call.roles:
        assert (code, answer.reason) == (DENIED, "ROLE_NOT_ALLOWED")
        assert scene.call(rpc, call.request(NO_JOB), CALLER[role]) == answer, (
            "it tells whether the job is there"
        )
    else:
        assert code not in {UNAUTHENTICATED, DENIED, *NEVER}
        assert code is not NOT_FOUND or rpc in FINDS_NOTHING


@pytest.mark.parametrize(
    ("rpc", "role"),
    [
        (rpc, role)
        for rpc, call in CALLS.items()
        for role in STRANGER
        if (call.of, role) in {("job", "user"), ("backend", "spooler")}
    ],
)
def test_a_role_and_what_is_foreign(scene: Scene, rpc: str, role: str) -> None:
    """A job of somebody else looks like none at all; a backend that one is not bound to is refused."""
    call, job = CALLS[rpc], scene.submit()

    answer = scene.call(rpc, call.request(job), STRANGER[role])
    nothing = scene.call(rpc, call.request(NO_JOB), STRANGER[role])

    assert isinstance(answer, Refused)
    assert isinstance(nothing, Refused)
    if role == "user":
        assert (answer.code, answer.reason) == (NOT_FOUND, "JOB_NOT_FOUND")
        assert answer.message.replace(job, "JOB") == nothing.message.replace(NO_JOB, "JOB")
    else:
        assert (answer.code, answer.reason) == (DENIED, "BACKEND_NOT_ALLOWED")
        assert answer.message == nothing.message
    assert (answer.code, answer.fields, answer.metadata) == (nothing.code, nothing.fields, nothing.metadata)
    assert scene.call("GetJob", pb.GetJobRequest(name=job), "alice").job.name == job


@pytest.mark.parametrize("state", NEVER_GOOD)
@pytest.mark.parametrize("rpc", CALLS)
def test_without_a_good_token(scene: Scene, rpc: str, state: str) -> None:
    """Revoked, expired or none at all: whatever its role was, UNAUTHENTICATED."""
    request = CALLS[rpc].request(NO_JOB)
    callers = [None] if state == "MISSING" else [f"{role}-{state}" for role in ROLES]

    refused = [scene.call(rpc, request, caller) for caller in callers]

    assert {(one.code, one.reason) for one in refused} == {(UNAUTHENTICATED, f"TOKEN_{state}")}


@pytest.mark.parametrize(
    ("who", "sees"), [("alice", True), ("mallory", False), ("olga", True), ("ada", True)]
)
def test_lists_and_watches_show_what_one_may_see(scene: Scene, who: str, sees: bool) -> None:
    """Of everybody's jobs users find their own, operators and admins all."""
    job = scene.submit()

    listed = scene.call("ListJobs", pb.ListJobsRequest(page_size=1000), who)
    watched = scene.call("WatchJobs", pb.WatchJobsRequest(), who)

    assert (job in {one.name for one in listed.jobs}) is sees
    assert bool(watched.jobs) is sees


def test_an_upload_is_its_users(scene: Scene) -> None:
    """Another user's upload of the same id is not there."""

    def part(**fields: Any) -> pb.UploadContentRequest:
        return pb.UploadContentRequest(**fields)

    stub = job_service_pb2_grpc.JobServiceStub(scene.channel)
    metadata = [("authorization", f"Bearer {scene.secrets['alice']}")]
    parts = [part(start={"backend": "lamp"}), part(chunk=b"{}")]
    upload = stub.UploadContent(iter(parts), metadata=metadata).upload

    request = pb.GetUploadRequest(backend="lamp", upload=upload)

    assert scene.call("GetUpload", request, "alice").size_bytes == 2
    assert scene.call("GetUpload", request, "mallory").reason == "UPLOAD_NOT_FOUND"


def test_a_session_is_its_spoolers(scene: Scene) -> None:
    """Another spooler can't go on with it: it looks like one that is over."""
    request = CALLS["NextJob"].request("")
    session = scene.call("NextJob", request, "lamp-pc").session
    theirs = pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["laser"], session=session)
    unknown = pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["laser"], session=LEASE)

    assert scene.call("NextJob", theirs, "laser-pc") == scene.call("NextJob", unknown, "laser-pc")
