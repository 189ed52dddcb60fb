"""A storage that is one JSON file: an example of a provider from another package.

It is for teaching. Each change writes the whole file, on the event loop; a provider for real work writes
what has changed, in a thread of its own, many changes in one go, as `sqlite` does. Nothing keeps a second
process from opening the file and overwriting what the first one wrote.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from spoolway_providers.errors import ProviderError, Unavailable, Uncertain
from spoolway_providers.interface import (
    Adoptee,
    Attention,
    Capabilities,
    Change,
    Claimed,
    Finding,
    LoginField,
    Order,
    Page,
    Query,
    Step,
)
from spoolway_providers.memory import MemoryProvider
from spoolway_providers.model import Backend, Draft, Job, JobKey, Policy, Session

__all__ = ["JsonFileProvider"]

Result = TypeVar("Result")


class JsonFileProvider(MemoryProvider):
    """The dictionaries of the storage in memory, and a file that is never behind them.

    Nothing is acknowledged before the file has it. If the file can't be written, the dictionaries go back
    to what it has, and the caller hears Unavailable: surely nothing was done.
    """

    description = "One JSON file, rewritten at each change. An example."
    login_fields = (LoginField("path", "The file; it is made if it is not there, but its folder is not."),)

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Keep everything in the file `path`; one process only."""
        super().__init__(clock=clock)
        self._path = path
        self._saved = self.snapshot()
        """What the file says."""
        self._is_settled = True
        """Whether the newest rename is safe against a power cut, too."""

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Check what an operator wrote. No file is touched yet."""
        unknown = ", ".join(sorted(set(login) - {"path"}))
        if unknown:
            raise ValueError(f"a jsonfile storage takes the login field path only, not {unknown!r}")
        path = login.get("path")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("path: must be the path of a file")
        return cls(Path(path).expanduser().absolute())

    @property
    def capabilities(self) -> Capabilities:
        """As in memory, but each heartbeat is a file to write."""
        return replace(super().capabilities, heartbeat_writes=True, min_ttl=timedelta(seconds=1))

    async def open(self) -> None:
        """Read the file; make it if it is not there. Raises Unavailable, Corrupt."""
        try:
            if not self._path.exists():
                _write(self._path, MemoryProvider().snapshot())
            found = self._path.read_bytes()
            _sync_folder(self._path)  # whoever made it may have been killed before this step
        except OSError as error:
            raise Unavailable(f"the file can't be opened: {error.strerror}") from error
        self.restore(found)
        self._saved, self._is_settled = found, True

    # Whatever changes something is saved before it is answered.

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._save_after(super().submit(drafts))

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        return await self._save_after(super().claim(backend, orders))

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._save_after(super().commit(changes))

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        await self._save_after(super().delete(key, revision))

    async def adopt(self, adoptees: Sequence[Adoptee]) -> list[Job | ProviderError]:
        """See the interface."""
        return await self._save_after(super().adopt(adoptees))

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        return await self._save_after(super().stage(blob_id, offset, data))

    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """See the interface."""
        return await self._save_after(super().open_session(session, predecessor_dead=predecessor_dead))

    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """See the interface."""
        return await self._save_after(super().renew(session_id, beat, detached=detached))

    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        return await self._save_after(super().close_session(session_id, beat, reason))

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        return await self._save_after(super().put_config(backend, config, etag))

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface."""
        return await self._save_after(super().remove_config(backend, etag))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        return await self._save_after(super().put_policy(backend, policy, etag))

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        return await self._save_after(super().put_public_key(kid, key))

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        return await self._save_after(super().repair(limit))

    # What a caller reads back after Uncertain must be as sure as an answer.

    async def get(self, key: JobKey) -> Job:
        """See the interface."""
        self._settle(Unavailable)
        return await super().get(key)

    async def find(self, query: Query) -> Page:
        """See the interface."""
        self._settle(Unavailable)
        return await super().find(query)

    async def probe(self) -> list[Step]:
        """See the interface: write a file beside the storage's, as each change does, and remove it."""
        started = monotonic()
        trial = self._path.with_name(f"{self._path.name}.probe")
        advice = ""
        try:
            _write(trial, b"{}")
            _sync_folder(trial)
            trial.unlink()
        except OSError as error:
            advice = f"no file can be written beside the storage's: {error.strerror}"
        return [Step("write", ok=not advice, elapsed=timedelta(seconds=monotonic() - started), advice=advice)]

    async def _save_after(self, change: Awaitable[Result]) -> Result:
        """Make a change, which suspends nowhere, and save it before anybody can see it."""
        result = await change
        snapshot = self.snapshot()
        if snapshot != self._saved:
            try:
                _write(self._path, snapshot)
            except OSError as error:
                self.restore(self._saved)
                message = f"the file can't be written: {error.strerror}"
                raise Unavailable(message, retry_after=timedelta(seconds=5)) from error
            self._saved, self._is_settled = snapshot, False
        self._settle(Uncertain)
        return result

    def _settle(self, failure: type[Unavailable] | type[Uncertain]) -> None:
        """See to it that the newest rename outlives a power cut, before anybody hears of it."""
        if not self._is_settled:
            try:
                _sync_folder(self._path)
            except OSError as error:
                raise failure(f"the file's folder can't be synced: {error.strerror}") from error
            self._is_settled = True


def _write(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one: whoever looks sees the one or the other, whole.

    The content is on the disk before it has the name; that the name is, too, is for `_sync_folder`.
    """
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(path: Path) -> None:
    """Have the name of a file on the disk, too."""
    if os.name == "posix":  # elsewhere a folder can't be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
