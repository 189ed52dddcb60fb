"""The local folder: the SQLite engine as index, and folders that people and other programs read."""

from spoolway_providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
