"""Contents and results too long for a message."""

import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from spoolway import ContentTooLargeError, DataLossError, Job, JobClient, RunningJob, UnavailableError
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import FakeServer, Refusal, events, in_turn, job, job_name, token
from tests.clients.spooling import at_work, make_spooler

MIB = 1024 * 1024
BROKEN = Refusal(grpc.StatusCode.UNKNOWN, "Stream removed")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Store:
    """Keeps what is uploaded; breaks off after `room` bytes, once for each number given."""

    def __init__(self, *room: int) -> None:
        self.content = bytearray()
        self.starts: list[Any] = []
        self._room = list(room)

    async def upload_content(self, requests: AsyncIterator[Any]) -> pb.UploadContentResponse:
        await self._take(requests)
        return pb.UploadContentResponse(upload=self.starts[-1].upload, size_bytes=len(self.content))

    async def upload_result(self, requests: AsyncIterator[Any]) -> pb.UploadResultResponse:
        await self._take(requests)
        return pb.UploadResultResponse(size_bytes=len(self.content))

    def get_upload(self, request: pb.GetUploadRequest) -> pb.GetUploadResponse:
        if not self.content:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "nothing", "UPLOAD_NOT_FOUND")
        return pb.GetUploadResponse(size_bytes=len(self.content))

    async def _take(self, requests: AsyncIterator[Any]) -> None:
        room = self._room.pop(0) if self._room else None
        async for request in requests:
            if request.HasField("start"):
                self.starts.append(request.start)
                assert request.start.offset <= len(self.content)
                del self.content[request.start.offset :]
                continue
            assert len(request.chunk) <= MIB
            if room is not None and len(self.content) + len(request.chunk) > room:
                raise BROKEN
            self.content += request.chunk


def pieces(content: bytes, response: Any, *break_at: int) -> Any:
    """A script for ReadResult and ReadContent; each number breaks one stream after so many bytes in all."""
    breaks = list(break_at)

    async def read(request: Any) -> AsyncIterator[Any]:
        return stream(request.offset)

    async def stream(offset: int) -> AsyncIterator[Any]:
        end = breaks.pop(0) if breaks else len(content)
        for begin in range(offset, end, MIB):
            yield response(chunk=content[begin : min(begin + MIB, end)])
        if end < len(content):
            raise BROKEN

    return read


def serve_uploads(server: FakeServer, store: Store) -> None:
    server.answers["UploadContent"] = store.upload_content
    server.answers["UploadResult"] = store.upload_result
    server.answers["GetUpload"] = store.get_upload
    server.answers["SubmitJob"] = lambda request: pb.SubmitJobResponse(job=job())


async def test_a_long_content_is_uploaded_before_the_submit(server: FakeServer, client: JobClient) -> None:
    """What does not fit into a message goes in pieces, and the submit names it."""
    store = Store()
    serve_uploads(server, store)
    content = b"[" + b"1," * (2 * MIB) + b"1]"

    handle = await client.submit("echo", content, labels={"a": "b"})

    [request] = server.requests["SubmitJob"]
    assert handle.id == "1"
    assert bytes(store.content) == content
    assert (store.starts[0].backend, store.starts[0].offset) == ("echo", 0)
    assert request.content == b""
    assert request.content_upload == pb.Upload(
        upload=store.starts[0].upload, size_bytes=len(content), sha256=sha256(content)
    )
    assert (request.labels, bool(request.request_id)) == ({"a": "b"}, True)


async def test_a_broken_upload_goes_on_where_it_stopped(server: FakeServer, client: JobClient) -> None:
    """Each break costs only what had not arrived."""
    store = Store(0, 2 * MIB, 2 * MIB, 4 * MIB)
    serve_uploads(server, store)
    content = bytes(5 * MIB)

    await client.submit("echo", content)

    assert bytes(store.content) == content
    assert [start.offset for start in store.starts] == [0, 0, 2 * MIB, 2 * MIB, 4 * MIB]
    assert len({start.upload for start in store.starts}) == 1


async def test_an_upload_that_never_moves_is_given_up(server: FakeServer, client: JobClient) -> None:
    """A server that breaks every upload is an error, not a wait without end."""
    server.answers["UploadContent"] = in_turn(Refusal(grpc.StatusCode.UNAVAILABLE, "storage down"))
    server.answers["GetUpload"] = in_turn(Refusal(grpc.StatusCode.NOT_FOUND))

    with pytest.raises(UnavailableError, match="storage down"):
        await client.submit("echo", bytes(3 * MIB))

    assert len(server.requests["UploadContent"]) == 5


async def test_an_upload_that_is_refused_is_told_at_once(server: FakeServer, client: JobClient) -> None:
    """A server with a smaller limit says so, and is not asked on and on."""
    server.answers["GetUpload"] = in_turn(
        Refusal(grpc.StatusCode.NOT_FOUND, "no such upload", "UPLOAD_NOT_FOUND")
    )
    server.answers["UploadContent"] = in_turn(
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "at most 1 MiB", "UPLOAD_TOO_LARGE")
    )

    with pytest.raises(ContentTooLargeError, match="at most 1 MiB"):
        await client.submit("echo", bytes(3 * MIB))

    # gRPC may report the piece that could no longer be sent (INTERNAL) instead of the refusal that had come:
    # the client then asks where the upload stands, and meets the refusal at its next try.
    assert len(server.requests["UploadContent"]) <= 2


async def test_long_contents_may_be_among_many(server: FakeServer, client: JobClient) -> None:
    """A batch may hold jobs of any length."""
    serve_uploads(server, Store())
    server.answers["SubmitJobs"] = lambda request: pb.SubmitJobsResponse(
        outcomes=[pb.SubmitOutcome(job=job(str(n))) for n in range(len(request.requests))]
    )

    answers = await client.submit_many("echo", ["[]", bytes(3 * MIB), "[]"])

    [request] = server.requests["SubmitJobs"]
    assert all(isinstance(answer, Job) for answer in answers)
    assert [each.content_upload.size_bytes for each in request.requests] == [0, 3 * MIB, 0]


@pytest.mark.parametrize("told", [True, False])
async def test_a_long_result_is_read_in_pieces(server: FakeServer, client: JobClient, told: bool) -> None:
    """A long result comes whole, over breaks, whether its length was known or the server had to say."""
    result = b"[" + b"1," * (2 * MIB if told else MIB // 2) + b"1]"
    done = job(state="DONE", result_bytes=len(result), result_sha256=sha256(result))
    server.answers["WatchJobs"] = lambda request: events(pb.WatchJobsResponse(jobs=[done]), hang=True)
    server.answers["GetResult"] = in_turn(
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "read it", "RESULT_TOO_LARGE")
    )
    server.answers["ReadResult"] = pieces(result, pb.ReadResultResponse, 1000, MIB)

    assert await client.job(job_name("1")).result_bytes() == result
    assert [request.offset for request in server.requests["ReadResult"]] == [0, 1000, MIB]


async def test_a_long_result_is_in_memory_once(server: FakeServer, client: JobClient) -> None:
    """Fetching a result takes little more memory than it has bytes."""
    result = bytes(48 * MIB)
    done = job(state="DONE", result_bytes=len(result), result_sha256=sha256(result))
    server.answers["WatchJobs"] = lambda request: events(pb.WatchJobsResponse(jobs=[done]), hang=True)
    server.answers["ReadResult"] = pieces(result, pb.ReadResultResponse)

    tracemalloc.start()
    try:
        fetched = await client.job(job_name("1")).result_bytes()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert fetched == result
    assert peak < 1.5 * len(result)


async def test_a_long_result_that_is_damaged_is_an_error(server: FakeServer, client: JobClient) -> None:
    """What was read is checked against what was stored."""
    done = job(state="DONE", result_bytes=3 * MIB, result_sha256="0" * 64)
    server.answers["WatchJobs"] = lambda request: events(pb.WatchJobsResponse(jobs=[done]), hang=True)
    server.answers["ReadResult"] = pieces(bytes(3 * MIB), pb.ReadResultResponse)

    with pytest.raises(DataLossError, match="damaged"):
        await client.job(job_name("1")).result_bytes()


async def test_a_long_result_that_ends_early_is_an_error(server: FakeServer, client: JobClient) -> None:
    """A stream that ends well before all has come is not taken for the result."""
    done = job(state="DONE", result_bytes=3 * MIB, result_sha256="0" * 64)
    server.answers["WatchJobs"] = lambda request: events(pb.WatchJobsResponse(jobs=[done]), hang=True)
    server.answers["ReadResult"] = pieces(b"1", pb.ReadResultResponse)

    with pytest.raises(DataLossError, match="1 of 3,145,728 bytes"):
        await client.job(job_name("1")).result_bytes()


async def test_a_spooler_fetches_a_content_that_was_left_out(server: FakeServer) -> None:
    """A job too long for its assignment is fetched before its function starts."""
    content = b"[" + b"1," * MIB + b"1]"
    server.answers["ReadContent"] = pieces(content, pb.ReadContentResponse, 10)

    def run(running: RunningJob) -> int:
        return len(running.content)

    async with at_work(make_spooler(server, run)):
        stream = await server.next_stream()
        stream.assign("1", content=b"", content_bytes=len(content))
        stream.confirm(await stream.receive("accept"))
        complete = await stream.receive("complete")

    assert complete.complete.result == b"1048577"
    requests = server.requests["ReadContent"]
    assert [(each.job, each.lease_token, each.offset) for each in requests] == [
        (job_name("1"), token("1"), 0),
        (job_name("1"), token("1"), 10),
    ]


async def test_a_content_that_can_t_be_fetched_fails_its_job(server: FakeServer) -> None:
    """A content that is gone is told to the owner."""
    server.answers["ReadContent"] = in_turn(Refusal(grpc.StatusCode.DATA_LOSS, "it is gone"))
    async with at_work(make_spooler(server, len)):  # type: ignore[arg-type] # never called
        stream = await server.next_stream()
        stream.assign("1", content=b"", content_bytes=10)
        stream.confirm(await stream.receive("accept"))
        fail = await stream.receive("fail")

    assert "The content can't be fetched" in fail.fail.message
    assert "it is gone" in fail.fail.message


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_spooler_uploads_a_long_result(server: FakeServer, kind: str) -> None:
    """A result that does not fit into a message goes in pieces, and the completion names it."""
    store = Store(MIB)
    serve_uploads(server, store)
    result = "[" + "1," * MIB + "1]"

    async def asynchronous(running: RunningJob) -> str:
        return result

    run = (lambda running: result) if kind == "plain" else asynchronous
    async with at_work(make_spooler(server, run)):
        stream = await server.next_stream(max_inline_bytes=1_000)
        await stream.accept("1")
        complete = await stream.receive("complete")

    assert bytes(store.content) == result.encode()
    assert (store.starts[0].job, store.starts[0].lease_token) == (job_name("1"), token("1"))
    assert complete.complete == pb.Complete(
        upload=pb.Upload(size_bytes=len(result), sha256=sha256(result.encode()))
    )


async def test_a_result_too_long_for_the_server_fails_its_job(server: FakeServer) -> None:
    """A result over the server's limit is told to the owner."""
    server.answers["UploadResult"] = in_turn(
        Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "at most 1 GiB", "UPLOAD_TOO_LARGE")
    )
    async with at_work(make_spooler(server, lambda running: "x" * 2_000)):
        stream = await server.next_stream(max_inline_bytes=1_000)
        await stream.accept("1")
        fail = await stream.receive("fail")

    assert "The result can't be uploaded: at most 1 GiB" in fail.fail.message


async def test_a_long_result_is_delivered_by_unary_call_too(server: FakeServer) -> None:
    """While the stream is down a long result is uploaded and named all the same."""
    store = Store()
    serve_uploads(server, store)
    server.answers["CompleteJob"] = in_turn(pb.CompleteJobResponse(job=job(state="DONE")))

    async def run(running: RunningJob) -> str:
        server.refused_streams = [Refusal(grpc.StatusCode.UNAVAILABLE)] * 1000
        stream.close()
        return "x" * 2_000

    async with at_work(make_spooler(server, run)):
        stream = await server.next_stream(max_inline_bytes=1_000)
        await stream.accept("1")
        [complete] = await server.called("CompleteJob")

    assert complete.result == b""
    assert complete.upload == pb.Upload(size_bytes=2_000, sha256=sha256(b"x" * 2_000))
