"""Spoolers as operators see them: listed from all servers, and ended for good."""

import asyncio
from datetime import timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.errors import Unavailable
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler, held
from tests.server.lab import Caller, Lab, outcomes_of, state_of
from tests.server.refusals import error_info, refusal

LIVE, REPLACED, CLOSED = (
    admin_pb.SPOOLER_STATE_LIVE,
    admin_pb.SPOOLER_STATE_REPLACED,
    admin_pb.SPOOLER_STATE_CLOSED,
)


async def spoolers(lab: Lab, **request: object) -> list[admin_pb.Spooler]:
    answer = await lab.caller("admin").ListSpoolers(admin_pb.ListSpoolersRequest(**request))
    assert not answer.unreachable_storages
    return list(answer.spoolers)


async def revoke(lab: Lab, session: str) -> admin_pb.RevokeSpoolerResponse:
    request = admin_pb.RevokeSpoolerRequest(session=session)
    answer: admin_pb.RevokeSpoolerResponse = await lab.caller("admin").RevokeSpooler(request)
    return answer


def next_job(session: str = "", instance_id: str = "first") -> pb.NextJobRequest:
    return pb.NextJobRequest(
        spooler_id="simple",
        instance_id=instance_id,
        backends=["sim"],
        session=session,
        wait_timeout=Duration(nanos=10_000_000),
    )


async def test_a_spooler_is_listed_with_what_it_does(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Who it is, what it runs, what it holds, what it takes, and when it was last heard of."""
    spooler = await start_spooler(credit=3)
    await alice.submit()
    await spooler.take()
    opened_at = lab.clock.now()
    lab.jump(20)
    await spooler.beat()

    [listed] = await spoolers(lab)

    assert (listed.session, listed.spooler_id, listed.instance_id) == (spooler.session, "spooler", "first")
    assert (listed.principal, listed.backends, listed.storages) == ("robot", ["sim"], ["main"])
    assert (listed.state, listed.reason, listed.jobs_in_hand) == (LIVE, "", 1)
    assert (listed.has_stream, listed.connected_here, listed.disconnected) == (True, True, False)
    assert dict(listed.credit) == {"": 3} or dict(listed.credit) == {"sim": 3}
    assert listed.open_time.ToDatetime(tzinfo=opened_at.tzinfo) <= opened_at
    last_beat = listed.last_beat_time.ToDatetime(tzinfo=opened_at.tzinfo)
    assert last_beat - opened_at >= timedelta(seconds=19)
    assert not listed.HasField("close_time")


async def test_a_spooler_without_a_stream_is_listed(lab: Lab) -> None:
    """A series of unary calls is a session like any other."""
    answer = await lab.caller("robot").NextJob(next_job())

    [listed] = await spoolers(lab)

    assert (listed.session, listed.has_stream, listed.connected_here) == (answer.session, False, False)


async def test_ended_sessions_are_listed_on_request(lab: Lab, start_spooler: StartSpooler) -> None:
    """A session that has ended is shown for a while, with its reason and time."""
    spooler = await start_spooler()
    await spooler.end()
    await lab.server.spoolers.settle()

    [closed] = await spoolers(lab, show_closed=True)

    assert await spoolers(lab) == []
    assert (closed.state, closed.reason) == (CLOSED, "STREAM_ENDED")
    assert closed.HasField("close_time")
    assert not closed.HasField("last_beat_time")


async def test_spoolers_come_by_backend_and_in_pages(lab: Lab, start_spooler: StartSpooler) -> None:
    """A filter keeps those of one backend; a page token goes with its filter only."""
    await lab.caller("robot").register("lamp")
    for number in range(3):
        await start_spooler(f"lamp-{number}", backends=["lamp"])
    await start_spooler("other")
    admin = lab.caller("admin")

    first = await admin.ListSpoolers(admin_pb.ListSpoolersRequest(backend="lamp", page_size=2))
    rest = await admin.ListSpoolers(
        admin_pb.ListSpoolersRequest(backend="lamp", page_size=2, page_token=first.next_page_token)
    )
    refused = await refusal(
        admin.ListSpoolers(admin_pb.ListSpoolersRequest(page_token=first.next_page_token))
    )

    names = [one.spooler_id for one in (*first.spoolers, *rest.spoolers)]
    assert names == ["lamp-0", "lamp-1", "lamp-2"]
    assert rest.next_page_token == ""
    assert refused.reason == "TOKEN_INVALID"


async def test_a_storage_in_trouble_hides_no_others(start_lab: StartLab) -> None:
    """A session in two storages is listed once; where one does not answer it is named."""
    lab = await start_lab("main", "attic", default_storage="main")
    robot = lab.caller("robot")
    await robot.register("sim")
    await robot.register("old", storage="attic")
    spooler = FakeSpooler(lab, backends=["sim", "old"])
    await spooler.connect()

    [both] = await spoolers(lab)
    with lab.faults("attic").failing(Unavailable("the disk is gone"), "sessions"):
        answer = await lab.caller("admin").ListSpoolers(admin_pb.ListSpoolersRequest())

    assert both.storages == ["attic", "main"]
    assert answer.unreachable_storages == ["attic"]
    assert [one.session for one in answer.spoolers] == [both.session]


async def test_a_revoked_spooler_is_ended_for_good(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Its jobs go back, its stream ends with the reason, and it gets nothing more."""
    spooler = await start_spooler(credit=2)
    running, claimed = await alice.submit(), await alice.submit()
    one = await spooler.take()
    other = await spooler.assignment()

    answer = await revoke(lab, spooler.session)

    assert (answer.spooler.state, answer.spooler.reason) == (CLOSED, "SPOOLER_REVOKED")
    assert answer.jobs_taken_back == 2
    assert (await spooler.next_of("goaway")).goaway.reason == "SPOOLER_REVOKED"
    assert outcomes_of(await alice.job(running.name)) == ["LOST"]
    unharmed = await alice.job(claimed.name)
    assert (state_of(unharmed), outcomes_of(unharmed)) == ("QUEUED", ["WITHDRAWN"])
    await spooler.end()
    again = FakeSpooler(lab)
    again.open()
    await again.say_hello(held=held(one, other))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await again.ended()
    told = error_info(refused.value)
    assert (told.code, told.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SPOOLER_REVOKED")
    assert "start the spooler anew" in told.message


async def test_a_spooler_started_anew_is_welcome(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Another instance of a revoked spooler gets the jobs."""
    spooler = await start_spooler()
    await revoke(lab, spooler.session)
    await spooler.end()
    job = await alice.submit()

    anew = await start_spooler(instance_id="second")

    assert (await anew.take()).job == job.name


async def test_a_revoked_instance_can_not_end_the_next_one(lab: Lab, start_spooler: StartSpooler) -> None:
    """It is refused before it takes over from who has come in its place."""
    spooler = await start_spooler()
    await revoke(lab, spooler.session)
    anew = await start_spooler(instance_id="second")
    again = FakeSpooler(lab)
    again.open()

    await again.say_hello(predecessor_dead=True)
    with pytest.raises(grpc.aio.AioRpcError):
        await again.ended()

    assert [(one.session, one.state) for one in await spoolers(lab)] == [(anew.session, LIVE)]


async def test_revoking_again_changes_nothing(lab: Lab, start_spooler: StartSpooler) -> None:
    """The same answer, without jobs."""
    spooler = await start_spooler()
    first = await revoke(lab, spooler.session)

    again = await revoke(lab, spooler.session)

    assert again.spooler.reason == first.spooler.reason == "SPOOLER_REVOKED"
    assert again.jobs_taken_back == 0


async def test_an_older_session_stands_for_its_instance(lab: Lab, start_spooler: StartSpooler) -> None:
    """Who has reconnected since the operator looked is ended all the same."""
    spooler = await start_spooler()
    seen = spooler.session
    await spooler.kill()
    await spooler.connect()

    await revoke(lab, seen)

    assert (await spooler.next_of("goaway")).goaway.reason == "SPOOLER_REVOKED"
    assert await spoolers(lab) == []


async def test_what_can_not_be_revoked_is_told(lab: Lab, start_spooler: StartSpooler) -> None:
    """A session that is over, one that there is not, and one whose id is none."""
    spooler = await start_spooler()
    await spooler.end()
    await lab.server.spoolers.settle()

    over = await refusal(revoke(lab, spooler.session))
    unknown = await refusal(revoke(lab, "0" * 32))
    wrong = await refusal(revoke(lab, "../x"))

    assert (over.code, over.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SESSION_CLOSED")
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "SPOOLER_NOT_FOUND")
    assert (wrong.code, wrong.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SESSION_ID_INVALID")
    assert over.fields == unknown.fields == wrong.fields == ("session",)


async def test_a_revoked_spooler_of_unary_calls_is_refused(lab: Lab) -> None:
    """Its session is over, and a new one is refused with the reason."""
    robot = lab.caller("robot")
    session = (await robot.NextJob(next_job())).session
    await revoke(lab, session)

    over = await refusal(robot.NextJob(next_job(session)))
    refused = await refusal(robot.NextJob(next_job()))

    assert (over.code, over.reason) == (grpc.StatusCode.ABORTED, "SESSION_CLOSED")
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SPOOLER_REVOKED")
    assert (await robot.NextJob(next_job(instance_id="second"))).session


@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_a_stream_of_another_server_is_listed_and_ended(start_lab: StartLab) -> None:
    """Revoked on one server it gets nothing on the other at once, and its stream ends at the next look."""
    here, there = await start_lab(), await start_lab()
    await here.caller("robot").register("sim")
    spooler = FakeSpooler(there)
    await spooler.connect()
    await spooler.credit(1)
    [listed] = await spoolers(here)

    await revoke(here, listed.session)
    job = await here.caller("alice").submit()
    await there.storage().reaper.look()

    assert (listed.session, listed.connected_here, dict(listed.credit)) == (spooler.session, False, {})
    assert (await spooler.next_of("goaway")).goaway.reason == "SPOOLER_REVOKED"
    assert state_of(await here.caller("alice").job(job.name)) == "QUEUED"
    assert spooler.unasked == []


async def test_a_silent_spooler_of_unary_calls_is_gone_after_its_lease(lab: Lab, alice: Caller) -> None:
    """It has no stream whose end would be told: it reads as connected for its lease and grace only."""
    await lab.caller("robot").NextJob(next_job())
    backend = pb.GetBackendRequest(name="sim")
    before = (await alice.GetBackend(backend)).backend.status.operational

    await lab.pass_time(55)
    during = (await alice.GetBackend(backend)).backend.status.operational
    await lab.pass_time(10)

    assert (before, during) == (True, True)
    assert not (await alice.GetBackend(backend)).backend.status.operational


async def test_a_spooler_that_waits_long_by_unary_calls_is_alive(start_lab: StartLab) -> None:
    """A wait for a job that outlasts the lease renews the session; so does each call."""
    lab = await start_lab(leases={"ttl_s": 0.3, "resume_grace_s": 0.3, "heartbeat_interval_s": 0.1})
    robot = lab.caller("robot")
    await robot.register("sim")
    session = (await robot.NextJob(next_job())).session
    lab.jump(0.5)
    beats = []

    async def look() -> None:
        while True:
            [view] = await lab.storage().provider.sessions()
            beats.append(view.session.beat)
            lab.jump(0.3)
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    request = next_job(session)
    request.wait_timeout.FromTimedelta(timedelta(seconds=1.5))
    answer = await robot.NextJob(request)
    looking.cancel()

    assert answer.session == session
    assert len(set(beats)) > 2
