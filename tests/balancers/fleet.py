"""Server processes that share one storage, and a balancer before them with the configuration of deploy/."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["BALANCERS", "DRAIN_PAUSE_S", "Balancer", "Fleet", "Server", "free_port"]

DEPLOY = Path(__file__).parents[2] / "deploy"
BALANCERS = ("haproxy", "nginx", "envoy")
DRAIN_PAUSE_S = 5.0
"""The default: longer than two failed checks of a balancer, a second apart and a second long each."""
START_S = 30.0
STOP_S = 30.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class _Process:
    """A child process with its log; never outlives the test."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, *command: object, **environment: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; returns the exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return await asyncio.to_thread(self._process.wait, STOP_S)

    async def close(self) -> None:
        if self.running:
            await self.end(signal.SIGKILL)


class Server(_Process):
    """One `spoolway serve` on a port that it keeps over restarts."""

    def __init__(self, name: str, folder: Path, storage: Path) -> None:
        super().__init__(name, folder)
        self.port = free_port()
        self._metrics_port = free_port()
        self._settings = {
            "SPOOLWAY_SERVER__PORT": str(self.port),
            "SPOOLWAY_SERVER__DRAIN_PAUSE_S": str(DRAIN_PAUSE_S),
            "SPOOLWAY_SERVER__DRAIN_GRACE_S": "10",
            "SPOOLWAY_METRICS__ENABLED": "true",
            "SPOOLWAY_METRICS__PORT": str(self._metrics_port),
            "SPOOLWAY_STORAGES__MAIN__TYPE": "sqlite",
            "SPOOLWAY_STORAGES__MAIN__PATH": str(storage),
        }

    async def start(self) -> None:
        """Start it, and wait until it can be scraped."""
        self.launch(
            sys.executable,
            *("-c", "from spoolway_server.cli import main; main()", "serve"),
            **self._settings,
        )
        async with asyncio.timeout(START_S):
            while not await self.figures():
                assert self.running, self.log
                await asyncio.sleep(0.1)

    async def figures(self) -> dict[str, float]:
        """Its metrics by name and the labels that tell them apart here; empty if it does not answer."""
        return await asyncio.to_thread(self._scrape)

    def _scrape(self) -> dict[str, float]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5
            ) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        return {
            " ".join(
                [one.name, *(one.labels[key] for key in ("method", "code") if key in one.labels)]
            ): one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }


class Balancer(_Process):
    """HAProxy, nginx or Envoy, as in deploy/ but for the addresses."""

    def __init__(self, kind: str, folder: Path, servers: Iterable[Server]) -> None:
        super().__init__(kind, folder)
        self._kind = kind
        self._folder = folder
        self._servers = list(servers)
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.launch(*self._command())
        async with asyncio.timeout(START_S):
            while not self._listens():
                assert self.running, self.log
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Asked, not killed: nginx's workers would outlive it."""
        if self.running:
            await self.end(signal.SIGTERM)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _command(self) -> list[object]:
        match self._kind:
            case "haproxy":
                return ["haproxy", "-db", "-f", self._config("haproxy.cfg")]
            case "nginx":
                command: list[object] = ["nginx", "-c", self._config("nginx.conf"), "-p", self._folder]
                return [*command, "-g", "daemon off;"]
            case _:
                envoy = Path(sys.executable).with_name("envoy")
                return [envoy, "-c", self._config("envoy.yaml"), "--disable-hot-restart", "-l", "warning"]

    def _config(self, name: str) -> Path:
        """The deployed file; only the places of servers and listeners are changed."""
        text = (DEPLOY / name).read_text(encoding="utf-8").replace("50051", str(self.port))
        text = text.replace("address: 0.0.0.0", "address: 127.0.0.1").replace("/tmp/", f"{self._folder}/")  # noqa: S108
        # Where there is one server only, nobody listens at the other's place.
        ports = [server.port for server in self._servers] + [free_port(), free_port()]
        for number in (1, 2):
            port = ports[number - 1]
            text = text.replace(f"spoolway-{number}:50061", f"127.0.0.1:{port}").replace(
                f"address: spoolway-{number}, port_value: 50061", f"address: 127.0.0.1, port_value: {port}"
            )
        path = self._folder / name
        path.write_text(text, encoding="utf-8")
        return path


class NoBalancer(Balancer):
    """The client package itself: it is told both servers, takes turns and checks their health."""

    @property
    def address(self) -> str:
        return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in self._servers)

    async def start(self) -> None:
        """There is nothing to start."""


class Fleet:
    """Servers and the balancer before them."""

    def __init__(self, kind: str, folder: Path, count: int = 2) -> None:
        self.servers = [Server(f"server-{n}", folder, folder / "main.sqlite") for n in range(1, count + 1)]
        self.balancer = (
            NoBalancer(kind, folder, self.servers) if kind == "none" else Balancer(kind, folder, self.servers)
        )

    @classmethod
    @asynccontextmanager
    async def running(cls, kind: str, folder: Path, count: int = 2) -> AsyncIterator["Fleet"]:
        """All of it, up and then down."""
        fleet = cls(kind, folder, count)
        try:
            await asyncio.gather(*(server.start() for server in fleet.servers))
            await fleet.balancer.start()
            yield fleet
        finally:
            await asyncio.gather(*(one.close() for one in (fleet.balancer, *fleet.servers)))

    async def total(self, *names: str) -> list[float]:
        """Sums over the servers that answer."""
        figures = [await server.figures() for server in self.servers]
        return [sum(figure.get(name, 0) for figure in figures) for name in names]

    async def streams_back(self, spoolers: int, watches: int, *, since: float) -> float:
        """Wait until so many streams are open; returns the seconds since `since`, of time.monotonic."""
        async with asyncio.timeout(60):
            while True:
                open_now = await self.total("spoolway_streams StreamNextJobs", "spoolway_streams WatchJobs")
                if open_now == [spoolers, watches]:
                    return max(0.0, time.monotonic() - since)
                await asyncio.sleep(0.05)

    @staticmethod
    async def in_rotation(server: Server) -> None:
        """Wait until the balancer sends submits to it."""
        async with asyncio.timeout(60):
            while not (await server.figures()).get("spoolway_rpcs_total SubmitJob OK"):
                await asyncio.sleep(0.1)
