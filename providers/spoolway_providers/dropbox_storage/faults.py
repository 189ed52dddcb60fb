"""What Dropbox and the way to it can answer, as few exceptions of ours.

CallFailed
├── NotDone           surely nothing was done
│   ├── TooManyRequests   the app must be silent for `retry_after_s`
│   └── TooManyWrites     somebody else writes to the namespace
├── LostAnswer        it may or may not have been done
├── PathMissing       there is nothing at the path
├── PathConflict      something is in the way, or has another rev
├── CursorReset       list afresh
└── SessionSpent      an upload session can't be used; its data must be sent again

A login that is refused is `LoginRefused`, as for every provider.
"""

from typing import Any

import requests
import urllib3
from dropbox import exceptions  # type: ignore[import-untyped]  # the SDK ships no types

from spoolway_providers.errors import LoginRefused, Unavailable

__all__ = [
    "CallFailed",
    "CursorReset",
    "LostAnswer",
    "NotDone",
    "PathConflict",
    "PathMissing",
    "SessionSpent",
    "TooManyRequests",
    "TooManyWrites",
    "call",
    "route_error",
]


class CallFailed(Exception):
    """A call to Dropbox did not do what it was to do."""


class NotDone(CallFailed):
    """Surely nothing was done."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyRequests(NotDone):
    """The rate limit of the app and account is reached."""


class TooManyWrites(NotDone):
    """Another write holds the namespace."""


class LostAnswer(CallFailed):
    """It may or may not have been done."""


class PathMissing(CallFailed):
    """There is nothing at the path."""


class PathConflict(CallFailed):
    """Something is in the way at the path, or it has another rev."""


class CursorReset(CallFailed):
    """The cursor is not valid any more."""


class SessionSpent(CallFailed):
    """The upload session is unknown, closed, or at another offset."""


def call(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call the SDK, with its exceptions as ours."""
    try:
        return function(*arguments, **options)
    except (exceptions.DropboxException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    match error:
        case exceptions.ApiError():
            return route_error(error.error)
        case exceptions.RateLimitError():
            return _limit_error(error)
        case exceptions.AuthError():
            return _login_error(error)
        case exceptions.BadInputError():
            if "invalid_client" in str(error.message):
                return LoginRefused("Dropbox does not know this app key and secret")
            return Unavailable(f"Dropbox does not understand the call: {error.message}")
        case exceptions.DropboxException():
            return LostAnswer(f"Dropbox answered {getattr(error, 'status_code', 'nonsense')}")
        case _ if _never_sent(error):
            return NotDone(f"Dropbox can't be reached ({type(error).__name__})")
        case _:
            return LostAnswer(f"the connection to Dropbox broke off ({type(error).__name__})")


def _never_sent(error: Exception) -> bool:
    if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _limit_error(error: Any) -> NotDone:
    wait_s = float(error.backoff or 1)
    if error.error is not None and error.error.reason.is_too_many_write_operations():
        return TooManyWrites("too many writes to the account at once", wait_s)
    return TooManyRequests("Dropbox's rate limit is reached", wait_s)


def _login_error(error: Any) -> Exception:
    reason = error.error
    if reason is not None and reason.is_missing_scope():
        scope = reason.get_missing_scope().required_scope
        return LoginRefused(
            f"the app lacks the permission {scope}; tick it in the app console and sign in anew"
        )
    if reason is not None and reason.is_expired_access_token():
        return NotDone("the access token has run out")
    return LoginRefused("Dropbox refuses the login: the refresh token is unknown or was revoked")


def route_error(error: Any) -> CallFailed:
    """What a route's own error means; its unions are alike in their words."""
    words = _words(error)
    if "too_many_write_operations" in words:
        return TooManyWrites("too many writes to the account at once", 1)
    if "reset" in words:
        return CursorReset("the cursor is not valid any more")
    if words & {"lookup_failed", "incorrect_offset", "closed", "not_closed", "content_hash_mismatch"}:
        return SessionSpent(f"an upload session can't be used: {'/'.join(sorted(words))}")
    if "internal_error" in words:
        return LostAnswer("Dropbox does not know whether it was done")
    if "conflict" in words:
        return PathConflict("something else is at the path")
    if words & {"not_found", "not_file", "not_folder"}:
        return PathMissing("there is nothing at the path")
    return NotDone(f"Dropbox refuses: {'/'.join(sorted(words))}", retry_after_s=5)


def _words(error: Any) -> set[str]:
    """The tags of a union, within each other."""
    words: set[str] = set()
    while error is not None:
        tag = getattr(error, "_tag", None)
        if tag is None:
            error = getattr(error, "reason", None)
            continue
        words.add(tag)
        error = getattr(error, "_value", None)
    return words
