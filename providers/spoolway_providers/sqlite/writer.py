"""Group commit: all calls of a batch in one transaction, and nobody is told before it is on the disk."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import random
from time import monotonic, sleep
from typing import Any, TypeVar

import msgspec

from spoolway_providers.errors import Corrupt, ProviderError
from spoolway_providers.model import Job, State
from spoolway_providers.sqlite.documents import from_microseconds, to_microseconds
from spoolway_providers.sqlite.faults import code_of, commit_fault_of, fault_of
from spoolway_providers.sqlite.recent import ChangedJob
from spoolway_providers.sqlite.schema import connect, prepare
from spoolway_providers.sqlite.wake import KnownChange
from spoolway_providers.sqlite.worker import Call, Outcome

__all__ = ["News", "Operation", "Transaction", "Writer", "one_by_one"]

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_LONGEST_PAUSE_S = 0.004
"""Between two tries for the write lock; SQLite's own pauses grow to 100 ms, and so starve who waits."""


class News(msgspec.Struct):
    """What a committed batch did, for those who wait."""

    before: int
    """The newest change's number before it."""
    last: int
    """The newest change's number after it."""
    changed: list[ChangedJob]
    queued: set[str] | None
    """Backends that may have new claimable jobs; None: any."""


class Transaction:
    """One write transaction: its connection, its time, and the numbers of its changes."""

    __slots__ = ("change", "changed", "connection", "now", "queued", "ranked_at")

    def __init__(self, connection: sqlite3.Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.change: int
        self.ranked_at: int
        self.change, self.ranked_at = connection.execute("SELECT change, ranked_at FROM meta").fetchone()
        self.changed: list[ChangedJob] = []
        """What it does to jobs, by number."""
        self.queued: set[str] = set()
        """Backends with new claimable jobs."""

    def next_change(self) -> int:
        """The number of one more change."""
        self.change += 1
        return self.change

    def note(self, change: int, job: Job) -> None:
        """A job is stored under the number `change`."""
        self.changed.append((change, job.key, job))
        if job.state is State.QUEUED:
            self.queued.add(job.key.backend)

    def rank_time(self) -> datetime:
        """Now, but never before the time of an earlier submit: a clock may be set back."""
        self.ranked_at = max(self.ranked_at, to_microseconds(self.now))
        return from_microseconds(self.ranked_at)

    def save(self) -> None:
        """Write down how far the numbers went."""
        self.connection.execute("UPDATE meta SET change = ?, ranked_at = ?", (self.change, self.ranked_at))


Operation = Callable[[Transaction, list[Argument]], Sequence[Result | ProviderError]]
"""Serves the calls of one kind in a batch: a result, or an error to raise, for each argument in turn."""


def one_by_one(operation: Callable[[Transaction, Argument], Result]) -> Operation[Argument, Result]:
    """Make an `Operation` of one that serves a single call.

    A ProviderError that it raises is the answer to its call; it must not have written before.
    """

    def serve(transaction: Transaction, arguments: list[Argument]) -> list[Result | ProviderError]:
        results: list[Result | ProviderError] = []
        for argument in arguments:
            try:
                results.append(operation(transaction, argument))
            except ProviderError as error:
                results.append(error)
        return results

    return serve


class Writer:
    """Serves batches of operations; lives in a Worker's thread.

    After any trouble it begins the next batch on a new connection: it needs no restart.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime],
        busy_timeout: timedelta,
        known_change: KnownChange,
        on_commit: Callable[[], None],
    ) -> None:
        self._path = path
        self._clock = clock
        self._busy_timeout_s = busy_timeout.total_seconds()
        self._on_commit = on_commit
        self._connection: sqlite3.Connection | None = None
        self._known_change = known_change

    def serve(self, batch: Sequence[Call]) -> tuple[list[Outcome], News | None]:
        """Commit all calls of the batch, or none of them."""
        try:
            return self._serve(self._connected(), batch)
        except ProviderError as error:
            return [(call, error) for call in batch], None

    def disconnect(self) -> None:
        """Let go of the file; what is not committed is undone."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            prepare(self._path, busy_timeout_s=self._busy_timeout_s)
            try:
                self._connection = connect(self._path, busy_timeout_s=self._busy_timeout_s, read_only=False)
            except sqlite3.Error as error:
                raise fault_of(error) from error
        return self._connection

    def _serve(
        self, connection: sqlite3.Connection, batch: Sequence[Call]
    ) -> tuple[list[Outcome], News | None]:
        try:
            transaction, others_wrote = self._begin(connection)
            first = transaction.change
            try:
                outcomes = _run_together(transaction, batch)
            except sqlite3.OperationalError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, it is the answer to one call only
                connection.execute("ROLLBACK")
                transaction, others_wrote_too = self._begin(connection)
                others_wrote |= others_wrote_too
                first = transaction.change
                outcomes = _run_apart(transaction, batch)
            if has_changed := transaction.change != first:
                transaction.save()
        except sqlite3.Error as error:
            # What it has met of others' changes, it has told nobody.
            self._known_change.forget()
            if connection.in_transaction or code_of(error) != sqlite3.SQLITE_BUSY:
                self.disconnect()
            raise fault_of(error) from error
        self._known_change.pledge(transaction.change)
        self._commit(connection)
        if has_changed:
            self._on_commit()
        elif not others_wrote:
            return outcomes, None
        queued = None if others_wrote else transaction.queued
        return outcomes, News(first, transaction.change, transaction.changed, queued)

    def _begin(self, connection: sqlite3.Connection) -> tuple[Transaction, bool]:
        """Take the database's write lock: whatever is read from here on stays so until the commit.

        Returns:
            The transaction, and whether others have committed changes since our last one.
        """
        deadline = monotonic() + self._busy_timeout_s
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if code_of(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
            sleep(random() * _LONGEST_PAUSE_S)  # noqa: S311 - only spreads the tries
        transaction = Transaction(connection, self._clock())
        return transaction, self._known_change.meet(transaction.change)

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._known_change.forget()
            self.disconnect()
            raise commit_fault_of(error) from error


def _run_together(transaction: Transaction, batch: Iterable[Call]) -> list[Outcome]:
    """Serve calls of one kind at once."""
    kinds: dict[Operation[Any, Any], list[Call]] = {}
    for call in batch:
        kinds.setdefault(call.operation, []).append(call)
    outcomes: list[Outcome] = []
    for operation, calls in kinds.items():
        outcomes += zip(calls, operation(transaction, [call.argument for call in calls]), strict=True)
    return outcomes


def _run_apart(transaction: Transaction, batch: Iterable[Call]) -> list[Outcome]:
    """Serve each call in a savepoint, so that one that breaks harms only itself."""
    outcomes: list[Outcome] = []
    for call in batch:
        transaction.connection.execute("SAVEPOINT call")
        noted = len(transaction.changed)
        try:
            outcomes += [(call, result) for result in call.operation(transaction, [call.argument])]
        except sqlite3.OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the answer to this call
            transaction.connection.execute("ROLLBACK TO call")
            del transaction.changed[noted:]
            outcomes.append((call, _answer_of(error)))
        transaction.connection.execute("RELEASE call")
    return outcomes


def _answer_of(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error):
        return fault_of(error)
    if isinstance(error, msgspec.MsgspecError):
        return Corrupt(f"a document can't be read: {error}")
    return error
