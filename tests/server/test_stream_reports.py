"""What a spooler reports about its jobs, and what becomes of it."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.model import result_blob_id
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, outcomes_of, state_of, states_of
from tests.server.refusals import refusal

REPORTS: dict[str, dict[str, Any]] = {
    "accept": {"accept": pb.Accept()},
    "progress": {"progress": pb.Progress(stage="x")},
    "complete": {"complete": pb.Complete(result=b"{}")},
    "fail": {"fail": pb.Fail(message="broken")},
    "retryable": {"fail": pb.Fail(message="broken", retryable=True)},
    "release": {"release": pb.Release()},
    "cancelled": {"cancelled": pb.Cancelled()},
}


async def test_an_accept_is_durable_when_it_is_confirmed(alice: Caller, spooler: FakeSpooler) -> None:
    """With the confirmation of its accept a job is RUNNING for everybody."""
    job = await alice.submit()
    one = await spooler.assignment()
    claimed = await alice.job(job.name)

    confirm = await spooler.accept(one)

    running = await alice.job(job.name)
    assert not confirm.HasField("error")
    assert (state_of(claimed), state_of(running)) == ("CLAIMED", "RUNNING")
    assert (claimed.attempt_count, running.attempt_count) == (0, 1)


async def test_the_confirmation_of_a_result_has_its_digest(alice: Caller, spooler: FakeSpooler) -> None:
    """A completion is confirmed with the SHA-256 of the result that counts."""
    await alice.submit()

    confirm = await spooler.complete(await spooler.take(), b'{"x": 1}')

    assert confirm.result_sha256 == hashlib.sha256(b'{"x": 1}').hexdigest()


async def test_a_completion_implies_the_accept(alice: Caller, spooler: FakeSpooler) -> None:
    """A job that is completed before it was accepted is DONE, with one attempt."""
    job = await alice.submit()

    confirm = await spooler.complete(await spooler.assignment())

    done = await alice.job(job.name)
    assert not confirm.HasField("error")
    assert (state_of(done), done.attempt_count) == ("DONE", 1)


async def test_f8_the_first_result_of_a_lease_counts(alice: Caller, spooler: FakeSpooler) -> None:
    """A second result with the same token is confirmed with the first one's digest and changes nothing."""
    job = await alice.submit()
    one = await spooler.take()
    first = await spooler.complete(one, b'{"n": 1}')

    second = await spooler.complete(one, b'{"n": 2}')
    third = await spooler.calls.CompleteJob(
        pb.CompleteJobRequest(job=one.job, lease_token=one.lease_token, result=b'{"n": 3}')
    )

    result = await alice.GetResult(pb.GetResultRequest(name=job.name))
    assert result.content == b'{"n": 1}'
    assert first.result_sha256 == second.result_sha256 == third.job.result_sha256 == result.sha256


@pytest.mark.parametrize("kind", REPORTS)
async def test_a_repeated_report_is_answered_like_the_first(
    alice: Caller, spooler: FakeSpooler, kind: str
) -> None:
    """Every report may be repeated: it takes effect once, and both are confirmed."""
    job = await alice.submit()
    one = await spooler.take()
    if kind == "cancelled":
        await alice.cancel(job.name)
        await spooler.next_of("cancel")
    await spooler.credit(0)
    first = await spooler.report(one, **REPORTS[kind])
    once = await alice.job(job.name)

    second = await spooler.report(one, **REPORTS[kind])

    assert not first.HasField("error")
    assert not second.HasField("error")
    assert await alice.job(job.name) == once


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize("kind", REPORTS)
@pytest.mark.parametrize("end", ["fail", "release", "complete"])
async def test_a_report_about_an_attempt_that_has_ended_is_refused(
    alice: Caller, spooler: FakeSpooler, kind: str, end: str
) -> None:
    """After an attempt's end another kind of report with its token is LEASE_ENDED and changes nothing."""
    if kind.replace("retryable", "fail") == end:
        return
    job = await alice.submit()
    one = await spooler.take()
    await spooler.credit(0)
    await spooler.report(one, **REPORTS[end])
    ended = await alice.job(job.name)

    confirm = await spooler.report(one, **REPORTS[kind])

    assert confirm.error.reason == "LEASE_ENDED"
    assert await alice.job(job.name) == ended


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize("kind", REPORTS)
async def test_a_report_with_a_wrong_token_is_refused(alice: Caller, spooler: FakeSpooler, kind: str) -> None:
    """A report with a token that the job never had is LEASE_SUPERSEDED and changes nothing."""
    job = await alice.submit()
    one = await spooler.take()
    running = await alice.job(job.name)
    wrong = pb.Assignment(job=one.job, lease_token="0" * 32)

    confirm = await spooler.report(wrong, **REPORTS[kind])

    assert confirm.error.reason == "LEASE_SUPERSEDED"
    assert await alice.job(job.name) == running


@pytest.mark.parametrize("backend", ["sim", "other", "nowhere"])
async def test_a_report_about_a_job_that_is_not_there_is_refused(
    lab: Lab, spooler: FakeSpooler, backend: str
) -> None:
    """A report about a missing job, or one of a backend that the stream does not serve, is JOB_NOT_FOUND."""
    await lab.caller("robot").register("other")
    missing = pb.Assignment(job=f"backends/{backend}/jobs/{'0' * 24}", lease_token="0" * 32)

    confirm = await spooler.accept(missing)

    assert confirm.error.reason == "JOB_NOT_FOUND"


async def test_a_failure_for_good_ends_the_job(alice: Caller, spooler: FakeSpooler) -> None:
    """A failure that a retry would not mend is ERROR(FAILED) with the spooler's words."""
    job = await alice.submit()

    await spooler.fail(await spooler.take(), "no such gate")

    failed = await alice.job(job.name)
    assert state_of(failed) == "ERROR(FAILED)"
    assert (failed.error.reason, failed.error.message) == ("FAILED", "no such gate")
    assert "no such gate" in failed.status.detail
    assert outcomes_of(failed) == ["FAILED"]


async def test_a_retryable_failure_runs_again_later(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A retryable failure is HELD(DELAYED) for a while, then runs again; others pass meanwhile."""
    job, other = await alice.submit(), await alice.submit()
    await spooler.fail(await spooler.take(), "busy", retryable=True)
    held_job = await alice.job(job.name)
    assert await spooler.serve(1) == [other.name]

    await lab.pass_time(2)

    one = await spooler.take()
    await spooler.complete(one)
    assert state_of(held_job) == "HELD(DELAYED)"
    assert (one.job, one.attempts_before) == (job.name, 1)
    assert outcomes_of(await alice.job(job.name)) == ["FAILED", "DONE"]


async def test_a_spooler_says_how_long_to_wait(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """retry_after is how long a job waits for its next attempt."""
    job = await alice.submit()
    await spooler.fail(await spooler.take(), retryable=True, retry_after=Duration(seconds=100))

    await lab.pass_time(90)
    waiting = await alice.job(job.name)
    await lab.pass_time(11)

    assert state_of(waiting) == "HELD(DELAYED)"
    delay = waiting.due_time.ToDatetime() - waiting.update_time.ToDatetime()
    assert timedelta(seconds=99) < delay < timedelta(seconds=101)
    assert (await spooler.take()).job == job.name


async def test_the_last_attempt_that_fails_ends_the_job(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """When all attempts have failed retryably the job is ERROR(ATTEMPTS_EXHAUSTED)."""
    job = await alice.submit(max_attempts=2)
    await spooler.fail(await spooler.take(), "first", retryable=True)
    await lab.pass_time(3)

    await spooler.fail(await spooler.take(), "second", retryable=True)

    failed = await alice.job(job.name)
    assert state_of(failed) == "ERROR(ATTEMPTS_EXHAUSTED)"
    assert failed.error.message == "second"
    assert outcomes_of(failed) == ["FAILED", "FAILED"]


async def test_a_released_job_keeps_its_attempts(alice: Caller, spooler: FakeSpooler) -> None:
    """A release does not count as an attempt, and its reason is kept."""
    job = await alice.submit(max_attempts=1)
    await spooler.release(await spooler.take(), "realigning the laser")
    one = await spooler.take()

    await spooler.complete(one)

    done = await alice.job(job.name)
    assert outcomes_of(done) == ["RELEASED", "DONE"]
    assert done.attempts[0].detail == "realigning the laser"
    assert (one.attempts_before, done.attempt_count) == (0, 1)


async def test_a_job_is_not_passed_round_for_ever(alice: Caller, spooler: FakeSpooler) -> None:
    """After 20 releases a further one counts as a failure."""
    job = await alice.submit(max_attempts=1)
    for _ in range(20):
        await spooler.release(await spooler.take(), "no")

    confirm = await spooler.release(await spooler.take(), "never")

    ended = await alice.job(job.name)
    assert not confirm.HasField("error")
    assert state_of(ended) == "ERROR(ATTEMPTS_EXHAUSTED)"
    assert "never" in ended.error.message


async def test_the_newest_progress_counts(alice: Caller, spooler: FakeSpooler) -> None:
    """Progress shows in the job; an empty detail leaves the last one."""
    job = await alice.submit()
    one = await spooler.take()
    await spooler.report(one, progress=pb.Progress(stage="cooling", fraction=0.1, detail="At 4 K."))

    await spooler.report(one, progress=pb.Progress(stage="measuring", fraction=0.7))

    running = await alice.job(job.name)
    assert (running.stage, running.fraction) == ("measuring", 0.7)
    status = await alice.GetStatus(pb.GetStatusRequest(name=job.name))
    assert (status.stage, status.fraction) == ("measuring", 0.7)


async def test_reports_about_one_job_are_taken_in_their_order(alice: Caller, spooler: FakeSpooler) -> None:
    """Several reports about a job in one message take effect one after the other."""
    job = await alice.submit()
    one = await spooler.assignment()
    updates = [
        pb.LeaseUpdate(sequence=100 + i, job=one.job, lease_token=one.lease_token, **report)
        for i, report in enumerate(
            [
                {"accept": pb.Accept()},
                {"progress": pb.Progress(stage="one")},
                {"progress": pb.Progress(stage="two")},
                {"complete": pb.Complete(result=b"{}")},
                {"progress": pb.Progress(stage="late")},
            ]
        )
    ]

    await spooler.send(updates=pb.LeaseUpdates(updates=updates))

    confirms = [await spooler.confirmed(100 + i) for i in range(5)]
    assert [confirm.error.reason for confirm in confirms] == ["", "", "", "", "LEASE_ENDED"]
    done = await alice.job(job.name)
    assert (state_of(done), done.stage) == ("DONE", "two")


async def test_a_thousand_reports_at_once_are_all_answered(
    alice: Caller, start_spooler: StartSpooler
) -> None:
    """Good and bad reports of one message are each confirmed by their number."""
    requests = [pb.SubmitJobRequest(backend="sim", content=b"1")] * 100
    await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))
    spooler = await start_spooler(credit=100)
    jobs = await spooler.assignments(100)
    updates = [
        pb.LeaseUpdate(
            sequence=1000 + i,
            job=jobs[i % 100].job,
            lease_token=jobs[i % 100].lease_token if i % 2 else "0" * 32,
            progress=pb.Progress(fraction=i / 1000),
        )
        for i in range(1000)
    ]

    await spooler.send(updates=pb.LeaseUpdates(updates=updates))

    confirms = [await spooler.confirmed(1000 + i) for i in range(1000)]
    assert [confirm.HasField("error") for confirm in confirms] == [i % 2 == 0 for i in range(1000)]
    fractions = {job.name: job.fraction for job in await alice.all_jobs()}
    assert fractions[jobs[99].job] == 0.999
    assert fractions[jobs[97].job] == 0.997


async def test_f5_a_bad_report_is_about_its_job_alone(alice: Caller, start_spooler: StartSpooler) -> None:
    """The failure of one job in a message changes nothing for another in it."""
    bad, good = await alice.submit(), await alice.submit()
    spooler = await start_spooler(credit=2)
    first, second = await spooler.assignments(2)
    updates = [
        pb.LeaseUpdate(sequence=901, job=first.job, lease_token=second.lease_token, accept=pb.Accept()),
        pb.LeaseUpdate(
            sequence=902, job=first.job, lease_token=first.lease_token, fail=pb.Fail(message="mine alone")
        ),
        pb.LeaseUpdate(
            sequence=903, job=second.job, lease_token=second.lease_token, complete=pb.Complete(result=b"{}")
        ),
    ]

    await spooler.send(updates=pb.LeaseUpdates(updates=updates))

    confirms = [await spooler.confirmed(sequence) for sequence in (901, 902, 903)]
    assert [confirm.error.reason for confirm in confirms] == ["LEASE_SUPERSEDED", "", ""]
    assert (await alice.job(bad.name)).error.message == "mine alone"
    assert "mine alone" not in str(await alice.job(good.name))
    assert state_of(await alice.job(good.name)) == "DONE"


async def test_a_late_result_is_refused_and_kept_aside(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A result of a lease that somebody else has by now changes nothing, but is kept for operators."""
    job = await alice.submit()
    slow = await start_spooler("slow")
    lost = await slow.take()
    await lab.pass_time(61)
    await lab.pass_time(3)
    quick = await start_spooler("quick")
    one = await quick.take()

    late = pb.CompleteJobRequest(job=lost.job, lease_token=lost.lease_token, result=b'{"late": true}')
    refused = await refusal(slow.calls.CompleteJob(late))

    assert refused.reason == "LEASE_SUPERSEDED"
    await quick.complete(one, b'{"quick": true}')
    result = await alice.GetResult(pb.GetResultRequest(name=job.name))
    assert result.content == b'{"quick": true}'
    blob = result_blob_id(lab.key(job.name), lost.lease_token)
    assert await lab.storage().provider.stage(blob, 0, b"") == len(b'{"late": true}')
    assert (await refusal(slow.calls.CompleteJob(late))).reason == "LEASE_SUPERSEDED"


async def test_a_lost_lease_may_still_complete_until_somebody_takes_the_job(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A result of a lost lease counts while nobody else has the job: a day's run is not thrown away."""
    job = await alice.submit()
    spooler = await start_spooler()
    one = await spooler.take()
    await spooler.kill()
    await lab.pass_time(61)
    lost = await alice.job(job.name)

    done = await spooler.calls.CompleteJob(
        pb.CompleteJobRequest(job=one.job, lease_token=one.lease_token, result=b"{}")
    )

    assert state_of(lost) == "HELD(DELAYED)"
    assert done.job.state == job_pb2.JOB_STATE_DONE
    assert states_of(done.job)[-3:] == ["HELD(DELAYED)", "RUNNING", "DONE"]
    assert outcomes_of(done.job) == ["DONE"]
