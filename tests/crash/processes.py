"""The harness's side of its processes: started, killed, paused, seen to end, started again."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from tests.crash.journal import Journal, now
from tests.crash.storages import storage_case

__all__ = ["Company", "Life", "Zygote", "address_of", "free_ports", "own_host", "zygote"]

QUICK_S = 0.2
TRIES = 5
"""A process that has ended so quickly so often in a row is given up."""
ROOT = Path(__file__).parents[2]
LOOK_S = 0.01


class Zygote:
    """What starts processes; one serves any number of rounds."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, role: str, who: str, folder: Path, arguments: dict[str, Any]) -> int:
        """Start a process; its id."""
        command = {
            "role": role,
            "who": who,
            "arguments": arguments,
            "journal": str(folder / "journal"),
            "log": str(folder / f"{who.partition('.')[0]}.log"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def zygote(provider: str) -> Iterator[Zygote]:
    """A zygote for rounds on one type of storage; whatever it has started ends with it."""
    storage_case(provider).prepare()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crash.zygote", provider],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield Zygote(process)
        process.kill()


def _environment() -> dict[str, str]:
    """Ours, without settings of a service that the user may run."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SPOOLWAY_") or name == "SPOOLWAY_DROPBOX_EMULATOR"
    }


class Life:
    """One process from its start to its end; told apart from later ones of the same id by the kernel."""

    def __init__(self, pid: int, who: str, journal: Journal) -> None:
        self._who = who
        self._journal = journal
        self.ended = asyncio.Event()
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = None
            self._end()
        else:
            asyncio.get_running_loop().add_reader(self._handle, self._end)

    @property
    def is_alive(self) -> bool:
        """Whether its end has not been noticed."""
        return self._handle is not None

    def send(self, number: signal.Signals, what: str = "") -> None:
        """Send it a signal, unless it has ended."""
        if self._handle is not None:
            if what:
                self._journal.note(what, whom=self._who)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def _end(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)
        self._journal.note("is gone", whom=self._who)
        self.ended.set()


class Company:
    """The processes of a round: each lives, and lives again after a moment, until it is done."""

    def __init__(
        self,
        zygote: Zygote,
        folder: Path,
        journal: Journal,
        arguments: Callable[[str, str], dict[str, Any]],
        *,
        restart_s: Sequence[float],
        is_done: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Nobody lives yet.

        Args:
            zygote: Starts them.
            folder: Of the round.
            journal: The harness's own.
            arguments: Of a process, by its name and by the name of its life.
            restart_s: How long one that has ended stays away, by its number of lives.
            is_done: Whether a process that has ended is not to live again.
        """
        self._zygote = zygote
        self._folder = folder
        self._journal = journal
        self._arguments = arguments
        self._restart_s = restart_s
        self._is_done = is_done
        self._keepers: list[asyncio.Task[None]] = []
        self.lives: dict[str, Life] = {}
        """The present, or last, life of each, by name."""

    def keep(self, name: str) -> "asyncio.Task[None]":
        """Have a process live; what is returned ends once it is done."""
        task = asyncio.create_task(self._keep(name))
        self._keepers.append(task)
        return task

    async def living(self, name: str) -> Life:
        """The present life of a process; of one that is dead just now the next, if there is to be one."""
        while self.lives[name].ended.is_set() and not self._is_done(name):  # noqa: ASYNC110 - its keeper waits as well
            await asyncio.sleep(LOOK_S)
        return self.lives[name]

    async def end(self) -> None:
        """Kill everybody, and wait until they are gone."""
        for task in self._keepers:
            task.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._journal.note("ends")
        for life in self.lives.values():
            life.send(signal.SIGKILL)
        await asyncio.gather(*(life.ended.wait() for life in self.lives.values()))

    async def _keep(self, name: str) -> None:
        quick_ends = 0
        for number in count(1):
            who = f"{name}.{number}"
            started_at = now()
            pid = self._zygote.start(name.partition("-")[0], who, self._folder, self._arguments(name, who))
            life = self.lives[name] = Life(pid, who, self._journal)
            await life.ended.wait()
            if self._is_done(name):
                return
            quick_ends = quick_ends + 1 if now() - started_at < QUICK_S else 0
            if quick_ends > TRIES:
                self._journal.note("does not come up", whom=who)
                return
            await asyncio.sleep(self._restart_s[number % len(self._restart_s)])


_hosts = count(1)


def own_host() -> str:
    """A loopback address that no other round has: a dead server's port is not taken by another's."""
    number = next(_hosts)
    return f"127.{1 + os.getpid() % 254}.{os.getpid() // 254 % 256}.{1 + number % 254}"


def address_of(ports: Iterable[int], host: str = "127.0.0.1") -> str:
    """What clients are given to reach all of some servers."""
    return "ipv4:" + ",".join(f"{host}:{port}" for port in ports)


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    found = [socket.socket() for _ in range(count)]
    try:
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]
    finally:
        for one in found:
            one.close()
