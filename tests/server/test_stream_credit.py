"""How many jobs a spooler is given, and in which order."""

import asyncio

import pytest

from spoolway.v1 import job_service_pb2 as pb
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, outcomes_of, state_of


async def submitted(alice: Caller, number: int, backend: str = "sim") -> list[str]:
    """The names of new jobs, in their order."""
    return [(await alice.submit(backend, b"%d" % i)).name for i in range(number)]


async def the_rest(start_spooler: StartSpooler, number: int) -> list[str]:
    """Names of the jobs that nobody else was given: another spooler gets them."""
    other = await start_spooler("other", credit=100)
    return [one.job for one in await other.assignments(number)]


async def test_credit_is_absolute(alice: Caller, start_spooler: StartSpooler) -> None:
    """Credit is the number of jobs in hand: repeating it gives no further job."""
    names = await submitted(alice, 4)
    spooler = await start_spooler(credit=2)
    first = await spooler.assignments(2)

    await spooler.credit(2)
    await spooler.credit(2)
    await spooler.beat()

    assert [one.job for one in first] == names[:2]
    assert await the_rest(start_spooler, 2) == names[2:]
    assert spooler.unasked == []


async def test_a_new_stream_has_no_credit(lab: Lab, alice: Caller, start_spooler: StartSpooler) -> None:
    """Until it says how many jobs it takes a spooler gets none."""
    silent = FakeSpooler(lab, "silent")
    await silent.connect()
    names = await submitted(alice, 1)
    await silent.beat()

    assert await the_rest(start_spooler, 1) == names
    assert silent.unasked == []


async def test_credit_zero_is_pause(alice: Caller, start_spooler: StartSpooler) -> None:
    """With credit 0 a spooler gets no job, and with 1 it goes on."""
    spooler = await start_spooler()
    await submitted(alice, 1)
    await spooler.serve(1)
    await spooler.credit(0)
    await spooler.beat()
    names = await submitted(alice, 2)
    other = await start_spooler("other")
    assert (await other.take()).job == names[0]
    assert spooler.unasked == []

    await spooler.credit(1)

    assert (await spooler.assignment()).job == names[1]


async def test_the_smaller_credit_counts(lab: Lab, alice: Caller, start_spooler: StartSpooler) -> None:
    """Of the session's and a backend's credit the smaller one counts."""
    await lab.caller("robot").register("other")
    spooler = FakeSpooler(lab, backends=["sim", "other"])
    await spooler.connect()
    await spooler.credit(1, "sim")
    await spooler.credit(5, "other")
    await spooler.credit(3)
    await spooler.beat()

    sims = await submitted(alice, 4, "sim")
    first = await spooler.assignment()
    others = await submitted(alice, 4, "other")
    more = await spooler.assignments(2)
    await spooler.beat()

    assert first.job == sims[0]
    assert [one.job for one in more] == others[:2]
    assert spooler.unasked == []
    assert await the_rest(start_spooler, 3) == sims[1:]


async def test_the_credit_of_a_backend_alone_counts_alone(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Where only backends' credit was sent the others get nothing."""
    await lab.caller("robot").register("other")
    spooler = FakeSpooler(lab, backends=["sim", "other"])
    await spooler.connect()
    await spooler.credit(2, "other")
    await spooler.beat()

    sims = await submitted(alice, 1, "sim")
    others = await submitted(alice, 2, "other")

    assert {one.job for one in await spooler.assignments(2)} == set(others)
    assert await the_rest(start_spooler, 1) == sims


async def test_the_credit_of_the_session_is_shared_by_its_backends(lab: Lab, alice: Caller) -> None:
    """One place for two backends is filled once, and again when the job has ended."""
    await lab.caller("robot").register("other")
    spooler = FakeSpooler(lab, backends=["sim", "other"])
    await spooler.connect()
    await spooler.credit(1)
    names = set(await submitted(alice, 3, "sim")) | set(await submitted(alice, 3, "other"))

    served = set()
    for _ in range(6):
        one = await spooler.take()
        await spooler.beat()
        assert spooler.unasked == []
        await spooler.complete(one)
        served.add(one.job)

    assert served == names


async def test_a_job_counts_until_its_end_is_confirmed(alice: Caller, spooler: FakeSpooler) -> None:
    """The next job comes after the confirmation of the last one's end, never before it."""
    await submitted(alice, 2)
    one = await spooler.take()

    await spooler.complete(one)
    await spooler.assignment()

    assert [kind for kind in spooler.kinds if kind in {"assign", "confirms"}] == [
        "assign",
        "confirms",
        "confirms",
        "assign",
    ]


@pytest.mark.parametrize("end", ["fail", "release", "retryable", "cancelled"])
async def test_every_end_frees_the_place(alice: Caller, spooler: FakeSpooler, end: str) -> None:
    """Whichever way a job leaves the spooler's hands, the next one comes."""
    first, second = await submitted(alice, 2)
    one = await spooler.take()

    if end == "cancelled":
        await alice.cancel(first)
        await spooler.next_of("cancel")
        await spooler.report(one, cancelled=pb.Cancelled())
    elif end == "release":
        await spooler.release(one)
    else:
        await spooler.fail(one, retryable=end == "retryable")

    assert (await spooler.assignment()).job == (first if end == "release" else second)


async def test_credit_that_falls_withdraws_what_was_not_sent(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A job that was being claimed when the credit fell goes back at once, unsent and unharmed."""
    spooler = await start_spooler()
    with lab.faults().held_up("claim") as gate:
        job = await alice.submit()
        await gate.reached.wait()
        await spooler.credit(0)
        await spooler.beat()
    back = await alice.until(job.name, "QUEUED")

    assert outcomes_of(back) == ["WITHDRAWN"]
    assert back.attempt_count == 0
    assert "assign" not in spooler.kinds
    assert await the_rest(start_spooler, 1) == [job.name]


async def test_a_job_being_claimed_for_a_spooler_that_leaves_goes_back(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """A job that was being claimed when its spooler vanished goes back at once."""
    spooler = await start_spooler()
    with lab.faults().held_up("claim") as gate:
        job = await alice.submit()
        await gate.reached.wait()
        await spooler.end()
    back = await alice.until(job.name, "QUEUED")

    assert outcomes_of(back) == ["WITHDRAWN"]
    assert await the_rest(start_spooler, 1) == [job.name]


async def test_jobs_are_spread_over_spoolers(alice: Caller, start_spooler: StartSpooler) -> None:
    """Spoolers with credit share the jobs: as long as one has none, no other gets two."""
    first = await start_spooler("first", credit=5)
    second = await start_spooler("second", credit=5)
    await first.beat()
    await second.beat()

    requests = [pb.SubmitJobRequest(backend="sim", content=b"1")] * 6
    await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))

    assert len(await first.assignments(3)) == 3
    assert len(await second.assignments(3)) == 3


async def test_the_least_busy_spooler_is_first(alice: Caller, start_spooler: StartSpooler) -> None:
    """A job goes to the spooler that has the fewest in hand."""
    first = await start_spooler("first", credit=3)
    await submitted(alice, 1)
    await first.take()
    second = await start_spooler("second", credit=3)
    await second.beat()

    await submitted(alice, 1)

    await second.take()
    assert first.unasked == []


@pytest.mark.parametrize("batch", [False, True])
async def test_f12_first_created_first_served(
    alice: Caller, bob: Caller, start_spooler: StartSpooler, batch: bool
) -> None:
    """Jobs are served in the order in which they were submitted, whoever submitted them."""
    if batch:
        requests = [pb.SubmitJobRequest(backend="sim", content=b"1")] * 30
        outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes
        names = [outcome.job.name for outcome in outcomes]
    else:
        names = [(await (alice, bob)[i % 2].submit()).name for i in range(24)]
    spooler = await start_spooler()

    assert await spooler.serve(len(names)) == names


async def test_f12_jobs_that_return_keep_their_place(alice: Caller, start_spooler: StartSpooler) -> None:
    """A job that was given back is served before younger ones."""
    names = await submitted(alice, 3)
    spooler = await start_spooler()
    await spooler.release(await spooler.take())

    assert await spooler.serve(3) == names


async def test_f12_the_order_of_claims_is_kept_with_many_spoolers(
    alice: Caller, start_spooler: StartSpooler
) -> None:
    """With many spoolers jobs are claimed in order too."""
    spoolers = [await start_spooler(f"s{i}", credit=2) for i in range(4)]
    serving = [asyncio.create_task(serve_until_stopped(spooler)) for spooler in spoolers]
    names = await submitted(alice, 40)
    jobs = [await alice.until(name, "DONE") for name in names]
    for task in serving:
        task.cancel()

    claims = [job.attempts[0].claim_time.ToNanoseconds() for job in jobs]
    assert claims == sorted(claims)
    assert all(outcomes_of(job) == ["DONE"] for job in jobs)


async def serve_until_stopped(spooler: FakeSpooler) -> None:
    """Run jobs for ever."""
    while True:
        await spooler.serve(1)


async def test_f2_no_job_is_served_twice(alice: Caller, start_spooler: StartSpooler) -> None:
    """Several spoolers of one backend share its jobs: each job has one winner, none is left over."""
    requests = [pb.SubmitJobRequest(backend="sim", content=b"%d" % i) for i in range(150)]
    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes
    names = [outcome.job.name for outcome in outcomes]
    spoolers = [await start_spooler(f"s{i}", credit=3) for i in range(3)]
    serving = [asyncio.create_task(serve_until_stopped(spooler)) for spooler in spoolers]

    await asyncio.gather(*(alice.until_ended(name) for name in names))
    for task in serving:
        task.cancel()

    jobs = await alice.all_jobs()
    assert {state_of(job) for job in jobs} == {"DONE"}
    assert all(outcomes_of(job) == ["DONE"] for job in jobs)
    assert {job.attempts[0].spooler for job in jobs} == {"s0", "s1", "s2"}


async def test_a_paused_backend_gives_no_jobs(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """While a backend is paused its jobs wait, and when it goes on they come without being asked for."""
    await lab.put_policy(paused=True)
    job = await alice.submit()
    await spooler.beat()
    waiting = await alice.job(job.name)

    await lab.put_policy(paused=False)

    assert (await spooler.take()).job == job.name
    assert waiting == job
