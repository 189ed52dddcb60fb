"""Reading contents and results back: from the index until they are files, from the files then."""

import os
import sqlite3
import stat
from collections.abc import Sequence

import msgspec

from spoolway_providers.digests import blob_ref
from spoolway_providers.errors import NotFound, Unavailable
from spoolway_providers.local.disk import is_disk_trouble
from spoolway_providers.local.filed import find_filed
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.model import BlobRef, Job, JobKey
from spoolway_providers.sqlite import blobs
from spoolway_providers.sqlite.documents import CAPABILITIES

__all__ = ["BlobReader", "Loss", "NoDocumentError", "read_document", "read_range"]


class NoDocumentError(Exception):
    """What lies there is no ordinary file: a link could lead anywhere, a pipe for ever."""


class Loss(msgspec.Struct, frozen=True):
    """Why a job can't be run."""

    reason: str
    message: str


def read_range(path: str, offset: int, limit: int) -> bytes:
    """At most `limit` bytes of an ordinary file.

    Raises:
        OSError: such as FileNotFoundError.
        NoDocumentError: it is a link, a folder or else.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except IsADirectoryError as error:
        raise NoDocumentError(path) from error
    except OSError as error:
        if os.path.islink(path):
            raise NoDocumentError(path) from error
        raise
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            raise NoDocumentError(path)
        # No more than there is: a buffer of `limit` bytes would cost more than the read.
        end = min(offset + limit, info.st_size)
        pieces = []
        while offset < end and (piece := os.pread(file, end - offset, offset)):
            pieces.append(piece)
            offset += len(piece)
    finally:
        os.close(file)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_document(path: str, limit: int) -> bytes | None:
    """All of an ordinary file; None if there is none, one longer than `limit`, or one that is not for us.

    Raises:
        OSError: the disk is in trouble, whatever the file.
    """
    try:
        data = read_range(path, 0, limit + 1)
    except NoDocumentError:
        return None
    except OSError as error:
        if is_disk_trouble(error):
            raise
        return None
    return data if len(data) <= limit else None


class BlobReader:
    """Reads for the provider, in the engine's reading threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def read_blob(self, connection: sqlite3.Connection, reading: blobs.Reading) -> bytes:
        """Some bytes of a committed blob; see the interface."""
        paths = self._paths(connection, reading.ref)
        for path in paths:
            try:
                return read_range(path, reading.offset, reading.limit)
            except (FileNotFoundError, NotADirectoryError, NoDocumentError):
                continue
            except OSError as error:
                raise Unavailable(f"a document of the folder can't be read: {error}") from error
        if paths:
            raise NotFound(f"the file of blob {reading.ref.id!r} is gone: somebody removed it")
        return blobs.read_blob(connection, reading)

    def _paths(self, connection: sqlite3.Connection, ref: BlobRef) -> list[str]:
        """Where a blob may lie, the likeliest first; empty if it is no file yet."""
        filed = find_filed(connection, ref.id)
        if filed is None:
            return []
        if filed.is_result:
            return [self._layout.result.path(filed.job.key, filed.files.user)]
        return self._content_paths(filed.job.key, filed.files.user, filed.files.place)

    def _content_paths(self, key: JobKey, user: str, place: Place) -> list[str]:
        """It may be moved while we look: to the places after this one, seldom before."""
        others = [Place.QUEUED, Place.WAITING, Place.RUNNING, Place.FINISHED, Place.DELETED]
        known = [place] if place is not Place.NOWHERE else []
        return [self._layout.job(one, key, user) for one in (*known, *others, *others)]

    def contents(self, connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[bytes | Loss | None]:
        """The contents of claimed jobs, as they were submitted; None: it is to be read as a blob."""
        return [self._content(connection, job) for job in jobs]

    def _content(self, connection: sqlite3.Connection, job: Job) -> bytes | Loss | None:
        row = connection.execute("SELECT user, place FROM local_files WHERE seq = ?", (job.seq,)).fetchone()
        if row is None or job.content.size > CAPABILITIES.max_document_bytes:
            return None
        for path in self._content_paths(job.key, row[0], Place(row[1])):
            data = read_document(path, job.content.size)
            if data is not None and blob_ref(job.content.id, data) == job.content:
                return data
        found = self._layout.where(job.key, row[0])
        if found is Place.NOWHERE:
            return Loss("FILE_LOST", "its file was removed by somebody while it waited")
        return Loss("FILE_CHANGED", "its file was changed by somebody while it waited")
