"""From a gRPC status to the package's own errors."""

import pickle
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

import spoolway
from spoolway import (
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    JobClient,
    NotFoundError,
    RequestIdReusedError,
    SpoolwayError,
    UnavailableError,
)
from spoolway import errors as module
from spoolway.errors import CLASS_OF_REASON, CLASS_OF_STATUS, error_from_item, error_from_rpc
from tests.clients.fake_server import FakeServer, Refusal, retry_info

STATUSES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]


def all_classes(root: type[SpoolwayError] = SpoolwayError) -> set[type[SpoolwayError]]:
    return {root}.union(*(all_classes(child) for child in root.__subclasses__()))


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_has_a_class(status: grpc.StatusCode) -> None:
    """No status reaches a user as a gRPC error."""
    error = error_from_rpc(aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), "why"), "host:1")

    assert type(error) is CLASS_OF_STATUS[status]
    assert "host:1: why" in error.message


def test_each_class_is_reached_by_a_status_a_reason_or_the_client_itself() -> None:
    """No class is dead."""
    reached = set(CLASS_OF_STATUS.values()) | set(CLASS_OF_REASON.values())
    made_here = {SpoolwayError, spoolway.SettingsError, spoolway.JobEndedError, spoolway.VerificationError}

    assert all_classes() == reached | made_here


def test_each_class_is_public_and_documented() -> None:
    """Each class can be caught by its name from the package, and its docstring tells what to do."""
    for error_class in all_classes():
        assert getattr(spoolway, error_class.__name__) is error_class
        assert error_class.__name__ in spoolway.__all__
        assert error_class.__name__ in (module.__doc__ or "")
        assert error_class.__doc__


def test_a_reason_never_hides_its_status() -> None:
    """A reason that comes with another status than agreed does not change the class."""
    for reason in CLASS_OF_REASON:
        assert type(error_from_item(5, "gone", reason)) is NotFoundError


@pytest.mark.parametrize("reason", sorted(CLASS_OF_REASON))
def test_a_reason_is_narrower_than_its_status(reason: str) -> None:
    """Who catches by status also catches what has a reason of its own."""
    narrow = CLASS_OF_REASON[reason]
    by_status = [wide for wide in CLASS_OF_STATUS.values() if issubclass(narrow, wide)]

    assert len(by_status) == 1


async def test_details_of_the_trailer_are_read(server: FakeServer, client: JobClient) -> None:
    """Reason, metadata and wrong fields of the server's status arrive with the error."""
    bad = error_details_pb2.BadRequest(
        field_violations=[error_details_pb2.BadRequest.FieldViolation(field="labels", description="too many")]
    )
    server.answers["GetJob"] = lambda request: _raise(
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "at most 7 labels", "TOO_MANY_LABELS", bad)
    )

    with pytest.raises(InvalidArgumentError) as caught:
        await client.job("1").status()

    assert caught.value.message == "at most 7 labels"
    assert caught.value.reason == "TOO_MANY_LABELS"
    assert caught.value.metadata == {"limit": "7"}
    assert caught.value.violations == (FieldViolation("labels", "too many"),)
    assert str(caught.value) == "at most 7 labels [TOO_MANY_LABELS]"


async def test_retry_info_is_read(server: FakeServer, client: JobClient) -> None:
    """The server's advice how long to wait arrives with the error."""
    server.answers["GetJob"] = lambda request: _raise(
        Refusal(grpc.StatusCode.ABORTED, "busy", "BUSY", retry_info(2.5))
    )

    with pytest.raises(SpoolwayError) as caught:
        await client.job("1").status()

    assert caught.value.retry_after == timedelta(seconds=2.5)


async def test_no_server_says_what_to_check() -> None:
    """Where no server answers the error names the address and what to look at."""
    async with JobClient("127.0.0.1:1", user="ada", timeout=5) as client:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1: .*Is the server running there\?"):
            await client.backends()


def test_an_unknown_code_of_an_item_is_an_unknown_error() -> None:
    """A newer server's code does not break an older client."""
    assert type(error_from_item(99, "new")) is spoolway.UnknownError


def test_a_broken_trailer_is_passed_over() -> None:
    """A proxy's bad trailer does not hide the status."""
    trailer = aio.Metadata(("grpc-status-details-bin", b"\xff\xff"))
    error = error_from_rpc(
        aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), trailer, "no job"), "host:1"
    )

    assert type(error) is NotFoundError


def test_errors_can_be_pickled() -> None:
    """An error passes between processes with all it knows."""
    error = RequestIdReusedError("used", "REQUEST_ID_REUSED", retry_after=timedelta(seconds=1))

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (str(copy), copy.reason, copy.retry_after) == (str(error), error.reason, error.retry_after)


def test_out_of_time_is_also_a_timeout_error() -> None:
    """Who catches TimeoutError catches ours."""
    assert issubclass(DeadlineExceededError, TimeoutError)


def _raise(error: Exception) -> None:
    raise error
