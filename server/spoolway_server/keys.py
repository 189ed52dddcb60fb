"""Public keys of backends that sign: what a key must be, and which one a config names.

Nothing is verified here: signed documents are stored and served as they are, and who reads them verifies.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import grpc

from spoolway_server.documents import check_document
from spoolway_server.errors import ServiceError
from spoolway_server.names import USER_NAME

__all__ = ["check_public_key", "is_public_key", "is_same_key", "key_id_of"]

MAX_KEY_BYTES = 4 * 1024
_KEY_BYTES = 32
"""Of Ed25519."""


async def check_public_key(key: bytes, config: Mapping[str, Any]) -> str:
    """The id of a public key that fits a backend's config, or the ServiceError that says why it does not."""
    document = await check_document(key, field="public_key", max_bytes=MAX_KEY_BYTES)
    if not isinstance(document, dict) or _point_of(document) is None:
        raise _invalid(
            "PUBLIC_KEY_INVALID", "a public key is a JSON Web Key with kty OKP, crv Ed25519, kid and x"
        )
    if document.get("d") is not None:
        raise _invalid(
            "PRIVATE_KEY_SENT", "this is the private key, as it has a d: keep it, and make another pair"
        )
    kid = document.get("kid")
    if not isinstance(kid, str) or not USER_NAME.fullmatch(kid):
        raise _invalid("PUBLIC_KEY_INVALID", f"a key's kid must match {USER_NAME.pattern}")
    if kid != config.get("kid"):
        raise _invalid(
            "PUBLIC_KEY_INVALID", f"the key's kid is {kid}, and the config names {config.get('kid')}"
        )
    return kid


def key_id_of(config: Mapping[str, Any]) -> str:
    """The id of the key that a config names; empty if it names none."""
    kid = config.get("kid")
    return kid if isinstance(kid, str) and USER_NAME.fullmatch(kid) else ""


def is_public_key(key: bytes) -> bool:
    """Whether a stored document, which another program may have written, may be shown."""
    try:
        document = json.loads(key)
    except (ValueError, RecursionError):
        return False
    return _point_of(document) is not None and document.get("d") is None


def is_same_key(one: bytes, other: bytes) -> bool:
    """Whether two documents hold the same key, however they are written."""
    try:
        points = [_point_of(json.loads(key)) for key in (one, other)]
    except (ValueError, RecursionError):
        return False
    return points[0] is not None and points[0] == points[1]


def _point_of(key: Any) -> bytes | None:
    """The public key itself; None if it is none."""
    if not isinstance(key, dict) or (key.get("kty"), key.get("crv")) != ("OKP", "Ed25519"):
        return None
    text = key.get("x")
    if not isinstance(text, str):
        return None
    try:
        # With padding, as today's systems write it, or without, as the standard has it.
        point = base64.b64decode(
            text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError):
        return None
    return point if len(point) == _KEY_BYTES else None


def _invalid(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field="public_key")
