"""The index as the keeper's thread uses it: reads on a connection of its own, commits with all others'."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from spoolway_providers.errors import Unavailable
from spoolway_providers.sqlite.engine import Engine
from spoolway_providers.sqlite.schema import connect
from spoolway_providers.sqlite.writer import Operation

__all__ = ["Index"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Index:
    """Used by one thread; what it commits goes through the engine's writing thread."""

    def __init__(self, path: str, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._engine = engine
        self._loop = loop
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """For reading; opened when it is first needed."""
        if self._connection is None:
            self._connection = connect(Path(self._path), busy_timeout_s=5.0, read_only=True)
        return self._connection

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def now(self) -> datetime:
        """By the clock that dates all commits."""
        return self._engine.now()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """All that is read within was committed at one moment."""
        connection = self.connection
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            with suppress(sqlite3.Error):
                connection.execute("COMMIT")

    def commit(self, operation: Operation[Argument, Result], argument: Argument) -> Result:
        """Have `operation` committed. Raises what the engine raises."""
        try:
            future = asyncio.run_coroutine_threadsafe(self._engine.write(operation, argument), self._loop)
        except RuntimeError as error:
            raise Unavailable("the event loop is closed") from error
        return future.result()
