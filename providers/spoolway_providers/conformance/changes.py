# ruff: noqa: S101 - these are tests
"""Changes and hints."""

import asyncio
from datetime import timedelta

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene, token_of
from spoolway_providers.errors import Conflict, CursorTooOld
from spoolway_providers.interface import Change, Hints
from spoolway_providers.model import Job, JobKey

SOON = timedelta(seconds=10)
AT_ONCE = timedelta(milliseconds=20)


class ChangeConformance(Base):
    """What `changes` and `wait` promise."""

    async def test_changes_begin_now(self, scene: Scene) -> None:
        """Without a cursor there is nothing to see but where to go on."""
        await scene.submit()

        changes = await scene.provider.changes("")

        assert (changes.jobs, changes.deleted, changes.more) == ([], [], False)
        again = await scene.provider.changes(changes.cursor)
        assert (again.jobs, again.deleted) == ([], [])

    async def test_changed_job_comes_once_in_its_newest_revision(self, scene: Scene) -> None:
        """However often a job has changed since the cursor, it is there once as it is now."""
        untouched = await scene.submit()
        cursor = (await scene.provider.changes("")).cursor
        await scene.claim()
        other = await scene.submit()
        await scene.do(other, rules.Hold("operator"))

        changes = await scene.provider.changes(cursor)

        assert sorted(job.key for job in changes.jobs) == sorted([untouched.key, other.key])
        for job in changes.jobs:
            assert job == await scene.provider.get(job.key)
        assert (await scene.provider.changes(changes.cursor)).jobs == []

    async def test_refused_change_is_no_change(self, scene: Scene) -> None:
        """What was not stored is not among the changes."""
        old = await scene.submit()
        await scene.do(old, rules.Hold("operator"))
        cursor = (await scene.provider.changes("")).cursor

        [answer] = await scene.provider.commit(
            [Change(scene.decide(old, rules.Cancel("alice")), old.revision)]
        )

        assert isinstance(answer, Conflict)
        changes = await scene.provider.changes(cursor)
        assert (changes.jobs, changes.deleted) == ([], [])

    async def test_deleted_job_is_told(self, scene: Scene) -> None:
        """A job that was deleted since the cursor is named as such."""
        job = await scene.submit_and_cancel()
        cursor = (await scene.provider.changes("")).cursor
        await scene.provider.delete(job.key, job.revision)

        changes = await scene.provider.changes(cursor)

        assert (changes.jobs, changes.deleted) == ([], [job.key])

    async def test_changes_come_in_portions(self, scene: Scene) -> None:
        """With a limit, all changes come portion by portion, and the last says that it is."""
        cursor = (await scene.provider.changes("")).cursor
        ended = await scene.submit_and_cancel()
        expected = {(await scene.submit()).key for _ in range(5)}
        await scene.provider.delete(ended.key, ended.revision)
        jobs: list[Job] = []
        deleted: list[JobKey] = []
        more = True
        while more:
            changes = await scene.provider.changes(cursor, limit=2)
            assert len(changes.jobs) + len(changes.deleted) <= 2
            jobs += changes.jobs
            deleted += changes.deleted
            cursor, more = changes.cursor, changes.more

        assert {job.key for job in jobs} == expected
        assert deleted == [ended.key]

    async def test_nothing_is_missed_between_snapshot_and_changes(self, scene: Scene) -> None:
        """A cursor taken before a snapshot leads on from it, while others go on writing."""
        writing = asyncio.create_task(self._write(scene, 30))
        cursor = (await scene.provider.changes("")).cursor
        known: dict[JobKey, Job] = {}
        while not writing.done():
            changes = await scene.provider.changes(cursor, limit=7)
            known.update((job.key, job) for job in changes.jobs)
            cursor = changes.cursor
            await asyncio.sleep(0)
        changes = await scene.provider.changes(cursor)
        known.update((job.key, job) for job in changes.jobs)

        for job in await writing:
            assert known[job.key] == await scene.provider.get(job.key)

    @staticmethod
    async def _write(scene: Scene, times: int) -> list[Job]:
        jobs = []
        for _ in range(times):
            await scene.submit()
            [job] = await scene.claim()
            jobs.append(await scene.do(job, rules.Accept(token_of(job))))
            await asyncio.sleep(0)
        return jobs

    async def test_foreign_cursor_asks_for_a_snapshot(self, scene: Scene) -> None:
        """A cursor that this storage can't go on from is refused."""
        for cursor in ("999999999", "nonsense", "-1", "x-5"):
            with pytest.raises(CursorTooOld):
                await scene.provider.changes(cursor)

    async def test_nothing_happens_nobody_is_woken(self, scene: Scene) -> None:
        """A wait during which nothing happens ends without a hint."""
        await self._drain(scene)

        assert await scene.provider.wait(AT_ONCE) is None

    async def test_submit_wakes(self, scene: Scene) -> None:
        """Who waits is woken by a submit, and told which backend has a new job."""
        await self._drain(scene)
        waiting = asyncio.create_task(scene.provider.wait(SOON))
        await asyncio.sleep(0)
        await scene.submit()

        _assert_queued(await waiting)

    async def test_hints_are_kept_between_waits(self, scene: Scene) -> None:
        """What happens while nobody waits is told to the next who does."""
        await self._drain(scene)
        await scene.submit()

        _assert_queued(await scene.provider.wait(SOON))

    async def test_requeue_and_resume_wake(self, scene: Scene) -> None:
        """A job that returns to the queue wakes, and so does a backend that is resumed."""
        await scene.submit()
        [claimed] = await scene.claim()
        await self._drain(scene)
        await scene.do(claimed, rules.Withdraw(token_of(claimed)))
        after_return = await scene.provider.wait(SOON)
        await self._drain(scene)
        await scene.set_policy(paused=True)
        await self._drain(scene)
        await scene.set_policy(paused=False)

        _assert_queued(after_return)
        _assert_queued(await scene.provider.wait(SOON))

    async def test_change_is_hinted(self, scene: Scene) -> None:
        """A commit that queues nothing still says that something has changed."""
        job = await scene.submit()
        await self._drain(scene)
        await scene.do(job, rules.Cancel("alice"))

        hints = await scene.provider.wait(SOON)

        assert hints is not None
        assert hints.changed

    @staticmethod
    async def _drain(scene: Scene) -> None:
        """Take all hints, until there is none."""
        while await scene.provider.wait(AT_ONCE) is not None:
            pass


def _assert_queued(hints: Hints | None) -> None:
    assert hints is not None
    assert hints.queued is None or BACKEND in hints.queued
