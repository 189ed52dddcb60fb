"""Cancelling, and jobs that run too long: both always end."""

from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import rules
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler, held
from tests.server.lab import Caller, Lab, outcomes_of, state_of, states_of


async def test_a_waiting_job_is_cancelled_at_once(alice: Caller, start_spooler: StartSpooler) -> None:
    """A job that nobody has started is CANCELLED with the answer, and never runs."""
    queued = await alice.submit()
    delayed = await alice.submit(not_before=Timestamp(seconds=4_000_000_000))
    last = await alice.submit()

    answers = [await alice.cancel(queued.name), await alice.cancel(delayed.name)]

    assert [state_of(job) for job in answers] == ["CANCELLED", "CANCELLED"]
    spooler = await start_spooler()
    assert await spooler.serve(1) == [last.name]


async def test_a_job_that_was_not_accepted_is_cancelled_at_once(alice: Caller, spooler: FakeSpooler) -> None:
    """A CLAIMED job is CANCELLED with the answer; its spooler is told, and its accept is refused."""
    job = await alice.submit()
    one = await spooler.assignment()

    answer = await alice.cancel(job.name)

    revoke = (await spooler.next_of("revoke")).revoke
    assert state_of(answer) == "CANCELLED"
    assert (revoke.job, revoke.lease_token, revoke.reason) == (job.name, one.lease_token, "JOB_ENDED")
    assert (await spooler.accept(one)).error.reason == "LEASE_ENDED"


async def test_a_running_job_is_asked_to_stop(alice: Caller, spooler: FakeSpooler) -> None:
    """A RUNNING job is CANCELLING until its spooler has stopped it."""
    job = await alice.submit()
    one = await spooler.take()

    answer = await alice.cancel(job.name)

    cancel = (await spooler.next_of("cancel")).cancel
    assert state_of(answer) == "CANCELLING(USER)"
    assert (cancel.job, cancel.lease_token) == (job.name, one.lease_token)
    assert cancel.reason == job_pb2.STATE_REASON_USER
    assert cancel.grace.ToTimedelta() == timedelta(seconds=30)
    assert not (await spooler.report(one, cancelled=pb.Cancelled())).HasField("error")
    assert state_of(await alice.job(job.name)) == "CANCELLED"
    await spooler.beat()
    assert "revoke" not in spooler.kinds


async def test_a_result_that_was_quicker_counts(alice: Caller, spooler: FakeSpooler) -> None:
    """A job that is completed while it is being cancelled is DONE."""
    job = await alice.submit()
    one = await spooler.take()
    await alice.cancel(job.name)

    confirm = await spooler.complete(one)

    assert not confirm.HasField("error")
    assert state_of(await alice.job(job.name)) == "DONE"


@pytest.mark.parametrize("report", ["fail", "retryable", "release"])
async def test_every_other_end_of_a_cancelled_job_is_cancelled(
    alice: Caller, spooler: FakeSpooler, report: str
) -> None:
    """A job that fails or is released while it is being cancelled is CANCELLED, and does not run again."""
    job = await alice.submit()
    one = await spooler.take()
    await alice.cancel(job.name)

    if report == "release":
        confirm = await spooler.release(one)
    else:
        confirm = await spooler.fail(one, retryable=report == "retryable")

    assert not confirm.HasField("error")
    assert state_of(await alice.job(job.name)) == "CANCELLED"


async def test_a_cancel_ends_even_if_the_spooler_does_not_listen(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """When the grace has run out the job is CANCELLED and the lease is revoked."""
    job = await alice.submit()
    one = await spooler.take()
    await alice.cancel(job.name)
    await spooler.next_of("cancel")

    await lab.pass_time(29)
    waiting = await alice.job(job.name)
    await spooler.beat()
    await lab.pass_time(2)

    revoke = (await spooler.next_of("revoke")).revoke
    assert state_of(waiting) == "CANCELLING(USER)"
    assert state_of(await alice.job(job.name)) == "CANCELLED"
    assert (revoke.lease_token, revoke.reason) == (one.lease_token, "JOB_ENDED")
    assert (await spooler.complete(one)).error.reason == "LEASE_ENDED"


async def test_the_grace_is_the_backends(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A backend's policy says how long its jobs have to stop."""
    await lab.put_policy(cancel_grace=timedelta(seconds=5))
    job = await alice.submit()
    await spooler.take()
    await alice.cancel(job.name)

    cancel = (await spooler.next_of("cancel")).cancel
    await lab.pass_time(6)

    assert cancel.grace.ToTimedelta() == timedelta(seconds=5)
    assert state_of(await alice.job(job.name)) == "CANCELLED"


@pytest.mark.parametrize("state", ["DONE", "ERROR", "CANCELLED", "CANCELLING"])
async def test_cancelling_twice_changes_nothing(alice: Caller, spooler: FakeSpooler, state: str) -> None:
    """A cancel of what has ended, or is being cancelled, answers the job as it is."""
    job = await alice.submit()
    one = await spooler.take()
    if state == "DONE":
        await spooler.complete(one)
    elif state == "ERROR":
        await spooler.fail(one)
    else:
        await alice.cancel(job.name)
    if state == "CANCELLED":
        await spooler.report(one, cancelled=pb.Cancelled())
    before = await alice.job(job.name)

    answer = await alice.cancel(job.name)

    assert answer == before
    assert state_of(answer).startswith(state)


async def test_a_cancel_while_the_spooler_is_away_is_told_when_it_is_back(
    alice: Caller, spooler: FakeSpooler
) -> None:
    """A spooler that reconnects is told of cancels that it missed."""
    job = await alice.submit()
    one = await spooler.take()
    await spooler.kill()
    await alice.cancel(job.name)

    welcome = await spooler.connect(held=held(one))

    cancel = (await spooler.next_of("cancel")).cancel
    assert list(welcome.kept) == [job.name]
    assert cancel.lease_token == one.lease_token
    await spooler.report(one, cancelled=pb.Cancelled())
    assert state_of(await alice.job(job.name)) == "CANCELLED"


async def test_a_cancel_by_another_server_is_told_with_the_next_beat(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A cancel that another process committed reaches the spooler with its next beat, and once."""
    job = await alice.submit()
    await spooler.take()
    await lab.commit_elsewhere(job.name, rules.Cancel("alice"))

    await spooler.beat()

    cancel = (await spooler.next_of("cancel")).cancel
    assert cancel.job == job.name
    await spooler.beat()
    assert spooler.kinds.count("cancel") == 1


async def test_a_job_that_runs_too_long_is_stopped(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """After max_run_time a job is asked to stop, and then is ERROR(TIMEOUT)."""
    job = await alice.submit(max_run_time=Duration(seconds=10))
    one = await spooler.take()
    await lab.pass_time(9)
    running = await alice.job(job.name)
    await lab.pass_time(2)
    cancel = (await spooler.next_of("cancel")).cancel

    await spooler.report(one, cancelled=pb.Cancelled())

    ended = await alice.job(job.name)
    assert state_of(running) == "RUNNING"
    assert cancel.reason == job_pb2.STATE_REASON_TIMEOUT
    assert states_of(ended)[-2:] == ["CANCELLING(TIMEOUT)", "ERROR(TIMEOUT)"]
    assert ended.error.reason == "TIMEOUT"
    assert outcomes_of(ended) == ["CANCELLED"]


async def test_a_job_that_runs_too_long_ends_even_if_nobody_listens(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A job over its time whose spooler does not stop it is ERROR(TIMEOUT) after the grace; no retry."""
    job = await alice.submit(max_run_time=Duration(seconds=10))
    await spooler.take()

    await lab.pass_time(11)
    await lab.pass_time(31)

    assert state_of(await alice.job(job.name)) == "ERROR(TIMEOUT)"
    assert (await spooler.next_of("revoke")).revoke.reason == "JOB_ENDED"


async def test_a_result_within_the_grace_of_a_timeout_counts(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A job that ends well while it is being stopped for its time is DONE."""
    job = await alice.submit(max_run_time=Duration(seconds=10))
    one = await spooler.take()
    await lab.pass_time(11)

    await spooler.complete(one)

    assert state_of(await alice.job(job.name)) == "DONE"


async def test_the_run_time_of_each_attempt_is_its_own(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """The time of a job begins anew with each attempt."""
    job = await alice.submit(max_run_time=Duration(seconds=10))
    one = await spooler.take()
    await lab.pass_time(8)
    await spooler.release(one)
    await spooler.take()

    await lab.pass_time(8)

    assert state_of(await alice.job(job.name)) == "RUNNING"
