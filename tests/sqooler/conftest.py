"""A server as users run it, in a process of its own, and sqooler's programs beside it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolway import DeadlineExceededError, SyncJobClient, UnavailableError

# Here, before anything imports the SDK, which then finds the emulator.
from tests.dropbox_emulator import DropboxAccount, make_account

COMMAND = os.environ["SPOOLWAY_COMMAND"]
LAB = str(Path(__file__).with_name("lab.py"))


class Server:
    """`spoolway serve`, which can be killed and started again on the same data."""

    def __init__(self, storage: dict[str, str], leases: dict[str, str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._log = log
        self._environment = {
            **os.environ,
            "SPOOLWAY_SERVER__PORT": str(port),
            **{f"SPOOLWAY_STORAGES__MAIN__{name.upper()}": value for name, value in storage.items()},
            **{f"SPOOLWAY_LEASES__{name.upper()}": value for name, value in leases.items()},
        }
        try:
            self.start()
        except BaseException:
            self.kill()
            raise

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve"], env=self._environment, stdout=log, stderr=log, cwd=self._log.parent
            )
        with SyncJobClient(self.address, timeout=2) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.backends()
                    return
                except (UnavailableError, DeadlineExceededError):
                    assert self.process.poll() is None, self._log.read_text()[-3000:]
                    assert time.monotonic() < deadline, self._log.read_text()[-3000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Keeper:
    """Starts a program again each time it ends, as a service manager does."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.starts = 0
        self._command = [sys.executable, LAB, *arguments]
        self._environment = {**os.environ, **environment}
        self._is_kept = True
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _keep(self) -> None:
        while self._is_kept:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
            self.starts += 1
            self.process.wait()

    def kill(self) -> None:
        """End its process by kill -9; another is started."""
        os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self._is_kept = False
        self.process.kill()
        self._thread.join()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Any]:
    """Makes servers, by the settings of their storage."""
    servers: list[Server] = []

    def serve(leases: dict[str, str] | None = None, **storage: str) -> Server:
        servers.append(Server(storage, leases or {}, tmp_path / "server.log"))
        return servers[-1]

    yield serve
    for server in servers:
        server.kill()


@pytest.fixture
def server(serving: Any, tmp_path: Path) -> Server:
    return serving(type="sqlite", path=str(tmp_path / "main.sqlite"))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Any]:
    """Runs labs' programs, and keeps them running."""
    keepers: list[Keeper] = []

    def run(*arguments: str, wait_s: float = 0, **environment: str) -> Keeper:
        environment = {"T_WAIT_MAIN": str(wait_s), "PYTHONWARNINGS": "ignore", **environment}
        keepers.append(Keeper(list(arguments), environment, tmp_path / f"lab-{len(keepers)}.log"))
        return keepers[-1]

    yield run
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def dropbox_account() -> DropboxAccount:
    return make_account()


@pytest.fixture
def client(server: Server) -> Iterator[SyncJobClient]:
    with SyncJobClient(server.address, user="ada") as opened:
        yield opened
