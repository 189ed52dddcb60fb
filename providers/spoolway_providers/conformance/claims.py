# ruff: noqa: S101 - these are tests
"""Claiming jobs."""

import asyncio

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene, session, token_of
from spoolway_providers.errors import Unsupported
from spoolway_providers.model import Job, Outcome, State


class ClaimConformance(Base):
    """What `claim` promises."""

    async def test_f12_first_submitted_is_first_claimed(self, scene: Scene) -> None:
        """Jobs that were submitted one after the other are claimed in that order."""
        submitted = [(await scene.submit()).key for _ in range(30)]

        claimed = [job.key for _ in range(10) for job in await scene.claim(3)]

        assert claimed == submitted

    async def test_claimed_job_is_what_the_rules_make(self, scene: Scene) -> None:
        """A claimed job is CLAIMED by the order's session under its token, and stored so."""
        job = await scene.submit()
        order = scene.order()

        [claimed] = await scene.provider.claim(BACKEND, [order])

        assert claimed.job == await scene.provider.get(job.key)
        assert (claimed.job.state, claimed.job.revision) == (State.CLAIMED, 2)
        [attempt] = claimed.job.attempts
        assert (attempt.token, attempt.session, attempt.spooler) == (
            order.token,
            order.session,
            order.spooler,
        )
        assert attempt.outcome is Outcome.OPEN

    async def test_claim_brings_the_content(self, scene: Scene) -> None:
        """A claimed job comes with its content where that is inline."""
        await scene.submit(content=b'{"a": 1}')

        [claimed] = await scene.provider.claim(BACKEND, [scene.order()])

        assert claimed.content == b'{"a": 1}'

    async def test_orders_are_served_in_turn(self, scene: Scene) -> None:
        """The first order gets the first job, and no more jobs are taken than there are orders."""
        submitted = [await scene.submit() for _ in range(4)]
        orders = [scene.order() for _ in range(3)]

        claimed = await scene.provider.claim(BACKEND, orders)

        assert [token_of(one.job) for one in claimed] == [order.token for order in orders]
        assert [one.job.key for one in claimed] == [job.key for job in submitted[:3]]
        assert [job.key for job in await scene.claim(5)] == [submitted[3].key]

    async def test_f2_each_job_has_one_winner(self, scene: Scene) -> None:
        """Of many claims at once, each job goes to exactly one."""
        submitted = [await scene.submit() for _ in range(40)]

        claims = await asyncio.gather(*(scene.claim(3) for _ in range(20)))

        winners = [job.key for claimed in claims for job in claimed]
        assert sorted(winners) == sorted(job.key for job in submitted)

    async def test_priority_goes_first(self, scene: Scene) -> None:
        """A job of higher priority passes, where the storage keeps other orders than first in, first out."""
        ordinary = await scene.submit()
        urgent = await scene.answer(priority=1)

        if not scene.provider.capabilities.priority:
            assert isinstance(urgent, Unsupported)
            return
        assert isinstance(urgent, Job)
        assert [job.key for job in await scene.claim(2)] == [urgent.key, ordinary.key]

    async def test_owners_take_turns(self, scene: Scene) -> None:
        """Where owners take turns, who submits many jobs does not hold up the few of others."""
        first = await scene.answer(owner="alice", round_robin=True)
        if not scene.provider.capabilities.priority:
            assert isinstance(first, Unsupported)
            return
        many = [scene.draft(owner="alice", round_robin=True) for _ in range(30)]
        alices = [first, *await scene.provider.submit(many)]
        bob = await scene.submit(owner="bob", round_robin=True)
        [carol, again] = [await scene.submit(owner="carol", round_robin=True) for _ in range(2)]

        assert [await scene.provider.position(job, 100) for job in (bob, carol, again)] == [1, 2, 4]
        claimed = await scene.claim(33)
        assert [job.owner for job in claimed[:6]] == ["alice", "bob", "carol", "alice", "carol", "alice"]
        assert [job.key for job in claimed if job.owner == "alice"] == [
            job.key for job in alices if isinstance(job, Job)
        ][:30]

    async def test_turns_go_on_after_a_pause(self, scene: Scene) -> None:
        """Who used an idle backend before is not behind for it; nor is who comes new ahead for ever."""
        if not scene.provider.capabilities.priority:
            assert isinstance(await scene.answer(round_robin=True), Unsupported)
            return
        for _ in range(5):
            await scene.submit(owner="alice", round_robin=True)
        await scene.claim(5)

        for owner in ("bob", "alice", "bob", "alice", "bob"):
            await scene.submit(owner=owner, round_robin=True)

        assert [job.owner for job in await scene.claim(5)] == ["bob", "alice", "bob", "alice", "bob"]

    async def test_an_order_may_change(self, scene: Scene) -> None:
        """Jobs that came before owners took turns, and after it, keep their order with those between."""
        before = await scene.submit(owner="alice")
        between = await scene.answer(owner="alice", round_robin=True)
        if not scene.provider.capabilities.priority:
            assert isinstance(between, Unsupported)
            return
        assert isinstance(between, Job)
        after = await scene.submit(owner="alice")

        claimed = [job.key for job in await scene.claim(3)]

        assert claimed == [before.key, between.key, after.key]

    async def test_returned_job_has_its_old_place(self, scene: Scene) -> None:
        """A job that never started returns to where it was in the queue."""
        first, second = await scene.submit(), await scene.submit()
        [claimed] = await scene.claim()

        await scene.do(claimed, rules.Withdraw(token_of(claimed)))

        assert [job.key for job in await scene.claim(2)] == [first.key, second.key]

    async def test_only_queued_jobs_are_claimed(self, scene: Scene) -> None:
        """Held and ended jobs are left alone."""
        await scene.submit_and_cancel()
        await scene.do(await scene.submit(), rules.Hold("operator"))
        queued = await scene.submit()

        assert [job.key for job in await scene.claim(5)] == [queued.key]

    async def test_claims_stay_within_a_backend(self, scene: Scene) -> None:
        """Only jobs of the named backend are claimed, and an unknown one has none."""
        await scene.provider.put_config("multiqudit", b"{}", None)
        job = await scene.submit(backend="multiqudit")
        await scene.submit()

        assert [job.key for job in await scene.claim(5, backend="multiqudit")] == [job.key]
        assert await scene.claim(5, backend="nowhere") == []

    async def test_paused_backend_gives_no_job(self, scene: Scene) -> None:
        """While a backend is paused nothing is claimed; afterwards all is where it was."""
        job = await scene.submit()
        await scene.set_policy(paused=True)
        while_paused = await scene.claim()
        await scene.set_policy(paused=False)

        assert while_paused == []
        assert [job.key for job in await scene.claim()] == [job.key]

    async def test_dead_session_takes_nothing(self, scene: Scene) -> None:
        """Orders of closed, replaced and unknown sessions take no job; the others of the claim do."""
        job = await scene.submit()
        await scene.provider.open_session(session("closed", spooler="a"))
        await scene.provider.close_session("closed", None, "ENDED")
        await scene.provider.open_session(session("replaced", spooler="b", instance="1"))
        await scene.provider.open_session(session("newer", spooler="b", instance="2"))
        dead = [scene.order("closed"), scene.order("replaced"), scene.order("unknown")]

        assert await scene.provider.claim(BACKEND, dead) == []
        [claimed] = await scene.provider.claim(BACKEND, [*dead, scene.order()])
        assert claimed.job.key == job.key
        assert claimed.job.attempts[-1].session == scene.session_id

    async def test_nobody_asks_nobody_gets(self, scene: Scene) -> None:
        """A claim without orders takes nothing."""
        await scene.submit()

        assert await scene.provider.claim(BACKEND, []) == []
