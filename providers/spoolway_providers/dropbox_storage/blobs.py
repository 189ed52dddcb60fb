"""Reading contents and results: short ones at once and from memory, long ones in pieces."""

from hashlib import sha256

from spoolway_providers.dropbox_storage.client import FileInfo
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.faults import PathMissing
from spoolway_providers.dropbox_storage.tenure import Tenure
from spoolway_providers.errors import Conflict, Corrupt, NotFound, Unavailable
from spoolway_providers.model import BlobRef

__all__ = ["is_named", "read_blob", "read_whole", "stage"]

_TRIES = 3
"""To read a file that moves meanwhile."""


async def stage(tenure: Tenure, blob_id: str, offset: int, data: bytes) -> int:
    """Write a piece of an upload; see the interface."""
    committed = _committed(tenure, blob_id)
    if committed is None:
        return await tenure.staging.stage(blob_id, offset, data)
    if offset + len(data) > committed.size:
        raise Conflict(f"blob {blob_id!r} is committed with {committed.size} bytes", committed.size)
    return committed.size


def is_named(tenure: Tenure, blob_id: str) -> bool:
    """Whether a job has named a blob."""
    return _committed(tenure, blob_id) is not None


def _committed(tenure: Tenure, blob_id: str) -> BlobRef | None:
    key = tenure.index.blobs.get(blob_id)
    entry = None if key is None else tenure.index.entries.get(key)
    if entry is None or entry.job is None:
        return None
    return next((ref for ref in (entry.job.content, entry.job.result) if ref and ref.id == blob_id), None)


async def read_blob(tenure: Tenure, ref: BlobRef, offset: int, limit: int) -> bytes:
    """Some bytes of a committed blob; see the interface."""
    committed = _committed(tenure, ref.id)
    if committed is None:
        raise NotFound(f"there is no blob {ref.id!r}")
    if offset >= committed.size or limit <= 0:
        return b""
    entry = tenure.index.entries[tenure.index.blobs[ref.id]]
    if committed.size <= tenure.capabilities.max_document_bytes:
        data = await read_whole(tenure, entry, committed)
        return data[offset : offset + limit]
    return (await _download(tenure, entry, committed, offset, min(committed.size, offset + limit)))[1]


async def read_whole(tenure: Tenure, entry: Entry, ref: BlobRef) -> bytes:
    """All of a short blob. Raises Corrupt: another program has changed it."""
    data = tenure.contents.get(ref.id)
    if data is None:
        _, data = await _download(tenure, entry, ref)
        if sha256(data).hexdigest() != ref.sha256:
            raise Corrupt(f"another program has changed the file of blob {ref.id!r}")
        tenure.contents.put(ref.id, data)
    return data


async def _download(
    tenure: Tenure, entry: Entry, ref: BlobRef, start: int = 0, end: int | None = None
) -> tuple[FileInfo, bytes]:
    for _ in range(_TRIES):
        is_content = entry.job is None or entry.job.content == ref
        path = entry.job_path if is_content else tenure.result_path(entry)
        try:
            found: tuple[FileInfo, bytes] = await tenure.calls.read(
                tenure.calls.client.download, path, start, end
            )
        except PathMissing:
            if entry.key not in tenure.index.entries:
                raise NotFound(f"there is no blob {ref.id!r}") from None
            continue
        return found
    raise Unavailable(f"the file of blob {ref.id!r} is not where it was")
