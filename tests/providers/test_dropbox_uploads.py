"""What is uploaded before a job names it lies in the account, so that the next owner goes on with it."""

from contextlib import suppress
from datetime import timedelta

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import ManualClock, Scene
from spoolway_providers.conformance.scene import BACKEND, blob, token_of
from spoolway_providers.errors import Conflict, NotFound, ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, State, result_blob_id
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    Fault,
    kill,
    make_account,
    make_provider,
    opened,
    opened_after_crash,
    staged_scene,
    until,
)

PIECE = 100 << 10
"""Longer than what goes in one call."""
DATA = bytes(range(256)) * (2 * PIECE // 256) + b"the end"
UPLOADS = "/spoolway/uploads"
STAGE_CALLS = 7
"""Of DATA: two pieces that travel ahead, and a short one."""


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


async def stage(provider: DropboxProvider, blob_id: str = "u", data: bytes = DATA, *, start: int = 0) -> int:
    size = start
    for at in range(start, len(data), PIECE):
        size = await provider.stage(blob_id, at, data[at : at + PIECE])
    return size


async def staged(provider: DropboxProvider, blob_id: str = "u") -> bytes:
    data = b""
    while piece := await provider.read_staged(blob_id, len(data), 1 << 20):
        data += piece
    return data


async def test_an_upload_goes_on_with_the_next_owner(account: DropboxAccount) -> None:
    """Every acknowledged piece is there after a kill; the rest follows, and a job names all of it."""
    first = make_provider(account)
    await first.open()
    await stage(first, data=DATA[: PIECE + 5])
    await kill(first)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        size = await second.stage("u", 0, b"")
        with pytest.raises(Conflict):
            await second.stage("u", size + 1, b"?")
        await stage(second, start=size)
        read = await staged(second)
        job = await scene.submit(content=blob("u", DATA))
        content = await second.read_blob(job.content)

    assert size == PIECE + 5
    assert read == content == DATA
    assert account.tree(UPLOADS) == {}


async def test_a_result_goes_on_with_the_next_owner(account: DropboxAccount) -> None:
    """A run that outlives its server delivers what it had uploaded before."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    await scene.submit()
    running = await scene.claim_and_accept()
    ref = blob(result_blob_id(running.key, token_of(running)), DATA)
    await stage(first, ref.id)
    await kill(first)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        done = await scene.do(running, rules.Complete(token_of(running), ref))

        assert done.state is State.DONE
        assert await second.read_blob(ref, 0, len(DATA)) == DATA


async def test_what_was_written_last_counts(account: DropboxAccount) -> None:
    """Bytes that were uploaded again, as they were wrong, are the new ones with the next owner, too."""
    first = make_provider(account)
    await first.open()
    await stage(first, data=b"x" * (PIECE + 300))
    await stage(first)
    await first.stage("u", 10, DATA[10:20])
    await kill(first)
    async with opened_after_crash(account) as second:
        assert await staged(second) == DATA


async def test_a_piece_that_comes_again_is_not_stored_again(account: DropboxAccount) -> None:
    """A repeat costs no call."""
    async with opened(account) as provider:
        await stage(provider)
        account.calls(forget=True)
        assert await stage(provider) == len(DATA)
        writes = [name for name in account.calls() if "upload" in name]

    assert writes == []


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.RESET, Fault.DONE_SERVER_ERROR])
@pytest.mark.parametrize("nth", range(STAGE_CALLS))
async def test_fault_at_each_call_of_an_upload(account: DropboxAccount, fault: Fault, nth: int) -> None:
    """Whichever call breaks, before or after it was done, the uploader sees nothing of it."""
    async with opened(account, sync_every_s=600.0) as provider:
        account.fail(fault, skip=nth)
        assert await stage(provider) == len(DATA)
    async with opened(account) as second:
        assert await staged(second) == DATA


async def test_an_upload_is_as_many_calls_as_the_faults_think(account: DropboxAccount) -> None:
    """So that a fault meets each of them."""
    async with opened(account, sync_every_s=600.0) as provider:
        account.calls(forget=True)
        await stage(provider)
        calls = {name: n for name, n in account.calls().items() if "upload" in name}

    assert sum(calls.values()) == STAGE_CALLS


@pytest.mark.parametrize("nth", range(STAGE_CALLS))
async def test_an_upload_that_is_cut_off_is_never_torn(account: DropboxAccount, nth: int) -> None:
    """Killed at any call, the next owner has whole pieces, all that were acknowledged, and goes on."""
    first = make_provider(account, patience_s=0.1, sync_every_s=600.0)
    await first.open()
    account.fail(Fault.ANSWER_LOST, skip=nth)
    account.fail(Fault.RESET, skip=nth, times=-1)
    acknowledged = 0
    try:
        for at in range(0, len(DATA), PIECE):
            acknowledged = await first.stage("u", at, DATA[at : at + PIECE])
    except ProviderError:
        pass
    await kill(first)
    account.heal()
    async with opened_after_crash(account) as second:
        size = await second.stage("u", 0, b"")
        kept = await staged(second) if size else b""
        await stage(second, start=size)

        assert acknowledged <= size
        assert kept == DATA[:size]
        assert await staged(second) == DATA


@pytest.mark.parametrize("nth", range(6))
async def test_a_job_that_names_an_upload_when_it_breaks(account: DropboxAccount, nth: int) -> None:
    """The owner dies in the middle of the submit: the upload is there for the repeat, or the job is."""
    first = make_provider(account, patience_s=0.1, sync_every_s=600.0)
    await first.open()
    scene = await staged_scene(first)
    await stage(first)
    account.fail(Fault.ANSWER_LOST, skip=nth)
    account.fail(Fault.RESET, skip=nth, times=-1)
    with suppress(ProviderError):
        await first.submit([scene.draft(content=blob("u", DATA), request_id="r-1")])
    await kill(first)
    account.heal()
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        job = await scene.submit(content=blob("u", DATA), request_id="r-1")

        assert [one.key for one in await scene.claim(5)] == [job.key]
        assert await second.read_blob(job.content) == DATA


async def test_a_named_upload_is_nobody_elses(account: DropboxAccount) -> None:
    """An owner that dies before it has tidied up leaves pieces, which make no second job."""
    first = make_provider(account)
    await first.open()
    scene = await staged_scene(first)
    await stage(first)
    job = await scene.submit(content=blob("u", DATA))
    await kill(first)
    left = account.tree(UPLOADS)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        await until(lambda: second.count(Query(owner=job.owner)))
        refused = await scene.answer(content=blob("u", DATA))

    assert left
    assert isinstance(refused, NotFound)


async def test_what_nobody_names_goes_after_a_day(account: DropboxAccount) -> None:
    """Counted from its last piece, whoever was the owner then; and its folder with it."""
    clock = ManualClock()
    async with opened(account, clock=clock) as first:
        await stage(first)
        clock.advance(timedelta(hours=12))
        await first.stage("u", len(DATA), b"more")
    async with opened(account, clock=clock) as second:
        clock.advance(timedelta(hours=23))
        early = await second.repair()
        clock.advance(timedelta(hours=2))
        late = await second.repair()
        size = await second.stage("u", 0, b"")
        # The same name begins anew, and finds nothing of the old one.
        await second.stage("u", 0, b"new")
    async with opened(account, clock=clock) as third:
        assert await staged(third) == b"new"

    assert [finding.kind for finding in late] == ["staged_blob"]
    assert (early, size) == ([], 0)
    assert len(account.tree(UPLOADS)) == 1


async def test_a_removed_piece_is_told(account: DropboxAccount) -> None:
    """Who tidies up in the account ends an upload: it is asked for from the beginning, not served torn."""
    first = make_provider(account)
    await first.open()
    await stage(first)
    await kill(first)
    async with opened_after_crash(account) as second:
        account.delete([next(iter(account.tree(UPLOADS)))])
        with pytest.raises(NotFound):
            await staged(second)
        size = await second.stage("u", 0, b"")
        await stage(second)

        assert size == 0
        assert await staged(second) == DATA


async def test_files_of_others_are_left_alone(account: DropboxAccount) -> None:
    """What lies among the uploads and is none is neither read nor removed."""
    account.put({f"{UPLOADS}/readme.txt": "hello", f"{UPLOADS}/x/notes.md": "hello"})
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await stage(provider)
        job: Job = await scene.submit(content=blob("u", DATA))
        assert (await Scene(provider).claim(0, BACKEND)) == []
        assert await provider.read_blob(job.content) == DATA

    assert sorted(account.tree(UPLOADS)) == [f"{UPLOADS}/readme.txt", f"{UPLOADS}/x/notes.md"]
