"""A disk that is full, cannot be written, or hangs: it shows, nothing is lost, and all recovers by itself."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.sqlite import writer
from spoolway_server import storage
from spoolway_server.app import SpoolwayServer
from spoolway_server.clock import Clock
from tests.providers.disks import Disk, small_disk
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, eventually, outcomes_of
from tests.server.refusals import Refused, error_info, refusal
from tests.server.test_storage_trouble import NOT_SERVING, SERVING, Health

LEASES = {"ttl_s": 0.3, "resume_grace_s": 0.2, "heartbeat_interval_s": 0.1}
LARGE = b'{"x": "' + b"x" * 20_000 + b'"}'
LIMIT_S = 0.3
"""What a call may take of a storage that hangs; 10 s by default."""


@pytest.fixture(params=["sqlite", "local"])
def storage_type(request: pytest.FixtureRequest) -> str:
    """Each type of storage that lies on a disk."""
    kind: str = request.param
    return kind


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk of one MiB."""
    with small_disk(tmp_path / "disk", monkeypatch) as one:
        yield one


@pytest.fixture
def storage_settings(storage_type: str, disk: Disk) -> Callable[[str], dict[str, Any]]:
    """Storages on that disk."""

    def settings(name: str) -> dict[str, Any]:
        key, path = ("path", f"{name}.sqlite") if storage_type == "sqlite" else ("base_path", name)
        return {"type": storage_type, "login": {key: str(disk.folder / path)}}

    return settings


@pytest.fixture(autouse=True)
def _quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage in trouble is looked at again soon."""
    monkeypatch.setattr(storage, "FIRST_REOPEN_S", 0.05)
    monkeypatch.setattr(storage, "REOPEN_MAX_S", 0.2)


class Work:
    """A spooler with a job in hand, and all that was acknowledged."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.alice = lab.caller()
        self.spooler = FakeSpooler(lab)
        self.names: list[str] = []

    async def begin(self) -> None:
        await self._lab.caller("robot").register()
        await self.spooler.connect()
        await self.spooler.credit(1)
        self.names.append((await self.alice.submit()).name)
        self._in_hand = await self.spooler.take()

    async def submit_until_refused(self) -> Refused:
        while True:
            call = self.alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=LARGE))
            try:
                self.names.append((await call).job.name)
            except grpc.aio.AioRpcError as error:
                return error_info(error)

    async def outlast_the_lease(self) -> None:
        """Beat on, for longer than a lease lasts that nobody prolongs."""
        faults = self._lab.faults()
        with faults.watched("sessions"):
            for _ in range(8):
                await self.spooler.send_beat()
                seen = len(faults.calls)
                await eventually(lambda seen=seen: len(faults.calls) > seen)

    async def end_well(self) -> None:
        """What was in hand all the time is completed, as its first attempt; nothing acknowledged is lost."""
        await self.spooler.beat()
        assert not (await self.spooler.complete(self._in_hand)).HasField("error")
        assert outcomes_of(await self.alice.job(self.names[0])) == ["DONE"]
        self.names.append((await self.alice.submit()).name)
        assert [job.name for job in await self.alice.all_jobs()] == self.names


async def start_work(start_lab: StartLab, **options: Any) -> tuple[Lab, Work]:
    lab = await start_lab(clock=Clock(), leases=LEASES, **options)
    work = Work(lab)
    await work.begin()
    return lab, work


async def test_a_full_disk_loses_nothing(start_lab: StartLab, disk: Disk) -> None:
    """Submits are UNAVAILABLE, health turns, leases are kept; with room again all goes on by itself."""
    lab, work = await start_work(start_lab)
    disk.fill()

    refused = await work.submit_until_refused()
    await Health(lab, "storage/main").until(NOT_SERVING)
    await work.outlast_the_lease()
    disk.empty()
    await Health(lab, "storage/main").until(SERVING)

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refused.retry_after is not None
    await work.end_well()


async def test_health_does_not_turn_back_while_the_disk_is_full(start_lab: StartLab, disk: Disk) -> None:
    """Reads go on on a full disk: they alone are no sign that it is well."""
    lab, work = await start_work(start_lab)
    disk.fill()
    await work.submit_until_refused()
    await Health(lab, "storage/main").until(NOT_SERVING)
    faults = lab.faults()

    with faults.watched("backends"):
        await eventually(lambda: len(faults.calls) >= 3)

    assert await Health(lab, "storage/main").now() == NOT_SERVING
    assert [job.name for job in await work.alice.all_jobs()] == work.names


async def test_a_disk_that_is_read_only_at_the_start_is_waited_for(start_lab: StartLab, disk: Disk) -> None:
    """The server starts; its calls are UNAVAILABLE until the disk may be written, and then work."""
    disk.forbid_writing()
    lab = await start_lab(clock=Clock())
    alice: Caller = lab.caller()
    refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))
    before = await Health(lab, "storage/main").now()

    disk.allow_writing()
    await Health(lab, "storage/main").until(SERVING)
    await lab.caller("robot").register()

    assert await alice.submit()
    assert before == NOT_SERVING
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.retry_after is not None


async def test_a_disk_that_becomes_read_only_loses_nothing(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a full one. A file system that met an error forbids writing also to those who had it open."""
    forbidden = threading.Event()
    begin = writer.Writer._begin

    def begin_forbidden(self: writer.Writer, connection: sqlite3.Connection) -> Any:
        connection.execute(f"PRAGMA query_only = {int(forbidden.is_set())}")
        return begin(self, connection)

    monkeypatch.setattr(writer.Writer, "_begin", begin_forbidden)
    lab, work = await start_work(start_lab)
    forbidden.set()

    refused = await work.submit_until_refused()
    await Health(lab, "storage/main").until(NOT_SERVING)
    await work.outlast_the_lease()
    forbidden.clear()
    await Health(lab, "storage/main").until(SERVING)

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.retry_after is not None
    await work.end_well()


async def test_a_disk_that_hangs_holds_nobody_up(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls end within their limit and then at once, and all recovers when the disk answers again."""
    goes_on = threading.Event()
    goes_on.set()
    commit = writer.Writer._commit

    def hang(self: writer.Writer, connection: sqlite3.Connection) -> None:
        goes_on.wait()
        commit(self, connection)

    def shorten(server: SpoolwayServer) -> None:
        provider: Any = server.storages.by_name["main"].provider
        provider._engine._time_limit = timedelta(seconds=LIMIT_S)

    monkeypatch.setattr(writer.Writer, "_commit", hang)
    lab, work = await start_work(start_lab, before_start=shorten)
    goes_on.clear()
    try:
        async with asyncio.timeout(10 * LIMIT_S + 5):
            refused = [await work.submit_until_refused() for _ in range(10)]
        await Health(lab, "storage/main").until(NOT_SERVING)
        await work.outlast_the_lease()
    finally:
        goes_on.set()
    await Health(lab, "storage/main").until(SERVING)

    assert {one.code for one in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert all(one.retry_after is not None for one in refused)
    await work.spooler.beat()
    left = [job.name for job in await work.alice.all_jobs()]
    assert set(work.names) <= set(left)
    await work.spooler.complete(work._in_hand)
    assert outcomes_of(await work.alice.job(work.names[0])) == ["DONE"]
