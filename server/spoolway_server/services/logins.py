"""The logins of requests: one message a type, or fields by name for the types that have none."""

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway_server.errors import ServiceError

__all__ = ["TYPED", "read_login"]

_PLUGIN = "plugin"
TYPED = tuple(
    field.name for field in pb.StorageLogin.DESCRIPTOR.oneofs_by_name["login"].fields if field.name != _PLUGIN
)
"""Types that have a message of their own."""


def read_login(login: pb.StorageLogin, type_name: str) -> tuple[str, dict[str, Any]]:
    """The storage's type and the fields of its login that are set.

    Args:
        login: as it came.
        type_name: what else says the type; empty: nothing does.

    Raises:
        ServiceError: the type is missing, or two are named.
    """
    which = login.WhichOneof("login")
    if which is None or which == _PLUGIN:
        if not type_name:
            raise _invalid("TYPE_MISSING", "name the type of the storage, or give the login of one", "type")
        if which == _PLUGIN and type_name in TYPED:
            raise _invalid("LOGIN_OF_OTHER_TYPE", f"give the login as login.{type_name}", "login")
        return type_name, {} if which is None else _plain(MessageToDict(login.plugin))
    if type_name and type_name != which:
        raise _invalid(
            "LOGIN_OF_OTHER_TYPE",
            f"the storage is of type {type_name[:64]}, and the login is one of type {which}",
            "login",
        )
    message = getattr(login, which)
    return which, {field.name: value for field, value in message.ListFields()}


def _plain(value: Any) -> Any:
    """Whole numbers as such: a Struct knows only one kind of number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return value


def _invalid(reason: str, message: str, field: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
