"""The server's core in tests: real, on a free port, over memory and over SQLite."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from spoolway_server.app import SpoolwayServer
from spoolway_server.clock import Clock
from spoolway_server.config import Config
from tests.server.fake_clock import JumpClock
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, merged

StartLab = Callable[..., Awaitable[Lab]]
StartSpooler = Callable[..., Awaitable[FakeSpooler]]

MEMORY_DISK_BYTES = 2_000_000_000
SETTINGS: dict[str, Any] = {"server": {"port": 0, "drain_pause_s": 0, "drain_grace_s": 1}}


@pytest.fixture(params=["memory", "sqlite"])
def storage_type(request: pytest.FixtureRequest) -> str:
    """Each type of storage in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def storage_settings(storage_type: str, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """The configuration of a storage by its name."""
    # A disk in memory where there is one: these tests are not about the disk, and it may be slow.
    memory_disk = Path("/dev/shm")  # noqa: S108  # a folder of its own is made in it
    parent = memory_disk if memory_disk.is_dir() else tmp_path
    with TemporaryDirectory(prefix="spoolway-test-", dir=parent) as folder:

        def settings(name: str) -> dict[str, Any]:
            login = {"path": f"{folder}/{name}.sqlite"} if storage_type == "sqlite" else {}
            return {"type": storage_type, "login": login}

        yield settings


@pytest.fixture
async def start_lab(
    storage_settings: Callable[[str], dict[str, Any]],
) -> AsyncIterator[StartLab]:
    """Starts servers; each is stopped at the test's end."""
    labs: list[Lab] = []

    async def start(
        *storages: str,
        clock: Clock | None = None,
        before_start: Callable[[SpoolwayServer], None] = lambda _: None,
        **settings: Any,
    ) -> Lab:
        names = storages or ("main",)
        tables = {"storages": {name: storage_settings(name) for name in names}}
        config = Config.model_validate(merged(merged(SETTINGS, tables), settings))
        clock = clock or JumpClock()
        server = SpoolwayServer(config, clock=clock)
        before_start(server)
        await server.start()
        labs.append(Lab(server, clock))
        return labs[-1]

    yield start
    for lab in labs:
        await lab.close()


@pytest.fixture
async def lab(start_lab: StartLab) -> Lab:
    """A server with one storage, `main`, and the backend `sim`, which takes any JSON."""
    started = await start_lab()
    await started.caller("robot").register("sim")
    return started


@pytest.fixture
async def alice(lab: Lab) -> Caller:
    """A user."""
    return lab.caller("alice")


@pytest.fixture
async def bob(lab: Lab) -> Caller:
    """Another user."""
    return lab.caller("bob")


@pytest.fixture
def start_spooler(lab: Lab) -> StartSpooler:
    """Connects spoolers of `sim`, with credit for one job unless told otherwise."""

    async def start(spooler_id: str = "spooler", credit: int = 1, **fields: Any) -> FakeSpooler:
        spooler = FakeSpooler(lab, spooler_id, **fields)
        await spooler.connect()
        await spooler.credit(credit)
        return spooler

    return start


@pytest.fixture
async def spooler(start_spooler: StartSpooler) -> FakeSpooler:
    """A spooler of `sim` with credit for one job."""
    return await start_spooler()


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is enough of it: a gigabyte on a disk takes its time."""
    shm = Path("/dev/shm")  # noqa: S108
    if not shm.is_dir() or shutil.disk_usage(shm).free < MEMORY_DISK_BYTES:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="spoolway-test-", dir=shm) as folder:
        yield Path(folder)
