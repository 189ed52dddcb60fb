"""Spoolers that die, hang or never accept: their jobs come back, and always end (F4)."""

from datetime import timedelta
from typing import Any

import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway_server.clock import Clock
from spoolway_server.sessions import FIRST_PENALTY_S
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler, held
from tests.server.lab import Caller, Lab, outcomes_of, state_of, states_of

QUICK: dict[str, Any] = {
    "leases": {"ttl_s": 0.3, "resume_grace_s": 0.1, "heartbeat_interval_s": 0.1, "accept_timeout_s": 0.3}
}


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_f4_a_lost_spooler_gives_its_job_back(start_lab: StartLab, how: str) -> None:
    """A job of a spooler that was killed, or hangs, is given to another after lease and grace."""
    lab = await start_lab(**QUICK)
    await lab.caller("robot").register()
    alice = lab.caller()
    job = await alice.submit()
    spooler = FakeSpooler(lab, "lost")
    await spooler.connect()
    await spooler.credit(1)
    await spooler.take()

    if how == "killed":
        await spooler.kill()

    lost = await alice.until(job.name, "HELD(DELAYED)")
    await lab.pass_time(3)
    other = FakeSpooler(lab, "other")
    await other.connect()
    await other.credit(1)
    assert await other.serve(1) == [job.name]
    done = await alice.job(job.name)
    assert "lost was lost" in lost.attempts[0].detail
    assert outcomes_of(done) == ["LOST", "DONE"]
    assert states_of(done) == [
        "QUEUED",
        "CLAIMED",
        "RUNNING",
        "HELD(DELAYED)",
        "QUEUED",
        "CLAIMED",
        "RUNNING",
        "DONE",
    ]
    assert "Waits for its time." in done.status.detail


async def test_f16_a_spooler_that_beats_keeps_its_job(start_lab: StartLab) -> None:
    """A spooler that beats keeps its job over many leases, by the real clock."""
    lab = await start_lab(clock=Clock(), **QUICK)
    await lab.caller("robot").register()
    job = await lab.caller().submit()
    spooler = FakeSpooler(lab)
    welcome = await spooler.connect()
    await spooler.credit(1)
    one = await spooler.take()

    # A beat each tenth of a second, told by a wait for a change that does not come.
    for _ in range(10):
        await spooler.beat()
        await lab.caller().wait(
            job.name, etag=(await lab.caller().job(job.name)).etag, timeout=timedelta(seconds=0.1)
        )
    await spooler.complete(one)

    assert welcome.lease_ttl.ToTimedelta() == timedelta(seconds=0.3)
    assert outcomes_of(await lab.caller().job(job.name)) == ["DONE"]


async def test_a_job_100_times_longer_than_its_lease_runs_once(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """As long as its spooler beats, a lease is prolonged for ever: nobody else gets the job."""
    spooler, other = await start_spooler("spooler"), await start_spooler("other", credit=0)
    job = await alice.submit()
    one = await spooler.take()
    await other.credit(1)

    # 120 leases of 30 s.
    for _ in range(144):
        await lab.pass_time(25)
        await spooler.beat()
        await other.beat()
    await spooler.complete(one)

    assert outcomes_of(await alice.job(job.name)) == ["DONE"]
    assert (await alice.job(job.name)).attempts[0].spooler == "spooler"


async def test_f4_a_job_whose_spoolers_are_all_lost_ends(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """When all its attempts were lost a job is ERROR(SPOOLER_LOST), with every attempt told."""
    job = await alice.submit(max_attempts=2)
    for i in range(2):
        spooler = await start_spooler(f"s{i}")
        await spooler.take()
        await spooler.kill()
        await lab.pass_time(61)
        await lab.pass_time(5)

    ended = await alice.job(job.name)

    assert state_of(ended) == "ERROR(SPOOLER_LOST)"
    assert outcomes_of(ended) == ["LOST", "LOST"]
    assert [attempt.spooler for attempt in ended.attempts] == ["s0", "s1"]
    assert ended.status.status == "ERROR"
    assert "lost" in ended.status.error_message


async def test_a_job_that_may_not_run_twice_waits_for_its_spooler(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """With one attempt only, a job whose spooler is lost waits for it, and goes on when it is back."""
    job = await alice.submit(max_attempts=1)
    one = await spooler.take()
    await spooler.kill()
    await lab.pass_time(61)
    waiting = await alice.job(job.name)

    welcome = await spooler.connect(held=held(one))

    assert state_of(waiting) == "HELD(SPOOLER_LOST)"
    assert waiting.status.status == "QUEUED"
    assert list(welcome.kept) == [job.name]
    await spooler.complete(one)
    assert state_of(await alice.job(job.name)) == "DONE"


async def test_a_job_does_not_wait_for_its_spooler_for_ever(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """After the backend's lost_timeout a job whose spooler is lost is ERROR(SPOOLER_LOST)."""
    job = await alice.submit(max_attempts=1)
    await spooler.take()
    await spooler.kill()
    await lab.pass_time(61)

    await lab.pass_time(24 * 3600 + 1)

    assert state_of(await alice.job(job.name)) == "ERROR(SPOOLER_LOST)"


async def test_a_spooler_within_its_grace_loses_nothing(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """Up to lease and grace nothing is taken away; a beat starts the time anew."""
    job = await alice.submit()
    one = await spooler.take()

    for _ in range(3):
        await lab.pass_time(59)
        await spooler.beat()

    assert not (await spooler.complete(one)).HasField("error")
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


async def test_the_time_of_a_backend_counts(lab: Lab, alice: Caller, start_spooler: StartSpooler) -> None:
    """A backend whose policy sets hours waits hours for its spooler."""
    await lab.put_policy(lease_ttl=timedelta(hours=2), resume_grace=timedelta(hours=1))
    spooler = await start_spooler()
    job = await alice.submit()
    await spooler.take()
    await spooler.kill()

    await lab.pass_time(3 * 3600 - 60)
    running = await alice.job(job.name)
    await lab.pass_time(3 * 3600)

    assert state_of(running) == "RUNNING"
    assert state_of(await alice.job(job.name)).startswith("HELD")


# Not accepted


@pytest.fixture
async def hasty(start_lab: StartLab) -> Lab:
    """A lab that waits for acceptances for a tenth of a second only."""
    lab = await start_lab(leases={"accept_timeout_s": 0.1})
    await lab.caller("robot").register()
    return lab


async def test_a_job_that_is_not_accepted_goes_to_another(hasty: Lab) -> None:
    """What a spooler does not accept in time is withdrawn, unharmed, and somebody else gets it."""
    alice = hasty.caller()
    deaf = FakeSpooler(hasty, "deaf")
    await deaf.connect()
    await deaf.credit(1)
    job = await alice.submit()
    one = await deaf.assignment()

    revoke = (await deaf.next_of("revoke")).revoke

    assert (revoke.lease_token, revoke.reason) == (one.lease_token, "LEASE_WITHDRAWN")
    back = await alice.job(job.name)
    assert (state_of(back), outcomes_of(back), back.attempt_count) == ("QUEUED", ["WITHDRAWN"], 0)
    assert "deaf did not accept it in time" in back.attempts[0].detail
    other = FakeSpooler(hasty, "other")
    await other.connect()
    await other.credit(1)
    assert await other.serve(1) == [job.name]
    assert (await deaf.accept(one)).error.reason == "LEASE_ENDED"


async def test_a_spooler_that_did_not_accept_gets_nothing_for_a_while(hasty: Lab) -> None:
    """It is passed over for 10 s, then for 20 s, and is as good as any again once it accepts."""
    alice = hasty.caller()
    deaf = FakeSpooler(hasty, "deaf")
    await deaf.connect()
    await deaf.credit(1)
    job = await alice.submit()
    session = hasty.server.spoolers.sessions[deaf.session]

    penalties = []
    for _ in range(3):
        await deaf.assignment()
        await deaf.next_of("revoke")
        penalties.append(round(session.penalty_left_s))
        assert session.free("sim") == 0
        hasty.jump(penalties[-1] + 1)
        hasty.storage().dispatcher("sim").wake()
    assert await deaf.serve(1) == [job.name]

    assert penalties == [FIRST_PENALTY_S, 2 * FIRST_PENALTY_S, 4 * FIRST_PENALTY_S]
    await alice.submit()
    await deaf.assignment()
    await deaf.next_of("revoke")
    assert round(session.penalty_left_s) == FIRST_PENALTY_S


async def test_an_accept_in_time_is_no_late_one(hasty: Lab) -> None:
    """A job that was accepted in time stays where it is when the time for it has passed."""
    alice = hasty.caller()
    spooler = FakeSpooler(hasty, "good")
    await spooler.connect()
    await spooler.credit(2)
    job = await alice.submit()
    one = await spooler.take()
    await alice.submit()
    await spooler.assignment()
    await spooler.next_of("revoke")

    assert state_of(await alice.job(job.name)) == "RUNNING"
    assert not (await spooler.complete(one)).HasField("error")


# Poison


async def test_a_job_that_kills_its_spoolers_ends(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A job that kills spooler after spooler before it is accepted is ERROR(POISON) after max_crashes."""
    job = await alice.submit()
    for i in range(5):
        spooler = await start_spooler(instance_id=f"i{i}")
        await spooler.assignment()
        await spooler.kill()
    await start_spooler(instance_id="last")

    ended = await alice.job(job.name)

    assert state_of(ended) == "ERROR(POISON)"
    assert outcomes_of(ended) == ["LOST"] * 5
    assert ended.attempt_count == 0


async def test_a_job_that_kills_its_spoolers_ends_though_each_takes_its_time_to_restart(hasty: Lab) -> None:
    """A stream that ends before the accept counts as a crash, also when nobody comes back for long."""
    alice = hasty.caller()
    job = await alice.submit()
    for i in range(5):
        spooler = FakeSpooler(hasty, f"spooler{i}")
        await spooler.connect()
        await spooler.credit(1)
        await spooler.assignment()
        await spooler.kill()
        await alice.until(job.name, "QUEUED" if i < 4 else "ERROR(POISON)")

    ended = await alice.job(job.name)

    assert outcomes_of(ended) == ["LOST"] * 5
    assert "its stream ended before the job was accepted" in ended.attempts[0].detail


async def test_a_poisonous_job_lets_the_others_through(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """After its end the other jobs of the backend are served."""
    await lab.put_policy(max_crashes=2)
    poison, good = await alice.submit(), await alice.submit()
    for i in range(2):
        spooler = await start_spooler(instance_id=f"i{i}")
        assert (await spooler.assignment()).job == poison.name
        await spooler.kill()

    spooler = await start_spooler(instance_id="last")

    assert await spooler.serve(1) == [good.name]
    assert state_of(await alice.job(poison.name)) == "ERROR(POISON)"


async def test_a_silent_session_with_a_claimed_job_counts_as_a_crash(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A session that is closed for its silence with the job CLAIMED counts as a crash of the job."""
    await lab.put_policy(max_crashes=1, lease_ttl=timedelta(seconds=1), resume_grace=timedelta(0))
    spooler = await start_spooler()
    job = await alice.submit()
    await spooler.assignment()

    await lab.pass_time(2)

    assert state_of(await alice.job(job.name)) == "ERROR(POISON)"


async def test_one_lost_spooler_takes_only_its_own_jobs_along(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """When one of two spoolers is lost the other's job is not touched."""
    good, bad = await start_spooler("good"), await start_spooler("bad")
    jobs = [await alice.submit(), await alice.submit()]
    one, other = await good.take(), await bad.take()
    await bad.kill()
    await lab.pass_time(40)
    await good.beat()
    await lab.pass_time(40)

    states = {name: state_of(await alice.job(name)) for name in (one.job, other.job)}

    assert {job.name for job in jobs} == set(states)
    assert states == {one.job: "RUNNING", other.job: "HELD(DELAYED)"}


async def test_many_jobs_of_a_lost_spooler_all_return(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Everything that a lost spooler had in hand comes back, accepted or not."""
    requests = [pb.SubmitJobRequest(backend="sim", content=b"1")] * 40
    await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))
    spooler = await start_spooler(credit=40)
    for one in (await spooler.assignments(40))[:20]:
        await spooler.accept(one)
    await spooler.kill()

    await lab.pass_time(61)
    await lab.pass_time(3)

    assert {state_of(job) for job in await alice.all_jobs()} == {"QUEUED"}
    other = await start_spooler("other")
    assert len(set(await other.serve(40))) == 40
