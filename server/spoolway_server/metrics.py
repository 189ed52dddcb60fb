"""What this process notes of its work: counters for Prometheus, spans where tracing is on, log lines.

`scraping` adds what is read at each scrape.

Counting is cheap, about a microsecond each, so that it is always done; only the port to read it from is
asked for. Labels come from what exists, methods, storages and backends, never from what a caller sends.
"""

import logging
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from time import perf_counter
from typing import Any, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from spoolway_providers.errors import Corrupt, LoginRefused, NotOwner, Unavailable, Uncertain
from spoolway_providers.interface import Provider
from spoolway_providers.model import Job, Outcome, Reason, State
from spoolway_server.tracing import Tracing

__all__ = ["BackendMetrics", "MethodMetrics", "Metrics", "StorageMetrics", "measured"]

_log = structlog.get_logger(__name__)
_levels = logging.getLogger(__name__)

_CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_RUN_BUCKETS = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

_TROUBLE = (Unavailable, Uncertain, LoginRefused, NotOwner, Corrupt)
"""What is the storage's fault; other errors are answers."""
_UNMEASURED = frozenset({"wait", "from_login"})
"""`wait` lasts as long as nothing happens."""


class Metrics:
    """All counters of one server, in a registry of their own."""

    def __init__(self, version: str = "", tracing: Tracing | None = None) -> None:
        """Nothing has happened yet."""
        self.tracing = tracing or Tracing()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        Info("spoolway_build", "The running server.", registry=self.registry).info({"version": version})
        self._calls = self._counter("rpcs", "Calls answered, by method and status.", "method", "code")
        self._call_seconds = self._histogram(
            "rpc_seconds", "Time from a unary call to its answer.", _CALL_BUCKETS, "method", "code"
        )
        self._streams = Gauge(
            "spoolway_streams", "Streams open now, by method.", ["method"], registry=self.registry
        )
        job = ("storage", "backend")
        self._submitted = self._counter(
            "jobs_submitted", "Submits acknowledged; a repeated request id counts again.", *job
        )
        self._claimed = self._counter("jobs_claimed", "Jobs assigned by this process.", *job)
        self._wait_seconds = self._histogram(
            "job_assignment_seconds", "Time from being queued to being assigned.", _WAIT_BUCKETS, *job
        )
        self._run_seconds = self._histogram(
            "job_run_seconds", "Time from the accept to the end of an attempt.", _RUN_BUCKETS, *job
        )
        self._ended = self._counter("jobs_ended", "Jobs that ended, by state.", *job, "state")
        self._lease_losses = self._counter(
            "lease_losses", "Jobs taken back because their spooler was lost.", *job
        )
        self._retries = self._counter("job_retries", "Jobs queued again after a failed or lost run.", *job)
        self._withdrawals = self._counter(
            "assignments_withdrawn", "Assignments taken back before they were accepted.", *job
        )
        self._storage_seconds = self._histogram(
            "storage_seconds", "Time of a storage's operations.", _CALL_BUCKETS, "storage", "operation"
        )
        self._storage_errors = self._counter(
            "storage_errors",
            "Operations that failed by the storage's fault.",
            "storage",
            "operation",
            "error",
        )
        self._purged = self._counter("jobs_purged", "Jobs deleted at the end of their retention.", "storage")
        self._repairs = self._counter("repairs", "What the janitor found and mended.", "storage", "kind")
        self._wakeup_misses = self._counter(
            "wakeup_misses", "Jobs found by the poll beneath the wake-ups.", "storage"
        )
        self.loop_lag = Histogram(
            "spoolway_event_loop_lag_seconds",
            "How much too late the event loop ran what was due, each second.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"spoolway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"spoolway_{name}", text, labels, buckets=buckets, registry=self.registry)

    def method(self, method: str) -> "MethodMetrics":
        """Counters of one call; `method` is its path."""
        return MethodMetrics(self._calls, self._call_seconds, self._streams, method.rpartition("/")[2])

    def storage(self, name: str) -> "StorageMetrics":
        """Counters of one storage."""
        return StorageMetrics(self, name)


class MethodMetrics:
    """Counters of one RPC method."""

    def __init__(self, calls: Counter, seconds: Histogram, streams: Gauge, method: str) -> None:
        """Bind the label once."""
        self._calls, self._seconds, self._method = calls, seconds, method
        self._by_code: dict[str, tuple[Counter, Histogram]] = {}
        self.open_streams = streams.labels(method)

    def unary(self, code: str, seconds: float) -> None:
        """A unary call was answered."""
        bound = self._by_code.get(code)
        if bound is None:
            labels = (self._method, code)
            bound = self._by_code[code] = (self._calls.labels(*labels), self._seconds.labels(*labels))
        bound[0].inc()
        bound[1].observe(seconds)

    def stream(self, code: str) -> None:
        """A stream has ended."""
        self._calls.labels(self._method, code).inc()


class StorageMetrics:
    """Counters of one storage and of its backends."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        """Bind the label once."""
        self._metrics = metrics
        self.name = name
        self.tracing = metrics.tracing
        self._backends: dict[str, BackendMetrics] = {}
        self.wakeup_misses = metrics._wakeup_misses.labels(name)
        self.purged = metrics._purged.labels(name)

    def repaired(self, kind: str, number: int) -> None:
        """The janitor has mended so many things of one kind."""
        self._metrics._repairs.labels(self.name, kind).inc(number)

    def backend(self, name: str) -> "BackendMetrics":
        """Counters of one of its backends."""
        if name not in self._backends:
            self._backends[name] = BackendMetrics(self._metrics, self.name, name)
        return self._backends[name]

    def operation(self, operation: str) -> Histogram:
        """The time that an operation takes."""
        return self._metrics._storage_seconds.labels(self.name, operation)

    def failed(self, operation: str, error: Exception) -> None:
        """An operation failed; only what is the storage's fault counts."""
        if isinstance(error, _TROUBLE):
            kind = type(error).__name__
            self._metrics._storage_errors.labels(self.name, operation, kind).inc()


class BackendMetrics:
    """Counters of one backend."""

    def __init__(self, metrics: Metrics, storage: str, backend: str) -> None:
        """Bind the labels once."""
        labels = (storage, backend)
        self._storage, self._tracing = storage, metrics.tracing
        self.submitted = metrics._submitted.labels(*labels)
        self._claimed = metrics._claimed.labels(*labels)
        self._wait_seconds = metrics._wait_seconds.labels(*labels)
        self._run_seconds = metrics._run_seconds.labels(*labels)
        self._lease_losses = metrics._lease_losses.labels(*labels)
        self._retries = metrics._retries.labels(*labels)
        self._withdrawals = metrics._withdrawals.labels(*labels)
        self._ended = {
            state: metrics._ended.labels(*labels, state.value)
            for state in (State.DONE, State.ERROR, State.CANCELLED, State.EXPIRED)
        }

    def claimed(self, job: Job) -> None:
        """A job goes to a spooler."""
        self._claimed.inc()
        self._tracing.claimed(job)
        self._note("job claimed", job)
        queued = next((t.at for t in reversed(job.times) if t.state is State.QUEUED), job.created_at)
        self._wait_seconds.observe(max(0.0, (job.updated_at - queued).total_seconds()))

    def changed(self, before: Job, after: Job) -> None:
        """This process has committed a change of a job."""
        if after.is_terminal and not before.is_terminal:
            self._ended[after.state].inc()
            self._tracing.changed(before, after)
            self._note("job ended", after, logging.INFO if after.state is State.ERROR else logging.DEBUG)
        held = before.holder
        attempt = after.attempt(held.token) if held else None
        if held is None or attempt is None or attempt.outcome is Outcome.OPEN:
            return
        if held.accepted_at is None:
            if attempt.outcome is Outcome.WITHDRAWN:
                self._withdrawals.inc()
        elif attempt.ended_at is not None:
            self._run_seconds.observe(max(0.0, (attempt.ended_at - held.accepted_at).total_seconds()))
        if attempt.outcome is Outcome.LOST:
            self._lease_losses.inc()
        again = after.state is State.QUEUED or (after.state is State.HELD and after.reason is Reason.DELAYED)
        if again and attempt.outcome in (Outcome.LOST, Outcome.FAILED):
            self._retries.inc()

    def _note(self, event: str, job: Job, level: int = logging.DEBUG) -> None:
        # Asked before anything is put together: it is most of what a line costs that nobody reads.
        if not _levels.isEnabledFor(level):
            return
        _log.log(
            level,
            event,
            job=str(job.key),
            backend=job.key.backend,
            storage=self._storage,
            caller=job.owner,
            state=job.state.value,
            spooler=job.attempts[-1].spooler if job.attempts else "",
            **({"trace_id": job.trace.split("-")[1]} if job.trace else {}),
        )


def measured(provider: Provider, metrics: StorageMetrics) -> Provider:
    """The same provider, each of its operations measured."""
    return cast("Provider", _Measured(provider, metrics))


class _Measured:
    """Stands before a provider."""

    def __init__(self, provider: Provider, metrics: StorageMetrics) -> None:
        self._provider = provider
        for name in Provider.__abstractmethods__ - _UNMEASURED:
            if iscoroutinefunction(getattr(Provider, name)):
                setattr(self, name, _timed(provider, name, metrics))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


def _timed(provider: Provider, name: str, metrics: StorageMetrics) -> Callable[..., Awaitable[Any]]:
    seconds = metrics.operation(name)

    async def call(*args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            return await getattr(provider, name)(*args, **kwargs)
        except Exception as error:
            metrics.failed(name, error)
            raise
        finally:
            seconds.observe(perf_counter() - began)

    return call
