"""What becomes of a job by somebody's decision, and why it stands where it stands."""

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers import rules
from spoolway_server.catalog import AuditQuery
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, outcomes_of, state_of, states_of
from tests.server.refusals import refusal

LATER = Timestamp(seconds=4_000_000_000)


async def retry(caller: Caller, name: str) -> pb.RetryJobResponse:
    answer: pb.RetryJobResponse = await caller.RetryJob(pb.RetryJobRequest(name=name))
    return answer


async def explain(caller: Caller, name: str) -> list[tuple[str, str]]:
    answer = await caller.ExplainJob(pb.ExplainJobRequest(name=name))
    assert answer.job.name == name
    causes = pb.ExplanationCause.Name
    return [(causes(e.cause).removeprefix("EXPLANATION_CAUSE_"), e.message) for e in answer.explanations]


async def causes(caller: Caller, name: str) -> list[str]:
    return [cause for cause, _ in await explain(caller, name)]


# Retry


async def test_a_failed_job_runs_anew(alice: Caller, spooler: FakeSpooler) -> None:
    """RetryJob queues it at the tail with a new budget; what was, its history still tells."""
    job = await alice.submit(max_attempts=1)
    await spooler.fail(await spooler.take(), "no vacuum")
    other = await alice.submit()

    retried = (await retry(alice, job.name)).job

    assert (state_of(retried), retried.attempt_count, retried.HasField("error")) == ("QUEUED", 0, False)
    assert outcomes_of(retried) == ["FAILED"]
    assert await spooler.serve(2) == [other.name, job.name]
    assert states_of(await alice.job(job.name))[-5:] == [
        "ERROR(FAILED)",
        "QUEUED",
        "CLAIMED",
        "RUNNING",
        "DONE",
    ]


async def test_a_retry_voids_what_a_spooler_still_has(alice: Caller, spooler: FakeSpooler) -> None:
    """After RetryJob no token of an earlier attempt counts."""
    job = await alice.submit()
    one = await spooler.take()
    await spooler.fail(one, "no vacuum")
    await spooler.credit(0)
    await retry(alice, job.name)

    confirm = await spooler.report(one, complete=pb.Complete(result=b"{}"))

    assert confirm.error.reason == "LEASE_SUPERSEDED"
    assert state_of(await alice.job(job.name)) == "QUEUED"


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "DONE"])
async def test_only_what_ended_without_a_result_is_retried(
    alice: Caller, start_spooler: StartSpooler, state: str
) -> None:
    """RetryJob refuses a job that waits, runs or has a result."""
    job = await alice.submit()
    if state != "QUEUED":
        spooler = await start_spooler()
        one = await spooler.take()
        if state == "DONE":
            await spooler.complete(one, b"{}")

    refused = await refusal(retry(alice, job.name))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    assert state_of(await alice.job(job.name)) == state


# Delete


async def test_a_deleted_job_is_gone(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """DeleteJob takes job and result away; watchers are told, and its request id stays known."""
    job = await alice.submit(request_id="r1")
    await spooler.complete(await spooler.take(), b"{}")
    done = await alice.job(job.name)
    watch = alice.WatchJobs(pb.WatchJobsRequest(names=[job.name]))
    while not (await watch.read()).snapshot_complete:
        pass

    await alice.DeleteJob(pb.DeleteJobRequest(name=job.name, etag=done.etag))

    while not (event := await watch.read()).deleted:
        pass
    assert list(event.deleted) == [job.name]
    for call in (
        alice.GetJob(pb.GetJobRequest(name=job.name)),
        alice.GetResult(pb.GetResultRequest(name=job.name)),
        alice.DeleteJob(pb.DeleteJobRequest(name=job.name)),
        alice.submit(request_id="r1"),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND
    assert await alice.all_jobs() == []


async def test_a_job_that_has_not_ended_is_not_deleted(alice: Caller) -> None:
    """DeleteJob says to cancel it first."""
    job = await alice.submit()

    refused = await refusal(alice.DeleteJob(pb.DeleteJobRequest(name=job.name)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    assert "cancel" in refused.message
    await alice.cancel(job.name)
    await alice.DeleteJob(pb.DeleteJobRequest(name=job.name))


async def test_a_job_that_has_changed_is_not_deleted(alice: Caller) -> None:
    """With an etag DeleteJob takes only what the caller has seen."""
    job = await alice.submit()
    await alice.cancel(job.name)

    refused = await refusal(alice.DeleteJob(pb.DeleteJobRequest(name=job.name, etag=job.etag)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert state_of(await alice.job(job.name)) == "CANCELLED"


# Hold, resume, fail


async def test_an_operator_holds_and_resumes_a_job(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A held job is passed by until it is resumed."""
    operator = lab.caller("olga")
    first, second = [await alice.submit() for _ in range(2)]
    for _ in range(2):
        answer = await operator.HoldJob(admin_pb.HoldJobRequest(name=first.name))
        assert state_of(answer.job) == "HELD(OPERATOR)"
    spooler = await start_spooler()
    assert await spooler.serve(1) == [second.name]

    await operator.ResumeJob(admin_pb.ResumeJobRequest(name=first.name))

    assert await spooler.serve(1) == [first.name]


async def test_an_operator_fails_a_held_job(lab: Lab, alice: Caller) -> None:
    """FailHeldJob ends it with the operator's words, and only what is held."""
    operator = lab.caller("olga")
    job = await alice.submit()
    request = admin_pb.FailHeldJobRequest(name=job.name, message="the sample is gone")
    assert (await refusal(operator.FailHeldJob(request))).reason == "WRONG_STATE"
    await operator.HoldJob(admin_pb.HoldJobRequest(name=job.name))

    failed = (await operator.FailHeldJob(request)).job

    assert state_of(failed) == "ERROR(OPERATOR)"
    assert failed.error.message == "the sample is gone"


@pytest.mark.parametrize("decision", ["ResumeJob", "FailHeldJob"])
async def test_an_operator_decides_about_a_job_that_another_program_holds(
    lab: Lab, alice: Caller, decision: str
) -> None:
    """A foreign-held job is shown, never requeued by itself; an operator lets it go or ends it."""
    job = await alice.submit()
    await lab.commit_elsewhere(job.name, rules.TakenByForeign())
    assert await causes(alice, job.name) == ["FOREIGN"]

    request = getattr(admin_pb, f"{decision}Request")(name=job.name)
    answer = await getattr(lab.caller("olga"), decision)(request)

    assert state_of(answer.job) == {"ResumeJob": "QUEUED", "FailHeldJob": "ERROR(OPERATOR)"}[decision]


async def test_decisions_are_in_the_audit_trail(lab: Lab, alice: Caller) -> None:
    """Who held, resumed, failed or deleted a job, and how that went."""
    operator = lab.caller("olga")
    job = await alice.submit()
    await operator.HoldJob(admin_pb.HoldJobRequest(name=job.name))
    await operator.FailHeldJob(admin_pb.FailHeldJobRequest(name=job.name))
    await refusal(operator.ResumeJob(admin_pb.ResumeJobRequest(name=job.name)))
    await alice.DeleteJob(pb.DeleteJobRequest(name=job.name))

    trail = (await lab.server.audit.events(AuditQuery())).events

    assert [(e.who, e.what, e.subject, e.outcome) for e in reversed(trail)] == [
        ("olga", "HoldJob", job.name, "OK"),
        ("olga", "FailHeldJob", job.name, "OK"),
        ("olga", "ResumeJob", job.name, "WRONG_STATE"),
        ("alice", "DeleteJob", job.name, "OK"),
    ]


# Explain


async def test_a_waiting_job_says_what_it_waits_for(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """No spooler, paused, inactive, no credit, behind how many others: each that holds."""
    first, second, third = [await alice.submit() for _ in range(3)]
    assert await explain(alice, first.name) == [("NO_SPOOLER", "no spooler of backend sim is connected")]
    assert await explain(alice, third.name) == [
        ("NO_SPOOLER", "no spooler of backend sim is connected"),
        ("BEHIND_OTHERS", "2 jobs come first"),
    ]
    await lab.put_policy(paused=True)
    lab.storage().active = False
    assert await causes(alice, first.name) == ["STORAGE_INACTIVE", "BACKEND_PAUSED", "NO_SPOOLER"]

    spooler = await start_spooler(credit=0)
    assert await causes(alice, first.name) == ["STORAGE_INACTIVE", "BACKEND_PAUSED", "NO_CREDIT"]
    await lab.put_policy(paused=False)
    lab.storage().active = True
    assert await explain(alice, second.name) == [
        ("NO_CREDIT", "the spoolers take no job now (spooler)"),
        ("BEHIND_OTHERS", "1 job comes first"),
    ]
    await spooler.credit(1)
    await spooler.take()
    assert await explain(alice, second.name) == [("NO_CREDIT", "all spoolers are busy (spooler): 1 in hand")]
    assert await explain(alice, first.name) == [("IN_HAND", "spooler spooler runs it")]


async def test_a_job_that_is_held_or_has_ended_says_why(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Held until a time, by an operator, lost with its spooler, ended: with time and advice."""
    delayed = await alice.submit(not_before=LATER)
    kept = await alice.submit()
    await lab.caller("olga").HoldJob(admin_pb.HoldJobRequest(name=kept.name))

    answer = await alice.ExplainJob(pb.ExplainJobRequest(name=delayed.name))
    assert answer.explanations[0].cause == pb.EXPLANATION_CAUSE_DELAYED
    assert answer.explanations[0].until == LATER
    answer = await alice.ExplainJob(pb.ExplainJobRequest(name=kept.name))
    assert answer.explanations[0].cause == pb.EXPLANATION_CAUSE_HELD_BY_OPERATOR
    assert "resume" in answer.explanations[0].advice

    lost = await alice.submit(max_attempts=1)
    spooler = await start_spooler()
    await spooler.take()
    await spooler.kill()
    await lab.commit_elsewhere(lost.name, rules.SessionGone(spooler.session))
    assert await causes(alice, lost.name) == ["SPOOLER_LOST"]

    await alice.cancel(kept.name)
    assert await explain(alice, kept.name) == [("ENDED", "it ended CANCELLED")]


async def test_a_job_that_nothing_hinders_is_next(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """With a free spooler and nobody before it a job is about to be handed out."""
    lab.storage().active = False
    await start_spooler()
    lab.storage().active = True
    key = (await alice.submit()).name
    explained = await causes(alice, key)

    assert explained in (["NEXT"], ["IN_HAND"])
