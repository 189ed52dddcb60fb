"""Every provider does what a dictionary would do, whatever is asked of it in whatever order."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance import ManualClock
from spoolway_providers.digests import blob_ref
from spoolway_providers.errors import (
    Conflict,
    NotFound,
    QueueFull,
    RequestIdReused,
    SessionClosed,
    Unsupported,
)
from spoolway_providers.interface import Change, Order, Provider, Query
from spoolway_providers.memory import MemoryProvider
from spoolway_providers.model import (
    BlobRef,
    Draft,
    Job,
    JobKey,
    Policy,
    Session,
    SessionState,
    State,
    result_blob_id,
)
from spoolway_providers.sqlite import SqliteProvider

Result = TypeVar("Result")

BACKENDS = ["a", "b"]
SPOOLERS = ["x", "y"]
some_backend, some_spooler = st.sampled_from(BACKENDS), st.sampled_from(SPOOLERS)
some_number = st.integers(0, 30)
"""Picks one of however many there are."""

EVENTS = [
    "accept",
    "complete",
    "fail",
    "retry later",
    "release",
    "cancel",
    "gone",
    "hold",
    "unhold",
    "due",
    "retry",
]


class Dictionary:
    """What a provider should know."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, Job] = {}
        self.deleted: set[JobKey] = set()
        self.requests: dict[tuple[str, str], tuple[bytes, JobKey]] = {}
        self.sessions: dict[str, Session] = {}
        self.policies = dict.fromkeys(BACKENDS, Policy())
        self.results: dict[JobKey, bytes] = {}
        self.contents: dict[JobKey, bytes] = {}

    def queue(self, backend: str) -> list[Job]:
        waiting = [
            job for job in self.jobs.values() if (job.key.backend, job.state) == (backend, State.QUEUED)
        ]
        return sorted(waiting, key=lambda job: (job.rank, job.seq))

    def ready(self, backend: str, now: datetime) -> list[Job]:
        """The queue, without jobs whose latest start has passed."""
        return [job for job in self.queue(backend) if job.due_at is None or job.due_at > now]

    def waiting(self, backend: str) -> int:
        return sum(
            1
            for job in self.jobs.values()
            if job.key.backend == backend and job.state in {State.QUEUED, State.HELD}
        )

    def is_live(self, session_id: str) -> bool:
        return self.sessions[session_id].state is SessionState.LIVE

    def held_by(self, session_id: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.holder and job.holder.session == session_id]

    def pick(self, number: int) -> Job:
        return list(self.jobs.values())[number % len(self.jobs)]


class ProviderMachine(RuleBasedStateMachine):
    """Drives a provider and a dictionary with the same steps."""

    outlives_its_process = False
    """Whether all, sessions too, is there again once it is closed and opened."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.model = Dictionary()
        self.numbers = iter(range(1_000_000))
        self.cursor = ""
        self.seen: dict[JobKey, Job] = {}
        self.provider = self.make_provider()

    def make_provider(self) -> Provider:
        raise NotImplementedError

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        self.run(self.provider.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()

    @initialize()
    def set_up(self) -> None:
        self.run(self.provider.open())
        for backend in BACKENDS:
            self.run(self.provider.put_config(backend, b"{}", None))
        for spooler in SPOOLERS:
            self.open_session(spooler)
        self.cursor = self.run(self.provider.changes("")).cursor

    @rule(
        backend=some_backend, request=st.sampled_from(["", "r1", "r2"]), content=st.sampled_from([b"1", b"2"])
    )
    def submit(self, backend: str, request: str, content: bytes) -> None:
        draft = Draft(backend=backend, owner="o", content=content, max_attempts=2, request_id=request)
        [answer] = self.run(self.provider.submit([draft]))
        known_content, known_key = self.model.requests.get((backend, request), (b"", None))
        if known_key is None:
            assert isinstance(answer, Job)
            assert all(job.seq < answer.seq for job in self.model.jobs.values())
            self.model.jobs[answer.key] = answer
            self.model.contents[answer.key] = content
            if request:
                self.model.requests[backend, request] = (content, answer.key)
        elif known_content != content:
            assert isinstance(answer, RequestIdReused)
        elif known_key in self.model.deleted:
            assert isinstance(answer, NotFound)
        else:
            assert answer == self.model.jobs[known_key]

    @rule(
        backend=some_backend,
        priority=st.sampled_from([0, 0, 3, -2]),
        delay_s=st.sampled_from([0, 0, 5, 500]),
        expires_s=st.sampled_from([0, 0, 1, 1000]),
        max_queued=st.sampled_from([0, 0, 1, 3]),
        is_staged=st.booleans(),
    )
    def submit_with_options(
        self, backend: str, priority: int, delay_s: int, expires_s: int, max_queued: int, is_staged: bool
    ) -> None:
        now, data = self.clock.now, f"content {next(self.numbers)}".encode()
        draft = Draft(
            backend=backend,
            owner="o",
            content=self.staged(data) if is_staged else data,
            max_attempts=2,
            priority=priority,
            not_before=now + timedelta(seconds=delay_s) if delay_s else None,
            expire_at=now + timedelta(seconds=delay_s + expires_s) if expires_s else None,
            max_queued=max_queued,
        )
        is_full = max_queued and self.model.waiting(backend) >= max_queued
        [answer] = self.run(self.provider.submit([draft]))
        if (priority or delay_s) and not self.provider.capabilities.priority:
            assert isinstance(answer, Unsupported)
        elif is_full:
            assert isinstance(answer, QueueFull)
        else:
            assert isinstance(answer, Job)
            assert answer.state is (State.HELD if delay_s else State.QUEUED)
            assert answer.due_at == (draft.not_before or draft.expire_at)
            assert (answer.priority, answer.expire_at) == (priority, draft.expire_at)
            self.model.jobs[answer.key] = answer
            self.model.contents[answer.key] = data

    def staged(self, data: bytes) -> BlobRef:
        """Some content, staged in two pieces."""
        ref = blob_ref(f"upload-{next(self.numbers)}", data)
        self.run(self.provider.stage(ref.id, 0, data[:4]))
        assert self.run(self.provider.stage(ref.id, 4, data[4:])) == ref.size
        return ref

    @precondition(lambda self: self.model.jobs)
    @rule(number=some_number)
    def read_content(self, number: int) -> None:
        job = self.model.pick(number)
        assert self.run(self.provider.read_blob(job.content)) == self.model.contents[job.key]

    @rule(backend=some_backend, spooler=some_spooler, number=some_number, limit=st.integers(0, 3))
    def claim(self, backend: str, spooler: str, number: int, limit: int) -> None:
        sessions = [session.id for session in self.model.sessions.values() if session.spooler_id == spooler]
        session_id = sessions[number % len(sessions)]
        orders = [Order(session_id, spooler, f"token-{next(self.numbers)}") for _ in range(limit)]
        claimed = self.run(self.provider.claim(backend, orders))
        policy = self.model.policies[backend]
        may_claim = self.model.is_live(session_id) and not policy.paused
        expected = self.model.ready(backend, self.clock.now)[:limit] if may_claim else []
        assert [one.job.key for one in claimed] == [job.key for job in expected]
        for one, order, job in zip(claimed, orders, expected, strict=False):
            event = rules.Claim(order.token, order.session, order.spooler)
            assert one.job == rules.decide(job, event, self.clock.now, policy)
            assert one.content in (None, self.model.contents[job.key])
            self.model.jobs[job.key] = one.job

    @precondition(lambda self: self.model.jobs)
    @rule(number=some_number, event=st.sampled_from(EVENTS), is_stale=st.booleans())
    def commit(self, number: int, event: str, is_stale: bool) -> None:
        job = self.model.pick(number)
        payload = b"result of " + job.key.id.encode()
        changed = rules.decide(job, self.event(event, job, payload), self.clock.now, Policy())
        if not isinstance(changed, Job) or changed is job:
            return
        is_done = changed.state is State.DONE
        expected_revision = job.revision - is_stale
        change = Change(changed, expected_revision, payload if is_done else None)
        [answer] = self.run(self.provider.commit([change]))
        if is_stale:
            assert isinstance(answer, Conflict)
            assert answer.current == job
            return
        assert answer == changed
        self.model.jobs[job.key] = changed
        if is_done:
            self.model.results[job.key] = payload

    def event(self, name: str, job: Job, payload: bytes) -> rules.Event:
        token = job.attempts[-1].token if job.attempts else "nobody's"
        result = blob_ref(result_blob_id(job.key, token), payload)
        events: dict[str, rules.Event] = {
            "accept": rules.Accept(token),
            "complete": rules.Complete(token, result),
            "fail": rules.Fail(token, "noise"),
            "retry later": rules.Fail(token, "noise", retryable=True),
            "release": rules.Release(token),
            "cancel": rules.Cancel("o"),
            "gone": rules.SessionGone(job.attempts[-1].session if job.attempts else ""),
            "hold": rules.Hold("operator"),
            "unhold": rules.Unhold("operator"),
            "due": rules.Due(),
            "retry": rules.Retry("o"),
        }
        return events[name]

    @precondition(lambda self: self.model.jobs)
    @rule(number=some_number, is_stale=st.booleans())
    def delete(self, number: int, is_stale: bool) -> None:
        job = self.model.pick(number)
        deleting = self.provider.delete(job.key, job.revision - is_stale)
        if is_stale or not job.is_terminal:
            with pytest.raises(Conflict) as caught:
                self.run(deleting)
            assert caught.value.current == job
            return
        self.run(deleting)
        del self.model.jobs[job.key]
        self.model.deleted.add(job.key)

    @rule(spooler=some_spooler, instance=st.sampled_from(["1", "2"]), dead=st.booleans())
    def open_session(self, spooler: str, instance: str = "1", dead: bool = False) -> None:
        new = Session(
            id=f"session-{next(self.numbers)}",
            spooler_id=spooler,
            instance_id=instance,
            principal="lab",
            backends=("a", "b"),
            opened_at=self.clock.now,
            silence_limit=timedelta(seconds=60),
        )
        superseded = self.run(self.provider.open_session(new, predecessor_dead=dead))
        expected = [
            rules.supersede(old, new, predecessor_dead=dead)
            for old in self.model.sessions.values()
            if old.spooler_id == spooler and old.state is SessionState.LIVE
        ]
        assert superseded == expected
        self.model.sessions.update((session.id, session) for session in (*expected, new))

    @rule(number=some_number, beat=st.integers(0, 5), detached=st.booleans())
    def renew(self, number: int, beat: int, detached: bool) -> None:
        session = list(self.model.sessions.values())[number % len(self.model.sessions)]
        renewing = self.provider.renew(session.id, beat, detached=detached)
        if session.state is not SessionState.LIVE:
            with pytest.raises(SessionClosed) as caught:
                self.run(renewing)
            assert caught.value.reason == session.reason
            return
        attention = self.run(renewing)
        held = self.model.held_by(session.id)
        assert {(lease.key, lease.token, lease.state) for lease in attention.leases} == {
            (job.key, job.attempts[-1].token, job.state) for job in held
        }
        self.model.sessions[session.id] = replace(session, beat=max(beat, session.beat), detached=detached)

    @rule(number=some_number, beat=st.none() | st.integers(0, 5))
    def close_session(self, number: int, beat: int | None) -> None:
        session = list(self.model.sessions.values())[number % len(self.model.sessions)]
        is_closed = self.run(self.provider.close_session(session.id, beat, "LOST"))
        assert is_closed == (session.state is not SessionState.CLOSED and beat in (None, session.beat))
        if is_closed:
            self.model.sessions[session.id] = replace(session, state=SessionState.CLOSED, reason="LOST")

    @rule(backend=some_backend, paused=st.booleans())
    def pause(self, backend: str, paused: bool) -> None:
        self.model.policies[backend] = replace(self.model.policies[backend], paused=paused)
        self.run(self.provider.put_policy(backend, self.model.policies[backend], None))

    @rule(seconds=st.sampled_from([0.001, 1, 100]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule(limit=st.integers(1, 5))
    def read_changes(self, limit: int) -> None:
        more = True
        while more:
            changes = self.run(self.provider.changes(self.cursor, limit))
            self.seen.update((job.key, job) for job in changes.jobs)
            for key in changes.deleted:
                self.seen.pop(key, None)
            self.cursor, more = changes.cursor, changes.more
        assert self.seen == self.model.jobs

    @precondition(lambda self: self.outlives_its_process)
    @rule()
    def reopen(self) -> None:
        """As a restart does: all invariants hold again."""
        self.run(self.provider.close())
        self.run(self.provider.open())

    @rule()
    def look_for_due_jobs(self) -> None:
        due = {key: job.due_at for key, job in self.model.jobs.items() if job.due_at is not None}
        assert self.run(self.provider.next_due()) == min(due.values(), default=None)
        found = self.run(self.provider.find(Query(due_before=self.clock.now))).jobs
        assert {job.key for job in found} == {key for key, at in due.items() if at <= self.clock.now}

    @rule(backend=some_backend, limit=st.integers(1, 4))
    def count_queued(self, backend: str, limit: int) -> None:
        query = Query(backend=backend, states=(State.QUEUED,), limit=limit)
        assert self.run(self.provider.count(query)) == min(limit, len(self.model.queue(backend)))

    @rule(backend=some_backend)
    def repair(self, backend: str) -> None:
        assert self.run(self.provider.repair()) == []

    @invariant()
    def jobs_are_the_same(self) -> None:
        if not self.model.sessions:
            return
        in_order = sorted(self.model.jobs.values(), key=lambda job: job.seq)
        assert self.run(self.provider.find(Query())).jobs == in_order
        orphans = [
            job.key
            for job in in_order
            if job.holder and self.model.sessions[job.holder.session].state is SessionState.CLOSED
        ]
        assert [job.key for job in self.run(self.provider.find(Query(orphaned=True))).jobs] == orphans
        due = [job.due_at for job in in_order if job.due_at is not None]
        assert self.run(self.provider.next_due()) == min(due, default=None)

    @invariant()
    def queues_are_the_same(self) -> None:
        for backend in BACKENDS:
            for place, job in enumerate(self.model.queue(backend)):
                assert self.run(self.provider.position(job, 1000)) == place

    @invariant()
    def sessions_are_the_same(self) -> None:
        if not self.model.sessions:
            return
        listed = {view.session.id: view for view in self.run(self.provider.sessions())}
        still_open = {
            session.id: session
            for session in self.model.sessions.values()
            if session.state is not SessionState.CLOSED
        }
        assert {name: view.session for name, view in listed.items()} == still_open
        for name, view in listed.items():
            assert view.leases == len(self.model.held_by(name))

    @invariant()
    def results_are_the_same(self) -> None:
        for key, payload in self.model.results.items():
            if key in self.model.jobs:
                result = self.model.jobs[key].result
                assert result is not None
                assert self.run(self.provider.read_blob(result)) == payload


class MemoryMachine(ProviderMachine):
    def make_provider(self) -> Provider:
        return MemoryProvider(clock=self.clock)


class SqliteMachine(ProviderMachine):
    outlives_its_process = True

    def make_provider(self) -> Provider:
        self.folder = Path(tempfile.mkdtemp())
        return SqliteProvider(self.folder / "jobs.sqlite", clock=self.clock, watches=False)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemoryEquivalence = MemoryMachine.TestCase
TestMemoryEquivalence.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestSqliteEquivalence = SqliteMachine.TestCase
TestSqliteEquivalence.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
