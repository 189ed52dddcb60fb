"""The provider: hands each call to the module that knows how, and tells the waiting what was committed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

import msgspec

from spoolway_providers.errors import ProviderError, Uncertain
from spoolway_providers.interface import (
    Adoptee,
    Attention,
    Capabilities,
    Change,
    Changes,
    Claimed,
    Finding,
    Hints,
    Installation,
    Order,
    Page,
    Provider,
    Query,
    SessionView,
    Step,
)
from spoolway_providers.model import Backend, BlobRef, Draft, Job, JobKey, Policy, Session, State
from spoolway_providers.mongodb import adopting, backends, blobs, care, commits, queries, sessions, uploads
from spoolway_providers.mongodb.claims import Claimer
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import CAPABILITIES
from spoolway_providers.mongodb.feed import Feed
from spoolway_providers.mongodb.importing import MongoInstallation
from spoolway_providers.mongodb.journal import Journal
from spoolway_providers.mongodb.login import LOGIN_FIELDS, Login, login_of
from spoolway_providers.mongodb.probe import probe
from spoolway_providers.mongodb.schema import prepare
from spoolway_providers.mongodb.submit import Intake
from spoolway_providers.mongodb.unreadable import end_unreadable
from spoolway_providers.mongodb.wake import Pace, Wake
from spoolway_providers.unreadable import UnreadableJob

__all__ = ["MongoProvider"]

Result = TypeVar("Result")

_TIME_LIMIT = timedelta(seconds=10)


class MongoProvider(Provider):
    """One database of a MongoDB; any number of processes anywhere may share it."""

    description = "A MongoDB database, such as Atlas's. For several servers on one storage."
    login_fields = LOGIN_FIELDS

    def __init__(
        self,
        login: Login,
        *,
        clock: Callable[[], datetime] | None = None,
        time_limit: timedelta = _TIME_LIMIT,
        pace: Pace | None = None,
        listeners: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Make one for a database; `open` connects.

        Args:
            login: Where the database is.
            clock: Stands in for the server's clock, in tests.
            time_limit: After which a call to the server ends, retries included.
            pace: How often to ask while waiting.
            listeners: The driver's monitors, as `pymongo.monitoring` has them.
            options: More options of the driver's client.
        """
        self._connection = Connection(
            login, clock=clock, time_limit=time_limit, listeners=listeners, options=options or {}
        )
        self._pace = pace or Pace()
        self._start_over()

    def _start_over(self) -> None:
        """What this process knows of the storage is nothing yet."""
        self._journal = Journal(self._connection)
        self._wake = Wake(self._connection, self._journal, self._pace)
        self._feed = Feed(self._connection, self._journal)
        self._intake = Intake(self._connection)
        self._claimer = Claimer(self._connection)

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make one from today's three fields, or from `uri`; and `database`."""
        return cls(login_of(login))

    @classmethod
    def installation(cls, login: Mapping[str, Any], *, owner: str, now: datetime) -> Installation:
        """An installation of today's systems, with databases of its own beside ours."""
        return MongoInstallation(login_of(login), owner=owner, now=now)

    @property
    def capabilities(self) -> Capabilities:
        """Any number of processes, any order. Whether it wakes at once is known once it is open."""
        return msgspec.structs.replace(CAPABILITIES, wakes=self._connection.has_streams)

    @property
    def missed_wakes(self) -> int:
        """Changes that a look found before the change stream told of them; a counter since `open`."""
        return self._wake.missed

    async def open(self) -> None:
        """Connect, and make the database ready; see the interface. If it is open already, nothing happens."""
        if self._connection.is_open:
            return
        self._start_over()
        await self._connection.connect()
        try:
            await prepare(self._connection)
            await self._journal.begin()
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        """End the stream and the client; see the interface."""
        await self._wake.close()
        await self._connection.close()

    # Jobs

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        try:
            answers = await self._intake.submit(drafts)
        except Uncertain:
            self._wake.ring({draft.backend for draft in drafts})
            raise
        for answer in answers:
            if isinstance(answer, Job):
                self._wake.told(answer.key, answer.revision, answer.state)
        return answers

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        claimed = await self._mending(lambda: self._claimer.claim(backend, orders))
        for one in claimed:
            self._wake.told(one.job.key, one.job.revision, one.job.state)
        return claimed

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        try:
            answers = await commits.commit(self._connection, changes)
        except Uncertain:
            self._wake.ring({c.job.key.backend for c in changes if c.job.state is State.QUEUED})
            raise
        for answer in answers:
            if isinstance(answer, Job):
                self._wake.told(answer.key, answer.revision, answer.state)
        return answers

    async def get(self, key: JobKey) -> Job:
        """See the interface."""
        return await self._mending(lambda: queries.get(self._connection, key))

    async def find(self, query: Query) -> Page:
        """See the interface."""
        return await self._mending(lambda: queries.find(self._connection, query))

    def cursor_after(self, job: Job) -> str:
        """See the interface."""
        return queries.cursor_after(job)

    async def count(self, query: Query) -> int:
        """See the interface."""
        return await queries.count(self._connection, query)

    async def position(self, job: Job, limit: int) -> int:
        """See the interface."""
        return await queries.position(self._connection, job, limit)

    async def next_due(self) -> datetime | None:
        """See the interface."""
        return await queries.next_due(self._connection)

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        self._wake.told(key, await commits.delete(self._connection, key, revision), None)

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """See the interface."""
        try:
            answers = await adopting.adopt(self._connection, adoptees)
        except Uncertain:
            self._wake.ring({one.job.key.backend for one in adoptees})
            raise
        for answer in answers:
            if isinstance(answer, Job):
                self._wake.told(answer.key, answer.revision, answer.state)
        return answers

    async def changes(self, cursor: str, limit: int = 1000) -> Changes:
        """See the interface."""
        return await self._mending(lambda: self._feed.changes(cursor, limit))

    async def wait(self, timeout: timedelta) -> Hints | None:
        """See the interface."""
        return await self._wake.wait(timeout)

    async def _mending(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Have a call served; jobs that can't be read are ended first, so that they are in nobody's way."""
        met: object = None
        while True:
            try:
                return await call()
            except UnreadableJob as error:
                job = await end_unreadable(self._connection, error.document)
                if job is not None:
                    self._wake.told(job.key, job.revision, job.state)
                elif error.document == met:
                    # Nobody else has ended it meanwhile either.
                    raise
                met = error.document

    # Blobs

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        return await uploads.stage(self._connection, blob_id, offset, data)

    async def read_staged(self, blob_id: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await uploads.read_staged(self._connection, blob_id, offset, limit)

    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await blobs.read_blob(self._connection, ref, offset, limit)

    # Sessions

    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """See the interface."""
        return await sessions.open_session(self._connection, session, predecessor_dead=predecessor_dead)

    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """See the interface."""
        return await self._mending(
            lambda: sessions.renew(self._connection, session_id, beat, detached=detached)
        )

    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        return await sessions.close_session(self._connection, session_id, beat, reason)

    async def sessions(self, *, closed: bool = False) -> list[SessionView]:
        """See the interface."""
        return await sessions.sessions(self._connection, closed=closed)

    # Backends

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        return self._tell(await backends.put_config(self._connection, backend, config, etag))

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface."""
        self._intake.forget(backend)
        return self._tell(await backends.remove_config(self._connection, backend, etag))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        return self._tell(await backends.put_policy(self._connection, backend, policy, etag))

    def _tell(self, stored: backends.Stored) -> Backend:
        if stored.commit:
            self._wake.told_backend(stored.backend.name, stored.commit)
        return stored.backend

    async def backends(self) -> list[Backend]:
        """See the interface."""
        return await backends.backends(self._connection)

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        return await backends.put_public_key(self._connection, kid, key)

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface."""
        return await backends.public_key(self._connection, kid)

    async def public_keys(self) -> Mapping[str, bytes]:
        """See the interface."""
        return await backends.public_keys(self._connection)

    # Care

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        return await care.repair(self._connection, self._journal, limit)

    async def inspect(self, *, repair: bool, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        return await care.inspect(self._connection, repair=repair, limit=limit)

    async def probe(self) -> list[Step]:
        """See the interface."""
        return await probe(self._connection)
