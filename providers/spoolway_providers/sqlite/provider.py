"""The provider: each method hands its work to the writing or a reading thread."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import (
    Adoptee,
    Attention,
    Capabilities,
    Change,
    Changes,
    Claimed,
    Finding,
    Hints,
    LoginField,
    Order,
    Page,
    Provider,
    Query,
    SessionView,
    Step,
)
from spoolway_providers.model import Backend, BlobRef, Draft, Job, JobKey, Policy, Session
from spoolway_providers.sqlite import adopting, backends, blobs, care, inspecting, jobs, queries, sessions
from spoolway_providers.sqlite.backup import back_up
from spoolway_providers.sqlite.documents import CAPABILITIES
from spoolway_providers.sqlite.engine import Engine
from spoolway_providers.sqlite.submit import submit
from spoolway_providers.sqlite.writer import one_by_one

__all__ = ["SqliteProvider"]

_claim = one_by_one(jobs.claim)
_delete = one_by_one(jobs.delete)
_stage = one_by_one(blobs.stage)
_open_session = one_by_one(sessions.open_session)
_renew = one_by_one(sessions.renew)
_close_session = one_by_one(sessions.close_session)
_put_config = one_by_one(backends.put_config)
_remove_config = one_by_one(backends.remove_config)
_put_policy = one_by_one(backends.put_policy)
_put_public_key = one_by_one(backends.put_public_key)
_repair = one_by_one(care.repair)
_drop_lost_blobs = one_by_one(inspecting.drop_lost_blobs)


class SqliteProvider(Provider):
    """One SQLite file; any number of processes of one host may share it."""

    description = "One SQLite file on a local disk. Needs nothing else; serves a laboratory."
    login_fields: ClassVar[tuple[LoginField, ...]] = (
        LoginField("path", "Path of the file; it and its folder are made. Not on a network file system."),
    )

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        watches: bool = True,
        time_limit: timedelta = timedelta(seconds=10),
        busy_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        """Make one for the file at `path`.

        Args:
            path: Of the database; beside it lie its log and `PATH.wake`.
            clock: The wall clock.
            watches: Whether to be woken by file events; without them others' changes are seen within 1 s.
            time_limit: After which a call ends, whatever the disk does.
            busy_timeout: How long to wait for other processes' transactions.
        """
        self._path = path
        self._capabilities = msgspec.structs.replace(CAPABILITIES, wakes=watches)
        self._engine = Engine(
            path, clock=clock, watches=watches, time_limit=time_limit, busy_timeout=busy_timeout
        )

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make one from `path`."""
        unknown = set(login) - {"path"}
        if unknown:
            raise ValueError(f"a sqlite storage takes no login field {', '.join(sorted(unknown))!r}")
        path = login.get("path", "")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("path: must be the path of a file")
        if path.startswith((":", "file:")):
            raise ValueError(f"path: {path!r} is no file on a disk; a storage must outlive its process")
        return cls(Path(path).expanduser().absolute())

    @property
    def capabilities(self) -> Capabilities:
        """One host's processes, any order."""
        return self._capabilities

    async def open(self) -> None:
        """Create or migrate the file; see the interface."""
        await self._engine.open()

    async def close(self) -> None:
        """Commit what is under way; see the interface."""
        await self._engine.close()

    # Jobs

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._engine.write(submit, drafts)

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        return await self._engine.write(_claim, jobs.Claiming(backend, orders))

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._engine.write(jobs.commit, changes)

    async def get(self, key: JobKey) -> Job:
        """See the interface."""
        return await self._engine.read(queries.get, key)

    async def find(self, query: Query) -> Page:
        """See the interface."""
        return await self._engine.read_long(queries.find, query)

    def cursor_after(self, job: Job) -> str:
        """See the interface."""
        return queries.cursor_of([job.seq])

    async def count(self, query: Query) -> int:
        """See the interface."""
        return await self._engine.read_long(queries.count, query)

    async def position(self, job: Job, limit: int) -> int:
        """See the interface."""
        return await self._engine.read(queries.position, queries.PositionAsked(job, limit))

    async def next_due(self) -> datetime | None:
        """See the interface."""
        return await self._engine.read(queries.next_due, None)

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        await self._engine.write(_delete, jobs.Deletion(key, revision))

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._engine.write(adopting.adopt, adoptees)

    async def changes(self, cursor: str, limit: int = 1000) -> Changes:
        """See the interface."""
        return await self._engine.changes(cursor, limit)

    async def wait(self, timeout: timedelta) -> Hints | None:
        """See the interface."""
        return await self._engine.wait(timeout)

    # Blobs

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        return await self._engine.write(_stage, blobs.Piece(blob_id, offset, data))

    async def read_staged(self, blob_id: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await self._engine.read_long(blobs.read_staged, blobs.StagedReading(blob_id, offset, limit))

    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await self._engine.read_long(blobs.read_blob, blobs.Reading(ref, offset, limit))

    # Sessions

    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """See the interface."""
        return await self._engine.write(_open_session, sessions.Opening(session, predecessor_dead))

    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """See the interface."""
        return await self._engine.write(_renew, sessions.Renewal(session_id, beat, detached))

    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        return await self._engine.write(_close_session, sessions.Closing(session_id, beat, reason))

    async def sessions(self, *, closed: bool = False) -> list[SessionView]:
        """See the interface."""
        return await self._engine.read(sessions.sessions, closed)

    # Backends

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        return await self._engine.write(_put_config, backends.ConfigWrite(backend, config, etag))

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface."""
        return await self._engine.write(_remove_config, backends.ConfigRemoval(backend, etag))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        return await self._engine.write(_put_policy, backends.PolicyWrite(backend, policy, etag))

    async def backends(self) -> list[Backend]:
        """See the interface."""
        return await self._engine.read(backends.backends, None)

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        return await self._engine.write(_put_public_key, backends.PublicKey(kid, key))

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface."""
        return await self._engine.read(backends.public_key, kid)

    async def public_keys(self) -> Mapping[str, bytes]:
        """See the interface."""
        return await self._engine.read(backends.public_keys, None)

    # Care

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        return await self._engine.write(_repair, limit)

    async def inspect(self, *, repair: bool, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        if repair:
            lost = await self._engine.write(_drop_lost_blobs, limit)
        else:
            lost = await self._engine.read_long(inspecting.lost_blobs, limit)
        action = "removed" if repair else "its job is not there: nobody can read it"
        return [Finding("blob_without_job", blob, action) for blob in lost]

    async def back_up(self, target: Path, on_progress: Callable[[int, int], None]) -> int:
        """See the interface."""
        return await asyncio.to_thread(back_up, self._path, target, on_progress)

    async def probe(self) -> list[Step]:
        """See the interface."""
        return await care.probe(self._engine.write, self._engine.read)
