"""Backends' configs: the file counts, so edits are taken up; what a spooler registers is written there."""

import os
from time import monotonic

import msgspec

from spoolway_providers.digests import config_etag
from spoolway_providers.local.disk import Disk
from spoolway_providers.local.documents import is_json_object
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout
from spoolway_providers.local.reading import read_document
from spoolway_providers.sqlite.backends import ConfigWrite, put_config
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Configs"]

_LARGEST_BYTES = 4 << 20
_RETRY_S = 0.05
_RETRIES_S = 10.0
"""A config that is half written is read again for so long; after that, when something happens to it."""


class _Row(msgspec.Struct, frozen=True):
    """A backend's config in the index."""

    config: bytes
    etag: str
    file_etag: str | None
    """Of the file when we last read or wrote it."""


@one_by_one
def _take_up(transaction: Transaction, write: ConfigWrite) -> None:
    """Somebody has written the file."""
    put_config(transaction, write)
    _note(transaction, write)


@one_by_one
def _note_file(transaction: Transaction, write: ConfigWrite) -> None:
    """The file says what the index says."""
    _note(transaction, write)


@one_by_one
def _note_none(transaction: Transaction, backend: str) -> None:
    """There is no file of ours; one that comes is another's."""
    transaction.connection.execute(
        "INSERT OR REPLACE INTO local_configs(backend, etag) VALUES (?, '')", (backend,)
    )


def _note(transaction: Transaction, write: ConfigWrite) -> None:
    transaction.connection.execute(
        "INSERT OR REPLACE INTO local_configs(backend, etag) VALUES (?, ?)",
        (write.backend, config_etag(write.config)),
    )


class Configs:
    """Used by the keeper's thread only."""

    def __init__(self, index: Index, disk: Disk, layout: Layout) -> None:
        self._index = index
        self._disk = disk
        self._layout = layout
        self._torn_since: dict[str, float] = {}
        self._with_folders: set[str] = set()

    @property
    def next_look(self) -> float:
        """When a file that is not whole is to be read again, by the monotonic clock."""
        now = monotonic()
        is_hopeful = any(now - since < _RETRIES_S for since in self._torn_since.values())
        return now + _RETRY_S if is_hopeful else float("inf")

    def are_behind(self) -> bool:
        """Whether a config of the index is not in its file yet."""
        row = self._index.connection.execute(
            "SELECT 1 FROM backends b LEFT JOIN local_configs c ON c.backend = b.name"
            " WHERE c.etag IS NOT b.config_etag LIMIT 1"
        ).fetchone()
        return row is not None

    def sync(self) -> list[str]:
        """Take up what others wrote, and write what they did not; all backends, by name."""
        rows = self._rows()
        files = dict(self._layout.config_files())
        for backend in sorted(rows.keys() | files.keys()):
            self._sync(backend, rows.get(backend))
        return sorted(self._rows())

    def _rows(self) -> dict[str, _Row]:
        rows = self._index.connection.execute(
            "SELECT b.name, b.config, b.config_etag, c.etag"
            " FROM backends b LEFT JOIN local_configs c ON c.backend = b.name"
        )
        return {name: _Row(*row) for name, *row in rows.fetchall()}

    def _sync(self, backend: str, row: _Row | None) -> None:
        path = self._layout.config(backend)
        data = read_document(path, _LARGEST_BYTES)
        if row is not None and not row.etag and (data is None or config_etag(data) == row.file_etag):
            self._remove(backend, row)
            return
        if data is None:
            if row is not None and not os.path.lexists(path):
                self._write(backend, row.config)
            return
        etag = config_etag(data)
        if row is not None and etag == row.etag:
            if row.file_etag != etag:
                self._index.commit(_note_file, ConfigWrite(backend, data, None))
            self._torn_since.pop(backend, None)
        elif row is not None and row.etag and (row.file_etag == etag or row.file_etag != row.etag):
            # It was registered since the file was written: where both have changed, that was acknowledged.
            self._write(backend, row.config)
        elif is_json_object(data):
            self._torn_since.pop(backend, None)
            self._index.commit(_take_up, ConfigWrite(backend, data, None))
        else:
            self._torn_since.setdefault(backend, monotonic())
        if row is not None or backend not in self._torn_since:
            self._make_folders(backend)

    def _write(self, backend: str, config: bytes) -> None:
        self._make_folders(backend)
        batch = self._disk.batch(1)
        draft = batch.draft(self._layout.config(backend), [config])
        batch.name(draft)
        batch.sync_folders()
        self._torn_since.pop(backend, None)
        self._index.commit(_note_file, ConfigWrite(backend, config, None))

    def _remove(self, backend: str, row: _Row) -> None:
        """The config was taken away, and its file is as we know it: it goes, too."""
        if row.file_etag == "":
            return
        batch = self._disk.batch(1)
        batch.remove(self._layout.config(backend))
        batch.sync_folders()
        self._torn_since.pop(backend, None)
        self._index.commit(_note_none, backend)

    def _make_folders(self, backend: str) -> None:
        """So that others find where to drop their files."""
        if backend not in self._with_folders:
            for folder in self._layout.folders_of(backend):
                os.makedirs(folder, exist_ok=True)
            self._with_folders.add(backend)
