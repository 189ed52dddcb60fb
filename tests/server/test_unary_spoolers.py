"""Spoolers without a stream: NextJob, ExtendLeases and the calls that end a job."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import Unavailable
from tests.server.conftest import StartLab, StartSpooler
from tests.server.lab import Caller, Lab, eventually, outcomes_of, state_of
from tests.server.refusals import Refused, refusal

SHORT = Duration(nanos=30_000_000)


class UnarySpooler:
    """The simplest spooler."""

    def __init__(
        self, caller: Caller, instance_id: str = "first", backends: tuple[str, ...] = ("sim",)
    ) -> None:
        self.calls = caller
        self.instance_id = instance_id
        self.backends = backends
        self.session = ""

    async def next(self, wait: Duration = SHORT) -> pb.Assignment | None:
        """The next job, if there is one in time."""
        answer = await self.calls.NextJob(self.request(wait))
        self.session = answer.session
        return answer.assignment if answer.HasField("assignment") else None

    def request(self, wait: Duration = SHORT) -> pb.NextJobRequest:
        """A NextJob within the session, or for a new one."""
        return pb.NextJobRequest(
            spooler_id="simple",
            instance_id=self.instance_id,
            backends=self.backends,
            session=self.session,
            wait_timeout=wait,
        )

    async def take(self) -> pb.Assignment:
        """The next job, which must come."""
        one = await self.next(Duration(seconds=10))
        assert one is not None
        return one

    async def extend(self, *jobs: pb.Assignment, **lease: Any) -> pb.ExtendLeasesResponse:
        """Renew the session and say what is in hand."""
        leases = [pb.ExtendedLease(job=one.job, lease_token=one.lease_token, **lease) for one in jobs]
        answer: pb.ExtendLeasesResponse = await self.calls.ExtendLeases(
            pb.ExtendLeasesRequest(session=self.session, leases=leases)
        )
        return answer

    async def complete(self, one: pb.Assignment, result: bytes = b"{}") -> job_pb2.Job:
        """End a job well."""
        request = pb.CompleteJobRequest(job=one.job, lease_token=one.lease_token, result=result)
        return (await self.calls.CompleteJob(request)).job


@pytest.fixture
def simple(lab: Lab) -> UnarySpooler:
    """A spooler without a stream."""
    return UnarySpooler(lab.caller("robot"))


async def test_a_job_goes_through_unary_calls(alice: Caller, simple: UnarySpooler) -> None:
    """Taken, accepted, reported and completed without a stream."""
    job = await alice.submit(content=b'{"n": 1}', labels={"a": "b"})

    one = await simple.take()
    claimed = await alice.job(job.name)
    standing = await simple.extend(one, progress=pb.Progress(stage="half", fraction=0.5))
    running = await alice.job(job.name)
    done = await simple.complete(one)

    assert (one.job, one.content, dict(one.labels)) == (job.name, b'{"n": 1}', {"a": "b"})
    assert (state_of(claimed), state_of(running), state_of(done)) == ("CLAIMED", "RUNNING", "DONE")
    assert (running.stage, running.fraction) == ("half", 0.5)
    (lease,) = standing.leases
    assert lease.job == job.name
    assert not lease.HasField("revoked")
    assert not lease.HasField("cancel")
    assert standing.lease_ttl.ToTimedelta().total_seconds() == 30
    assert (await alice.GetResult(pb.GetResultRequest(name=job.name))).content == b"{}"


async def test_no_job_is_no_error(simple: UnarySpooler) -> None:
    """Where none comes in time the answer has a session and no job."""
    answer = await simple.calls.NextJob(simple.request())

    assert len(answer.session) == 32
    assert not answer.HasField("assignment")
    assert answer.lease_ttl.ToTimedelta().total_seconds() == 30
    assert answer.accept_timeout.ToTimedelta().total_seconds() == 10


async def test_a_job_that_comes_during_the_wait_is_handed_out_at_once(
    alice: Caller, simple: UnarySpooler
) -> None:
    """A waiting NextJob is answered by the submit."""
    waiting = asyncio.create_task(simple.take())
    await simple_is_waiting(waiting)

    job = await alice.submit()

    assert (await waiting).job == job.name


async def simple_is_waiting(task: asyncio.Task[Any]) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()


async def test_a_session_goes_on_over_calls(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """With the session of the last answer no new one is opened."""
    await simple.next()
    first = simple.session

    await alice.submit()
    one = await simple.take()

    assert simple.session == first
    (view,) = await lab.storage().provider.sessions()
    assert (view.session.id, view.leases) == (first, 1)
    await simple.complete(one)


async def test_a_completion_without_an_accept_implies_it(alice: Caller, simple: UnarySpooler) -> None:
    """A quick job needs no ExtendLeases: CompleteJob or FailJob from CLAIMED is enough."""
    first, second = await alice.submit(), await alice.submit()

    done = await simple.complete(await simple.take())
    one = await simple.take()
    failed = await simple.calls.FailJob(
        pb.FailJobRequest(job=one.job, lease_token=one.lease_token, fail=pb.Fail(message="no"))
    )

    assert (done.name, state_of(done), done.attempt_count) == (first.name, "DONE", 1)
    assert (failed.job.name, state_of(failed.job)) == (second.name, "ERROR(FAILED)")


async def test_a_job_is_released_unharmed(alice: Caller, simple: UnarySpooler) -> None:
    """ReleaseJob gives a job back without counting an attempt."""
    job = await alice.submit()
    one = await simple.take()
    await simple.extend(one)

    back = await simple.calls.ReleaseJob(
        pb.ReleaseJobRequest(job=one.job, lease_token=one.lease_token, reason="later")
    )

    assert (state_of(back.job), back.job.attempt_count, outcomes_of(back.job)) == ("QUEUED", 0, ["RELEASED"])
    assert (await simple.take()).job == job.name


@pytest.mark.parametrize("rpc", ["CompleteJob", "FailJob", "ReleaseJob"])
async def test_f8_an_end_may_be_repeated(alice: Caller, simple: UnarySpooler, rpc: str) -> None:
    """A call that ended a job, repeated, is answered by the job as it is then."""
    await alice.submit()
    one = await simple.take()
    result = {"result": b"{}"} if rpc == "CompleteJob" else {}
    request = getattr(pb, f"{rpc}Request")(job=one.job, lease_token=one.lease_token, **result)
    first = await getattr(simple.calls, rpc)(request)

    second = await getattr(simple.calls, rpc)(request)

    assert second == first


async def test_what_was_not_accepted_goes_back(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """A job that a caller took and never accepted is withdrawn."""
    job = await alice.submit()
    one = await simple.take()

    await lab.pass_time(11)

    back = await alice.job(job.name)
    assert (state_of(back), outcomes_of(back)) == ("QUEUED", ["WITHDRAWN"])
    standing = (await simple.extend(one)).leases[0]
    assert (standing.revoked.job, standing.revoked.lease_token) == (job.name, one.lease_token)
    assert standing.revoked.reason == "LEASE_ENDED"


async def test_a_lease_lasts_from_one_extension_to_the_next(
    lab: Lab, alice: Caller, simple: UnarySpooler
) -> None:
    """A job of many leases' length stays with a spooler that extends, and goes when it stops."""
    job = await alice.submit()
    one = await simple.take()
    for _ in range(5):
        await simple.extend(one)
        await lab.pass_time(45)
    running = await alice.job(job.name)

    await lab.pass_time(61)

    assert state_of(running) == "RUNNING"
    assert outcomes_of(await alice.job(job.name)) == ["LOST"]
    refused = await refusal(simple.extend(one))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")


async def test_a_lost_lease_is_told(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """ExtendLeases says which of its leases somebody else has, or nobody ever had."""
    job, gone = await alice.submit(), await alice.submit()
    one, cancelled = await simple.take(), await simple.take()
    await simple.extend(one)
    await alice.cancel(gone.name)
    strange = pb.Assignment(job=job.name, lease_token="0" * 32)
    missing = pb.Assignment(job=f"backends/sim/jobs/{'0' * 24}", lease_token="0" * 32)

    standing = (await simple.extend(one, cancelled, strange, missing, one)).leases

    assert [lease.job for lease in standing] == [one.job, gone.name, job.name, missing.job, one.job]
    assert [lease.revoked.reason for lease in standing] == [
        "",
        "LEASE_ENDED",
        "LEASE_SUPERSEDED",
        "JOB_NOT_FOUND",
        "",
    ]


async def test_a_cancel_is_told(alice: Caller, simple: UnarySpooler) -> None:
    """ExtendLeases says which jobs are to be stopped, until they are."""
    job = await alice.submit()
    one = await simple.take()
    await simple.extend(one)
    await alice.cancel(job.name)

    for _ in range(2):
        (lease,) = (await simple.extend(one)).leases
        assert lease.cancel.lease_token == one.lease_token
        assert lease.cancel.reason == job_pb2.STATE_REASON_USER
        assert lease.cancel.grace.ToTimedelta().total_seconds() == 30
    await simple.calls.FailJob(
        pb.FailJobRequest(job=one.job, lease_token=one.lease_token, fail=pb.Fail(message="stopped"))
    )

    assert state_of(await alice.job(job.name)) == "CANCELLED"


async def test_a_new_instance_replaces_the_session(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """A second instance ends the session of the first, whose calls say so; its job is still its own."""
    job = await alice.submit()
    one = await simple.take()
    await simple.extend(one)
    second = UnarySpooler(lab.caller("robot"), "second")
    await second.next()

    async def refused(call: Any) -> Refused:
        return await refusal(call)

    extended = await refused(simple.extend(one))
    next_one = await refused(simple.next())

    for answer in (extended, next_one):
        assert (answer.code, answer.reason) == (grpc.StatusCode.ABORTED, "SESSION_REPLACED")
    assert state_of(await simple.complete(one)) == "DONE"
    assert (await alice.job(job.name)).result_bytes == 2


async def test_a_stream_replaces_a_session_without_one(
    lab: Lab, simple: UnarySpooler, start_spooler: StartSpooler
) -> None:
    """A spooler that goes over to a stream ends its unary session."""
    await simple.next()

    await start_spooler("simple", instance_id="second")

    assert (await refusal(simple.next())).reason == "SESSION_REPLACED"


async def test_an_unknown_session_is_over(simple: UnarySpooler) -> None:
    """A session that nobody knows is answered like one that is over: open a new one."""
    simple.session = "0" * 32

    for call in (simple.next(), simple.extend()):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")


async def test_a_caller_that_goes_away_leaves_no_job_claimed(
    lab: Lab, alice: Caller, simple: UnarySpooler
) -> None:
    """A job that was being claimed for a caller who went away goes back at once."""
    with lab.faults().held_up("claim") as gate:
        job = await alice.submit()
        waiting = simple.calls.NextJob(simple.request(Duration(seconds=10)))
        await asyncio.wait_for(gate.reached.wait(), 10)
        waiting.cancel()
        await eventually(lambda: not lab.storage().dispatcher("sim").has_sessions)
    back = await alice.until(job.name, "QUEUED")

    assert outcomes_of(back) == ["WITHDRAWN"]
    other = UnarySpooler(lab.caller("robot"), "second")
    assert (await other.take()).job == job.name


async def test_a_wait_that_runs_out_during_a_claim_loses_nothing(
    lab: Lab, alice: Caller, simple: UnarySpooler
) -> None:
    """A job that was being claimed when the wait ran out goes back, and comes with the next call."""
    with lab.faults().held_up("claim") as gate:
        job = await alice.submit()
        assert await simple.next() is None
        assert gate.reached.is_set()
    await alice.until(job.name, "QUEUED")

    assert (await simple.take()).job == job.name


async def test_several_callers_wait_side_by_side(lab: Lab, alice: Caller) -> None:
    """Each of several waiting callers gets one of the jobs that come."""
    spoolers = [UnarySpooler(lab.caller(f"robot{i}")) for i in range(10)]
    waiting = [asyncio.create_task(spooler.take()) for spooler in spoolers]
    await simple_is_waiting(waiting[0])

    names = {(await alice.submit()).name for _ in spoolers}

    assert {one.job for one in await asyncio.gather(*waiting)} == names


async def test_an_idle_heartbeat_works_with_several_storages(start_lab: StartLab) -> None:
    """ExtendLeases without a job renews the session where it lives, whichever other storages there are."""
    lab = await start_lab("main", "second")
    robot = lab.caller("robot")
    await robot.register("one")
    await robot.register("two", storage="second")
    for backends in (("one",), ("two",), ("one", "two")):
        simple = UnarySpooler(robot, "-".join(backends), backends)
        await simple.next()

        answer = await simple.extend()

        assert list(answer.leases) == []


async def test_one_extension_keeps_the_leases_in_all_storages(start_lab: StartLab) -> None:
    """A session over two storages that names a job of one of them is alive in both."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    simple = UnarySpooler(robot, backends=("one", "two"))
    jobs = [await alice.submit("one"), await alice.submit("two")]
    taken = [await simple.take(), await simple.take()]
    await simple.extend(*taken)

    for _ in range(3):
        await lab.pass_time(45)
        await simple.extend(taken[0])

    assert [state_of(await alice.job(job.name)) for job in jobs] == ["RUNNING", "RUNNING"]


async def test_a_spooler_that_only_waits_is_no_ghost(lab: Lab, simple: UnarySpooler) -> None:
    """A session that asks for jobs all day, and gets none, stays open, renewed thrice a lease at most."""
    await simple.next()
    first = simple.session
    with lab.faults().watched("renew") as calls:
        for _ in range(10):
            await lab.pass_time(15)
            await simple.next()

    assert simple.session == first
    assert 4 <= len(calls) <= 6


async def test_a_clock_that_was_set_back_is_no_silence(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """Renewals count also while the server's wall clock is behind where it was."""
    job = await alice.submit()
    one = await simple.take()
    await simple.extend(one)
    lab.jump(-7200)

    for _ in range(3):
        await simple.extend(one)
        await lab.pass_time(45)

    assert state_of(await alice.job(job.name)) == "RUNNING"


async def test_trouble_of_the_storage_is_unavailable(lab: Lab, alice: Caller, simple: UnarySpooler) -> None:
    """While the storage is down each call is UNAVAILABLE with the time to wait; afterwards it works."""
    await alice.submit()
    one = await simple.take()
    fail = pb.FailJobRequest(job=one.job, lease_token=one.lease_token, fail=pb.Fail(message="x"))
    with lab.faults().failing(Unavailable("down"), "get", "commit", "renew", "sessions", "open_session"):
        refused = [
            await refusal(simple.next()),
            await refusal(simple.extend(one)),
            await refusal(simple.complete(one)),
            await refusal(simple.calls.FailJob(fail)),
            await refusal(
                simple.calls.ReleaseJob(pb.ReleaseJobRequest(job=one.job, lease_token=one.lease_token))
            ),
            await refusal(UnarySpooler(lab.caller("other")).next()),
        ]

    for answer in refused:
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert answer.retry_after
    assert state_of(await simple.complete(one)) == "DONE"
