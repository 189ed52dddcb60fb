"""A local storage's folder as people and other programs see it, and fixtures that open such storages."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from spoolway_providers.conformance.scene import BACKEND, Scene, session
from spoolway_providers.interface import Query
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Layout, Naming, Place
from spoolway_providers.local.login import Settings
from spoolway_providers.model import Job, JobKey, State

__all__ = [
    "Folder",
    "OpenLocal",
    "folder",
    "found",
    "open_local",
    "remove_index",
    "scene",
    "settled",
    "until",
]

LIMIT_S = 15.0
"""So long anything may take before a test gives up."""
LOOK_S = 0.005
USER = "alice"


class Folder:
    """The documents of a folder, and what other programs do with them."""

    def __init__(self, base: Path, naming: Naming = Naming.LOCAL) -> None:
        self.base = base
        self.naming = naming
        self.layout = Layout(str(base), naming)

    def settings(self, **changes: Any) -> Settings:
        return Settings(self.base, self.naming, **changes)

    def job_path(self, place: Place, key: JobKey, user: str = USER) -> Path:
        return Path(self.layout.job(place, key, user))

    def status_path(self, key: JobKey, user: str = USER) -> Path:
        return Path(self.layout.status.path(key, user))

    def result_path(self, key: JobKey, user: str = USER) -> Path:
        return Path(self.layout.result.path(key, user))

    def config_path(self, backend: str = BACKEND) -> Path:
        return Path(self.layout.config(backend))

    def place(self, key: JobKey, user: str = USER) -> Place:
        return self.layout.where(key, user)

    def status(self, key: JobKey, user: str = USER) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.status_path(key, user).read_bytes())
        return found

    def documents(self) -> list[str]:
        """The paths of all documents, below the folder."""
        return sorted(str(path.relative_to(self.base)) for path in self.base.rglob("*.json"))

    # What people and other programs do

    @staticmethod
    def write(path: Path, document: Any) -> None:
        """Let a document appear as a whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".part")
        draft.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        draft.rename(path)

    def drop(self, job_id: str, content: bytes = b'{"experiment_0": {}}', backend: str = BACKEND) -> JobKey:
        """Drop a job into the queue."""
        key = JobKey(backend, job_id)
        self.write(self.job_path(Place.QUEUED, key), content)
        return key

    def take(self, key: JobKey) -> None:
        """Take a job as today's spoolers do."""
        target = self.job_path(Place.RUNNING, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.job_path(Place.QUEUED, key).rename(target)

    def end(self, key: JobKey, status: str = "DONE", *, result: Any = None, error: str = "None") -> None:
        """End a job as today's spoolers do: result, status, then the job's move."""
        if result is not None:
            self.write(self.result_path(key), result)
        words = {"job_id": key.id, "status": status, "detail": "Got your json.", "error_message": error}
        self.write(self.status_path(key), words)
        target = self.job_path(Place.FINISHED if status == "DONE" else Place.DELETED, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.job_path(Place.RUNNING, key).rename(target)


OpenLocal = Callable[..., Awaitable[Scene]]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with names of our own."""
    return Folder(tmp_path / "lab")


@pytest.fixture
async def open_local() -> AsyncIterator[OpenLocal]:
    """Opens a handle on a folder; closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_one(
            folder: Folder,
            session_id: str = "session-1",
            *,
            options: dict[str, Any] | None = None,
            registers: bool = True,
            **login: Any,
        ) -> Scene:
            provider = LocalProvider(folder.settings(**login), **options or {})
            stack.push_async_callback(provider.close)
            await provider.open()
            scene = Scene(provider, session_id)
            if registers:
                await scene.set_up()
            else:
                await provider.open_session(session(session_id, spooler=session_id))
            return scene

        yield open_one


@pytest.fixture
async def scene(open_local: OpenLocal, folder: Folder) -> Scene:
    """An open local storage with a backend and a session."""
    return await open_local(folder)


async def until(condition: Callable[[], bool | Awaitable[bool]], limit_s: float = LIMIT_S) -> None:
    """Wait until something is so; other programs' files can't tell us."""
    deadline = monotonic() + limit_s
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        assert monotonic() < deadline, "it took too long"
        await asyncio.sleep(LOOK_S)


async def found(scene: Scene, key: JobKey, *states: State) -> Job:
    """The job, once it is known, and in one of these states."""
    jobs: list[Job] = []

    async def is_found() -> bool:
        jobs[:] = (await scene.provider.find(Query(id=key.id, backend=key.backend))).jobs
        return bool(jobs) and (not states or jobs[0].state in states)

    await until(is_found)
    return jobs[0]


async def settled(scene: Scene) -> None:
    """Once all that was committed lies in the folders, and all that others did was looked at."""
    await scene.provider.repair()


def remove_index(folder: Folder) -> None:
    """What a careless operator does."""
    for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
        path = Path(folder.layout.own) / name
        if path.exists():
            os.unlink(path)
