"""Who calls, and as what. The one place where a principal comes from."""

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol

import grpc
import msgspec
import structlog
from structlog.contextvars import bind_contextvars

from spoolway_server.errors import ServiceError
from spoolway_server.guard import Context, Interrupt
from spoolway_server.names import USER_NAME
from spoolway_server.permissions import is_lasting, roles_for

__all__ = ["Authenticator", "Gate", "LoopbackAuthenticator", "Principal", "Role", "caller_of"]

_log = structlog.get_logger(__name__)


class Role(StrEnum):
    """What a caller may do; permissions.py says which calls each may make."""

    USER = "user"
    SPOOLER = "spooler"
    OPERATOR = "operator"
    ADMIN = "admin"


class Principal(msgspec.Struct, frozen=True):
    """Who is calling."""

    name: str
    """^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"""
    sees_all: bool = False
    """Sees and changes the jobs of others too."""
    role: Role = Role.ADMIN
    backends: frozenset[str] = frozenset()
    """The only backends whose jobs it may run; none: any."""
    token: str = ""
    """Id of the token that it called with; empty: none."""

    def require_backends(self, names: Iterable[str], *, field: str) -> None:
        """Let pass who may run jobs of these backends, or raise PERMISSION_DENIED."""
        if not self.backends:
            return
        for name in names:
            if name not in self.backends:
                raise ServiceError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "BACKEND_NOT_ALLOWED",
                    f"this token is bound to {', '.join(sorted(self.backends))[:300]}; backend {name} needs "
                    "a token of its own, from an admin",
                    metadata={"backend": name},
                    field=field,
                )


class Authenticator(Protocol):
    """Finds out who calls, from a call's context."""

    def authenticate(self, context: Context) -> Principal:
        """The caller; ServiceError UNAUTHENTICATED if it can't be told."""

    def hold(self, caller: Principal, interrupt: Interrupt) -> None:
        """End a lasting call of the caller's once it may not call any more, until `let_go`."""

    def let_go(self, caller: Principal, interrupt: Interrupt) -> None:
        """The call is over."""


class LoopbackAuthenticator:
    """Believes the metadata `spoolway-user`; only for servers that listen on loopback.

    Everybody may make every call, as whoever can connect could call himself anything.
    """

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

    def hold(self, caller: Principal, interrupt: Interrupt) -> None:
        """Nobody is ever shut out."""

    def let_go(self, caller: Principal, interrupt: Interrupt) -> None:
        """See `hold`."""


_caller: ContextVar[Principal] = ContextVar("caller")


def caller_of(_context: Context) -> Principal:
    """Who makes the call under way, as the gate has let it in."""
    return _caller.get()


class Gate:
    """Lets in who may make a call, before anything of it is read."""

    def __init__(self, authenticator: Authenticator) -> None:
        """Let in whom `authenticator` knows, as far as permissions.py goes."""
        self._authenticator = authenticator
        self._lasting: dict[Interrupt, Principal] = {}
        """Not looked up in the call's context at its end: an abandoned stream is closed by another task."""

    def enter(self, context: Context, rpc: str) -> Interrupt | None:
        """Let a call in, or raise UNAUTHENTICATED or PERMISSION_DENIED.

        Returns:
            For a call that may last, what ends it; give it to `leave` in the end.
        """
        caller = self._authenticator.authenticate(context)
        allowed = roles_for(rpc)
        if caller.role not in allowed:
            _log.info(
                "call not allowed", rpc=rpc, caller=caller.name, role=caller.role, token_id=caller.token
            )
            raise ServiceError(
                grpc.StatusCode.PERMISSION_DENIED,
                "ROLE_NOT_ALLOWED",
                f"{rpc} is for the roles {', '.join(sorted(allowed))}; this token has the role {caller.role}",
                metadata={"role": caller.role, "rpc": rpc},
            )
        # Each call runs in a context of its own.
        _caller.set(caller)
        bind_contextvars(caller=caller.name)
        if not is_lasting(rpc):
            return None
        interrupt = Interrupt(asyncio.current_task())
        self._lasting[interrupt] = caller
        self._authenticator.hold(caller, interrupt)
        return interrupt

    def leave(self, interrupt: Interrupt) -> None:
        """A call that may last is over."""
        self._authenticator.let_go(self._lasting.pop(interrupt), interrupt)


def _principal(value: str | bytes) -> Principal:
    name = value if isinstance(value, str) else value.decode("latin-1")
    if not USER_NAME.fullmatch(name):
        raise ServiceError(
            grpc.StatusCode.UNAUTHENTICATED,
            "USER_NAME_INVALID",
            f"the metadata `spoolway-user` must match {USER_NAME.pattern}",
        )
    return Principal(name)
