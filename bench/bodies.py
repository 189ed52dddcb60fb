"""What is measured: a server, a client and a worker, each a process of its own, and the two measurements."""

import math
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.children import Child
from bench.proc import cpu_s
from bench.storages import StorageCase
from bench.worker import StreamPlan

__all__ = [
    "PRELOAD_S",
    "Body",
    "End",
    "Latency",
    "Throughput",
    "preload",
    "quantile",
    "start_ends",
    "start_floor",
    "start_server",
    "start_service",
]

CONFIG = """
[server]
drain_pause_s = 0
drain_grace_s = 1
log_level = "warning"

[storages.main]
type = "{type}"
"""
PRELOAD_S = 300.0
SETTLE_S = 120.0
"""How long work may go on after its last submit."""


@dataclass(frozen=True)
class Throughput:
    """Jobs a second, and the CPU time of each process for one job."""

    jobs: int
    per_s: float
    cpu_us: dict[str, float]


@dataclass(frozen=True)
class Latency:
    """In milliseconds: submit to its answer, and submit to arrival at the worker."""

    submit_p50: float
    submit_p99: float
    p50: float
    p99: float


class Body:
    """One thing to measure."""

    def __init__(self, name: str, *, server: Child, client: Child, worker: Child, counter: Child) -> None:
        """`counter` is the process that sees the last step of a job."""
        self.name = name
        self.client = client
        self.worker = worker
        self.counter = counter
        self._processes = {"server": server, "client": client, "worker": worker}

    async def echo(self, seconds: float, in_flight: int) -> float:
        """Calls answered a second."""
        sent = await self.client.do("load", call="echo", backend="", seconds=seconds, in_flight=in_flight)
        return float(sent["jobs"] / (sent["last_ns"] - sent["started_ns"]) * 1e9)

    async def echo_p50_ms(self, calls: int, pause_s: float) -> float:
        """One call at a time; the median."""
        sent = await self.client.do(
            "one_by_one", call="echo", backend="", calls=calls, pause_s=pause_s, waits=False
        )
        return quantile(sent["took_ns"], 0.5) / 1e6

    async def throughput(
        self, call: str, backend: str, seconds: float, in_flight: int, *, grants: bool
    ) -> Throughput:
        """From the first submit to the last step of as many jobs as were submitted."""
        await self._reset(backend, one_by_one=False)
        if grants:
            await self._filled(backend)
        before = self._cpu_s()
        sent = await self.client.do(
            "load", call=call, backend=backend, seconds=seconds, in_flight=in_flight, grants=grants
        )
        done = await self.counter.do("wait", count=sent["jobs"], timeout_s=SETTLE_S)
        jobs = sent["jobs"]
        if grants:
            # What follows begins on a system that is quiet again.
            await self._filled(backend)
        cpu_us = {name: (after - before[name]) / jobs * 1e6 for name, after in self._cpu_s().items()}
        return Throughput(jobs, jobs / (done["last_ns"] - sent["started_ns"]) * 1e9, cpu_us)

    async def latency(self, call: str, backend: str, calls: int, pause_s: float) -> Latency:
        """One job at a time, on a system that does nothing else."""
        await self._reset(backend, one_by_one=True)
        sent = await self.client.do(
            "one_by_one", call=call, backend=backend, calls=calls, pause_s=pause_s, timeout_s=SETTLE_S
        )
        # The counter knows that all have ended, the worker when they came.
        await self.counter.do("wait", count=calls)
        arrived = await self.worker.do("wait", count=calls)
        return _latency(sent["took_ns"], arrived["arrivals_ns"])

    async def _filled(self, backend: str) -> None:
        """Wait until the worker holds all that it may."""
        await self.worker.do("filled", backend=backend, timeout_s=SETTLE_S)

    async def _reset(self, backend: str, *, one_by_one: bool) -> None:
        await self.worker.do("reset", backend=backend, one_by_one=one_by_one)
        if self.counter is not self.worker:
            await self.counter.do("reset")

    def _cpu_s(self) -> dict[str, float]:
        return {name: cpu_s(process.pid) for name, process in self._processes.items()}


async def start_floor(stack: AsyncExitStack, folder: Path) -> Body:
    """The floor with its client and worker."""
    server = await _child(stack, "floor", "bench.floor", [folder / "floor.log"], folder)
    address = (await server.ready())["address"]
    client, worker = await start_ends(stack, "floor", *_modules("floor", address), folder)
    return Body("floor", server=server, client=client, worker=worker, counter=server)


async def start_service(
    stack: AsyncExitStack,
    case: StorageCase,
    streams: Sequence[StreamPlan],
    folder: Path,
    *,
    profile: Path | None = None,
) -> Body:
    """A server on this storage with its client and worker."""
    server, address = await start_server(stack, case, folder, profile=profile)
    client, worker = await start_ends(stack, case.name, *_modules("service", address, streams), folder)
    return Body(case.name, server=server, client=client, worker=worker, counter=worker)


async def start_server(
    stack: AsyncExitStack, case: StorageCase, folder: Path, *, profile: Path | None = None
) -> tuple[Child, str]:
    """A server as users run it, and its address."""
    config = folder / "spoolway.toml"
    login = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in case.login(folder).items()]
    config.write_text(CONFIG.format(type=case.name) + "\n".join(login) + "\n", "utf-8")
    command: list[object] = ["spoolway_server.cli", "serve", "--config", config, "--port", 0]
    if profile is not None:
        command = ["bench.profiled", profile, *command]
    # The leash ends it with us, however we end.
    server = await _child(stack, f"{case.name} server", "spoolway_server.cli.leash", command, folder)
    return server, await server.line()


async def preload(case: StorageCase, backend: str, jobs: int, folder: Path) -> None:
    """Fill a storage whose server does not run yet."""
    login = msgspec.json.encode(case.login(folder)).decode()
    child = await Child.start(
        f"{case.name} preload", "bench.preload", [case.name, login, backend, jobs], folder=folder
    )
    try:
        await child.ready(timeout_s=PRELOAD_S)
    finally:
        await child.stop()


@dataclass(frozen=True)
class End:
    """A client or a worker: a module, started with `before`, its end of the link and `after`."""

    module: str
    before: Sequence[object]
    after: Sequence[object] = ()


async def start_ends(
    stack: AsyncExitStack,
    name: str,
    client: End,
    worker: End,
    folder: Path,
    *,
    python: Path | str = sys.executable,
) -> tuple[Child, Child]:
    """A client and a worker, linked to each other."""
    client_link, worker_link = socket.socketpair()
    with closing(client_link), closing(worker_link):
        ends = []
        for kind, end, link in (("client", client, client_link), ("worker", worker, worker_link)):
            arguments = [*end.before, link.fileno(), *end.after]
            child = await Child.start(
                f"{name} {kind}", end.module, arguments, folder=folder, links=[link.fileno()], python=python
            )
            stack.push_async_callback(child.stop)
            ends.append(child)
    for child in ends:
        await child.ready()
    return ends[0], ends[1]


def _modules(kind: str, address: str, streams: Sequence[StreamPlan] = ()) -> tuple[End, End]:
    plans = msgspec.json.encode(streams).decode()
    return End("bench.client", [kind, address]), End("bench.worker", [kind, address], [plans])


async def _child(
    stack: AsyncExitStack, name: str, module: str, arguments: Sequence[Any], folder: Path
) -> Child:
    child = await Child.start(name, module, arguments, folder=folder)
    stack.push_async_callback(child.stop)
    return child


def _latency(submit_ns: Sequence[int], arrival_ns: Sequence[int]) -> Latency:
    return Latency(
        quantile(submit_ns, 0.5) / 1e6,
        quantile(submit_ns, 0.99) / 1e6,
        quantile(arrival_ns, 0.5) / 1e6,
        quantile(arrival_ns, 0.99) / 1e6,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not pass."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
