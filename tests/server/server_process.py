"""Servers as processes of their own, and the memory that they take."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from tests.server.lab import Caller

__all__ = ["ServerProcess", "caller_of", "server_process", "write_config"]

START_S = 30.0
CONFIG = """
[server]
drain_pause_s = 0
drain_grace_s = 1

[storages.main]
type = "sqlite"
path = "{path}"
"""


class ServerProcess:
    """A server as users run it, and what memory it takes."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.address = address
        self._process = process
        self._memory = Path(f"/proc/{process.pid}")
        self._rss_before_mib = 0.0

    def watch_memory(self) -> None:
        """From here on growth is counted."""
        (self._memory / "clear_refs").write_text("5")
        self._rss_before_mib = self._status_mib("VmRSS")

    @property
    def growth_mib(self) -> float:
        """The highest that its memory has been since, above what it was then."""
        return self._status_mib("VmHWM") - self._rss_before_mib

    @property
    def rss_mib(self) -> float:
        """All that it takes now."""
        return self._status_mib("VmRSS")

    @property
    def lasting_growth_mib(self) -> float:
        """What it takes now above what it took when memory was first watched; what was given back aside."""
        return self.rss_mib - self._rss_before_mib

    def _status_mib(self, field: str) -> float:
        lines = (self._memory / "status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def write_config(folder: Path) -> Path:
    """A configuration whose storage lies in the folder."""
    config = folder / "spoolway.toml"
    config.write_text(CONFIG.format(path=folder / "spoolway.sqlite"))
    return config


@contextlib.asynccontextmanager
async def server_process(config: Path, log: Path | None = None) -> AsyncIterator[ServerProcess]:
    """A server in a process of its own, which writes its log to a file, if there is one."""
    leash = [sys.executable, "-m", "spoolway_server.cli.leash", "spoolway_server.cli", "serve"]
    errors = log.open("wb") if log else None  # before anything runs
    process = await asyncio.create_subprocess_exec(
        *leash, "--config", str(config), "--port", "0",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
        env={name: value for name, value in os.environ.items() if not name.startswith("SPOOLWAY_")},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            address = (await process.stdout.readline()).decode().strip()
        yield ServerProcess(process, address)
    finally:
        process.terminate()
        await process.wait()
        if errors:
            errors.close()


@contextlib.asynccontextmanager
async def caller_of(server: ServerProcess) -> AsyncIterator[Caller]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Caller(channel, "ada")
