"""Reading what others wrote: job files that may be half written, statuses and results of other programs."""

import os
import stat
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from spoolway_providers.digests import blob_ref
from spoolway_providers.local.disk import is_disk_trouble
from spoolway_providers.local.documents import Status, decode_status, is_json, is_json_object
from spoolway_providers.local.layout import Layout, Naming, is_there
from spoolway_providers.local.names import is_user_folder, user_folder, user_of_id
from spoolway_providers.local.reading import NoDocumentError, read_document, read_range
from spoolway_providers.model import BlobRef, JobKey, content_blob_id, result_blob_id

__all__ = ["Bad", "ForeignReader", "Origin", "Ripe", "Unripe"]

FOREIGN = "foreign"
"""In place of a token, in the name of another program's result."""
LARGEST_BYTES = 32 << 20
"""Of a job's file."""
_STATUS_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20


class Ripe(msgspec.Struct, frozen=True):
    """A whole document."""

    content: BlobRef
    at: datetime


class Unripe(msgspec.Struct, frozen=True):
    """Perhaps half a document; the same two numbers say that nobody has written on."""

    changed_ns: int
    size: int
    content: BlobRef
    at: datetime


class Bad(msgspec.Struct, frozen=True):
    """No document of a job, and it will never be one."""

    reason: str
    message: str
    content: BlobRef
    at: datetime


class Origin(msgspec.Struct, frozen=True):
    """Where a job comes from."""

    owner: str
    user: str
    """The folder of its owner."""
    status: Status | None
    """As it lies there."""


class ForeignReader:
    """Reads documents that others wrote, or may have."""

    def __init__(self, layout: Layout, *, default_owner: str) -> None:
        self._layout = layout
        self._default_owner = default_owner

    def job(self, path: str, key: JobKey) -> Ripe | Unripe | Bad | None:
        """A job's file; None if there is none.

        Raises:
            OSError: it can't be read.
            NoDocumentError: it is a link, a folder or else.
        """
        try:
            info = os.lstat(path)
            at = datetime.fromtimestamp(info.st_mtime, UTC)
            if info.st_size > LARGEST_BYTES and stat.S_ISREG(info.st_mode):
                message = f"the file has {info.st_size} bytes; the queue takes at most {LARGEST_BYTES}"
                # Its beginning is enough to tell it apart: it may have no end.
                start, _ = _measured(path, content_blob_id(key), LARGEST_BYTES)
                return Bad("CONTENT_TOO_LARGE", message, replace(start, size=info.st_size), at)
            data = read_range(path, 0, LARGEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        content = blob_ref(content_blob_id(key), data)
        if is_json_object(data):
            return Ripe(content, at)
        return Unripe(info.st_mtime_ns, info.st_size, content, at)

    def origin(self, key: JobKey) -> Origin:
        """Whose job it is, by its status, by the folder of that, or by its id; and what its status says."""
        by_id = user_of_id(key.id)
        folder, status = self._status(key, by_id)
        by_folder = folder if is_user_folder(folder) and folder != "None" else ""
        said = status.record.owner if status is not None and status.record is not None else ""
        owner = said or by_id or by_folder or self._default_owner
        return Origin(owner, folder or user_folder(owner), status)

    def _status(self, key: JobKey, by_id: str) -> tuple[str, Status | None]:
        """The folder of the user under whom a job's status lies, and what it says."""
        shelf = self._layout.status
        if self._layout.naming is Naming.LOCAL:
            return "", self.status(key, "")
        users = self._layout.user_folders(shelf, key.backend)
        for user in [by_id, *users] if by_id else users:
            if is_there(shelf.path(key, user)):
                return user, self.status(key, user)
        return "", None

    def has_status(self, key: JobKey) -> bool:
        """Whether there is a status of such a job, so that it is of this backend."""
        return self._status(key, user_of_id(key.id))[1] is not None

    def status(self, key: JobKey, user: str) -> Status | None:
        """What a job's status says; None if there is none, or none that is whole."""
        data = read_document(self._layout.status.path(key, user), _STATUS_BYTES)
        return None if data is None else decode_status(data)

    def result(self, key: JobKey, user: str) -> BlobRef | None:
        """Another program's result of a job; None if there is none, or none that is whole."""
        try:
            ref, first = _measured(self._layout.result.path(key, user), result_blob_id(key, FOREIGN))
        except NoDocumentError:
            return None
        except OSError as error:
            if is_disk_trouble(error):
                raise
            return None
        # Of a longer one it is enough that it is there: it is not held in memory.
        is_whole = ref.size > _PIECE_BYTES or is_json(first)
        return ref if is_whole else None


def _measured(path: str, blob_id: str, limit: int = 1 << 63) -> tuple[BlobRef, bytes]:
    """The reference to a file's bytes, at most `limit` of them, and the first of them."""
    digest, size, first = sha256(), 0, b""
    while size < limit and (piece := read_range(path, size, _PIECE_BYTES)):
        first = first or piece
        digest.update(piece)
        size += len(piece)
    return BlobRef(blob_id, size, digest.hexdigest()), first
