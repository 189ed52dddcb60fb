"""How processes that share an SQLite file wake each other."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import session
from spoolway_providers.interface import Hints
from spoolway_providers.sqlite import SqliteProvider
from tests.providers.conftest import OpenSqlite

SOON = timedelta(seconds=10)
A_MOMENT = timedelta(milliseconds=300)

SUBMITTER = """
import asyncio, sys
from pathlib import Path
from time import monotonic
from spoolway_providers.conformance import Scene
from spoolway_providers.sqlite import SqliteProvider

async def main():
    provider = SqliteProvider(Path(sys.argv[1]))
    await provider.open()
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        await Scene(provider).submit()
        print(monotonic(), flush=True)
    await provider.close()

asyncio.run(main())
"""


async def drain(provider: SqliteProvider) -> None:
    """Take all hints, until there is none for a while."""
    while await provider.wait(A_MOMENT) is not None:
        pass


@pytest.fixture
async def submitter(scene: Scene, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that submits a job for each line it reads, and says when it was committed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SUBMITTER,
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    yield process
    process.stdin.close()
    await process.wait()


async def test_other_process_wakes_within_100_ms(scene: Scene, submitter: asyncio.subprocess.Process) -> None:
    """Who waits is woken by file events within a tenth of a second of another process's commit."""
    assert submitter.stdin is not None
    assert submitter.stdout is not None
    delays_s = []
    for _ in range(5):
        await drain(scene.provider)  # type: ignore[arg-type]
        waiting = asyncio.create_task(scene.provider.wait(SOON))
        await asyncio.sleep(0)
        submitter.stdin.write(b"\n")
        hints = await waiting
        woken_at = monotonic()
        delays_s.append(woken_at - float(await submitter.stdout.readline()))
        assert hints == Hints(None, changed=True)

    assert min(delays_s) < 0.1


async def test_without_file_events_a_look_finds_it(open_sqlite: OpenSqlite) -> None:
    """With wake-ups switched off, another process's commit is found by looking, within seconds."""
    waiter, other = await open_sqlite(watches=False), Scene(await open_sqlite())
    await other.set_up()
    await drain(waiter)
    waiting = asyncio.create_task(waiter.wait(SOON))
    await asyncio.sleep(0)
    await other.submit()

    assert await waiting == Hints(None, changed=True)
    assert not waiter.capabilities.wakes


async def test_session_that_another_process_ends_wakes(open_sqlite: OpenSqlite) -> None:
    """Who has its stream hears of it; of signs of life nobody does."""
    mine, other = await open_sqlite(), await open_sqlite()
    await mine.open_session(session("mine", instance="first"))
    await drain(mine)
    await other.renew("mine", 1)
    beat = await mine.wait(A_MOMENT)
    await other.open_session(session("theirs", instance="second"))

    assert beat is None
    assert await mine.wait(SOON) is not None


async def test_own_commit_wakes_once(scene: Scene) -> None:
    """The file event of an own commit does not wake a second time."""
    await drain(scene.provider)  # type: ignore[arg-type]
    await scene.submit()

    assert await scene.provider.wait(SOON) == Hints(frozenset({"singlequdit"}), changed=True)
    assert await scene.provider.wait(A_MOMENT) is None


async def test_own_commit_does_not_hide_another(open_sqlite: OpenSqlite) -> None:
    """Who commits after another process, and has not looked yet, still hears of the other's commit."""
    mine, other = Scene(await open_sqlite(watches=False)), Scene(await open_sqlite(watches=False), "s-2")
    await mine.set_up()
    await other.provider.put_config("multiqudit", b"{}", None)
    await drain(mine.provider)  # type: ignore[arg-type]
    await other.submit(backend="multiqudit")
    await mine.submit()

    hints = await mine.provider.wait(SOON)

    assert hints is not None
    assert hints.queued is None


async def test_nothing_is_watched_unless_somebody_waits(scene: Scene) -> None:
    """No thread watches before the first wait."""
    before = count_watchers()
    await drain(scene.provider)  # type: ignore[arg-type]
    meanwhile = count_watchers()
    await scene.provider.close()

    assert (before, meanwhile, count_watchers()) == (0, 1, 0)


def count_watchers() -> int:
    """Threads of this process that watch a wake file."""
    return [thread.name for thread in threading.enumerate()].count("spoolway-wake")


async def test_lost_wake_file_is_made_again(scene: Scene, path: Path) -> None:
    """A wake file that somebody removed is there again after the next commit."""
    wake = path.with_name(path.name + ".wake")
    wake.unlink()
    await scene.submit()

    assert wake.exists()


async def test_closed_storage_ends_the_wait(scene: Scene) -> None:
    """A wait ends with an error when the storage is closed."""
    await drain(scene.provider)  # type: ignore[arg-type]
    waiting = asyncio.create_task(scene.provider.wait(SOON))
    await asyncio.sleep(0)
    await scene.provider.close()

    with pytest.raises(Exception, match="not open"):
        await waiting
