"""A client of a round: submits its jobs one after the other, cancels some, and waits until all have ended.

It has no memory: started again it submits everything again, with the same request ids.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from spoolway import InvalidArgumentError, Job, JobClient, SpoolwayError
from tests.crash.journal import Journal
from tests.crash.plan import BACKEND, JobPlan
from tests.crash.spooler import TIMING, shorten_reconnects

__all__ = ["run_client"]

CALL_S = 3.0
AGAIN_S = 0.1
CANCEL_AFTER_S = 0.25
OVERTIME = timedelta(seconds=0.3)

Result = TypeVar("Result")


def run_client(who: str, journal: Journal, arguments: Mapping[str, Any]) -> None:
    """Submit and wait; leave a file behind once all has ended."""
    shorten_reconnects()
    jobs = msgspec.convert(arguments["jobs"], tuple[JobPlan, ...])
    began_at = datetime.fromtimestamp(arguments["began_at"], UTC)
    backend = arguments.get("backend", BACKEND)
    client = Client(who.partition(".")[0], journal, arguments["address"], began_at, backend)
    asyncio.run(client.run(jobs))
    journal.note("has seen the end of all")
    Path(arguments["done"]).touch()


class Client:
    """One life of a client."""

    def __init__(self, name: str, journal: Journal, address: str, began_at: datetime, backend: str) -> None:
        self._name = name
        self._journal = journal
        self._address = address
        self._began_at = began_at
        self._backend = backend

    async def run(self, jobs: tuple[JobPlan, ...]) -> None:
        async with (
            JobClient(self._address, user="alice", timeout=CALL_S) as client,
            asyncio.TaskGroup() as ends,
        ):
            client._timing = TIMING
            for plan in jobs:
                await asyncio.sleep(plan.gap_s)
                job = await self._submit(client, plan)
                if job is not None:
                    ends.create_task(self._follow(job, plan))

    async def _submit(self, client: JobClient, plan: JobPlan) -> Job | None:
        request = f"{self._name}-{plan.number}"
        content = {"request": request, "kind": plan.kind, "run_s": plan.run_s}
        options: dict[str, Any] = {}
        match plan.kind:
            case "delayed":
                options["not_before"] = self._began_at + timedelta(seconds=plan.moment_s)
            case "expiring":
                options["expire_time"] = self._began_at + timedelta(seconds=plan.moment_s)
            case "overtime":
                options["max_run_time"] = OVERTIME
        self._journal.note("submits", request=request, kind=plan.kind)
        try:
            job = await self._until_answered(
                lambda: client.submit(self._backend, content, request_id=request, **options), request
            )
        except InvalidArgumentError as error:
            # Its moment had passed before the server was back.
            self._journal.note("gives up", request=request, error=str(error))
            return None
        self._journal.note("acknowledged", request=request, job=job.name, kind=plan.kind)
        return job

    async def _follow(self, job: Job, plan: JobPlan) -> None:
        if plan.kind in {"cancel", "cancel running", "deaf"}:
            await asyncio.sleep(0.0 if plan.kind == "cancel" else CANCEL_AFTER_S)
            await self._until_answered(job.cancel, job.name)
            self._journal.note("cancels", job=job.name)
        ended = await self._until_answered(job.wait, job.name)
        result = b""
        if ended.result_bytes:
            result = await self._until_answered(job.result_bytes, job.name)
        self._journal.note("sees the end", job=job.name, state=ended.state, result=result.decode())

    async def _until_answered(self, call: Callable[[], Awaitable[Result]], subject: str) -> Result:
        while True:
            try:
                return await call()
            except InvalidArgumentError:
                raise
            except SpoolwayError as error:
                self._journal.note("is refused", subject=subject, error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(AGAIN_S)
