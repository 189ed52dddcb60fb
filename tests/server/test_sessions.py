"""Sessions: kept alive by beats, resumed, replaced, drained."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import rules
from spoolway_providers.errors import Unavailable
from spoolway_server.clock import Clock
from spoolway_server.services import spooler_stream
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler, held
from tests.server.lab import Caller, Lab, eventually, outcomes_of, state_of, states_of
from tests.server.refusals import error_info

# Beats


async def test_a_beat_is_acknowledged_by_its_number(spooler: FakeSpooler) -> None:
    """The newest beat that is durable is acknowledged, with the interval of the next."""
    for _ in range(3):
        answer = await spooler.beat()

    assert answer.acked_sequence == 3
    assert answer.heartbeat_interval.ToTimedelta() == timedelta(seconds=55)


async def test_a_spooler_that_works_beats_more_often(alice: Caller, spooler: FakeSpooler) -> None:
    """With a job the interval falls at once, without being asked for, and rises again after it."""
    await alice.submit()
    one = await spooler.take()
    told = (await spooler.next_of("beat")).beat
    await spooler.beat()
    await spooler.complete(one)
    await spooler.beat()

    idle = await spooler.beat()

    assert told.heartbeat_interval.ToTimedelta() == timedelta(seconds=10)
    assert idle.heartbeat_interval.ToTimedelta() == timedelta(seconds=55)


async def test_the_interval_is_a_third_of_a_short_lease(lab: Lab, alice: Caller) -> None:
    """Where the lease is short the beats come thrice a lease."""
    await lab.put_policy(lease_ttl=timedelta(seconds=6))
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    await alice.submit()
    await spooler.take()

    answer = await spooler.beat()

    assert answer.heartbeat_interval.ToTimedelta() == timedelta(seconds=2)


async def test_a_beat_is_acknowledged_only_once_it_is_durable(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """While the storage does not take the renewal no beat is acknowledged; the stream goes on."""
    await alice.submit()
    await spooler.take()
    await spooler.beat()
    acked = max(answer.beat.acked_sequence for answer in spooler.beats)

    with lab.faults().failing(Unavailable("down"), "renew"):
        unheard = await spooler.send_beat()
        # What is answered after it shows that it was taken.
        await spooler.report(pb.Assignment(job="x", lease_token="x"), accept=pb.Accept())

    assert max(answer.beat.acked_sequence for answer in spooler.beats) == acked
    answer = await spooler.beat()
    assert answer.acked_sequence > unheard


async def test_f15_an_idle_spooler_writes_nothing(lab: Lab, spooler: FakeSpooler) -> None:
    """The beats of a session that holds nothing cost no write, but for one in ten minutes."""
    with lab.faults().watched("renew", "commit", "claim") as calls:
        for _ in range(10):
            await spooler.beat()
        idle = [name for name in calls if name != "claim"]
        await lab.pass_time(601)
        await spooler.beat()

    assert idle == []
    assert calls.count("renew") == 1


async def test_f16_a_job_longer_than_many_leases_runs_once(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A job that runs a hundred leases long, with beats, is never given to anybody else."""
    job = await alice.submit()
    one = await spooler.take()

    for _ in range(100):
        await spooler.beat()
        await lab.pass_time(30)
    await spooler.complete(one)

    done = await alice.job(job.name)
    assert outcomes_of(done) == ["DONE"]
    assert states_of(done) == ["QUEUED", "CLAIMED", "RUNNING", "DONE"]


# Reconnecting


async def test_a_spooler_that_comes_back_goes_on(alice: Caller, spooler: FakeSpooler) -> None:
    """A spooler that was cut off and lists its job in hello keeps it: nobody notices."""
    job = await alice.submit()
    one = await spooler.take()
    before = await alice.job(job.name)
    await spooler.kill()

    welcome = await spooler.connect(held=held(one))

    assert (list(welcome.kept), list(welcome.revoked)) == ([job.name], [])
    assert welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=10)
    during = await alice.job(job.name)
    assert states_of(during) == states_of(before)
    assert not (await spooler.complete(one)).HasField("error")
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


async def test_a_job_in_hand_counts_on_the_new_stream(alice: Caller, start_spooler: StartSpooler) -> None:
    """What a spooler brings along counts for its credit."""
    spooler = await start_spooler()
    await alice.submit()
    one = await spooler.take()
    waiting = await alice.submit()
    await spooler.kill()
    await spooler.connect(held=held(one))
    await spooler.credit(1)
    await spooler.beat()

    await spooler.complete(one)

    assert (await spooler.assignment()).job == waiting.name


async def test_a_job_that_was_not_accepted_yet_may_be_brought_along(
    alice: Caller, spooler: FakeSpooler
) -> None:
    """An assignment that the connection lost the answer to can be accepted on the next stream."""
    job = await alice.submit()
    one = await spooler.assignment()
    await spooler.kill()

    welcome = await spooler.connect(held=held(one))

    assert list(welcome.kept) == [job.name]
    assert not (await spooler.accept(one)).HasField("error")
    assert state_of(await alice.job(job.name)) == "RUNNING"


async def test_what_hello_does_not_list_returns_at_once(alice: Caller, start_spooler: StartSpooler) -> None:
    """A job that was assigned but never arrived goes back with the next hello, without a penalty for it."""
    spooler = await start_spooler(credit=2)
    kept, lost = await alice.submit(), await alice.submit()
    one, _ = await spooler.assignments(2)
    await spooler.kill()

    welcome = await spooler.connect(held=held(one))

    assert list(welcome.kept) == [kept.name]
    back = await alice.job(lost.name)
    assert (state_of(back), outcomes_of(back)) == ("QUEUED", ["WITHDRAWN"])
    await spooler.credit(2)
    assert (await spooler.assignment()).job == lost.name


async def test_a_running_job_that_hello_does_not_list_is_run_again(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A job that a spooler ran and has forgotten is given back at once, and counts as an attempt."""
    job = await alice.submit()
    await spooler.take()
    await spooler.kill()

    await spooler.connect()

    lost = await alice.job(job.name)
    assert (state_of(lost), outcomes_of(lost), lost.attempt_count) == ("HELD(DELAYED)", ["LOST"], 1)
    await spooler.credit(1)
    await lab.pass_time(3)
    assert await spooler.serve(1) == [job.name]


async def test_what_somebody_else_has_by_now_is_revoked(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A spooler that comes back too late is told which of its jobs are gone, and why."""
    spooler = await start_spooler(credit=3)
    jobs = [await alice.submit() for _ in range(3)]
    taken, ended, failed = [await spooler.take() for _ in jobs]
    await spooler.kill()
    await alice.cancel(ended.job)
    await spooler.calls.FailJob(
        pb.FailJobRequest(job=failed.job, lease_token=failed.lease_token, fail=pb.Fail(message="x"))
    )
    await lab.pass_time(61)
    await lab.pass_time(3)
    other = await start_spooler("other")
    assert (await other.take()).job == taken.job

    strange = pb.Assignment(job=f"backends/sim/jobs/{'0' * 24}", lease_token="0" * 32)
    welcome = await spooler.connect(held=held(taken, ended, failed, strange))

    assert list(welcome.kept) == []
    assert {revoke.job: revoke.reason for revoke in welcome.revoked} == {
        taken.job: "LEASE_SUPERSEDED",
        ended.job: "LEASE_ENDED",
        failed.job: "LEASE_ENDED",
        strange.job: "JOB_NOT_FOUND",
    }
    assert {revoke.lease_token for revoke in welcome.revoked} == {
        one.lease_token for one in (taken, ended, failed, strange)
    }


async def test_a_lost_job_is_resumed_while_nobody_has_it(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A spooler that comes back after its lease ran out keeps its job, if nobody has taken it since."""
    job = await alice.submit()
    one = await spooler.take()
    await spooler.kill()
    await lab.pass_time(61)
    lost = await alice.job(job.name)

    welcome = await spooler.connect(held=held(one))

    assert state_of(lost) == "HELD(DELAYED)"
    assert list(welcome.kept) == [job.name]
    resumed = await alice.job(job.name)
    assert (state_of(resumed), resumed.attempt_count) == ("RUNNING", 1)
    await spooler.complete(one)
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


async def test_a_job_of_no_backend_of_hello_is_revoked(lab: Lab, alice: Caller) -> None:
    """What a spooler holds of a backend that it does not serve any more is revoked."""
    await lab.caller("robot").register("other")
    spooler = FakeSpooler(lab, backends=["sim", "other"])
    await spooler.connect()
    await spooler.credit(1)
    await alice.submit("other")
    one = await spooler.take()
    await spooler.kill()
    spooler.backends = ["sim"]

    welcome = await spooler.connect(held=held(one))

    (revoke,) = welcome.revoked
    assert (revoke.job, revoke.reason) == (one.job, "BACKEND_NOT_IN_HELLO")


async def test_the_same_instance_on_a_second_stream_ends_the_first(
    alice: Caller, spooler: FakeSpooler
) -> None:
    """A spooler that reconnects before the server has noticed the break: the old stream is closed."""
    job = await alice.submit()
    one = await spooler.take()
    again = FakeSpooler(spooler._lab, spooler.spooler_id, spooler.instance_id)

    welcome = await again.connect(held=held(one))

    assert list(welcome.kept) == [job.name]
    assert (await spooler.next_of("goaway")).goaway.reason == "SESSION_CLOSED"
    await spooler.end()
    assert not (await again.complete(one)).HasField("error")


async def test_a_session_that_was_closed_elsewhere_ends_the_stream(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """When another process has closed the session the next beat is answered by goaway: reconnect."""
    await alice.submit()
    one = await spooler.take()
    await lab.storage().provider.close_session(spooler.session, None, "SPOOLER_SILENT")

    await spooler.send_beat()

    assert (await spooler.next_of("goaway")).goaway.reason == "SESSION_CLOSED"
    await spooler.end()
    welcome = await spooler.connect(held=held(one))
    assert list(welcome.kept) == [one.job]


async def test_a_lease_that_was_taken_elsewhere_is_revoked_with_the_beat(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """When a beat shows that a job is not the session's any more it is told so, and gets the next one."""
    job = await alice.submit()
    one = await spooler.take()
    await lab.commit_elsewhere(job.name, rules.Release(one.lease_token))

    await spooler.send_beat()

    revoke = (await spooler.next_of("revoke")).revoke
    assert (revoke.job, revoke.reason) == (job.name, "LEASE_SUPERSEDED")
    assert revoke.lease_token == one.lease_token
    assert (await spooler.assignment()).job == job.name


# Replacing


async def test_a_new_instance_replaces_the_old_one(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """The newest instance of a spooler wins; what the old one runs stays its own until its lease ends."""
    old = await start_spooler(credit=2)
    job = await alice.submit()
    one = await old.take()
    new = await start_spooler(instance_id="second")
    second = await alice.submit()

    assert (await old.next_of("goaway")).goaway.reason == "SESSION_REPLACED"
    assert (await new.take()).job == second.name
    assert state_of(await alice.job(job.name)) == "RUNNING"
    confirm = await old.complete(one)
    assert not confirm.HasField("error")
    assert state_of(await alice.job(job.name)) == "DONE"


async def test_the_leases_of_a_replaced_instance_run_out(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """What a replaced instance does not end goes back when its lease has run out: it can't be renewed."""
    old = await start_spooler()
    job = await alice.submit()
    await old.take()
    new = await start_spooler(instance_id="second")
    await old.next_of("goaway")

    await old.send_beat()
    await lab.pass_time(61)

    lost = await alice.job(job.name)
    assert (state_of(lost), outcomes_of(lost)) == ("HELD(DELAYED)", ["LOST"])
    await lab.pass_time(3)
    assert (await new.take()).job == job.name


@pytest.mark.parametrize("how", ["predecessor_dead", "stream ended"])
async def test_the_leases_of_a_dead_instance_return_at_once(
    lab: Lab, alice: Caller, start_spooler: StartSpooler, how: str
) -> None:
    """Where the old instance is surely dead, or its stream had ended, its jobs return with the new hello."""
    old = await start_spooler()
    job = await alice.submit()
    await old.take()
    if how == "stream ended":
        await old.kill()
    new = FakeSpooler(lab, instance_id="second")

    await new.connect(predecessor_dead=how == "predecessor_dead")

    lost = await alice.job(job.name)
    assert (state_of(lost), outcomes_of(lost)) == ("HELD(DELAYED)", ["LOST"])
    if how == "predecessor_dead":
        assert (await old.next_of("goaway")).goaway.reason == "SESSION_REPLACED"


async def test_a_replaced_spooler_that_does_not_leave_is_cut_off(
    lab: Lab, start_spooler: StartSpooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not close its stream after goaway finds it closed some seconds later."""
    monkeypatch.setattr(spooler_stream, "LEAVE_GRACE_S", 0.05)
    old = await start_spooler()
    await start_spooler(instance_id="second")

    await old.next_of("goaway")

    await old.ended()


# Draining


async def test_a_draining_spooler_gets_no_more_jobs(alice: Caller, start_spooler: StartSpooler) -> None:
    """After drain what was not accepted goes back, what runs goes on, and nothing new comes."""
    spooler = await start_spooler(credit=2)
    running, unstarted = await alice.submit(), await alice.submit()
    one = await spooler.take()
    await spooler.assignment()

    confirm = await spooler.drain()

    assert not confirm.HasField("error")
    back = await alice.job(unstarted.name)
    assert (state_of(back), outcomes_of(back)) == ("QUEUED", ["WITHDRAWN"])
    assert not (await spooler.complete(one)).HasField("error")
    await spooler.beat()
    assert spooler.unasked == []
    assert state_of(await alice.job(running.name)) == "DONE"
    await spooler.end()
    other = await start_spooler("other")
    assert await other.serve(1) == [unstarted.name]


async def test_a_drain_that_is_not_durable_says_so(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """While the storage is down a drain is refused with UNAVAILABLE, and may be repeated."""
    spooler = await start_spooler()
    job = await alice.submit()
    await spooler.assignment()

    with lab.faults().failing(Unavailable("down"), "commit"):
        refused = await spooler.drain()
    confirm = await spooler.drain()

    assert refused.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert not confirm.HasField("error")
    assert state_of(await alice.job(job.name)) == "QUEUED"


async def test_a_stream_that_ends_with_nothing_in_hand_ends_its_session(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """Of a spooler that left in peace nothing remains in the storage."""
    await alice.submit()
    await spooler.serve(1)

    await spooler.end()

    await lab.server.spoolers.settle()
    assert await lab.storage().provider.sessions() == []


async def test_reports_that_came_before_the_break_count(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """A completion that reached the server before the connection broke is committed."""
    job = await alice.submit()
    one = await spooler.take()
    with lab.faults().held_up("commit") as gate:
        await spooler.send_report(one, complete=pb.Complete(result=b"{}"))
        await gate.reached.wait()
        await spooler.kill()

    assert state_of(await alice.until(job.name, "DONE")) == "DONE"


@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_a_restarted_server_keeps_jobs_and_leases(start_lab: StartLab) -> None:
    """Over a restart of the server nothing is lost: the spooler comes back and goes on."""
    lab = await start_lab(clock=Clock())
    await lab.caller("robot").register()
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    job = await lab.caller().submit(request_id="r")
    one = await spooler.take()
    waiting = await lab.caller().submit()
    await lab.close()

    again = await start_lab(clock=Clock())
    alice = again.caller()
    spooler = FakeSpooler(again)
    welcome = await spooler.connect(held=held(one))
    await spooler.credit(1)

    assert list(welcome.kept) == [job.name]
    assert not (await spooler.complete(one)).HasField("error")
    assert await spooler.serve(1) == [waiting.name]
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]
    assert (await alice.submit(request_id="r")).name == job.name


async def test_f16_a_fresh_spooler_is_online_at_once(lab: Lab, spooler: FakeSpooler) -> None:
    """A backend is operational with the welcome of its spooler, and not any more when it has left."""
    caller = lab.caller()

    async def status() -> tuple[bool, str]:
        backend = (await caller.GetBackend(pb.GetBackendRequest(name="sim"))).backend
        return backend.status.operational, backend.status.status_msg

    online = await status()
    await spooler.kill()

    assert online == (True, "ok")
    assert await status() == (False, "no spooler is connected")


async def test_the_end_of_a_cancelled_stream_leaves_no_task_behind(lab: Lab, spooler: FakeSpooler) -> None:
    """A stream that the client cancels ends in the server with all that belongs to it."""
    await spooler.kill()
    await lab.server.spoolers.settle()

    def streams() -> list[str]:
        return [
            task.get_coro().__qualname__
            for task in asyncio.all_tasks()
            if "SpoolerStream" in getattr(task.get_coro(), "__qualname__", "")
        ]

    await eventually(lambda: streams() == [])


async def test_a_refused_spooler_takes_nothing_over(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A hello that is refused for one backend changes nothing about the others' leases."""
    job = await alice.submit()
    one = await spooler.take()
    second = FakeSpooler(lab, instance_id="second", backends=["sim", "nowhere"])

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await second.connect(predecessor_dead=True)

    assert error_info(caught.value).reason == "BACKEND_NOT_FOUND"
    assert not (await spooler.complete(one)).HasField("error")
    assert state_of(await alice.job(job.name)) == "DONE"
