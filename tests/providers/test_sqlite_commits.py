"""How the SQLite provider commits: in groups, and never later than it says so."""

import asyncio
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.errors import Unavailable
from spoolway_providers.model import Job
from spoolway_providers.sqlite import writer
from tests.providers.conftest import OpenSqlite


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each commit from now on."""
    counted: list[bool] = []
    commit = writer.Writer._commit

    def count(self: writer.Writer, connection: object) -> None:
        counted.append(True)
        commit(self, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(writer.Writer, "_commit", count)
    return counted


async def test_calls_at_once_share_a_commit(scene: Scene, commits: list[bool]) -> None:
    """Two hundred submits at once need only a few commits."""
    jobs = await asyncio.gather(*(scene.submit() for _ in range(200)))

    assert len({job.key for job in jobs}) == 200
    assert len(commits) <= 5


async def test_order_is_kept_within_a_group(scene: Scene) -> None:
    """Calls of one group are committed in the order in which they were made."""
    jobs = await asyncio.gather(*(scene.submit() for _ in range(50)))

    assert [job.key for job in await scene.claim(100)] == [job.key for job in jobs]
    assert [job.seq for job in jobs] == sorted(job.seq for job in jobs)


async def test_close_commits_what_is_under_way(path: Path, open_sqlite: OpenSqlite) -> None:
    """Calls that were made before the close are committed and answered; later ones are refused."""
    scene = Scene(await open_sqlite())
    await scene.set_up()
    submits = [asyncio.create_task(scene.submit()) for _ in range(20)]
    await asyncio.sleep(0)

    await scene.provider.close()

    with pytest.raises(Unavailable, match="not open"):
        await scene.submit()
    jobs = await asyncio.gather(*submits)
    again = await open_sqlite()
    for job in jobs:
        assert await again.get(job.key) == job


async def test_conflict_in_a_group_is_its_own(scene: Scene) -> None:
    """A stale change that is committed together with good ones is refused alone."""
    jobs = [await scene.submit() for _ in range(6)]
    cancels = [scene.submit_and_cancel() for _ in range(3)]
    claims = [scene.claim(2) for _ in range(3)]

    *ended, a, b, c = await asyncio.gather(*cancels, *claims)

    assert [job.key for claimed in (a, b, c) for job in claimed] == [job.key for job in jobs]
    assert all(isinstance(job, Job) for job in ended)


async def test_repeats_are_found_among_many(scene: Scene) -> None:
    """In one batch of hundreds of request ids, new ones make jobs and old ones are answered by theirs."""
    old = [await scene.submit(request_id=f"r-{number}") for number in range(3)]
    drafts = [scene.draft(request_id=f"r-{number}") for number in range(600)]

    answers = await scene.provider.submit([*drafts, drafts[1], drafts[599], scene.draft(owner="bob")])

    assert answers[:3] == old
    assert [answers[600], answers[601]] == [old[1], answers[599]]
    jobs = [answer for answer in answers if isinstance(answer, Job)]
    assert len({job.key for job in jobs}) == 601
