"""What users of the client package do all the time: submit, look, watch, spool. It notes what fails."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from spoolway import JobClient, JobSnapshot, RunningJob, Spooler, SpoolwayError

__all__ = ["Load"]

SPOOLERS = 2
SUBMITTERS = 3


class Load:
    """Runs through one address until it is stopped."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.acknowledged: list[str] = []
        """Names of jobs whose submit was answered."""
        self.failed: list[str] = []
        """Calls of the client package that raised."""
        self.seen: dict[str, JobSnapshot] = {}
        """Of each job the newest that the watcher was shown."""
        self.regressions: list[str] = []
        """Jobs of which the watcher was shown something older after something newer."""
        self.runs: defaultdict[str, int] = defaultdict(int)
        self.held_twice: list[str] = []
        """Jobs that two spoolers ran at one time."""
        self._in_hand: set[str] = set()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, address: str) -> AsyncIterator["Load"]:
        """Load; in the end all jobs that were acknowledged have been run and seen."""
        load = cls(address)
        spoolers = [load._spooler(f"sim-{n}") for n in range(SPOOLERS)]
        serving = [asyncio.create_task(spooler.serve()) for spooler in spoolers]
        async with JobClient(address, user="alice") as client:
            await load._registered(client)
            watching = asyncio.create_task(load._watch())
            submitting = [asyncio.create_task(load._submit(client)) for _ in range(SUBMITTERS)]
            try:
                yield load
                load._stopping.set()
                await asyncio.gather(*submitting)
                async with asyncio.timeout(60):
                    await load._all_ended()
            finally:
                for task in (watching, *submitting):
                    task.cancel()
                for spooler in spoolers:
                    spooler.drain()
                await asyncio.wait(serving, timeout=20)

    async def _registered(self, client: JobClient) -> None:
        async with asyncio.timeout(30):
            while not [backend for backend in await client.backends() if backend.name == "sim"]:
                await asyncio.sleep(0.1)

    def _spooler(self, spooler_id: str) -> Spooler:
        return Spooler(
            spooler_id,
            backend="sim",
            config={},
            run=self._run,
            concurrency=4,
            address=self._address,
            user="robot",
            predecessor_dead=True,
        )

    async def _run(self, job: RunningJob) -> dict[str, int]:
        if job.name in self._in_hand:
            self.held_twice.append(job.name)
        self._in_hand.add(job.name)
        self.runs[job.name] += 1
        await asyncio.sleep(0.02)
        self._in_hand.discard(job.name)
        return {"run": self.runs[job.name]}

    async def _submit(self, client: JobClient) -> None:
        while not self._stopping.is_set():
            try:
                job = await client.submit("sim", {"a": 1})
                self.acknowledged.append(job.name)
                await job.status()
            except SpoolwayError as error:
                self.failed.append(repr(error))
            await asyncio.sleep(0.03)

    async def _watch(self) -> None:
        async with JobClient(self._address, user="alice") as client:
            async for snapshot in client.watch(backend="sim"):
                before = self.seen.get(snapshot.name)
                if before is not None and before.revision > snapshot.revision:
                    self.regressions.append(snapshot.name)
                self.seen[snapshot.name] = snapshot
                if snapshot.is_terminal:
                    self._ended.set()

    async def _all_ended(self) -> None:
        while not all((seen := self.seen.get(name)) and seen.is_terminal for name in self.acknowledged):
            self._ended.clear()
            await self._ended.wait()
