"""ListAuditEvents: everything that changes something is in the trail, and can be found there."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway import AdminClient
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from tests.server.lab import Caller, Lab
from tests.server.refusals import refusal
from tests.server.test_role_matrix import ADMIN_CALLS

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)

LOOKING = ("Get", "List", "Watch", "Test")
CHANGING = [rpc for rpc in ADMIN_CALLS if not rpc.startswith(LOOKING)]


@pytest.fixture
def ada(lab: Lab) -> Caller:
    return lab.caller("ada")


async def events(ada: Caller, **fields: Any) -> list[admin_pb.AuditEvent]:
    return list((await ada.ListAuditEvents(admin_pb.ListAuditEventsRequest(**fields))).events)


async def read_all(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("rpc", CHANGING)
async def test_every_change_is_in_the_trail(lab: Lab, ada: Caller, rpc: str) -> None:
    """Who, when, on what, and how it ended: also where it was refused."""
    await lab.caller("robot").register("lamp")
    job = (await lab.caller("alice").submit("lamp")).name

    call = getattr(ada, rpc)(ADMIN_CALLS[rpc].request(job))
    try:
        await (read_all(call) if isinstance(call, grpc.aio.UnaryStreamCall) else call)
        is_refused = False
    except grpc.aio.AioRpcError:
        is_refused = True
    [event] = await events(ada, call=rpc)

    assert (event.user, event.call) == ("ada", rpc)
    assert event.subject.count("/") >= 1
    assert event.outcome
    assert (event.outcome != "OK") is is_refused
    assert event.HasField("time")


async def test_a_deleted_job_is_in_the_trail(lab: Lab, ada: Caller) -> None:
    """What a user deletes is gone, but who did it is known."""
    alice = lab.caller("alice")
    job = await alice.submit()
    await alice.cancel(job.name)
    await alice.DeleteJob(pb.DeleteJobRequest(name=job.name))

    [event] = await events(ada, user="alice")

    assert (event.call, event.subject, event.outcome) == ("DeleteJob", job.name, "OK")


async def test_the_trail_is_filtered_and_paged(lab: Lab, ada: Caller) -> None:
    """By user, call, subject and time; page by page, newest first, each event once."""
    olga = lab.caller("olga")
    for _ in range(2):
        await ada.PauseBackend(admin_pb.PauseBackendRequest(name="sim"))
        await olga.ResumeBackend(admin_pb.ResumeBackendRequest(name="sim"))
    now = Timestamp()
    now.FromDatetime(lab.clock.now() + timedelta(minutes=1))

    first = await ada.ListAuditEvents(admin_pb.ListAuditEventsRequest(page_size=3))
    rest = await ada.ListAuditEvents(
        admin_pb.ListAuditEventsRequest(page_size=3, page_token=first.next_page_token)
    )
    numbers = [event.number for event in [*first.events, *rest.events]]

    assert [event.call for event in first.events] == ["ResumeBackend", "PauseBackend", "ResumeBackend"]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 4
    assert not rest.next_page_token
    assert {event.call for event in await events(ada, user="olga")} == {"ResumeBackend"}
    assert len(await events(ada, call="PauseBackend", subject="backends/sim")) == 2
    assert await events(ada, subject="backends/other") == []
    assert await events(ada, start_time=now) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"user": "x" * 301}, "FILTER_INVALID"),
        ({"subject": "\0"}, "FILTER_INVALID"),
        ({"start_time": {"seconds": 2**60}}, "TIME_INVALID"),
        ({"page_token": "e30="}, "TOKEN_INVALID"),
        ({"page_token": "eyJiZWZvcmUiOiItMSJ9"}, "TOKEN_INVALID"),
        ({"page_size": -1}, "PAGE_SIZE_INVALID"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    ada: Caller, fields: dict[str, Any], reason: str
) -> None:
    """Each mistake has a reason of its own."""
    refused = await refusal(ada.ListAuditEvents(admin_pb.ListAuditEventsRequest(**fields)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_the_client_reads_as_many_as_are_wanted(lab: Lab, ada: Caller) -> None:
    """Newest first, over pages, up to the limit."""
    for _ in range(3):
        await ada.PauseBackend(admin_pb.PauseBackendRequest(name="sim"))
    async with AdminClient(lab.server.address, user="ada") as client:
        two = [event async for event in client.audit_events(limit=2)]
        all_of_them = [event async for event in client.audit_events(call="PauseBackend", user="ada")]

    assert [event.number for event in two] == [event.number for event in all_of_them][:2]
    assert len(all_of_them) == 3


async def test_a_tokens_secret_is_in_no_event(ada: Caller) -> None:
    """The trail has who the token is for, and its name."""
    made = await ada.CreateToken(admin_pb.CreateTokenRequest(user="bob", role=admin_pb.ROLE_USER))

    assert made.secret not in str(await events(ada))
