"""WaitJob: one call that waits for a job."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, eventually, state_of

SHORT = Duration(nanos=50_000_000)


async def test_a_wait_ends_with_the_job(alice: Caller, spooler: FakeSpooler) -> None:
    """Without an etag it waits through all changes until the job has ended."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.until_ended(job.name))
    one = await spooler.take()
    await spooler.report(one, progress=pb.Progress(stage="half way"))
    await spooler.complete(one)

    ended = await waiting

    assert state_of(ended) == "DONE"


async def test_a_wait_ends_with_the_next_change(alice: Caller, spooler: FakeSpooler) -> None:
    """With an etag it waits for the job to be another than that."""
    await alice.submit()
    one = await spooler.take()
    etag = (await alice.job(one.job)).etag
    waiting = asyncio.create_task(alice.wait(one.job, etag=etag))
    await spooler.report(one, progress=pb.Progress(stage="half way"))

    changed = await waiting

    assert changed.stage == "half way"
    assert changed.etag != etag


async def test_a_wait_for_what_has_happened_is_none(alice: Caller, spooler: FakeSpooler) -> None:
    """A job that has ended, or has changed already, is answered at once."""
    job = await alice.submit()
    await spooler.serve(1)

    ended = await alice.wait(job.name)
    changed = await alice.wait(job.name, etag=job.etag)
    strange = await alice.wait(job.name, etag="never was")

    assert ended == changed == strange
    assert state_of(ended) == "DONE"


@pytest.mark.parametrize("with_etag", [False, True])
async def test_a_wait_that_runs_out_is_no_error(alice: Caller, with_etag: bool) -> None:
    """After the timeout the answer is the unchanged job."""
    job = await alice.submit()

    answer = await alice.wait(job.name, etag=job.etag if with_etag else "", timeout=SHORT)

    assert answer == job


async def test_f17_a_wait_for_an_error_ends(alice: Caller, spooler: FakeSpooler) -> None:
    """Whoever waits for a job that fails is told so, instead of waiting for ever."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.until_ended(job.name))
    await spooler.fail(await spooler.take(), "broken")

    failed = await waiting

    assert (failed.state, failed.error.message) == (job_pb2.JOB_STATE_ERROR, "broken")


async def test_many_wait_for_one_job(alice: Caller, spooler: FakeSpooler) -> None:
    """All who wait for a job are told."""
    job = await alice.submit()
    waiting = [asyncio.create_task(alice.until_ended(job.name)) for _ in range(50)]
    await spooler.serve(1)

    ended = await asyncio.gather(*waiting)

    assert {state_of(one) for one in ended} == {"DONE"}


async def test_who_waits_by_the_bare_id_is_told_too(alice: Caller) -> None:
    """A wait may name the job by its bare id."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.until_ended(job.id))

    await alice.cancel(job.name)

    assert (await waiting).name == job.name


async def test_a_wait_that_is_given_up_leaves_nothing_behind(lab: Lab, alice: Caller) -> None:
    """When a client gives up its wait the server stops watching for it."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.wait(job.name))
    feed = lab.storage().feed
    await eventually(lambda: feed.watched)

    waiting.cancel()

    await eventually(lambda: not feed.watched)


async def test_an_older_document_never_ends_a_wait(lab: Lab, alice: Caller) -> None:
    """A change that is read late and is older than what the client has is not taken for news."""
    job = await alice.submit()
    old = await lab.storage().provider.get(lab.key(job.name))
    await alice.cancel(job.name)
    newest = await alice.job(job.name)
    waiting = asyncio.create_task(alice.wait(job.name, etag=newest.etag, timeout=Duration(nanos=200_000_000)))
    feed = lab.storage().feed
    await eventually(lambda: feed.watched)

    feed._offer(old)

    assert await waiting == newest
