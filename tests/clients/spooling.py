"""A spooler at work in a test's event loop."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

from spoolway import RunningJob, Spooler
from spoolway.timing import Timing
from tests.clients.conftest import QUICK
from tests.clients.fake_server import PATIENCE_S, FakeServer


class Runs:
    """A run function that tells when it started, and goes on when the test lets it."""

    def __init__(self, result: Any = None) -> None:
        self.result = result
        self.jobs: dict[str, RunningJob] = {}
        self.started: asyncio.Queue[RunningJob] = asyncio.Queue()
        self._ends: dict[str, asyncio.Future[Any]] = {}

    async def run(self, job: RunningJob) -> Any:
        self.jobs[job.id] = job
        self._ends[job.id] = asyncio.get_running_loop().create_future()
        self.started.put_nowait(job)
        return await self._ends[job.id]

    async def next(self) -> RunningJob:
        async with asyncio.timeout(PATIENCE_S):
            return await self.started.get()

    def end(self, job_id: str, result: Any) -> None:
        if isinstance(result, BaseException):
            self._ends[job_id].set_exception(result)
        else:
            self._ends[job_id].set_result(result)


def make_spooler(
    server: FakeServer,
    run: Callable[[RunningJob], Any],
    *,
    concurrency: int = 1,
    timing: Timing = QUICK,
    **settings: Any,
) -> Spooler:
    spooler = Spooler(
        "lab-1",
        backend="echo",
        config={"version": "1.0.0"},
        run=run,
        concurrency=concurrency,
        address=server.address,
        user="ada",
        **settings,
    )
    spooler._timing = timing
    return spooler


@contextlib.asynccontextmanager
async def at_work(spooler: Spooler) -> AsyncIterator["asyncio.Task[None]"]:
    """The spooler serves while the block runs; it is stopped hard after it."""
    task = asyncio.create_task(spooler.serve())
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_S)
        if task.done() and not task.cancelled():
            task.exception()  # seen: tests that expect one await the task themselves


async def ended(task: "asyncio.Task[None]") -> None:
    """Wait for the spooler's own end, and raise what it raised."""
    async with asyncio.timeout(PATIENCE_S):
        await task


def timed(**changes: float) -> Timing:
    return dataclasses.replace(QUICK, **changes)


def echo(job: RunningJob) -> Any:
    return {"echo": job.content}
