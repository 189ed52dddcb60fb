"""What the MongoDB provider makes of a server's faults, and of its death."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import token_of
from spoolway_providers.errors import (
    Corrupt,
    LoginRefused,
    ProviderError,
    TooLarge,
    Unavailable,
    Uncertain,
)
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, JobKey, Policy, State
from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.faults import login_fault, read_fault, write_fault
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, StandIn, leftovers, stand_in

__all__ = ["leftovers", "stand_in"]

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]

WRITES = ["findAndModify", "update", "insert"]
TOO_LATE = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"wtimeout": True}}
RETRYABLE = {"errorCode": 262, "errorLabels": ["RetryableWriteError"]}


@pytest.fixture
async def scene(stand_in: StandIn) -> AsyncIterator[Scene]:
    async with stand_in.database() as name:
        provider = stand_in.provider(name, time_limit=timedelta(seconds=0.7))
        await provider.open()
        scene = Scene(provider)
        await scene.set_up()
        yield scene
        await provider.close()


@asynccontextmanager
async def failing(
    stand_in: StandIn, commands: list[str], mode: Any = "alwaysOn", **how: Any
) -> AsyncIterator[None]:
    """Let commands fail in the server."""
    async with AsyncMongoClient[dict[str, Any]](stand_in.uri) as client:
        point = {"configureFailPoint": "failCommand"}
        await client.admin.command({**point, "mode": mode, "data": {"failCommands": commands, **how}})
        try:
            yield
        finally:
            await client.admin.command({**point, "mode": "off"})


@pytest.mark.parametrize("how", [{"closeConnection": True}, RETRYABLE], ids=["closed", "retryable"])
async def test_passing_fault_is_not_noticed(stand_in: StandIn, scene: Scene, how: dict[str, Any]) -> None:
    """A write that fails once, in a way that can be repeated, is repeated."""
    async with failing(stand_in, WRITES, {"times": 1}, **how):
        job = await scene.submit()
    async with failing(stand_in, WRITES, {"times": 1}, **how):
        [claimed] = await scene.claim()
    async with failing(stand_in, WRITES, {"times": 1}, **how):
        await scene.do(claimed, rules.Accept(token_of(claimed)))

    assert (await scene.provider.get(job.key)).state is State.RUNNING


async def test_passing_fault_of_a_read_is_not_noticed(stand_in: StandIn, scene: Scene) -> None:
    """A read that fails once is repeated."""
    job = await scene.submit()

    async with failing(stand_in, ["find", "aggregate"], {"times": 1}, closeConnection=True):
        assert await scene.provider.get(job.key) == job


async def test_late_majority_is_read_back(stand_in: StandIn, scene: Scene) -> None:
    """A write that was done, but not confirmed by a majority in time, counts once a majority has it."""
    async with failing(stand_in, WRITES, writeConcernError=TOO_LATE):
        drafts = [scene.draft(request_id=f"r{n}") for n in range(3)]
        jobs = [await scene.submit(), *(await scene.provider.submit(drafts))]
        [first] = await scene.claim()
        others = await scene.claim(3)
        running = await scene.do(first, rules.Accept(token_of(first)))
        done = await scene.complete(running)
        await scene.set_policy(max_queued=7)
        await scene.provider.put_config("new", b"[1]", "")

    assert [job.key for job in jobs if isinstance(job, Job)] == [first.key, *(job.key for job in others)]
    assert await scene.provider.get(first.key) == done
    assert len(await scene.provider.backends()) == 2


@pytest.mark.parametrize(
    "how",
    [{"closeConnection": True}, RETRYABLE, {"blockConnection": True, "blockTimeMS": 1200}],
    ids=["closed", "retryable", "blocked"],
)
async def test_lasting_fault_is_uncertain(stand_in: StandIn, scene: Scene, how: dict[str, Any]) -> None:
    """A write whose answer never comes is Uncertain within its time, and a repeat makes no second job."""
    started_at = monotonic()

    async with failing(stand_in, WRITES, **how):
        with pytest.raises(Uncertain):
            await scene.answer(request_id="r")

    assert monotonic() - started_at < 3
    job = await scene.submit(request_id="r")
    assert (await scene.provider.find(Query())).jobs == [job]


async def test_blocked_read_is_unavailable(stand_in: StandIn, scene: Scene) -> None:
    """A read that takes longer than its time has done nothing."""
    async with failing(stand_in, ["find"], blockConnection=True, blockTimeMS=1200):
        with pytest.raises(Unavailable):
            await scene.provider.backends()


async def test_full_disk_is_unavailable(stand_in: StandIn, scene: Scene) -> None:
    """A server that says no has done nothing, and says why."""
    async with failing(stand_in, WRITES, errorCode=14031):
        with pytest.raises(Unavailable, match="14031"):
            await scene.submit()

    assert await scene.provider.count(Query()) == 0


def operation(code: int, **details: Any) -> OperationFailure:
    return OperationFailure("no", code, details)


def labelled(error: PyMongoError, label: str) -> PyMongoError:
    error._add_error_label(label)
    return error


@pytest.mark.parametrize(
    ("error", "in_read", "in_write"),
    [
        (ServerSelectionTimeoutError("no"), Unavailable, Unavailable),
        (WaitQueueTimeoutError("no"), Unavailable, Unavailable),
        (InvalidOperation("no"), Unavailable, Unavailable),
        (AutoReconnect("no"), Unavailable, Uncertain),
        (NetworkTimeout("no"), Unavailable, Uncertain),
        (labelled(AutoReconnect("no"), "NoWritesPerformed"), Unavailable, Unavailable),
        (labelled(operation(91), "RetryableWriteError"), Unavailable, Uncertain),
        (WTimeoutError("no", 64), Unavailable, Uncertain),
        (WriteConcernError("no", 79), Unavailable, Uncertain),
        (ExecutionTimeout("no", 50), Unavailable, Uncertain),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), Unavailable, Uncertain),
        (operation(14031), Unavailable, Unavailable),
        (operation(13), LoginRefused, LoginRefused),
        (operation(18), LoginRefused, LoginRefused),
        (operation(8000), LoginRefused, LoginRefused),
        (operation(9), Corrupt, Corrupt),
        (DuplicateKeyError("no", 11000), Unavailable, Unavailable),
        (DocumentTooLarge("no"), Unavailable, TooLarge),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_each_error_has_its_meaning(
    error: PyMongoError, in_read: type[ProviderError], in_write: type[ProviderError]
) -> None:
    """Of the driver's errors, only those of a write that was surely not done are Unavailable."""
    assert type(read_fault(error)) is in_read
    assert type(write_fault(error)) is in_write


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("h: [SSL: CERTIFICATE_VERIFY_FAILED] no", "tlsCAFile"),
        ("h: Name or service not known", "name can't be resolved"),
        ("h: timed out", "list of addresses"),
    ],
)
def test_unreachable_server_comes_with_advice(said: str, advice: str) -> None:
    """Who can't reach a server is told what to look at."""
    assert advice in str(login_fault(ServerSelectionTimeoutError(said), "h"))
    assert "h" in str(login_fault(ConfigurationError("mongodb://a:secret@h"), "h"))
    assert "secret" not in str(login_fault(ConfigurationError("mongodb://a:secret@h"), "h"))


class Work:
    """A stream of jobs through one process, which goes on whatever the storage says."""

    def __init__(self, provider: MongoProvider, session: str, done: set[JobKey]) -> None:
        self.scene = Scene(provider, session)
        self.submitted: list[JobKey] = []
        self.done = done
        self.troubles = 0

    async def submit(self, count: int) -> None:
        for n in range(count):
            request_id = f"{self.scene.session_id}-{n}"
            while True:
                try:
                    self.submitted.append((await self.scene.submit(request_id=request_id)).key)
                except (Unavailable, Uncertain):
                    await self._pause()
                else:
                    break

    async def run_until(self, count: int) -> None:
        while len(self.done) < count:
            try:
                for job in await self._claim():
                    await self._run(job)
            except (Unavailable, Uncertain):
                await self._pause()
            else:
                await asyncio.sleep(0.005)

    async def _claim(self) -> list[Job]:
        """What a claim of unknown outcome took is found by its session."""
        held = (await self.scene.provider.find(Query(session=self.scene.session_id))).jobs
        return held or await self.scene.claim()

    async def _run(self, job: Job) -> None:
        """Decide again from what is stored until it is done, as the server does."""
        while True:
            try:
                job = await self.scene.provider.get(job.key)
                if job.state is State.DONE:
                    self.done.add(job.key)
                    return
                if job.state is State.CLAIMED:
                    job = await self.scene.do(job, rules.Accept(token_of(job)))
                await self.scene.complete(job)
            except (Unavailable, Uncertain):
                await self._pause()

    async def _pause(self) -> None:
        self.troubles += 1
        await asyncio.sleep(0.05)


async def test_f3_killed_and_restarted_database_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """With the database killed under load and started again, each job is done, once, by one attempt."""
    server = StandIn(tmp_path_factory.mktemp("killed"))
    server.start()
    options = {"heartbeatFrequencyMS": 500}
    providers = [server.provider("lab", time_limit=timedelta(seconds=1), options=options) for _ in range(2)]
    for provider in providers:
        await provider.open()
    done: set[JobKey] = set()
    works = [Work(provider, f"session-{n}", done) for n, provider in enumerate(providers)]
    for work in works:
        await work.scene.set_up()

    async def kill_and_restart() -> None:
        for _ in range(2):
            await asyncio.sleep(0.3)
            server.kill()
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_and_restart())
        for work in works:
            group.create_task(work.submit(40))
            group.create_task(work.run_until(80))

    jobs = (await providers[0].find(Query(limit=1000))).jobs
    for provider in providers:
        await provider.close()
    server.kill()
    assert sum(work.troubles for work in works) > 0
    assert sorted(job.key for job in jobs) == sorted(key for work in works for key in work.submitted)
    assert {job.state for job in jobs} == {State.DONE}
    assert {len(job.attempts) for job in jobs} == {1}


async def test_storage_comes_back_by_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While no server answers calls fail soon; once it is back they work, and who waits is woken."""
    server = StandIn(tmp_path_factory.mktemp("back"))
    server.start()
    provider = server.provider("lab", options={"heartbeatFrequencyMS": 500})
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    while await provider.wait(timedelta(milliseconds=100)) is not None:
        pass
    server.kill()
    provider._connection.time_limit_s = 0.5
    with pytest.raises(Unavailable):
        await provider.backends()
    started_at = monotonic()
    with pytest.raises(Unavailable):
        await provider.put_policy("singlequdit", Policy(paused=True), None)
    failed_within = monotonic() - started_at
    server.start()
    waiting = asyncio.create_task(provider.wait(timedelta(seconds=20)))
    other = server.provider("lab")
    await other.open()
    await Scene(other).submit()

    assert failed_within < 1.5
    hints = await waiting
    assert hints is not None
    assert len(await provider.backends()) == 1
    await other.close()
    await provider.close()
    server.kill()
