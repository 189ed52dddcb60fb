"""Uploads that nobody has named yet: in a temporary file of the owner until a commit brings them to Dropbox.

They end with the owner: who uploads asks for the size so far and begins anew.
"""

import tempfile
from collections.abc import Callable
from datetime import datetime
from typing import IO

from spoolway_providers.dropbox_storage.calls import Calls, unavailable
from spoolway_providers.dropbox_storage.client import content_hash
from spoolway_providers.dropbox_storage.faults import CallFailed
from spoolway_providers.dropbox_storage.writes import Uploaded
from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import BlobRef

__all__ = ["Staging"]

IN_MEMORY = 1 << 20
"""Shorter uploads never see a disk."""
PIECE = 8 << 20
"""Bytes of one call to Dropbox."""


class _Staged:
    def __init__(self, at: datetime) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by discard
        self.size = 0
        self.written_at = at

    def read(self, offset: int, limit: int) -> bytes:
        self.file.seek(offset)
        return self.file.read(limit)


class Staging:
    """Uploads by blob id."""

    def __init__(self, calls: Calls, clock: Callable[[], datetime]) -> None:
        self._calls = calls
        self._clock = clock
        self._blobs: dict[str, _Staged] = {}

    def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        staged = self._blobs.get(blob_id)
        size = staged.size if staged else 0
        if offset > size:
            raise Conflict(f"blob {blob_id!r} has {size} bytes so far, not {offset}", size)
        if not data:
            return size
        if staged is None:
            staged = self._blobs[blob_id] = _Staged(self._clock())
        staged.file.seek(offset)
        staged.file.write(data)
        staged.size = max(size, offset + len(data))
        staged.written_at = self._clock()
        return staged.size

    def read(self, blob_id: str, offset: int, limit: int) -> bytes:
        """See the interface."""
        if blob_id not in self._blobs:
            raise NotFound(f"no blob {blob_id!r} is staged")
        return self._blobs[blob_id].read(offset, limit)

    def refusal(self, ref: BlobRef) -> NotFound | None:
        """Why a blob can't be named, if it can't."""
        staged = self._blobs.get(ref.id)
        if staged is None:
            return NotFound(f"no blob {ref.id!r} is staged")
        if staged.size != ref.size:
            return NotFound(f"blob {ref.id!r} is staged with {staged.size} bytes, not {ref.size}")
        return None

    def whole(self, ref: BlobRef, limit: int) -> bytes | None:
        """All of a blob that is no longer than `limit`."""
        return self._blobs[ref.id].read(0, ref.size) if ref.size <= limit else None

    async def upload(self, ref: BlobRef) -> Uploaded:
        """Bring a blob to Dropbox, where it is seen by nobody yet.

        Raises:
            Unavailable: not all of it came there.
        """
        staged = self._blobs[ref.id]
        client, write = self._calls.client, self._calls.write
        offsets = range(0, max(1, ref.size), PIECE)
        try:
            [session] = await write(client.start_sessions, 1)
            for offset in offsets:
                is_last = offset + PIECE >= ref.size
                await write(client.append, session, offset, staged.read(offset, PIECE), is_last)
        except CallFailed as error:
            raise unavailable(error) from error
        digest = content_hash(staged.read(offset, PIECE) for offset in offsets)
        return Uploaded(session, ref.size, digest)

    def discard(self, blob_id: str) -> None:
        """It is named, or nobody wants it."""
        staged = self._blobs.pop(blob_id, None)
        if staged is not None:
            staged.file.close()

    def sweep(self, before: datetime, limit: int) -> list[str]:
        """Discard what was last written before a time; which these were."""
        old = [blob_id for blob_id, staged in self._blobs.items() if staged.written_at < before][:limit]
        for blob_id in old:
            self.discard(blob_id)
        return old

    def close(self) -> None:
        """Discard all."""
        for blob_id in list(self._blobs):
            self.discard(blob_id)
