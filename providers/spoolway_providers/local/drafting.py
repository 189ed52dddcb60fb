"""What is to be written of a job: which documents, and where its file is to lie."""

import sqlite3
from collections.abc import Iterable, Iterator

import msgspec

from spoolway_providers.local.disk import Batch, Draft
from spoolway_providers.local.documents import decode_status, encode_status
from spoolway_providers.local.filed import key_of
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.names import user_folder
from spoolway_providers.local.reading import read_document
from spoolway_providers.local.tables import FileRow, Pending
from spoolway_providers.model import BlobRef, Job, Reason, State
from spoolway_providers.sqlite import blobs

__all__ = ["Drafter", "Plan", "is_held_by_others"]

_PIECE_BYTES = 1 << 20
_STATUS_BYTES = 1 << 20


class Plan(msgspec.Struct):
    """What is to be done about one job's files."""

    job: Job
    row: FileRow
    """As it was."""
    place: Place
    """Where its file is to lie."""
    content: Draft | None = None
    status: Draft | None = None
    result: Draft | None = None
    blobs: list[str] = []
    """Short blobs that will be files, so that the index may forget them."""
    uploads: list[str] = []
    """Staged blobs that will be files."""
    unnamed: list[str] = []
    """Of these, those whose ids don't name their job."""


class Drafter:
    """Writes a job's documents, still without names."""

    def __init__(self, layout: Layout, *, stock_spoolers: frozenset[str]) -> None:
        self._layout = layout
        self._stock_spoolers = stock_spoolers

    def draft(self, connection: sqlite3.Connection, batch: Batch, one: Pending, *, cautious: bool) -> Plan:
        """Write what of a job is no file yet, or an older one.

        Args:
            connection: A snapshot of the index.
            batch: Takes the documents.
            one: The job.
            cautious: Its file may be written already, and moved by somebody since.
        """
        job, row = one.job, one.row
        if row is None:
            row = FileRow(user_folder(job.owner), Place.NOWHERE)
            if cautious:
                row = msgspec.structs.replace(row, place=self._layout.where(job.key, row.user))
        plan = Plan(job, row, self._place_for(job, row))
        if one.row is None:
            pieces = self._pieces(connection, plan, job.content)
            if row.place is Place.NOWHERE:
                plan.content = batch.draft(self._layout.job(plan.place, job.key, row.user), pieces)
        if job.result is not None and not row.has_result:
            pieces = self._pieces(connection, plan, job.result)
            plan.result = batch.draft(self._layout.result.path(job.key, row.user), pieces)
        if not self._is_told(job, one.row):
            plan.status = batch.draft(self._layout.status.path(job.key, row.user), [encode_status(job)])
        return plan

    def _place_for(self, job: Job, row: FileRow) -> Place:
        match job.state:
            case State.DONE:
                return Place.FINISHED
            case _ if is_held_by_others(job):
                return row.place
            case State.ERROR | State.CANCELLED | State.EXPIRED:
                return Place.DELETED
            case State.CLAIMED | State.RUNNING | State.CANCELLING:
                return Place.RUNNING
            case State.HELD if job.reason in {Reason.SPOOLER_LOST, Reason.IMPORTED}:
                return Place.RUNNING
        if job.key.backend not in self._stock_spoolers:
            return Place.QUEUED
        # What waits there is out of reach; which one is offered is for `Heads` to say.
        is_offered = row.place is Place.QUEUED and job.state is State.QUEUED
        return Place.QUEUED if is_offered else Place.WAITING

    def _is_told(self, job: Job, row: FileRow | None) -> bool:
        """Whether the status is another program's to write, or tells already what it must."""
        if row is None:
            return False
        if (job.state, job.reason) in {(State.RUNNING, Reason.FOREIGN), (State.HELD, Reason.IMPORTED)}:
            return True
        if not job.is_terminal or (job.attempts and not _was_foreign(job)):
            return False
        data = read_document(self._layout.status.path(job.key, row.user), _STATUS_BYTES)
        status = decode_status(data) if data is not None else None
        return status is not None and status.status == ("DONE" if job.state is State.DONE else "ERROR")

    @staticmethod
    def _pieces(connection: sqlite3.Connection, plan: Plan, ref: BlobRef) -> Iterable[bytes]:
        """The bytes of a blob of the index, which will be a file."""
        row = connection.execute("SELECT data FROM blobs WHERE id = ?", (ref.id,)).fetchone()
        if row is not None:
            plan.blobs.append(ref.id)
            return [row[0]]
        plan.uploads.append(ref.id)
        if key_of(ref.id) != plan.job.key:
            plan.unnamed.append(ref.id)
        return _read_upload(connection, ref)


def is_held_by_others(job: Job) -> bool:
    """Whether the file is another program's to move."""
    if (job.state, job.reason) == (State.RUNNING, Reason.FOREIGN):
        return True
    return job.state is State.CANCELLED and _was_foreign(job)


def _was_foreign(job: Job) -> bool:
    return len(job.times) > 1 and job.times[-2].reason is Reason.FOREIGN


def _read_upload(connection: sqlite3.Connection, ref: BlobRef) -> Iterator[bytes]:
    for offset in range(0, ref.size, _PIECE_BYTES):
        yield blobs.read_blob(connection, blobs.Reading(ref, offset, _PIECE_BYTES))
