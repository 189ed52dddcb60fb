# ruff: noqa: F401 - fixtures are imported, and used by their names
"""A job whose document was damaged in the storage harms only itself."""

import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymongo import AsyncMongoClient

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, token_of
from spoolway_providers.interface import Query
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Place
from spoolway_providers.model import BlobRef, Job, JobKey, State, unreadable_blob_id
from spoolway_providers.sqlite import SqliteProvider
from tests.dropbox_emulator.scene import make_account, opened, opened_after_crash, staged_scene
from tests.providers.local_folder import Folder, settled
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, StandIn, leftovers, stand_in

Spoil = Callable[[JobKey, Any], Awaitable[None]]
"""Puts something else in the place of a job's record."""

STORAGES = ["sqlite", "local", "mongodb"]
DAMAGES = ["no JSON {", {"key": "of nothing"}]


@pytest.fixture(params=STORAGES)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Scene, Spoil]]:
    if request.param == "mongodb":
        server: StandIn = request.getfixturevalue("stand_in")
        async with server.database() as name:
            mongo = server.provider(name)
            await mongo.open()
            yield await started(mongo), lambda key, record: spoil_document(server.uri, name, key, record)
            await mongo.close()
        return
    path = tmp_path / "spoolway.db"
    provider = SqliteProvider(path)
    if request.param == "local":
        folder = Folder(tmp_path / "lab")
        provider, path = LocalProvider(folder.settings()), Path(folder.layout.index)
    await provider.open()
    yield await started(provider), lambda key, record: spoil_row(path, key, record)
    await provider.close()


async def started(provider: Any) -> Scene:
    scene = Scene(provider)
    await scene.set_up()
    return scene


async def spoil_row(path: Path, key: JobKey, record: Any) -> None:
    doc = record if isinstance(record, str) else json.dumps(record)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE jobs SET doc = ? WHERE id = ?", (doc, key.id))
    connection.commit()
    connection.close()


async def spoil_document(uri: str, database: str, key: JobKey, record: Any) -> None:
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        await client[database]["jobs"].update_one({"_id": key.id}, {"$set": {"job": record}})


pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]


async def test_unreadable_jobs_do_not_hold_up_the_queue(world: tuple[Scene, Spoil]) -> None:
    """A claim passes over jobs that can't be read; they have ended, and their owner sees why."""
    scene, spoil = world
    first, second, third = [await scene.submit(request_id=f"r-{n}") for n in range(3)]
    for job, damage in zip((first, second), DAMAGES, strict=True):
        await spoil(job.key, damage)

    claimed = await scene.claim(3)

    assert [job.key for job in claimed] == [third.key]
    for job in (first, second):
        ended = await scene.provider.get(job.key)
        assert (ended.state, ended.owner, ended.request_id) == (State.ERROR, job.owner, job.request_id)
        assert ended.error is not None
        assert ended.error.reason == "DOCUMENT_CORRUPT"
        assert (ended.seq, ended.rank, ended.revision) == (job.seq, job.rank, job.revision + 1)
        assert await scene.answer(request_id=job.request_id) == ended


@pytest.mark.parametrize("damage", DAMAGES, ids=["text", "fields"])
async def test_unreadable_job_does_not_spoil_lists(world: tuple[Scene, Spoil], damage: Any) -> None:
    """Jobs are listed and followed although one of them can't be read."""
    scene, spoil = world
    cursor = (await scene.provider.changes("")).cursor
    jobs = [await scene.submit() for _ in range(3)]
    await spoil(jobs[1].key, damage)

    page = await scene.provider.find(Query())
    changes = await scene.provider.changes(cursor)

    assert [(job.key, job.state) for job in page.jobs] == [
        (jobs[0].key, State.QUEUED),
        (jobs[1].key, State.ERROR),
        (jobs[2].key, State.QUEUED),
    ]
    assert {job.key: job.state for job in changes.jobs} == {job.key: job.state for job in page.jobs}


async def test_unreadable_running_job_ends_too(world: tuple[Scene, Spoil]) -> None:
    """A lease whose job can't be read is lost to its session, which goes on with the others."""
    scene, spoil = world
    for _ in range(2):
        await scene.submit()
    spoilt, running = [await scene.do(job, rules.Accept(token_of(job))) for job in await scene.claim(2)]
    await spoil(spoilt.key, DAMAGES[1])

    attention = await scene.provider.renew(scene.session_id, 5)

    assert [lease.key for lease in attention.leases] == [running.key]
    assert (await scene.provider.get(spoilt.key)).state is State.ERROR


async def test_unreadable_ended_job_can_be_deleted(world: tuple[Scene, Spoil]) -> None:
    """What can't be read goes with its job."""
    scene, spoil = world
    job = await scene.submit()
    await spoil(job.key, DAMAGES[0])
    ended = await scene.provider.get(job.key)

    await scene.provider.delete(ended.key, ended.revision)

    assert await scene.find_keys() == []
    assert await scene.provider.repair() == []


async def test_what_could_not_be_read_is_kept(tmp_path: Path) -> None:
    """The damaged record lies beside its job, for who wants to mend it by hand."""
    path = tmp_path / "spoolway.db"
    provider = SqliteProvider(path)
    await provider.open()
    scene = await started(provider)
    job = await scene.submit()
    await spoil_row(path, job.key, DAMAGES[0])
    await scene.claim()

    kept = await provider.read_blob(BlobRef(unreadable_blob_id(job.key), 0, ""))
    await provider.close()

    assert kept == b"no JSON {"


async def test_local_folder_follows_the_end_of_an_unreadable_job(tmp_path: Path) -> None:
    """The file of a job that can't be read leaves the queue, and its status says ERROR."""
    folder = Folder(tmp_path / "lab")
    provider = LocalProvider(folder.settings())
    await provider.open()
    scene = await started(provider)
    job = await scene.submit()
    await settled(scene)
    await spoil_row(Path(folder.layout.index), job.key, DAMAGES[0])

    await scene.claim()
    await settled(scene)
    await provider.close()

    assert folder.place(job.key) is Place.DELETED
    assert folder.status(job.key)["status"] == "ERROR"


async def test_dropbox_status_of_a_newer_program_harms_only_its_job() -> None:
    """A queued job whose status this version can't read waits for an operator; the next one is claimed."""
    account = make_account()
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        first, second = await scene.submit(), await scene.submit()
    [path] = [path for path in account.tree("/Backend_files/Status") if first.key.id in path]
    account.put_bytes(path, json.dumps({"spoolway": {"schema": 99}}).encode())

    async with opened_after_crash(account) as provider:
        scene = await staged_scene(provider, "session-2")
        claimed = await scene.claim(2)
        held = await provider.get(first.key)
        found = await provider.find(Query())

    assert [job.key for job in claimed] == [second.key]
    assert (held.state, held.reason) == (State.HELD, "OPERATOR")
    assert len(found.jobs) == 2
