"""Submitting jobs."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.interface import Query
from spoolway_providers.model import JobKey
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, state_of
from tests.server.refusals import refusal


def stamp(lab: Lab, seconds: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(lab.clock.now() + timedelta(seconds=seconds))
    return made


async def test_f7_the_status_is_there_with_the_answer(alice: Caller) -> None:
    """With the answer of a submit GetStatus knows the job, in today's words."""
    job = await alice.submit()

    status = await alice.GetStatus(pb.GetStatusRequest(name=job.name))

    assert job.status.status == "INITIALIZING"
    assert job.status.detail == "Got your json."
    assert job.status.error_message == "None"
    assert (job.status.job_id, job.name) == (job.id, f"backends/sim/jobs/{job.id}")
    assert (status.etag, status.status) == (job.etag, job.status)


async def test_f7_the_status_never_runs_backwards(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """While jobs are submitted and done at once, whoever looks sees each go forwards only."""
    await spooler.credit(100)
    number = 30
    serving = asyncio.create_task(spooler.serve(number))

    async def submit_and_look(index: int) -> list[str]:
        job = await alice.submit(content=b"%d" % index)
        words = [job.status.status]
        while words[-1] != "DONE":
            words.append((await alice.GetStatus(pb.GetStatusRequest(name=job.name))).status.status)
        return words

    histories = await asyncio.gather(*(submit_and_look(i) for i in range(number)))
    await serving
    order = ["INITIALIZING", "QUEUED", "DONE"]
    for words in histories:
        assert [order.index(word) for word in words] == sorted(order.index(word) for word in words)


async def test_the_job_is_as_it_was_submitted(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """Everything of a request is in the job, and what its spooler needs is in the assignment."""
    content = '{"ü": [1, 2.50, "\\u00fc"],   "z": null}\n'.encode()
    expire = stamp(lab, 500)
    job = await alice.submit(
        content=content,
        labels={"run": "7", "ünï": "cödé"},
        priority=3,
        expire_time=expire,
        max_run_time=Duration(seconds=90, nanos=500_000_000),
        max_attempts=2,
        request_id="r-1",
    )

    one = await spooler.take()

    assert (job.owner, job.backend, job.priority, job.max_attempts) == ("alice", "sim", 3, 2)
    assert dict(job.labels) == {"run": "7", "ünï": "cödé"} == dict(one.labels)
    assert job.due_time == expire
    assert job.content_bytes == len(content)
    assert (one.job, one.content, one.owner) == (job.name, content, "alice")
    assert one.max_run_time == Duration(seconds=90, nanos=500_000_000)
    assert one.create_time == job.create_time
    assert one.attempts_before == 0


async def test_max_attempts_and_run_time_are_the_smaller_ones(lab: Lab, alice: Caller) -> None:
    """A job asks for less than its backend allows, never for more."""
    await lab.put_policy(max_attempts=4, max_run_time=timedelta(seconds=60))

    more = await alice.submit(max_attempts=9, max_run_time=Duration(seconds=600))
    less = await alice.submit(max_attempts=2, max_run_time=Duration(seconds=6))
    unset = await alice.submit()

    assert [job.max_attempts for job in (more, less, unset)] == [4, 2, 4]
    jobs = [await lab.storage().provider.get(key) for key in await keys_of(lab)]
    assert [job.max_run_time and job.max_run_time.total_seconds() for job in jobs] == [60, 6, 60]


async def keys_of(lab: Lab) -> list[JobKey]:
    return [job.key for job in (await lab.storage().provider.find(Query())).jobs]


async def test_a_repeated_request_id_is_the_same_job(alice: Caller, spooler: FakeSpooler) -> None:
    """A submit repeated with its request id answers its job as it is now, and stores none."""
    first = await alice.submit(request_id="once")
    await spooler.serve(1)

    again = await alice.submit(request_id="once")

    assert (again.name, state_of(again)) == (first.name, "DONE")
    assert len(await alice.all_jobs()) == 1


async def test_concurrent_twins_are_one_job(alice: Caller) -> None:
    """Of submits with one request id that are under way together one is stored, and all answer it."""
    twins = await asyncio.gather(*(alice.submit(request_id="twin") for _ in range(20)))

    assert len({job.name for job in twins}) == 1
    assert len(await alice.all_jobs()) == 1


async def test_a_request_id_belongs_to_caller_and_backend(lab: Lab, alice: Caller, bob: Caller) -> None:
    """Another user's, or another backend's, equal request id is another job."""
    await lab.caller("robot").register("other")

    jobs = [
        await alice.submit(request_id="r"),
        await bob.submit(request_id="r"),
        await alice.submit("other", request_id="r"),
        await alice.submit(),
        await alice.submit(),
    ]

    assert len({job.name for job in jobs}) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"content": b'{"a":1}'},
        {"labels": {"k": "w"}},
        {"priority": 1},
        {"max_attempts": 1},
        {"max_run_time": Duration(seconds=5)},
        {"not_before": Timestamp(seconds=4_000_000_000)},
        {"expire_time": Timestamp(seconds=4_000_000_000)},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_request_id_with_another_request_is_refused(alice: Caller, changes: dict[str, Any]) -> None:
    """A request id that came with another content or other options is ALREADY_EXISTS."""
    first = await alice.submit(request_id="used")

    request = pb.SubmitJobRequest(
        **({"backend": "sim", "content": b'{"a": 1}', "request_id": "used"} | changes)
    )
    refused = await refusal(alice.SubmitJob(request))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert await alice.all_jobs() == [first]


async def test_a_batch_is_answered_in_its_order(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """Good and bad jobs of a batch are answered in its order, and run in it."""
    requests = [
        pb.SubmitJobRequest(backend="sim", content=b"nonsense" if i % 3 == 1 else b"%d" % i)
        for i in range(30)
    ]

    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes

    assert len(outcomes) == 30
    for index, outcome in enumerate(outcomes):
        if index % 3 == 1:
            assert outcome.error.reason == "DOCUMENT_NOT_JSON"
        else:
            assert outcome.job.name
    good = [outcome.job.name for outcome in outcomes if outcome.HasField("job")]
    assert await spooler.serve(20) == good


async def test_a_batch_may_repeat_request_ids(alice: Caller) -> None:
    """Within a batch a repeated request id is the same job, and with other content an error."""
    requests = [
        pb.SubmitJobRequest(backend="sim", content=content, request_id="r") for content in (b"1", b"1", b"2")
    ]

    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes

    assert outcomes[0].job.name == outcomes[1].job.name
    assert outcomes[2].error.reason == "REQUEST_ID_REUSED"
    assert outcomes[2].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]


async def test_an_empty_batch_is_no_error(alice: Caller) -> None:
    """A batch of nothing is answered with nothing."""
    answer = await alice.SubmitJobs(pb.SubmitJobsRequest())

    assert list(answer.outcomes) == []


async def test_a_batch_goes_to_several_storages(start_lab: StartLab) -> None:
    """A batch for backends in several storages is answered in its order."""
    lab = await start_lab("main", "second")
    robot = lab.caller("robot")
    await robot.register("one")
    await robot.register("two", storage="second")
    alice = lab.caller()
    backends = ["two", "one", "two", "none", "one"]

    requests = [pb.SubmitJobRequest(backend=backend, content=b"{}") for backend in backends]
    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes

    assert [outcome.job.backend for outcome in outcomes] == ["two", "one", "two", "", "one"]
    assert outcomes[3].error.reason == "BACKEND_NOT_FOUND"


async def test_validation_alone_stores_nothing(alice: Caller, spooler: FakeSpooler) -> None:
    """A job that is only to be checked is answered without an id, or refused; nothing is stored."""
    checked = await alice.submit(content=b'{"n": 1}', validate_only=True, request_id="r")
    bad = pb.SubmitJobRequest(backend="sim", content=b"{", validate_only=True)
    refused = await refusal(alice.SubmitJob(bad))
    batch = await alice.SubmitJobs(
        pb.SubmitJobsRequest(
            requests=[bad, pb.SubmitJobRequest(backend="sim", content=b"{}", validate_only=True)]
        )
    )

    assert (checked.name, checked.id, checked.backend, checked.content_bytes) == ("", "", "sim", 8)
    assert refused.reason == "DOCUMENT_NOT_JSON"
    assert [outcome.WhichOneof("outcome") for outcome in batch.outcomes] == ["error", "job"]
    assert await alice.all_jobs() == []
    real = await alice.submit(content=b'{"other": 1}', request_id="r")
    assert (await spooler.assignment()).job == real.name


async def test_a_full_queue_says_so(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """Over the backend's limit of waiting jobs a submit is RESOURCE_EXHAUSTED, until one has gone."""
    await lab.put_policy(max_queued=2)
    await spooler.credit(0)
    await alice.submit()
    await alice.submit()

    refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refused.metadata == {"limit": "2"}
    assert refused.retry_after
    await spooler.credit(1)
    await spooler.take()
    assert (await alice.submit()).name


async def test_a_job_waits_for_its_time(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A job with not_before is HELD(DELAYED) until then, and others pass it meanwhile."""
    later = await alice.submit(not_before=stamp(lab, 60))
    now = await alice.submit()
    served = await spooler.serve(1)

    await lab.pass_time(61)

    assert state_of(later) == "HELD(DELAYED)"
    assert served + await spooler.serve(1) == [now.name, later.name]


async def test_a_job_expires_unless_it_is_started(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A job whose latest start has passed is EXPIRED; one that has started is not."""
    started = await alice.submit(expire_time=stamp(lab, 20))
    waiting = await alice.submit(expire_time=stamp(lab, 20))
    await spooler.take()

    await lab.pass_time(21)

    assert state_of(await alice.job(waiting.name)) == "EXPIRED"
    assert state_of(await alice.job(started.name)) == "RUNNING"
    status = (await alice.job(waiting.name)).status
    assert (status.status, status.error_message) == ("ERROR", "the job did not start in time")


async def test_a_repeat_after_the_latest_start_is_answered(lab: Lab, alice: Caller) -> None:
    """A submit that is repeated after its expire_time answers its job; one that is new is refused."""
    fields = {"expire_time": stamp(lab, 20)}
    first = await alice.submit(request_id="once", **fields)
    await lab.pass_time(21)

    again = await alice.submit(request_id="once", **fields)
    new = pb.SubmitJobRequest(backend="sim", content=b'{"a": 1}', request_id="new", **fields)
    refused = await refusal(alice.SubmitJob(new))

    assert (again.name, state_of(again)) == (first.name, "EXPIRED")
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EXPIRE_TIME_PAST")
    assert refused.fields == ("expire_time",)
    assert len(await alice.all_jobs()) == 1


async def test_priority_is_worth_minutes_of_waiting(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A higher priority goes first among jobs of the same minute; equals by their submission."""
    await spooler.credit(0)
    names = [(await alice.submit(priority=p)).name for p in (0, -2, 5, 0, 5)]

    await spooler.credit(1)

    assert await spooler.serve(5) == [names[i] for i in (2, 4, 0, 3, 1)]


async def test_an_inactive_storage_takes_no_jobs(start_lab: StartLab) -> None:
    """Submits to an inactive storage are FAILED_PRECONDITION; what it holds can be read."""
    lab = await start_lab()
    await lab.caller("robot").register()
    alice = lab.caller()
    job = await alice.submit()
    lab.storage().active = False

    refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_INACTIVE")
    assert refused.metadata == {"storage": "main"}
    assert (await alice.job(job.name)).etag == job.etag
