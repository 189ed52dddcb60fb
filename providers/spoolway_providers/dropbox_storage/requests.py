"""How request ids are known by."""

from hashlib import sha256

import msgspec

__all__ = ["digest_of"]


def digest_of(owner: str, backend: str, request_id: str) -> str:
    """The name of a request: owners, backends and request ids may be any text."""
    return sha256(msgspec.json.encode([owner, backend, request_id])).hexdigest()[:40]
