# ruff: noqa: S101 - these are tests
"""Submitting jobs."""

import asyncio
from datetime import timedelta

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene, blob
from spoolway_providers.errors import Expired, NotFound, QueueFull, RequestIdReused, TooLarge, Unsupported
from spoolway_providers.model import Job, Reason, State

HOSTILE = (
    "../../secret",
    "a/b",
    "a' OR '1'='1",
    'a"; DROP TABLE jobs; --',
    "$where",
    "a.b.c",
    "%",
    "_",
    "*",
    "a\nb",
    "a\\b",
    "läßt 囧 🦄",
    "",
)
"""Names that the server would refuse, but that a provider must take for data all the same."""


class SubmitConformance(Base):
    """What `submit` promises."""

    async def test_submitted_job_is_what_was_asked_for(self, scene: Scene) -> None:
        """A job that was submitted can be read back with all that its draft said."""
        job = await scene.submit(labels={"run": "7"}, max_run_time=timedelta(minutes=5), request_id="r-1")

        assert await scene.provider.get(job.key) == job
        assert (job.key.backend, job.owner, job.state, job.revision) == (BACKEND, "alice", State.QUEUED, 1)
        assert (job.labels, job.max_run_time, job.max_attempts) == ({"run": "7"}, timedelta(minutes=5), 3)
        assert await scene.provider.read_blob(job.content) == Scene.draft().content

    async def test_jobs_of_one_call_keep_its_order(self, scene: Scene) -> None:
        """The jobs of one submit have ascending sequence numbers and ids of their own."""
        answers = await scene.provider.submit([scene.draft() for _ in range(20)])

        jobs = [job for job in answers if isinstance(job, Job)]
        assert len({job.key for job in jobs}) == 20
        assert [job.seq for job in jobs] == sorted({job.seq for job in jobs})

    async def test_each_draft_stands_for_itself(self, scene: Scene) -> None:
        """A draft that is refused does not harm the others of its call."""
        drafts = [scene.draft(), scene.draft(backend="nowhere"), scene.draft()]

        first, second, third = await scene.provider.submit(drafts)

        assert isinstance(second, NotFound)
        assert isinstance(first, Job)
        assert isinstance(third, Job)

    async def test_repeat_returns_the_first_job(self, scene: Scene) -> None:
        """A request id that comes again makes no second job, whatever has become of the first."""
        await scene.submit(request_id="r-1")
        running = await scene.claim_and_accept()

        assert await scene.answer(request_id="r-1") == running
        assert await scene.claim() == []

    async def test_order_of_labels_is_no_other_content(self, scene: Scene) -> None:
        """A repeat may name its labels in another order."""
        job = await scene.submit(request_id="r-1", labels={"a": "1", "b": "2"})

        assert await scene.answer(request_id="r-1", labels={"b": "2", "a": "1"}) == job

    @pytest.mark.parametrize(
        "changes",
        [{"content": b"[]"}, {"labels": {"run": "8"}}, {"max_attempts": 1}],
        ids=["content", "labels", "options"],
    )
    async def test_reused_request_id_is_refused(self, scene: Scene, changes: dict[str, object]) -> None:
        """A request id with another content or other options is an error, and makes no job."""
        await scene.submit(request_id="r-1")

        assert isinstance(await scene.answer(request_id="r-1", **changes), RequestIdReused)
        assert len(await scene.claim(5)) == 1

    async def test_request_ids_belong_to_an_owner_and_a_backend(self, scene: Scene) -> None:
        """The same request id of another owner, or for another backend, is another request."""
        await scene.provider.put_config("multiqudit", b"{}", None)

        jobs = [
            await scene.submit(request_id="r-1"),
            await scene.submit(request_id="r-1", owner="bob"),
            await scene.submit(request_id="r-1", backend="multiqudit"),
        ]

        assert len({job.key for job in jobs}) == 3

    async def test_without_request_id_nothing_is_a_repeat(self, scene: Scene) -> None:
        """Equal drafts without a request id are different jobs."""
        first, second = await scene.submit(), await scene.submit()

        assert first.key != second.key

    async def test_concurrent_twins_make_one_job(self, scene: Scene) -> None:
        """Of repeats in flight at once, all receive the one job."""
        answers = await asyncio.gather(*(scene.answer(request_id="r-1") for _ in range(8)))
        twins = await scene.provider.submit([scene.draft(request_id="r-2")] * 3)

        assert len({job.key for job in answers if isinstance(job, Job)}) == 1
        assert len({job.key for job in twins if isinstance(job, Job)}) == 1
        assert len(await scene.claim(20)) == 2

    async def test_request_id_outlives_its_job(self, scene: Scene) -> None:
        """The request id of a deleted job makes no new job."""
        job = await scene.submit_and_cancel(request_id="r-1")
        await scene.provider.delete(job.key, job.revision)

        assert isinstance(await scene.answer(request_id="r-1"), NotFound)
        assert isinstance(await scene.answer(request_id="r-1", content=b"[]"), RequestIdReused)
        assert await scene.claim() == []

    async def test_full_queue_refuses(self, scene: Scene) -> None:
        """A backend with as many waiting jobs as allowed takes no more until one has left."""
        drafts = [scene.draft(max_queued=3) for _ in range(4)]

        *taken, refused = await scene.provider.submit(drafts)
        await scene.claim()

        assert all(isinstance(job, Job) for job in taken)
        assert isinstance(refused, QueueFull)
        assert refused.limit == 3
        assert isinstance(await scene.answer(max_queued=3), Job)

    async def test_held_jobs_fill_the_queue(self, scene: Scene) -> None:
        """A held job waits as well, so it counts."""
        await scene.do(await scene.submit(), rules.Hold("operator"))

        assert isinstance(await scene.answer(max_queued=1), QueueFull)

    async def test_repeat_is_answered_by_a_full_queue(self, scene: Scene) -> None:
        """A repeat adds nothing, so a full queue does not refuse it."""
        job = await scene.submit(request_id="r-1", max_queued=1)

        assert await scene.answer(request_id="r-1", max_queued=1) == job

    async def test_late_repeat_is_answered(self, scene: Scene) -> None:
        """A draft whose latest start has passed makes no job, but a repeat is answered."""
        job = await scene.submit(request_id="r-1")
        drafts = [scene.draft(request_id=f"r-{n}", is_late=True) for n in (1, 2, 2)]

        repeat, *late = await scene.provider.submit(drafts)

        assert repeat == job
        assert [type(answer) for answer in late] == [Expired, Expired]
        assert isinstance(await scene.answer(is_late=True), Expired)
        assert await scene.find_keys() == [job.key]
        assert isinstance(await scene.answer(request_id="r-2"), Job)

    async def test_too_large_content_is_refused(self, scene: Scene) -> None:
        """A content over the limit is an error that names the limit; one at the limit is taken."""
        limit = scene.provider.capabilities.max_document_bytes

        refused = await scene.answer(content=b"x" * (limit + 1))
        taken = await scene.answer(content=b"x" * limit)

        assert isinstance(refused, TooLarge)
        assert refused.limit == limit
        assert isinstance(taken, Job)

    async def test_delayed_job_waits_for_its_time(self, scene: Scene) -> None:
        """A job that may not start before a time is held until then, where the storage can."""
        now = (await scene.submit()).created_at
        answer = await scene.answer(not_before=now + timedelta(hours=1))

        if not scene.provider.capabilities.priority:
            assert isinstance(answer, Unsupported)
            return
        assert isinstance(answer, Job)
        assert (answer.state, answer.reason) == (State.HELD, Reason.DELAYED)
        assert answer.due_at == now + timedelta(hours=1)
        assert len(await scene.claim(5)) == 1

    async def test_staged_content_comes_with_its_job(self, scene: Scene) -> None:
        """A job may name a staged blob, which is readable from then on."""
        data = b"0123456789" * 10
        await scene.provider.stage("upload-1", 0, data)

        job = await scene.submit(content=blob("upload-1", data))

        assert await scene.provider.read_blob(job.content) == data
        [claimed] = await scene.provider.claim(BACKEND, [scene.order()])
        assert claimed.job.content == job.content
        assert claimed.content in (None, data)

    async def test_content_must_be_staged_completely(self, scene: Scene) -> None:
        """A blob that is not staged, or with fewer bytes than named, makes no job."""
        await scene.provider.stage("upload-1", 0, b"0123")

        assert isinstance(await scene.answer(content=blob("upload-1", b"0123456789")), NotFound)
        assert isinstance(await scene.answer(content=blob("upload-2", b"0123")), NotFound)
        assert await scene.claim() == []

    @pytest.mark.parametrize("text", HOSTILE)
    async def test_f11_hostile_text_stays_data(self, scene: Scene, text: str) -> None:
        """Owners, labels and request ids are stored as they are and find only their own jobs."""
        other = await scene.submit()
        job = await scene.submit(owner=f"o{text}", labels={f"l{text}": text}, request_id=f"r{text}")

        assert await scene.provider.get(job.key) == job
        assert await scene.answer(owner=f"o{text}", labels={f"l{text}": text}, request_id=f"r{text}") == job
        assert await scene.find_keys(owner=f"o{text}") == [job.key]
        assert await scene.find_keys(labels={f"l{text}": text}) == [job.key]
        assert await scene.find_keys(labels={f"l{text}": "else"}) == []
        assert await scene.find_keys(owner="alice") == [other.key]
