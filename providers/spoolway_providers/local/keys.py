"""Public keys: the files count, as other programs write and read them, too."""

import os
import sqlite3
from contextlib import suppress

from spoolway_providers.errors import Unavailable, Unsupported
from spoolway_providers.local.documents import is_json_object
from spoolway_providers.local.layout import SUFFIX, Layout, list_folder
from spoolway_providers.local.names import is_user_folder
from spoolway_providers.local.reading import read_document
from spoolway_providers.model import new_token
from spoolway_providers.sqlite.backends import PublicKey

__all__ = ["PublicKeys"]

_LARGEST_BYTES = 64 << 10


class PublicKeys:
    """Used by the engine's reading threads, whose limit of time holds here too."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def put(self, connection: sqlite3.Connection, key: PublicKey) -> bytes:
        """Keep a public key unless there is one of this id; see the interface."""
        path, draft = self._path(key.kid), f"{self._layout.drafts}/{new_token()}.part"
        try:
            with open(draft, "xb") as file:
                file.write(key.document)
                file.flush()
                os.fsync(file.fileno())
            try:
                # Unlike a rename it fails where there is a file.
                with suppress(FileExistsError):
                    os.link(draft, path)
            finally:
                os.unlink(draft)
            _sync(self._layout.public_keys)
        except OSError as error:
            raise Unavailable(f"the public key can't be written: {error}") from error
        return self.get(connection, key.kid) or key.document

    def get(self, _: sqlite3.Connection, kid: str) -> bytes | None:
        """The public key of an id; None if there is none, or one that is half written."""
        try:
            document = read_document(self._path(kid), _LARGEST_BYTES)
        except OSError as error:
            raise Unavailable(f"the public key can't be read: {error}") from error
        return document if document is not None and is_json_object(document) else None

    def all(self, connection: sqlite3.Connection, _: None) -> dict[str, bytes]:
        """All public keys, by id."""
        kids = sorted(
            name.removesuffix(SUFFIX)
            for name in list_folder(self._layout.public_keys)
            if name.endswith(SUFFIX)
        )
        found = {kid: self.get(connection, kid) for kid in kids if is_user_folder(kid)}
        return {kid: key for kid, key in found.items() if key is not None}

    def _path(self, kid: str) -> str:
        if not is_user_folder(kid):
            raise Unsupported(f"{kid!r} can't be the name of a file")
        return self._layout.public_key(kid)


def _sync(folder: str) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
