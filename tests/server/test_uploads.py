"""Large contents and results (UploadContent, UploadResult, GetUpload, ReadContent, ReadResult)."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable

import grpc
import pytest

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller
from tests.server.refusals import refusal

MIB = 1 << 20
LARGE = json.dumps({"numbers": list(range(600_000))}).encode()
"""4 MB: above the inline limit, and above what an assignment carries."""


async def content_parts(
    pieces: Iterable[bytes], *, upload: str = "", offset: int = 0
) -> AsyncIterator[pb.UploadContentRequest]:
    yield pb.UploadContentRequest(start=pb.UploadContentStart(backend="sim", upload=upload, offset=offset))
    for piece in pieces:
        yield pb.UploadContentRequest(chunk=piece)


async def result_parts(
    job: pb.Assignment, pieces: Iterable[bytes], *, offset: int = 0
) -> AsyncIterator[pb.UploadResultRequest]:
    yield pb.UploadResultRequest(
        start=pb.UploadResultStart(job=job.job, lease_token=job.lease_token, offset=offset)
    )
    for piece in pieces:
        yield pb.UploadResultRequest(chunk=piece)


def pieces_of(data: bytes, size: int = MIB) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def upload_of(data: bytes, upload: str = "") -> pb.Upload:
    return pb.Upload(upload=upload, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


async def submit_large(caller: Caller, data: bytes = LARGE, request_id: str = "") -> job_pb2.Job:
    stored = await caller.UploadContent(content_parts(pieces_of(data)))
    request = pb.SubmitJobRequest(
        backend="sim", content_upload=upload_of(data, stored.upload), request_id=request_id
    )
    return (await caller.SubmitJob(request)).job


async def test_large_content_reaches_the_spooler(alice: Caller, spooler: FakeSpooler) -> None:
    """A content above the inline limit is uploaded, submitted, and read by its spooler."""
    job = await submit_large(alice)
    assignment = await spooler.assignment()

    assert job.content_bytes == assignment.content_bytes == len(LARGE)
    assert assignment.content == b""
    request = pb.ReadContentRequest(job=assignment.job, lease_token=assignment.lease_token)
    read = [part.chunk async for part in spooler.calls.ReadContent(request)]
    assert b"".join(read) == LARGE


async def test_upload_goes_on_where_it_broke_off(alice: Caller) -> None:
    """GetUpload tells how much is stored; going on from there, and repeating some, makes the whole."""
    first = await alice.UploadContent(content_parts([LARGE[:MIB]]))
    size = (await alice.GetUpload(pb.GetUploadRequest(upload=first.upload, backend="sim"))).size_bytes
    rest = content_parts(pieces_of(LARGE[size - 100 :]), upload=first.upload, offset=size - 100)
    last = await alice.UploadContent(rest)

    assert size == first.size_bytes == MIB
    assert last.size_bytes == len(LARGE)
    request = pb.SubmitJobRequest(backend="sim", content_upload=upload_of(LARGE, first.upload))
    assert (await alice.SubmitJob(request)).job.content_bytes == len(LARGE)


async def test_submit_of_an_upload_can_be_repeated(alice: Caller) -> None:
    """With its request id, a submit that has used up its upload is answered by the same job."""
    stored = await alice.UploadContent(content_parts(pieces_of(LARGE)))
    request = pb.SubmitJobRequest(
        backend="sim", content_upload=upload_of(LARGE, stored.upload), request_id="r-1"
    )

    first, second = await alice.SubmitJob(request), await alice.SubmitJob(request)

    assert first.job.name == second.job.name


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"size_bytes": 5}, grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE"),
        ({"sha256": "0" * 64}, grpc.StatusCode.DATA_LOSS, "UPLOAD_CHECKSUM"),
        ({"upload": "0" * 32}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ({"upload": "../x"}, grpc.StatusCode.INVALID_ARGUMENT, "LEASE_TOKEN_INVALID"),
        ({"size_bytes": 0}, grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_INVALID"),
        ({"size_bytes": 1 << 40}, grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE"),
    ],
)
async def test_wrong_upload_is_refused(
    alice: Caller, change: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    """A submit that names an upload wrongly has its own reason, and stores nothing."""
    data = b'{"small": true}'
    stored = await alice.UploadContent(content_parts([data]))
    named = upload_of(data, stored.upload)
    for field, value in change.items():
        setattr(named, field, value)

    refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content_upload=named)))

    assert (refused.code, refused.reason) == (code, reason)
    assert not (await alice.ListJobs(pb.ListJobsRequest())).jobs


async def test_uploaded_content_is_checked_like_an_inline_one(alice: Caller) -> None:
    """What is uploaded must be JSON too."""
    data = b"[" * 100_000
    refused = await refusal(submit_large(alice, data))

    assert refused.reason == "DOCUMENT_TOO_DEEP"


async def test_upload_of_another_can_not_be_named(alice: Caller, bob: Caller) -> None:
    """An upload belongs to who made it."""
    stored = await alice.UploadContent(content_parts([b"{}"]))
    request = pb.SubmitJobRequest(backend="sim", content_upload=upload_of(b"{}", stored.upload))

    assert (await refusal(bob.SubmitJob(request))).code is grpc.StatusCode.NOT_FOUND
    assert (await alice.SubmitJob(request)).job.name


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([pb.UploadContentRequest(chunk=b"x")], "UPLOAD_START_MISSING"),
        ([], "UPLOAD_START_MISSING"),
        ([pb.UploadContentRequest(start=pb.UploadContentStart(backend="sim"))] * 2, "UPLOAD_START_REPEATED"),
        (
            [pb.UploadContentRequest(start=pb.UploadContentStart(backend="sim", offset=7))],
            "UPLOAD_GAP",
        ),
        (
            [pb.UploadContentRequest(start=pb.UploadContentStart(backend="sim", offset=-1))],
            "OFFSET_INVALID",
        ),
        (
            [
                pb.UploadContentRequest(start=pb.UploadContentStart(backend="sim")),
                pb.UploadContentRequest(chunk=b"x" * (MIB + 1)),
            ],
            "CHUNK_TOO_LARGE",
        ),
    ],
)
async def test_wrong_parts_are_refused(
    alice: Caller, parts: list[pb.UploadContentRequest], reason: str
) -> None:
    """Each mistake in the messages of an upload has a reason of its own."""

    async def send() -> AsyncIterator[pb.UploadContentRequest]:
        for part in parts:
            yield part

    assert (await refusal(alice.UploadContent(send()))).reason == reason


async def test_large_result_travels_in_pieces(alice: Caller, spooler: FakeSpooler) -> None:
    """A result is uploaded in two goes, completed by its SHA-256, and read back from any offset."""
    job = await alice.submit()
    taken = await spooler.take()
    calls = spooler.calls
    await calls.UploadResult(result_parts(taken, [LARGE[:MIB]]))
    request = pb.GetUploadRequest(job=taken.job, lease_token=taken.lease_token)
    size = (await calls.GetUpload(request)).size_bytes
    await calls.UploadResult(result_parts(taken, pieces_of(LARGE[size:]), offset=size))
    complete = pb.CompleteJobRequest(job=taken.job, lease_token=taken.lease_token, upload=upload_of(LARGE))

    ends = [(await calls.CompleteJob(complete)).job for _ in range(2)]

    assert [end.state for end in ends] == [job_pb2.JOB_STATE_DONE] * 2
    assert ends[0].result_sha256 == upload_of(LARGE).sha256
    assert (await refusal(alice.GetResult(pb.GetResultRequest(name=job.name)))).reason == "RESULT_TOO_LARGE"
    read = [part.chunk async for part in alice.ReadResult(pb.ReadResultRequest(name=job.name))]
    assert b"".join(read) == LARGE
    tail = alice.ReadResult(pb.ReadResultRequest(name=job.name, offset=len(LARGE) - 3))
    assert b"".join([part.chunk async for part in tail]) == LARGE[-3:]
    beyond = alice.ReadResult(pb.ReadResultRequest(name=job.name, offset=len(LARGE) + 1))
    assert (await refusal(beyond.read())).code is grpc.StatusCode.OUT_OF_RANGE


async def test_large_result_completes_on_the_stream(alice: Caller, spooler: FakeSpooler) -> None:
    """A completion on the stream may name an upload too."""
    job = await alice.submit()
    taken = await spooler.take()
    await spooler.calls.UploadResult(result_parts(taken, pieces_of(LARGE)))

    confirm = await spooler.report(taken, complete=pb.Complete(upload=upload_of(LARGE)))

    assert confirm.result_sha256 == upload_of(LARGE).sha256
    assert (await alice.job(job.name)).result_bytes == len(LARGE)


async def test_staged_result_is_seen_by_nobody(alice: Caller, spooler: FakeSpooler) -> None:
    """Until the completion is committed there is no result; one that names it wrongly is refused."""
    job = await alice.submit()
    taken = await spooler.take()
    await spooler.calls.UploadResult(result_parts(taken, [b"{}"]))

    refused = await refusal(alice.ReadResult(pb.ReadResultRequest(name=job.name)).read())

    assert refused.reason == "RESULT_NOT_READY"
    wrong = pb.CompleteJobRequest(job=taken.job, lease_token=taken.lease_token, upload=upload_of(b"[]"))
    assert (await refusal(spooler.calls.CompleteJob(wrong))).reason == "UPLOAD_CHECKSUM"


async def test_result_is_uploaded_with_a_lease_only(alice: Caller, spooler: FakeSpooler) -> None:
    """A token that the job never had uploads nothing."""
    taken = await spooler_job(alice, spooler)
    stranger = pb.Assignment(job=taken.job, lease_token="0" * 32)

    refused = await refusal(spooler.calls.UploadResult(result_parts(stranger, [b"{}"])))

    assert refused.reason == "LEASE_SUPERSEDED"


async def spooler_job(alice: Caller, spooler: FakeSpooler) -> pb.Assignment:
    await alice.submit()
    return await spooler.take()
