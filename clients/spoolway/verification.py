"""Verifying what a backend has signed, in the form that sqooler signs in."""

import base64
import binascii
import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from spoolway.errors import SettingsError, VerificationError

__all__ = ["require_cryptography", "verified_result"]

_TO_URL = str.maketrans("+/", "-_")
_KEYS = {"header", "payload", "signature"}


def require_cryptography() -> None:
    """Raise SettingsError if what verifies is not installed."""
    if importlib.util.find_spec("cryptography") is None:
        raise SettingsError("to verify results install `pip install 'spoolway-client[verify]'`")


def verified_result(result: Any, public_key: Mapping[str, Any] | None, *, job_name: str) -> Any:
    """What a backend has signed as the result of this job.

    Args:
        result: The document as it was stored: header, payload and signature.
        public_key: The backend's, as a JSON Web Key.
        job_name: The job's name or id, which must be the one that the payload names.

    Raises:
        VerificationError: it is not signed, not by this key, or as another job's.
    """
    if not isinstance(result, dict) or result.keys() != _KEYS or not isinstance(result["payload"], dict):
        raise VerificationError(f"the result of {job_name} is not signed", "RESULT_NOT_SIGNED")
    header, payload = result["header"], result["payload"]
    if public_key is None:
        raise VerificationError(f"the backend of {job_name} has registered no public key", "NO_PUBLIC_KEY")
    if not isinstance(header, dict) or header.get("kid") != public_key.get("kid"):
        raise VerificationError(
            f"the result of {job_name} is signed by another key than {public_key.get('kid')}, its backend's",
            "OTHER_KEY",
        )
    if not _is_signed(header, payload, result["signature"], public_key):
        raise VerificationError(f"the signature of the result of {job_name} is wrong", "SIGNATURE_WRONG")
    if payload.get("job_id") != job_name.rpartition("/")[2]:
        raise VerificationError(
            f"the result of {job_name} was signed as that of {payload.get('job_id')}", "OTHER_JOB"
        )
    return payload


def _is_signed(
    header: Mapping[str, Any], payload: Mapping[str, Any], signature: Any, key: Mapping[str, Any]
) -> bool:
    # Not at the top: it is an extra.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    # As sqooler signs: the header compact, the payload as json.dumps writes it, its keys in their order.
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False), json.dumps(payload)
    message = b".".join(base64.urlsafe_b64encode(text.encode()) for text in written)
    try:
        Ed25519PublicKey.from_public_bytes(_decoded(key["x"])).verify(_decoded(signature), message)
    except (InvalidSignature, KeyError, TypeError, ValueError, AttributeError):
        return False
    return True


def _decoded(text: str) -> bytes:
    """Base64url with padding, as sqooler writes it, or without; or plain, as an import writes bytes."""
    try:
        return base64.urlsafe_b64decode(text.translate(_TO_URL) + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
