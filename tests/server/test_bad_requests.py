"""Requests that ask for too much, or for nothing that can be had."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab
from tests.server.refusals import refusal

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
JOB = f"backends/sim/jobs/{'0' * 24}"
TOKEN = "0" * 32
NO_DURATIONS = [
    Duration(seconds=2**62),
    Duration(seconds=-(2**62)),
    Duration(seconds=1, nanos=10**9),
    Duration(seconds=1, nanos=-1),
    Duration(nanos=-(2**31)),
]
NO_TOKENS = ["x", "!!!", "ä", "AAAA", "e30", "W10=", "bnVsbA==", "eyJhIjoxfQ==", "A" * 10_000, "../x"]


@pytest.mark.parametrize(
    ("rpc", "request_", "reason", "field"),
    [
        ("ListJobs", pb.ListJobsRequest(page_size=-1), "PAGE_SIZE_INVALID", "page_size"),
        ("ListStorages", admin_pb.ListStoragesRequest(page_size=-1), "PAGE_SIZE_INVALID", "page_size"),
        ("ListJobs", pb.ListJobsRequest(states=[job_pb2.JOB_STATE_UNSPECIFIED]), "STATE_INVALID", "states"),
        ("ListJobs", pb.ListJobsRequest(states=[77]), "STATE_INVALID", "states"),
        (
            "NextJob",
            pb.NextJobRequest(spooler_id="s", instance_id="i"),
            "BACKENDS_INVALID",
            "backends",
        ),
        (
            "NextJob",
            pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"] * 257),
            "BACKENDS_INVALID",
            "backends",
        ),
        (
            "ExtendLeases",
            pb.ExtendLeasesRequest(
                session=TOKEN, leases=[pb.ExtendedLease(job=JOB, lease_token=TOKEN)] * 1001
            ),
            "TOO_MANY_LEASES",
            "leases",
        ),
        (
            "CompleteJob",
            pb.CompleteJobRequest(job=JOB, lease_token=TOKEN, result=b"nothing"),
            "DOCUMENT_NOT_JSON",
            "result",
        ),
        (
            "CompleteJob",
            pb.CompleteJobRequest(job=JOB, lease_token=TOKEN),
            "DOCUMENT_EMPTY",
            "result",
        ),
        (
            "FailJob",
            pb.FailJobRequest(
                job=JOB, lease_token=TOKEN, fail=pb.Fail(retry_after=Duration(seconds=8 * 86400))
            ),
            "RETRY_AFTER_INVALID",
            "fail.retry_after",
        ),
        (
            "FailJob",
            pb.FailJobRequest(job=JOB, lease_token=TOKEN, fail=pb.Fail(retry_after=Duration(seconds=-1))),
            "RETRY_AFTER_INVALID",
            "fail.retry_after",
        ),
        ("GetBackend", pb.GetBackendRequest(name="nowhere"), "BACKEND_NOT_FOUND", "name"),
        ("GetStorage", admin_pb.GetStorageRequest(name="nowhere"), "STORAGE_NOT_FOUND", "name"),
        ("TestStorage", admin_pb.TestStorageRequest(name="nowhere"), "STORAGE_NOT_FOUND", "name"),
        (
            "RegisterBackend",
            pb.RegisterBackendRequest(backend="new", config=b"{}", storage="nowhere"),
            "STORAGE_NOT_FOUND",
            "storage",
        ),
        ("ListJobs", pb.ListJobsRequest(backend="nowhere"), "BACKEND_NOT_FOUND", "backend"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_out_of_bounds_is_refused_with_its_field(
    lab: Lab, rpc: str, request_: Any, reason: str, field: str
) -> None:
    """What is out of bounds is refused with a reason of its own and the field at fault."""
    refused = await refusal(getattr(lab.caller(), rpc)(request_))

    code = grpc.StatusCode.NOT_FOUND if reason.endswith("NOT_FOUND") else INVALID
    assert (refused.code, refused.reason, refused.fields) == (code, reason, (field,))


@pytest.mark.parametrize("token", [*NO_TOKENS, "eyJ4IjoieSJ9"])
async def test_a_token_that_is_none_is_refused(lab: Lab, token: str) -> None:
    """Page and resume tokens that this server did not make are INVALID_ARGUMENT."""
    alice = lab.caller()

    pages = await refusal(alice.ListJobs(pb.ListJobsRequest(page_token=token)))
    storages = await refusal(alice.ListStorages(admin_pb.ListStoragesRequest(page_token=token)))

    for refused, field in ((pages, "page_token"), (storages, "page_token")):
        assert (refused.code, refused.reason, refused.fields) == (INVALID, "TOKEN_INVALID", (field,))


@pytest.mark.parametrize("token", NO_TOKENS)
async def test_a_resume_token_that_is_none_is_refused(lab: Lab, token: str) -> None:
    """A resume token that this server did not make is INVALID_ARGUMENT."""
    refused = await refusal(lab.caller().WatchJobs(pb.WatchJobsRequest(resume_token=token)).read())

    assert (refused.code, refused.reason, refused.fields) == (INVALID, "TOKEN_INVALID", ("resume_token",))


async def test_a_page_token_belongs_to_its_filter(lab: Lab, alice: Caller, bob: Caller) -> None:
    """A page token with another filter, or of another user, is refused; the page's size may change."""
    for _ in range(3):
        await alice.submit()
    page = await alice.ListJobs(pb.ListJobsRequest(page_size=1))
    token = page.next_page_token

    for other in (
        pb.ListJobsRequest(backend="sim", page_token=token),
        pb.ListJobsRequest(states=[job_pb2.JOB_STATE_QUEUED], page_token=token),
        pb.ListJobsRequest(labels={"a": "b"}, page_token=token),
        pb.ListJobsRequest(oldest_first=True, page_token=token),
    ):
        refused = await refusal(alice.ListJobs(other))
        assert (refused.code, refused.reason) == (INVALID, "TOKEN_INVALID")
    assert (await refusal(bob.ListJobs(pb.ListJobsRequest(page_token=token)))).reason == "TOKEN_INVALID"

    rest = await alice.ListJobs(pb.ListJobsRequest(page_size=1000, page_token=token))
    assert len(rest.jobs) == 2


@pytest.mark.parametrize("length", NO_DURATIONS, ids=str)
async def test_a_duration_that_is_none_is_refused(lab: Lab, alice: Caller, length: Duration) -> None:
    """A wait of no valid length is INVALID_ARGUMENT."""
    job = await alice.submit()
    next_job = pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"], wait_timeout=length)

    waited = await refusal(alice.WaitJob(pb.WaitJobRequest(name=job.name, timeout=length)))
    next_one = await refusal(alice.NextJob(next_job))

    assert (waited.code, waited.reason, waited.fields) == (INVALID, "DURATION_INVALID", ("timeout",))
    assert (next_one.code, next_one.reason, next_one.fields) == (
        INVALID,
        "DURATION_INVALID",
        ("wait_timeout",),
    )


async def test_a_negative_wait_is_none_at_all(lab: Lab, alice: Caller) -> None:
    """Who waits less than nothing is answered at once."""
    job = await alice.submit()

    waited = await alice.WaitJob(
        pb.WaitJobRequest(name=job.name, etag=job.etag, timeout=Duration(seconds=-1)), timeout=5
    )

    assert waited.job == job


async def test_too_many_names_are_refused(lab: Lab) -> None:
    """A watch of more than 1,000 names is refused before any is looked up."""
    names = [f"backends/sim/jobs/{i:024x}" for i in range(1001)]

    refused = await refusal(lab.caller().WatchJobs(pb.WatchJobsRequest(names=names)).read())

    assert (refused.code, refused.reason, refused.fields) == (INVALID, "TOO_MANY_NAMES", ("names",))


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"complete": pb.Complete(result=b"[" * 200 + b"]" * 200)}, "DOCUMENT_TOO_DEEP"),
        ({"complete": pb.Complete(result=b"NaN")}, "DOCUMENT_NOT_FINITE"),
        ({"complete": pb.Complete()}, "DOCUMENT_EMPTY"),
        ({"complete": pb.Complete(result=b'"' + b"a" * 3_000_000 + b'"')}, "CONTENT_TOO_LARGE"),
        ({"progress": pb.Progress(fraction=1.5)}, "FRACTION_INVALID"),
        ({"progress": pb.Progress(fraction=float("nan"))}, "FRACTION_INVALID"),
        ({"fail": pb.Fail(retry_after=Duration(seconds=2**62))}, "RETRY_AFTER_INVALID"),
        ({}, "MESSAGE_EMPTY"),
        ({"cancelled": pb.Cancelled()}, "WRONG_STATE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_report_is_refused_alone(
    alice: Caller, spooler: FakeSpooler, update: dict[str, Any], reason: str
) -> None:
    """A bad report is refused in its confirmation; the job goes on and can be completed."""
    job = await alice.submit()
    one = await spooler.take()

    confirm = await spooler.report(one, **update)

    assert confirm.error.reason == reason
    assert not (await spooler.complete(one)).HasField("error")
    assert (await alice.job(job.name)).state == job_pb2.JOB_STATE_DONE


async def test_progress_that_is_too_long_is_cut(alice: Caller, spooler: FakeSpooler) -> None:
    """Stage and detail are cut to their lengths, a failure's message too."""
    job = await alice.submit()
    one = await spooler.take()

    await spooler.report(one, progress=pb.Progress(stage="ä" * 200, fraction=0.5, detail="d" * 2000))
    running = await alice.job(job.name)
    await spooler.fail(one, "m" * 20_000)

    assert running.stage == "ä" * 100
    assert running.fraction == 0.5
    assert len((await alice.job(job.name)).error.message) == 10_000
