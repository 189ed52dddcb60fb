# ruff: noqa: S101 - what the tests need must be so
"""Taking over another storage's jobs: as they are, in their order, and as often as one likes."""

from datetime import timedelta

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, CONTENT, Base, Scene, blob
from spoolway_providers.errors import NotFound, RequestIdReused
from spoolway_providers.interface import Adoptee, Query
from spoolway_providers.memory import MemoryProvider
from spoolway_providers.model import Job, JobKey, State

__all__ = ["AdoptionConformance"]


class _Elsewhere(Scene):
    """Another storage, with jobs made a moment ago."""

    @classmethod
    async def make(cls, here: Scene) -> "_Elsewhere":
        job = await here.submit_and_cancel()
        await here.provider.delete(job.key, job.revision)
        there = cls(MemoryProvider(clock=lambda: job.created_at - timedelta(minutes=1)))
        await there.set_up()
        return there

    async def adoptee(self, job: Job) -> Adoptee:
        """A job as it is there, with its bytes."""
        content = await self.provider.read_blob(job.content)
        return Adoptee(job, content, await self.provider.read_blob(job.result) if job.result else None)


class AdoptionConformance(Base):
    """For storages that take over jobs."""

    async def test_a_job_is_taken_over_as_it_is(self, scene: Scene) -> None:
        """All but its seq is as it was: attempts, times, labels, rank, revision, content and result."""
        there = await _Elsewhere.make(scene)
        await there.submit(labels={"run.$": "7"}, priority=0)
        done = await there.complete(await there.claim_and_accept(), b'{"n": 1}')

        [stored] = await scene.provider.adopt([await there.adoptee(done)])

        assert isinstance(stored, Job)
        assert replace(stored, seq=done.seq) == done
        assert await scene.provider.get(done.key) == stored
        assert await scene.provider.read_blob(done.content) == CONTENT
        assert done.result is not None
        assert await scene.provider.read_blob(done.result) == b'{"n": 1}'

    async def test_the_order_is_kept_among_others(self, scene: Scene) -> None:
        """Jobs taken over are claimed in their old order, and before what is submitted from now on."""
        there = await _Elsewhere.make(scene)
        jobs = [await there.submit() for _ in range(5)]

        stored = await scene.provider.adopt([await there.adoptee(job) for job in jobs])
        newest = await scene.submit()

        seqs = [job.seq for job in stored if isinstance(job, Job)]
        assert seqs == sorted(seqs)
        assert [job.key for job in await scene.claim(6)] == [job.key for job in (*jobs, newest)]

    async def test_a_repeat_changes_nothing(self, scene: Scene) -> None:
        """What is there in this revision or a newer one stays as it is, and is the answer."""
        there = await _Elsewhere.make(scene)
        job = await there.submit()
        [first] = await scene.provider.adopt([await there.adoptee(job)])
        assert isinstance(first, Job)
        newer = await scene.do(first, rules.Cancel("alice"))

        assert await scene.provider.adopt([await there.adoptee(job)]) == [newer]
        assert await scene.provider.count(Query()) == 1

    async def test_a_newer_revision_replaces_an_older_one(self, scene: Scene) -> None:
        """It keeps its seq, and its result comes along."""
        there = await _Elsewhere.make(scene)
        job = await there.submit()
        [first] = await scene.provider.adopt([await there.adoptee(job)])
        assert isinstance(first, Job)
        done = await there.complete(await there.claim_and_accept(), b'{"n": 2}')
        cursor = (await scene.provider.changes("")).cursor

        [second] = await scene.provider.adopt([await there.adoptee(done)])

        assert second == replace(done, seq=first.seq)
        assert done.result is not None
        assert await scene.provider.read_blob(done.result) == b'{"n": 2}'
        assert await scene.provider.read_blob(done.content) == CONTENT
        assert second in (await scene.provider.changes(cursor)).jobs

    async def test_staged_bytes_are_taken_over(self, scene: Scene) -> None:
        """A content whose id is an upload's is staged first; without it nothing is stored."""
        there = await _Elsewhere.make(scene)
        long = b'"' + b"x" * 5000 + b'"'
        await there.provider.stage("upload-1", 0, long)
        job = await there.submit(content=blob("upload-1", long))

        [refused] = await scene.provider.adopt([Adoptee(job)])
        await scene.provider.stage("upload-1", 0, long)
        [stored] = await scene.provider.adopt([Adoptee(job)])

        assert isinstance(refused, NotFound)
        assert isinstance(stored, Job)
        assert await scene.provider.read_blob(stored.content, 0, len(long)) == long

    async def test_its_request_id_is_known(self, scene: Scene) -> None:
        """A repeat of the submit finds the job, also after its delay; with another content it is refused."""
        there = await _Elsewhere.make(scene)
        job = await there.submit(request_id="r-1")
        later = job.created_at + timedelta(hours=1)
        delayed = await there.submit(request_id="r-2", not_before=later)
        adoptees = [await there.adoptee(job), await there.adoptee(delayed)]

        stored = await scene.provider.adopt(adoptees)

        assert await scene.submit(request_id="r-1") == stored[0]
        assert await scene.submit(request_id="r-2", not_before=later) == stored[1]
        assert isinstance(await scene.answer(request_id="r-1", content=b"{}"), RequestIdReused)
        assert await scene.provider.count(Query()) == 2

    async def test_an_unknown_backend_is_refused(self, scene: Scene) -> None:
        """The config comes first."""
        there = await _Elsewhere.make(scene)
        job = replace(await there.submit(), key=JobKey("nowhere", "0" * 24))

        [refused] = await scene.provider.adopt([Adoptee(job, CONTENT)])

        assert isinstance(refused, NotFound)

    async def test_owners_go_on_taking_turns(self, scene: Scene) -> None:
        """The next job of an owner comes after those that wait, as it would have there."""
        there = await _Elsewhere.make(scene)
        for one in (there, scene):
            await one.set_policy(round_robin=True)
        jobs = [await there.submit(owner="alice", round_robin=True) for _ in range(3)]

        await scene.provider.adopt([await there.adoptee(job) for job in jobs])
        newest = await scene.submit(owner="alice", round_robin=True)

        assert [job.key for job in await scene.claim(4)] == [*(job.key for job in jobs), newest.key]

    async def test_all_public_keys_are_listed(self, scene: Scene) -> None:
        """By id, each as it was put."""
        await scene.provider.put_public_key("kid-1", b'{"k": 1}')
        await scene.provider.put_public_key("kid-2", b'{"k": 2}')

        assert await scene.provider.public_keys() == {"kid-1": b'{"k": 1}', "kid-2": b'{"k": 2}'}

    async def test_a_job_in_each_state_is_taken_over(self, scene: Scene) -> None:
        """Whatever its state, it is found by it."""
        there = await _Elsewhere.make(scene)
        await there.submit()
        jobs = [await there.complete(await there.claim_and_accept()), await there.submit_and_cancel()]
        jobs += [await there.do(await there.submit(), rules.Hold("op")), await there.submit()]

        await scene.provider.adopt([await there.adoptee(job) for job in jobs])

        for state in (State.DONE, State.CANCELLED, State.HELD, State.QUEUED):
            wanted = [job.key for job in jobs if job.state is state]
            assert await scene.find_keys(states=(state,), backend=BACKEND) == wanted
