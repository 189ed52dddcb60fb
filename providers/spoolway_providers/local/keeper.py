"""The one who keeps folders and index alike: a thread, in one process of all that share the folder.

Who has the lock is the keeper; when it ends, however it does, another process takes over. All that it does
can be done again: a killed keeper's successor begins with what the index says is behind.
"""

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic

from spoolway_providers.errors import Corrupt, ProviderError, Unavailable
from spoolway_providers.interface import Finding
from spoolway_providers.local.duty import Duty
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Seen
from spoolway_providers.local.locks import FileLock
from spoolway_providers.local.tables import REBUILT_QUEUE, rebuilt
from spoolway_providers.sqlite.unreadable import end_unreadable
from spoolway_providers.unreadable import UnreadableJob

__all__ = ["Keeper"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
"""Between two looks for the lock, and whether the index is still there."""
_NOT_REBUILT_LOOK_S = 0.05
_SHALLOW_S = 0.3
"""Who sleeps no longer than this paces itself, and is not woken by commits."""
_RETRY_S = 1.0
"""After trouble: what waits is written soon after the disk takes it again."""

_Trouble = (OSError, ProviderError, sqlite3.Error)


class Keeper:
    """A thread that is the keeper, or waits to become it."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        make_duty: Callable[[Callable[[Iterable[Seen]], None]], Duty],
        *,
        on_lost: Callable[[], None],
    ) -> None:
        """Does nothing before `start`.

        Args:
            layout: Of the folder.
            index: For this thread alone.
            make_duty: What there is to do, given whom to tell of file events.
            on_lost: Called once the index has been removed or replaced; the thread has ended then.
        """
        self._layout = layout
        self._index = index
        self._make_duty = make_duty
        self._on_lost = on_lost
        self._lock = FileLock(f"{layout.own}/keeper.lock")
        self._duty: Duty | None = None
        self._guard = threading.Lock()
        self._seen: set[Seen] = set()
        self._requests: list[Future[list[Finding]]] = []
        self._has_news = False
        self._sleeps = False
        self._is_closing = False
        self._woken = threading.Event()
        self._trouble = ""
        self._identity = _identity_of(layout.index)
        self._thread = threading.Thread(target=self._run, name="spoolway-local-keeper", daemon=True)
        self.ready: Future[None] = Future()
        """Done once all that waits in the folders is known to the index."""

    # For others

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Write what is behind, and end; takes as long as that takes."""
        self._is_closing = True
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wake(self) -> None:
        """Something was committed."""
        self._has_news = True
        if self._sleeps:
            self._woken.set()

    def go_round(self) -> Future[list[Finding]]:
        """Look at everything, and write all that is behind; what was mended. Others keep by themselves."""
        request: Future[list[Finding]] = Future()
        with self._guard:
            self._requests.append(request)
        self._woken.set()
        return request

    def _note_events(self, seen: Iterable[Seen]) -> None:
        with self._guard:
            self._seen.update(seen)
        self._has_news = True
        self._woken.set()

    # In the thread

    def _run(self) -> None:
        is_lost = False
        try:
            while not self._is_closing and not is_lost:
                self._sleep_until(self._try_turn())
                is_lost = _identity_of(self._layout.index) != self._identity
            with suppress(*_Trouble):
                if self._duty is not None:
                    self._duty.finish()
        finally:
            self._leave()
        if is_lost and not self._is_closing:
            _log.warning("the index of %s was removed or replaced: it is made anew", self._layout.base)
            self._on_lost()

    def _try_turn(self) -> float:
        """One turn; when the next one is to be."""
        with self._guard:
            seen, self._seen = self._seen, set()
            # Whoever asked for one may have given up.
            requests = [one for one in self._requests if one.set_running_or_notify_cancel()]
            self._requests = []
        try:
            at = self._turn_mending(seen, requests)
        except _Trouble as error:
            if str(error) != self._trouble:
                _log.warning("the folder %s can't be kept: %s", self._layout.base, error)
            self._trouble = str(error)
            self._fail(requests, error)
        except Exception as error:  # noqa: BLE001 - the thread is the folder's life: whatever happened, it goes on
            _log.exception("keeping the folder %s failed", self._layout.base)
            self._fail(requests, error)
        else:
            self._trouble = ""
            return at
        self._note_again(seen)
        self._index.close()
        return monotonic() + _RETRY_S

    def _turn_mending(self, seen: set[Seen], requests: Iterable[Future[list[Finding]]]) -> float:
        """One turn; a job that can't be read ends, so that the next turn comes past it."""
        try:
            return self._turn(seen, requests)
        except UnreadableJob as error:
            self._index.commit(end_unreadable, error.document)
            raise

    def _turn(self, seen: set[Seen], requests: Iterable[Future[list[Finding]]]) -> float:
        self._has_news = False
        if self._duty is None:
            self._duty = self._take_over()
        if self._duty is None:
            for request in requests:
                request.set_result([])
            return monotonic() + self._wait_for_keeper()
        at = self._duty.turn(seen)
        for request in requests:
            request.set_result(self._duty.go_round())
        return at

    def _take_over(self) -> Duty | None:
        """Become the keeper if nobody is."""
        if not self._lock.try_acquire():
            return None
        duty = self._make_duty(self._note_events)
        try:
            duty.begin()
        except BaseException as error:
            duty.end()
            self._lock.release()
            if not self.ready.done():
                self.ready.set_exception(_as_provider_error(error))
            raise
        if not self.ready.done():
            self.ready.set_result(None)
        return duty

    def _wait_for_keeper(self) -> float:
        """Another process keeps; how long to wait for the next look."""
        if not self.ready.done():
            if rebuilt(self._index.connection) < REBUILT_QUEUE:
                return _NOT_REBUILT_LOOK_S
            self.ready.set_result(None)
        return _LOOK_S

    def _sleep_until(self, at: float) -> None:
        """Sleep; news of commits wake only who has nothing to do until the next look."""
        wait_s = at - monotonic()
        self._sleeps = self._duty is not None and wait_s > _SHALLOW_S
        if wait_s > 0 and not (self._sleeps and self._has_news):
            self._woken.wait(min(wait_s, _LOOK_S))
        self._sleeps = False
        self._woken.clear()

    def _note_again(self, seen: set[Seen]) -> None:
        with self._guard:
            self._seen |= seen

    def _leave(self) -> None:
        duty, self._duty = self._duty, None
        if duty is not None:
            duty.end()
        self._index.close()
        self._lock.release()
        with self._guard:
            requests = [one for one in self._requests if one.set_running_or_notify_cancel()]
            self._requests = []
        self._fail(requests, Unavailable("the storage is closed"))
        if not self.ready.done():
            self.ready.set_exception(Unavailable("the storage is closed"))

    @staticmethod
    def _fail(requests: Iterable[Future[list[Finding]]], error: BaseException) -> None:
        for request in requests:
            if not request.done():
                request.set_exception(_as_provider_error(error))


def _identity_of(path: str) -> tuple[int, int] | None:
    """Which file lies at a path; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _as_provider_error(error: BaseException) -> ProviderError:
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, OSError):
        return Unavailable(f"the folder can't be used: {error}")
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return Corrupt(f"the folder's index can't be read: {error}")
    return Unavailable(f"the folder's index can't be read: {error}")
