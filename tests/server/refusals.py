"""What a call that failed says: its status and the details in its trailer."""

from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

__all__ = ["Refused", "error_info", "refusal"]


@dataclass(frozen=True)
class Refused:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    retry_after: timedelta | None = None
    quota_subjects: tuple[str, ...] = ()


def error_info(error: grpc.aio.AioRpcError) -> Refused:
    """Decode `grpc-status-details-bin`; without it only code and message are known."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if packed is None:
        return Refused(error.code(), error.details() or "")
    status = status_pb2.Status.FromString(packed)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    delay = None
    for detail in status.details:
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta()
        else:
            assert detail.Unpack(info) or detail.Unpack(bad) or detail.Unpack(quota)
    return Refused(
        code=error.code(),
        message=status.message,
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=tuple(violation.field for violation in bad.field_violations),
        retry_after=delay,
        quota_subjects=tuple(violation.subject for violation in quota.violations),
    )


async def refusal(call: Awaitable[Any]) -> Refused:
    """The error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)
