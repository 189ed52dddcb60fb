"""The idle server: what 1,000 waiting spoolers cost."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bodies import start_server
from bench.children import Child
from bench.client import METADATA, Stub, connect
from bench.preload import CONFIG
from bench.proc import cpu_s, rss_mb
from bench.storages import StorageCase
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Idle", "watch_idle"]

BACKEND = "idle"
OPEN_S = 120.0
QUIET_S = 2.0
"""From the last welcome until the watch begins."""


@dataclass(frozen=True)
class Idle:
    """What the server used."""

    streams: int
    cpu_percent: float
    """Of one core."""
    rss_mb: float


async def watch_idle(case: StorageCase, folder: Path, *, streams: int, seconds: float) -> Idle:
    """Watch a server whose spoolers all wait."""
    async with AsyncExitStack() as stack:
        server, address = await start_server(stack, case, folder)
        async with connect(address) as channel:
            request = pb.RegisterBackendRequest(backend=BACKEND, config=CONFIG)
            await Stub(channel).RegisterBackend(request, metadata=METADATA)
        idlers = await Child.start("idlers", "bench.idlers", [address, BACKEND, streams], folder=folder)
        stack.push_async_callback(idlers.stop)
        await idlers.ready(timeout_s=OPEN_S)
        await asyncio.sleep(min(QUIET_S, seconds))
        began, before_s = time.monotonic(), cpu_s(server.pid)
        await asyncio.sleep(seconds)
        used_s, took_s = cpu_s(server.pid) - before_s, time.monotonic() - began
        return Idle(streams, used_s / took_s * 100, rss_mb(server.pid))
