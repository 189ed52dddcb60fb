# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""Several processes on one folder: one of them keeps it, and when that ends another one does."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND
from spoolway_providers.local.layout import Place
from spoolway_providers.model import JobKey
from tests.providers.local_folder import Folder, OpenLocal, folder, found, open_local, settled, until

SOON = timedelta(seconds=10)
A_MOMENT = timedelta(milliseconds=200)

KEEPER = """
import asyncio, sys
from pathlib import Path
from spoolway_providers.conformance import Scene
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.login import Settings

async def main():
    provider = LocalProvider(Settings(Path(sys.argv[1])))
    await provider.open()
    scene = Scene(provider, "keeper")
    await scene.set_up()
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print((await scene.submit()).key.id, flush=True)

asyncio.run(main())
"""


class Keeper:
    """Another process that keeps the folder."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def submit(self) -> JobKey:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return JobKey(BACKEND, (await self._process.stdout.readline()).decode().strip())

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@pytest.fixture
async def keeper(folder: Folder) -> AsyncIterator[Keeper]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KEEPER,
        str(folder.base),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    keeper = Keeper(process)
    yield keeper
    await keeper.kill()


async def test_keeper_writes_for_all(folder: Folder, keeper: Keeper, open_local: OpenLocal) -> None:
    """What one process commits, the process that keeps the folder writes; both see each other's jobs."""
    scene = await open_local(folder)
    theirs = await keeper.submit()
    ours = await scene.submit()

    await until(lambda: folder.place(ours.key) is Place.QUEUED and folder.place(theirs) is Place.QUEUED)
    await settled(scene)
    assert [job.key for job in await scene.claim(5)] == [theirs, ours.key]


async def test_killed_keeper_has_a_successor(folder: Folder, keeper: Keeper, open_local: OpenLocal) -> None:
    """When the process that keeps the folder is killed, another one writes what it left, and goes on."""
    scene = await open_local(folder)
    theirs = await keeper.submit()
    await keeper.kill()
    ours = await scene.submit()

    await until(lambda: folder.place(ours.key) is Place.QUEUED and folder.place(theirs) is Place.QUEUED)
    dropped = folder.drop("dropped")
    await found(scene, dropped)


async def test_dropped_file_wakes_all_processes(folder: Folder, open_local: OpenLocal) -> None:
    """Whoever waits hears of a dropped file, also in a process that does not keep the folder."""
    first, second = await open_local(folder), await open_local(folder, "session-2")
    await settled(first)
    while await second.provider.wait(A_MOMENT) is not None:
        pass
    waiting = asyncio.create_task(second.provider.wait(SOON))
    await asyncio.sleep(0)
    key = folder.drop("dropped")

    hints = await waiting

    assert hints is not None
    assert hints.queued is None or BACKEND in hints.queued
    await found(second, key)
    assert [job.key for job in await second.claim()] == [key]


async def test_repair_waits_for_whoever_keeps(folder: Folder, open_local: OpenLocal) -> None:
    """A repair returns once the files are written, also if another process writes them."""
    await open_local(folder)
    second = await open_local(folder, "session-2")
    jobs = [await second.submit() for _ in range(20)]

    await settled(second)

    assert {folder.place(job.key) for job in jobs} == {Place.QUEUED}


async def test_closed_keeper_leaves_nothing_behind(folder: Folder, open_local: OpenLocal) -> None:
    """A storage that is closed has written all that it committed, and starts clean."""
    scene = await open_local(folder)
    jobs = [await scene.submit() for _ in range(100)]
    await scene.provider.close()

    assert {folder.place(job.key) for job in jobs} == {Place.QUEUED}
    again = await open_local(folder, "session-2")
    assert await again.provider.repair() == []
