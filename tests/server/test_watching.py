"""WatchJobs: a snapshot, then changes."""

import asyncio
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import CursorTooOld, Unavailable
from spoolway_providers.interface import Page, Query
from spoolway_server import watching
from spoolway_server.app import SpoolwayServer
from spoolway_server.tokens import encode_token
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually, state_of, states_of
from tests.server.refusals import error_info
from tests.server.storage_faults import StorageFaults


class Watch:
    """A WatchJobs that a test reads by hand."""

    def __init__(self, caller: Caller, **request: Any) -> None:
        self._call = caller.WatchJobs(pb.WatchJobsRequest(**request))
        self.token = ""
        self.revisions: dict[str, int] = {}

    async def event(self) -> pb.WatchJobsResponse:
        """The next event; never may a job be older than it was."""
        async with asyncio.timeout(PATIENCE_S):
            event: pb.WatchJobsResponse = await self._call.read()
        self.token = event.resume_token
        for job in event.jobs:
            assert job.revision >= self.revisions.get(job.name, 0)
            self.revisions[job.name] = job.revision
        return event

    async def snapshot(self) -> list[job_pb2.Job]:
        """All jobs of the snapshot."""
        jobs: list[job_pb2.Job] = []
        while not (event := await self.event()).snapshot_complete:
            assert event.snapshot
            jobs += event.jobs
        return jobs

    async def until(self, name: str, state: str) -> job_pb2.Job:
        """A job once an event shows it in a state."""
        while True:
            for job in (await self.event()).jobs:
                if (job.name, state_of(job)) == (name, state):
                    return job

    def cancel(self) -> None:
        """Stop watching."""
        self._call.cancel()


async def test_a_watch_begins_with_all_jobs(alice: Caller, spooler: FakeSpooler) -> None:
    """The snapshot has the newest document of every job, and says when it is complete."""
    done = await alice.submit()
    await spooler.serve(1)
    waiting = await alice.submit(not_before=Timestamp(seconds=4_000_000_000))

    jobs = await Watch(alice).snapshot()

    assert {job.name: state_of(job) for job in jobs} == {
        done.name: "DONE",
        waiting.name: "HELD(DELAYED)",
    }
    assert sorted(jobs, key=lambda job: job.name) == sorted(await alice.all_jobs(), key=lambda job: job.name)


async def test_an_empty_watch_says_so(alice: Caller) -> None:
    """Where there is no job the snapshot is complete at once."""
    event = await Watch(alice).event()

    assert event.snapshot
    assert event.snapshot_complete
    assert event.resume_token


async def test_changes_follow_the_snapshot(alice: Caller, spooler: FakeSpooler) -> None:
    """Every change is told; what was passed over stands in the transitions."""
    watch = Watch(alice)
    await watch.snapshot()

    job = await alice.submit()
    await spooler.serve(1)

    done = await watch.until(job.name, "DONE")
    assert states_of(done) == ["QUEUED", "CLAIMED", "RUNNING", "DONE"]
    assert done == await alice.job(job.name)


async def test_a_watch_by_names_shows_these_only(alice: Caller) -> None:
    """With names only these jobs are shown and followed, whatever backend is given."""
    jobs = [await alice.submit() for _ in range(4)]
    watch = Watch(alice, names=[jobs[1].name, jobs[2].id, jobs[1].name], backend="sim")
    first = await watch.snapshot()

    for job in jobs:
        await alice.cancel(job.name)

    assert {job.name for job in first} == {jobs[1].name, jobs[2].name}
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {job.name for job in (await watch.event()).jobs}
    assert seen == {jobs[1].name, jobs[2].name}


async def test_a_watch_of_a_backend_shows_its_jobs_only(lab: Lab, alice: Caller) -> None:
    """With a backend only its jobs are shown and followed."""
    await lab.caller("robot").register("other")
    await alice.submit("sim")
    before = await alice.submit("other")
    watch = Watch(alice, backend="other")
    first = await watch.snapshot()

    await alice.submit("sim")
    after = await alice.submit("other")

    assert [job.name for job in first] == [before.name]
    assert [job.name for job in (await watch.event()).jobs] == [after.name]


async def test_a_watch_goes_over_all_storages(start_lab: StartLab) -> None:
    """Jobs of all storages are shown and followed, and the token resumes in each."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    jobs = [await alice.submit("one"), await alice.submit("two")]
    watch = Watch(alice)
    first = await watch.snapshot()

    more = [await alice.submit("one"), await alice.submit("two")]
    seen: set[str] = set()
    while len(seen) < 2:
        seen |= {job.name for job in (await watch.event()).jobs}

    assert {job.name for job in first} == {job.name for job in jobs}
    assert seen == {job.name for job in more}
    watch.cancel()
    last = await alice.submit("two")
    resumed = Watch(alice, resume_token=watch.token)
    event = await resumed.event()
    assert ([job.name for job in event.jobs], event.snapshot) == ([last.name], False)


async def test_a_token_never_covers_what_was_not_told(start_lab: StartLab) -> None:
    """With changes in two storages at once, the token of the first event still brings the second's job."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    for _ in range(5):
        watch = Watch(alice)
        await watch.snapshot()
        names = {job.name for job in await asyncio.gather(alice.submit("one"), alice.submit("two"))}

        told = {job.name for job in (await watch.event()).jobs}
        resumed = Watch(alice, resume_token=watch.token)
        while told != names:
            told |= {job.name for job in (await resumed.event()).jobs}

        watch.cancel()
        resumed.cancel()


async def test_a_watch_resumes_where_it_was(alice: Caller) -> None:
    """With a resume token only the changes since are told, each job once in its newest document."""
    jobs = [await alice.submit() for _ in range(3)]
    watch = Watch(alice)
    await watch.snapshot()
    watch.cancel()
    await alice.cancel(jobs[1].name)
    new = await alice.submit()

    resumed = Watch(alice, resume_token=watch.token)
    event = await resumed.event()

    assert not event.snapshot
    assert {job.name: state_of(job) for job in event.jobs} == {
        jobs[1].name: "CANCELLED",
        new.name: "QUEUED",
    }
    assert (await resumed.event()).snapshot_complete
    await alice.cancel(jobs[0].name)
    assert [job.name for job in (await resumed.event()).jobs] == [jobs[0].name]


async def test_a_watch_that_resumes_without_news_is_told_so(alice: Caller) -> None:
    """Where nothing has changed since, the watch goes on without a job."""
    await alice.submit()
    watch = Watch(alice)
    await watch.snapshot()

    event = await Watch(alice, resume_token=watch.token).event()

    assert (list(event.jobs), event.snapshot_complete) == ([], True)


async def test_a_token_that_is_too_old_brings_a_snapshot(lab: Lab, alice: Caller) -> None:
    """Where the changes since are not known any more the watch begins anew."""
    job = await alice.submit()
    old = encode_token({"main": "999999999999999"})

    jobs = await Watch(alice, resume_token=old).snapshot()

    assert [one.name for one in jobs] == [job.name]


async def test_a_snapshot_that_broke_off_is_begun_again(
    monkeypatch: pytest.MonkeyPatch, alice: Caller
) -> None:
    """A token from the middle of a snapshot brings all of it: nothing that was not told is skipped."""
    monkeypatch.setattr(watching, "MAX_EVENT", 2)
    names = {(await alice.submit()).name for _ in range(5)}
    watch = Watch(alice)
    first = await watch.event()
    watch.cancel()

    resumed = await Watch(alice, resume_token=first.resume_token).snapshot()

    assert len(first.jobs) == 2
    assert {job.name for job in resumed} == names


async def test_a_snapshot_ends_although_jobs_keep_coming(
    monkeypatch: pytest.MonkeyPatch, lab: Lab, alice: Caller
) -> None:
    """What is submitted while a snapshot is read comes after it, once, and makes it no longer."""
    monkeypatch.setattr(watching, "MAX_EVENT", 2)
    before = [(await alice.submit()).name for _ in range(3)]
    provider = lab.storage().provider
    find, meanwhile = provider.find, []

    async def find_and_submit(query: Query) -> Page:
        page = await find(query)
        if len(meanwhile) < 20:
            meanwhile.extend([(await alice.submit()).name for _ in range(4)])
        return page

    monkeypatch.setattr(provider, "find", find_and_submit)
    watch = Watch(alice)
    snapshot = await watch.snapshot()
    told: list[str] = []
    while len(told) < len(meanwhile):
        told += [job.name for job in (await watch.event()).jobs]

    assert [job.name for job in snapshot] == before
    assert sorted(told) == sorted(meanwhile)


async def test_a_quiet_watch_has_bookmarks(
    monkeypatch: pytest.MonkeyPatch, alice: Caller, bob: Caller
) -> None:
    """While nothing changes an empty event tells that the stream lives, and moves the token on."""
    monkeypatch.setattr(watching, "BOOKMARK_S", 0.05)
    watch = Watch(alice)
    await watch.snapshot()
    before = watch.token
    await bob.submit()

    async with asyncio.timeout(PATIENCE_S):
        while watch.token == before:
            event = await watch.event()

    assert list(event.jobs) == []
    assert not event.snapshot


async def test_lost_changes_bring_a_new_snapshot(lab: Lab, alice: Caller) -> None:
    """When the server itself has lost track of the changes the watcher is shown all jobs again."""
    jobs = [await alice.submit() for _ in range(2)]
    watch = Watch(alice)
    await watch.snapshot()
    faults = lab.faults()
    faults.fail_once(CursorTooOld("swept"), "changes")

    await alice.cancel(jobs[0].name)

    seen: dict[str, str] = {}
    while len(seen) < 2:
        seen |= {job.name: state_of(job) for job in (await watch.event()).jobs}
    assert seen == {jobs[0].name: "CANCELLED", jobs[1].name: "QUEUED"}
    await alice.cancel(jobs[1].name)
    await watch.until(jobs[1].name, "CANCELLED")


async def test_lost_changes_wake_who_waits(lab: Lab, alice: Caller) -> None:
    """When the server has lost track of the changes WaitJob looks for itself."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.until_ended(job.name))
    await eventually(lambda: lab.storage().feed.watched)
    lab.faults().fail_once(CursorTooOld("swept"), "changes")

    await alice.cancel(job.name)

    assert state_of(await waiting) == "CANCELLED"


async def test_a_slow_reader_is_told_the_newest_only(lab: Lab, alice: Caller) -> None:
    """For who does not read, the changes of a job are kept as one: its newest document."""
    job = await alice.submit()
    storage = lab.storage()
    subscription = await storage.feed.subscribe(owner="alice")
    try:
        spooler = FakeSpooler(lab)
        await spooler.connect()
        await spooler.credit(1)
        one = await spooler.take()
        for percent in range(100):
            await spooler.report(one, progress=pb.Progress(fraction=percent / 100))
        await spooler.complete(one)
        newest = await storage.provider.get(lab.key(job.name))
        await eventually(
            lambda: subscription._jobs.get(newest.key) and subscription._jobs[newest.key] == newest
        )

        told, _ = await subscription.next(1)
    finally:
        storage.feed.unsubscribe(subscription)

    assert told == [newest]


async def test_a_watch_never_goes_backwards_under_load(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """However many watch while jobs go through, each sees each job forwards only, and every end."""
    await spooler.credit(10)
    number = 40
    watches = [Watch(alice) for _ in range(5)]
    for watch in watches:
        await watch.snapshot()
    serving = asyncio.create_task(spooler.serve(number))

    requests = [pb.SubmitJobRequest(backend="sim", content=b"%d" % i) for i in range(number)]
    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes
    late = Watch(alice)
    ends = {outcome.job.name for outcome in outcomes}

    async def all_ends(watch: Watch) -> set[str]:
        done: set[str] = set()
        while done != ends:
            done |= {job.name for job in (await watch.event()).jobs if state_of(job) == "DONE"}
        return done

    assert await asyncio.gather(*(all_ends(watch) for watch in (*watches, late)))
    await serving


async def test_what_was_read_before_the_snapshot_is_not_told_after_it(lab: Lab, alice: Caller) -> None:
    """A read of changes that began before a snapshot and ends after it brings nothing older than that."""
    job = await alice.submit()
    await alice.submit()
    other = Watch(alice)
    await other.snapshot()

    with lab.faults().held_up("changes") as gate:
        changed = await alice.submit()
        await gate.reached.wait()
        await alice.cancel(changed.name)
        await alice.cancel(job.name)
        late = Watch(alice)
        reading = asyncio.create_task(late.snapshot())
        for _ in range(20):
            await alice.job(job.name)
        gate.open.set()
    jobs = {one.name: state_of(one) for one in await reading}

    assert jobs[changed.name] == "CANCELLED"
    last = await alice.submit()
    await late.until(last.name, "QUEUED")


async def test_a_watch_that_is_given_up_leaves_nothing_behind(lab: Lab, alice: Caller) -> None:
    """When a client cancels its watch the server stops reading changes for it."""
    watch = Watch(alice)
    await watch.snapshot()
    assert lab.storage().feed.watched

    watch.cancel()

    await eventually(lambda: not lab.storage().feed.watched)


async def test_a_watch_outlives_trouble_of_the_storage(lab: Lab, alice: Caller) -> None:
    """While changes can't be read the watch is silent, and goes on when they can."""
    watch = Watch(alice)
    await watch.snapshot()
    lab.faults().fail_once(Unavailable("down"), "changes")

    job = await alice.submit()

    assert [one.name for one in (await watch.event()).jobs] == [job.name]


async def test_a_storage_that_opens_later_joins_the_watch(start_lab: StartLab) -> None:
    """The jobs of a storage that could not be opened when the watch began are told once it is."""
    down = ExitStack()

    def break_second(server: SpoolwayServer) -> None:
        faults = StorageFaults(server.storages.by_name["second"].provider)
        down.enter_context(faults.failing(Unavailable("not yet"), "open"))

    lab = await start_lab("main", "second", before_start=break_second)
    alice = lab.caller()
    await lab.storage().provider.put_config("one", b"{}", None)
    watch = Watch(alice)
    await watch.snapshot()
    first = await alice.submit("one")
    assert [job.name for job in (await watch.event()).jobs] == [first.name]

    down.close()
    await asyncio.wait_for(lab.storage("second").opened.wait(), PATIENCE_S)
    await lab.caller("robot").register("two", storage="second")
    job = await alice.submit("two")

    await watch.until(job.name, "QUEUED")


async def test_the_end_of_a_watch_by_the_server_is_unavailable(lab: Lab, alice: Caller) -> None:
    """A server that stops ends watches with UNAVAILABLE; the token goes on elsewhere."""
    watch = Watch(alice)
    await watch.snapshot()

    await asyncio.wait_for(lab.server.stop(5), 2)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.event()
    refused = error_info(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert refused.retry_after
