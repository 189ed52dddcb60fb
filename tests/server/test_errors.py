"""Every exception becomes one status with details, in one place."""

from datetime import timedelta

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import errors as provider_errors
from spoolway_server import errors
from spoolway_server.errors import ServiceError, from_provider_error
from tests.server.lab import Lab
from tests.server.refusals import refusal

CLASSES = [getattr(provider_errors, name) for name in provider_errors.__all__]
ARGUMENTS = {"QueueFull": ("full", 5), "TooLarge": ("large", 7)}


def make(kind: type[provider_errors.ProviderError]) -> provider_errors.ProviderError:
    return kind(*ARGUMENTS.get(kind.__name__, ("what is wrong",)))


def details_of(error: ServiceError) -> list[str]:
    ((key, packed),) = error.trailer()
    assert key == "grpc-status-details-bin"
    return [detail.TypeName() for detail in status_pb2.Status.FromString(packed).details]


def test_every_error_of_a_provider_has_a_status() -> None:
    """The table has every class of the providers' tree, and no two share a reason."""
    reasons = [reason for _, reason in errors._TABLE.values()]

    assert set(errors._TABLE) == set(CLASSES)
    assert len(set(reasons)) == len(reasons)
    assert all(code is not grpc.StatusCode.UNKNOWN for code, _ in errors._TABLE.values())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_of_a_provider_keeps_its_words(kind: type[provider_errors.ProviderError]) -> None:
    """Message and facts go to the client; UNAVAILABLE always says when to try again."""
    error = from_provider_error(make(kind))

    assert error.message == str(make(kind))
    assert (error.code is grpc.StatusCode.UNAVAILABLE) <= ("google.rpc.RetryInfo" in details_of(error))
    assert details_of(error)[0] == "google.rpc.ErrorInfo"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[Errno 20] Not a directory: '/srv/lab/jobs'", "[Errno 20] Not a directory: 'a file'"),
        ("the path /srv/lab.sqlite can't be used: full", "the path a file can't be used: full"),
        ("backends/sim/jobs/1 and 1/2 and a/b stay", "backends/sim/jobs/1 and 1/2 and a/b stay"),
    ],
)
def test_a_path_is_not_told(said: str, told: str) -> None:
    """Where the server keeps its files is nobody's business but its operators'."""
    assert from_provider_error(provider_errors.Unavailable(said)).message == told


def test_the_facts_of_an_error_go_to_the_client() -> None:
    """Limits, the owner's address and how long to wait are told to programs too."""
    assert from_provider_error(provider_errors.QueueFull("full", 5)).metadata == {"limit": "5"}
    assert from_provider_error(provider_errors.TooLarge("large", 7)).metadata == {"limit": "7"}
    assert from_provider_error(provider_errors.NotOwner("host:1")).metadata == {"address": "host:1"}
    down = provider_errors.Unavailable("down", timedelta(seconds=9))
    assert from_provider_error(down).retry_after == timedelta(seconds=9)


def test_the_error_of_a_plug_in_means_what_its_parent_means() -> None:
    """A subclass of a provider's error has the parent's status."""

    class Throttled(provider_errors.Unavailable):
        pass

    error = from_provider_error(Throttled("slow down"))

    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


def test_unavailable_always_says_when_to_try_again() -> None:
    """An UNAVAILABLE of the server's own has RetryInfo, whoever made it."""
    error = ServiceError(grpc.StatusCode.UNAVAILABLE, "BUSY", "come back")

    assert "google.rpc.RetryInfo" in details_of(error)


def test_a_field_at_fault_becomes_a_bad_request() -> None:
    """BadRequest names the field, the description and the reason."""
    error = ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "WRONG", "it is wrong", field="labels")

    ((_, packed),) = error.trailer()
    bad = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(packed).details[1].Unpack(bad)
    (violation,) = bad.field_violations
    assert (violation.field, violation.description, violation.reason) == ("labels", "it is wrong", "WRONG")


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize("rpc", ["GetJob", "WatchJobs"])
async def test_a_fault_of_the_server_is_internal_and_tells_no_secret(lab: Lab, rpc: str) -> None:
    """An unexpected exception is INTERNAL with an incident that the log has, without its text."""
    alice = lab.caller()
    job = await alice.submit()
    fault = RuntimeError("secret in /etc/spoolway at line 7")

    with structlog.testing.capture_logs() as logs, lab.faults().failing(fault, "get", "find"):
        if rpc == "GetJob":
            refused = await refusal(alice.GetJob(pb.GetJobRequest(name=job.name)))
        else:
            refused = await refusal(alice.WatchJobs(pb.WatchJobsRequest()).read())

    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in refused.message
    assert "Traceback" not in refused.message
    (entry,) = [entry for entry in logs if entry["event"] == "call failed"]
    assert refused.metadata == {"incident": entry["incident"]}
    assert entry["exc_info"] is fault
    assert entry["incident"] in refused.message
    assert await alice.job(job.name) == job


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize(
    "method", ["/spoolway.v1.JobService/Nothing", "/spoolway.v1.Nobody/GetJob", "/spoolway.v1.JobService/"]
)
async def test_an_unknown_call_is_unimplemented(lab: Lab, method: str) -> None:
    """What no service has is gRPC's UNIMPLEMENTED."""
    call = lab.channel.unary_unary(method, request_serializer=None, response_deserializer=None)

    refused = await refusal(call(b"", metadata=(("spoolway-user", "alice"),)))

    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
