"""The index document: what each status says, with its rev, so that a new owner need not read them all."""

from spoolway_providers.dropbox_storage.client import OVERWRITE
from spoolway_providers.dropbox_storage.documents import SnapshotEntry, decode_snapshot, encode_snapshot
from spoolway_providers.dropbox_storage.reading import Reader
from spoolway_providers.dropbox_storage.tenure import Tenure

__all__ = ["SnapshotKeeper"]

FEW_CHANGES = 200
"""Not worth a snapshot: so many statuses are read within seconds."""
MANY_CHANGES = 500
"""Worth one at once."""


class SnapshotKeeper:
    """Reads it when an owner begins, and writes it when enough has changed."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._entries: list[SnapshotEntry] = []
        self._written_at = tenure.calls.monotonic()

    async def read(self) -> None:
        """Fetch it; `apply` makes use of it once the account is listed."""
        tenure = self._tenure
        found = await tenure.calls.download(tenure.layout.snapshot)
        if found is not None:
            self._entries = await tenure.calls.think(lambda: decode_snapshot(found[1]))

    def apply(self, reader: Reader) -> None:
        """Take over what is still so, by rev."""
        tenure = self._tenure
        for one in self._entries:
            entry = tenure.index.entries.get(one.job.key)
            info = tenure.mirror.get(one.path)
            if entry is None or info is None or entry.status_path != info.path:
                continue
            if info.rev != one.rev:
                reader.remembered[entry.key] = one
                continue
            if reader.is_at_odds(entry, one.job):
                continue
            reader.take(entry, one.job, one.fingerprint)
        self._entries = []

    @property
    def is_due(self) -> bool:
        """Whether it is worth a call."""
        tenure = self._tenure
        changed, jobs = tenure.changed_statuses, len(tenure.index.entries)
        if changed >= max(MANY_CHANGES, jobs // 10):
            return True
        waited_s = tenure.calls.monotonic() - self._written_at
        return changed >= max(FEW_CHANGES, jobs // 20) and waited_s >= tenure.timings.snapshot_every_s

    async def write(self) -> None:
        """Write it."""
        tenure = self._tenure
        self._written_at = tenure.calls.monotonic()
        changed = tenure.changed_statuses
        entries = [
            SnapshotEntry(info.path, info.rev, entry.job, entry.fingerprint)
            for entry in tenure.index.entries.values()
            if entry.job is not None
            and entry.unwritten_until is None
            and not entry.doubted
            and (info := tenure.mirror.get(entry.status_path)) is not None
        ]
        data = await tenure.calls.think(lambda: encode_snapshot(entries))
        await tenure.writer.put(tenure.layout.snapshot, data, OVERWRITE)
        tenure.changed_statuses -= changed
