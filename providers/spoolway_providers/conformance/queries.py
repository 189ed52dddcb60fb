# ruff: noqa: S101 - these are tests
"""Reading jobs."""

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene, session, token_of
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, JobKey, State


class QueryConformance(Base):
    """What `find`, `count`, `position` and `next_due` promise, and that no read is torn."""

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_cursor_after_any_job_goes_on_there(self, scene: Scene, newest_first: bool) -> None:
        """A list goes on after any of its jobs, also when others were submitted meanwhile."""
        for _ in range(5):
            await scene.submit()
        query = Query(newest_first=newest_first)
        jobs = (await scene.provider.find(query)).jobs
        keys = [job.key for job in jobs]
        new = await scene.submit()

        for number, job in enumerate(jobs, 1):
            rest = await scene.provider.find(replace(query, cursor=scene.provider.cursor_after(job)))
            added = [] if newest_first else [new.key]
            assert [one.key for one in rest.jobs] == [*keys[number:], *added]

    async def test_find_by_field(self, scene: Scene) -> None:
        """Each condition finds its jobs, and several must hold together."""
        await scene.provider.put_config("multiqudit", b"{}", None)
        here = await scene.submit(labels={"run": "7", "site": "a"})
        there = await scene.submit(backend="multiqudit", labels={"run": "7"})
        bobs = await scene.submit_and_cancel(owner="bob")

        assert await scene.find_keys() == [here.key, there.key, bobs.key]
        assert await scene.find_keys(id=there.key.id) == [there.key]
        assert await scene.find_keys(backend="multiqudit") == [there.key]
        assert await scene.find_keys(owner="bob") == [bobs.key]
        assert await scene.find_keys(labels={"run": "7"}) == [here.key, there.key]
        assert await scene.find_keys(labels={"run": "7", "site": "a"}) == [here.key]
        assert await scene.find_keys(owner="alice", backend="multiqudit") == [there.key]
        assert await scene.find_keys(owner="bob", backend="multiqudit") == []

    async def test_find_by_state(self, scene: Scene) -> None:
        """Every set of states finds the jobs in these states."""
        running = (await scene.submit()).key
        await scene.claim_and_accept()
        claimed = (await scene.submit()).key
        await scene.claim()
        held = (await scene.do(await scene.submit(), rules.Hold("operator"))).key
        cancelled = (await scene.submit_and_cancel()).key
        queued = (await scene.submit()).key

        assert await scene.find_keys(states=(State.QUEUED,)) == [queued]
        assert await scene.find_keys(states=(State.QUEUED, State.HELD)) == [held, queued]
        assert await scene.find_keys(states=(State.RUNNING, State.CLAIMED)) == [running, claimed]
        assert await scene.find_keys(states=(State.RUNNING, State.CANCELLED)) == [running, cancelled]
        assert await scene.find_keys(states=(State.DONE,)) == []

    @pytest.mark.parametrize("newest_first", [False, True], ids=["oldest-first", "newest-first"])
    async def test_pages_hold_all_once(self, scene: Scene, newest_first: bool) -> None:
        """Page by page all jobs come once in order of submission, also when others come meanwhile."""
        expected = [(await scene.submit()).key for _ in range(7)]
        found: list[JobKey] = []
        sizes: list[int] = []
        cursor = ""
        while cursor or not sizes:
            page = await scene.provider.find(
                Query(owner="alice", newest_first=newest_first, limit=3, cursor=cursor)
            )
            found += [job.key for job in page.jobs]
            sizes.append(len(page.jobs))
            cursor = page.cursor
            await scene.submit(owner="bob")

        assert found == (expected[::-1] if newest_first else expected)
        assert sizes == [3, 3, 1]

    async def test_last_full_page_has_no_cursor(self, scene: Scene) -> None:
        """A page that ends with the last job says so."""
        await scene.submit()
        await scene.submit()

        assert (await scene.provider.find(Query(limit=2))).cursor == ""

    async def test_find_by_session(self, scene: Scene) -> None:
        """A session's jobs are those that it holds now."""
        held = await scene.submit()
        ended = await scene.submit()
        await scene.claim_and_accept()
        await scene.complete(await scene.claim_and_accept())
        await scene.submit()

        assert await scene.find_keys(session=scene.session_id) == [held.key]
        assert ended.key not in await scene.find_keys(session=scene.session_id)
        assert await scene.find_keys(session="else") == []

    async def test_orphans_have_lost_their_session(self, scene: Scene) -> None:
        """Jobs held by a closed session are orphans, again and again until they change."""
        await scene.submit()
        await scene.submit()
        await scene.claim()
        await scene.provider.open_session(session("other", spooler="other"))
        [claimed] = await scene.provider.claim(BACKEND, [scene.order("other")])
        before = await scene.find_keys(orphaned=True)
        await scene.provider.close_session("other", None, "LOST")

        assert before == []
        assert await scene.find_keys(orphaned=True) == [claimed.job.key]
        await scene.do(claimed.job, rules.SessionGone("other"))
        assert await scene.find_keys(orphaned=True) == []

    async def test_due_jobs_come_by_due_time(self, scene: Scene) -> None:
        """What is due by a moment is found, that moment included, the earliest first, in pages too."""
        now = (await scene.submit()).created_at
        hours = [5, 2, 2, 9, 1]
        jobs = [await scene.submit(expire_at=now + timedelta(hours=hour)) for hour in hours]
        expected = [jobs[n].key for n in (4, 1, 2, 0)]
        query = Query(due_before=now + timedelta(hours=5), limit=2)
        first = await scene.provider.find(query)
        second = await scene.provider.find(replace(query, cursor=first.cursor))

        assert [job.key for job in (*first.jobs, *second.jobs)] == expected
        assert second.cursor == ""

    async def test_next_due_is_the_earliest(self, scene: Scene) -> None:
        """The next due time is that of the job that is due first, and none if none is."""
        now = (await scene.submit()).created_at
        before = await scene.provider.next_due()
        for hours in (3, 2, 4):
            await scene.submit(expire_at=now + timedelta(hours=hours))

        assert before is None
        assert await scene.provider.next_due() == now + timedelta(hours=2)

    async def test_count_stops_at_its_limit(self, scene: Scene) -> None:
        """A count is exact below its limit and the limit itself above."""
        for _ in range(5):
            await scene.submit()
        await scene.submit(owner="bob")

        assert await scene.provider.count(Query(owner="alice")) == 5
        assert await scene.provider.count(Query(owner="alice", limit=3)) == 3
        assert await scene.provider.count(Query(states=(State.DONE,))) == 0

    async def test_position_counts_who_comes_before(self, scene: Scene) -> None:
        """A queued job's position is the number of queued jobs before it, up to the limit."""
        jobs = [await scene.submit() for _ in range(5)]
        await scene.claim()

        assert [await scene.provider.position(job, 10) for job in jobs[1:]] == [0, 1, 2, 3]
        assert await scene.provider.position(jobs[4], 2) == 2

    async def test_f1_no_read_is_torn(self, scene: Scene) -> None:
        """Whoever reads beside a writer sees whole documents, and never an older one after a newer."""
        await scene.submit()
        job = await scene.claim_and_accept()
        writing = asyncio.create_task(self._write_progress(scene, job, 60))
        seen = job.revision
        while not writing.done():
            [found] = (await scene.provider.find(Query(id=job.key.id))).jobs
            for read in (found, await scene.provider.get(job.key)):
                assert read.revision >= seen
                assert read.detail == read.stage * 900
                seen = read.revision
            await asyncio.sleep(0)

        assert (await writing).revision == job.revision + 60
        assert seen <= job.revision + 60

    @staticmethod
    async def _write_progress(scene: Scene, job: Job, times: int) -> Job:
        for n in range(times):
            stage = chr(ord("a") + n % 26)
            job = await scene.do(job, rules.Progress(token_of(job), stage=stage, detail=stage * 900))
            await asyncio.sleep(0)
        return job
