"""Uploads that nobody has named yet.

Each piece lies in the account before it is acknowledged, as a file of its own in a folder of its upload, so
that whoever owns the account next goes on where it broke off. The owner has a copy in a temporary file, to
read from. A commit brings all of it to its place, and the pieces go.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import IO

import msgspec

from spoolway_providers.dropbox_storage.calls import Calls
from spoolway_providers.dropbox_storage.client import ADD, ContentHasher, FileInfo
from spoolway_providers.dropbox_storage.faults import PathConflict, PathMissing
from spoolway_providers.dropbox_storage.mirror import Mirror
from spoolway_providers.dropbox_storage.writer import Writer
from spoolway_providers.dropbox_storage.writes import Uploaded
from spoolway_providers.errors import Conflict, NotFound, Unavailable
from spoolway_providers.model import BlobRef

__all__ = ["Staging"]

IN_MEMORY = 1 << 20
"""Shorter uploads never see a disk."""
PIECE = 8 << 20
"""Bytes of one call to Dropbox."""
SMALL = 64 << 10
"""Pieces up to this are stored in one call; longer ones travel before their turn to write."""
_TRIES = 3
"""Of a name that an earlier write, whose outcome was unknown, has taken after all."""


class _Part(msgspec.Struct, frozen=True):
    """A piece in the account. Of two that overlap the one with the higher number counts."""

    number: int
    offset: int
    size: int
    path: str


class _Staged:
    def __init__(self, folder: str, at: datetime, blob_id: str = "") -> None:
        self.folder = folder
        self.blob_id = blob_id
        """Empty: it is an earlier owner's, of whom nobody has asked yet."""
        self.size = 0
        self.written_at = at
        self.next_number = 0
        self.unread: list[_Part] = []
        """What an earlier owner has stored, and is not in `file` yet."""
        self.lock = asyncio.Lock()
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - see close

    def read(self, offset: int, limit: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(limit)

    def write(self, offset: int, data: bytes) -> None:
        self._file.seek(offset)
        self._file.write(data)
        self.size = max(self.size, offset + len(data))

    def close(self) -> None:
        self._file.close()


class Staging:
    """Uploads by blob id; in the account they lie in `folder`."""

    def __init__(
        self, calls: Calls, writer: Writer, mirror: Mirror, folder: str, clock: Callable[[], datetime]
    ) -> None:
        self.rubbish: set[str] = set()
        """Folders of uploads that are named by now, or were given up."""
        self._calls = calls
        self._writer = writer
        self._mirror = mirror
        self._folder = folder
        self._clock = clock
        self._blobs: dict[str, _Staged] = {}
        """By folder."""

    def know(self, files: Iterable[FileInfo]) -> None:
        """Go on with what an earlier owner has stored."""
        parts = [(part, info) for info in files if (part := _part(info))]
        for part, info in sorted(parts, key=lambda each: each[0].number):
            folder = info.path.rpartition("/")[0].lower()
            staged = self._blobs.get(folder)
            if staged is None:
                staged = self._blobs[folder] = _Staged(folder, info.client_modified)
            staged.next_number = part.number + 1
            staged.written_at = max(staged.written_at, info.client_modified)
            if part.offset <= staged.size:
                staged.unread.append(part)
                staged.size = max(staged.size, part.offset + part.size)

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        staged = self._find(blob_id)
        size = staged.size if staged else 0
        if offset > size:
            raise Conflict(f"blob {blob_id!r} has {size} bytes so far, not {offset}", size)
        if not data:
            return size
        if staged is None:
            folder = self._folder_of(blob_id)
            staged = self._blobs[folder] = _Staged(folder, self._clock(), blob_id)
        async with staged.lock:
            self._check(staged)
            await self._read_back(staged)
            if staged.read(offset, len(data)) != data:
                await self._store(staged, offset, data)
                staged.write(offset, data)
            staged.written_at = self._clock()
        return staged.size

    async def read(self, blob_id: str, offset: int, limit: int) -> bytes:
        """See the interface."""
        staged = self._find(blob_id)
        if staged is None or not staged.size:
            raise NotFound(f"no blob {blob_id!r} is staged")
        async with staged.lock:
            self._check(staged)
            await self._read_back(staged)
            return staged.read(offset, limit)

    def refusal(self, ref: BlobRef) -> NotFound | None:
        """Why a blob can't be named, if it can't."""
        staged = self._find(ref.id)
        if staged is None or not staged.size:
            return NotFound(f"no blob {ref.id!r} is staged")
        if staged.size != ref.size:
            return NotFound(f"blob {ref.id!r} is staged with {staged.size} bytes, not {ref.size}")
        return None

    async def whole(self, ref: BlobRef, limit: int) -> bytes | None:
        """All of a blob that is no longer than `limit`."""
        return await self.read(ref.id, 0, ref.size) if ref.size <= limit else None

    async def upload(self, ref: BlobRef) -> Uploaded:
        """Bring all of a blob into an upload session, from where one call stores it. Raises Unavailable."""
        return await self._bring(ref.size, lambda offset: self.read(ref.id, offset, PIECE))

    def discard(self, blob_id: str) -> None:
        """It is named, or nobody wants it."""
        staged = self._find(blob_id)
        if staged is not None:
            self._discard(staged)

    def sweep(self, before: datetime, limit: int) -> list[str]:
        """Discard what was last written before a time; which these were."""
        old = [staged for staged in self._blobs.values() if staged.written_at < before][:limit]
        for staged in old:
            self._discard(staged)
        return [staged.blob_id or staged.folder for staged in old]

    async def clear(self) -> None:
        """Remove what was discarded."""
        for folder in self.rubbish - set(self._blobs):
            await self._remove(folder)

    def close(self) -> None:
        """Let go of the copies; the account keeps what it has."""
        for staged in self._blobs.values():
            staged.close()
        self._blobs.clear()

    # One upload

    def _folder_of(self, blob_id: str) -> str:
        """Ids may be any text, and paths ignore case."""
        return f"{self._folder}/{sha256(blob_id.encode()).hexdigest()[:40]}".lower()

    def _find(self, blob_id: str) -> _Staged | None:
        staged = self._blobs.get(self._folder_of(blob_id))
        if staged is not None:
            staged.blob_id = blob_id
        return staged

    def _check(self, staged: _Staged) -> None:
        """Raise if it was discarded while somebody waited for it."""
        if self._blobs.get(staged.folder) is not staged:
            raise NotFound(f"blob {staged.blob_id!r} is not staged any more")

    async def _read_back(self, staged: _Staged) -> None:
        """Have a copy of what an earlier owner has stored."""
        while staged.unread:
            part = staged.unread[0]
            found = await self._calls.download(part.path)
            if found is None:
                self._discard(staged)
                raise NotFound(f"a piece of blob {staged.blob_id!r} was removed; upload it again")
            self._check(staged)
            staged.write(part.offset, found[1])
            staged.unread.pop(0)

    async def _store(self, staged: _Staged, offset: int, data: bytes) -> None:
        if staged.folder in self.rubbish:
            await self._remove(staged.folder)
        for _ in range(_TRIES):
            path = f"{staged.folder}/{staged.next_number:06}-{offset}.part"
            staged.next_number += 1
            try:
                await self._put(path, data)
            except (PathConflict, PathMissing):
                continue
            return self._check(staged)
        raise Unavailable(f"another program writes into {staged.folder}")

    async def _put(self, path: str, data: bytes) -> None:
        if len(data) <= SMALL:
            await self._writer.put(path, data, ADD, self._clock())
            return

        async def read(offset: int) -> bytes:
            return data[offset : offset + PIECE]

        uploaded = await self._bring(len(data), read)
        await self._writer.put_uploaded(path, uploaded, ADD, self._clock())

    async def _bring(self, size: int, read: Callable[[int], Awaitable[bytes]]) -> Uploaded:
        """Fill an upload session; this needs no lock of the account, so others go on writing meanwhile."""
        client, prepare = self._calls.client, self._calls.prepare
        hasher = ContentHasher()
        [session] = await prepare(client.start_sessions, 1)
        for offset in range(0, max(1, size), PIECE):
            piece = await read(offset)
            await prepare(client.append, session, offset, piece, offset + PIECE >= size)
            await self._calls.think(partial(hasher.update, piece))
        return Uploaded(session, size, hasher.hexdigest())

    def _discard(self, staged: _Staged) -> None:
        del self._blobs[staged.folder]
        staged.close()
        if staged.next_number:
            self.rubbish.add(staged.folder)

    async def _remove(self, folder: str) -> None:
        await self._writer.delete(folder)
        for info in self._mirror.below(folder):
            self._mirror.drop(info.path)
        self.rubbish.discard(folder)


def _part(info: FileInfo) -> _Part | None:
    """What the name of a piece says; None: it is another program's file."""
    number, _, offset = info.path.rpartition("/")[2].removesuffix(".part").partition("-")
    if not (number.isdecimal() and offset.isdecimal()):
        return None
    return _Part(int(number), int(offset), info.size, info.path)
