"""Page and resume tokens: opaque to the client, small JSON objects to us."""

import base64
import binascii
from collections.abc import Mapping

import grpc
import msgspec

from spoolway_server.errors import ServiceError

__all__ = ["bad_token", "decode_token", "encode_token"]


def encode_token(token: Mapping[str, str]) -> str:
    """A token that holds these values."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def decode_token(text: str, field: str) -> dict[str, str]:
    """The values of a token; none if it is empty; ServiceError if it is not one of ours."""
    if not text:
        return {}
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text.encode()), type=dict[str, str])
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise bad_token(field, "it is not one of this server's") from error


def bad_token(field: str, message: str) -> ServiceError:
    """The error for a token that can't be used."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_INVALID", f"{field}: {message}", field=field)
