"""Names are checked by pattern before they become a path, a key or a query (F11)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Lab
from tests.server.refusals import error_info, refusal

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)

HOSTILE = [
    "../x",
    "../../secret",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "a\0b",
    "a\n",
    "a" * 300,
    "ünïcödé",
    "\uff11\uff12\uff13",
    "a b",
    "%2e%2e",
    "'; DROP TABLE jobs; --",
    "{$gt: 1}",
    "-rf",
]
HOSTILE_JOBS = [
    *HOSTILE,
    "",
    "backends/../jobs/x",
    "backends/sim/jobs/../x",
    "backends/sim/jobs/",
    "backends/sim/jobs/a/b",
    "backends/sim/jobs/..",
    "backends/sim/jobs/" + "a" * 300,
    "backends//jobs/x",
    "backends/" + "b" * 300 + "/jobs/x",
    "storages/sim/jobs/x",
    "backends/sim/things/x",
]
HOSTILE_TOKENS = [*HOSTILE, "", "A" * 32, "0" * 31, "0" * 33, "g" * 32]
JOB = "backends/sim/jobs/" + "0" * 24
TOKEN = "0" * 32


class Place(NamedTuple):
    """A field that takes a name."""

    rpc: str
    field: str
    names: list[str]
    request: Callable[[str], Any]


def job_place(rpc: str) -> Place:
    make = getattr(pb, f"{rpc}Request", None) or getattr(admin_pb, f"{rpc}Request")
    return Place(rpc, "name", HOSTILE_JOBS, lambda name: make(name=name))


def report_places(rpc: str) -> list[Place]:
    make = getattr(pb, f"{rpc}Request")
    result = {"result": b"{}"} if rpc == "CompleteJob" else {}
    return [
        Place(rpc, "job", HOSTILE_JOBS, lambda name: make(job=name, lease_token=TOKEN, **result)),
        Place(rpc, "lease_token", HOSTILE_TOKENS, lambda token: make(job=JOB, lease_token=token, **result)),
    ]


def next_job(**fields: Any) -> pb.NextJobRequest:
    return pb.NextJobRequest(**({"spooler_id": "s", "instance_id": "i", "backends": ["sim"]} | fields))


def extend(**lease: str) -> pb.ExtendLeasesRequest:
    return pb.ExtendLeasesRequest(session=TOKEN, leases=[pb.ExtendedLease(**lease)])


def owned(rpc: str, owner: str) -> Any:
    login = admin_pb.StorageLogin(memory=admin_pb.MemoryLogin())
    return getattr(admin_pb, f"{rpc}Request")(name="new", owner=owner, login=login)


PLACES = [
    Place("SubmitJob", "backend", [*HOSTILE, "", "Sim"], lambda name: pb.SubmitJobRequest(backend=name)),
    *(
        job_place(rpc)
        for rpc in (
            "GetJob",
            "GetStatus",
            "WaitJob",
            "GetResult",
            "ReadResult",
            "CancelJob",
            "RetryJob",
            "DeleteJob",
            "ExplainJob",
            "HoldJob",
            "ResumeJob",
            "FailHeldJob",
        )
    ),
    Place("ListJobs", "backend", [*HOSTILE, "Sim"], lambda name: pb.ListJobsRequest(backend=name)),
    Place("GetBackend", "name", [*HOSTILE, "", "Sim"], lambda name: pb.GetBackendRequest(name=name)),
    Place("NextJob", "spooler_id", [*HOSTILE, ""], lambda name: next_job(spooler_id=name)),
    Place("NextJob", "instance_id", [*HOSTILE, ""], lambda name: next_job(instance_id=name)),
    Place("NextJob", "backends", [*HOSTILE, "", "Sim"], lambda name: next_job(backends=["sim", name])),
    Place("NextJob", "session", [t for t in HOSTILE_TOKENS if t], lambda token: next_job(session=token)),
    *report_places("CompleteJob"),
    *report_places("FailJob"),
    *report_places("ReleaseJob"),
    *report_places("ReadContent"),
    Place(
        "GetUpload", "backend", [*HOSTILE, ""], lambda name: pb.GetUploadRequest(upload=TOKEN, backend=name)
    ),
    Place(
        "GetUpload", "upload", HOSTILE_TOKENS, lambda name: pb.GetUploadRequest(upload=name, backend="sim")
    ),
    Place(
        "GetUpload",
        "job",
        [name for name in HOSTILE_JOBS if name],
        lambda name: pb.GetUploadRequest(job=name, lease_token=TOKEN),
    ),
    Place(
        "GetUpload",
        "lease_token",
        HOSTILE_TOKENS,
        lambda token: pb.GetUploadRequest(job=JOB, lease_token=token),
    ),
    Place("ExtendLeases", "session", HOSTILE_TOKENS, lambda token: pb.ExtendLeasesRequest(session=token)),
    Place("ExtendLeases", "leases.job", HOSTILE_JOBS, lambda name: extend(job=name, lease_token=TOKEN)),
    Place("ExtendLeases", "leases.lease_token", HOSTILE_TOKENS, lambda t: extend(job=JOB, lease_token=t)),
    Place(
        "RegisterBackend",
        "backend",
        [*HOSTILE, "", "Sim"],
        lambda name: pb.RegisterBackendRequest(backend=name, config=b"{}"),
    ),
    Place(
        "RegisterBackend",
        "storage",
        [*HOSTILE, "Main"],
        lambda name: pb.RegisterBackendRequest(backend="new", config=b"{}", storage=name),
    ),
    *(
        Place(
            rpc,
            "name",
            [*HOSTILE, "", "Main"],
            lambda name, rpc=rpc: getattr(admin_pb, f"{rpc}Request")(name=name),
        )
        for rpc in (
            "CreateStorage",
            "UpdateStorage",
            "DeleteStorage",
            "ActivateStorage",
            "DeactivateStorage",
            "GetStorageStats",
        )
    ),
    *(
        Place(rpc, "owner", HOSTILE, lambda name, rpc=rpc: owned(rpc, name))
        for rpc in ("CreateStorage", "UpdateStorage")
    ),
    Place("GetStorage", "name", [*HOSTILE, "", "Main"], lambda name: admin_pb.GetStorageRequest(name=name)),
    Place("TestStorage", "name", [*HOSTILE, ""], lambda name: admin_pb.TestStorageRequest(name=name)),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.rpc}.{place.field}")
async def test_f11_a_hostile_name_is_refused_before_it_is_used(lab: Lab, place: Place) -> None:
    """In every field that takes a name, whatever is none is INVALID_ARGUMENT and names the field."""
    alice = lab.caller()

    for name in place.names:
        refused = await refusal(alice.first(place.rpc, place.request(name)))
        assert (refused.code, refused.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            (place.field,),
        ), name
        assert refused.reason.endswith("_INVALID"), name

    assert (await alice.submit()).name


@pytest.mark.parametrize("field", ["names", "backend"])
async def test_f11_a_hostile_name_is_refused_in_a_watch(lab: Lab, field: str) -> None:
    """A watch with a name that is none ends with INVALID_ARGUMENT."""
    alice = lab.caller()
    names = HOSTILE_JOBS if field == "names" else HOSTILE

    for name in names:
        request = pb.WatchJobsRequest(**{field: [name] if field == "names" else name})
        refused = await refusal(alice.WatchJobs(request).read())
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,)), name


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("spooler_id", [*HOSTILE, ""]),
        ("instance_id", [*HOSTILE, ""]),
        ("backends", [*HOSTILE, ""]),
        ("held.job", HOSTILE_JOBS),
        ("held.lease_token", HOSTILE_TOKENS),
    ],
)
async def test_f11_a_hostile_name_in_hello_ends_the_stream(lab: Lab, field: str, names: list[str]) -> None:
    """A hello with a name that is none is INVALID_ARGUMENT, and no session is opened."""
    for name in names:
        hello: dict[str, Any] = {field: name}
        if field == "backends":
            hello = {"backends": ["sim", name]}
        elif field.startswith("held"):
            lease = {"job": JOB, "lease_token": TOKEN} | {field.removeprefix("held."): name}
            hello = {"held": [pb.HeldLease(**lease)]}
        spooler = FakeSpooler(lab)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await spooler.connect(**hello)
        refused = error_info(caught.value)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (f"hello.{field}",)), name

    assert await lab.storage().provider.sessions() == []


@pytest.mark.parametrize(("field", "names"), [("job", HOSTILE_JOBS), ("lease_token", HOSTILE_TOKENS)])
async def test_f11_a_hostile_name_in_a_report_is_refused_alone(
    spooler: FakeSpooler, field: str, names: list[str]
) -> None:
    """A report with a name that is none is refused in its confirmation; the stream goes on."""
    for name in names:
        one = pb.Assignment(**({"job": JOB, "lease_token": TOKEN} | {field: name}))
        confirm = await spooler.accept(one)
        assert confirm.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], name
        assert confirm.error.reason.endswith("_INVALID"), name

    await spooler.beat()
