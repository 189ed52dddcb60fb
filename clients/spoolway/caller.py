"""What the clients of both services share: settings, one connection that the first call makes, its end."""

import os
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from google.protobuf.message import Message

from spoolway.channel import Connection, closed_error
from spoolway.settings import resolve_settings

if TYPE_CHECKING:
    from spoolway.channel import UnaryMethod

__all__ = ["DEFAULT_TIMEOUT_S", "Caller", "Seconds", "in_seconds"]

DEFAULT_TIMEOUT_S = 30.0
"""Of one call. Over the 20 s after which a dead connection is noticed, so that the call is tried again."""

Seconds = float | timedelta
"""A span of time: a number of seconds, or a timedelta."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


class Caller:
    """Makes calls as one user. For asyncio; one serves any number of tasks of one event loop."""

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        user: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        timeout: Seconds = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Find the settings; arguments and errors are those of JobClient."""
        self._settings = resolve_settings(address=address, token=token, user=user, ca=ca, profile=profile)
        self._timeout_s = in_seconds(timeout)
        self._open_connection: Connection | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """Where the server is."""
        return self._settings.address

    @property
    def user(self) -> str:
        """Who submits."""
        return self._settings.user

    async def __aenter__(self) -> Self:
        """Use the client within `async with`."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; waits and watches still under way end with an error."""
        self._closed = True
        if self._open_connection is not None:
            await self._open_connection.close()
            self._open_connection = None

    def _connection(self) -> Connection:
        if self._closed:
            raise closed_error("client")
        if self._open_connection is None:
            self._open_connection = Connection(self._settings)
        return self._open_connection

    async def _call(self, method: "UnaryMethod[_Request, _Response]", request: _Request) -> _Response:
        return await self._connection().call(method, request, timeout_s=self._timeout_s)


def in_seconds(span: Seconds) -> float:
    """A span of time as a number of seconds."""
    return span.total_seconds() if isinstance(span, timedelta) else float(span)
