# ruff: noqa: S101 - these are tests
"""What time does to a storage; for providers that take a clock."""

from datetime import timedelta

import pytest

from spoolway_providers.conformance.scene import Base, ManualClock, Scene, blob
from spoolway_providers.errors import CursorTooOld, NotFound, SessionClosed

ALMOST_A_DAY = timedelta(hours=23, minutes=59)
A_LITTLE = timedelta(minutes=2)


class AgeingConformance(Base):
    """What is kept for a day and then swept by `repair`, and what a clock can't spoil.

    Needs a fixture `clock`: the clock that `provider` was made with.
    """

    async def test_staged_blob_is_kept_for_a_day(self, scene: Scene, clock: ManualClock) -> None:
        """An upload that nobody names goes a day after its last piece, and is found once."""
        await scene.provider.stage("u", 0, b"01")
        clock.advance(ALMOST_A_DAY)
        await scene.provider.stage("u", 2, b"23")
        clock.advance(ALMOST_A_DAY)
        early = await scene.provider.repair()
        kept = await scene.provider.stage("u", 0, b"")
        clock.advance(A_LITTLE)
        late = await scene.provider.repair()

        assert (early, kept) == ([], 4)
        assert [finding.subject for finding in late] == ["u"]
        assert await scene.provider.stage("u", 0, b"") == 0
        assert await scene.provider.repair() == []

    async def test_committed_blob_is_never_swept(self, scene: Scene, clock: ManualClock) -> None:
        """What a job names stays as long as the job."""
        await scene.provider.stage("u", 0, b"0123")
        jobs = [await scene.submit(), await scene.submit(content=blob("u", b"0123"))]
        clock.advance(timedelta(days=30))
        await scene.provider.repair()

        for job in jobs:
            assert await scene.provider.read_blob(job.content)

    async def test_request_id_is_kept_for_a_day(self, scene: Scene, clock: ManualClock) -> None:
        """A request id is known for a day after its submit, and may then be used anew."""
        job = await scene.submit(request_id="r-1")
        clock.advance(ALMOST_A_DAY)
        await scene.provider.repair()
        repeat = await scene.submit(request_id="r-1")
        clock.advance(A_LITTLE)
        await scene.provider.repair()

        assert repeat == job
        assert (await scene.submit(request_id="r-1")).key != job.key

    async def test_closed_session_is_kept_for_a_day(self, scene: Scene, clock: ManualClock) -> None:
        """A closed session tells its reason for a day, and is forgotten then, with its jobs orphaned."""
        job = await scene.submit()
        await scene.claim()
        await scene.provider.close_session(scene.session_id, None, "LOST")
        clock.advance(ALMOST_A_DAY)
        await scene.provider.repair()
        with pytest.raises(SessionClosed, match="LOST"):
            await scene.provider.renew(scene.session_id, 1)
        clock.advance(A_LITTLE)
        await scene.provider.repair()

        with pytest.raises(SessionClosed, match="SESSION_UNKNOWN"):
            await scene.provider.renew(scene.session_id, 1)
        assert await scene.find_keys(orphaned=True) == [job.key]

    async def test_open_session_is_never_swept(self, scene: Scene, clock: ManualClock) -> None:
        """A session is not closed by the clock."""
        clock.advance(timedelta(days=30))
        await scene.provider.repair()

        assert len(await scene.provider.sessions()) == 1

    async def test_old_cursor_asks_for_a_snapshot(self, scene: Scene, clock: ManualClock) -> None:
        """A cursor from before a deletion that is forgotten can't be gone on from; a newer one can."""
        job = await scene.submit_and_cancel()
        old = (await scene.provider.changes("")).cursor
        await scene.provider.delete(job.key, job.revision)
        new = (await scene.provider.changes("")).cursor
        clock.advance(timedelta(days=2))
        await scene.provider.repair()

        with pytest.raises(CursorTooOld):
            await scene.provider.changes(old)
        assert (await scene.provider.changes(new)).jobs == []
        with pytest.raises(NotFound):
            await scene.provider.get(job.key)

    async def test_job_past_its_latest_start_is_not_handed_out(
        self, scene: Scene, clock: ManualClock
    ) -> None:
        """A job whose expire time has passed is left to whoever expires it; the next one is handed out."""
        await scene.submit(expire_at=clock.now + timedelta(minutes=5))
        later = await scene.submit(expire_at=clock.now + timedelta(minutes=20))
        last = await scene.submit()
        clock.advance(timedelta(minutes=10))

        assert [job.key for job in await scene.claim(3)] == [later.key, last.key]

    async def test_f12_clock_set_back_keeps_the_order(self, scene: Scene, clock: ManualClock) -> None:
        """A job that is submitted after the clock was set back does not pass earlier ones."""
        first = await scene.submit()
        clock.advance(timedelta(hours=-1))
        second = await scene.submit()

        assert second.created_at < first.created_at
        assert [job.key for job in await scene.claim(2)] == [first.key, second.key]
