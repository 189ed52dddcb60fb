"""Looking at jobs: GetJob, GetStatus, GetResult, ListJobs."""

import hashlib

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import Unavailable
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, outcomes_of, state_of, states_of
from tests.server.refusals import refusal


async def ended(alice: Caller, spooler: FakeSpooler, how: str) -> job_pb2.Job:
    """A job that has ended so."""
    job = await alice.submit()
    one = await spooler.take()
    if how == "DONE":
        await spooler.complete(one, b'{"counts": [1, 2]}')
    elif how == "ERROR":
        await spooler.fail(one, "the laser is off")
    else:
        await alice.cancel(job.name)
        await spooler.next_of("cancel")
        await spooler.report(one, cancelled=pb.Cancelled())
    return job


async def test_a_job_tells_its_whole_life(alice: Caller, spooler: FakeSpooler) -> None:
    """GetJob has every state with its time, every attempt, progress and the result's digest."""
    submitted = await alice.submit()
    one = await spooler.take()
    await spooler.report(one, progress=pb.Progress(stage="warming up", fraction=0.25, detail="Almost."))
    running = await alice.job(submitted.name)
    await spooler.complete(one, b'{"r": 1}')

    done = await alice.job(submitted.name)

    assert (state_of(running), running.stage, running.fraction) == ("RUNNING", "warming up", 0.25)
    assert states_of(done) == ["QUEUED", "CLAIMED", "RUNNING", "DONE"]
    times = [moment.time.ToNanoseconds() for moment in done.transitions]
    assert times == sorted(times)
    assert done.create_time == submitted.create_time == done.transitions[0].time
    assert done.start_time == done.attempts[0].accept_time == done.transitions[2].time
    assert done.end_time == done.update_time == done.transitions[3].time
    assert outcomes_of(done) == ["DONE"]
    assert (done.attempts[0].number, done.attempts[0].spooler, done.attempt_count) == (1, "spooler", 1)
    assert done.result_sha256 == hashlib.sha256(b'{"r": 1}').hexdigest()
    assert (done.result_bytes, done.fraction) == (8, 1.0)
    assert done.revision > running.revision > submitted.revision
    assert len({submitted.etag, running.etag, done.etag}) == 3


async def test_f17_a_result_says_what_every_status_says(alice: Caller, spooler: FakeSpooler) -> None:
    """A DONE job is DONE in GetJob, GetStatus, WaitJob and WatchJobs, and its result is there."""
    job = await ended(alice, spooler, "DONE")

    found = await alice.job(job.name)
    status = await alice.GetStatus(pb.GetStatusRequest(name=job.name))
    waited = (await alice.WaitJob(pb.WaitJobRequest(name=job.name))).job
    watched = (await alice.WatchJobs(pb.WatchJobsRequest(names=[job.name])).read()).jobs[0]
    result = await alice.GetResult(pb.GetResultRequest(name=job.name))

    assert found == waited == watched
    assert (found.state, found.status.status) == (job_pb2.JOB_STATE_DONE, "DONE")
    assert (status.state, status.status, status.etag) == (found.state, found.status, found.etag)
    assert result.content == b'{"counts": [1, 2]}'
    assert result.sha256 == hashlib.sha256(result.content).hexdigest()


@pytest.mark.parametrize(
    ("how", "reason", "word"),
    [("ERROR", "JOB_ERROR", "the laser is off"), ("CANCELLED", "JOB_CANCELLED", "the job was cancelled")],
)
async def test_f17_an_end_without_a_result_is_one_everywhere(
    alice: Caller, spooler: FakeSpooler, how: str, reason: str, word: str
) -> None:
    """A job that ended without a result reads so in every call, and its result says why it has none."""
    job = await ended(alice, spooler, how)

    found = await alice.job(job.name)
    status = await alice.GetStatus(pb.GetStatusRequest(name=job.name))
    waited = (await alice.WaitJob(pb.WaitJobRequest(name=job.name))).job
    watched = (await alice.WatchJobs(pb.WatchJobsRequest(names=[job.name])).read()).jobs[0]
    refused = await refusal(alice.GetResult(pb.GetResultRequest(name=job.name)))

    assert found == waited == watched
    assert state_of(found).startswith(how)
    assert status.status == found.status
    assert (found.status.status, found.status.error_message) == ("ERROR", word)
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert refused.metadata["state"] == how


async def test_f5_an_error_belongs_to_its_job_alone(
    lab: Lab, alice: Caller, bob: Caller, spooler: FakeSpooler
) -> None:
    """Job after job on one spooler: the failure of one leaves nothing in another's status or result."""
    bad = await alice.submit()
    good = await bob.submit()
    await spooler.fail(await spooler.take(), "division by zero")
    await spooler.complete(await spooler.take(), b'{"mine": true}')

    failed, done = await alice.job(bad.name), await bob.job(good.name)

    assert (failed.error.reason, failed.error.message) == ("FAILED", "division by zero")
    assert failed.status.job_id == bad.id
    assert done.status.status == "DONE"
    assert done.status.error_message == "None"
    assert "division" not in str(done)
    result = await bob.GetResult(pb.GetResultRequest(name=good.name))
    assert result.content == b'{"mine": true}'


async def test_a_result_before_its_time_is_refused(alice: Caller, spooler: FakeSpooler) -> None:
    """Until a job has ended its result is RESULT_NOT_READY, with the state."""
    job = await alice.submit()
    await spooler.take()

    refused = await refusal(alice.GetResult(pb.GetResultRequest(name=job.name)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESULT_NOT_READY")
    assert refused.metadata == {"state": "RUNNING"}


async def test_the_result_of_an_expired_job_says_so(lab: Lab, alice: Caller) -> None:
    """A job that expired has no result: JOB_EXPIRED."""
    soon = Timestamp(seconds=int(lab.clock.now().timestamp()) + 30)
    job = await alice.submit(expire_time=soon)
    await lab.pass_time(31)

    refused = await refusal(alice.GetResult(pb.GetResultRequest(name=job.name)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_EXPIRED")


async def test_a_large_result_comes_whole(alice: Caller, spooler: FakeSpooler) -> None:
    """A result of two megabytes comes back byte for byte."""
    job = await alice.submit()
    one = await spooler.take()
    result = b'"' + bytes(ord("a") + i % 26 for i in range(2 * 1024 * 1024 - 2)) + b'"'
    confirm = await spooler.complete(one, result)

    answer = await alice.GetResult(pb.GetResultRequest(name=job.name))

    assert answer.content == result
    assert answer.sha256 == confirm.result_sha256


async def test_the_status_is_short_while_nothing_changes(alice: Caller, spooler: FakeSpooler) -> None:
    """With the etag that it has a client is told that nothing changed, and nothing else."""
    job = await alice.submit()
    await spooler.take()
    first = await alice.GetStatus(pb.GetStatusRequest(name=job.name, etag=job.etag))

    second = await alice.GetStatus(pb.GetStatusRequest(name=job.name, etag=first.etag))

    assert not first.unchanged
    assert first.state == job_pb2.JOB_STATE_RUNNING
    assert second == pb.GetStatusResponse(unchanged=True, etag=first.etag)


async def test_the_queue_position_counts_the_jobs_before(
    lab: Lab, alice: Caller, bob: Caller, spooler: FakeSpooler
) -> None:
    """A queued job knows how many of its backend come before it, whoever they belong to; others have none."""
    await lab.caller("robot").register("other")
    await alice.submit("other")
    running = await alice.submit()
    await spooler.take()
    queue = [await alice.submit(), await bob.submit(), await alice.submit()]
    ahead = await alice.submit(priority=100)

    async def position(caller: Caller, job: job_pb2.Job) -> int | None:
        answer = await caller.GetJob(pb.GetJobRequest(name=job.name))
        status = await caller.GetStatus(pb.GetStatusRequest(name=job.name))
        assert status.HasField("queue_position") == answer.HasField("queue_position")
        assert status.queue_position == answer.queue_position
        return answer.queue_position if answer.HasField("queue_position") else None

    assert await position(alice, running) is None
    assert [await position(alice, ahead), await position(alice, queue[0])] == [0, 1]
    assert [await position(bob, queue[1]), await position(alice, queue[2])] == [2, 3]


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_the_queue_position_ends_at_1001(lab: Lab, alice: Caller) -> None:
    """The position is exact up to 1,000; 1,001 says "over 1,000"."""
    one = pb.SubmitJobRequest(backend="sim", content=b"1")
    first = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 1000))).outcomes
    last = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 5))).outcomes

    positions = [
        (await alice.GetJob(pb.GetJobRequest(name=outcome.job.name))).queue_position
        for outcome in (first[999], last[0], last[1], last[4])
    ]

    assert positions == [999, 1000, 1001, 1001]


async def test_the_status_tells_of_a_paused_backend(lab: Lab, alice: Caller) -> None:
    """GetStatus says whether the backend is paused."""
    job = await alice.submit()
    before = await alice.GetStatus(pb.GetStatusRequest(name=job.name))
    await lab.put_policy(paused=True)

    after = await alice.GetStatus(pb.GetStatusRequest(name=job.name))

    assert (before.backend_paused, after.backend_paused) == (False, True)


async def test_a_bare_id_is_looked_for_in_the_default_storage(start_lab: StartLab) -> None:
    """The bare id of a job in the default storage finds it; in another storage it needs its name."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    here, there = await alice.submit("one"), await alice.submit("two")

    refused = await refusal(alice.GetJob(pb.GetJobRequest(name=there.id)))

    assert refused.reason == "JOB_NOT_FOUND"
    assert (await alice.job(here.id)).name == here.name
    assert (await alice.job(there.name)).name == there.name


# Lists


async def all_pages(caller: Caller, **fields: object) -> list[list[str]]:
    pages: list[list[str]] = []
    token = ""
    while True:
        answer = await caller.ListJobs(pb.ListJobsRequest(page_token=token, **fields))
        pages.append([job.id for job in answer.jobs])
        token = answer.next_page_token
        if not token:
            return pages


async def test_f19_lists_come_in_pages(alice: Caller) -> None:
    """All pages together have every job once, newest first, or oldest first when asked so."""
    ids = [(await alice.submit()).id for _ in range(7)]

    newest = await all_pages(alice, page_size=3)
    oldest = await all_pages(alice, page_size=3, oldest_first=True)

    assert newest == [ids[:3:-1], ids[3:0:-1], ids[:1]]
    assert oldest == [ids[:3], ids[3:6], ids[6:]]


async def test_jobs_that_come_between_two_pages_do_not_shift_them(alice: Caller) -> None:
    """A submit between two pages neither repeats nor hides a job."""
    ids = [(await alice.submit()).id for _ in range(4)]
    first = await alice.ListJobs(pb.ListJobsRequest(page_size=2))
    await alice.submit()

    second = await alice.ListJobs(pb.ListJobsRequest(page_size=2, page_token=first.next_page_token))

    assert [job.id for job in (*first.jobs, *second.jobs)] == ids[::-1]


async def test_pages_have_their_sizes(alice: Caller) -> None:
    """Page size 0 is 50, and above 1,000 it is 1,000."""
    one = pb.SubmitJobRequest(backend="sim", content=b"1")
    for _ in range(2):
        await alice.SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 501))

    default = await alice.ListJobs(pb.ListJobsRequest())
    most = await alice.ListJobs(pb.ListJobsRequest(page_size=2**31 - 1))

    assert len(default.jobs) == 50
    assert len(most.jobs) == 1000
    rest = await alice.ListJobs(pb.ListJobsRequest(page_size=5000, page_token=most.next_page_token))
    assert (len(rest.jobs), rest.next_page_token) == (2, "")


async def test_lists_are_filtered(lab: Lab, alice: Caller, start_spooler: StartSpooler) -> None:
    """Backend, states and labels each narrow a list, and together all must hold."""
    await lab.caller("robot").register("other")
    a = await alice.submit(labels={"run": "1", "who": "me"})
    b = await alice.submit(labels={"run": "2"})
    c = await alice.submit("other", labels={"run": "1"})
    spooler = await start_spooler()
    await spooler.take()

    async def found(**fields: object) -> list[str]:
        answer = await alice.ListJobs(pb.ListJobsRequest(oldest_first=True, **fields))
        return [job.id for job in answer.jobs]

    assert await found(backend="sim") == [a.id, b.id]
    assert await found(labels={"run": "1"}) == [a.id, c.id]
    assert await found(labels={"run": "1", "who": "me"}) == [a.id]
    assert await found(labels={"run": "1", "none": ""}) == []
    assert await found(states=[job_pb2.JOB_STATE_QUEUED]) == [b.id, c.id]
    assert await found(states=[job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_DONE]) == [a.id]
    assert await found(states=[job_pb2.JOB_STATE_QUEUED], labels={"run": "1"}, backend="other") == [c.id]


@pytest.mark.parametrize("label", ['"', "'", "$.a", "a.b", "[0]", "%", "\\", "ü", "$where", "a\nb", "--"])
async def test_labels_are_words_whatever_is_in_them(alice: Caller, label: str) -> None:
    """A label's key and value may have any characters, and a filter takes them as they are."""
    job = await alice.submit(labels={label: label})
    await alice.submit(labels={"other": label})

    found = (await alice.ListJobs(pb.ListJobsRequest(labels={label: label}))).jobs

    assert [one.id for one in found] == [job.id]
    assert dict(found[0].labels) == {label: label}


@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_list_goes_over_all_storages_in_one_order(start_lab: StartLab, oldest_first: bool) -> None:
    """Jobs of several storages are listed by the time of their submit, each once, in pages of any size."""
    lab = await start_lab("main", "second", "third")
    robot, alice = lab.caller("robot"), lab.caller()
    homes = ("main", "second", "third")
    for storage in homes:
        await robot.register(f"in{storage}", storage=storage)
    ids = [(await alice.submit(f"in{homes[number * number % 3]}")).id for number in range(12)]
    ids += [(await alice.submit("inthird")).id for _ in range(3)]

    for size in (1, 2, 3, 4, 5, 15):
        pages = await all_pages(alice, page_size=size, oldest_first=oldest_first)
        assert [job for page in pages for job in page] == (ids if oldest_first else ids[::-1]), size
        assert all(len(page) == size for page in pages[:-1])
    assert len(await all_pages(alice, backend="inthird", page_size=3)) == 1


async def test_a_list_does_without_a_storage_in_trouble(start_lab: StartLab) -> None:
    """The jobs of the others are listed, and who is missing is told; once it answers again it goes on."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("two", storage="second")
    await robot.register("one")
    there = [(await alice.submit("two")).id for _ in range(2)]
    here = [(await alice.submit("one")).id for _ in range(2)]

    with lab.faults("second").failing(Unavailable("down"), "find"):
        first = await alice.ListJobs(pb.ListJobsRequest(page_size=1))
        whole = await all_pages(alice, page_size=1)
        refused = await refusal(alice.ListJobs(pb.ListJobsRequest(backend="two")))
    rest = await alice.ListJobs(pb.ListJobsRequest(page_token=first.next_page_token))

    assert list(first.unreachable_storages) == ["second"]
    assert [job for page in whole for job in page] == here[::-1]
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert [job.id for job in (*first.jobs, *rest.jobs)] == [*here[::-1], *there[::-1]]
    assert not rest.unreachable_storages


async def test_a_list_names_a_storage_that_was_not_opened_yet(start_lab: StartLab) -> None:
    """A storage that could not be opened is told like one in trouble."""
    lab = await start_lab("main", "second")
    lab.storage("second").opened.clear()

    listed = await lab.caller().ListJobs(pb.ListJobsRequest())

    assert list(listed.unreachable_storages) == ["second"]
