"""What the driver's errors mean to a caller.

The driver retries what it may until the call's time is over, so an error that arrives here is its last
word. A read never does anything, so it is Unavailable. A write is Unavailable only where it was surely
not done; else it is Uncertain, and read back by the number of its commit before a caller hears of it.
"""

from datetime import timedelta

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from spoolway_providers.errors import Corrupt, LoginRefused, ProviderError, TooLarge, Unavailable, Uncertain

__all__ = ["is_duplicate", "login_fault", "read_fault", "write_fault"]

_UNAUTHORIZED = 13
_LOGIN_CODES = frozenset({18, 8000})
"""AuthenticationFailed, and Atlas's own code for it."""
_DUPLICATE_KEY_CODES = frozenset({11000, 11001})
_BUG_CODES = frozenset({2, 9, 14, 40, 52, 56, 66, 72, 17276, 40323, 40324})
"""The server does not understand what we said, or a document is not of the kind that we take it for."""
_DOCUMENT_LIMIT = 16 << 20
_SOON = timedelta(seconds=1)


def is_duplicate(error: BaseException | None) -> bool:
    """Whether a unique index refused the write, and nothing else went wrong."""
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        errors = details.get("writeErrors", [])
        return not details.get("writeConcernErrors") and all(
            e["code"] in _DUPLICATE_KEY_CODES for e in errors
        )
    return isinstance(error, DuplicateKeyError) or getattr(error, "code", None) in _DUPLICATE_KEY_CODES


def read_fault(error: Exception) -> ProviderError:
    """What an error of a read means."""
    if isinstance(error, OperationFailure) and not isinstance(error, BulkWriteError):
        return _refused(error)
    if isinstance(error, InvalidOperation):
        return Unavailable("the storage is not open")
    return Unavailable(f"MongoDB does not answer: {_short(error)}", _SOON)


def write_fault(error: Exception) -> ProviderError:
    """What an error of a write means."""
    if isinstance(error, DocumentTooLarge | BSONError):
        return TooLarge(f"MongoDB can't take the document: {_short(error)}", _DOCUMENT_LIMIT)
    if _surely_not_done(error):
        return read_fault(error)
    return Uncertain(f"MongoDB broke off while writing: {_short(error)}")


def login_fault(error: Exception, host: str) -> ProviderError:
    """What an error while connecting means; says what to look at."""
    if isinstance(error, ServerSelectionTimeoutError):
        return Unavailable(f"no MongoDB server answers at {host}: {_short(error)}; {_advice(error)}")
    if isinstance(error, ConfigurationError):
        # Its text may quote parts of the connection string.
        return Unavailable(
            f"there is no MongoDB cluster at {host}: its name can't be resolved, or the connection string "
            "has a wrong option; check the host as Atlas shows it"
        )
    return read_fault(error)


def _surely_not_done(error: Exception) -> bool:
    # The driver raises these two only if no attempt before was sent.
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError | InvalidOperation):
        return True
    if isinstance(error, PyMongoError) and error.has_error_label("NoWritesPerformed"):
        return True
    if isinstance(error, ConnectionFailure | WriteConcernError | BulkWriteError):
        return False
    if isinstance(error, OperationFailure):
        return not (error.timeout or error.has_error_label("RetryableWriteError"))
    return False


def _refused(error: OperationFailure) -> ProviderError:
    """The server has understood and said no."""
    if error.code in _LOGIN_CODES:
        return LoginRefused("MongoDB does not accept the user name or the password; check both")
    if error.code == _UNAUTHORIZED:
        return LoginRefused(
            f"the login lacks a right: {_short(error)}; give the user the role readWrite on the database"
        )
    if error.code in _BUG_CODES:
        return Corrupt(f"MongoDB says: {_short(error)} (code {error.code})")
    return Unavailable(f"MongoDB says: {_short(error)} (code {error.code})", _SOON)


def _advice(error: Exception) -> str:
    text = str(error)
    if "CERTIFICATE" in text or "SSL" in text:
        return "its certificate is not accepted: check tls and tlsCAFile in the connection string"
    if "Name or service not known" in text or "nodename" in text or "Temporary failure in name" in text:
        return "the host's name can't be resolved: check it"
    return "check the host, the port, and on Atlas the list of addresses that may connect"


def _short(error: Exception) -> str:
    """Its first sentence; the driver appends whole replies and topologies."""
    text = str(error).split(", full error:", 1)[0].split(", Timeout:", 1)[0]
    return text[:300] or type(error).__name__
