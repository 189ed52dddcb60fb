"""What Prometheus reads agrees with what was done, number by number."""

import asyncio
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Hints
from spoolway_providers.memory import MemoryProvider
from spoolway_server import dispatcher as dispatching
from spoolway_server.app import SpoolwayServer
from spoolway_server.metrics import Metrics, measured
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Lab, eventually

ON: dict[str, Any] = {"metrics": {"enabled": True, "port": 0}}
SIM = {"storage": "main", "backend": "sim"}

Figures = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(lab: Lab) -> Figures:
    url = f"http://127.0.0.1:{lab.server.metrics_port.port}/metrics"

    def read() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:  # our own port
            text: str = answer.read().decode()
            return text

    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(await asyncio.to_thread(read))
        for one in family.samples
    }


def figure(figures: Figures, name: str, **labels: str) -> float:
    return figures.get((f"spoolway_{name}", frozenset(labels.items())), 0.0)


async def connect(lab: Lab, spooler_id: str, credit: int) -> FakeSpooler:
    spooler = FakeSpooler(lab, spooler_id)
    await spooler.connect()
    await spooler.credit(credit)
    return spooler


async def test_the_metrics_agree_with_what_was_done(start_lab: StartLab) -> None:
    """Calls, jobs, queues, losses, retries and streams are counted exactly."""
    lab = await start_lab(**ON)
    await lab.caller("robot").register("sim")
    alice = lab.caller("alice")
    for _ in range(5):
        await alice.submit()
    with pytest.raises(grpc.aio.AioRpcError):
        await alice.submit(content=b"{")
    with pytest.raises(grpc.aio.AioRpcError):
        await alice.submit(backend="nowhere")
    first = await connect(lab, "first", 3)
    done, failing, lost = await first.assignments(3)
    for one in (done, failing, lost):
        await first.accept(one)
    await first.complete(done)
    await first.fail(failing, retryable=True)
    # Credit for three, of which two came free: the last two jobs were assigned, and are not accepted.
    await first.assignments(2)
    await first.credit(4)
    await first.settled()
    watch = alice.WatchJobs(pb.WatchJobsRequest(names=[done.job]))
    await watch.read()

    before = await scrape(lab)
    await first.kill()
    await lab.pass_time(100)
    watch.cancel()
    await eventually(lambda: len(lab.server.spoolers.sessions) == 0)
    after = await scrape(lab)

    calls = {"method": "SubmitJob"}
    assert figure(before, "rpcs_total", **calls, code="OK") == 5
    assert figure(before, "rpcs_total", **calls, code="INVALID_ARGUMENT") == 1
    assert figure(before, "rpcs_total", **calls, code="NOT_FOUND") == 1
    assert figure(before, "rpc_seconds_count", **calls, code="OK") == 5
    assert figure(before, "rpcs_total", method="RegisterBackend", code="OK") == 1
    assert figure(before, "jobs_submitted_total", **SIM) == 5
    assert figure(before, "jobs_claimed_total", **SIM) == 5
    assert figure(before, "job_assignment_seconds_count", **SIM) == 5
    assert figure(before, "jobs_running", **SIM) == 3
    assert figure(before, "jobs_queued", **SIM) == 0
    assert figure(before, "jobs_held", **SIM) == 1
    assert figure(before, "spoolers", **SIM) == 1
    assert figure(before, "spooler_credit", **SIM) == 1
    assert figure(before, "streams", method="StreamNextJobs") == 1
    assert figure(before, "streams", method="WatchJobs") == 1
    assert figure(before, "jobs_ended_total", **SIM, state="DONE") == 1
    assert figure(before, "job_run_seconds_count", **SIM) == 2
    assert figure(before, "job_retries_total", **SIM) == 1
    assert figure(before, "lease_losses_total", **SIM) == 0
    assert figure(before, "storage_up", storage="main") == 1
    assert figure(before, "storage_seconds_count", storage="main", operation="submit") == 5
    # The one that ran is lost; the two that had not been accepted return.
    assert figure(after, "lease_losses_total", **SIM) == 3
    assert figure(after, "job_run_seconds_count", **SIM) == 3
    assert figure(after, "jobs_running", **SIM) == 0
    assert figure(after, "spoolers", **SIM) == 0
    assert figure(after, "streams", method="StreamNextJobs") == 0
    assert figure(after, "rpcs_total", method="StreamNextJobs", code="CANCELLED") == 1


async def test_the_oldest_queued_job_tells_how_long_it_waits(start_lab: StartLab) -> None:
    """The age is that of the oldest, by the server's clock."""
    lab = await start_lab(**ON)
    await lab.caller("robot").register("sim")
    await lab.caller().submit()
    lab.jump(90)
    await lab.caller().submit()

    figures = await scrape(lab)

    assert 90 <= figure(figures, "oldest_queued_seconds", **SIM) < 120
    assert figure(figures, "jobs_queued", **SIM) == 2


async def test_a_storage_in_trouble_is_shown_and_the_scrape_goes_on(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors are counted by operation, and what can't be read of it is left out."""

    # It is not looked at again before the scrape: all else of it works, and would be taken for its recovery.
    monkeypatch.setattr("spoolway_server.storage.FIRST_REOPEN_S", 60)

    class Failing(MemoryProvider):
        async def backends(self) -> Any:
            raise Unavailable("gone")

    def spoil(server: SpoolwayServer) -> None:
        storage = server.storages.by_name["main"]
        storage._provider = measured(Failing(), server.metrics.storage("main"))

    lab = await start_lab(before_start=spoil, **ON)
    with pytest.raises(grpc.aio.AioRpcError):
        await lab.caller().submit()

    figures = await scrape(lab)

    labels = {"storage": "main", "operation": "backends", "error": "Unavailable"}
    assert figure(figures, "storage_up", storage="main") == 0
    assert figure(figures, "storage_errors_total", **labels) >= 1
    assert figure(figures, "rpcs_total", method="SubmitJob", code="UNAVAILABLE") == 1
    assert ("spoolway_jobs_queued", frozenset(SIM.items())) not in figures


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_what_a_storage_found_by_a_look_of_its_own_is_a_miss(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage with a poll beneath its wake-ups says what that found first."""
    lab = await start_lab(**ON)
    await lab.caller("robot").register("sim")
    provider = lab.storage().provider
    wait = provider.wait

    async def wait_once(timeout: timedelta) -> Hints:
        monkeypatch.setattr(provider, "wait", wait)
        return Hints(frozenset(), changed=True, missed=3)

    monkeypatch.setattr(provider, "wait", wait_once)
    await lab.caller().submit()
    await eventually(lambda: provider.wait == wait)

    assert figure(await scrape(lab), "wakeup_misses_total", storage="main") == 3


async def test_a_job_that_no_wake_up_told_of_is_a_miss(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the poll finds is counted; what a submit woke it for is not."""
    monkeypatch.setattr(dispatching, "FIRST_POLL_S", 0.01)
    lab = await start_lab(**ON)
    await lab.caller("robot").register("sim")
    spooler = await connect(lab, "one", 1)
    await lab.caller().submit()
    await spooler.serve(1)
    woken = figure(await scrape(lab), "wakeup_misses_total", storage="main")
    storage = lab.storage()
    monkeypatch.setattr(storage, "wake", lambda hints: None)
    monkeypatch.setattr(storage, "expect_jobs", lambda backends: None)

    await lab.caller().submit()
    await spooler.serve(1)

    assert figure(await scrape(lab), "wakeup_misses_total", storage="main") == woken + 1


async def test_the_event_loop_tells_its_lag(start_lab: StartLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """How late the loop is, is measured again and again."""
    monkeypatch.setattr("spoolway_server.scraping.LAG_INTERVAL_S", 0.01)
    lab = await start_lab(**ON)

    count = 0.0
    async with asyncio.timeout(10):
        while count < 2:
            count = figure(await scrape(lab), "event_loop_lag_seconds_count")


async def test_a_taken_port_says_which_setting_to_change(start_lab: StartLab) -> None:
    """Two servers on one machine need two ports for their metrics."""
    lab = await start_lab(**ON)
    port = lab.server.metrics_port.port

    with pytest.raises(OSError, match=r"metrics\.port"):
        await start_lab(metrics={"enabled": True, "port": port})


async def test_without_being_asked_no_port_is_opened(lab: Lab) -> None:
    """By default nothing listens for scrapes."""
    assert lab.server.metrics_port.port == 0


def test_a_registry_of_its_own_belongs_to_each_server() -> None:
    """Two servers of one process do not add up."""
    one, other = Metrics(), Metrics()
    one.storage("main").backend("sim").submitted.inc()

    assert other.registry.get_sample_value("spoolway_jobs_submitted_total", SIM) is None
