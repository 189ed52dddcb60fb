"""A storage that is one JSON file: an example of a provider from another package.

It is for teaching. Each change writes the whole file, on the event loop; a provider for real work writes
what has changed, in a thread of its own, many changes in one go, as `sqlite` does.
"""

import os
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from spoolway_providers.errors import ProviderError, Unavailable
from spoolway_providers.interface import Attention, Change, Claimed, Finding, LoginField, Order
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
    login_fields = (LoginField("path", "The file; it is made if it is not there."),)

    def __init__(self, path: Path, **options: Any) -> None:
        """Keep everything in the file `path`; one process only."""
        super().__init__(**options)
        self._path = path
        self._saved = self.snapshot()

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Check what an operator wrote. No file is touched yet."""
        path = login.get("path")
        if not isinstance(path, str) or not path or set(login) != {"path"}:
            raise ValueError("a jsonfile storage takes one login field, path: the name of a file")
        return cls(Path(path))

    async def open(self) -> None:
        """Read the file if it is there. Raises Unavailable, Corrupt."""
        try:
            self._saved = self._path.read_bytes() if self._path.exists() else self._saved
        except OSError as error:
            raise Unavailable(f"the file can't be read: {error.strerror}") from error
        self.restore(self._saved)

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

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        return await self._save_after(super().put_policy(backend, policy, etag))

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        return await self._save_after(super().repair(limit))

    async def _save_after(self, change: Awaitable[Result]) -> Result:
        """Make a change, which suspends nowhere, and save it before anybody can see it."""
        result = await change
        snapshot = self.snapshot()
        if snapshot != self._saved:
            try:
                _replace(self._path, snapshot)
            except OSError as error:
                self.restore(self._saved)
                message = f"the file can't be written: {error.strerror}"
                raise Unavailable(message, retry_after=timedelta(seconds=5)) from error
            self._saved = snapshot
        return result


def _replace(path: Path, content: bytes) -> None:
    """Put a new file in the place of an old one: whoever looks sees the one or the other, whole.

    The rename is safe against a kill; the two fsyncs are what makes it safe against a power cut.
    """
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # elsewhere a folder can't be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
