"""What lies in the account, as far as we know: each file by its path, as listed or as we wrote it."""

from collections.abc import Iterator

from spoolway_providers.dropbox_storage.client import FileInfo

__all__ = ["Mirror"]


class Mirror:
    """Files by path, whatever its case."""

    def __init__(self) -> None:
        self._files: dict[str, FileInfo] = {}

    def get(self, path: str) -> FileInfo | None:
        """The file at a path."""
        return self._files.get(path.lower())

    def set(self, info: FileInfo) -> None:
        """There is a file."""
        self._files[info.path.lower()] = info

    def drop(self, path: str) -> None:
        """There is none any more."""
        self._files.pop(path.lower(), None)

    def is_news(self, info: FileInfo) -> bool:
        """Whether this is another file than we know of, or another revision."""
        known = self.get(info.path)
        return known is None or known.rev != info.rev

    def below(self, path: str) -> list[FileInfo]:
        """All files in a folder, however deep."""
        prefix = path.lower() + "/"
        return [info for low, info in self._files.items() if low.startswith(prefix)]

    def paths(self) -> Iterator[str]:
        """All paths, in lower case."""
        return iter(list(self._files))
