"""What a crash leaves half done in MongoDB is finished by `repair`, and long blobs are plain GridFS."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from gridfs import AsyncGridFSBucket
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from spoolway_providers.conformance import ManualClock, Scene
from spoolway_providers.conformance.scene import blob, token_of
from spoolway_providers.errors import Unavailable
from spoolway_providers.model import Job, result_blob_id
from spoolway_providers.mongodb import MongoProvider, commits
from tests.providers.mongodb_server import MongoServer, server, stand_in

__all__ = ["server", "stand_in"]

LARGE = bytes(range(256)) * (3 << 10)
DAYS = timedelta(days=2)

Raw = AsyncDatabase[dict[str, Any]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def database(server: MongoServer) -> AsyncIterator[str]:
    async with server.database() as name:
        yield name


@pytest.fixture
async def scene(server: MongoServer, database: str, clock: ManualClock) -> AsyncIterator[Scene]:
    provider = server.provider(database, clock=clock)
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    yield scene
    await provider.close()


@pytest.fixture
async def raw(server: MongoServer, database: str) -> AsyncIterator[Raw]:
    """The database as another program sees it."""
    async with AsyncMongoClient[dict[str, Any]](server.uri) as client:
        yield client[database]


async def _large_job(scene: Scene) -> Job:
    """A job with a long content, and a long result."""
    await scene.submit(content=LARGE)
    return await scene.complete(await scene.claim_and_accept(), LARGE[::-1])


async def test_long_blobs_are_kept_and_read_in_ranges(scene: Scene, raw: Raw) -> None:
    """A long content or result given in one call lies in GridFS, and is read like any other."""
    job = await _large_job(scene)
    assert job.result is not None
    read = scene.provider.read_blob

    assert await read(job.content) == LARGE
    assert await read(job.content, 262_143, 2) == LARGE[262_143:262_145]
    assert await read(job.content, 300_000, 1 << 20) == LARGE[300_000:]
    assert await read(job.result, 0, 10) == LARGE[::-1][:10]
    stored = await raw.jobs.find_one({"_id": job.key.id})
    assert stored is not None
    assert not {"content", "result"} & set(stored)


async def test_tools_for_gridfs_read_the_blobs(scene: Scene, raw: Raw) -> None:
    """The layout is GridFS's own, also of what was uploaded piece by piece and over again."""
    for start, end in ((0, 400_000), (300_000, 700_000), (100, 200), (700_000, len(LARGE))):
        await scene.provider.stage("u", start, LARGE[start:end])
    bucket = AsyncGridFSBucket(raw, "blobs")

    stream = await bucket.open_download_stream("u")

    assert await stream.read() == LARGE
    assert stream.length == len(LARGE)


async def test_claim_of_a_long_content_leaves_it_to_be_read(scene: Scene) -> None:
    """A long content does not come with the claim."""
    await scene.submit(content=LARGE)

    [claimed] = await scene.provider.claim("singlequdit", [scene.order()])

    assert claimed.content is None


async def test_deletion_that_broke_off_is_finished(
    scene: Scene, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a deleted job can't be read from then on, and go by `repair` if the process died."""

    async def die(*_: object) -> None:
        raise Unavailable("dead")

    job = await _large_job(scene)
    monkeypatch.setattr(commits, "remove_files", die)
    await scene.provider.delete(job.key, job.revision)
    left = await raw["blobs.files"].count_documents({})
    findings = await scene.provider.repair()

    assert left == 2
    assert [finding.kind for finding in findings] == ["deletion"]
    assert await raw["blobs.files"].count_documents({}) == 0
    assert await raw["blobs.chunks"].count_documents({}) == 0
    assert await scene.provider.repair() == []


async def test_named_file_is_never_swept(scene: Scene, raw: Raw, clock: ManualClock) -> None:
    """A file that a job names stays, also if the process died before it marked it so."""
    job = await _large_job(scene)
    await raw["blobs.files"].update_many({}, {"$set": {"metadata.committed": False}})
    clock.advance(DAYS)

    assert await scene.provider.repair() == []
    assert await scene.provider.read_blob(job.content) == LARGE
    assert await raw["blobs.files"].count_documents({"metadata.committed": True}) == 2


async def test_result_of_a_refused_commit_is_swept(scene: Scene, raw: Raw, clock: ManualClock) -> None:
    """A long result whose commit was refused goes after a day, with its bytes."""
    await scene.submit()
    job = await scene.claim_and_accept()
    done = await scene.complete(job)
    with pytest.raises(AssertionError):
        await scene.complete(job, LARGE)
    clock.advance(DAYS)

    assert [finding.kind for finding in await scene.provider.repair()] == ["staged_blob"]
    assert await raw["blobs.chunks"].count_documents({}) == 0
    assert await scene.provider.get(job.key) == done


async def test_late_result_is_kept_aside_for_a_day(scene: Scene, clock: ManualClock) -> None:
    """A result that is staged after its job has ended disturbs nothing, and goes after a day."""
    await scene.submit()
    done = await scene.complete(await scene.claim_and_accept())
    assert done.result is not None
    late = result_blob_id(done.key, token_of(done))
    await scene.provider.stage(late, 0, LARGE)
    before = await scene.provider.read_blob(done.result)
    clock.advance(DAYS)
    await scene.provider.repair()

    assert before == b'{"success": true}'
    assert await scene.provider.read_blob(done.result) == before


async def test_blob_of_a_submit_that_died_can_be_taken_over(
    scene: Scene, raw: Raw, clock: ManualClock
) -> None:
    """A staged blob kept for a job that never came is free again once that submit can't be under way."""
    await scene.provider.stage("u", 0, LARGE)
    for_nobody = {"metadata.job": "0" * 24, "metadata.backend": "singlequdit"}
    void_ms = int(clock.now.timestamp() * 1000) + 5_000
    await raw["blobs.files"].update_one({}, {"$set": {**for_nobody, "metadata.void_ms": void_ms}})

    early = await scene.answer(content=blob("u", LARGE))
    clock.advance(timedelta(seconds=6))
    late = await scene.answer(content=blob("u", LARGE))

    assert isinstance(early, Unavailable)
    assert isinstance(late, Job)
    assert await scene.provider.read_blob(late.content) == LARGE


async def test_wrong_clock_here_sweeps_nothing(
    server: MongoServer, database: str, scene: Scene, clock: ManualClock
) -> None:
    """What is old is told by the clock of the server, not of the process that sweeps."""
    clock.now = clock.now.replace(year=2020)
    await scene.provider.stage("u", 0, b"0123")
    clock.now = clock.now.replace(year=2024)
    by_server = server.provider(database)
    await by_server.open()
    recent = await by_server.stage("recent", 0, b"0123")

    findings = await by_server.repair()

    assert recent == 4
    assert [finding.subject for finding in findings] == ["u"]
    await by_server.close()


async def test_f9_config_and_policy_of_two_processes(
    server: MongoServer, database: str, scene: Scene
) -> None:
    """A spooler that registers its config at one server resets nothing that an operator sets at another."""
    other: MongoProvider = server.provider(database)
    await other.open()
    [known] = await other.backends()
    await scene.set_policy(max_queued=5)

    await other.put_config("singlequdit", b'{"max_shots": 10}', known.config_etag)

    [backend] = await scene.provider.backends()
    assert backend.config == b'{"max_shots": 10}'
    assert backend.policy is not None
    assert backend.policy.max_queued == 5
    await other.close()


async def test_files_of_no_job_are_found_and_removed(scene: Scene, raw: Raw) -> None:
    """Another program has removed a job's document; those of other jobs stay."""
    kept, lost = await _large_job(scene), await _large_job(scene)
    await raw["jobs"].delete_one({"_id": lost.key.id})

    found = await scene.provider.inspect(repair=False)
    removed = await scene.provider.inspect(repair=True)

    assert {one.kind for one in found} == {"blob_without_job"}
    assert [one.subject for one in removed] == [one.subject for one in found]
    assert len(found) == 2
    assert await raw["blobs.files"].count_documents({}) == 2
    assert kept.result is not None
    assert await scene.provider.read_blob(kept.result, 0, len(LARGE)) == LARGE[::-1]
    assert await scene.provider.inspect(repair=False) == []
