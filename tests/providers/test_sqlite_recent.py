"""The changes that a process remembers of its own commits are those that the file has."""

from spoolway_providers.conformance import Scene
from spoolway_providers.interface import Changes
from spoolway_providers.model import Job, JobKey
from spoolway_providers.sqlite import queries
from spoolway_providers.sqlite.recent import ChangedJob, RecentChanges
from tests.providers.conftest import OpenSqlite
from tests.providers.ways import job_in, submitted

JOB = submitted()
OTHER = JobKey("b", "1" * 24)


def changed(number: int, job: Job = JOB) -> ChangedJob:
    return (number, job.key, job)


def test_changes_without_a_gap_are_known() -> None:
    """Commits that follow one another are answered from memory, each job once in its newest document."""
    newer = job_in("CLAIMED")
    recent = RecentChanges()
    recent.add(4, 6, [changed(5), (6, OTHER, None)])
    recent.add(6, 8, [changed(8, newer)])

    assert recent.since(4, 8, 10) == ([(6, OTHER, None), changed(8, newer)], False)
    assert recent.since(6, 8, 10) == ([changed(8, newer)], False)
    assert recent.since(8, 8, 10) == ([], False)
    assert recent.since(4, 8, 1) == ([(6, OTHER, None)], True)


def test_gap_is_not_hidden() -> None:
    """What lies before the first known commit, or after the last, or in between, is not known here."""
    recent = RecentChanges()
    assert recent.since(0, 0, 10) is None
    recent.add(4, 5, [changed(5)])
    assert recent.since(3, 5, 10) is None
    assert recent.since(4, 6, 10) is None
    recent.add(7, 8, [changed(8)])

    assert recent.since(4, 8, 10) is None
    assert recent.since(5, 8, 10) is None
    assert recent.since(7, 8, 10) == ([changed(8)], False)


def test_memory_is_bounded() -> None:
    """Only the newest few thousand changes are remembered."""
    recent = RecentChanges()
    for number in range(5_000):
        recent.add(number, number + 1, [changed(number + 1)])

    assert recent.since(1_000, 5_000, 10) is None
    assert recent.since(4_900, 5_000, 10) == ([changed(5_000)], False)


async def test_memory_and_file_say_the_same(open_sqlite: OpenSqlite) -> None:
    """Read from memory or from the file, the changes since any cursor are the same."""
    provider = await open_sqlite()
    scene = Scene(provider)
    await scene.set_up()
    cursors = [(await provider.changes("")).cursor]
    for _ in range(4):
        await scene.submit()
        ended = await scene.submit_and_cancel()
        await scene.claim_and_accept()
        await provider.delete(ended.key, ended.revision)
        cursors.append((await provider.changes("")).cursor)

    for cursor in cursors:
        for limit in (2, 100):
            assert await provider.changes(cursor, limit) == await from_file(scene, cursor, limit)


async def from_file(scene: Scene, cursor: str, limit: int) -> Changes:
    """The changes as another process reads them."""
    after_number = int(cursor.rpartition("-")[2])
    engine = scene.provider._engine  # type: ignore[attr-defined]
    return await engine.read(queries.changes, queries.ChangesAsked(after_number, limit))  # type: ignore[no-any-return]
