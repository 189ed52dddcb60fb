"""The connection breaks at the n-th command, for every n of every transition: nothing is lost or doubled.

What a provider says must be true: after success it is done, after Unavailable it is not, after Uncertain
it may be. And who then does what callers do (look, decide again, repeat) has it done exactly once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic

import pytest

from spoolway_providers import digests, rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, session, token_of
from spoolway_providers.errors import Conflict, NotFound, ProviderError, SessionClosed, Unavailable, Uncertain
from spoolway_providers.interface import Change, Provider, Query
from spoolway_providers.model import Draft, Job, Policy, SessionState, State, result_blob_id
from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.login import login_of
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, Proxy, StandIn, leftovers, stand_in

__all__ = ["leftovers", "stand_in"]

LARGE = b"0123456789abcdef" * (20 << 10)
OPTIONS = {"serverSelectionTimeoutMS": 300, "heartbeatFrequencyMS": 500}
TIME_LIMIT_S = 0.4

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]


class Transition:
    """Something that a provider does in one call."""

    scene: Scene

    async def prepare(self) -> None:
        """Bring the storage to where it begins."""

    async def act(self, provider: Provider) -> None:
        """Do it; by another process too, as a caller would who did not hear how it went."""
        raise NotImplementedError

    async def is_done(self) -> bool:
        """Whether it is; fails if it is done twice."""
        raise NotImplementedError

    async def jobs(self) -> list[Job]:
        return (await self.scene.provider.find(Query())).jobs


class Submit(Transition):
    def drafts(self) -> list[Draft]:
        return [self.scene.draft(request_id="r")]

    async def act(self, provider: Provider) -> None:
        for answer in await provider.submit(self.drafts()):
            if isinstance(answer, ProviderError):
                raise answer

    async def is_done(self) -> bool:
        jobs = await self.jobs()
        assert len(jobs) in {0, len(self.drafts())}
        for job in jobs:
            assert job.state is State.QUEUED
            assert await self.scene.provider.read_blob(job.content)
        return bool(jobs)


class SubmitMany(Submit):
    def drafts(self) -> list[Draft]:
        return [self.scene.draft(request_id=f"r{n}", max_queued=50) for n in range(3)]


class SubmitLarge(Submit):
    def drafts(self) -> list[Draft]:
        return [self.scene.draft(request_id="r", content=LARGE)]

    async def is_done(self) -> bool:
        for job in await self.jobs():
            assert await self.scene.provider.read_blob(job.content) == LARGE
        return await super().is_done()


class SubmitStaged(SubmitLarge):
    async def prepare(self) -> None:
        await self.scene.provider.stage("u", 0, LARGE)

    def drafts(self) -> list[Draft]:
        return [self.scene.draft(request_id="r", content=digests.blob_ref("u", LARGE))]


class Claim(Transition):
    count = 1

    async def prepare(self) -> None:
        await self.scene.provider.submit([self.scene.draft() for _ in range(self.count)])
        self.orders = [self.scene.order() for _ in range(self.count)]

    async def act(self, provider: Provider) -> None:
        # As the dispatcher does: what these tokens have is not asked for again.
        held = (await self.scene.provider.find(Query(session=self.scene.session_id))).jobs
        known = {token_of(job) for job in held}
        orders = [order for order in self.orders if order.token not in known]
        claimed = await provider.claim(BACKEND, orders)
        assert [token_of(one.job) for one in claimed] == [order.token for order in orders]
        assert all(one.content for one in claimed)

    async def is_done(self) -> bool:
        jobs = await self.jobs()
        assert len(jobs) == self.count
        tokens = [token_of(job) for job in jobs if job.state is State.CLAIMED]
        assert len(set(tokens)) == len(tokens)
        assert set(tokens) <= {order.token for order in self.orders}
        return len(tokens) == self.count


class ClaimMany(Claim):
    count = 3


class Event(Transition):
    """A claimed job changes by an event; who does not hear how it went decides again."""

    payload: bytes | None = None
    end = State.RUNNING

    async def prepare(self) -> None:
        await self.scene.submit()
        [self.job] = await self.scene.claim()

    def event(self) -> rules.Event:
        return rules.Accept(token_of(self.job))

    async def act(self, provider: Provider) -> None:
        job = await self.scene.provider.get(self.job.key)
        changed = rules.decide(job, self.event(), datetime.now(UTC), Policy())
        assert isinstance(changed, Job)
        if changed is not job:
            [answer] = await provider.commit([Change(changed, job.revision, self.payload)])
            if isinstance(answer, ProviderError):
                raise answer

    async def is_done(self) -> bool:
        job = await self.scene.provider.get(self.job.key)
        assert job.state in {self.job.state, self.end}
        assert job.revision == self.job.revision + (job.state is self.end)
        if job.result is not None:
            assert digests.blob_ref(job.result.id, await self._result(job)) == job.result
        return job.state is self.end

    async def _result(self, job: Job) -> bytes:
        assert job.result is not None
        return await self.scene.provider.read_blob(job.result)


class Complete(Event):
    payload: bytes | None = b'{"success": true}'
    result = b'{"success": true}'
    end = State.DONE

    def event(self) -> rules.Event:
        token = token_of(self.job)
        return rules.Complete(token, digests.blob_ref(result_blob_id(self.job.key, token), self.result))


class CompleteLarge(Complete):
    payload = result = LARGE


class CompleteStaged(Complete):
    payload = None
    result = LARGE

    async def prepare(self) -> None:
        await super().prepare()
        await self.scene.provider.stage(result_blob_id(self.job.key, token_of(self.job)), 0, LARGE)


class Release(Event):
    end = State.QUEUED

    def event(self) -> rules.Event:
        return rules.Release(token_of(self.job), "no light")


class CommitMany(Transition):
    """Three jobs accepted at once, one of which has been cancelled meanwhile."""

    async def prepare(self) -> None:
        await self.scene.provider.submit([self.scene.draft() for _ in range(3)])
        self.claimed = await self.scene.claim(3)
        await self.scene.do(self.claimed[1], rules.Cancel("alice"))

    async def act(self, provider: Provider) -> None:
        changes = [
            Change(self.scene.decide(job, rules.Accept(token_of(job))), job.revision) for job in self.claimed
        ]
        for change, answer in zip(changes, await provider.commit(changes), strict=True):
            if isinstance(answer, Conflict):
                is_cancelled = change.job.key == self.claimed[1].key
                assert is_cancelled or answer.current == change.job
            elif isinstance(answer, ProviderError):
                raise answer

    async def is_done(self) -> bool:
        states = [job.state for job in await self.jobs()]
        assert states[1] is State.CANCELLED
        return states[0] is State.RUNNING and states[2] is State.RUNNING


class Delete(Transition):
    async def prepare(self) -> None:
        self.job = await self.scene.submit_and_cancel(request_id="r", content=LARGE)

    async def act(self, provider: Provider) -> None:
        try:
            await provider.delete(self.job.key, self.job.revision)
        except NotFound:
            assert await self.is_done()

    async def is_done(self) -> bool:
        repeat = await self.scene.answer(request_id="r", content=LARGE)
        if isinstance(repeat, Job):
            assert await self.scene.provider.read_blob(self.job.content) == LARGE
            return False
        assert isinstance(repeat, NotFound)
        with pytest.raises(NotFound):
            await self.scene.provider.read_blob(self.job.content)
        return True


class OpenSession(Transition):
    async def prepare(self) -> None:
        await self.scene.provider.open_session(session("old", spooler="x"))

    async def act(self, provider: Provider) -> None:
        try:
            await provider.open_session(session("new", spooler="x"))
        except Conflict:
            assert await self.is_done()

    async def is_done(self) -> bool:
        states = {view.session.id: view.session.state for view in await self.scene.provider.sessions()}
        assert not {"old", "new"} <= set(states)
        return states.get("new") is SessionState.LIVE


class Renew(Transition):
    async def act(self, provider: Provider) -> None:
        await provider.renew(self.scene.session_id, 7)

    async def is_done(self) -> bool:
        [view] = await self.scene.provider.sessions()
        return view.session.beat == 7


class CloseSession(Transition):
    async def act(self, provider: Provider) -> None:
        await provider.close_session(self.scene.session_id, 0, "LOST")

    async def is_done(self) -> bool:
        if await self.scene.provider.sessions():
            return False
        with pytest.raises(SessionClosed, match="LOST"):
            await self.scene.provider.renew(self.scene.session_id, 9)
        return True


class PutPolicy(Transition):
    async def act(self, provider: Provider) -> None:
        await provider.put_policy(BACKEND, Policy(paused=True), None)

    async def is_done(self) -> bool:
        [backend] = await self.scene.provider.backends()
        return backend.policy is not None and backend.policy.paused


class PutConfig(Transition):
    async def act(self, provider: Provider) -> None:
        await provider.put_config("new", b"[1]", "")

    async def is_done(self) -> bool:
        backends = await self.scene.provider.backends()
        return [backend.name for backend in backends] == ["new", BACKEND]


class Stage(Transition):
    async def prepare(self) -> None:
        await self.scene.provider.stage("u", 0, LARGE[:100])

    async def act(self, provider: Provider) -> None:
        await provider.stage("u", 50, LARGE[50:])

    async def is_done(self) -> bool:
        size = await self.scene.provider.stage("u", 0, b"")
        assert await self.scene.provider.read_staged("u") == LARGE[:size]
        return size == len(LARGE)


@asynccontextmanager
async def opened(provider: MongoProvider) -> AsyncIterator[MongoProvider]:
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def break_at(number: int, kind: type[Transition], stand_in: StandIn, *, after_it: bool) -> bool:
    """Break one transition at one command; whether it has so many."""
    async with (
        stand_in.database() as name,
        Proxy(stand_in.port) as proxy,
        opened(stand_in.provider(name)) as sound,
    ):
        transition = kind()
        transition.scene = Scene(sound)
        await transition.scene.set_up()
        await transition.prepare()
        behind_proxy = MongoProvider(login_of({"uri": proxy.uri, "database": name}), options=OPTIONS)
        async with opened(behind_proxy) as provider:
            provider._connection.time_limit_s = TIME_LIMIT_S
            proxy.break_at(number, after_it=after_it)
            error = await _act(transition, provider)
            was_reached = proxy.is_dark
            proxy.heal()
            await _until_well(provider)
        if error is None:
            assert await transition.is_done()
        elif isinstance(error, Unavailable):
            assert not await transition.is_done()
        await _repeat(transition, sound)
        assert await transition.is_done()
        return was_reached


async def _act(transition: Transition, provider: Provider) -> ProviderError | None:
    try:
        await transition.act(provider)
    except (Unavailable, Uncertain) as error:
        return error
    return None


async def _until_well(provider: Provider) -> None:
    """The provider comes back by itself."""
    give_up_at = monotonic() + 10
    while True:
        try:
            await provider.backends()
        except Unavailable:
            assert monotonic() < give_up_at
            await asyncio.sleep(0.05)
        else:
            return


async def _repeat(transition: Transition, sound: Provider) -> None:
    """As the caller does after an error; a blob may be kept for the broken submit for a moment."""
    give_up_at = monotonic() + 10
    while await _act(transition, sound) is not None:
        assert monotonic() < give_up_at
        await asyncio.sleep(0.2)


GROUPS: dict[str, list[type[Transition]]] = {
    "submits": [Submit, SubmitMany, SubmitLarge, SubmitStaged],
    "claims": [Claim, ClaimMany, Event, Release],
    "completions": [Complete, CompleteLarge, CompleteStaged, CommitMany],
    "sessions": [OpenSession, Renew, CloseSession],
    "others": [PutPolicy, PutConfig, Stage, Delete],
}
AT_ONCE = 2
"""Breaks of one kind and place at a time."""


@pytest.mark.parametrize("group", GROUPS)
async def test_f3_break_at_any_command_loses_and_doubles_nothing(group: str, stand_in: StandIn) -> None:
    """Wherever the connection breaks, before a command or before its answer, what is said is true."""
    async with asyncio.TaskGroup() as breaking:
        for kind in GROUPS[group]:
            for after_it in (False, True):
                breaking.create_task(break_everywhere(kind, stand_in, after_it=after_it))


async def break_everywhere(kind: type[Transition], stand_in: StandIn, *, after_it: bool) -> None:
    """Break a transition at its first command, its second, and so on until it has no more."""
    first = 1
    reached = [True]
    while reached[-1]:
        numbers = range(first, first + AT_ONCE)
        reached = await asyncio.gather(
            *(named(kind, number, break_at(number, kind, stand_in, after_it=after_it)) for number in numbers)
        )
        assert first > 1 or reached[0]
        first += AT_ONCE


async def named(kind: type[Transition], number: int, breaking: Awaitable[bool]) -> bool:
    """Let a failure say where it was."""
    try:
        return await breaking
    except Exception as error:
        error.add_note(f"{kind.__name__} broke at command {number}")
        raise
