"""Backends that are unregistered, and registered again."""

import grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_server.catalog import AuditQuery
from tests.server.conftest import StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab, state_of
from tests.server.refusals import refusal


async def unregister(caller: Caller, **fields: object) -> int:
    request = pb.UnregisterBackendRequest(backend="sim", **fields)  # type: ignore[arg-type]  # test's own
    return int((await caller.UnregisterBackend(request)).unfinished_jobs)


async def names(caller: Caller) -> list[str]:
    answer = await caller.ListBackends(pb.ListBackendsRequest())
    return [backend.name for backend in answer.backends]


async def test_it_is_listed_no_more_and_takes_no_jobs(lab: Lab, alice: Caller) -> None:
    """Its ended jobs are read as before; all that wants the backend itself is told that it is gone."""
    robot = lab.caller("robot")
    job = await alice.submit()
    await alice.cancel(job.name)

    assert await unregister(robot) == 0

    assert await names(alice) == []
    calls = (
        alice.submit(),
        alice.GetBackend(pb.GetBackendRequest(name="sim")),
        unregister(robot),
        FakeSpooler(lab).calls.NextJob(pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"])),
    )
    for call in calls:
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")
        assert "register it again" in refused.message
    assert state_of(await alice.job(job.name)) == "CANCELLED"
    assert [one.name for one in await alice.all_jobs()] == [job.name]
    events = (await lab.server.audit.events(AuditQuery(what="UnregisterBackend"))).events
    assert [(one.who, one.subject, one.outcome) for one in events] == [
        ("robot", "backends/sim", "BACKEND_NOT_FOUND"),
        ("robot", "backends/sim", "OK"),
    ]


async def test_it_is_refused_while_jobs_have_not_ended(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Forced, they wait; registered again, they run, in their order."""
    robot = lab.caller("robot")
    jobs = [(await alice.submit()).name for _ in range(2)]
    used = await refusal(unregister(robot))

    assert await unregister(robot, force=True) == 2
    await robot.register("sim")
    spooler = await start_spooler(credit=2)

    assert (used.code, used.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_IN_USE")
    assert used.metadata == {"backend": "sim", "jobs": "2"}
    assert [(await spooler.assignment()).job for _ in range(2)] == jobs


async def test_a_pause_is_not_lifted_so(lab: Lab, alice: Caller) -> None:
    """The policy is there again with the config, and operators may change it meanwhile."""
    olga = lab.caller("olga")
    await olga.PauseBackend(admin_pb.PauseBackendRequest(name="sim"))
    await unregister(lab.caller("robot"))
    paused = (await olga.PauseBackend(admin_pb.PauseBackendRequest(name="sim"))).backend

    again = await lab.caller("robot").register("sim")

    assert paused.status.status_msg == "it was unregistered"
    assert (again.policy.paused, again.status.status_msg) == (True, "paused by an operator")


async def test_a_connected_spooler_gets_no_more_jobs(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """What it runs it ends as always."""
    running = await alice.submit()
    assignment = await spooler.take()
    await alice.submit()
    await unregister(lab.caller("robot"), force=True)

    await spooler.complete(assignment)
    await spooler.settled()

    assert state_of(await alice.job(running.name)) == "DONE"
    assert spooler.unasked == []


async def test_of_a_newer_config_it_is_refused(lab: Lab) -> None:
    """Who decided by an older config reads again."""
    robot = lab.caller("robot")
    old = await robot.register("sim", b'{"a": 1}')
    new = await robot.register("sim", b'{"a": 2}')

    refused = await refusal(unregister(robot, etag=old.config_etag))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await unregister(robot, etag=new.config_etag) == 0
