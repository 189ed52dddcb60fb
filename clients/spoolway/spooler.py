"""Spooler: takes jobs of one or more backends, runs them, reports."""

import asyncio
import importlib.metadata
import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

from spoolway.errors import ContentTooLargeError, SettingsError
from spoolway.held import SpooledBackend
from spoolway.runner import RunFunction, is_async
from spoolway.session import Identity
from spoolway.settings import BACKEND_PATTERN, NAME_PATTERN, resolve_settings
from spoolway.submission import encode_json
from spoolway.supervisor import Supervisor
from spoolway.timing import Timing, steady_clock

__all__ = ["Spooler"]

_MAX_CONFIG_BYTES = 1024 * 1024

_log = logging.getLogger("spoolway.spooler")


class Spooler:
    """Runs the jobs of one or more backends.

        def run(job):
            return {"echo": job.content}

        Spooler("lab-1", backend="echo", config={"version": "1.0.0"}, run=run).run()

    It holds one stream to the server and lives through every trouble of it: what breaks is reconnected, what
    was not confirmed is reported again. A job's run function is started only once the server has confirmed
    that the job is this spooler's.

    Run functions take a RunningJob and return the result: what `json.dumps` takes, or a JSON document as text
    or bytes; long results are uploaded. What they raise fails the job, and nothing else: its owner sees the
    traceback, or only the message of a JobError; RetryLater lets it run again. Plain functions run in threads
    of their own, daemons, so that one that hangs in a driver does not keep the process alive; async ones run
    in the spooler's event loop and must not block it.

    After a cancel (`job.cancelled`), a function that raises or returns None has stopped, and one that returns
    anything else was quicker: its result is sent.
    """

    def __init__(
        self,
        spooler_id: str,
        *,
        backend: str | None = None,
        config: Mapping[str, Any] | None = None,
        run: RunFunction | None = None,
        concurrency: int = 1,
        storage: str | None = None,
        address: str | None = None,
        token: str | None = None,
        user: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        predecessor_dead: bool = False,
        max_jobs: int | None = None,
    ) -> None:
        """Find the settings; nothing is sent before `run` or `serve`.

        Args:
            spooler_id: Name of this spooler, stable over restarts; one process runs it at a time.
            backend: A first backend, with `config`, `run`, `concurrency` and `storage`; see `add_backend`.
            config: Its config.
            run: Its run function.
            concurrency: Its jobs at once.
            storage: Its storage.
            address: host:port of the server; this and the following as in JobClient.
            token: Bearer token.
            user: Who runs it.
            ca: File of the server's certificate authority, or `system`; turns TLS on.
            profile: Table of the profile file.
            predecessor_dead: Say that an earlier process of this spooler_id is surely dead, as under a
                service manager: its jobs return at once, not only when their leases run out.
            max_jobs: Jobs at once over all backends, where they share one device; None: no limit but theirs.

        Raises:
            SettingsError: a setting is wrong.
        """
        if not NAME_PATTERN.fullmatch(spooler_id):
            raise SettingsError(f"spooler_id {spooler_id!r} must match ^{NAME_PATTERN.pattern}$")
        if max_jobs is not None and max_jobs < 1:
            raise SettingsError(f"max_jobs must be at least 1, not {max_jobs}")
        self._settings = resolve_settings(address=address, token=token, user=user, ca=ca, profile=profile)
        self._identity = Identity(
            spooler_id=spooler_id,
            instance_id=uuid.uuid4().hex,
            sdk=f"spoolway-python/{_version()}",
            predecessor_dead=predecessor_dead,
        )
        self._max_jobs = max_jobs
        self._timing = Timing()
        self._now = steady_clock()
        self._backends: dict[str, SpooledBackend] = {}
        # Reentrant: on Windows a signal's handler may interrupt the very thread that holds it.
        self._lock = threading.RLock()
        self._serving: tuple[asyncio.AbstractEventLoop, Supervisor] | None = None
        self._is_drained = False
        if backend is not None:
            if config is None or run is None:
                raise SettingsError("with `backend` give its `config` and `run` too")
            self.add_backend(backend, config=config, run=run, concurrency=concurrency, storage=storage)

    def add_backend(
        self,
        name: str,
        *,
        config: Mapping[str, Any] | bytes,
        run: RunFunction,
        concurrency: int = 1,
        storage: str | None = None,
    ) -> Self:
        """Drive one more backend.

        Args:
            name: Short name, ^[a-z0-9]{1,64}$.
            config: What it can do, at most 1 MiB of JSON, or that JSON document itself, such as a signed one.
                `job_schema` may hold a JSON Schema of its jobs.
            run: Runs one job.
            concurrency: Jobs at once; 1 for a real device.
            storage: Where a new backend is kept; None: the server's default. One that exists stays.

        Returns:
            This spooler, so that calls can be chained.

        Raises:
            SettingsError: a value is wrong, or the spooler runs already.
            ContentTooLargeError: the config is too large.
        """
        if self._serving is not None:
            raise SettingsError("add all backends before the spooler runs")
        if not BACKEND_PATTERN.fullmatch(name):
            raise SettingsError(f"backend {name!r} must match ^{BACKEND_PATTERN.pattern}$")
        if name in self._backends:
            raise SettingsError(f"backend {name!r} was added before")
        if concurrency < 1:
            raise SettingsError(f"concurrency of {name!r} must be at least 1, not {concurrency}")
        if not callable(run):
            raise SettingsError(f"run of {name!r} must be a function that takes the job")
        encoded = encode_json(config)
        if len(encoded) > _MAX_CONFIG_BYTES:
            raise ContentTooLargeError(
                f"the config of {name!r} has {len(encoded):,} bytes, over the limit of {_MAX_CONFIG_BYTES:,}"
            )
        self._backends[name] = SpooledBackend(
            name=name,
            config=encoded,
            storage=storage or "",
            run=run,
            is_async=is_async(run),
            concurrency=concurrency,
        )
        return self

    def run(self) -> None:
        """Work until SIGTERM or SIGINT (Ctrl-C), then finish the jobs in hand and return.

        A second signal stops at once: jobs that have not started are given back, those that run are left to
        the server, which waits for the lease to run out. Where the program has set up no logging, messages go
        to standard error.

        Raises: what `serve` raises.
        """
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        asyncio.run(self._serve_until_signal())

    async def serve(self) -> None:
        """Work until `drain` or `stop`; for programs that run an event loop of their own.

        Raises:
            SessionReplacedError: a newer instance of this spooler_id has taken over.
            SpoolerRevokedError: an operator has ended this instance.
            InvalidArgumentError, PermissionDeniedError, UnauthenticatedError: refused three times in a row
                before the server first took this spooler: a config, a name or the token is wrong. Everything
                else is tried again, for ever, with a back-off of up to 15 s.
            SettingsError: there is no backend, or the spooler runs already.
        """
        if not self._backends:
            raise SettingsError("add a backend before the spooler runs")
        if self._serving is not None:
            raise SettingsError("this spooler runs already")
        supervisor = Supervisor(
            self._settings,
            self._identity,
            tuple(self._backends.values()),
            timing=self._timing,
            now=self._now,
            max_jobs=self._max_jobs,
        )
        with self._lock:
            self._serving = (asyncio.get_running_loop(), supervisor)
            if self._is_drained:
                supervisor.drain()
        try:
            await supervisor.run()
        finally:
            with self._lock:
                self._serving = None
                self._is_drained = False

    def drain(self) -> None:
        """Take no more jobs, finish those in hand, then let `run` or `serve` return. From any thread.

        Jobs whose leases are gone are not waited for.
        """
        with self._lock:
            self._is_drained = True
            if self._serving is not None:
                loop, supervisor = self._serving
                loop.call_soon_threadsafe(supervisor.drain)

    def stop(self) -> None:
        """Give back what has not started and let `run` or `serve` return at once. From any thread.

        Async functions are cancelled and their jobs given back. Plain functions can't be interrupted: they
        run on in their threads until the process ends, and the server waits for their leases to run out.
        """
        with self._lock:
            if self._serving is not None:
                loop, supervisor = self._serving
                loop.call_soon_threadsafe(supervisor.stop)

    async def _serve_until_signal(self) -> None:
        with _signals(self._on_signal):
            await self.serve()

    def _on_signal(self) -> None:
        if self._is_drained:
            self.stop()
        else:
            _log.info("finishing the jobs in hand; a second signal stops at once")
            self.drain()


@contextmanager
def _signals(handler: Callable[[], None]) -> Iterator[None]:
    """Call `handler` at SIGINT and SIGTERM; only the main thread can ask for signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:
            # Windows: the handler runs between two bytecodes of this thread.
            signal.signal(number, lambda *_: handler())
    try:
        yield
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, earlier[number])


def _version() -> str:
    try:
        return importlib.metadata.version("spoolway-client")
    except importlib.metadata.PackageNotFoundError:
        return "0"
