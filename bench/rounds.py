"""The rounds: floor, then every storage, then the floor again; never one long after the other."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.bodies import PRELOAD_S, Body, Latency, Throughput, preload, start_floor, start_service
from bench.plan import Plan
from bench.storages import StorageCase
from bench.worker import StreamPlan

__all__ = ["FloorRound", "Round", "Rounds", "StorageRound", "say"]

SINGLE, BATCH, QUIET = "single", "batch", "quiet"
"""Backends: two whose queues keep their length, and one whose queue is empty."""


@dataclass
class FloorRound:
    """What a round measured of the floors."""

    echo_per_s: float
    echo_p50_ms: float
    single_relay: Throughput
    """The relay just before the storages' singles."""
    batch_relay: Throughput
    """Just before their batches."""
    relay_latency: Latency


@dataclass
class StorageRound:
    """What a round measured of a storage."""

    single: Throughput
    long: Throughput
    batch: Throughput
    latency: Latency


@dataclass
class Round:
    """All of it."""

    floor: FloorRound
    storages: dict[str, StorageRound] = field(default_factory=dict)


@dataclass
class _Running:
    """A storage's two servers: with a short queue, and with a long one."""

    short: Body
    long: Body


class Rounds:
    """Starts everything once, then measures round after round."""

    def __init__(self, plan: Plan, cases: Sequence[StorageCase], folder: Path) -> None:
        self._plan = plan
        self._cases = cases
        self._folder = folder

    async def run(self, started_at: float) -> list[Round]:
        """The plan's rounds; fewer, if the time since `started_at` runs out."""
        # Together: one storage waits for the disk while another one computes.
        await asyncio.gather(*(self._fill(case) for case in self._cases))
        async with AsyncExitStack() as stack:
            floor = await start_floor(stack, self._subfolder("floor"))
            running = {case.name: await self._start(stack, case) for case in self._cases}
            await self._warm_up(floor, running)
            rounds: list[Round] = []
            longest_s = 0.0
            for number in range(1, self._plan.rounds + 1):
                began = time.monotonic()
                if rounds and began + longest_s > started_at + self._plan.budget_s:
                    say(f"out of time after {len(rounds)} of {self._plan.rounds} rounds")
                    break
                rounds.append(await self._round(floor, running))
                longest_s = max(longest_s, time.monotonic() - began)
                say(f"round {number} of {self._plan.rounds}: {_gist(rounds[-1])}")
        return rounds

    async def _start(self, stack: AsyncExitStack, case: StorageCase) -> _Running:
        plan = self._plan
        single = StreamPlan(SINGLE, plan.credit, gated=True)
        batch = StreamPlan(BATCH, plan.batch_credit, gated=True)
        quiet = StreamPlan(QUIET, plan.credit, gated=False)
        short = await start_service(
            stack, case, [single, batch, quiet], self._subfolder(f"{case.name}-short")
        )
        # What the worker holds is queued no more.
        await short.client.do("preload", backend=SINGLE, jobs=plan.short_queue + plan.credit)
        await short.client.do("preload", backend=BATCH, jobs=plan.short_queue + plan.batch_credit)
        long = await self._start_long(stack, case, single)
        return _Running(short, long)

    async def _fill(self, case: StorageCase) -> None:
        """Make the long queue's folder, and the queue where the storage outlives the process that does so."""
        folder = self._subfolder(f"{case.name}-long")
        if case.outlives_its_process:
            jobs, began = self._long_queue(case), time.monotonic()
            await preload(case, SINGLE, jobs, folder)
            say(f"{case.name}: queued {jobs:,} jobs in {time.monotonic() - began:.1f} s")

    async def _start_long(self, stack: AsyncExitStack, case: StorageCase, stream: StreamPlan) -> Body:
        body = await start_service(stack, case, [stream], self._folder / f"{case.name}-long")
        if not case.outlives_its_process:
            jobs = self._long_queue(case)
            await body.client.do("preload", backend=stream.backend, jobs=jobs, timeout_s=PRELOAD_S)
        return body

    def _long_queue(self, case: StorageCase) -> int:
        # What the worker holds is queued no more.
        return (case.long_queue or self._plan.long_queue) + self._plan.credit

    async def _warm_up(self, floor: Body, running: dict[str, _Running]) -> None:
        """Connections, caches, the first pages of files: not what a service that runs for months costs."""
        plan = self._plan
        await floor.throughput("relay", "", plan.warm_up_s, plan.in_flight, grants=False)
        for storage in running.values():
            for body in (storage.short, storage.long):
                await body.throughput("single", SINGLE, plan.warm_up_s, plan.in_flight, grants=True)
            await storage.short.throughput(
                "batch", BATCH, plan.warm_up_s, plan.batches_in_flight, grants=True
            )

    async def _round(self, floor: Body, running: dict[str, _Running]) -> Round:
        plan = self._plan
        echo_per_s = await floor.echo(plan.floor_s, plan.in_flight)
        echo_p50_ms = await floor.echo_p50_ms(plan.calls, plan.pause_s)
        single_relay = await self._relay(floor)
        single, long = {}, {}
        for name, storage in running.items():
            single[name] = await self._single(storage.short)
            long[name] = await self._single(storage.long)
        batch_relay = await self._relay(floor)
        batch = {
            name: await storage.short.throughput(
                "batch", BATCH, plan.case_s, plan.batches_in_flight, grants=True
            )
            for name, storage in running.items()
        }
        relay_latency = await floor.latency("relay", "", plan.calls, plan.pause_s)
        latency = {
            name: await storage.short.latency("single", QUIET, plan.calls, plan.pause_s)
            for name, storage in running.items()
        }
        return Round(
            FloorRound(echo_per_s, echo_p50_ms, single_relay, batch_relay, relay_latency),
            {name: StorageRound(single[name], long[name], batch[name], latency[name]) for name in running},
        )

    async def _relay(self, floor: Body) -> Throughput:
        return await floor.throughput("relay", "", self._plan.floor_s, self._plan.in_flight, grants=False)

    async def _single(self, body: Body) -> Throughput:
        return await body.throughput("single", SINGLE, self._plan.case_s, self._plan.in_flight, grants=True)

    def _subfolder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder


def say(line: str) -> None:
    """Progress, for people."""
    print(line, file=sys.stderr, flush=True)


def _gist(one: Round) -> str:
    storages = [
        f"{name} {storage.single.per_s:,.0f}/s, batch {storage.batch.per_s:,.0f}/s, "
        f"{storage.latency.p50:.2f} ms"
        for name, storage in one.storages.items()
    ]
    relay = f"relay {one.floor.single_relay.per_s:,.0f}/s, {one.floor.relay_latency.p50:.2f} ms"
    return "; ".join([relay, *storages])
