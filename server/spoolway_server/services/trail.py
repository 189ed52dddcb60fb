"""ListAuditEvents: translate, call, translate."""

import grpc

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway_server.audit import Audit
from spoolway_server.catalog import AuditEvent, AuditQuery
from spoolway_server.errors import ServiceError
from spoolway_server.services.job_service import page_size
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import time_from, timestamp

__all__ = ["list_events"]

MAX_WORD = 300
"""Of a filter: longer than any user, call or resource name is."""


async def list_events(audit: Audit, request: pb.ListAuditEventsRequest) -> pb.ListAuditEventsResponse:
    """A page of the trail, newest first."""
    asked = {"user": request.user, "call": request.call, "subject": request.subject}
    for field, word in asked.items():
        if len(word) > MAX_WORD or "\0" in word:
            raise _invalid("FILTER_INVALID", field, f"{field} has up to {MAX_WORD} characters, and no NUL")
    since = None
    if request.HasField("start_time"):
        try:
            since = time_from(request.start_time)
        except (ValueError, OverflowError) as error:
            raise _invalid("TIME_INVALID", "start_time", "start_time is no valid time") from error
    asked["since"] = request.start_time.ToJsonString() if since else ""
    page = await audit.events(
        AuditQuery(
            who=request.user,
            what=request.call,
            subject=request.subject,
            since=since,
            before=_before(request.page_token, asked),
            limit=page_size(request.page_size),
        )
    )
    more = encode_token({"before": str(page.before), **asked}) if page.before else ""
    return pb.ListAuditEventsResponse(events=map(_event, page.events), next_page_token=more)


def _before(page_token: str, asked: dict[str, str]) -> int:
    token = decode_token(page_token, "page_token")
    if not page_token:
        return 0
    before = token.pop("before", "")
    if token != asked or not (before.isascii() and before.isdecimal() and 0 < len(before) < 19):
        raise bad_token("page_token", "it goes with the same call and filter only")
    return int(before)


def _event(event: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        number=event.number,
        time=timestamp(event.at),
        user=event.who,
        call=event.what,
        subject=event.subject,
        outcome=event.outcome,
        detail=event.detail,
    )


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
