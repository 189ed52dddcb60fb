# ruff: noqa: S101 - these are tests
"""Spoolers' sessions."""

import asyncio

import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance.scene import Base, Scene, session, token_of
from spoolway_providers.errors import SessionClosed
from spoolway_providers.interface import LeaseView, SessionView
from spoolway_providers.model import Reason, SessionState, State


class SessionConformance(Base):
    """What the methods about sessions promise."""

    async def test_open_session_is_listed(self, scene: Scene) -> None:
        """An open session is listed with the number of jobs that it holds."""
        await scene.submit()
        await scene.claim()
        other = session("other", spooler="other")
        superseded = await scene.provider.open_session(other)

        assert superseded == []
        listed = await scene.provider.sessions()
        assert SessionView(other, 0) in listed
        assert [view.leases for view in listed if view.session.id == scene.session_id] == [1]
        assert len(listed) == 2

    async def test_renewal_tells_what_is_held(self, scene: Scene) -> None:
        """A sign of life is recorded, and answered with the session's jobs."""
        await scene.submit()
        await scene.submit()
        running = await scene.claim_and_accept()
        await scene.submit_and_cancel()

        attention = await scene.provider.renew(scene.session_id, 41)

        assert attention.leases == [LeaseView(running.key, token_of(running), State.RUNNING, Reason.NONE)]
        [view] = await scene.provider.sessions()
        assert (view.session.beat, view.session.detached) == (41, False)

    async def test_detached_is_recorded_and_taken_back(self, scene: Scene) -> None:
        """A renewal says whether the session's stream has ended."""
        await scene.provider.renew(scene.session_id, 1, detached=True)
        [detached] = await scene.provider.sessions()
        await scene.provider.renew(scene.session_id, 2)
        [attached] = await scene.provider.sessions()

        assert detached.session.detached
        assert not attached.session.detached

    async def test_late_renewal_is_no_silence(self, scene: Scene) -> None:
        """A renewal that arrives after a newer one does not bring the beat back."""
        await scene.provider.renew(scene.session_id, 8)
        await scene.provider.renew(scene.session_id, 7)

        assert not await scene.provider.close_session(scene.session_id, 7, "LOST")

    async def test_same_instance_resumes(self, scene: Scene) -> None:
        """A new session of the same instance closes the old one."""
        await scene.provider.open_session(session("old", spooler="x", instance="1"))

        [old] = await scene.provider.open_session(session("new", spooler="x", instance="1"))

        assert (old.id, old.state, old.reason) == ("old", SessionState.CLOSED, "SESSION_RESUMED")
        assert await self._open_ids(scene) == {"new", scene.session_id}
        await self._assert_closed(scene, "old", "SESSION_RESUMED")

    async def test_other_instance_replaces(self, scene: Scene) -> None:
        """A new instance replaces the old session, which keeps its jobs until it is closed."""
        await scene.submit()
        await scene.claim()
        mine = session(scene.session_id, spooler=scene.session_id)

        [old] = await scene.provider.open_session(replace(mine, id="new", instance_id="2"))

        assert (old.id, old.state, old.reason) == (mine.id, SessionState.REPLACED, "SESSION_REPLACED")
        assert await self._open_ids(scene) == {"new", mine.id}
        assert await scene.find_keys(orphaned=True) == []
        await self._assert_closed(scene, mine.id, "SESSION_REPLACED")
        assert await scene.provider.close_session(mine.id, None, "LOST")
        assert len(await scene.find_keys(orphaned=True)) == 1

    @pytest.mark.parametrize("predecessor_dead", [False, True], ids=["detached", "said-to-be-dead"])
    async def test_dead_predecessor_is_closed(self, scene: Scene, predecessor_dead: bool) -> None:
        """A new instance closes a session whose stream has ended, or that it knows to be dead."""
        await scene.provider.open_session(session("old", spooler="x", instance="1"))
        if not predecessor_dead:
            await scene.provider.renew("old", 1, detached=True)

        [old] = await scene.provider.open_session(
            session("new", spooler="x", instance="2"), predecessor_dead=predecessor_dead
        )

        assert (old.state, old.reason) == (SessionState.CLOSED, "SESSION_REPLACED")

    async def test_others_are_left_alone(self, scene: Scene) -> None:
        """The same spooler id of another principal is another spooler."""
        await scene.provider.open_session(session("a", spooler="x", principal="lab-a"))

        assert await scene.provider.open_session(session("b", spooler="x", principal="lab-b")) == []

    async def test_one_session_of_many_is_live(self, scene: Scene) -> None:
        """Of sessions that one spooler opens at once, one is live in the end."""
        opening = [session(f"s{n}", spooler="x", instance=str(n)) for n in range(6)]

        await asyncio.gather(*(scene.provider.open_session(one) for one in opening))

        states = {view.session.id: view.session.state for view in await scene.provider.sessions()}
        assert [states[one.id] for one in opening].count(SessionState.LIVE) == 1

    async def test_close_needs_an_unchanged_beat(self, scene: Scene) -> None:
        """A session that has given a sign of life meanwhile is not closed."""
        await scene.provider.renew(scene.session_id, 5)

        assert not await scene.provider.close_session(scene.session_id, 4, "LOST")
        await scene.provider.renew(scene.session_id, 6)
        assert await scene.provider.close_session(scene.session_id, 6, "LOST")
        await self._assert_closed(scene, scene.session_id, "LOST")
        assert await scene.provider.sessions() == []

    async def test_closed_is_final(self, scene: Scene) -> None:
        """A closed session can't be closed again, and keeps its first reason."""
        await scene.provider.close_session(scene.session_id, None, "FIRST")

        assert not await scene.provider.close_session(scene.session_id, None, "SECOND")
        assert not await scene.provider.close_session("unknown", None, "LOST")
        await self._assert_closed(scene, scene.session_id, "FIRST")

    async def test_closed_sessions_are_known_for_a_while(self, scene: Scene) -> None:
        """Whoever asks for closed sessions too gets them, with their reason and time, till they are swept."""
        await scene.provider.open_session(session("other", spooler="other"))
        await scene.provider.close_session("other", None, "LOST")

        views = {view.session.id: view for view in await scene.provider.sessions(closed=True)}

        assert views.keys() == {"other", scene.session_id}
        closed = views["other"]
        assert (closed.session.state, closed.session.reason, closed.leases) == (
            SessionState.CLOSED,
            "LOST",
            0,
        )
        assert closed.closed_at is not None
        assert closed.closed_at.tzinfo is not None
        assert views[scene.session_id].closed_at is None

    async def test_revoked_instance_can_not_come_back(self, scene: Scene) -> None:
        """What an operator has revoked opens no session; another instance or spooler does."""
        await scene.provider.open_session(session("bad", spooler="x", instance="1"))
        await scene.provider.close_session("bad", None, rules.SPOOLER_REVOKED)
        await scene.provider.open_session(session("good", spooler="x", instance="2"))

        with pytest.raises(SessionClosed) as caught:
            await scene.provider.open_session(session("again", spooler="x", instance="1"))

        assert caught.value.reason == rules.SPOOLER_REVOKED
        assert await self._open_ids(scene) == {"good", scene.session_id}
        await scene.provider.open_session(session("y", spooler="y", instance="1"))
        await scene.provider.open_session(session("z", spooler="x", instance="1", principal="elsewhere"))

    async def test_session_without_stream_is_known_as_such(self, scene: Scene) -> None:
        """Whether a session has a stream is kept: it decides how long it may be silent."""
        unary = replace(session("unary", spooler="unary"), has_stream=False)
        await scene.provider.open_session(unary)

        assert SessionView(unary, 0) in await scene.provider.sessions()

    async def test_unknown_session_can_not_be_renewed(self, scene: Scene) -> None:
        """A session that the storage does not know is as good as closed."""
        with pytest.raises(SessionClosed):
            await scene.provider.renew("unknown", 1)

    @staticmethod
    async def _open_ids(scene: Scene) -> set[str]:
        return {view.session.id for view in await scene.provider.sessions()}

    @staticmethod
    async def _assert_closed(scene: Scene, session_id: str, reason: str) -> None:
        with pytest.raises(SessionClosed) as caught:
            await scene.provider.renew(session_id, 1000)
        assert caught.value.reason == reason
