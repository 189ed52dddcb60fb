"""Reads: a batch sees one snapshot, of all that was committed when its first call was served."""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec

from spoolway_providers.errors import Corrupt, ProviderError
from spoolway_providers.sqlite.faults import fault_of
from spoolway_providers.sqlite.schema import connect
from spoolway_providers.sqlite.worker import Call, Outcome

__all__ = ["Reader"]


class Reader:
    """Serves batches of reads; lives in a Worker's thread."""

    def __init__(self, path: Path, *, busy_timeout: timedelta) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout.total_seconds()
        self._connection: sqlite3.Connection | None = None

    def serve(self, batch: Sequence[Call]) -> tuple[list[Outcome], None]:
        """Answer all calls of the batch from one snapshot."""
        try:
            connection = self._connected()
            connection.execute("BEGIN")
            outcomes: list[Outcome] = [(call, _answer(connection, call)) for call in batch]
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.disconnect()
            return [(call, fault_of(error)) for call in batch], None
        return outcomes, None

    def disconnect(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self._path, busy_timeout_s=self._busy_timeout_s, read_only=True)
        return self._connection


def _answer(connection: sqlite3.Connection, call: Call) -> object:
    """What the call asked for, or the exception that is its answer."""
    try:
        return call.operation(connection, call.argument)
    except sqlite3.OperationalError:
        raise
    except ProviderError as error:
        return error
    except sqlite3.Error as error:
        return fault_of(error)
    except msgspec.MsgspecError as error:
        return Corrupt(f"a document can't be read: {error}")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer to this call only
        return error
