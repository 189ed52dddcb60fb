"""How the commands end: exit codes, and lines on stderr that say what went wrong and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import NoReturn

import typer

__all__ = ["ExitCode", "code_of", "fail", "shown_errors"]


class ExitCode(IntEnum):
    """What the shell sees. A number keeps its meaning for ever."""

    OK = 0
    """All went well."""
    ENDED_BADLY = 1
    """The call went well, but what it is about did not: a job, the test of a storage, the demo."""
    USAGE = 2
    """The command line is wrong, or the settings of the client."""
    NOT_FOUND = 3
    """There is no such job, backend or storage, or it is not yours."""
    REFUSED = 4
    """Something is wrong in what was sent or configured, or it is not the time for it."""
    UNAVAILABLE = 5
    """The server, or its storage, can't be reached or is full; the same command may work later."""
    PERMISSION = 6
    """Who you are is not known, or you may not."""
    TIMED_OUT = 7
    """Out of time; a job goes on all the same."""
    FAULT = 8
    """The server, something on the way or this program is at fault."""
    INTERRUPTED = 130
    """Ctrl-C; a job goes on all the same."""


# By name and from the narrowest: the client is imported only by commands that need it.
_CODES = {
    "SettingsError": ExitCode.USAGE,
    "InvalidArgumentError": ExitCode.REFUSED,
    "NotFoundError": ExitCode.NOT_FOUND,
    "AlreadyExistsError": ExitCode.REFUSED,
    "PermissionDeniedError": ExitCode.PERMISSION,
    "UnauthenticatedError": ExitCode.PERMISSION,
    "JobEndedError": ExitCode.ENDED_BADLY,
    "FailedPreconditionError": ExitCode.REFUSED,
    "AbortedError": ExitCode.REFUSED,
    "ContentTooLargeError": ExitCode.REFUSED,
    "ResourceExhaustedError": ExitCode.UNAVAILABLE,
    "UnavailableError": ExitCode.UNAVAILABLE,
    "DeadlineExceededError": ExitCode.TIMED_OUT,
    "OutOfRangeError": ExitCode.REFUSED,
    "CallCancelledError": ExitCode.FAULT,
    "DataLossError": ExitCode.FAULT,
    "UnimplementedError": ExitCode.FAULT,
    "InternalError": ExitCode.FAULT,
    "UnknownError": ExitCode.FAULT,
    "SpoolwayError": ExitCode.FAULT,
}


def code_of(error: type[Exception]) -> ExitCode:
    """The exit code for a class of the client's errors."""
    return next(_CODES[base.__name__] for base in error.__mro__ if base.__name__ in _CODES)


def fail(message: str, code: ExitCode, hint: str = "") -> NoReturn:
    """End the command with what went wrong and, on a line of its own, what to do."""
    typer.echo(f"spoolway: {message}", err=True)
    if hint:
        typer.echo(f"  {hint}", err=True)
    raise typer.Exit(code)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Turn the client's errors and Ctrl-C into a message and an exit code, without a traceback."""
    from spoolway import SpoolwayError

    try:
        yield
    except SpoolwayError as error:
        news = [wrong for wrong in error.violations if wrong.description not in error.message]
        hint = "\n  ".join(f"{wrong.field}: {wrong.description}" for wrong in news)
        fail(str(error), code_of(type(error)), hint)
    except KeyboardInterrupt:
        fail("stopped; what was submitted goes on", ExitCode.INTERRUPTED)
