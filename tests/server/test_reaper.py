"""The reaper by a clock that the test turns: what happens when nobody does anything."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from spoolway_providers import rules
from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Change, Hints, Order, Query
from spoolway_providers.memory import MemoryProvider
from spoolway_providers.model import Draft, Job, JobKey, Policy, Session, State, new_token
from spoolway_server import reaper as reaping
from spoolway_server.storage import Storage
from tests.server.fake_clock import FakeClock
from tests.server.lab import PATIENCE_S
from tests.server.storage_faults import StorageFaults

TTL = timedelta(seconds=30)
GRACE = timedelta(seconds=30)
LIMIT_S = (TTL + GRACE).total_seconds()


class Replica:
    """One process's view of a storage that others may share, without its loops."""

    def __init__(self, provider: MemoryProvider, clock: FakeClock) -> None:
        self.clock = clock
        self.provider = provider
        self.storage = Storage(
            "main", "memory", lambda: provider, policy=Policy(lease_ttl=TTL, resume_grace=GRACE), clock=clock
        )
        self.storage.opened.set()
        self.reaper = self.storage.reaper

    async def look_after(self, *seconds: float) -> None:
        """Look, and look again after each of these times."""
        await self.reaper.look()
        for some in seconds:
            self.clock.advance(some)
            await self.reaper.look()

    async def open_session(self, session_id: str = "s1", instance_id: str = "i") -> Session:
        """A new session."""
        session = Session(
            id=session_id,
            spooler_id=session_id,
            instance_id=instance_id,
            principal="robot",
            backends=("sim",),
            opened_at=self.clock.now(),
            silence_limit=TTL + GRACE,
        )
        await self.provider.open_session(session)
        return session

    async def submit(self, **fields: object) -> JobKey:
        """A new job."""
        draft = Draft(backend="sim", owner="alice", content=b"{}", max_attempts=3, **fields)  # type: ignore[arg-type]
        (job,) = await self.provider.submit([draft])
        assert isinstance(job, Job)
        return job.key

    async def claim(self, session_id: str = "s1") -> Job:
        """The next job, for a session."""
        (claimed,) = await self.provider.claim("sim", [Order(session_id, session_id, new_token())])
        return claimed.job

    async def apply(self, key: JobKey, event: rules.Event) -> Job:
        """An event of the spooler."""
        job = await self.provider.get(key)
        changed = rules.decide(job, event, self.clock.now(), Policy())
        assert isinstance(changed, Job)
        await self.provider.commit([Change(changed, job.revision)])
        return changed

    async def running(self, session_id: str = "s1") -> Job:
        """A job that a session runs."""
        await self.submit()
        job = await self.claim(session_id)
        assert job.holder is not None
        return await self.apply(job.key, rules.Accept(job.holder.token))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def replica(clock: FakeClock) -> Replica:
    """A process with a storage that has the backend `sim`."""
    made = Replica(MemoryProvider(clock=clock.now), clock)
    await made.provider.put_config("sim", b"{}", None)
    return made


async def test_a_silent_session_is_closed_after_lease_and_grace(replica: Replica) -> None:
    """A session that holds a job and does not renew is closed after lease and grace, not before."""
    await replica.open_session()
    job = await replica.running()

    await replica.look_after(LIMIT_S - 1)
    before = await replica.provider.get(job.key)
    await replica.look_after(1)

    after = await replica.provider.get(job.key)
    assert (before.state, after.state) == (State.RUNNING, State.HELD)
    assert await replica.provider.sessions() == []


async def test_a_renewal_begins_the_time_anew(replica: Replica) -> None:
    """Whatever beat is written counts from when this process saw it."""
    await replica.open_session()
    job = await replica.running()

    for beat in range(1, 6):
        await replica.look_after(LIMIT_S - 1)
        await replica.provider.renew("s1", beat)

    assert (await replica.provider.get(job.key)).state is State.RUNNING


async def test_an_idle_session_may_be_silent_for_long(replica: Replica) -> None:
    """A session that holds nothing is closed as a ghost only after 25 minutes of silence."""
    await replica.open_session()

    await replica.look_after(24 * 60)
    before = await replica.provider.sessions()
    await replica.look_after(2 * 60)

    assert len(before) == 1
    assert await replica.provider.sessions() == []


async def test_the_silence_of_an_idle_session_does_not_count_for_its_next_job(replica: Replica) -> None:
    """A session that was idle and silent, and then gets a job, has the whole time for its first beat."""
    await replica.open_session()
    await replica.look_after(20 * 60)
    job = await replica.running()

    await replica.look_after(LIMIT_S - 1)

    assert (await replica.provider.get(job.key)).state is State.RUNNING


async def test_two_processes_close_a_session_once(replica: Replica) -> None:
    """Any number of reapers may look at one storage: what one has done the other leaves alone."""
    other = Replica(replica.provider, replica.clock)
    await replica.open_session()
    job = await replica.running()
    await asyncio.gather(replica.reaper.look(), other.reaper.look())
    replica.clock.advance(LIMIT_S)

    await asyncio.gather(replica.reaper.look(), other.reaper.look())

    lost = await replica.provider.get(job.key)
    assert (lost.state, lost.revision) == (State.HELD, job.revision + 1)


async def test_a_new_process_waits_its_own_time(replica: Replica) -> None:
    """A process that has just started knows nothing: it waits the whole time before it closes a session."""
    await replica.open_session()
    job = await replica.running()
    replica.clock.advance(1000)
    fresh = Replica(replica.provider, replica.clock)

    await fresh.look_after(LIMIT_S - 1)
    before = await replica.provider.get(job.key)
    await fresh.look_after(1)

    assert before.state is State.RUNNING
    assert (await replica.provider.get(job.key)).state is State.HELD


async def test_a_process_that_slept_knows_nothing_any_more(replica: Replica) -> None:
    """After a pause of the process itself all sessions have the whole time again."""
    await replica.open_session()
    job = await replica.running()
    faults = StorageFaults(replica.provider)
    with faults.watched("next_due") as looks:
        loop = asyncio.create_task(replica.reaper.run())
        await looked(looks, 1)

        replica.clock.advance(10 * LIMIT_S)
        replica.reaper.note_due(replica.clock.now())
        await looked(looks, 2)
        loop.cancel()

    assert (await replica.provider.get(job.key)).state is State.RUNNING


async def looked(looks: list[str], number: int) -> None:
    """Wait until the reaper has looked so often."""
    async with asyncio.timeout(PATIENCE_S):
        while len(looks) < number:  # noqa: ASYNC110  # the loop tells nobody
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)


async def test_an_outage_is_an_amnesty(replica: Replica) -> None:
    """When a look has failed all sessions have the whole time again."""
    await replica.open_session()
    job = await replica.running()
    faults = StorageFaults(replica.provider)
    with faults.watched("next_due") as looks:
        loop = asyncio.create_task(replica.reaper.run())
        await looked(looks, 1)
        with faults.failing(Unavailable("down"), "sessions"):
            for _ in range(13):
                replica.clock.advance(5)
                before = faults.calls.count("sessions")
                replica.reaper.note_due(replica.clock.now())
                await looked_again(faults, before)
        replica.reaper.note_due(replica.clock.now())
        await looked(looks, 2)
        loop.cancel()

    assert (await replica.provider.get(job.key)).state is State.RUNNING


async def looked_again(faults: StorageFaults, before: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while faults.calls.count("sessions") <= before:  # noqa: ASYNC110  # the loop tells nobody
            await asyncio.sleep(0.001)


async def test_jobs_of_a_session_that_is_gone_come_back(replica: Replica) -> None:
    """A job whose session is closed already, by whomever, is taken back; after a look or two only."""
    await replica.open_session()
    job = await replica.running()
    await replica.provider.close_session("s1", None, "elsewhere")

    await replica.look_after(1)
    before = await replica.provider.get(job.key)
    await replica.look_after(2)

    assert before.state is State.RUNNING
    assert (await replica.provider.get(job.key)).state is State.HELD


async def test_a_claim_that_nobody_accepts_is_withdrawn(replica: Replica) -> None:
    """A job that was CLAIMED by one token for ten seconds goes back, whoever claimed it."""
    await replica.open_session()
    await replica.submit()
    job = await replica.claim()

    await replica.look_after(9)
    before = await replica.provider.get(job.key)
    await replica.look_after(1)

    assert before.state is State.CLAIMED
    assert (await replica.provider.get(job.key)).state is State.QUEUED


async def test_a_new_claim_has_its_own_ten_seconds(replica: Replica) -> None:
    """The time of a claim begins anew with each token."""
    await replica.open_session()
    await replica.submit()
    job = await replica.claim()
    await replica.look_after(9)
    assert job.holder is not None
    await replica.apply(job.key, rules.Withdraw(job.holder.token))
    await replica.claim()

    await replica.look_after(9)

    assert (await replica.provider.get(job.key)).state is State.CLAIMED


async def test_due_jobs_are_seen_to_in_any_number(replica: Replica) -> None:
    """Over a thousand jobs whose time has come are all seen to in one look."""
    drafts = [
        Draft(
            backend="sim",
            owner="alice",
            content=b"{}",
            max_attempts=1,
            not_before=replica.clock.now() + timedelta(seconds=5),
        )
        for _ in range(1200)
    ]
    await replica.provider.submit(drafts)

    await replica.look_after(5)

    assert await replica.provider.count(Query(states=(State.QUEUED,), limit=2000)) == 1200


async def test_what_becomes_due_during_a_look_is_not_forgotten(replica: Replica) -> None:
    """A due time that is noted while a look is under way is kept."""
    due = replica.clock.now() + timedelta(seconds=7)
    original = replica.provider.next_due

    async def next_due() -> object:
        answer = await original()
        replica.reaper.note_due(due)
        return answer

    replica.provider.next_due = next_due  # type: ignore[method-assign, assignment]

    await replica.reaper.look()

    assert replica.reaper._next_due == due


async def test_work_that_begins_during_a_look_is_looked_after(replica: Replica) -> None:
    """A session that begins to work while a look is under way calls for another look soon."""
    await replica.open_session()
    original = replica.provider.sessions

    async def sessions() -> object:
        views = await original()
        replica.provider.sessions = original  # type: ignore[method-assign]
        await replica.running()
        replica.reaper.note_work()
        return views

    replica.provider.sessions = sessions  # type: ignore[method-assign, assignment]
    with StorageFaults(replica.provider).watched("next_due") as looks:
        loop = asyncio.create_task(replica.reaper.run())
        await looked(looks, 2)
        loop.cancel()

    assert replica.reaper._busy


async def test_a_quiet_storage_is_left_alone(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing changes there is no look; what changes, or becomes due, calls for one."""
    monkeypatch.setattr(reaping, "IDLE_LOOK_S", 0.05)
    with StorageFaults(replica.provider).watched("next_due") as looks:
        loop = asyncio.create_task(replica.reaper.run())
        await looked(looks, 1)
        await asyncio.sleep(0.3)
        quiet = len(looks)
        replica.storage.wake(Hints(frozenset(), changed=True))
        await looked(looks, 2)
        replica.reaper.note_due(replica.clock.now())
        await looked(looks, 3)
        loop.cancel()

    assert quiet == 1


async def test_an_orphan_is_watched_until_it_is_ripe(replica: Replica) -> None:
    """A job whose session is gone keeps the reaper busy: it is not left until something changes."""
    await replica.open_session()
    await replica.running()
    await replica.provider.close_session("s1", None, "SPOOLER_SILENT")

    await replica.reaper.look()

    assert replica.reaper._busy


async def test_a_storage_that_does_not_wake_is_looked_at(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others' changes are not told the reaper looks by itself."""
    blind = msgspec.structs.replace(replica.provider.capabilities, wakes=False)
    monkeypatch.setattr(MemoryProvider, "capabilities", blind)
    monkeypatch.setattr(reaping, "IDLE_LOOK_S", 0.02)
    with StorageFaults(replica.provider).watched("next_due") as looks:
        loop = asyncio.create_task(replica.reaper.run())

        await looked(looks, 3)
        loop.cancel()
