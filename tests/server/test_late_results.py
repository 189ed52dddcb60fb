"""Results of superseded leases change nothing, and are kept aside for a day where people find them."""

import grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import rules
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, state_of
from tests.server.refusals import refusal

LATE = b'{"late": true}'


async def superseded(lab: Lab, alice: Caller, spooler: FakeSpooler, start: StartSpooler) -> pb.Assignment:
    """A job whose first spooler was taken for lost and then delivers, after a second one had begun it."""
    await alice.submit()
    one = await spooler.take()
    await lab.commit_elsewhere(one.job, rules.SessionGone(spooler.session))
    await spooler.credit(0)
    await lab.pass_time(70)
    second = await start("second")
    await second.take()
    request = pb.CompleteJobRequest(job=one.job, lease_token=one.lease_token, result=LATE)
    refused = await refusal(spooler.calls.CompleteJob(request))
    assert refused.reason == "LEASE_SUPERSEDED"
    return one


async def read(caller: Caller, name: str, attempt: int, offset: int = 0) -> bytes:
    request = pb.ReadResultRequest(name=name, attempt=attempt, offset=offset)
    return b"".join([piece.chunk async for piece in caller.ReadResult(request)])


async def test_a_late_result_is_shown_and_read(
    lab: Lab, alice: Caller, spooler: FakeSpooler, start_spooler: StartSpooler
) -> None:
    """ExplainJob tells of it with attempt and size, ReadResult reads it; the job goes on as it is."""
    one = await superseded(lab, alice, spooler, start_spooler)

    answer = await alice.ExplainJob(pb.ExplainJobRequest(name=one.job))

    [kept] = answer.kept_results
    assert (kept.attempt, kept.spooler, kept.size_bytes) == (1, "spooler", len(LATE))
    assert kept.HasField("attempt_end_time")
    assert await read(alice, one.job, 1) == LATE
    assert await read(alice, one.job, 1, offset=3) == LATE[3:]
    assert state_of(answer.job) == "RUNNING"


async def test_what_is_not_kept_is_not_found(
    lab: Lab, alice: Caller, bob: Caller, spooler: FakeSpooler, start_spooler: StartSpooler
) -> None:
    """An attempt without a late result, an offset beyond it, somebody else's job."""
    one = await superseded(lab, alice, spooler, start_spooler)

    for attempt in (2, 3, -1):
        refused = await refusal(read(alice, one.job, attempt))
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RESULT_NOT_KEPT")
    assert (await refusal(read(alice, one.job, 1, offset=99))).reason == "OFFSET_INVALID"
    assert (await refusal(read(bob, one.job, 1))).reason == "JOB_NOT_FOUND"
