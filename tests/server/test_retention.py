"""Jobs go when their time has come, not earlier; storages are repaired by one process at a time."""

from datetime import timedelta

import grpc
import pytest
import structlog

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import rules
from spoolway_providers.interface import Finding
from spoolway_providers.model import Session, new_token
from spoolway_server.janitor import NOBODY
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, eventually, state_of, states_of
from tests.server.refusals import refusal

DAY = timedelta(days=1)


async def test_an_ended_job_says_how_long_it_is_kept_and_then_goes(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """purge_time is set at the end by the policy of then; then the job goes, and not a minute before."""
    await lab.put_policy(retention=DAY)
    job = await alice.submit()
    assert not job.HasField("purge_time")
    await spooler.complete(await spooler.take(), b"{}")
    done = await alice.job(job.name)
    assert done.purge_time.ToDatetime() - done.end_time.ToDatetime() == DAY
    assert not done.HasField("due_time")
    await lab.put_policy(retention=timedelta(minutes=1))

    await lab.pass_time(DAY.total_seconds() - 60)
    assert (await alice.job(job.name)).purge_time == done.purge_time
    await lab.pass_time(61)

    assert (await refusal(alice.GetJob(pb.GetJobRequest(name=job.name)))).code is grpc.StatusCode.NOT_FOUND


async def test_without_retention_a_job_is_kept(lab: Lab, alice: Caller) -> None:
    """Nothing goes by itself where the policy does not say so, also if it says so later."""
    job = await alice.submit()
    ended = await alice.cancel(job.name)
    await lab.put_policy(retention=DAY)

    await lab.pass_time(10 * DAY.total_seconds())

    assert not ended.HasField("purge_time")
    assert state_of(await alice.job(job.name)) == "CANCELLED"


async def test_a_retried_job_is_kept_until_its_new_end(lab: Lab, alice: Caller) -> None:
    """RetryJob takes the purge time away."""
    await lab.put_policy(retention=DAY)
    job = await alice.submit()
    await alice.cancel(job.name)

    retried = (await alice.RetryJob(pb.RetryJobRequest(name=job.name))).job

    assert not retried.HasField("purge_time")
    await lab.pass_time(2 * DAY.total_seconds())
    assert state_of(await alice.job(job.name)) == "QUEUED"


@pytest.mark.parametrize("timeout", [None, timedelta(hours=1)])
async def test_a_foreign_held_job_is_taken_back_only_by_policy(
    lab: Lab, alice: Caller, timeout: timedelta | None
) -> None:
    """A job that another program holds stays there, unless foreign_claim_timeout says otherwise."""
    await lab.put_policy(foreign_claim_timeout=timeout)
    job = await alice.submit()
    await lab.commit_elsewhere(job.name, rules.TakenByForeign())

    await lab.pass_time(3590)
    assert state_of(await alice.job(job.name)) == "RUNNING(FOREIGN)"
    await lab.pass_time(20)

    states = states_of(await alice.job(job.name))
    assert states == ["QUEUED", "RUNNING(FOREIGN)"] + (["QUEUED"] if timeout else [])


async def test_the_janitor_tells_what_it_did(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half done or too old is logged and counted by its kind, and the janitor's session is gone."""
    storage = lab.storage()
    found = [Finding("staged_blob", f"blob-{n}", "removed") for n in range(3)]

    async def repair(limit: int) -> list[Finding]:
        return found

    monkeypatch.setattr(storage.provider, "repair", repair)
    with structlog.testing.capture_logs() as logs:
        await storage.janitor.round()

    assert [(line["event"], line["n_staged_blob"]) for line in logs] == [("repaired", 3)]
    labels = {"storage": "main", "kind": "staged_blob"}
    assert lab.server.metrics.registry.get_sample_value("spoolway_repairs_total", labels) == 3
    assert not await storage.provider.sessions()


async def test_one_janitor_works_at_a_time(lab: Lab) -> None:
    """While another process repairs the storage, this one passes its round over."""
    storage = lab.storage()
    await eventually(lambda: storage.janitor.rounds)
    other = Session(
        id=new_token(),
        spooler_id="janitor",
        instance_id="elsewhere",
        principal=NOBODY,
        backends=(),
        opened_at=lab.clock.now(),
        silence_limit=timedelta(minutes=5),
    )
    await storage.provider.open_session(other)

    with lab.faults().watched("repair") as calls:
        await storage.janitor.round()
        assert calls == []
        await storage.provider.close_session(other.id, None, "ROUND_ENDED")
        await storage.janitor.round()
        assert calls == ["repair"]


async def test_a_storage_is_repaired_at_the_start(lab: Lab) -> None:
    """The first round comes as soon as a storage is open."""
    await eventually(lambda: lab.storage().janitor.rounds)
