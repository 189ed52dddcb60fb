"""The peers, and how their servers are started: on a port of their own, with their data in a folder."""

import asyncio
import os
import pwd
import shutil
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bodies import Body, End, start_ends
from bench.children import ROOT, BenchError, Child

__all__ = ["PEERS", "Peer", "start_peer"]

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
START_S = 30.0
LOOK_S = 0.05


@dataclass(frozen=True)
class Peer:
    """Another queue."""

    name: str
    module: str
    """Of its client and its worker."""
    start: Callable[[AsyncExitStack, Path, int], Awaitable[Child]]
    """Starts its server: given a folder for its data and a port."""


async def start_peer(stack: AsyncExitStack, peer: Peer, folder: Path) -> Body:
    """A peer's server with its client and its worker."""
    if not PYTHON.exists():
        raise BenchError("the peers' packages are not installed: run `make bench-peers`")
    port = _free_port()
    server = await peer.start(stack, folder, port)
    await _listening(server, port)
    # The worker makes the tables, so it is there before the client submits.
    client, worker = await start_ends(
        stack, peer.name, End(peer.module, ["client", port]), End(peer.module, ["worker", port]), folder,
        python=PYTHON,
    )  # fmt: skip
    return Body(peer.name, server=server, client=client, worker=worker, counter=worker)


async def _beanstalkd(stack: AsyncExitStack, folder: Path, port: int) -> Child:
    options = ["-l", "127.0.0.1", "-p", port, "-b", folder, "-f", 0]
    return await _server(stack, "beanstalkd", [_found("beanstalkd"), *options], folder)


async def _postgresql(stack: AsyncExitStack, folder: Path, port: int) -> Child:
    initdb = _initdb()
    data = folder / "data"
    data.mkdir()
    user: list[object] = []
    if os.geteuid() == 0:
        # It refuses to run as root.
        account = pwd.getpwnam("postgres")
        os.chown(data, account.pw_uid, account.pw_gid)
        user = ["--reuid", account.pw_uid, "--regid", account.pw_gid, "--clear-groups"]
    making = await Child.run(
        "initdb",
        ["setpriv", *user, initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale", "C"],
        folder=folder,
    )
    await making.ended()
    options = ["-D", data, "-p", port, "-h", "127.0.0.1", "-k", data]
    return await _server(stack, "postgresql", [initdb.with_name("postgres"), *options], folder, user=user)


async def _redis(stack: AsyncExitStack, folder: Path, port: int) -> Child:
    options = ["--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "always"]
    return await _server(stack, "redis", [_found("redis-server"), *options], folder)


async def _server(
    stack: AsyncExitStack, name: str, command: Sequence[object], folder: Path, *, user: Sequence[object] = ()
) -> Child:
    # It ends with us, however we end.
    server = await Child.run(name, ["setpriv", "--pdeathsig", "QUIT", *user, *command], folder=folder)
    stack.push_async_callback(server.stop)
    return server


async def _listening(server: Child, port: int) -> None:
    try:
        async with asyncio.timeout(START_S):
            while True:
                server.require_life()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(LOOK_S)
                else:
                    writer.close()
                    return
    except TimeoutError:
        raise BenchError(f"{server.name} does not listen after {START_S:.0f} s") from None


def _initdb() -> Path:
    # Debian keeps each version's programs in a folder of its own.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise BenchError("PostgreSQL is not installed: run `make bench-peers`")
    return found[-1]


def _found(command: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise BenchError(f"{command} is not installed: run `make bench-peers`")
    return path


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


PEERS = (
    Peer("beanstalkd", "bench.peers.beanstalkd_ends", _beanstalkd),
    Peer("procrastinate", "bench.peers.procrastinate_ends", _postgresql),
    Peer("celery", "bench.peers.celery_ends", _redis),
)
