"""Old streams are asked to move on, so that they spread over servers that came later."""

import asyncio

import grpc
import pytest

from spoolway import JobClient, Spooler
from spoolway.v1 import job_service_pb2 as pb
from spoolway_server.clock import Clock
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler, held
from tests.server.lab import PATIENCE_S, eventually


async def test_an_old_stream_is_told_and_its_jobs_go_on(start_lab: StartLab) -> None:
    """After goaway the spooler comes back with what it holds, and keeps it."""
    lab = await start_lab(server={"max_connection_age_s": 0.5})
    await lab.caller("robot").register("sim")
    job = await lab.caller().submit()
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    one = await spooler.take()

    goaway = (await spooler.next_of("goaway")).goaway
    await spooler.end()
    welcome = await spooler.connect(held=held(one))
    await spooler.complete(one)

    assert goaway.reason == "CONNECTION_AGE"
    assert welcome.kept == [job.name]
    assert (await lab.caller().until_ended(job.name)).attempt_count == 1


async def test_an_old_watch_ends_with_unavailable(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher reconnects with its resume token, as after any other end."""
    monkeypatch.setattr("spoolway_server.watching.BOOKMARK_S", 0.05)
    lab = await start_lab(server={"max_connection_age_s": 0.5})
    watch = lab.caller().WatchJobs(pb.WatchJobsRequest(), timeout=PATIENCE_S)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_all(watch)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "reconnect" in (caught.value.details() or "")


async def _read_all(watch: "grpc.aio.UnaryStreamCall[pb.WatchJobsRequest, pb.WatchJobsResponse]") -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass


async def test_clients_notice_nothing_of_an_age(start_lab: StartLab) -> None:
    """Connections of half a second: submits, a spooler and waiting go on over several of them."""
    lab = await start_lab(server={"max_connection_age_s": 0.5}, clock=Clock())
    async with JobClient(lab.server.address, user="alice") as client:
        spooler = Spooler(
            "sim-1", backend="sim", config={}, run=lambda job: {}, address=lab.server.address, user="robot"
        )
        serving = asyncio.create_task(spooler.serve())
        await eventually(lambda: bool(lab.server.spoolers.sessions))
        first = set(lab.server.spoolers.sessions)

        while len(first) < 4:
            job = await client.submit("sim", {})
            await job.result()
            first |= set(lab.server.spoolers.sessions)

        spooler.drain()
        await serving


def test_zero_is_no_limit(start_lab: StartLab) -> None:
    """0 asks nobody to move on."""
    from spoolway_server.app import _age_options

    assert _age_options(0) == []
    assert dict(_age_options(10)) == {
        "grpc.max_connection_age_ms": 10_000,
        "grpc.max_connection_age_grace_ms": 10_000,
    }
