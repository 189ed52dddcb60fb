"""The server as a process: health, reflection, starting, draining and stopping."""

import asyncio
import time
from contextlib import ExitStack

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import Unavailable
from spoolway_server.app import SpoolwayServer
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually, state_of
from tests.server.refusals import error_info, refusal
from tests.server.storage_faults import StorageFaults

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "spoolway.v1.JobService", "spoolway.v1.StorageAdmin", "storage/main")
QUICK_S = 3.0
"""A stop that need not wait for anything is done by then, even on a busy machine."""


def health_of(lab: Lab) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(lab.channel)


async def check(lab: Lab, service: str) -> int:
    status: int = (await health_of(lab).Check(health_pb2.HealthCheckRequest(service=service))).status
    return status


@pytest.mark.parametrize("service", SERVICES)
async def test_a_running_server_serves(lab: Lab, service: str) -> None:
    """The server, each service and each storage are SERVING; no user is asked for."""
    assert await check(lab, service) == SERVING


async def test_the_health_of_a_stranger_is_not_found(lab: Lab) -> None:
    """Health of a service that there is not is NOT_FOUND."""
    refused = await refusal(health_of(lab).Check(health_pb2.HealthCheckRequest(service="storage/nowhere")))

    assert refused.code is grpc.StatusCode.NOT_FOUND


async def test_reflection_tells_the_services(lab: Lab) -> None:
    """Reflection lists the services and describes them, for tools such as grpcurl."""
    stub = reflection_pb2_grpc.ServerReflectionStub(lab.channel)
    call = stub.ServerReflectionInfo()

    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = (await call.read()).list_services_response
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="spoolway.v1.JobService"))
    described = (await call.read()).file_descriptor_response
    await call.done_writing()

    assert {service.name for service in listed.service} == {
        "spoolway.v1.JobService",
        "spoolway.v1.StorageAdmin",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert described.file_descriptor_proto


async def test_two_servers_never_share_a_port(start_lab: StartLab) -> None:
    """A second server on a port in use says so, instead of taking half of the calls."""
    lab = await start_lab()

    with pytest.raises(OSError, match="in use"):
        await start_lab(server={"port": lab.server.port})


async def test_a_server_starts_while_a_storage_is_down(start_lab: StartLab) -> None:
    """A storage in trouble holds no start up."""
    with ExitStack() as down:

        def break_it(server: SpoolwayServer) -> None:
            faults = StorageFaults(server.storages.by_name["main"].provider)
            down.enter_context(faults.failing(Unavailable("down"), "open"))

        lab = await asyncio.wait_for(start_lab(before_start=break_it), PATIENCE_S)

        assert await check(lab, "") == SERVING
        assert await check(lab, "storage/main") == NOT_SERVING
        await asyncio.wait_for(lab.server.stop(5), QUICK_S)


async def test_a_stop_tells_the_streams_to_leave(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Spoolers are sent goaway DRAINING; when they have closed their streams the server is gone."""
    idle = await start_spooler("idle")
    busy = await start_spooler("busy")
    await idle.credit(0)
    await idle.beat()
    await alice.submit()
    await busy.take()
    started = time.monotonic()
    stopping = asyncio.create_task(lab.server.stop(30))

    for spooler in (idle, busy):
        goaway = (await spooler.next_of("goaway")).goaway
        assert goaway.reason == "DRAINING"
        await spooler.end()

    await asyncio.wait_for(stopping, PATIENCE_S)
    assert time.monotonic() - started < QUICK_S


async def test_a_draining_server_takes_the_last_reports(
    lab: Lab, alice: Caller, spooler: FakeSpooler, storage_type: str
) -> None:
    """Between goaway and the end of its stream a spooler still delivers a result."""
    job = await alice.submit()
    one = await spooler.take()
    stopping = asyncio.create_task(lab.server.stop(30))
    await spooler.next_of("goaway")

    confirm = await spooler.complete(one)

    await spooler.end()
    await asyncio.wait_for(stopping, PATIENCE_S)
    assert not confirm.HasField("error")
    provider = lab.storage().provider
    if storage_type == "memory":
        assert (await provider.get(lab.key(job.name))).state == "DONE"


async def test_a_draining_server_takes_no_new_sessions(lab: Lab, spooler: FakeSpooler) -> None:
    """A spooler that comes back to a server that is about to stop is sent elsewhere."""
    stopping = asyncio.create_task(lab.server.stop(30))
    await spooler.next_of("goaway")
    again = FakeSpooler(lab, "again")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await again.connect()
    polling = await refusal(
        lab.caller("robot").NextJob(pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"]))
    )
    waiting = await refusal(lab.caller().WaitJob(pb.WaitJobRequest(name=f"backends/sim/jobs/{'0' * 24}")))

    for refused in (error_info(caught.value), polling, waiting):
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert refused.retry_after
    await spooler.end()
    await asyncio.wait_for(stopping, PATIENCE_S)


async def test_a_draining_server_hands_out_no_more_jobs(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """After goaway no assignment comes, whatever is submitted."""
    with lab.faults().held_up("claim") as gate:
        await alice.submit()
        await gate.reached.wait()
        stopping = asyncio.create_task(lab.server.stop(30))
        await spooler.next_of("goaway")
    await spooler.settled()
    await spooler.end()
    await asyncio.wait_for(stopping, PATIENCE_S)

    assert "assign" not in spooler.kinds


async def test_a_stop_ends_all_waits_at_once(lab: Lab, alice: Caller) -> None:
    """Long polls are answered and watches end with UNAVAILABLE: nobody holds a stop up."""
    job = await alice.submit()
    long = Duration(seconds=60)
    await lab.put_policy(paused=True)
    waiting = asyncio.create_task(alice.wait(job.name, timeout=long))
    watch = alice.WatchJobs(pb.WatchJobsRequest())
    while not (await watch.read()).snapshot_complete:
        pass
    polling = lab.caller("robot").NextJob(
        pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["sim"], wait_timeout=long)
    )
    dispatcher = lab.storage().dispatcher("sim")
    await eventually(lambda: dispatcher.has_sessions and len(lab.storage().feed._by_key) == 1)
    started = time.monotonic()

    await asyncio.wait_for(lab.server.stop(30), PATIENCE_S)

    assert time.monotonic() - started < QUICK_S
    assert state_of(await waiting) == "QUEUED"
    assert not (await polling).HasField("assignment")
    refused = await refusal(watch.read())
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_a_client_that_does_not_leave_is_cut_off(lab: Lab, spooler: FakeSpooler) -> None:
    """A stream that its client does not close ends when the grace has passed."""
    started = time.monotonic()

    await asyncio.wait_for(lab.server.stop(0.2), PATIENCE_S)

    assert time.monotonic() - started < QUICK_S
    assert "goaway" in spooler.kinds


async def test_health_watchers_hold_no_stop_up(lab: Lab) -> None:
    """Who watches the health is told NOT_SERVING, and does not keep the server from stopping."""
    watch = health_of(lab).Watch(health_pb2.HealthCheckRequest(service=""))
    first = await watch.read()
    started = time.monotonic()

    stopping = asyncio.create_task(lab.server.stop(30))
    second = await watch.read()

    await asyncio.wait_for(stopping, PATIENCE_S)
    assert (first.status, second.status) == (SERVING, NOT_SERVING)
    assert time.monotonic() - started < QUICK_S


async def test_a_call_under_way_finishes_within_the_grace(lab: Lab, alice: Caller) -> None:
    """A call that has begun before the stop is answered."""
    with lab.faults().held_up("submit") as gate:
        submitting = asyncio.create_task(alice.submit())
        await gate.reached.wait()
        stopping = asyncio.create_task(lab.server.stop(30))
        await eventually(lambda: lab.server.draining)
        gate.open.set()

        assert (await submitting).name
    await asyncio.wait_for(stopping, PATIENCE_S)


async def test_a_stop_may_be_repeated(lab: Lab) -> None:
    """Stopping twice does no harm."""
    await lab.server.stop(0)
    await asyncio.wait_for(lab.server.stop(0), QUICK_S)
    await asyncio.wait_for(lab.server.wait_closed(), QUICK_S)


async def test_a_stop_leaves_no_task_behind(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """Nothing of a stopped server runs on."""
    await alice.submit()
    await spooler.take()
    await spooler.end()

    await lab.server.stop(1)

    ours = [
        task.get_coro().__qualname__
        for task in asyncio.all_tasks()
        if "spoolway_server" in getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
    ]
    assert ours == []
