"""The server: everything put together, started, drained and stopped."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from importlib.metadata import version

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from spoolway.v1 import job_service_pb2, job_service_pb2_grpc, storage_admin_pb2, storage_admin_pb2_grpc
from spoolway_providers.interface import Provider
from spoolway_providers.model import Policy
from spoolway_providers.registry import make_provider
from spoolway_server.access_tokens import AccessTokens, TokenAuthenticator
from spoolway_server.added import AddedStorages
from spoolway_server.audit import Audit
from spoolway_server.auth import Gate, LoopbackAuthenticator
from spoolway_server.backends import Backends
from spoolway_server.catalog import Catalog, StorageRecord
from spoolway_server.catalog.opening import make_catalog
from spoolway_server.clock import Clock
from spoolway_server.config import Config, StorageSettings, is_loopback
from spoolway_server.copying import COPY, Copying
from spoolway_server.following import Following
from spoolway_server.guard import Context, add_guarded
from spoolway_server.importing import IMPORT, Importing
from spoolway_server.jobs import Jobs
from spoolway_server.metrics import Metrics, measured
from spoolway_server.operations import Operations
from spoolway_server.policies import Policies
from spoolway_server.purges import Purges
from spoolway_server.quotas import Quotas
from spoolway_server.roster import Roster
from spoolway_server.scraping import MetricsPort
from spoolway_server.services.job_service import JobService
from spoolway_server.services.storage_admin import StorageAdmin
from spoolway_server.spoolers import Spoolers, Timing
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tls import server_credentials
from spoolway_server.tracing import Tracing
from spoolway_server.uploads import UploadLimits
from spoolway_server.vault import Vault
from spoolway_server.watching import Watching

__all__ = ["SpoolwayServer", "serve"]

_log = structlog.get_logger(__name__)

SERVICES = ("spoolway.v1.JobService", "spoolway.v1.StorageAdmin")
LEAVE_GRACE_S = 5.0
"""What streams get of the grace, to be closed by their clients."""
STREAM_SHARE = 0.8
"""Of a connection's greatest age: how old a stream gets."""
LAST_WORD_S = 0.1
"""What watchers of the health get to be told that it is over."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Health(health.aio.HealthServicer):
    """The health service, whose watchers do not keep the server from stopping."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """Tell each change, until the server stops."""
        watching = asyncio.create_task(super().Watch(request, context))
        ended = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            # The last word, not serving, may be under way.
            await asyncio.wait({watching}, timeout=LAST_WORD_S)
            if watching.done():
                watching.result()
        finally:
            ended.cancel()
            watching.cancel()


class SpoolwayServer:
    """One server process: listens after `start`, until `stop`."""

    def __init__(self, config: Config, *, clock: Clock | None = None, tracing: Tracing | None = None) -> None:
        """Put the parts together; nothing is opened yet."""
        self._config = config
        clock = clock or Clock()
        vault = Vault.load(config.catalog.key_file, os.environ)
        self.catalog: Catalog = make_catalog(config)
        self.audit = Audit(self.catalog, clock)
        self.metrics = Metrics(version("spoolway-server"), tracing)
        self.storages = Storages(
            [self._declared_storage(name, settings, clock) for name, settings in config.storages.items()],
            config.default_storage,
        )
        self.storages.on_health_change = self._update_health
        make_storage = partial(self._added_storage, clock=clock)
        self.added = AddedStorages(self.storages, self.catalog, vault, make_storage, clock)
        self.tokens = AccessTokens(self.catalog, clock)
        self.following = Following(self.catalog, clock, [self.tokens.refresh, self.added.refresh])
        self.following.on_first_read = self._update_health
        self._gate = Gate(
            TokenAuthenticator(self.tokens, self.following)
            if config.auth.mode == "tokens"
            else LoopbackAuthenticator()
        )
        copying = Copying(self.storages, self.added, self.catalog, clock)
        importing = Importing(self.storages, vault, clock)
        self.operations = Operations(self.catalog, clock, {COPY: copying, IMPORT: importing})
        self.spoolers = Spoolers(self.storages, _timing(config), clock)
        limits = config.limits
        upload_limits = UploadLimits(
            inline=limits.max_inline_bytes, content=limits.max_content_bytes, result=limits.max_result_bytes
        )
        backends = Backends(self.storages, max_config_bytes=limits.max_config_bytes)
        jobs = Jobs(
            self.storages, self.audit, Quotas(clock), limits=upload_limits, max_depth=limits.max_json_depth
        )
        self._job_service = JobService(
            storages=self.storages,
            jobs=jobs,
            watching=Watching(self.storages, stream_age=_stream_age(config)),
            backends=backends,
            spoolers=self.spoolers,
            limits=upload_limits,
            max_batch=limits.max_batch,
            audit=self.audit,
        )
        self._storage_admin = StorageAdmin(
            storages=self.storages,
            added=self.added,
            jobs=jobs,
            backends=backends,
            policies=Policies(self.storages),
            purges=Purges(self.storages),
            roster=Roster(self.storages, self.spoolers),
            operations=self.operations,
            copying=copying,
            importing=importing,
            audit=self.audit,
            tokens=self.tokens,
            clock=clock,
        )
        self._health = _Health()
        self.metrics_port = MetricsPort(self.metrics, self.storages)
        self._credentials = server_credentials(config.tls)
        self._grpc: grpc.aio.Server | None = None
        self._shown_storages: set[str] = set()
        self._health_updates: set[asyncio.Task[None]] = set()
        self._draining = False
        self.port = 0

    @property
    def draining(self) -> bool:
        """Whether it has begun to stop."""
        return self._draining

    @property
    def address(self) -> str:
        """Where clients reach it: host:port."""
        host = self._config.server.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Open the storages and listen. A storage in trouble shows in its health and holds nothing up.

        Raises:
            OSError: the port is taken.
        """
        server = self._grpc = grpc.aio.server(options=self._options())
        guarded = partial(
            add_guarded,
            server=server,
            gate=self._gate,
            metrics=self.metrics,
            max_messages_per_s=self._config.limits.max_messages_per_s,
        )
        guarded(job_service_pb2_grpc.add_JobServiceServicer_to_server, self._job_service)
        guarded(storage_admin_pb2_grpc.add_StorageAdminServicer_to_server, self._storage_admin)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            [
                job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
                storage_admin_pb2.DESCRIPTOR.services_by_name["StorageAdmin"].full_name,
                health.SERVICE_NAME,
                reflection.SERVICE_NAME,
            ],
            server,
        )
        self.port = self._bind(server)
        if self._config.metrics.enabled:
            await self.metrics_port.start(self._config.metrics.host, self._config.metrics.port)
        await self.storages.start()
        await self.following.start()
        await self.added.wait_opened()
        self.operations.start()
        await server.start()
        await self._set_health()
        self._warn_of_strangers()
        _log.info("listening", address=self.address, storages=list(self.storages.by_name))

    async def stop(self, grace_s: float) -> None:
        """Stop: not serving, streams told to leave, calls under way finish within `grace_s` seconds."""
        await self._begin_drain()
        if self._grpc is not None:
            self._job_service.end_waits()
            self.operations.end_watches()
            await self._leave_streams(grace_s)
            self._health.ended.set()
            await self._grpc.stop(grace_s)
        await self.spoolers.settle()
        await self.metrics_port.stop()
        await self.following.stop()
        await self.tokens.stop()
        await self.operations.stop()
        await self.added.stop()
        await self.storages.stop()
        await self.catalog.close()
        await asyncio.gather(*self._health_updates, return_exceptions=True)

    async def wait_closed(self) -> None:
        """Return once the server has stopped."""
        if self._grpc is not None:
            await self._grpc.wait_for_termination()

    async def run_until_signal(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, _on_signal, stop)
        await stop.wait()
        settings = self._config.server
        _log.info("draining", pause_s=settings.drain_pause_s, grace_s=settings.drain_grace_s)
        await self._begin_drain()
        await asyncio.sleep(settings.drain_pause_s)
        await self.stop(settings.drain_grace_s)

    def _declared_storage(self, name: str, settings: StorageSettings, clock: Clock) -> Storage:
        metrics = self.metrics.storage(name)
        return Storage(
            name,
            settings.type,
            lambda: measured(make_provider(settings.type, settings.login), metrics),
            policy=_policy(self._config),
            clock=clock,
            description=settings.description,
            active=settings.active,
            metrics=metrics,
        )

    def _added_storage(self, record: StorageRecord, make: Callable[[], Provider], clock: Clock) -> Storage:
        metrics = self.metrics.storage(record.name)
        return Storage(
            record.name,
            record.type,
            lambda: measured(make(), metrics),
            policy=_policy(self._config),
            clock=clock,
            description=record.description,
            owner=record.owner,
            active=record.active,
            metrics=metrics,
        )

    def _bind(self, server: grpc.aio.Server) -> int:
        host, port = self._config.server.host, self._config.server.port
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                bound = server.add_insecure_port(target)
            else:
                bound = server.add_secure_port(target, self._credentials)
        except RuntimeError as error:
            raise OSError(f"{target} can't be listened on: it is in use; choose another port") from error
        if not bound:
            raise OSError(f"{target} can't be listened on; choose another host or port")
        return bound

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self._config.limits.max_receive_bytes),
            ("grpc.max_send_message_length", -1),
            # Soft limit and hard limit: in between gRPC refuses at random.
            ("grpc.max_metadata_size", self._config.limits.max_header_bytes),
            ("grpc.absolute_max_metadata_size", self._config.limits.max_header_bytes),
            ("grpc.max_concurrent_streams", self._config.limits.max_streams),
            # Two servers on one port would each see half of the calls.
            ("grpc.so_reuseport", 0),
            # Find dead peers behind silent proxies, and let clients ping as often as ours do.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            *_age_options(self._config.server.max_connection_age_s),
        ]

    def _warn_of_strangers(self) -> None:
        """Say each time what was allowed in so many words once."""
        tls, tokens = self._config.tls.enabled, self._config.auth.mode == "tokens"
        if not is_loopback(self._config.server.host) and not (tls and tokens):
            _log.warning("others can reach this server", encrypted=tls, wants_tokens=tokens)

    async def _begin_drain(self) -> None:
        if not self._draining:
            self._draining = True
            await self._set_health()

    async def _leave_streams(self, grace_s: float) -> None:
        """Tell every stream to leave; `server.stop` alone would let them hang for the whole grace."""
        # Who comes back at once, as goaway asks for, is to go elsewhere.
        self.spoolers.draining = True
        for session in list(self.spoolers.sessions.values()):
            session.draining = True
            session.end("DRAINING")
        await self.spoolers.wait_gone(min(grace_s, LEAVE_GRACE_S))

    def _update_health(self) -> None:
        task = asyncio.create_task(self._set_health())
        self._health_updates.add(task)
        task.add_done_callback(self._health_updates.discard)

    async def _set_health(self) -> None:
        """Each storage's trouble turns only its own entry; the rest follows this process."""
        mine = SERVING if self.following.is_read and not self._draining else NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, mine)
        storages = dict(self.storages.by_name)
        for name in self._shown_storages - storages.keys():
            await self._health.set(f"storage/{name}", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        self._shown_storages = set(storages)
        for storage in storages.values():
            await self._health.set(
                f"storage/{storage.name}", NOT_SERVING if self._draining or not storage.serving else SERVING
            )


async def serve(config: Config) -> None:
    """Run a server until it is told to stop by a signal."""
    server = SpoolwayServer(config)
    await server.start()
    await server.run_until_signal()


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():
        # The second signal: no more patience.
        raise SystemExit(1)
    stop.set()


def _age_options(age_s: float) -> list[tuple[str, int]]:
    """gRPC's limit of a connection's age; with a grace as long, our own end of a stream comes first."""
    if not age_s:
        return []
    age_ms = int(age_s * 1000)
    return [("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", age_ms)]


def _stream_age(config: Config) -> timedelta | None:
    """When a stream is asked to move on: below the least that gRPC makes of the limit, 10 % under it."""
    age_s = config.server.max_connection_age_s
    return timedelta(seconds=age_s * STREAM_SHARE) if age_s else None


def _policy(config: Config) -> Policy:
    leases = config.leases
    return Policy(
        max_attempts=leases.max_attempts,
        max_crashes=leases.max_crashes,
        lease_ttl=timedelta(seconds=leases.ttl_s),
        resume_grace=timedelta(seconds=leases.resume_grace_s),
        cancel_grace=timedelta(seconds=leases.cancel_grace_s),
    )


def _timing(config: Config) -> Timing:
    leases = config.leases
    return Timing(
        heartbeat=timedelta(seconds=leases.heartbeat_interval_s),
        idle_heartbeat=timedelta(seconds=leases.idle_heartbeat_s),
        accept=timedelta(seconds=leases.accept_timeout_s),
        stream_age=_stream_age(config),
    )
