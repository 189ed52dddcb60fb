"""The parent's side: processes that are started, told what to do, and never outlive the bench."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.commands import Answer

__all__ = ["ROOT", "BenchError", "Child"]

ROOT = Path(__file__).parents[1]
START_S = 30.0
STOP_S = 10.0


class BenchError(Exception):
    """The bench can't go on; the message says which process failed, and what it logged."""


class Child:
    """A command that runs as a process of its own; its stderr goes into a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[object],
        *,
        folder: Path,
        links: Sequence[int] = (),
        python: Path | str = sys.executable,
    ) -> "Child":
        """Start a module; `links` are file descriptors that it inherits."""
        return await cls.run(name, [python, "-m", module, *arguments], folder=folder, links=links)

    @classmethod
    async def run(
        cls, name: str, command: Sequence[object], *, folder: Path, links: Sequence[int] = ()
    ) -> "Child":
        """Start any command."""
        log = folder / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                pass_fds=links,
                cwd=ROOT,
                env=_clean_environment(),
                # Lists of latencies come in one line.
                limit=16 * 1024 * 1024,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self, timeout_s: float = START_S) -> str:
        """The next line of its output."""
        if self._process.stdout is None:
            raise BenchError(f"{self.name} has no output")
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchError(f"{self.name} says nothing for {timeout_s:.0f} s\n{self._tail()}") from None
        if not line:
            raise BenchError(f"{self.name} has ended\n{self._tail()}")
        return line.decode().strip()

    async def ready(self, timeout_s: float = START_S) -> Answer:
        """Wait until it obeys."""
        return self._object(await self.line(timeout_s))

    async def do(self, command: str, *, timeout_s: float = 60.0, **arguments: Any) -> Answer:
        """Have a command done."""
        if self._process.stdin is None:
            raise BenchError(f"{self.name} takes no commands")
        with contextlib.suppress(ConnectionError):  # it has ended: `line` says so
            self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            await self._process.stdin.drain()
        return self._object(await self.line(timeout_s))

    def require_life(self) -> None:
        """Raise BenchError if it has ended."""
        if self._process.returncode is not None:
            raise BenchError(f"{self.name} has ended\n{self._tail()}")

    async def ended(self, timeout_s: float = START_S) -> None:
        """Wait until it has done its work."""
        async with asyncio.timeout(timeout_s):
            output, _ = await self._process.communicate()
        if self._process.returncode:
            raise BenchError(f"{self.name} has failed\n{output.decode()}\n{self._tail()}")

    async def stop(self) -> None:
        """Ask it to stop, then make it."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    @staticmethod
    def _object(line: str) -> Answer:
        answer: Answer = json.loads(line)
        return answer

    def _tail(self) -> str:
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-30:])


def _clean_environment() -> dict[str, str]:
    """Ours, without settings of a service that the user may run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPOOLWAY_")}
