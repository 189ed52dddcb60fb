"""The unmodified SDK, imported once it has been pointed here."""

import dropbox  # type: ignore[import-untyped]  # ships no types
from dropbox import content_hash, exceptions, files

__all__ = ["content_hash", "dropbox", "exceptions", "files"]
