"""The embedded storage: one SQLite file, shared by the processes of one host."""

from spoolway_providers.sqlite.provider import SqliteProvider

__all__ = ["SqliteProvider"]
