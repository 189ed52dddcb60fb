"""Purging backends: what has ended goes, step by step."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.errors import Unavailable
from spoolway_server import purges
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, state_of
from tests.server.refusals import refusal


async def step(caller: Caller, **fields: object) -> admin_pb.PurgeBackendResponse:
    request = admin_pb.PurgeBackendRequest(**{"name": "sim", **fields})
    answer: admin_pb.PurgeBackendResponse = await caller.PurgeBackend(request)
    return answer


async def steps(caller: Caller, **fields: object) -> AsyncIterator[admin_pb.PurgeBackendResponse]:
    token = ""
    while True:
        answer = await step(caller, page_token=token, **fields)
        yield answer
        if not (token := answer.next_page_token):
            return


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs a step."""
    monkeypatch.setattr(purges, "STEP_S", 0.0)
    monkeypatch.setattr(purges, "PAGE", 2)


async def test_what_has_ended_goes_with_its_result(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Ended jobs are gone for everybody; what runs and what waits is left alone."""
    spooler = await start_spooler(credit=2)
    done, running = await alice.submit(request_id="once"), await alice.submit()
    await spooler.complete(await spooler.take())
    await spooler.take()
    cancelled, waiting = await alice.submit(), await alice.submit()
    await alice.cancel(cancelled.name)
    lab.jump(1)

    answer = await step(lab.caller("admin"))

    assert (answer.deleted, answer.cancelled, answer.next_page_token) == (2, 0, "")
    assert [job.name for job in await alice.all_jobs()] == [running.name, waiting.name]
    gone = await refusal(alice.GetResult(pb.GetResultRequest(name=done.name)))
    assert gone.reason == "JOB_NOT_FOUND"
    late = await refusal(
        alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}", request_id="once"))
    )
    assert late.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
    assert (await step(lab.caller("admin"))).deleted == 0


async def test_what_waits_is_cancelled_on_request(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Queued and held jobs end CANCELLED, for their owners to see; the next purge deletes them."""
    spooler = await start_spooler()
    running = await alice.submit()
    await spooler.take()
    later = Timestamp()
    later.FromDatetime(lab.clock.now().replace(year=lab.clock.now().year + 1))
    queued, held = await alice.submit(), await alice.submit(not_before=later)
    lab.jump(1)

    first = [one async for one in steps(lab.caller("admin"), cancel_queued=True)]
    states = [state_of(await alice.job(job.name)) for job in (running, queued, held)]
    lab.jump(1)
    second = await step(lab.caller("admin"))

    assert (sum(one.cancelled for one in first), sum(one.deleted for one in first)) == (2, 0)
    assert states == ["RUNNING", "CANCELLED", "CANCELLED"]
    assert second.deleted == 2


@pytest.mark.usefixtures("small_steps")
async def test_a_purge_ends_under_traffic(lab: Lab, alice: Caller) -> None:
    """Steps are small and go on where the one before stopped; what comes meanwhile is not for this purge."""
    old = [await alice.submit() for _ in range(7)]
    for job in old[:4]:
        await alice.cancel(job.name)
    counts = []

    async for one in steps(lab.caller("admin"), cancel_queued=True):
        counts.append((one.cancelled, one.deleted))
        await alice.cancel((await alice.submit()).name)
        await alice.submit()

    assert all(sum(count) <= 2 for count in counts)
    assert (sum(c for c, _ in counts), sum(d for _, d in counts)) == (3, 4)
    left = {job.name: state_of(job) for job in await alice.all_jobs()}
    assert [left[job.name] for job in old[4:]] == ["CANCELLED"] * 3
    assert len(left) == 3 + 2 * len(counts)


async def test_only_what_ended_before_goes(lab: Lab, alice: Caller) -> None:
    """A time keeps what has ended since."""
    old = await alice.submit()
    await alice.cancel(old.name)
    lab.jump(100)
    between = Timestamp()
    between.FromDatetime(lab.clock.now())
    lab.jump(100)
    new = await alice.submit()
    await alice.cancel(new.name)

    answer = await step(lab.caller("admin"), end_time_before=between)

    assert answer.deleted == 1
    assert [job.name for job in await alice.all_jobs()] == [new.name]


@pytest.mark.usefixtures("small_steps")
async def test_what_is_wrong_is_told(lab: Lab, alice: Caller) -> None:
    """Each mistake has its reason and field, and nothing is deleted."""
    for _ in range(3):
        await alice.cancel((await alice.submit()).name)
    lab.jump(1)
    admin = lab.caller("admin")
    token = (await step(admin)).next_page_token
    far = Timestamp(seconds=1 << 40)

    refusals = [
        await refusal(step(admin, name="lamp")),
        await refusal(step(admin, name="../x")),
        await refusal(step(admin, end_time_before=far)),
        await refusal(step(admin, end_time_before=Timestamp(seconds=4_000_000_000))),
        await refusal(step(admin, page_token="x")),  # of a page
        await refusal(step(admin, page_token=token, cancel_queued=True)),
    ]

    assert [(one.reason, one.fields) for one in refusals] == [
        ("BACKEND_NOT_FOUND", ("name",)),
        ("BACKEND_NAME_INVALID", ("name",)),
        ("TIME_INVALID", ("end_time_before",)),
        ("TIME_INVALID", ("end_time_before",)),
        ("TOKEN_INVALID", ("page_token",)),
        ("TOKEN_INVALID", ("page_token",)),
    ]
    assert len(await alice.all_jobs()) == 1


@pytest.mark.usefixtures("small_steps")
async def test_a_step_that_failed_is_done_again(lab: Lab, alice: Caller) -> None:
    """Trouble of the storage is told, and the same step again does the rest."""
    for _ in range(2):
        await alice.cancel((await alice.submit()).name)
    lab.jump(1)
    admin = lab.caller("admin")
    lab.faults().fail_once(Unavailable("the disk is gone"), "delete")

    failed = await refusal(step(admin))
    again = [one async for one in steps(admin)]

    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert 1 <= sum(one.deleted for one in again) <= 2
    assert await alice.all_jobs() == []


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_any_server_takes_the_next_step(start_lab: StartLab) -> None:
    """The place is in the token: a purge goes on behind a balancer, and where a server was restarted."""
    here, there = await start_lab(), await start_lab()
    await here.caller("robot").register("sim")
    alice = here.caller("alice")
    for _ in range(4):
        await alice.cancel((await alice.submit()).name)
    here.jump(1)

    first = await step(here.caller("admin"))
    second = await step(there.caller("admin"), page_token=first.next_page_token)

    assert (first.deleted, second.deleted) == (2, 2)
    assert await alice.all_jobs() == []


async def test_a_watcher_hears_of_deleted_jobs(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """Who watches a job is told that it is gone."""
    job = await alice.submit()
    await spooler.complete(await spooler.take())
    lab.jump(1)
    events = alice.WatchJobs(pb.WatchJobsRequest(names=[job.name]))
    snapshot = await events.read()

    await step(lab.caller("admin"))

    assert [one.name for one in snapshot.jobs] == [job.name]
    async with asyncio.timeout(PATIENCE_S):
        while not (event := await events.read()).deleted:
            pass
    assert list(event.deleted) == [job.name]
    events.cancel()
