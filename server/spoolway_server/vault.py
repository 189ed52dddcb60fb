"""Logins at rest: AES-GCM with a key that is no part of the catalog. The one place that sees both.

A key is 32 random bytes, written as 43 characters of URL-safe base64. Several may be given, separated by
commas: the first one encrypts, all decrypt, so that keys are changed without a stop.
"""

import base64
import binascii
import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from spoolway_server.catalog import Catalog, CatalogConflict, Sealed, StorageRecord
from spoolway_server.errors import ServiceError

__all__ = ["KEY_VARIABLE", "KeyMissing", "KeyMistake", "LoginUnreadable", "Vault", "new_key", "rotate"]

KEY_VARIABLE = "SPOOLWAY_KEY"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyMistake(ValueError):
    """The key that was given is none; the message never shows it."""


class KeyMissing(ServiceError):
    """There is no key, and a login with a secret is to be stored."""

    def __init__(self) -> None:
        """Say how to make one."""
        super().__init__(
            grpc.StatusCode.FAILED_PRECONDITION,
            "KEY_MISSING",
            "this server has no key to encrypt logins with, and stores no secret without: make one with "
            f"`spoolway admin new-key`, give it to every server as {KEY_VARIABLE} or in the file that "
            "catalog.key_file names, and start them anew",
        )


class LoginUnreadable(ServiceError):
    """A stored login can't be opened."""

    def __init__(self, problem: str) -> None:
        """Say why, and what to do."""
        super().__init__(grpc.StatusCode.FAILED_PRECONDITION, "LOGIN_UNREADABLE", problem)


class Vault:
    """Seals logins and opens them."""

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """Encrypt with the first key; decrypt with any."""
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self.key_id = next(iter(self._keys), "")
        """Of the key that encrypts; empty: there is none."""

    def __repr__(self) -> str:
        """Which keys, not what they are."""
        return f"Vault(key_ids={list(self._keys)})"

    @classmethod
    def load(cls, key_file: str, env: Mapping[str, str]) -> Self:
        """With the keys of the environment, else of the file, else with none.

        Raises:
            KeyMistake: the file can't be read, or what was given is no key.
        """
        if text := env.get(KEY_VARIABLE, "").strip():
            return cls(_parse(text, KEY_VARIABLE))
        if not key_file:
            return cls()
        try:
            text = Path(key_file).expanduser().read_text(encoding="ascii")
        except OSError as error:
            raise KeyMistake(f"catalog.key_file: {key_file} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            text = "no text"
        return cls(_parse(text, "catalog.key_file"))

    def seal(self, storage: str, login: Mapping[str, Any], *, has_secret: bool) -> Sealed:
        """Encrypt a login for one storage: as another's it can't be opened.

        Raises:
            KeyMissing: there is no key, and the login has a secret.
        """
        fields = msgspec.json.encode(login)
        if not self.key_id:
            if has_secret:
                raise KeyMissing
            return Sealed(data=fields)
        nonce = os.urandom(_NONCE_BYTES)
        encrypted = self._keys[self.key_id].encrypt(nonce, fields, _purpose(storage))
        return Sealed(self.key_id, nonce + encrypted)

    def open(self, storage: str, sealed: Sealed) -> dict[str, Any]:
        """The login again. Raises LoginUnreadable."""
        fields = sealed.data
        if sealed.key_id:
            key = self._keys.get(sealed.key_id)
            if key is None:
                raise LoginUnreadable(
                    f"the login of storage {storage} is encrypted with the key {sealed.key_id}, which this "
                    f"server does not have: add it to {KEY_VARIABLE}, or give the login anew"
                )
            try:
                fields = key.decrypt(fields[:_NONCE_BYTES], fields[_NONCE_BYTES:], _purpose(storage))
            except (InvalidTag, ValueError):
                raise _damaged(storage) from None
        try:
            return msgspec.json.decode(fields, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise _damaged(storage) from None


def new_key() -> str:
    """A key, as it is given to servers."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode().rstrip("=")


def _damaged(storage: str) -> LoginUnreadable:
    return LoginUnreadable(
        f"the stored login of storage {storage} is damaged or another storage's: give it anew"
    )


def _parse(text: str, source: str) -> list[bytes]:
    keys = [_decode(part) for part in re.split(r"[,\s]+", text) if part]
    if not keys or None in keys:
        raise KeyMistake(
            f"{source}: is no key, or one of several is none; make one with `spoolway admin new-key`"
        )
    return [key for key in keys if key is not None]


def _decode(text: str) -> bytes | None:
    try:
        key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"spoolway key id\0" + key).hexdigest()[:12]


def _purpose(storage: str) -> bytes:
    """What is authenticated with the login, so that it can't be moved to another storage."""
    return f"spoolway/storages/{storage}/login".encode()


async def rotate(catalog: Catalog, vault: Vault) -> int:
    """Encrypt every stored login with the vault's first key; how many were not yet.

    Safe beside running servers and safe to repeat: what it has not come to is opened with the old key.

    Raises:
        KeyMissing: there is no key.
        LoginUnreadable: a key is missing; those before it are done.
    """
    if not vault.key_id:
        raise KeyMissing
    rotated = 0
    for record in await catalog.all(StorageRecord):
        rotated += await _rotate_one(catalog, vault, record)
    return rotated


async def _rotate_one(catalog: Catalog, vault: Vault, record: StorageRecord | None) -> int:
    while record is not None and record.login.key_id != vault.key_id:
        login = vault.open(record.name, record.login)
        sealed = vault.seal(record.name, login, has_secret=True)
        try:
            await catalog.put(msgspec.structs.replace(record, login=sealed))
        except CatalogConflict:
            record = await catalog.get(StorageRecord, record.name)
        else:
            return 1
    return 0
