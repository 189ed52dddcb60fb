"""The writes that a round is made of."""

import asyncio

import msgspec

from spoolway_providers.dropbox_storage.client import Commit, FileInfo, content_hash
from spoolway_providers.dropbox_storage.mirror import Mirror

__all__ = ["Delete", "Move", "Put", "Uploaded", "Write"]


class Uploaded(msgspec.Struct, frozen=True):
    """A closed upload session with all its data."""

    session: str
    size: int
    content_hash: str


class Write:
    """One change of one file; `target` is where one sees whether it is done."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.until = 0.0
        """When to stop trying."""
        self.doubted = False
        """An answer was lost: it may have been done."""
        self.future: asyncio.Future[FileInfo | None] = asyncio.get_running_loop().create_future()

    def apply(self, mirror: Mirror, info: FileInfo | None) -> None:
        """Let the mirror know that it is done."""
        if info is not None:
            mirror.set(info)


class Put(Write):
    """Store a file: `data`, or what was uploaded already."""

    def __init__(self, commit: Commit, *, data: bytes = b"", uploaded: Uploaded | None = None) -> None:
        super().__init__(commit.path)
        self.commit = commit
        self.data = data
        self.uploaded = uploaded
        self.content_hash = uploaded.content_hash if uploaded else content_hash(data)


class Move(Write):
    """Move a file."""

    def __init__(self, source: str, target: str, content_hash: str) -> None:
        super().__init__(target)
        self.source = source
        self.content_hash = content_hash

    def apply(self, mirror: Mirror, info: FileInfo | None) -> None:
        """There is nothing any more where it was."""
        mirror.drop(self.source)
        super().apply(mirror, info)


class Delete(Write):
    """Remove a file."""

    def __init__(self, path: str, rev: str | None) -> None:
        super().__init__(path)
        self.rev = rev

    def apply(self, mirror: Mirror, info: FileInfo | None) -> None:
        """There is nothing any more where it was."""
        mirror.drop(self.target)
