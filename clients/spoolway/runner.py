"""Running the user's functions: plain ones in threads, async ones as tasks; their ends as reports."""

import asyncio
import inspect
import logging
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from spoolway.errors import InvalidArgumentError, JobError, RetryLater, SpoolwayError
from spoolway.held import HeldJob
from spoolway.running import RunningJob, clean_text
from spoolway.submission import MAX_INLINE_BYTES, encode_json
from spoolway.tracing import run_span
from spoolway.transfer import Transfer
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["RunFunction", "Runner", "end_of_error", "end_of_result", "is_async"]

RunFunction = Callable[[RunningJob], Any]
"""Takes the job and returns its result: what `json.dumps` takes, or a JSON document as text or bytes.

Plain functions run in threads of their own; async ones in the spooler's event loop, and must not block it.
"""

_MAX_MESSAGE_CHARS = 10_000
_KEPT_HEAD_CHARS = 2_000
_STOPPED = "the spooler was stopped"

_log = logging.getLogger("spoolway.spooler")


class Runner:
    """Starts run functions and hands their ends to `finished`, in the event loop."""

    def __init__(
        self, threads: int, transfer: Transfer, finished: Callable[[HeldJob, pb.LeaseUpdate], None]
    ) -> None:
        """Start nothing yet.

        Args:
            threads: Plain functions that run at once, at most.
            transfer: Fetches contents and sends results that are too long for a message.
            finished: Called in the event loop for each function that has ended.
        """
        self.max_inline_bytes = MAX_INLINE_BYTES
        """Longer results are uploaded; the server says how long."""
        self._transfer = transfer
        self._loop = asyncio.get_running_loop()
        self._finished = finished
        self._threads = _DaemonThreads(threads, self._run_plain)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: deque[tuple[HeldJob, pb.LeaseUpdate]] = deque()
        self._is_woken = False
        self._is_stopping = False

    def start(self, held: HeldJob) -> None:
        """Start the job's run function, once its content is here."""
        if held.job._missing_bytes:
            self._spawn(self._fetch_content(held))
        elif held.backend.is_async:
            self._spawn(self._run_async(held))
        else:
            self._threads.submit(held)

    def stop(self) -> None:
        """Cancel the async functions; plain ones can't be interrupted."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Let idle threads end. Threads that still run do not keep the process alive."""
        self._threads.close()

    def _run_plain(self, held: HeldJob) -> None:
        try:
            with run_span(held.job.name, held.job._trace_context):
                result = held.backend.run(held.job)
            end = end_of_result(held, result, self.max_inline_bytes)
        except BaseException as error:  # noqa: BLE001 - whatever a job does, it fails alone
            end = end_of_error(held, error)
        self._ends.append((held, end))
        # One wake-up for all ends of a moment. Two threads may both send one; none can be missed, as the
        # flag falls before the ends are collected.
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._collect)
        except RuntimeError:
            _log.warning("a run function returned after its spooler had ended; its result is lost")

    def _collect(self) -> None:
        self._is_woken = False
        while self._ends:
            self._end(*self._ends.popleft())

    def _end(self, held: HeldJob, end: pb.LeaseUpdate) -> None:
        if held.large_result is None:
            self._finished(held, end)
        else:
            self._spawn(self._upload_result(held, held.large_result, end))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch_content(self, held: HeldJob) -> None:
        """Fetch a content that was too long for its assignment, then start."""
        job = held.job
        try:
            content = await self._transfer.fetch_content(job.name, held.token, job._missing_bytes)
        except SpoolwayError as error:
            self._finished(held, _failed_transfer(held, "The content can't be fetched", error))
            return
        if job.cancelled:
            self._finished(held, end_of_result(held, None, 0))
            return
        job.content_bytes = content
        job._missing_bytes = 0
        self.start(held)

    async def _upload_result(self, held: HeldJob, result: bytes, end: pb.LeaseUpdate) -> None:
        """Upload a result that is too long for a message, then report it."""
        held.large_result = None
        try:
            upload = await self._transfer.send_result(held.job.name, held.token, result)
        except SpoolwayError as error:
            end = _failed_transfer(held, "The result can't be uploaded", error)
        else:
            end.complete.upload.CopyFrom(upload)
        self._finished(held, end)

    async def _run_async(self, held: HeldJob) -> None:
        try:
            with run_span(held.job.name, held.job._trace_context):
                result = await held.backend.run(held.job)
            end = end_of_result(held, result, self.max_inline_bytes)
        except BaseException as error:  # noqa: BLE001 - whatever a job does, it fails alone
            end = end_of_error(held, error)
            if self._is_stopping and isinstance(error, asyncio.CancelledError):
                end = held.report()
                end.release.reason = _STOPPED
        self._end(held, end)


class _DaemonThreads:
    """A fixed number of threads, started when needed.

    Not a ThreadPoolExecutor: the interpreter waits at its exit for an executor's threads, and a function that
    hangs in a driver would keep the process alive for ever.
    """

    def __init__(self, limit: int, run: Callable[[HeldJob], None]) -> None:
        self._limit = limit
        self._run = run
        self._started = 0
        self._jobs: queue.SimpleQueue[HeldJob | None] = queue.SimpleQueue()

    def submit(self, held: HeldJob) -> None:
        self._jobs.put(held)
        if self._started < self._limit:
            self._started += 1
            name = f"spoolway-run-{self._started}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def close(self) -> None:
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (held := self._jobs.get()) is not None:
            self._run(held)


def is_async(run: RunFunction) -> bool:
    """Whether the function must be awaited."""
    return inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(type(run).__call__)


def end_of_result(held: HeldJob, result: Any, max_inline_bytes: int) -> pb.LeaseUpdate:
    """The report about a function that returned.

    After a cancel, None means that the function stopped, and anything else that it was quicker. A result over
    `max_inline_bytes` is left in `held.large_result`, to be uploaded and named in the report.
    """
    end = held.report()
    if held.job.cancelled and result is None:
        end.cancelled.SetInParent()
        return end
    try:
        encoded = encode_json(result)
    except InvalidArgumentError as error:
        if inspect.iscoroutine(result):
            result.close()
        end.fail.message = clean_text(
            f"The run function returned a {type(result).__name__}, which is no result: {error.message}."
        )
        return end
    if len(encoded) > max_inline_bytes:
        held.large_result = encoded
        end.complete.SetInParent()
    else:
        end.complete.result = encoded
    return end


def end_of_error(held: HeldJob, error: BaseException) -> pb.LeaseUpdate:
    """The report about a function that raised."""
    end = held.report()
    if held.job.cancelled:
        end.cancelled.SetInParent()
        return end
    end.fail.retryable = isinstance(error, RetryLater)
    if isinstance(error, RetryLater) and error.after is not None:
        end.fail.retry_after.FromTimedelta(error.after)
    is_for_owner = isinstance(error, RetryLater | JobError)
    end.fail.message = str_of(error) if is_for_owner else _traceback_of(error)
    return end


def str_of(error: BaseException) -> str:
    """The error's own words, at most 10,000 characters."""
    return _shortened(clean_text(error) or type(error).__name__)


def _failed_transfer(held: HeldJob, what: str, error: SpoolwayError) -> pb.LeaseUpdate:
    end = held.report()
    end.fail.message = _shortened(clean_text(f"{what}: {error}"))
    return end


def _traceback_of(error: BaseException) -> str:
    told = traceback.TracebackException(type(error), error, _without_own_frames(error.__traceback__))
    return _shortened(clean_text("".join(told.format())))


def _without_own_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _shortened(text: str) -> str:
    """Cut from the middle: how it began and what went wrong in the end matter most."""
    if len(text) <= _MAX_MESSAGE_CHARS:
        return text
    mark = f"\n... {len(text) - _MAX_MESSAGE_CHARS:,} characters or more left out ...\n"
    return text[:_KEPT_HEAD_CHARS] + mark + text[-(_MAX_MESSAGE_CHARS - _KEPT_HEAD_CHARS - len(mark)) :]
