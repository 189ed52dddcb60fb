"""What a new owner makes of what the one before left, also when that is a lot."""

import asyncio
from datetime import timedelta
from time import monotonic

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import ManualClock
from spoolway_providers.conformance.scene import blob, token_of
from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Change, Query
from spoolway_providers.model import Job, Policy, State, result_blob_id
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    kill,
    leave_jobs,
    make_account,
    make_provider,
    opened,
    opened_after_crash,
    staged_scene,
    until,
)

READY_S = 10.0
LARGE = bytes(range(256)) * (40 << 10)
"""10 MiB: more than one call takes, and than one document holds."""


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


async def test_f12_ten_thousand_jobs_are_ready_in_seconds(account: DropboxAccount) -> None:
    """10,000 queued jobs of a killed owner: with 100 ms a call the next is ready in 10 s, in their order."""
    jobs = leave_jobs(account, 10_000, in_snapshot=9_900)
    account.set(latency_s=0.1)
    started_at = monotonic()
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        claimed = await scene.claim(3)
        ready_s = monotonic() - started_at
        claimed += await scene.claim(3)
        waiting = await provider.count(Query(states=(State.QUEUED,), limit=20_000))
        calls = account.calls()
        account.set(latency_s=0.0)

    assert [job.key for job in claimed] == [job.key for job in jobs[:6]]
    assert ready_s < READY_S
    assert waiting == 10_000 - 6
    assert calls["files/download"] < 150


async def test_index_document_saves_reading(account: DropboxAccount) -> None:
    """Of many jobs of a killed owner, only those that changed since its last index document are read."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    await first.submit([scene.draft() for _ in range(1000)])
    await until(lambda: account.tree("/spoolway/index"))
    late = await scene.submit()
    await kill(first)
    account.calls(forget=True)
    async with opened_after_crash(account) as second:
        assert await second.count(Query(states=(State.QUEUED,), limit=2000)) == 1001
        assert await second.get(late.key) == late

    assert account.calls()["files/download"] < 20


async def test_what_no_snapshot_knows_is_read(account: DropboxAccount) -> None:
    """Jobs that changed after the last index document are read from their statuses before they are missed."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    jobs = [await scene.submit(labels={"n": str(n)}) for n in range(12)]
    held = await scene.do(jobs[3], rules.Hold("operator"))
    await kill(first)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        found = (await second.find(Query())).jobs
        claimed = await scene.claim(20)

    assert found == [*jobs[:3], held, *jobs[4:]]
    assert [job.key for job in claimed] == [job.key for job in jobs if job.key != held.key]


async def test_retried_job_keeps_its_place_at_the_tail(account: DropboxAccount) -> None:
    """A job that was sent to run again waits behind the others, though its name is older than theirs."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    oldest, *others = [await scene.submit() for _ in range(3)]
    cancelled = await scene.do(oldest, rules.Cancel("alice"))
    later = cancelled.updated_at + timedelta(hours=1)
    retried = rules.decide(cancelled, rules.Retry("alice"), later, Policy())
    assert isinstance(retried, Job)
    await first.commit([Change(retried, cancelled.revision)])
    await kill(first)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        claimed = await scene.claim(3)

    assert [job.key for job in claimed] == [others[0].key, others[1].key, oldest.key]


async def test_half_done_moves_are_finished(account: DropboxAccount) -> None:
    """A job that had ended when its owner died comes to its folder, and repair says so, once."""
    first = make_provider(account, place_after_s=600.0)
    await first.open()
    scene = await staged_scene(first)
    await scene.submit()
    done = await scene.complete(await scene.claim_and_accept())
    await scene.submit()
    running = await scene.claim_and_accept()
    released = await scene.do(running, rules.Release(token_of(running)))
    await kill(first)
    async with opened_after_crash(account, place_after_s=600.0) as second:
        findings = await second.repair()
        again = await second.repair()
        tree = account.tree("/Backend_files")

    assert {finding.kind for finding in findings} == {"job_in_wrong_place"}
    assert {finding.subject for finding in findings} == {str(done.key), str(released.key)}
    assert again == []
    assert f"/Backend_files/Finished_Jobs/singlequdit/alice/job-{done.key.id}.json" in tree
    assert f"/Backend_files/Queued_Jobs/singlequdit/job-{released.key.id}.json" in tree


async def test_half_removed_job_is_removed(account: DropboxAccount) -> None:
    """A removal that broke off after its commit leaves nothing behind in the end."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        await scene.submit(request_id="r-1")
        done = await scene.complete(await scene.claim_and_accept())
    [path] = account.tree("/Backend_files/Finished_Jobs")
    account.delete([path])
    async with opened(account) as second:
        findings = await second.repair()
        with pytest.raises(NotFound):
            await second.get(done.key)

    assert [finding.kind for finding in findings] == ["half_removed_job"]
    assert [path for path in account.tree("/Backend_files") if "/Config/" not in path] == []


async def test_request_ids_outlive_their_owner(account: DropboxAccount) -> None:
    """A repeat that reaches the next owner returns the job of the first, also where that was deleted."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        job = await scene.submit(request_id="r-1")
        gone = await scene.submit_and_cancel(request_id="r-2")
        await first.delete(gone.key, gone.revision)
    async with opened(account) as second:
        scene = await staged_scene(second)

        assert await scene.submit(request_id="r-1") == job
        assert isinstance(await scene.answer(request_id="r-2"), NotFound)
        assert len(await scene.claim(5)) == 1


async def test_old_tombstones_go_a_day_at_a_time(account: DropboxAccount) -> None:
    """What is left of requests of days that are over goes in one call a day."""
    clock = ManualClock()
    async with opened(account, clock=clock) as provider:
        scene = await staged_scene(provider)
        for n in range(5):
            gone = await scene.submit_and_cancel(request_id=f"r-{n}")
            await provider.delete(gone.key, gone.revision)
        tombstones = account.tree("/spoolway/requests")
        clock.advance(timedelta(days=1, hours=1))
        await provider.repair()
        kept = account.tree("/spoolway/requests")
        clock.advance(timedelta(days=1))
        await asyncio.sleep(0.2)
        account.calls(forget=True)
        await provider.repair()

        assert kept == tombstones
        assert account.tree("/spoolway/requests") == {}
        assert account.calls()["files/delete_v2"] == 1


async def test_large_documents_travel_in_pieces(account: DropboxAccount) -> None:
    """Contents and results longer than one document go through upload sessions, and are read in ranges."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        await _stage(first, "upload", LARGE)
        job = await scene.submit(content=blob("upload", LARGE))
        [claimed] = await first.claim("singlequdit", [scene.order()])
        running = await scene.do(claimed.job, rules.Accept(token_of(claimed.job)))
        ref = blob(result_blob_id(job.key, token_of(running)), LARGE[::-1])
        await _stage(first, ref.id, LARGE[::-1])
        done = await scene.do(running, rules.Complete(token_of(running), ref))
    async with opened(account) as second:
        assert claimed.content is None
        for stored, data in ((done.content, LARGE), (ref, LARGE[::-1])):
            assert await second.read_blob(stored, 5_000_000, 1000) == data[5_000_000:5_001_000]
            assert await second.read_blob(stored, len(LARGE) - 10) == data[-10:]
            assert await second.read_blob(stored, len(LARGE)) == b""


async def _stage(provider: DropboxProvider, blob_id: str, data: bytes) -> None:
    for at in range(0, len(data), 3 << 20):
        await provider.stage(blob_id, at, data[at : at + (3 << 20)])


async def test_closed_provider_has_written_everything(account: DropboxAccount) -> None:
    """What may be late in a running owner is done when it leaves: nothing is in the wrong place."""
    async with opened(account, place_after_s=600.0) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        await scene.complete(await scene.claim_and_accept())
        await scene.submit()
        running = await scene.claim_and_accept()
        await scene.do(running, rules.Progress(token_of(running), stage="measuring"))
        await scene.submit()
        [claimed] = await scene.claim()
    statuses = "".join(account.tree("/Backend_files/Status").values())

    assert "measuring" in statuses
    assert token_of(claimed) in statuses
    assert len(account.tree("/Backend_files/Finished_Jobs")) == 1
    async with opened(account) as provider:
        assert await provider.repair() == []
        assert await until(lambda: provider.count(Query())) == 3


async def test_a_backend_without_a_config_is_known_by_its_jobs(account: DropboxAccount) -> None:
    """The next owner finds it, with its policy, as long as it has files."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        job = await scene.submit()
        await scene.set_policy(max_queued=7)
        gone = await first.remove_config(job.key.backend, None)
    async with opened(account) as second:
        found = {backend.name: backend for backend in await second.backends()}
        kept = await second.get(job.key)

    assert found[job.key.backend] == gone
    assert (gone.is_registered, gone.policy is not None) == (False, True)
    assert kept == job
    assert not account.tree(f"/Backend_files/Config/{job.key.backend}")
