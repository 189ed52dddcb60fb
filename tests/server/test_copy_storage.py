"""Copies of storages: equal, carried on after a kill, and turned to at one moment."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.interface import Provider, Query
from spoolway_providers.registry import make_provider
from spoolway_server import copying
from spoolway_server.clock import Clock
from tests.server.conftest import StartLab
from tests.server.fake_clock import JumpClock
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, eventually, state_of
from tests.server.refusals import refusal
from tests.server.storage_contents import contents_of, fill

JOBS = int(os.environ.get("SPOOLWAY_TEST_COPY_JOBS", "210"))
"""10,000 is what is promised; a copy takes the same way with fewer."""
COPY_S = 60.0 + JOBS / 20

only_sqlite = pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process knows of its own changes at once."""
    monkeypatch.setattr(copying, "SETTLE_S", 0.0)
    monkeypatch.setitem(copying.Copying.__init__.__kwdefaults__, "settle_s", 0.0)


@pytest.fixture
async def lab(start_lab: StartLab) -> Lab:
    """Two storages, `main` and `old`; the backend `sim` is in the old one."""
    lab = await start_lab("main", "old", clock=Clock())
    await lab.caller("robot").register("sim", storage="old")
    return lab


async def begin(caller: Caller, source: str = "old", target: str = "main") -> admin_pb.Operation:
    request = admin_pb.CopyStorageRequest(source=source, target=target)
    return (await caller.CopyStorage(request)).operation


async def ended(caller: Caller, operation: admin_pb.Operation) -> admin_pb.Operation:
    last = operation
    async for answer in caller.WatchOperation(
        admin_pb.WatchOperationRequest(name=operation.name), timeout=COPY_S
    ):
        last = answer.operation
    return last


def state(operation: admin_pb.Operation) -> str:
    return admin_pb.OperationState.Name(operation.state).removeprefix("OPERATION_STATE_")


# In one process


async def test_all_goes_to_the_target_and_on_from_there(lab: Lab) -> None:
    """Old jobs are found by every name as they were, once; new ones go to the target; spoolers look anew."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    jobs = [await alice.submit("sim", b'{"n": %d}' % number) for number in range(3)]
    await alice.cancel(jobs[0].name)
    spooler = FakeSpooler(lab)
    await spooler.connect()
    lab.storage("old").set_active(False)

    operation = await ended(olga, await begin(olga))
    newest = await alice.submit("sim")

    assert (state(operation), operation.message, list(operation.backends)) == ("DONE", "", ["sim"])
    assert operation.done_jobs == operation.total_jobs == 3
    assert (await lab.storage("main").provider.get(lab.key(newest.name))).seq
    assert [job.name for job in await alice.all_jobs()] == [*(job.name for job in jobs), newest.name]
    assert [state_of(job) for job in await alice.all_jobs()] == ["CANCELLED", "QUEUED", "QUEUED", "QUEUED"]
    goaway = await spooler.next_of("goaway")
    assert goaway.goaway.reason == "BACKEND_MOVED"
    again = FakeSpooler(lab, instance_id="second")
    await again.connect()
    await again.credit(3)
    assert [(await again.assignment()).job for _ in range(3)] == [
        jobs[1].name,
        jobs[2].name,
        newest.name,
    ]


async def test_what_can_not_be_copied_is_refused(lab: Lab) -> None:
    """An active source, a storage into itself, a target that has the backend's jobs; each says what to do."""
    olga = lab.caller("olga")
    active = await refusal(begin(olga))
    lab.storage("old").set_active(False)
    same = await refusal(begin(olga, "old", "old"))
    unknown = await refusal(begin(olga, "old", "nowhere"))
    await lab.storage("main").provider.put_config("sim", b"{}", None)
    await fill(lab.storage("main").provider, 3)
    full = await refusal(begin(olga))

    assert (active.code, active.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_ACTIVE")
    assert "deactivate" in active.message
    assert (same.reason, same.fields) == ("STORAGES_SAME", ("target",))
    assert (unknown.reason, unknown.fields) == ("STORAGE_NOT_FOUND", ("target",))
    assert full.reason == "BACKEND_EXISTS"


async def test_a_backend_that_moves_is_unavailable_for_a_moment(lab: Lab) -> None:
    """Nobody is told that it is not there, and all may try again; what is not about it goes on."""
    alice = lab.caller("alice")
    job = await alice.submit("sim")
    await lab.caller("robot").register("lamp")
    lab.server.storages.route({}, ["sim"])

    refused = [await refusal(alice.submit("sim")), await refusal(alice.job(job.name))]
    await alice.submit("lamp")
    lab.server.storages.route({})

    for one in refused:
        assert (one.code, one.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_MOVING")
        assert one.retry_after is not None
    assert (await alice.job(job.name)).name == job.name


async def test_what_runs_is_waited_for(lab: Lab) -> None:
    """A running job ends where it began, and its result is in the copy; meanwhile the operation says so."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    job = await alice.submit("sim")
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    assignment = await spooler.assignment()
    await spooler.accept(assignment)
    lab.storage("old").set_active(False)

    operation = await begin(olga)
    async for answer in olga.WatchOperation(admin_pb.WatchOperationRequest(name=operation.name)):
        if "1 jobs that run" in answer.operation.phase:
            break
    await spooler.complete(assignment, b'{"done": true}')
    operation = await ended(olga, operation)

    assert state(operation) == "DONE"
    assert state_of(await alice.job(job.name)) == "DONE"
    result = await alice.GetResult(pb.GetResultRequest(name=job.name))
    assert result.content == b'{"done": true}'
    assert (await lab.storage("main").provider.get(lab.key(job.name))).state == "DONE"


@only_sqlite
async def test_a_half_made_copy_is_found_by_nobody(lab: Lab, start_lab: StartLab) -> None:
    """A server that looks for the backend for the first time finds it in the source, not in the default."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    job = await alice.submit("sim")
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    await spooler.accept(await spooler.assignment())
    lab.storage("old").set_active(False)
    operation = await begin(olga)
    async for answer in olga.WatchOperation(admin_pb.WatchOperationRequest(name=operation.name)):
        if "1 jobs that run" in answer.operation.phase:
            break
    other = await start_lab("main", "old", clock=Clock())

    assert "sim" in await other.storage("main").backends()
    storage, _ = await other.server.storages.find_backend("sim")
    assert storage.name == "old"
    assert [one.name for one in await other.caller("alice").all_jobs()] == [job.name]
    await olga.CancelOperation(admin_pb.CancelOperationRequest(name=operation.name))
    await ended(olga, operation)


async def test_what_is_due_is_done_where_a_job_counts(start_lab: StartLab) -> None:
    """A storage leaves copies alone: the one that the route names decides, and its word is copied."""
    clock = JumpClock()
    lab = await start_lab("main", "old", clock=clock)
    await lab.caller("robot").register("sim", storage="old")
    expire = Timestamp()
    expire.FromDatetime(clock.now() + timedelta(seconds=60))
    job = await lab.caller("alice").submit("sim", expire_time=expire)
    lab.server.storages.route({"sim": "main"})
    clock.advance(120)
    [key] = [one.key for one in (await lab.storage("old").provider.find(Query())).jobs]

    await lab.storage("old").reaper.look()
    copied = await lab.storage("old").provider.get(key)
    lab.server.storages.route({"sim": "old"})
    await lab.storage("old").reaper.look()

    assert copied.state == "QUEUED"
    assert state_of(await lab.caller("alice").job(job.name)) == "EXPIRED"


async def test_a_cancelled_copy_turns_nothing(lab: Lab) -> None:
    """It ends while it waits; the backend stays where it is, and takes jobs again."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    await alice.submit("sim")
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    await spooler.accept(await spooler.assignment())
    lab.storage("old").set_active(False)
    operation = await begin(olga)

    await olga.CancelOperation(admin_pb.CancelOperationRequest(name=operation.name))
    operation = await ended(olga, operation)

    assert (state(operation), operation.cancel_requested) == ("CANCELLED", True)
    lab.storage("old").set_active(True)
    newest = await alice.submit("sim")
    assert (await lab.storage("old").provider.get(lab.key(newest.name))).key.backend == "sim"
    listed = await olga.ListOperations(admin_pb.ListOperationsRequest())
    assert [one.name for one in listed.operations] == [operation.name]


async def test_a_lost_payload_fails_it_and_is_found_by_a_check(lab: Lab) -> None:
    """The error names the job; a check lists it, and on request ends it so that nobody waits for it."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    job = await alice.submit("sim")
    provider = lab.storage("old").provider
    content = (await provider.get(lab.key(job.name))).content
    if hasattr(provider, "_blobs"):
        del provider._blobs[content.id]
    else:
        await provider._engine.write(_drop, content.id)  # type: ignore[attr-defined]
    lab.storage("old").set_active(False)

    failed = await ended(olga, await begin(olga))
    found = await check(olga, "old")
    mended = await check(olga, "old", repair=True)

    assert (state(failed), failed.reason) == ("FAILED", "PAYLOAD_LOST")
    assert job.name in failed.message
    assert [(one.kind, one.subject, one.repaired) for one in found] == [("content_lost", job.name, False)]
    assert [(one.kind, one.repaired) for one in mended] == [("content_lost", True)]
    assert state_of(await alice.job(job.name)).startswith("ERROR")


def _drop(transaction: Any, ids: list[str]) -> list[None]:
    transaction.connection.executemany("DELETE FROM blobs WHERE id = ?", [(one,) for one in ids])
    return [None for _ in ids]


async def check(caller: Caller, name: str, **fields: Any) -> list[admin_pb.StorageFinding]:
    request = admin_pb.CheckStorageRequest(name=name, **fields)
    return [one async for step in caller.CheckStorage(request) for one in step.findings]


async def test_a_sound_storage_has_no_findings(lab: Lab) -> None:
    """Jobs of every kind pass the check, with their checksums; it tells how far it is."""
    provider = lab.storage("main").provider
    await fill(provider, 30)
    request = admin_pb.CheckStorageRequest(name="main", verify_checksums=True)

    steps = [step async for step in lab.caller("olga").CheckStorage(request)]

    assert [one for step in steps for one in step.findings] == []
    assert (steps[-1].checked_jobs, steps[-1].total_jobs) == (30, 30)


@only_sqlite
async def test_another_process_goes_on_where_one_stops(lab: Lab, start_lab: StartLab) -> None:
    """A server that is stopped in the midst lets go, and the other one ends the copy."""
    alice, olga = lab.caller("alice"), lab.caller("olga")
    job = await alice.submit("sim")
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    await spooler.accept(await spooler.assignment())
    clock = JumpClock()
    other = await start_lab("main", "old", clock=clock)
    for one in (lab, other):
        one.storage("old").set_active(False)
    operation = await begin(olga)
    await eventually(lambda: lab.server.operations._running)

    await lab.server.stop(0)
    olga = other.caller("olga")
    await eventually(lambda: other.server.operations._running)
    await eventually(lambda: other.server.storages._routes)
    await other.caller("alice").cancel(job.name)
    clock.advance(60)
    last = operation
    async for answer in olga.WatchOperation(admin_pb.WatchOperationRequest(name=operation.name)):
        last = answer.operation
        if "that run" in last.phase:
            await other.storage("old").reaper.look()

    assert state(last) == "DONE"
    assert (await other.storage("main").provider.get(lab.key(job.name))).is_terminal


# With kills


class Servers:
    """Starts `spoolway serve` on the same files again and again."""

    def __init__(self, folder: Path) -> None:
        self.logins: dict[str, tuple[str, dict[str, str]]] = {
            "main": ("sqlite", {"path": str(folder / "main.sqlite")}),
            "old": ("local", {"base_path": str(folder / "old")}),
            "mid": ("sqlite", {"path": str(folder / "mid.sqlite")}),
            "back": ("local", {"base_path": str(folder / "back")}),
        }
        self._config = folder / "spoolway.toml"
        lines = ['default_storage = "main"', "[server]", "drain_pause_s = 0", "drain_grace_s = 1"]
        for name, (type_name, login) in self.logins.items():
            lines += [
                f"[storages.{name}]",
                f'type = "{type_name}"',
                f"active = {str(name == 'main').lower()}",
            ]
            lines += [f'{field} = "{value}"' for field, value in login.items()]
        self._config.write_text("\n".join(lines))

    def provider(self, name: str) -> Provider:
        type_name, login = self.logins[name]
        return make_provider(type_name, login)

    @asynccontextmanager
    async def server(self, kill_at: int = 0) -> AsyncIterator[tuple[Caller, asyncio.subprocess.Process]]:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "tests.server.hasty_server",
                "serve",
                "--port",
                "0",
                "--config",
                str(self._config),
            ),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TEST_KILL_AT": str(kill_at)},
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(60):
                address = (await process.stdout.readline()).decode().strip()
            async with grpc.aio.insecure_channel(address) as channel:
                yield Caller(channel, "olga"), process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@pytest.mark.timeout(60 + 4 * int(COPY_S))
async def test_a_copy_is_killed_in_the_middle_and_ends_equal(tmp_path: Path) -> None:
    """From a folder to SQLite and back into another folder, each time killed half way: nothing differs."""
    servers = Servers(tmp_path)
    await with_provider(servers.provider("old"), lambda provider: fill(provider, JOBS))
    before = await with_provider(servers.provider("old"), contents_of)

    for source, target in (("old", "mid"), ("mid", "back")):
        async with servers.server(kill_at=JOBS // 2) as (olga, process):
            operation = await begin(olga, source, target)
            async with asyncio.timeout(COPY_S):
                assert await process.wait() == -9
        async with servers.server() as (olga, _):
            half = (await olga.GetOperation(admin_pb.GetOperationRequest(name=operation.name))).operation
            operation = await ended(olga, operation)
        assert (state(half), half.done_jobs >= JOBS // 2) == ("RUNNING", True)
        assert (state(operation), operation.message, operation.done_jobs) == ("DONE", "", JOBS)

    for name in ("mid", "back"):
        after = await with_provider(servers.provider(name), contents_of)
        assert len(after["jobs"]) == JOBS
        assert after == before


async def with_provider(provider: Provider, work: Any) -> Any:
    await provider.open()
    try:
        return await work(provider)
    finally:
        await provider.close()
