"""The SQLite provider when the disk, other processes or a call go wrong: it fails clearly and recovers."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.errors import Unavailable, Uncertain
from spoolway_providers.model import Job
from spoolway_providers.sqlite import writer
from tests.providers.conftest import OpenSqlite
from tests.providers.disks import Disk, SqliteLimits, small_disk

SHORT = timedelta(milliseconds=200)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", monkeypatch) as disk:
        yield disk


@pytest.fixture
async def on_disk(disk: Disk, open_sqlite: OpenSqlite) -> Scene:
    """A storage on the small disk."""
    scene = Scene(await open_sqlite(disk.folder / "jobs.sqlite"))
    await scene.set_up()
    return scene


async def submit_until_refused(scene: Scene) -> list[Job]:
    """The jobs that were acknowledged before the disk gave up."""
    jobs: list[Job] = []
    while True:
        try:
            jobs.append(await scene.submit(content=b"x" * 20_000))
        except Unavailable:
            return jobs


async def test_full_disk_is_unavailable_and_recovers(disk: Disk, on_disk: Scene) -> None:
    """On a full disk a submit is refused, reads go on, and all works once there is room again."""
    before = await on_disk.submit()
    disk.fill()

    jobs = [before, *await submit_until_refused(on_disk)]
    assert await on_disk.provider.get(before.key) == before
    disk.empty()
    after = await on_disk.submit()

    assert [job.key for job in await on_disk.claim(1000)] == [job.key for job in (*jobs, after)]


async def test_read_only_file_is_unavailable_and_recovers(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file became read-only a submit is refused, and works once it may write again."""
    limits = SqliteLimits(monkeypatch)
    await scene.provider.close()
    await scene.provider.open()
    before = await scene.submit()
    limits.add("PRAGMA query_only = ON")

    for _ in range(2):
        with pytest.raises(Unavailable, match="readonly"):
            await scene.submit()
    assert await scene.provider.get(before.key) == before
    limits.lift()

    after = await scene.submit()
    assert await scene.find_keys() == [before.key, after.key]


async def test_read_only_disk_is_unavailable_until_it_is_not(disk: Disk, on_disk: Scene) -> None:
    """A storage on a read-only disk does not open, and opens once the disk may be written."""
    job = await on_disk.submit()
    await on_disk.provider.close()
    disk.forbid_writing()
    with pytest.raises(Unavailable):
        await on_disk.provider.open()
    disk.allow_writing()

    await on_disk.provider.open()

    assert await on_disk.provider.get(job.key) == job


async def test_long_transaction_of_another_program_is_unavailable(
    path: Path, open_sqlite: OpenSqlite
) -> None:
    """While another program holds the write lock, writes end in time and reads go on."""
    scene = Scene(await open_sqlite(busy_timeout=SHORT))
    await scene.set_up()
    job = await scene.submit()

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await scene.submit()
        assert await scene.provider.get(job.key) == job

    assert await scene.submit()


async def test_stuck_disk_ends_calls_in_time(
    open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a commit hangs, its call is Uncertain, later ones are Unavailable, and all recovers after it."""
    scene = Scene(await open_sqlite(time_limit=SHORT))
    await scene.set_up()
    commit, is_stuck, goes_on = writer.Writer._commit, threading.Event(), threading.Event()

    def hang(self: writer.Writer, connection: sqlite3.Connection) -> None:
        is_stuck.set()
        goes_on.wait()
        commit(self, connection)

    monkeypatch.setattr(writer.Writer, "_commit", hang)
    under_way = asyncio.create_task(scene.submit(owner="bob"))
    await asyncio.to_thread(is_stuck.wait)
    waiting = asyncio.create_task(scene.submit(owner="carol"))

    with pytest.raises(Uncertain):
        await under_way
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await scene.submit(owner="dave")
    goes_on.set()
    await wait_until_available(scene)

    owners = {(await scene.provider.get(key)).owner for key in await scene.find_keys()}
    assert owners == {"bob", "erin"}


async def wait_until_available(scene: Scene) -> None:
    """Submit for erin until it works."""
    while True:
        try:
            await scene.submit(owner="erin")
        except Unavailable:
            await asyncio.sleep(0)
        else:
            return


class Trouble:
    """Makes the next COMMIT of the writer fail, before or after it has done its work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._next: tuple[int, bool] | None = None
        self._connect = writer.connect
        monkeypatch.setattr(writer, "connect", self._connect_to_trouble)

    def come(self, code: int, *, is_done: bool) -> None:
        """The next COMMIT fails with this result code."""
        self._next = (code, is_done)

    def execute(self, connection: sqlite3.Connection, statement: str, *args: Any) -> Any:
        if statement != "COMMIT" or self._next is None:
            return connection.execute(statement, *args)
        (code, is_done), self._next = self._next, None
        if is_done:
            connection.execute("COMMIT")
        error = sqlite3.OperationalError("disk trouble")
        error.sqlite_errorcode = code
        raise error

    def _connect_to_trouble(self, *args: Any, **kwargs: Any) -> "TroubledConnection":
        return TroubledConnection(self._connect(*args, **kwargs), self)


class TroubledConnection:
    """A connection whose COMMIT may fail."""

    def __init__(self, connection: sqlite3.Connection, trouble: Trouble) -> None:
        self._connection = connection
        self._trouble = trouble

    def execute(self, statement: str, *args: Any) -> Any:
        return self._trouble.execute(self._connection, statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize(
    ("code", "is_done", "expected"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, True, Uncertain),
        (sqlite3.SQLITE_IOERR_FSYNC, False, Uncertain),
        (sqlite3.SQLITE_FULL, False, Unavailable),
    ],
    ids=["kept", "lost", "full"],
)
async def test_failed_commit(
    open_sqlite: OpenSqlite,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    is_done: bool,
    expected: type[Exception],
) -> None:
    """A commit that fails is Uncertain unless it surely did nothing; a repeat by request id finds out."""
    trouble = Trouble(monkeypatch)
    scene = Scene(await open_sqlite())
    await scene.set_up()
    trouble.come(code, is_done=is_done)
    with pytest.raises(expected):
        await scene.submit(request_id="r-1")

    stored = await scene.find_keys()
    job = await scene.submit(request_id="r-1")

    assert stored == ([job.key] if is_done else [])
    assert await scene.find_keys() == [job.key]


async def test_failed_commit_hides_no_other(open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits hears of another process's commit, even if it has the number of a failed one."""
    trouble = Trouble(monkeypatch)
    scene, other = Scene(await open_sqlite(watches=False)), Scene(await open_sqlite(watches=False), "s-2")
    await scene.set_up()
    cursor = (await scene.provider.changes("")).cursor
    while await scene.provider.wait(SHORT) is not None:
        pass
    trouble.come(sqlite3.SQLITE_IOERR_FSYNC, is_done=False)
    with pytest.raises(Uncertain):
        await scene.submit()
    job = await other.submit()

    assert await scene.provider.wait(timedelta(seconds=10)) is not None
    assert (await scene.provider.changes(cursor)).jobs == [job]


async def test_connections_sync_each_commit(path: Path, scene: Scene) -> None:
    """A commit is on the disk before it is acknowledged: power may fail at any time."""
    with closing(writer.connect(path, busy_timeout_s=1, read_only=False)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_broken_call_harms_only_itself(scene: Scene) -> None:
    """Of calls that are committed together, one that can't be stored fails alone, and leaves no trace."""
    cursor = (await scene.provider.changes("")).cursor
    answers = await asyncio.gather(
        scene.submit(owner="bob"),
        scene.provider.submit([scene.draft(), scene.draft(owner="\ud800")]),
        scene.provider.renew(scene.session_id, 1 << 80),
        scene.submit(owner="carol"),
        return_exceptions=True,
    )

    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Job", "UnicodeEncodeError", "OverflowError", "Job"]
    assert len(await scene.find_keys()) == 2
    assert len((await scene.provider.changes(cursor)).jobs) == 2


async def test_broken_read_harms_only_itself(scene: Scene) -> None:
    """Of reads that are answered together, one that makes no sense fails alone."""
    job = await scene.submit()

    answers = await asyncio.gather(
        scene.find_keys(cursor="nonsense"),
        scene.find_keys(limit=1 << 80),
        scene.find_keys(),
        return_exceptions=True,
    )

    assert [type(answer).__name__ for answer in answers] == ["ValueError", "OverflowError", "list"]
    assert answers[2] == [job.key]


async def test_caller_that_leaves_harms_nobody(scene: Scene) -> None:
    """A call whose caller was cancelled does not disturb those that are committed with it."""
    leaving, staying = (asyncio.create_task(scene.submit(owner=owner)) for owner in ("bob", "carol"))
    await asyncio.sleep(0)
    leaving.cancel()

    job = await staying

    assert await scene.provider.get(job.key) == job
    with pytest.raises(asyncio.CancelledError):
        await leaving
