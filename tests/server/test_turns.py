"""Owners take turns on a backend whose policy says so."""

from spoolway.v1 import job_service_pb2 as pb
from tests.server.conftest import StartSpooler
from tests.server.lab import Caller, Lab


async def test_a_thousand_jobs_do_not_hold_up_anothers_one(
    lab: Lab, alice: Caller, bob: Caller, start_spooler: StartSpooler
) -> None:
    """On a round-robin backend bob's one job comes right behind the first of alice's 1,000."""
    await lab.put_policy(round_robin=True)
    request = pb.SubmitJobRequest(backend="sim", content=b"{}")
    many = await alice.SubmitJobs(pb.SubmitJobsRequest(requests=[request] * 1000))
    one = await bob.submit()

    found = await bob.GetJob(pb.GetJobRequest(name=one.name))
    assert found.queue_position == 1
    last = await alice.GetJob(pb.GetJobRequest(name=many.outcomes[-1].job.name))
    assert last.queue_position == 1000
    spooler = await start_spooler()
    assert await spooler.serve(2) == [many.outcomes[0].job.name, one.name]


async def test_first_come_is_first_served_without_turns(
    lab: Lab, alice: Caller, bob: Caller, start_spooler: StartSpooler
) -> None:
    """Without the policy the same jobs run in the order of their submission."""
    first, second = await alice.submit(), await alice.submit()
    one = await bob.submit()

    spooler = await start_spooler()

    assert await spooler.serve(3) == [first.name, second.name, one.name]
