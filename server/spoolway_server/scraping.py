"""The port that Prometheus reads, and what is read anew at each scrape: queues, streams, credit."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Query
from spoolway_providers.model import ACTIVE_STATES, State
from spoolway_server.errors import ServiceError
from spoolway_server.metrics import Metrics
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages

if TYPE_CHECKING:
    from threading import Thread

__all__ = ["MetricsPort", "figure_families", "sample"]

_log = structlog.get_logger(__name__)

SAMPLE_TIMEOUT_S = 5.0
"""A storage that takes longer is left out of this scrape; Prometheus itself waits 10 s."""
LAG_INTERVAL_S = 1.0
COUNT_LIMIT = 1_000_000


async def sample(storages: Storages) -> list[Metric]:
    """The figures of now. A storage in trouble has none but `spoolway_storage_up`."""
    figures = _Figures()
    for storage in list(storages.by_name.values()):
        up = storage.opened.is_set() and not storage.trouble
        figures.add("storage_up", float(up), storage.name)
        for event, number in storage.provider.counters.items():
            figures.add("provider_events", number, storage.name, event)
        if not storage.opened.is_set():
            continue
        try:
            async with asyncio.timeout(SAMPLE_TIMEOUT_S / 2):
                await _sample_storage(storage, figures)
        except (ProviderError, ServiceError, TimeoutError) as error:
            _log.debug("storage not sampled", storage=storage.name, error=str(error))
    return figures.families()


async def _sample_storage(storage: Storage, figures: "_Figures") -> None:
    for name in await storage.backends():
        labels = (storage.name, name)
        for figure, states in (
            ("jobs_queued", (State.QUEUED,)),
            ("jobs_held", (State.HELD,)),
            ("jobs_running", tuple(ACTIVE_STATES)),
        ):
            query = Query(backend=name, states=states, limit=COUNT_LIMIT)
            figures.add(figure, await storage.provider.count(query), *labels)
        oldest = (await storage.provider.find(Query(backend=name, states=(State.QUEUED,), limit=1))).jobs
        waits_s = (storage.clock.now() - oldest[0].updated_at).total_seconds() if oldest else 0.0
        figures.add("oldest_queued_seconds", max(0.0, waits_s), *labels)
        dispatcher = storage.dispatcher(name)
        figures.add("spoolers", dispatcher.session_count, *labels)
        figures.add("spooler_credit", dispatcher.waiting_places, *labels)
        figures.add("backend_paused", float(storage.policy(name).paused), *labels)


class _Figures:
    """Families, filled one figure at a time."""

    _TEXTS = {  # noqa: RUF012  # read only
        "storage_up": ("Whether the storage answers.", ["storage"]),
        "jobs_queued": ("Jobs that wait for a spooler, in the storage.", ["storage", "backend"]),
        "jobs_held": ("Jobs held, in the storage.", ["storage", "backend"]),
        "jobs_running": ("Jobs that a spooler holds, in the storage.", ["storage", "backend"]),
        "oldest_queued_seconds": ("How long the oldest queued job has waited.", ["storage", "backend"]),
        "spoolers": ("Spoolers connected to this process.", ["storage", "backend"]),
        "spooler_credit": ("Free places of this process's spoolers.", ["storage", "backend"]),
        "backend_paused": ("Whether an operator has paused the backend.", ["storage", "backend"]),
    }

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            name: GaugeMetricFamily(f"spoolway_{name}", text, labels=labels)
            for name, (text, labels) in self._TEXTS.items()
        }
        text = "What a provider counts of its own: calls by name, limits that were met."
        self._families["provider_events"] = CounterMetricFamily(
            "spoolway_provider_events", text, labels=["storage", "event"]
        )

    def add(self, name: str, value: float, *labels: str) -> None:
        self._families[name].add_metric(labels, value)

    def families(self) -> list[Metric]:
        return list(self._families.values())


def figure_families() -> list[Metric]:
    """What is read at each scrape, without figures."""
    return _Figures().families()


class _AtScrape(Collector):
    """Asks the event loop, from the thread of a scrape."""

    def __init__(self, storages: Storages, loop: asyncio.AbstractEventLoop) -> None:
        self._storages = storages
        self._loop = loop
        self._asked: set[Future[list[Metric]]] = set()

    def collect(self) -> Iterable[Metric]:
        future = asyncio.run_coroutine_threadsafe(sample(self._storages), self._loop)
        self._asked.add(future)
        try:
            return future.result(SAMPLE_TIMEOUT_S)
        except (FutureTimeoutError, asyncio.CancelledError):
            future.cancel()
            return []
        finally:
            self._asked.discard(future)

    def describe(self) -> Iterator[Metric]:
        return iter(figure_families())

    def cancel(self) -> None:
        """Let nobody wait for a loop that is about to end."""
        for future in list(self._asked):
            future.cancel()


class MetricsPort:
    """Serves GET /metrics on a port of its own, from threads of its own."""

    def __init__(self, metrics: Metrics, storages: Storages) -> None:
        """Nothing is listened on yet."""
        self._metrics = metrics
        self._storages = storages
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None
        self._collector: _AtScrape | None = None
        self._lag: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the port is taken."""
        collector = self._collector = _AtScrape(self._storages, asyncio.get_running_loop())
        self._metrics.registry.register(collector)
        try:
            # In a thread: it looks up the host's name.
            started: Any = await asyncio.to_thread(
                start_http_server, port, addr=host, registry=self._metrics.registry
            )
        except OSError as error:
            message = f"{host}:{port} can't be listened on for metrics ({error.strerror}); set metrics.port"
            raise OSError(message) from error
        self._server, self._thread = started
        self.port = self._server.server_port if self._server else 0
        self._lag = asyncio.create_task(self._measure_lag())
        _log.info("metrics", address=f"{host}:{self.port}")

    async def stop(self) -> None:
        """Listen no longer. Safe if never started."""
        if self._lag is not None:
            self._lag.cancel()
        if self._collector is not None:
            self._collector.cancel()
        if self._server is not None and self._thread is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
            await asyncio.to_thread(self._thread.join)
            self._server = None

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._metrics.loop_lag.observe(max(0.0, loop.time() - due))
