"""A real server for your tests, in this process, its jobs in memory.

    async with serving() as address:
        async with JobClient(address) as client:
            ...

Needs the package spoolway-server, which spoolway-client does not bring.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Optional

from spoolway.errors import SpoolwayError

if TYPE_CHECKING:
    from spoolway_server.app import SpoolwayServer
    from spoolway_server.config import Config

__all__ = ["serving", "serving_in_thread"]

_STOP_GRACE_S = 1.0


@asynccontextmanager
async def serving(config: Optional["Config"] = None) -> AsyncIterator[str]:
    """Run a server in this event loop; the value is its address, host:port.

    Args:
        config: A `spoolway_server.config.Config`; None: a free port, and one storage in memory, which ends
            with the server.

    Raises:
        SpoolwayError: spoolway-server is not installed.
    """
    server = _make_server(config)
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop(_STOP_GRACE_S)


@contextmanager
def serving_in_thread(config: Optional["Config"] = None) -> Iterator[str]:
    """Run a server in a thread of its own, for blocking tests and notebooks; see `serving`."""
    thread = _ServerThread(config)
    thread.start()
    try:
        yield thread.wait_for_address()
    finally:
        thread.stop()


class _ServerThread(threading.Thread):
    def __init__(self, config: Optional["Config"]) -> None:
        super().__init__(name="spoolway-server", daemon=True)
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._address = ""
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told to who started the thread
            self._error = error
        finally:
            self._ready.set()

    def wait_for_address(self) -> str:
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._address

    def stop(self) -> None:
        if self._error is None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()

    async def _serve(self) -> None:
        async with serving(self._config) as self._address:
            self._ready.set()
            await self._stopping.wait()


def _make_server(config: Optional["Config"]) -> "SpoolwayServer":
    try:
        from spoolway_server.app import SpoolwayServer
        from spoolway_server.config import load_config
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "spoolway_server":
            raise
        raise SpoolwayError(
            "spoolway.testing runs a server: install it with `pip install spoolway-server`"
        ) from error
    if config is None:
        config = load_config(None, env={}, overrides={"server.port": 0, "storages.main.type": "memory"})
    return SpoolwayServer(config)
