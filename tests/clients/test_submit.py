"""Submitting: what is sent, what is refused before, what is repeated."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from spoolway import (
    ContentTooLargeError,
    InvalidArgumentError,
    Job,
    JobClient,
    QueueFullError,
    SettingsError,
    SpoolwayError,
    UnavailableError,
)
from spoolway.submission import MAX_BATCH_BYTES
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import FakeServer, Refusal, in_turn, job

UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "draining", "DRAINING")


def submitted(request: pb.SubmitJobRequest) -> pb.SubmitJobResponse:
    return pb.SubmitJobResponse(job=job("1"))


def all_submitted(request: pb.SubmitJobsRequest) -> pb.SubmitJobsResponse:
    outcomes = [pb.SubmitOutcome(job=job(each.content.decode())) for each in request.requests]
    return pb.SubmitJobsResponse(outcomes=outcomes)


async def test_a_submit_says_all_it_was_told(server: FakeServer, client: JobClient) -> None:
    """Content and options arrive at the server."""
    server.answers["SubmitJob"] = submitted
    moment = datetime(2030, 1, 1, tzinfo=UTC)

    handle = await client.submit(
        "echo",
        {"ü": [1, 2.5, None]},
        labels={"a": "b"},
        priority=-3,
        not_before=moment,
        expire_time=moment + timedelta(hours=1),
        max_run_time=timedelta(seconds=1.5),
        max_attempts=2,
        request_id="mine",
    )

    [request] = server.requests["SubmitJob"]
    assert json.loads(request.content) == {"ü": [1, 2.5, None]}
    assert request.content.decode() == '{"ü":[1,2.5,null]}'
    assert (request.backend, dict(request.labels), request.priority) == ("echo", {"a": "b"}, -3)
    assert request.not_before.ToDatetime(tzinfo=UTC) == moment
    assert request.expire_time.ToDatetime(tzinfo=UTC) == moment + timedelta(hours=1)
    assert request.max_run_time.ToTimedelta() == timedelta(seconds=1.5)
    assert (request.max_attempts, request.request_id, request.validate_only) == (2, "mine", False)
    assert (handle.name, handle.id, handle.backend) == ("backends/echo/jobs/1", "1", "echo")
    assert handle.snapshot is not None
    assert handle.snapshot.state == "QUEUED"


async def test_the_caller_travels_as_metadata(server: FakeServer) -> None:
    """User and token go with each call."""
    server.answers["SubmitJob"] = submitted
    async with JobClient(server.address, user="ada", token="secret") as client:
        await client.submit("echo", {})

    assert server.metadata["spoolway-user"] == "ada"
    assert server.metadata["authorization"] == "Bearer secret"


async def test_a_submit_is_repeated_with_the_same_request_id(server: FakeServer, client: JobClient) -> None:
    """A server that is away for a moment costs no submit, and no job is submitted twice."""
    server.answers["SubmitJob"] = in_turn(UNAVAILABLE, UNAVAILABLE, submitted)

    await client.submit("echo", {})

    ids = [request.request_id for request in server.requests["SubmitJob"]]
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert ids[0]


async def test_a_large_submit_is_repeated_too(server: FakeServer, client: JobClient) -> None:
    """The retry of a call is not lost because its message is long."""
    server.answers["SubmitJob"] = in_turn(UNAVAILABLE, submitted)

    await client.submit("echo", "x" * (2 * 1024 * 1024))

    assert len(server.requests["SubmitJob"]) == 2


async def test_each_submit_has_a_request_id_of_its_own(server: FakeServer, client: JobClient) -> None:
    """Two submits of the same content are two jobs."""
    server.answers["SubmitJob"] = submitted

    await client.submit("echo", {})
    await client.submit("echo", {})

    first, second = server.requests["SubmitJob"]
    assert first.request_id != second.request_id


async def test_a_server_that_stays_away_is_an_error(server: FakeServer, client: JobClient) -> None:
    """Repeating ends after some tries, with the server's own words."""
    server.answers["SubmitJob"] = in_turn(UNAVAILABLE)

    with pytest.raises(UnavailableError, match="draining"):
        await client.submit("echo", {})

    assert len(server.requests["SubmitJob"]) == 5


async def test_what_is_refused_is_not_repeated(server: FakeServer, client: JobClient) -> None:
    """An error that a repeat would not mend is told at once."""
    server.answers["SubmitJob"] = in_turn(
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "1,000 jobs wait", "QUEUE_FULL")
    )

    with pytest.raises(QueueFullError, match="1,000 jobs wait"):
        await client.submit("echo", {})

    assert len(server.requests["SubmitJob"]) == 1


@pytest.mark.parametrize("content", ['{"a": 1}', b'{"a": 1}'])
async def test_text_and_bytes_are_sent_as_they_are(
    server: FakeServer, client: JobClient, content: str | bytes
) -> None:
    """A JSON document that exists already is not touched."""
    server.answers["SubmitJob"] = submitted

    await client.submit("echo", content)

    assert server.requests["SubmitJob"][0].content == b'{"a": 1}'


async def test_content_too_large_is_refused_before_it_is_sent(server: FakeServer, client: JobClient) -> None:
    """Too large a job names the limit and a way out, and costs no call."""
    with pytest.raises(
        ContentTooLargeError, match=r"limit of 33,554,432; split the job.*max_content_bytes"
    ) as caught:
        await client.submit("echo", b"x" * (32 * 1024 * 1024 + 1))

    assert caught.value.metadata["limit_bytes"] == "33554432"
    assert not server.requests


async def test_a_server_with_another_limit_can_be_used(server: FakeServer) -> None:
    """Where the server takes less or more, the client can be told."""
    async with JobClient(server.address, user="ada", max_content_bytes=1_000) as client:
        with pytest.raises(ContentTooLargeError, match="limit of 1,000"):
            await client.submit("echo", b"x" * 1_001)


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ({"a": object()}, {}, "can't be written as JSON"),
        ({"a": float("nan")}, {}, "can't be written as JSON"),
        ({"a": "\ud800"}, {}, "not Unicode"),
        ({}, {"not_before": datetime(2030, 1, 1)}, "not_before has no time zone"),
        ({}, {"priority": 2**40}, "out of range"),
        ({}, {"labels": {"a": "\ud800"}}, "out of range"),
    ],
)
async def test_what_can_t_be_sent_is_refused(
    client: JobClient, content: Any, options: dict[str, Any], says: str
) -> None:
    """A value that has no place in a request is an error of this package, not of one beneath it."""
    with pytest.raises(InvalidArgumentError, match=says):
        await client.submit("echo", content, **options)


async def test_validate_stores_nothing(server: FakeServer, client: JobClient) -> None:
    """A check travels as a submit that only validates."""
    server.answers["SubmitJob"] = submitted

    await client.validate("echo", {}, labels={"a": "b"})

    [request] = server.requests["SubmitJob"]
    assert request.validate_only
    assert request.labels == {"a": "b"}


async def test_many_jobs_go_in_calls_of_a_thousand(server: FakeServer, client: JobClient) -> None:
    """A batch holds at most 1,000 jobs, and the answers keep the order."""
    server.answers["SubmitJobs"] = all_submitted

    answers = await client.submit_many("echo", [str(n) for n in range(2_001)])

    assert [len(request.requests) for request in server.requests["SubmitJobs"]] == [1000, 1000, 1]
    assert [answer.id for answer in answers if isinstance(answer, Job)] == [str(n) for n in range(2_001)]


async def test_many_jobs_go_in_calls_of_three_megabytes(server: FakeServer, client: JobClient) -> None:
    """A batch fits into what a server receives by default."""
    server.answers["SubmitJobs"] = all_submitted
    contents = [f"{n}{' ' * 1_000_000}" for n in range(7)]

    await client.submit_many("echo", contents)

    sizes = [request.ByteSize() for request in server.requests["SubmitJobs"]]
    assert [len(request.requests) for request in server.requests["SubmitJobs"]] == [3, 3, 1]
    assert max(sizes) < MAX_BATCH_BYTES


async def test_each_of_many_jobs_stands_for_itself(server: FakeServer, client: JobClient) -> None:
    """A job that is refused, here or by the server, does not touch the others."""

    def second_refused(request: pb.SubmitJobsRequest) -> pb.SubmitJobsResponse:
        response = all_submitted(request)
        error = job_pb2.JobError(code=8, reason="QUEUE_FULL", message="full", metadata={"limit": "7"})
        response.outcomes[1].error.CopyFrom(error)
        return response

    server.answers["SubmitJobs"] = second_refused

    too_much = "x" * (32 * 1024 * 1024 + 1)
    first, too_large, refused, last = await client.submit_many("echo", ["1", too_much, "2", "3"])

    assert isinstance(first, Job)
    assert isinstance(too_large, ContentTooLargeError)
    assert isinstance(refused, QueueFullError)
    assert refused.metadata == {"limit": "7"}
    assert isinstance(last, Job)
    assert last.id == "3"


async def test_many_jobs_can_be_repeated_as_a_whole(server: FakeServer, client: JobClient) -> None:
    """One request id for all becomes one for each job."""
    server.answers["SubmitJobs"] = all_submitted

    await client.submit_many("echo", ["1", "2"], request_id="run-7")

    [request] = server.requests["SubmitJobs"]
    assert [each.request_id for each in request.requests] == ["run-7-0", "run-7-1"]


async def test_many_jobs_raise_only_if_none_was_submitted(server: FakeServer, client: JobClient) -> None:
    """A later call that fails puts its error into the places of its jobs; the first raises."""
    denied = Refusal(grpc.StatusCode.PERMISSION_DENIED, "no")
    server.answers["SubmitJobs"] = in_turn(all_submitted, denied)

    answers = await client.submit_many("echo", ["1"] * 1_001)

    assert isinstance(answers[999], Job)
    assert isinstance(answers[1000], SpoolwayError)
    with pytest.raises(SpoolwayError, match="no"):
        await client.submit_many("echo", ["1"])


async def test_no_jobs_need_no_call(server: FakeServer, client: JobClient) -> None:
    """An empty list is submitted at once."""
    assert await client.submit_many("echo", []) == []
    assert not server.requests


async def test_a_closed_client_says_so(client: JobClient) -> None:
    """Using a client after its end is an error that tells why."""
    await client.close()

    with pytest.raises(SpoolwayError, match="this client is closed"):
        await client.submit("echo", {})


async def test_settings_are_checked_when_the_client_is_made() -> None:
    """A wrong setting is told at once, not at the first call."""
    with pytest.raises(SettingsError):
        JobClient("https://host")
