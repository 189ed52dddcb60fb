"""The client against a real server: what spoolway.testing is for."""

import asyncio
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest

from spoolway import (
    JobCancelledError,
    JobClient,
    JobFailedError,
    NotFoundError,
    RequestIdReusedError,
    RunningJob,
    Spooler,
    SpoolwayError,
    SyncJobClient,
)
from spoolway.testing import serving, serving_in_thread
from tests.clients.spooling import at_work, echo

CONFIG = {"version": "1.0.0", "description": "says what it hears"}


def make_spooler(address: str, run: Any, **settings: Any) -> Spooler:
    return Spooler("lab-1", backend="echo", config=CONFIG, run=run, address=address, user="ada", **settings)


async def registered(client: JobClient) -> None:
    """Wait until the spooler has registered its backend."""
    async with asyncio.timeout(20):
        while not any(b.status.operational for b in await client.backends()):  # noqa: ASYNC110 - no watch
            await asyncio.sleep(0.02)


async def test_a_job_goes_all_the_way() -> None:
    """Submitted, run by a spooler, watched and read, against a real server."""
    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, echo)),
    ):
        await registered(client)
        job = await client.submit("echo", {"shots": 4}, labels={"a": "b"})
        result = await job.result(timeout=20)
        listed = [found.name async for found in client.jobs("echo")]
        snapshot = await job.status()

    assert result == {"echo": {"shots": 4}}
    assert listed == [job.name]
    assert (snapshot.state, snapshot.labels, snapshot.attempt_count) == ("DONE", {"a": "b"}, 1)
    assert [transition.state for transition in snapshot.transitions][-1] == "DONE"


async def test_many_jobs_go_all_the_way() -> None:
    """A batch of jobs is run by several functions at once, each result its own."""
    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, echo, concurrency=8)),
    ):
        await registered(client)
        jobs = await client.submit_many("echo", [{"n": n} for n in range(200)])
        results = [await job.result(timeout=20) for job in jobs if not isinstance(job, SpoolwayError)]

    assert results == [{"echo": {"n": n}} for n in range(200)]


async def test_long_contents_and_results_go_all_the_way() -> None:
    """What does not fit into a message is uploaded, run and read without a word from the user."""
    text = "x" * (3 * 1024 * 1024)
    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, echo)),
    ):
        await registered(client)
        job = await client.submit("echo", {"text": text})

        assert await job.result(timeout=30) == {"echo": {"text": text}}


async def test_errors_of_a_real_server_have_their_classes() -> None:
    """What the server refuses arrives as the class that says why."""
    async with serving() as address, JobClient(address, user="ada") as client:
        with pytest.raises(NotFoundError, match="echo"):
            await client.submit("echo", {})
        async with at_work(make_spooler(address, echo)):
            await registered(client)
            await client.submit("echo", {"a": 1}, request_id="r")
            with pytest.raises(RequestIdReusedError):
                await client.submit("echo", {"a": 2}, request_id="r")


async def test_a_failure_reaches_the_owner() -> None:
    """What a run function raises is what the owner reads."""

    def fail(job: RunningJob) -> None:
        raise ValueError("no laser")

    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, fail)),
    ):
        await registered(client)
        job = await client.submit("echo", {})
        with pytest.raises(JobFailedError, match="ValueError: no laser"):
            await job.result(timeout=20)


async def test_a_cancel_reaches_the_run_function() -> None:
    """A running job learns that it is to stop, and ends cancelled."""
    started = asyncio.Event()

    async def run(job: RunningJob) -> None:
        started.set()
        while not job.cancelled:  # noqa: ASYNC110 - as run functions do
            await asyncio.sleep(0.01)

    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, run)),
    ):
        await registered(client)
        job = await client.submit("echo", {})
        await asyncio.wait_for(started.wait(), 20)
        await job.cancel()
        with pytest.raises(JobCancelledError):
            await job.result(timeout=20)


async def test_progress_reaches_who_watches() -> None:
    """What a run function reports is seen by its owner while it runs."""
    seen = asyncio.Event()

    async def run(job: RunningJob) -> dict[str, int]:
        job.report("cooling", 0.5, "Cooling the atoms.")
        await asyncio.wait_for(seen.wait(), 20)
        return {}

    async with (
        serving() as address,
        JobClient(address, user="ada") as client,
        at_work(make_spooler(address, run)),
    ):
        await registered(client)
        job = await client.submit("echo", {})
        async for snapshot in job.watch():
            if snapshot.state == "RUNNING" and snapshot.stage == "cooling":
                assert snapshot.fraction == 0.5
                seen.set()

    assert job.snapshot is not None
    assert job.snapshot.state == "DONE"


async def test_drain_leaves_the_rest_in_the_queue() -> None:
    """A drained spooler ends its job, and the next one waits for another spooler."""
    started, go_on = asyncio.Event(), asyncio.Event()

    async def run(job: RunningJob) -> dict[str, int]:
        started.set()
        await go_on.wait()
        return {}

    async with serving() as address, JobClient(address, user="ada") as client:
        spooler = make_spooler(address, run)
        async with at_work(spooler) as task:
            await registered(client)
            first, second = await client.submit("echo", {"n": 1}), await client.submit("echo", {"n": 2})
            await asyncio.wait_for(started.wait(), 20)
            spooler.drain()
            go_on.set()
            await asyncio.wait_for(task, 20)
        states = [(await first.wait(timeout=20)).state, (await second.status()).state]

    assert states == ["DONE", "QUEUED"]


def test_blocking_code_has_a_server_too() -> None:
    """A blocking test gets a server in a thread, and a spooler in another."""
    with serving_in_thread() as address, SyncJobClient(address, user="ada") as client:
        spooler = make_spooler(address, echo)
        thread = threading.Thread(target=lambda: asyncio.run(spooler.serve()), daemon=True)
        thread.start()
        while not any(backend.status.operational for backend in client.backends()):
            pass
        result = client.submit("echo", [1], max_run_time=timedelta(minutes=1)).result(timeout=20)
        spooler.drain()
        thread.join(20)

    assert result == {"echo": [1]}
    assert not thread.is_alive()


async def test_without_the_server_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has only the client is told what is missing."""
    monkeypatch.setitem(sys.modules, "spoolway_server.app", None)

    with pytest.raises(SpoolwayError, match="pip install spoolway-server"):
        async with serving():
            pass
    with pytest.raises(SpoolwayError, match="pip install spoolway-server"), serving_in_thread():
        pass
