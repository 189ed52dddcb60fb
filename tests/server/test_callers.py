"""Who calls, and whose a job is (F14)."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from spoolway.v1 import job_service_pb2, storage_admin_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab
from tests.server.refusals import Refused, error_info, refusal

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)

METHODS = [
    method
    for module, service in ((job_service_pb2, "JobService"), (storage_admin_pb2, "StorageAdmin"))
    for method in module.DESCRIPTOR.services_by_name[service].methods
]
NOBODY = ["", "-alice", "a b", "../alice", "a" * 65, "alice/bob", "$ne"]


async def refused_call(caller: Caller, method: Any) -> Refused:
    """The error of an RPC, whatever its shape, with an empty request."""
    request = method.input_type._concrete_class()
    if method.client_streaming:

        async def requests() -> AsyncIterator[Any]:
            yield request

        call = getattr(caller, method.name)(requests())
        return await refusal(call.read() if method.server_streaming else call)
    if method.server_streaming:
        return await refusal(getattr(caller, method.name)(request).read())
    return await refusal(getattr(caller, method.name)(request))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_f14_every_call_needs_a_user(lab: Lab, method: Any) -> None:
    """Without `spoolway-user`, or with one that is no name, every call is UNAUTHENTICATED."""
    missing = await refused_call(lab.caller(None), method)

    assert (missing.code, missing.reason) == (grpc.StatusCode.UNAUTHENTICATED, "USER_MISSING")
    for name in NOBODY:
        refused = await refused_call(lab.caller(name), method)
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "USER_NAME_INVALID",
        ), name


@pytest.mark.parametrize(
    "rpc",
    [
        "GetJob",
        "GetStatus",
        "WaitJob",
        "GetResult",
        "ReadResult",
        "CancelJob",
        "RetryJob",
        "DeleteJob",
        "ExplainJob",
    ],
)
@pytest.mark.parametrize("short", [False, True], ids=["name", "bare id"])
async def test_f14_a_job_of_another_looks_like_a_missing_one(
    lab: Lab, alice: Caller, bob: Caller, rpc: str, short: bool
) -> None:
    """Calls that name a job of somebody else fail as if it did not exist, word for word."""
    job = await alice.submit()
    missing = ("f" * 24) if job.id[0] != "f" else "e" * 24
    make = getattr(pb, f"{rpc}Request")
    name = job.id if short else job.name

    refused = await refusal(bob.first(rpc, make(name=name)))

    absent = await refusal(bob.first(rpc, make(name=name.replace(job.id, missing))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert refused.fields == ("name",)
    assert refused.message.replace(job.id, missing) == absent.message
    assert (await alice.job(job.name)).etag == job.etag


async def test_f14_a_watch_of_a_job_of_another_looks_like_one_of_a_missing_job(
    alice: Caller, bob: Caller
) -> None:
    """A watch that names a job of somebody else fails as if it did not exist."""
    job = await alice.submit()
    own = await bob.submit()

    refused = await refusal(bob.WatchJobs(pb.WatchJobsRequest(names=[own.name, job.name])).read())

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert refused.fields == ("names",)


async def test_f14_lists_and_watches_show_only_own_jobs(alice: Caller, bob: Caller) -> None:
    """ListJobs and WatchJobs never show jobs of others."""
    mine = await alice.submit()
    theirs = await bob.submit()
    watch = bob.WatchJobs(pb.WatchJobsRequest())
    seen = {job.name for job in (await watch.read()).jobs}
    assert (await watch.read()).snapshot_complete

    await alice.cancel(mine.name)
    await bob.cancel(theirs.name)

    changed = await watch.read()
    assert seen == {theirs.name}
    assert [job.name for job in changed.jobs] == [theirs.name]
    assert [job.name for job in await bob.all_jobs()] == [theirs.name]


@pytest.mark.parametrize("rpc", ["CompleteJob", "FailJob", "ReleaseJob", "ReadContent"])
async def test_f14_a_lease_needs_its_token(alice: Caller, spooler: FakeSpooler, rpc: str) -> None:
    """Without the token of its lease nobody reports about a job, its owner neither."""
    job = await alice.submit()
    one = await spooler.take()
    make = getattr(pb, f"{rpc}Request")
    result = {"result": b"{}"} if rpc == "CompleteJob" else {}

    for caller in (alice, spooler.calls):
        wrong = await refusal(caller.first(rpc, make(job=job.name, lease_token="0" * 32, **result)))
        assert (wrong.code, wrong.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "LEASE_SUPERSEDED",
        )

    assert one.lease_token not in str(await alice.job(job.name))


@pytest.mark.parametrize("rpc", ["CompleteJob", "FailJob", "ReleaseJob", "ReadContent"])
async def test_reports_about_a_missing_job_say_so(alice: Caller, rpc: str) -> None:
    """A report about a job that does not exist is NOT_FOUND with the reason of every other call."""
    make = getattr(pb, f"{rpc}Request")
    result = {"result": b"{}"} if rpc == "CompleteJob" else {}
    name = f"backends/sim/jobs/{'0' * 24}"

    refused = await refusal(alice.first(rpc, make(job=name, lease_token="0" * 32, **result)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_two_principals_may_have_spoolers_of_one_name(lab: Lab) -> None:
    """A spooler_id is unique within its principal: another's of the same name replaces nothing."""
    first = FakeSpooler(lab, "same", user="robot")
    second = FakeSpooler(lab, "same", user="other")

    await first.connect()
    await second.connect()

    await first.beat()
    await second.beat()
    assert "goaway" not in first.kinds


async def test_f14_a_session_belongs_to_its_principal(lab: Lab, alice: Caller) -> None:
    """A session's id is of no use to another principal."""
    await alice.submit()
    got = await lab.caller("robot").NextJob(
        pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"])
    )

    refused = await refusal(lab.caller("thief").ExtendLeases(pb.ExtendLeasesRequest(session=got.session)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")


async def test_a_stream_without_a_user_opens_no_session(lab: Lab) -> None:
    """The stream of nobody ends before anything is stored."""
    spooler = FakeSpooler(lab)
    spooler.user = ""

    # Without a hello: a message that can't be sent any more would hide why the stream has ended.
    spooler.open()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await spooler.ended()

    assert error_info(caught.value).reason == "USER_NAME_INVALID"
    assert await lab.storage().provider.sessions() == []
