"""Hands the jobs of a spooler, one at a time, to a loop that comes and asks for them.

A Spooler calls a function for each job; a loop such as sqooler's asks for the next one, runs it in its own
thread and brings the result. Between the two stands this: the spooler's function waits here until the loop
has brought what became of its job. Stream, leases and heartbeats go on in the background meanwhile.

Nothing here raises: where something is amiss there is no job, and the log says why.
"""

import asyncio
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field

from spoolway.blocking import thread as loop_thread
from spoolway.errors import JobError, RetryLater, SessionReplacedError, SpoolwayError
from spoolway.runner import RunFunction
from spoolway.running import RunningJob
from spoolway.spooler import Spooler

__all__ = ["Handover"]

_UNASKED_S = 60.0
"""A job that waits while the loop asks for nothing for so long is given back: the loop may be gone."""
_MOST_PASSES = 10
"""A job is given back once the loop has asked so often for one other backend: it never asks for this one."""
_LOST_LOOP = "the spooler's loop ended while it ran this job"
_RETRY_S = 15.0
"""Before the next try where the server refused this spooler."""
_REPLACED_S = 300.0
"""Before the next try where another process has taken its place, which may have ended by then."""
_END_S = 5.0
"""How long `close` waits until the server has confirmed what was reported last."""

_log = logging.getLogger("spoolway.spooler")


@dataclass(slots=True, eq=False)
class _InHand:
    """The job in hand."""

    job: RunningJob
    end: asyncio.Future[bytes]
    loop: asyncio.AbstractEventLoop
    is_taken: bool = False
    """Whether the loop has it."""
    is_ended: bool = False
    """Whether it is known how it ended; the spooler reports it."""
    watch: asyncio.TimerHandle | None = None
    """Looks whether the loop still asks."""
    passes: Counter[str] = field(default_factory=Counter)
    """How often the loop has asked for other backends meanwhile."""


class Handover:
    """Holds at most one job, which waits for the loop, is run by it, or is being reported."""

    def __init__(self, open_spooler: Callable[[Collection[str], RunFunction, bool], Spooler]) -> None:
        """Start nothing; the first `take` does.

        Args:
            open_spooler: Makes a spooler of at most one job at once. Gets the backends, the function that
                runs their jobs, and whether the one before it was of this process and has ended.
        """
        self._open_spooler = open_spooler
        self._changed = threading.Condition()
        self._in_hand: _InHand | None = None
        self._asked_at: dict[str, float] = {}
        self._served: frozenset[str] = frozenset()
        self._was_served = False
        self._is_replaced = False
        self._is_stale = False
        self._spooler: Spooler | None = None
        self._serving: Future[None] | None = None
        self._retry_at = float("-inf")

    def take(self, backend: str, timeout_s: float, *, others: Collection[str] = ()) -> RunningJob | None:
        """The next job, if it is one of `backend`.

        Waits for a job of whichever backend; one of another is kept until the loop asks for that backend.
        A job that was taken and never ended is given back first: the loop that took it has died.

        Args:
            backend: Whose job the loop would run now.
            timeout_s: How long to wait.
            others: What the loop will ask for next, as far as is known; counts when the spooler is opened.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._asked_at[backend] = time.monotonic()
            self._give_back_left(_LOST_LOOP)
            while True:
                self._serve(backend, others)
                self._drop_cancelled()
                in_hand = self._in_hand
                if in_hand is not None and not in_hand.is_ended:
                    if in_hand.job.backend != backend:
                        self._pass_over(in_hand, backend)
                        return None
                    in_hand.is_taken = True
                    return in_hand.job
                if (left_s := deadline - time.monotonic()) <= 0:
                    return None
                self._changed.wait(left_s)

    def job(self, job_id: str) -> RunningJob | None:
        """The job in hand, if it is this one."""
        in_hand = self._in_hand
        return in_hand.job if in_hand is not None and in_hand.job.id == job_id else None

    def complete(self, job_id: str, result: bytes) -> None:
        """The loop's job has this result."""
        with self._changed:
            self._end(job_id, result)

    def fail(self, job_id: str, message: str) -> None:
        """The loop's job has failed."""
        with self._changed:
            self._end(job_id, JobError(message))

    def reopen(self) -> None:
        """Open the spooler anew, with what it is made of now, once nothing is in hand."""
        with self._changed:
            self._is_stale = True

    def close(self) -> None:
        """Give back what is in hand, and wait a moment until all is confirmed."""
        with self._changed:
            # Set by the interpreter when it ends by an exception: most likely what the job raised.
            error = getattr(sys, "last_value", None)
            self._give_back_left(_LOST_LOOP if error is None else f"{_LOST_LOOP}: {error!r}")
            spooler, serving = self._spooler, self._serving
            is_waiting = self._in_hand is not None and not self._in_hand.is_ended
        if spooler is None or serving is None:
            return
        if not is_waiting:
            spooler.drain()
            wait([serving], timeout=_END_S)
        spooler.stop()
        wait([serving], timeout=_END_S)

    async def run(self, job: RunningJob) -> bytes:
        """The spooler's function: wait for the loop to bring what became of the job."""
        loop = asyncio.get_running_loop()
        in_hand = _InHand(job, loop.create_future(), loop)
        with self._changed:
            self._in_hand = in_hand
            self._changed.notify_all()
        in_hand.watch = loop.call_later(_UNASKED_S, self._watch, in_hand)
        try:
            return await in_hand.end
        finally:
            if in_hand.watch is not None:
                in_hand.watch.cancel()
            with self._changed:
                if self._in_hand is in_hand:
                    self._in_hand = None

    def _end(self, job_id: str, end: bytes | Exception) -> None:
        in_hand = self._in_hand
        if in_hand is None or in_hand.is_ended or in_hand.job.id != job_id:
            _log.warning("%s is not in hand; what became of it is dropped", job_id)
            return
        in_hand.is_ended = True
        with suppress(RuntimeError):  # the event loop has ended with the process
            in_hand.loop.call_soon_threadsafe(_settle, in_hand.end, end)

    def _give_back_left(self, message: str) -> None:
        in_hand = self._in_hand
        if in_hand is None or not in_hand.is_taken or in_hand.is_ended:
            return
        _log.warning("%s: %s", in_hand.job.name, message)
        # Not as unharmed: a job that ends its spooler's loop must end too, once its attempts are used up.
        self._end(in_hand.job.id, RetryLater(message))

    def _drop_cancelled(self) -> None:
        """End a job that was cancelled before the loop took it."""
        in_hand = self._in_hand
        if in_hand is not None and in_hand.job.cancelled and not in_hand.is_taken and not in_hand.is_ended:
            self._end(in_hand.job.id, JobError("cancelled before it was started"))

    def _watch(self, in_hand: _InHand) -> None:
        with self._changed:
            if time.monotonic() - max(self._asked_at.values()) >= _UNASKED_S:
                self._give_back_unasked(in_hand)
            elif not in_hand.is_taken:
                in_hand.watch = in_hand.loop.call_later(_UNASKED_S, self._watch, in_hand)

    def _pass_over(self, in_hand: _InHand, backend: str) -> None:
        in_hand.passes[backend] += 1
        if in_hand.passes[backend] == _MOST_PASSES:
            self._asked_at.pop(in_hand.job.backend, None)
            self._give_back_unasked(in_hand)

    def _give_back_unasked(self, in_hand: _InHand) -> None:
        if not in_hand.is_taken and not in_hand.is_ended and self._spooler is not None:
            _log.warning("%s: nobody asks for jobs of its backend; it is given back", in_hand.job.name)
            # A spooler gives back all that has not started; the next one serves what was asked for.
            self._spooler.stop()
            self._spooler = None

    def _serve(self, backend: str, others: Collection[str]) -> None:
        """Have a spooler that takes jobs of this backend, now or soon."""
        if self._serving is None:
            if time.monotonic() >= self._retry_at:
                self._open({backend, *self._asked_at, *(() if self._was_served else others)})
        elif self._serving.done():
            error = None if self._serving.cancelled() else self._serving.exception()
            self._is_replaced = isinstance(error, SessionReplacedError)
            if error is not None:
                wait_s = _REPLACED_S if self._is_replaced else _RETRY_S
                _log.error("the spooler ended: %s; next try in %.0f s", error, wait_s)
                self._retry_at = time.monotonic() + wait_s
            self._spooler = self._serving = None
            self._serve(backend, others)
        elif self._spooler is not None and self._in_hand is None and self._is_other_wanted(backend):
            # Opened anew once it has ended, which wakes who waits.
            self._spooler.stop()
            self._spooler = None

    def _is_other_wanted(self, backend: str) -> bool:
        return self._is_stale or backend not in self._served

    def _open(self, backends: Collection[str]) -> None:
        self._is_stale = False
        self._served = frozenset(backends)
        try:
            self._spooler = self._open_spooler(
                sorted(backends), self.run, self._was_served and not self._is_replaced
            )
        except SpoolwayError as error:
            _log.error("can't spool: %s; next try in %.0f s", error, _RETRY_S)
            self._retry_at = time.monotonic() + _RETRY_S
            return
        self._was_served = True
        self._serving = loop_thread.start(self._spooler.serve())
        self._serving.add_done_callback(self._wake)

    def _wake(self, _: object) -> None:
        with self._changed:
            self._changed.notify_all()


def _settle(future: "asyncio.Future[bytes]", end: bytes | Exception) -> None:
    if future.done():
        return  # stopped meanwhile
    if isinstance(end, bytes):
        future.set_result(end)
    else:
        future.set_exception(end)
