# ruff: noqa: S101 - these are tests
"""A storage that several processes share."""

import asyncio
from datetime import timedelta

import pytest
import pytest_asyncio

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene, session, token_of
from spoolway_providers.errors import Conflict, SessionClosed
from spoolway_providers.interface import Change, Provider
from spoolway_providers.model import Job

SOON = timedelta(seconds=10)
AT_ONCE = timedelta(milliseconds=20)


class SharedStorageConformance(Base):
    """What holds between processes.

    Needs a fixture `second`: another opened handle on the storage of `provider`.
    """

    @pytest_asyncio.fixture
    async def other(self, scene: Scene, second: Provider) -> Scene:
        """The same storage, seen from another process with a session of its own."""
        other = Scene(second, "session-2")
        await other.provider.open_session(session(other.session_id, spooler=other.session_id))
        return other

    async def test_what_one_writes_the_other_reads(self, scene: Scene, other: Scene) -> None:
        """A job that one process submitted is there for the other at once, with its content."""
        job = await scene.submit()

        assert await other.provider.get(job.key) == job
        assert await other.provider.read_blob(job.content)
        assert len(await other.provider.sessions()) == 2

    async def test_public_key_counts_for_all(self, scene: Scene, other: Scene) -> None:
        """A key that one process has put is there for the other, which can't replace it."""
        await scene.provider.put_public_key("lab-1", b'{"x":"1"}')

        assert await other.provider.public_key("lab-1") == b'{"x":"1"}'
        assert await other.provider.put_public_key("lab-1", b'{"x":"2"}') == b'{"x":"1"}'

    async def test_request_id_is_known_to_all(self, scene: Scene, other: Scene) -> None:
        """A repeat that arrives at another process returns the first job, also in flight."""
        answers = await asyncio.gather(
            *(place.answer(request_id=f"r-{n}") for n in range(10) for place in (scene, other))
        )

        keys = [job.key for job in answers if isinstance(job, Job)]
        assert len(keys) == 20
        assert len(set(keys)) == 10

    async def test_f2_one_winner_across_processes(self, scene: Scene, other: Scene) -> None:
        """Claims of several processes share the jobs, and none goes to two."""
        submitted = [await scene.submit() for _ in range(40)]

        claims = await asyncio.gather(*(place.claim(3) for _ in range(10) for place in (scene, other)))

        winners = [job.key for claimed in claims for job in claimed]
        assert sorted(winners) == sorted(job.key for job in submitted)

    async def test_f12_order_holds_across_processes(self, scene: Scene, other: Scene) -> None:
        """Jobs submitted one after the other at different processes are claimed in that order."""
        submitted = [(await place.submit()).key for _ in range(10) for place in (scene, other)]

        assert [job.key for job in await other.claim(20)] == submitted

    async def test_commit_is_compare_and_set_across_processes(self, scene: Scene, other: Scene) -> None:
        """Of two processes that change one revision, one wins and the other sees it."""
        job = await scene.submit()
        change = Change(scene.decide(job, rules.Hold("operator")), job.revision)

        answers = await asyncio.gather(scene.provider.commit([change]), other.provider.commit([change]))

        assert sorted(type(answer).__name__ for [answer] in answers) == ["Conflict", "Job"]

    async def test_policy_counts_for_all(self, scene: Scene, other: Scene) -> None:
        """A backend that one process pauses gives no job to the other, and one etag fits once."""
        await scene.submit()
        await scene.set_policy(paused=True)
        [backend] = await other.provider.backends()
        assert backend.policy is not None

        assert await other.claim() == []
        await scene.set_policy(paused=False)
        with pytest.raises(Conflict):
            await other.provider.put_policy(BACKEND, backend.policy, backend.policy_etag)

    async def test_session_is_closed_for_all(self, scene: Scene, other: Scene) -> None:
        """A session that one process closed can't renew or claim through the other."""
        await scene.submit()
        await scene.claim()
        await other.provider.close_session(scene.session_id, None, "LOST")

        with pytest.raises(SessionClosed):
            await scene.provider.renew(scene.session_id, 1)
        assert await scene.claim() == []
        [orphan] = await other.find_keys(orphaned=True)
        job = await scene.provider.get(orphan)
        await other.do(job, rules.Resume(token_of(job), other.session_id))
        assert await scene.find_keys(orphaned=True) == []

    async def test_wait_hears_of_other_processes(self, scene: Scene, other: Scene) -> None:
        """Who waits is woken by another process's submit."""
        while await scene.provider.wait(AT_ONCE) is not None:
            pass
        waiting = asyncio.create_task(scene.provider.wait(SOON))
        await asyncio.sleep(0)
        await other.submit()

        hints = await waiting

        assert hints is not None
        assert hints.changed
        assert hints.queued is None or BACKEND in hints.queued

    async def test_changes_hold_all_processes_commits(self, scene: Scene, other: Scene) -> None:
        """Commits of both processes come in `changes`, in whatever turn they wrote."""
        cursor = (await scene.provider.changes("")).cursor
        jobs = [await place.submit() for _ in range(5) for place in (scene, other)]

        changes = await scene.provider.changes(cursor)

        assert sorted(job.key for job in changes.jobs) == sorted(job.key for job in jobs)
        await other.do(jobs[0], rules.Hold("operator"))
        [held] = (await scene.provider.changes(changes.cursor)).jobs
        assert held.key == jobs[0].key
