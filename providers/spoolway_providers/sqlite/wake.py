"""How the processes that share a file wake each other.

Who commits touches `PATH.wake`; the others watch it by file events, which coalesce. A file event is a
hint only: beneath it, whoever waits looks at the newest change's number once a second.
"""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import watchfiles

__all__ = ["KnownChange", "WakeFile", "Watcher"]

_log = logging.getLogger(__name__)

_STEP_MS = 20
"""Between two looks of the watching thread; costs 0.3 % of a core. A touch is passed on after 20-40 ms."""
_DEBOUNCE_MS = 60
"""The longest that a stream of events is gathered."""
_TURN_MS = 1_000
_LINGER_S = 5.0
"""How long the watching goes on after the last wait: a new start costs a thread."""


class KnownChange:
    """The number of the newest change that this process knows of; tells its own commits from others'.

    Used by the writing and the reading threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number: int | None = None

    def pledge(self, number: int) -> None:
        """Our own commit is about to reach `number`: said before it can be seen."""
        with self._lock:
            self._number = number

    def forget(self) -> None:
        """The outcome of our own commit is unknown."""
        with self._lock:
            self._number = None

    def meet(self, number: int) -> bool:
        """Under the write lock the file is at `number`: whether that is news."""
        with self._lock:
            is_news, self._number = number != self._number, number
            return is_news

    def glimpse(self, number: int) -> bool:
        """A reader saw `number`, maybe while we write: whether that is others' news."""
        with self._lock:
            if self._number is not None and number <= self._number:
                return False
            self._number = number
            return True


class WakeFile:
    """The file beside the database that is touched after each commit."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".wake")

    def touch(self) -> None:
        """Wake the others; if that fails they look by themselves a little later."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            with suppress(OSError):
                self.path.touch()
        except OSError as error:
            _log.debug("could not touch %s: %s", self.path, error)


class Watcher:
    """Calls `on_touch`, in a thread of its own, when the file is touched; watches only while asked to."""

    def __init__(self, path: Path, on_touch: Callable[[], None]) -> None:
        self._path = path
        self._on_touch = on_touch
        self._lock = threading.Lock()
        self._until = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_on(self) -> bool:
        """Watch from now on, until nobody has asked for a few seconds.

        Returns:
            Whether the watching begins now: what came before was missed.
        """
        with self._lock:
            self._until = monotonic() + _LINGER_S
            if self._thread is not None:
                return False
            self._thread = threading.Thread(target=self._run, name="spoolway-wake", daemon=True)
            self._thread.start()
            return True

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        except OSError as error:
            # For instance the system's limit of watches. Who waits looks once a second anyway.
            _log.warning("can't watch %s, other processes are noticed late: %s", self._path, error)

    def _watch(self) -> None:
        for touches in watchfiles.watch(
            self._path,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=self._stop,
            rust_timeout=_TURN_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        ):
            if touches:
                self._on_touch()
            with self._lock:
                if monotonic() > self._until:
                    self._thread = None
                    return
