"""What a provider raises, and nothing else.

ProviderError
├── NotFound            no such job, backend, session or blob
├── Conflict            somebody else changed it first; carries what is there now
├── RequestIdReused     the request id came before, with another content
├── Expired             too late to be run, and no repeat of what came in time
├── QueueFull           the backend's limit of waiting jobs is reached
├── TooLarge            over a limit of this storage; carries the limit
├── SessionClosed       the session is closed or replaced; carries the reason
├── CursorTooOld        take a snapshot instead
├── Unavailable         surely nothing was done; try again after `retry_after`
├── Uncertain           the outcome is unknown: read back by token, revision or request id
├── LoginRefused        the storage does not accept the login
├── NotOwner            another server owns this storage; carries its address
├── Corrupt             a document does not say what it must
└── Unsupported         the storage can't do this, such as an order other than first in, first out
"""

from datetime import timedelta

__all__ = [
    "Conflict",
    "Corrupt",
    "CursorTooOld",
    "Expired",
    "LoginRefused",
    "NotFound",
    "NotOwner",
    "ProviderError",
    "QueueFull",
    "RequestIdReused",
    "SessionClosed",
    "TooLarge",
    "Unavailable",
    "Uncertain",
    "Unsupported",
]


class ProviderError(Exception):
    """Root of all errors of a provider."""


class NotFound(ProviderError):
    """There is no such thing in this storage."""


class Conflict(ProviderError):
    """Somebody else changed the document first; read `current` and decide again."""

    def __init__(self, message: str, current: object = None) -> None:
        """Remember what is there now: a Job or a Backend, or None if it is gone."""
        super().__init__(message)
        self.current = current


class RequestIdReused(ProviderError):
    """The request id was used within 24 hours for another content; choose a new one."""


class Expired(ProviderError):
    """The job's latest start has passed, and its request id did not come in time; submit with a later one."""


class QueueFull(ProviderError):
    """The backend has as many waiting jobs as its policy allows; submit again later."""

    def __init__(self, message: str, limit: int) -> None:
        """Remember the limit, in jobs."""
        super().__init__(message)
        self.limit = limit


class TooLarge(ProviderError):
    """More bytes than this storage takes in one document."""

    def __init__(self, message: str, limit: int) -> None:
        """Remember the limit, in bytes."""
        super().__init__(message)
        self.limit = limit


class SessionClosed(ProviderError):
    """The session is closed or replaced; open a new one and take over what is held."""

    def __init__(self, reason: str) -> None:
        """Remember why it was closed."""
        super().__init__(f"the session is closed: {reason}")
        self.reason = reason


class CursorTooOld(ProviderError):
    """The changes since this cursor are not known any more; take a snapshot."""


class Unavailable(ProviderError):
    """The storage does not answer, and surely nothing was done."""

    def __init__(self, message: str, retry_after: timedelta = timedelta(seconds=1)) -> None:
        """Remember how long to wait before the next try."""
        super().__init__(message)
        self.retry_after = retry_after


class Uncertain(ProviderError):
    """The storage broke off: it may or may not have been done; read back before anything else."""


class LoginRefused(ProviderError):
    """The storage does not accept the login; its owner must renew it."""


class NotOwner(ProviderError):
    """Another server owns this storage."""

    def __init__(self, address: str) -> None:
        """Remember where the owner can be reached."""
        super().__init__(f"this storage is owned by the server at {address}")
        self.address = address


class Corrupt(ProviderError):
    """A document in the storage does not say what it must; run a check of the storage."""


class Unsupported(ProviderError):
    """This storage can't do what was asked, whatever its state."""
