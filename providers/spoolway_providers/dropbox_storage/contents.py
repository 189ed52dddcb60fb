"""Documents that were just written or read, so that they need not be fetched again."""

from collections import OrderedDict

__all__ = ["Contents"]

MAX_BYTES = 64 << 20


class Contents:
    """The blobs used last, by id, up to a number of bytes."""

    def __init__(self) -> None:
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, blob_id: str) -> bytes | None:
        """A blob, if it is still here."""
        data = self._blobs.get(blob_id)
        if data is not None:
            self._blobs.move_to_end(blob_id)
        return data

    def put(self, blob_id: str, data: bytes) -> None:
        """Remember a blob."""
        self.drop(blob_id)
        self._blobs[blob_id] = data
        self._bytes += len(data)
        while self._bytes > MAX_BYTES:
            _, oldest = self._blobs.popitem(last=False)
            self._bytes -= len(oldest)

    def drop(self, blob_id: str) -> None:
        """Forget a blob."""
        self._bytes -= len(self._blobs.pop(blob_id, b""))
