"""Following jobs: status, list, watch, wait, result, cancel."""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway import (
    DataLossError,
    DeadlineExceededError,
    ExplanationCause,
    JobCancelledError,
    JobClient,
    JobExpiredError,
    JobFailedError,
    JobSnapshot,
    JobState,
    NotFoundError,
    SpoolwayError,
    StateReason,
)
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.conftest import QUICK
from tests.clients.fake_server import FakeServer, Refusal, events, in_turn, job, job_name

STATUSES_OF_A_CUT_STREAM = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
]


def event(*jobs: job_pb2.Job, token: str = "", deleted: tuple[str, ...] = ()) -> pb.WatchJobsResponse:
    return pb.WatchJobsResponse(jobs=jobs, resume_token=token, deleted=deleted)


async def collect(snapshots: AsyncIterator[JobSnapshot]) -> list[tuple[str, int]]:
    return [(snapshot.state, snapshot.revision) async for snapshot in snapshots]


async def test_status_tells_the_place_in_the_queue(server: FakeServer, client: JobClient) -> None:
    """A fresh status has the number of jobs before this one; 0 is next."""
    server.answers["GetJob"] = in_turn(
        pb.GetJobResponse(job=job(), queue_position=0),
        pb.GetJobResponse(job=job(state="RUNNING", revision=2)),
    )
    handle = client.job(job_name("1"))

    first, second = await handle.status(), await handle.status()

    assert (first.state, first.queue_position) == (JobState.QUEUED, 0)
    assert (second.state, second.queue_position) == (JobState.RUNNING, None)
    assert handle.snapshot is second


async def test_a_snapshot_tells_all_that_the_contract_tells(server: FakeServer, client: JobClient) -> None:
    """Each field of the contract's job has a place in the snapshot."""
    moment = Timestamp(seconds=1_900_000_000)
    server.answers["GetJob"] = in_turn(
        pb.GetJobResponse(
            job=job(
                state="ERROR",
                reason=job_pb2.STATE_REASON_FAILED,
                status=job_pb2.JobStatus(
                    job_id="1", status="ERROR", detail="Got your json.", error_message="x"
                ),
                create_time=moment,
                stage="cooling",
                fraction=0.5,
                labels={"a": "b"},
                attempts=[
                    job_pb2.Attempt(
                        number=1,
                        spooler="lab-1",
                        claim_time=moment,
                        outcome=job_pb2.ATTEMPT_OUTCOME_FAILED,
                        detail="x",
                    )
                ],
                transitions=[job_pb2.Transition(state=job_pb2.JOB_STATE_QUEUED, time=moment)],
                error=job_pb2.JobError(code=2, reason="FAILED", message="x", metadata={"k": "v"}),
            )
        )
    )

    snapshot = await client.job("1").status()

    assert {field.name for field in dataclasses.fields(JobSnapshot)} == {
        field.name for field in job_pb2.Job.DESCRIPTOR.fields
    } | {"detail", "error_message", "queue_position"}
    assert (snapshot.state, snapshot.reason, snapshot.status) == ("ERROR", StateReason.FAILED, "ERROR")
    assert snapshot.create_time == datetime.fromtimestamp(1_900_000_000, UTC)
    assert snapshot.start_time is None
    assert (snapshot.attempts[0].spooler, snapshot.attempts[0].outcome) == ("lab-1", "FAILED")
    assert snapshot.transitions[0].state == "QUEUED"
    assert snapshot.error is not None
    assert (snapshot.error.message, snapshot.error.metadata) == ("x", {"k": "v"})
    assert snapshot.is_terminal


async def test_a_state_of_a_newer_server_is_unspecified(server: FakeServer, client: JobClient) -> None:
    """A state that this client is too old to know breaks nothing."""
    newer = job()
    newer.state = 77  # type: ignore[assignment] # a number that the contract may get
    server.answers["GetJob"] = in_turn(pb.GetJobResponse(job=newer))

    assert (await client.job("1").status()).state is JobState.UNSPECIFIED


async def test_jobs_are_listed_page_by_page(server: FakeServer, client: JobClient) -> None:
    """Iterating asks for the next page when it is needed, with the same filter."""
    server.answers["ListJobs"] = in_turn(
        pb.ListJobsResponse(jobs=[job("1"), job("2")], next_page_token="p2"),
        pb.ListJobsResponse(jobs=[job("3")]),
    )

    found = [handle.id async for handle in client.jobs("echo", [JobState.QUEUED, "DONE"], labels={"a": "b"})]

    first, second = server.requests["ListJobs"]
    assert found == ["1", "2", "3"]
    assert list(first.states) == [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_DONE]
    assert (first.backend, dict(first.labels), first.page_token) == ("echo", {"a": "b"}, "")
    assert (second.backend, second.page_token) == ("echo", "p2")


async def test_a_list_ends_at_its_limit(server: FakeServer, client: JobClient) -> None:
    """No more jobs are asked for than wanted."""
    server.answers["ListJobs"] = in_turn(
        pb.ListJobsResponse(jobs=[job("1"), job("2")], next_page_token="p2"),
        pb.ListJobsResponse(jobs=[job("3")], next_page_token="p3"),
    )

    found = [handle.id async for handle in client.jobs(limit=3)]

    assert found == ["1", "2", "3"]
    assert [request.page_size for request in server.requests["ListJobs"]] == [3, 1]


@pytest.mark.parametrize("status", STATUSES_OF_A_CUT_STREAM)
async def test_a_watch_resumes_where_it_was_cut(
    server: FakeServer, client: JobClient, status: grpc.StatusCode
) -> None:
    """A stream that breaks is reopened with the last resume token, and the caller sees nothing of it."""
    server.answers["WatchJobs"] = in_turn(
        lambda request: events(event(job(), token="t1"), event(token="t2"), then=Refusal(status)),
        lambda request: events(event(job(state="DONE", revision=2), token="t3")),
    )

    seen = await collect(client.job(job_name("1")).watch())

    assert seen == [("QUEUED", 1), ("DONE", 2)]
    assert [request.resume_token for request in server.requests["WatchJobs"]] == ["", "t2"]


async def test_a_watch_resumes_after_a_stream_that_ended_well(server: FakeServer, client: JobClient) -> None:
    """A proxy that closes streams politely is no end of the watch."""
    server.answers["WatchJobs"] = in_turn(
        lambda request: events(event(job(), token="t1")),
        lambda request: events(event(job(state="DONE", revision=2))),
    )

    assert await collect(client.job(job_name("1")).watch()) == [("QUEUED", 1), ("DONE", 2)]


async def test_a_watch_never_goes_back(server: FakeServer, client: JobClient) -> None:
    """An older or the same document that comes again, as in a new snapshot, is not shown again."""
    server.answers["WatchJobs"] = in_turn(
        lambda request: events(
            event(job(revision=2)), event(job(revision=1)), event(job(revision=2)), event(job("2"))
        ),
        lambda request: events(event(job(revision=2), job("2", revision=2)), hang=True),
    )
    watch = client.watch(backend="echo")

    seen = [await anext(watch) for _ in range(3)]
    await watch.aclose()

    assert [(each.id, each.revision) for each in seen] == [("1", 2), ("2", 1), ("2", 2)]
    assert server.requests["WatchJobs"][0].backend == "echo"


async def test_a_watch_of_jobs_names_them(server: FakeServer, client: JobClient) -> None:
    """Handles and names may be mixed."""
    server.answers["WatchJobs"] = lambda request: events(event(job()), hang=True)
    watch = client.watch([client.job(job_name("1")), job_name("2")])

    await anext(watch)
    await watch.aclose()

    assert list(server.requests["WatchJobs"][0].names) == [job_name("1"), job_name("2")]


async def test_leaving_a_watch_ends_its_call(server: FakeServer, client: JobClient) -> None:
    """A watch that nobody iterates over any more does not go on at the server."""
    ended = asyncio.Event()

    async def script(request: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        try:
            yield event(job())
            await asyncio.Event().wait()
        finally:
            ended.set()

    server.answers["WatchJobs"] = script
    async for _ in client.job(job_name("1")).watch():
        break

    await asyncio.wait_for(ended.wait(), 10)


async def test_a_refused_watch_is_an_error(server: FakeServer, client: JobClient) -> None:
    """A refusal that no waiting mends ends the watch."""
    server.answers["WatchJobs"] = in_turn(Refusal(grpc.StatusCode.NOT_FOUND, "no job 1"))

    with pytest.raises(NotFoundError, match="no job 1"):
        await collect(client.job("1").watch())


async def test_the_watch_of_a_deleted_job_ends(server: FakeServer, client: JobClient) -> None:
    """A job that is deleted while it is watched ends the watch."""
    server.answers["WatchJobs"] = lambda request: events(
        event(job()), event(deleted=(job_name("1"),)), hang=True
    )

    assert await collect(client.job(job_name("1")).watch()) == [("QUEUED", 1)]


async def test_a_silent_watch_is_reopened(server: FakeServer, client: JobClient) -> None:
    """A stream that died without a word is noticed by the missing bookmarks."""
    client._timing = dataclasses.replace(QUICK, bookmark_s=0.05)
    server.answers["WatchJobs"] = in_turn(
        lambda request: events(event(job(), token="t1"), hang=True),
        lambda request: events(event(job(state="DONE", revision=2))),
    )

    assert await collect(client.job(job_name("1")).watch()) == [("QUEUED", 1), ("DONE", 2)]


async def test_wait_returns_at_the_end(server: FakeServer, client: JobClient) -> None:
    """Waiting ends with the job, however it ends, and is not asked again."""
    server.answers["WatchJobs"] = lambda request: events(
        event(job()), event(job(state="CANCELLED", revision=2)), hang=True
    )
    handle = client.job(job_name("1"))

    first, again = await handle.wait(), await handle.wait()

    assert first.state == "CANCELLED"
    assert again is first
    assert len(server.requests["WatchJobs"]) == 1


@pytest.mark.parametrize("status", [*STATUSES_OF_A_CUT_STREAM, grpc.StatusCode.UNIMPLEMENTED])
async def test_wait_asks_by_unary_calls_where_streams_are_cut(
    server: FakeServer, client: JobClient, status: grpc.StatusCode
) -> None:
    """Behind a proxy without streams waiting works all the same."""
    server.answers["WatchJobs"] = in_turn(Refusal(status))
    server.answers["WaitJob"] = in_turn(
        pb.WaitJobResponse(job=job()),
        Refusal(grpc.StatusCode.UNKNOWN, "Stream removed"),
        pb.WaitJobResponse(job=job(state="DONE", revision=3)),
    )

    snapshot = await client.job(job_name("1")).wait()

    assert snapshot.state == "DONE"
    assert len(server.requests["WatchJobs"]) <= 2
    assert server.requests["WaitJob"][0].timeout.ToTimedelta() == timedelta(seconds=QUICK.wait_job_s)


async def test_wait_asks_by_unary_calls_where_streams_show_nothing(
    server: FakeServer, client: JobClient
) -> None:
    """Behind a proxy that holds events back waiting works all the same."""
    client._timing = dataclasses.replace(QUICK, first_event_s=0.05)
    server.answers["WatchJobs"] = lambda request: events(hang=True)
    server.answers["WaitJob"] = in_turn(pb.WaitJobResponse(job=job(state="DONE")))

    assert (await client.job(job_name("1")).wait()).state == "DONE"


async def test_wait_out_of_time_tells_that_the_job_goes_on(server: FakeServer, client: JobClient) -> None:
    """Running out of time is no end of the job, and the error says so."""
    server.answers["WatchJobs"] = lambda request: events(event(job()), hang=True)

    with pytest.raises(DeadlineExceededError, match=r"not ended within 0\.05 s; it goes on"):
        await client.job(job_name("1")).wait(timeout=0.05)


async def test_waiting_can_be_cancelled(server: FakeServer, client: JobClient) -> None:
    """A waiting task ends when it is cancelled."""
    server.answers["WatchJobs"] = lambda request: events(event(job()), hang=True)
    task = asyncio.create_task(client.job(job_name("1")).wait())
    await server.called("WatchJobs")

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_result_is_waited_for_and_parsed(server: FakeServer, client: JobClient) -> None:
    """The result of a job comes as what its spooler returned."""
    content = b'{"memory": ["1 0"]}'
    server.answers["WatchJobs"] = lambda request: events(event(job(state="DONE")), hang=True)
    server.answers["GetResult"] = in_turn(
        pb.GetResultResponse(content=content, sha256=hashlib.sha256(content).hexdigest())
    )
    handle = client.job(job_name("1"))

    assert await handle.result() == {"memory": ["1 0"]}
    assert await handle.result_bytes() == content


async def test_a_damaged_result_is_an_error(server: FakeServer, client: JobClient) -> None:
    """A result that does not fit its checksum is not handed out."""
    server.answers["WatchJobs"] = lambda request: events(event(job(state="DONE")), hang=True)
    server.answers["GetResult"] = in_turn(pb.GetResultResponse(content=b"{}", sha256="0" * 64))

    with pytest.raises(DataLossError):
        await client.job(job_name("1")).result()


@pytest.mark.parametrize(
    ("state", "error_class", "says"),
    [
        ("ERROR", JobFailedError, "job backends/echo/jobs/1 failed: no laser"),
        ("CANCELLED", JobCancelledError, "was cancelled"),
        ("EXPIRED", JobExpiredError, "was not started before its expire_time"),
    ],
)
async def test_a_job_without_result_raises_why(
    server: FakeServer, client: JobClient, state: str, error_class: type[SpoolwayError], says: str
) -> None:
    """Asking for the result of a job that has none tells how it ended."""
    error = job_pb2.JobError(code=2, message="no laser") if state == "ERROR" else None
    server.answers["WatchJobs"] = lambda request: events(event(job(state=state, error=error)), hang=True)

    with pytest.raises(error_class, match=says) as caught:
        await client.job(job_name("1")).result()

    assert caught.value.reason == f"JOB_{state}"
    assert caught.value.snapshot.state == state  # type: ignore[attr-defined] # on all three


async def test_cancel_answers_how_the_job_stands(server: FakeServer, client: JobClient) -> None:
    """A cancel shows whether the job has ended or is about to."""
    server.answers["CancelJob"] = in_turn(pb.CancelJobResponse(job=job(state="CANCELLING", revision=4)))
    handle = client.job(job_name("1"))

    snapshot = await handle.cancel()

    assert snapshot.state == "CANCELLING"
    assert handle.snapshot is snapshot
    assert repr(handle) == "<Job backends/echo/jobs/1 CANCELLING>"


async def test_a_bare_id_is_enough(server: FakeServer, client: JobClient) -> None:
    """A handle can be made from the id alone; the backend is known once something is heard."""
    server.answers["GetJob"] = in_turn(pb.GetJobResponse(job=job()))
    handle = client.job("1")

    before = handle.backend
    await handle.status()

    assert (handle.id, before, handle.backend) == ("1", "", "echo")
    assert server.requests["GetJob"][0].name == "1"


async def test_retry_delete_and_explain_say_what_the_server_says(
    server: FakeServer, client: JobClient
) -> None:
    """Each is one call; what it tells of the job becomes the handle's snapshot."""
    reason = pb.Explanation(
        cause=pb.EXPLANATION_CAUSE_BEHIND_OTHERS, message="2 jobs come first", jobs_before=2
    )
    newer = pb.Explanation(message="a reason of tomorrow")
    newer.cause = 99  # type: ignore[assignment]  # of a later version
    server.answers["RetryJob"] = in_turn(pb.RetryJobResponse(job=job(revision=5)))
    server.answers["ExplainJob"] = in_turn(
        pb.ExplainJobResponse(job=job(revision=6), explanations=[reason, newer])
    )
    server.answers["DeleteJob"] = in_turn(pb.DeleteJobResponse())
    handle = client.job(job_name("1"))

    retried = await handle.retry()
    explained = await handle.explain()
    await handle.delete(etag="6")

    assert retried.revision == 5
    assert [(e.cause, e.message, e.jobs_before) for e in explained] == [
        (ExplanationCause.BEHIND_OTHERS, "2 jobs come first", 2),
        (ExplanationCause.UNSPECIFIED, "a reason of tomorrow", 0),
    ]
    assert handle.snapshot is not None
    assert handle.snapshot.revision == 6
    assert server.requests["DeleteJob"][0].etag == "6"
