# ruff: noqa: S101 - these are tests
"""Changing and removing jobs."""

import asyncio

import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance.scene import Base, Scene, blob, token_of
from spoolway_providers.errors import Conflict, NotFound, TooLarge
from spoolway_providers.interface import Change
from spoolway_providers.model import Job, JobKey, State, result_blob_id

RESULT = b'{"success": true}'


class CommitConformance(Base):
    """What `commit` and `delete` promise."""

    async def test_committed_job_is_the_job(self, scene: Scene) -> None:
        """A committed change is what everybody reads from then on."""
        await scene.submit()

        job = await scene.claim_and_accept()

        assert await scene.provider.get(job.key) == job
        assert (job.state, job.revision) == (State.RUNNING, 3)

    async def test_stale_change_is_refused(self, scene: Scene) -> None:
        """A change of an older revision changes nothing and learns what is there now."""
        old = await scene.submit()
        current = await scene.do(old, rules.Hold("operator"))

        [answer] = await scene.provider.commit(
            [Change(scene.decide(old, rules.Cancel("alice")), old.revision)]
        )

        assert isinstance(answer, Conflict)
        assert answer.current == current
        assert await scene.provider.get(old.key) == current

    async def test_one_of_many_changes_wins(self, scene: Scene) -> None:
        """Of many changes of one revision at once, one is stored and the others see it."""
        job = await scene.submit()
        changes = [Change(scene.decide(job, rules.Hold(f"operator {n}")), job.revision) for n in range(10)]

        answers = await asyncio.gather(*(scene.provider.commit([change]) for change in changes))

        stored = await scene.provider.get(job.key)
        assert [answer for [answer] in answers if isinstance(answer, Job)] == [stored]
        assert all(answer.current == stored for [answer] in answers if isinstance(answer, Conflict))
        assert stored.revision == 2

    async def test_each_change_stands_for_itself(self, scene: Scene) -> None:
        """In one call, some changes may be stored while others are refused."""
        stale, good, missing = await scene.submit(), await scene.submit(), await scene.submit()
        await scene.do(stale, rules.Hold("operator"))
        gone = replace(missing, key=JobKey(missing.key.backend, "0" * 24), seq=missing.seq + 1000)
        jobs = [stale, good, gone]

        answers = await scene.provider.commit(
            [Change(scene.decide(job, rules.Cancel("alice")), job.revision) for job in jobs]
        )

        assert isinstance(answers[0], Conflict)
        assert isinstance(answers[1], Job)
        assert isinstance(answers[2], NotFound)
        assert (await scene.provider.get(good.key)).state is State.CANCELLED

    async def test_repeated_change_is_a_conflict_with_itself(self, scene: Scene) -> None:
        """Who repeats a change whose answer was lost finds it stored."""
        job = await scene.submit()
        change = Change(scene.decide(job, rules.Cancel("alice")), job.revision)
        await scene.provider.commit([change])

        [answer] = await scene.provider.commit([change])

        assert isinstance(answer, Conflict)
        assert answer.current == change.job

    async def test_result_comes_with_its_commit(self, scene: Scene) -> None:
        """A result is readable once its job is DONE, and belongs to it."""
        await scene.submit()

        job = await scene.complete(await scene.claim_and_accept(), RESULT)

        assert job.state is State.DONE
        assert job.result is not None
        assert await scene.provider.read_blob(job.result) == RESULT

    async def test_staged_result_is_invisible_until_committed(self, scene: Scene) -> None:
        """A staged result can't be read before the commit that names it, and can afterwards."""
        await scene.submit()
        job = await scene.claim_and_accept()
        ref = blob(result_blob_id(job.key, token_of(job)), RESULT)
        await scene.provider.stage(ref.id, 0, RESULT)

        with pytest.raises(NotFound):
            await scene.provider.read_blob(ref)
        await scene.do(job, rules.Complete(token_of(job), ref))

        assert await scene.provider.read_blob(ref) == RESULT

    async def test_refused_change_leaves_its_result_invisible(self, scene: Scene) -> None:
        """The result of a change that was refused stays out of sight, staged or not."""
        await scene.submit()
        job = await scene.claim_and_accept()
        staged = blob(result_blob_id(job.key, token_of(job)), RESULT)
        inline = blob(staged.id + "-inline", RESULT)
        await scene.provider.stage(staged.id, 0, RESULT)
        await scene.do(job, rules.Progress(token_of(job), stage="measuring"))

        answers = await scene.provider.commit(
            [
                Change(scene.decide(job, rules.Complete(token_of(job), staged)), job.revision),
                Change(scene.decide(job, rules.Complete(token_of(job), inline)), job.revision, RESULT),
            ]
        )

        assert [type(answer) for answer in answers] == [Conflict, Conflict]
        for ref in (staged, inline):
            with pytest.raises(NotFound):
                await scene.provider.read_blob(ref)

    async def test_result_must_be_there(self, scene: Scene) -> None:
        """A change that names a result which nobody staged is refused, and the job runs on."""
        await scene.submit()
        job = await scene.claim_and_accept()
        done = scene.decide(job, rules.Complete(token_of(job), blob("nowhere", RESULT)))

        [answer] = await scene.provider.commit([Change(done, job.revision)])

        assert isinstance(answer, NotFound)
        assert await scene.provider.get(job.key) == job

    async def test_too_large_result_is_refused(self, scene: Scene) -> None:
        """An inline result over the limit is an error that names the limit, and the job runs on."""
        await scene.submit()
        job = await scene.claim_and_accept()
        result = b"x" * (scene.provider.capabilities.max_document_bytes + 1)
        done = scene.decide(job, rules.Complete(token_of(job), blob("large", result)))

        [answer] = await scene.provider.commit([Change(done, job.revision, result)])

        assert isinstance(answer, TooLarge)
        assert await scene.provider.get(job.key) == job

    async def test_deleted_job_is_gone(self, scene: Scene) -> None:
        """A deleted job can't be read any more, nor its content and result, and others are untouched."""
        other = await scene.submit()
        await scene.claim()
        await scene.submit()
        job = await scene.complete(await scene.claim_and_accept())
        assert job.result is not None

        await scene.provider.delete(job.key, job.revision)

        with pytest.raises(NotFound):
            await scene.provider.get(job.key)
        for ref in (job.content, job.result):
            with pytest.raises(NotFound):
                await scene.provider.read_blob(ref)
        assert await scene.provider.read_blob(other.content)

    async def test_only_ended_jobs_are_deleted(self, scene: Scene) -> None:
        """A job that has not ended, or has changed since it was looked at, stays."""
        waiting = await scene.submit()
        ended = await scene.submit_and_cancel()

        for key, revision in ((waiting.key, waiting.revision), (ended.key, ended.revision - 1)):
            with pytest.raises(Conflict) as caught:
                await scene.provider.delete(key, revision)
            assert caught.value.current == await scene.provider.get(key)

    async def test_unknown_job_is_not_found(self, scene: Scene) -> None:
        """What does not exist can be neither read nor deleted."""
        job = await scene.submit_and_cancel()
        for key in (JobKey(job.key.backend, "0" * 24), JobKey("nowhere", job.key.id)):
            with pytest.raises(NotFound):
                await scene.provider.get(key)
            with pytest.raises(NotFound):
                await scene.provider.delete(key, 1)
