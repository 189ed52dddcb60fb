"""One client for the provider's life: its collections, its time limits, and its errors in our words."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pymongo
from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern

from spoolway_providers.errors import LoginRefused, ProviderError, Unavailable, Uncertain
from spoolway_providers.mongodb.documents import Document
from spoolway_providers.mongodb.faults import login_fault, read_fault, write_fault
from spoolway_providers.mongodb.login import Login
from spoolway_providers.mongodb.numbers import Numbers

__all__ = ["Collection", "Connection"]

Collection = AsyncCollection[Document]

_CONNECT_S = 5.0
"""How long the first connection may take."""
_DOWN_S = 1.0
"""The time limit of calls while no server answers."""
_SETTLE_S = 2.0
"""How long reading back an unknown outcome may take at most, beyond the call's own time."""


class Connection:
    """The client, made when opened: it belongs to one event loop and one process."""

    def __init__(
        self,
        login: Login,
        *,
        clock: Callable[[], datetime] | None,
        time_limit: timedelta,
        listeners: Sequence[Any],
        options: Mapping[str, Any],
    ) -> None:
        self.login = login
        self.numbers = Numbers(clock)
        self.time_limit_s = time_limit.total_seconds()
        self.has_streams = False
        """Whether the server is one of a replica set or of a sharded cluster."""
        self.epoch = ""
        """Tells this database's cursors from another's."""
        self._listeners = listeners
        self._options = options
        self._is_down = False
        self._client: AsyncMongoClient[Document] | None = None
        self._durable: AsyncDatabase[Document] | None = None
        self._newest: AsyncDatabase[Document] | None = None

    @property
    def databases(self) -> AsyncMongoClient[Document]:
        """All databases of the server, by name; for what another system has left."""
        if self._client is None:
            raise Unavailable("the storage is not open")
        return self._client

    @property
    def is_open(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    async def connect(self) -> None:
        """Make the client and let it find and greet a server.

        Raises:
            LoginRefused: the server does not accept the login.
            Unavailable: there is no such server, or it does not answer.
        """
        try:
            client = self._make_client()
        except (PyMongoError, ValueError, TypeError, UserWarning) as error:
            # `from None`: the driver's text may quote the connection string, with the password.
            raise LoginRefused(
                f"the connection string for {self.login.host} is not valid ({type(error).__name__}): check "
                "host, port and options, and that special characters of the password are %-escaped"
            ) from None
        try:
            with pymongo.timeout(min(_CONNECT_S, self.time_limit_s)):
                hello = await client.admin.command("hello")
                # The first command that needs the login.
                await client[self.login.database].command("ping")
        except PyMongoError as error:
            await client.close()
            raise login_fault(error, self.login.host) from error
        except BaseException:
            await client.close()
            raise
        self._use(client, is_replicated="setName" in hello or hello.get("msg") == "isdbgrid")

    def _make_client(self) -> AsyncMongoClient[Document]:
        options: dict[str, Any] = {
            "appname": "spoolway",
            "maxPoolSize": 50,
            "waitQueueTimeoutMS": 5_000,
            "serverSelectionTimeoutMS": 4_000,
            "connectTimeoutMS": 4_000,
            # Where a login says otherwise, what follows counts: without it jobs could be lost or doubled.
            "w": "majority",
            "journal": True,
            "retryWrites": True,
            "retryReads": True,
            "readPreference": "primary",
            "tz_aware": True,
            "event_listeners": list(self._listeners),
            **self._options,
        }
        with warnings.catch_warnings():
            # The driver only warns of an option that it can't read, such as tls, and goes on without.
            warnings.simplefilter("error", UserWarning)
            return AsyncMongoClient(self.login.uri, **options)

    def _use(self, client: AsyncMongoClient[Document], *, is_replicated: bool) -> None:
        self._client = client
        self.has_streams = is_replicated
        # A lone server has no majority to ask.
        level = "majority" if is_replicated else "local"
        options: dict[str, Any] = {
            "write_concern": WriteConcern("majority", j=True),
            "read_preference": ReadPreference.PRIMARY,
        }
        name = self.login.database
        self._durable = client.get_database(name, read_concern=ReadConcern(level), **options)
        self._newest = client.get_database(name, read_concern=ReadConcern("local"), **options)

    async def close(self) -> None:
        """Let go of the client. Safe to repeat."""
        client, self._client = self._client, None
        self._durable = self._newest = None
        if client is not None:
            await client.close()

    @property
    def database(self) -> AsyncDatabase[Document]:
        """Reads what a majority of the servers has: it can't be undone by a failover."""
        if self._durable is None:
            raise Unavailable("the storage is not open")
        return self._durable

    def __getitem__(self, name: str) -> Collection:
        """A collection whose reads see what can't be undone."""
        return self.database[name]

    def newest(self, name: str) -> Collection:
        """A collection whose reads see what a compare-and-set compares with.

        A majority may not have it yet. What is decided on it and written stands or falls with it.
        """
        if self._newest is None:
            raise Unavailable("the storage is not open")
        return self._newest[name]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Round reads: a time limit, and our errors."""
        with self._limited():
            try:
                yield
            except PyMongoError as error:
                self._is_down = isinstance(error, ServerSelectionTimeoutError)
                raise read_fault(error) from error
        self._is_down = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Round writes: a time limit, and our errors."""
        with self._limited():
            try:
                yield
            except (PyMongoError, BSONError) as error:
                self._is_down = isinstance(error, ServerSelectionTimeoutError)
                raise write_fault(error) from error
        self._is_down = False

    def _limited(self) -> AbstractContextManager[Any]:
        # The driver waits for a server, and retries, until the limit: who comes after one that waited in
        # vain should not wait as long.
        return pymongo.timeout(min(self.time_limit_s, _DOWN_S) if self._is_down else self.time_limit_s)

    @contextmanager
    def settling(self, unknown: Uncertain) -> Iterator[None]:
        """Round the reads that find out how a write ended; if they fail too, it stays unknown."""
        with pymongo.timeout(min(_SETTLE_S, self.time_limit_s)):
            try:
                yield
            except (PyMongoError, ProviderError) as error:
                raise unknown from error
