"""Logins that come with calls: checked by their provider, signed in with a code, changed in part."""

from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import msgspec

from spoolway_providers.errors import LoginRefused, Unavailable, Unsupported
from spoolway_providers.interface import Provider
from spoolway_providers.registry import ProviderTypeError, provider_class, provider_types
from spoolway_server.errors import ServiceError
from spoolway_server.logins import login_mistakes
from spoolway_server.mistakes import did_you_mean, listed

__all__ = ["SIGN_IN_CODE", "LoginChange", "NewLogin", "checked_login", "sign_in_page"]

SIGN_IN_CODE = "authorization_code"
"""The field of a login that stands for signing in; never stored."""


class NewLogin(msgspec.Struct, frozen=True):
    """A login that its provider takes; whether it is right, only the storage knows."""

    type: str
    fields: Mapping[str, Any]
    has_secret: bool

    def __repr__(self) -> str:
        """Which fields, not what is in them."""
        return f"NewLogin(type={self.type!r}, fields={sorted(self.fields)})"


class LoginChange:
    """Makes a new login of the old one."""

    def __init__(self, fields: Mapping[str, Any], *, only: Iterable[str] | None) -> None:
        """Replace the whole login by `fields`, or `only` some of its fields; a field not given is removed."""
        self._fields = dict(fields)
        self._only = only

    async def apply(self, type_name: str, old: Mapping[str, Any]) -> NewLogin:
        """The new login, checked. May be asked again, for a newer old one."""
        fields = self._fields
        if self._only is not None:
            kept = {name: value for name, value in old.items() if name not in self._only}
            fields = kept | {name: fields[name] for name in self._only if name in fields}
        login = await checked_login(type_name, fields)
        if SIGN_IN_CODE in fields:
            # A code is good once.
            self._fields, self._only = dict(login.fields), None
        return login


async def checked_login(type_name: str, fields: Mapping[str, Any], *, field: str = "login") -> NewLogin:
    """A login of a call, checked by its provider without connecting; a sign-in code is exchanged.

    Raises:
        ServiceError: TYPE_UNKNOWN, LOGIN_INVALID or SIGN_IN_REFUSED; never with a value of the login.
    """
    provider = _provider(type_name)
    fields = dict(fields)
    code = fields.pop(SIGN_IN_CODE, "")
    if code and provider.sign_in_field:
        fields = await _signed_in(provider, fields, str(code), field)
    elif code:
        fields[SIGN_IN_CODE] = code
    mistakes = login_mistakes(field, type_name, fields, ())
    if mistakes:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "LOGIN_INVALID",
            "; ".join(map(str, mistakes)),
            field=mistakes[0].path,
        )
    secret = any(one.secret and fields.get(one.name) for one in provider.login_fields)
    return NewLogin(type_name, fields, secret)


def sign_in_page(type_name: str, fields: Mapping[str, Any]) -> str:
    """Where the owner of an account signs in. Raises ServiceError."""
    provider = _provider(type_name)
    if not provider.sign_in_field:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION,
            "SIGN_IN_UNSUPPORTED",
            f"a storage of type {type_name} has no page to sign in; give the fields of its login",
        )
    try:
        return provider.sign_in_page(fields)
    except ValueError as error:
        message = f"login: {error}"
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "LOGIN_INVALID", message, field="login"
        ) from None


async def _signed_in(
    provider: type[Provider], fields: Mapping[str, Any], code: str, field: str
) -> dict[str, Any]:
    path = f"{field}.{SIGN_IN_CODE}"
    try:
        return dict(await provider.finish_sign_in(fields, code))
    except ValueError as error:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "LOGIN_INVALID", f"{field}: {error}", field=field
        ) from None
    except (LoginRefused, Unsupported) as error:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT, "SIGN_IN_REFUSED", f"{path}: {error}", field=path
        ) from error
    except Unavailable as error:
        raise ServiceError(
            grpc.StatusCode.UNAVAILABLE,
            "SIGN_IN_UNAVAILABLE",
            f"{path}: {error}; try again with a new code",
            retry_after=error.retry_after,
        ) from error


def _provider(type_name: str) -> type[Provider]:
    try:
        known = provider_types()
        if type_name not in known:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "TYPE_UNKNOWN",
                f"there is no type of storage {type_name[:64]!r}{did_you_mean(type_name, known)}; "
                f"there are: {listed(known)}",
                field="type",
            )
        return provider_class(type_name)
    except ProviderTypeError as error:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION, "TYPE_UNAVAILABLE", str(error), field="type"
        ) from error
