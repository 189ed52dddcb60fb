"""Behind HAProxy, nginx and Envoy servers come and go, and users of the client package notice nothing."""

import signal
import time
from pathlib import Path

import grpc
import pytest

from spoolway import JobClient, JobState
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import job_service_pb2_grpc
from tests.balancers.fleet import BALANCERS, DRAIN_PAUSE_S, Balancer, Fleet
from tests.balancers.load import SPOOLERS, Load

pytestmark = pytest.mark.tools

STREAMS_BACK_S = 2.0
"""From the moment at which the balancer knows to the moment at which every stream is open again."""
NOISE_S = 2.0
"""What a busy machine may add to that."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", [*BALANCERS, "none"])
async def test_nobody_notices_that_servers_stop_and_die(kind: str, tmp_path: Path) -> None:
    """Both servers are restarted one after the other, then one is killed, all under load.

    No acknowledged submit is lost, no call fails, no job is held twice, the watcher sees every state, and
    each time all streams are back within two seconds.
    """
    back: dict[str, float] = {}
    async with Fleet.running(kind, tmp_path) as fleet:
        async with Load.running(fleet.balancer.address) as load:
            await fleet.streams_back(SPOOLERS, 1, since=time.monotonic())
            for server in fleet.servers:
                stopped_at = time.monotonic()
                code = await server.end(signal.SIGTERM)
                back[f"stop {server.name}"] = await fleet.streams_back(
                    SPOOLERS, 1, since=stopped_at + DRAIN_PAUSE_S
                )
                await server.start()
                await fleet.in_rotation(server)
                assert code == 0
            killed_at = time.monotonic()
            victim = fleet.servers[0]
            await victim.end(signal.SIGKILL)
            back["kill"] = await fleet.streams_back(SPOOLERS, 1, since=killed_at)
            await victim.start()
            await fleet.in_rotation(victim)
        async with JobClient(fleet.balancer.address, user="alice") as client:
            stored = {job.name: job.snapshot async for job in client.jobs()}

    times = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in back.items())
    report = f"{kind}: {len(load.acknowledged)} submits, none lost; streams back after: {times}"
    print(report)
    if kind == "haproxy":
        # Told by the health check, before the server refused anything.
        assert "spoolway-1 is DOWN, reason: Layer7" in fleet.balancer.log
    assert load.failed == []
    assert load.held_twice == []
    assert load.regressions == []
    assert len(load.acknowledged) > 100
    for name in load.acknowledged:
        job = stored[name]
        assert job is not None
        assert job.state is JobState.DONE
        assert load.seen[name].transitions == job.transitions
        assert load.runs[name] == 1
    assert max(back.values()) <= STREAMS_BACK_S + NOISE_S, report


@pytest.mark.parametrize("kind", BALANCERS)
async def test_where_no_server_answers_the_status_is_one_that_clients_repeat(
    kind: str, tmp_path: Path
) -> None:
    """A page of HTML with status 502 or 503 would be a failed call: gRPC repeats only its own statuses."""
    balancer = Balancer(kind, tmp_path, [])
    await balancer.start()
    try:
        channel = grpc.aio.insecure_channel(balancer.address)
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetJob(pb.GetJobRequest(name="any"), timeout=20)
        await channel.close()
    finally:
        await balancer.close()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "http2 header" not in (caught.value.details() or "")
