"""What SQLite's errors mean to a caller."""

import sqlite3

from spoolway_providers.errors import Corrupt, ProviderError, Unavailable, Uncertain

__all__ = ["code_of", "commit_fault_of", "fault_of"]

_PASSING = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)
"""Trouble of the disk or of others; the file itself is well."""

_SURELY_NOT_COMMITTED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY})
"""After these a COMMIT has not written its last frame, without which the log's reader ignores the rest."""


def code_of(error: sqlite3.Error) -> int:
    """The primary result code; 0 if the error came from the Python module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def fault_of(error: sqlite3.Error) -> ProviderError:
    """What an error before the commit means: nothing was done."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code_of(error) in _PASSING:
        return Unavailable(f"SQLite says: {error} ({name})")
    return Corrupt(f"SQLite says: {error} ({name}); check the file")


def commit_fault_of(error: sqlite3.Error) -> ProviderError:
    """What an error of COMMIT itself means: a failed sync may or may not have kept the transaction."""
    if code_of(error) in _SURELY_NOT_COMMITTED:
        return fault_of(error)
    return Uncertain(f"SQLite broke off while committing: {error}")
