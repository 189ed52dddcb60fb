"""A server that speaks MongoDB's protocol, as its own process: started, killed, made to fail.

The stand-in is for tests only: it is beta, has another licence than we, and is no measure of MongoDB's
speed. `SPOOLWAY_TEST_MONGODB_URI` names another server for all tests but those that kill, block or
restart it, or need it alone.
"""

import asyncio
import gc
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.login import login_of

_PROGRAM = Path(sys.executable).with_name("secantusd-py")
_START_S = 20.0

Clock = Callable[[], datetime]


class MongoServer:
    """A server at an address; ours to kill if we started it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def provider(self, database: str, **options: Any) -> MongoProvider:
        """A provider for a database on it, not yet open."""
        return MongoProvider(login_of({"uri": self.uri, "database": database}), **options)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """A name that nobody uses; the database goes afterwards."""
        name = f"test_{secrets.token_hex(6)}"
        yield name
        async with AsyncMongoClient[dict[str, Any]](self.uri) as client:
            await client.drop_database(name)


class StandIn(MongoServer):
    """A stand-in on this machine, in a folder of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port = _free_port()
        super().__init__(f"mongodb://127.0.0.1:{self.port}/")
        self._folder = folder
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(_PROGRAM), "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--storage-path", str(self._folder), "--enable-test-commands", *self._flags]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up_at = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, f"{_PROGRAM} ended at once"
                assert time.monotonic() < give_up_at, f"{_PROGRAM} does not listen"
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it without a goodbye, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it so that all is kept, users too."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(20)

    def start_again(self, *flags: str) -> None:
        """Start it on the same address and folder, with these flags from now on."""
        self._flags = flags
        self.start()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


DRIVERS_LEFTOVERS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""For tests that end while no server answers: the driver, stopped while it connects, leaves its socket to the
garbage collector, which warns of it."""


@pytest.fixture
def leftovers() -> Iterator[None]:
    """Collect the driver's leftovers here, where they are known, and not in a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in with change streams."""
    server = StandIn(tmp_path_factory.mktemp("mongodb"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def lone_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A stand-in without change streams."""
    server = StandIn(tmp_path_factory.mktemp("mongodb-alone"), "--standalone")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> MongoServer:
    """The server that `SPOOLWAY_TEST_MONGODB_URI` names, else a stand-in with change streams."""
    uri = os.environ.get("SPOOLWAY_TEST_MONGODB_URI")
    if uri:
        return MongoServer(uri)
    stand_in: StandIn = request.getfixturevalue("stand_in")
    return stand_in


class Commands(CommandListener):
    """Counts the commands that are sent to the server."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.places: list[str] = []
        """The same, each with its collection."""

    def started(self, event: Any) -> None:
        self.sent.append(event.command_name)
        self.places.append(f"{event.command_name} {event.command.get(event.command_name)}")

    def succeeded(self, event: Any) -> None:
        """Of no interest."""

    def failed(self, event: Any) -> None:
        """Of no interest."""

    @contextmanager
    def counted(self) -> Iterator[list[str]]:
        """The commands sent within, once it is over."""
        counted: list[str] = []
        before = len(self.sent)
        yield counted
        counted += self.sent[before:]


class Proxy:
    """Between a client and a server: counts commands, and lets the connection break at one of them.

    From then on it is dark: all connections are cut and none is accepted, until it is healed.
    """

    _UNCOUNTED = frozenset({"hello", "ismaster", "isMaster", "endSessions", "killCursors"})

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self._break_at = 0
        self._after_it = False
        self.count = 0
        self.is_dark = False
        self.uri = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.uri = f"mongodb://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/?directConnection=true"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.go_dark()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def break_at(self, number: int, *, after_it: bool) -> None:
        """Break at the command of this number from now: before the server has it, or before its answer."""
        self.count, self._break_at, self._after_it = 0, number, after_it

    def go_dark(self) -> None:
        """Cut everything."""
        self.is_dark = True
        for pump in self._pumps:
            pump.cancel()

    def heal(self) -> None:
        self.is_dark = False
        self._break_at = 0

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        if self.is_dark:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        state = {"answer_is_lost": False}
        there = asyncio.create_task(self._pump(reader, up_writer, state, is_request=True))
        back = asyncio.create_task(self._pump(up_reader, writer, state, is_request=False))
        pumps = {there, back}
        self._pumps |= pumps
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._pumps -= pumps
            for one in (writer, up_writer):
                one.close()
                with suppress(OSError):
                    await one.wait_closed()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        state: dict[str, bool],
        *,
        is_request: bool,
    ) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(4)
                frame = head + await reader.readexactly(int.from_bytes(head, "little") - 4)
                if is_request and self._is_the_one(frame):
                    if not self._after_it:
                        self.go_dark()
                        return
                    state["answer_is_lost"] = True
                elif not is_request and state["answer_is_lost"]:
                    self.go_dark()
                    return
                writer.write(frame)
                await writer.drain()

    def _is_the_one(self, frame: bytes) -> bool:
        """Whether this is the command to break at."""
        is_message = int.from_bytes(frame[12:16], "little") == 2013
        # Header, flags, the kind of section, the document's length, the type of its first element; its name.
        name = frame[26 : frame.index(b"\0", 26)].decode() if is_message else "hello"
        if name in self._UNCOUNTED:
            return False
        self.count += 1
        return self.count == self._break_at
