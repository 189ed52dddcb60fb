"""Who calls. The one place where a principal comes from."""

from typing import Protocol

import grpc
import msgspec
from structlog.contextvars import bind_contextvars

from spoolway_server.errors import ServiceError
from spoolway_server.guard import Context
from spoolway_server.names import USER_NAME

__all__ = ["Authenticator", "LoggedAuthenticator", "LoopbackAuthenticator", "Principal"]


class Principal(msgspec.Struct, frozen=True):
    """Who is calling."""

    name: str
    """^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"""
    sees_all: bool = False
    """Sees and changes the jobs of others too."""


class Authenticator(Protocol):
    """Finds out who calls, from a call's context."""

    def authenticate(self, context: Context) -> Principal:
        """The caller; ServiceError UNAUTHENTICATED if it can't be told."""


class LoopbackAuthenticator:
    """Believes the metadata `spoolway-user`; only for servers that listen on loopback."""

    def authenticate(self, context: Context) -> Principal:
        """The caller by its own word."""
        for key, value in context.invocation_metadata() or ():
            if key == "spoolway-user":
                return _principal(value)
        raise ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            "USER_MISSING",
            "say who you are in the metadata `spoolway-user`, such as: spoolway-user: alice",
        )


class LoggedAuthenticator:
    """Another authenticator, whose callers stand in every log line of their calls."""

    def __init__(self, authenticator: Authenticator) -> None:
        """Ask `authenticator`."""
        self._authenticator = authenticator

    def authenticate(self, context: Context) -> Principal:
        """The caller, as the other says."""
        principal = self._authenticator.authenticate(context)
        # Each call runs in a context of its own.
        bind_contextvars(caller=principal.name)
        return principal


def _principal(value: str | bytes) -> Principal:
    name = value if isinstance(value, str) else value.decode("latin-1")
    if not USER_NAME.fullmatch(name):
        raise ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            "USER_NAME_INVALID",
            f"the metadata `spoolway-user` must match {USER_NAME.pattern}",
        )
    return Principal(name)
