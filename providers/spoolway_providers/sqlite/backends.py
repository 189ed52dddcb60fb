"""Backends: two documents, each by compare-and-set on its etag; and the public keys of those that sign."""

import sqlite3

import msgspec

from spoolway_providers import digests
from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import Backend, Policy
from spoolway_providers.sqlite.documents import BACKEND_COLUMNS, backend_of, to_text
from spoolway_providers.sqlite.writer import Transaction

__all__ = [
    "ConfigRemoval",
    "ConfigWrite",
    "PolicyWrite",
    "PublicKey",
    "backends",
    "public_key",
    "public_keys",
    "put_config",
    "put_policy",
    "put_public_key",
    "remove_config",
]


class ConfigWrite(msgspec.Struct, frozen=True):
    """A config, and the etag of the one that it replaces."""

    backend: str
    config: bytes
    etag: str | None


class ConfigRemoval(msgspec.Struct, frozen=True):
    """Of which backend, and the etag of the config that goes."""

    backend: str
    etag: str | None


class PolicyWrite(msgspec.Struct, frozen=True):
    """A policy, and the etag of the one that it replaces."""

    backend: str
    policy: Policy
    etag: str | None


class PublicKey(msgspec.Struct, frozen=True):
    """A public key, and its id."""

    kid: str
    document: bytes


def put_config(transaction: Transaction, write: ConfigWrite) -> Backend:
    """Create or replace a config; see the interface."""
    current = _find(transaction.connection, write.backend)
    etag = digests.config_etag(write.config)
    if current is not None and current.config_etag == etag:
        return current
    if write.etag is not None and write.etag != (current.config_etag if current else ""):
        raise Conflict(f"the config of backend {write.backend!r} has changed", current)
    transaction.connection.execute(
        "INSERT INTO backends(name, config, config_etag, policy_etag) VALUES (?, ?, ?, '')"
        " ON CONFLICT (name) DO UPDATE SET config = excluded.config, config_etag = excluded.config_etag",
        (write.backend, write.config, etag),
    )
    return _changed(transaction, write.backend)


def remove_config(transaction: Transaction, removal: ConfigRemoval) -> Backend:
    """Take a config away; see the interface."""
    current = _find(transaction.connection, removal.backend)
    if current is None:
        raise NotFound(f"there is no backend {removal.backend!r}")
    if not current.is_registered:
        return current
    if removal.etag is not None and removal.etag != current.config_etag:
        raise Conflict(f"the config of backend {removal.backend!r} has changed", current)
    transaction.connection.execute(
        "UPDATE backends SET config = x'', config_etag = '' WHERE name = ?", (removal.backend,)
    )
    return _changed(transaction, removal.backend)


def put_policy(transaction: Transaction, write: PolicyWrite) -> Backend:
    """Replace a policy; see the interface."""
    current = _find(transaction.connection, write.backend)
    if current is None:
        raise NotFound(f"there is no backend {write.backend!r}")
    if write.etag is not None and write.etag != current.policy_etag:
        raise Conflict(f"the policy of backend {write.backend!r} has changed", current)
    if current.policy == write.policy:
        return current
    transaction.connection.execute(
        "UPDATE backends SET policy = ?, policy_etag = ? WHERE name = ?",
        (to_text(write.policy), digests.policy_etag(write.policy), write.backend),
    )
    return _changed(transaction, write.backend)


def _changed(transaction: Transaction, name: str) -> Backend:
    """Its jobs may be claimable by now: takes a number, so that other processes hear of it."""
    transaction.next_change()
    transaction.queued.add(name)
    backend = _find(transaction.connection, name)
    if backend is None:
        raise AssertionError(f"backend {name!r} was written just now")
    return backend


def _find(connection: sqlite3.Connection, name: str) -> Backend | None:
    row = connection.execute(
        f"SELECT {BACKEND_COLUMNS} FROM backends WHERE name = ?",  # noqa: S608
        (name,),
    ).fetchone()
    return None if row is None else backend_of(row)


def backends(connection: sqlite3.Connection, _: None) -> list[Backend]:
    """All backends, by name."""
    rows = connection.execute(f"SELECT {BACKEND_COLUMNS} FROM backends ORDER BY name")  # noqa: S608
    return [backend_of(row) for row in rows]


def put_public_key(transaction: Transaction, key: PublicKey) -> bytes:
    """Keep a public key unless there is one of this id; see the interface."""
    transaction.connection.execute(
        "INSERT INTO public_keys(kid, document) VALUES (?, ?) ON CONFLICT (kid) DO NOTHING",
        (key.kid, key.document),
    )
    return public_key(transaction.connection, key.kid) or key.document


def public_key(connection: sqlite3.Connection, kid: str) -> bytes | None:
    """The public key of an id, or None."""
    row = connection.execute("SELECT document FROM public_keys WHERE kid = ?", (kid,)).fetchone()
    return None if row is None else row[0]


def public_keys(connection: sqlite3.Connection, _: None) -> dict[str, bytes]:
    """All public keys, by id."""
    return dict(connection.execute("SELECT kid, document FROM public_keys ORDER BY kid").fetchall())
