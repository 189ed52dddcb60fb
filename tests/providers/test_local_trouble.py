# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""A local storage when the disk is full, a document can't be written, or file events fail."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolway_providers.conformance.scene import BACKEND, Scene
from spoolway_providers.errors import Unavailable
from spoolway_providers.local import keeper, scanning, watching
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import Job, JobKey
from tests.providers.disks import Disk, small_disk
from tests.providers.local_folder import Folder, OpenLocal, folder, found, open_local, scene, settled, until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_RETRY_S", 0.05)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", monkeypatch) as disk:
        yield disk


async def submit_until_refused(scene: Scene) -> list[Job]:
    """The jobs that were acknowledged before the disk gave up."""
    jobs: list[Job] = []
    while True:
        try:
            jobs.append(await scene.submit(content=b'{"x": "' + b"x" * 20_000 + b'"}'))
        except Unavailable:
            return jobs


async def test_full_disk_is_unavailable_and_recovers(disk: Disk, open_local: OpenLocal) -> None:
    """On a full disk submits are refused and nothing is lost; once there is room all files are written."""
    folder = Folder(disk.folder / "lab")
    scene = await open_local(folder)
    before = await scene.submit()
    await settled(scene)
    disk.fill()

    jobs = [before, *await submit_until_refused(scene)]
    assert await scene.provider.read_blob(before.content)
    disk.empty()
    after = await scene.submit()
    await until(lambda: folder.place(after.key) is Place.QUEUED)
    await settled(scene)

    assert {folder.place(job.key) for job in (*jobs, after)} == {Place.QUEUED}
    assert [job.key for job in await scene.claim(100)] == [job.key for job in (*jobs, after)]
    for name in folder.documents():
        assert (folder.base / name).read_bytes().endswith(b"}")


async def test_document_that_cannot_be_written_harms_no_other(tmp_path: Path, open_local: OpenLocal) -> None:
    """Where one user's folder is in the way, others' files are written, and this one's once it is not."""
    folder = Folder(tmp_path / "lab", Naming.BACKEND_FILES)
    scene = await open_local(folder)
    await settled(scene)
    obstacle = Path(folder.layout.status.folder_of(BACKEND, "bob"))
    obstacle.write_bytes(b"")
    blocked, free = await scene.submit(owner="bob"), await scene.submit()
    await settled(scene)
    during = folder.place(blocked.key, "bob")
    obstacle.unlink()
    await settled(scene)

    assert folder.place(free.key) is Place.QUEUED
    assert during is Place.NOWHERE
    assert folder.place(blocked.key, "bob") is Place.QUEUED
    assert folder.status(blocked.key, "bob")["status"] == "INITIALIZING"
    assert [job.key for job in await scene.claim(5)] == [blocked.key, free.key]


async def test_document_that_cannot_be_removed_is_removed_later(folder: Folder, scene: Scene) -> None:
    """Where something is in the way of removing a deleted job's documents, they go once it is not."""
    await scene.submit()
    job = await scene.complete(await scene.claim_and_accept())
    await settled(scene)
    status = folder.status_path(job.key)
    status.unlink()
    status.mkdir()
    await scene.provider.delete(job.key, job.revision)
    await settled(scene)
    status.rmdir()
    folder.write(status, b"{}")
    await settled(scene)

    assert not status.exists()
    assert folder.place(job.key) is Place.NOWHERE


async def test_repair_that_nobody_waits_for(
    folder: Folder, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Who gives up on a repair harms nobody."""
    await settled(scene)
    repairs = [asyncio.create_task(scene.provider.repair()) for _ in range(5)]
    await asyncio.sleep(0)
    for repair in repairs[:4]:
        repair.cancel()

    assert await repairs[4] == []
    assert [record for record in caplog.records if "can't be kept" in record.message] == []
    assert [record for record in caplog.records if "failed" in record.message] == []


async def test_without_file_events_a_listing_finds_it(
    folder: Folder, open_local: OpenLocal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gives no file events, a dropped file is found by listing, seconds later."""

    def fail(self: watching.FolderWatch, paths: object) -> None:
        raise OSError("inotify watch limit reached")

    monkeypatch.setattr(watching.FolderWatch, "_watch", fail)
    monkeypatch.setattr(scanning, "_PAUSE_UNWATCHED_S", 0.2)
    scene = await open_local(folder)
    await settled(scene)

    await found(scene, folder.drop("dropped"))


async def test_missed_event_is_found_by_a_listing(
    folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose event was missed is found, and an idle folder is listed less and less."""
    monkeypatch.setattr(keeper.Keeper, "_note_events", lambda self, seen: None)
    await settled(scene)

    await found(scene, folder.drop("dropped"))


async def test_removed_folders_are_made_again(folder: Folder, scene: Scene) -> None:
    """Folders that somebody removed are there again once they are needed."""
    await settled(scene)
    for place in (Place.RUNNING, Place.FINISHED, Place.QUEUED):
        path = folder.job_path(place, JobKey(BACKEND, "x")).parent
        path.rmdir()
    folder.result_path(JobKey(BACKEND, "x")).parent.rmdir()
    await scene.submit()
    job = await scene.complete(await scene.claim_and_accept())
    await settled(scene)

    assert folder.place(job.key) is Place.FINISHED
    assert folder.result_path(job.key).exists()


async def test_removed_folders_of_our_own_are_made_again(folder: Folder, open_local: OpenLocal) -> None:
    """Drafts, locks and what waits out of reach: work goes on if somebody removes their folders."""
    scene = await open_local(folder, stock_spoolers=frozenset({BACKEND}))
    await settled(scene)
    first = await scene.submit()
    await until(lambda: folder.place(first.key) is Place.QUEUED)
    for path in (folder.layout.drafts, folder.layout.locks, folder.layout[Place.WAITING].folder):
        shutil.rmtree(path)
    done = await scene.complete(await scene.claim_and_accept())
    second = await scene.submit()
    await until(lambda: folder.place(second.key) is Place.QUEUED)
    await settled(scene)

    assert done.key == first.key
    assert folder.place(done.key) is Place.FINISHED


async def test_folder_among_the_drafts_is_in_nobodys_way(folder: Folder, open_local: OpenLocal) -> None:
    """A storage opens although somebody has made a folder where documents are written."""
    (Path(folder.layout.drafts) / "0.part").mkdir(parents=True)
    scene = await open_local(folder)
    job = await scene.submit()
    await settled(scene)

    assert folder.place(job.key) is Place.QUEUED


async def test_keeper_survives_a_mistake(
    folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in one turn, the next one goes on."""
    await settled(scene)
    calls: list[None] = []

    def break_once(self: scanning.Scanner, *args: object) -> None:
        calls.append(None)
        monkeypatch.undo()
        raise ValueError("a mistake")

    monkeypatch.setattr(scanning.Scanner, "look", break_once)
    await found(scene, folder.drop("dropped"))

    assert len(calls) == 1
