"""One storage at work: its provider, kept open, and health, wake-ups, dispatchers and reaper around it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import grpc
import structlog

from spoolway_providers.errors import (
    LoginRefused,
    NotFound,
    NotOwner,
    ProviderError,
    Unavailable,
    Uncertain,
)
from spoolway_providers.interface import Claimed, Hints, Provider, Query
from spoolway_providers.model import TERMINAL_STATES, Backend, JobKey, Policy, State, new_token
from spoolway_providers.registry import ProviderTypeError
from spoolway_providers.rules import SessionGone, Withdraw
from spoolway_server.admission import JobRules, read_config
from spoolway_server.clock import Clock
from spoolway_server.dispatcher import Dispatcher
from spoolway_server.documents import parse_document
from spoolway_server.errors import ServiceError, without_paths
from spoolway_server.feed import Feed
from spoolway_server.janitor import Janitor
from spoolway_server.leases import Leases, Update
from spoolway_server.metrics import Metrics, StorageMetrics
from spoolway_server.reaper import Reaper
from spoolway_server.sessions import Session

__all__ = ["Storage"]

_log = structlog.get_logger(__name__)

BACKENDS_FRESH_S = 2.0
"""How long a read of the backends serves, so that another process's change is seen within it."""
COUNT_LIMIT = 1_000_000
"""Jobs are counted so far."""
POLL_MAX_S = 120.0
"""The longest interval of the polls beneath wake-ups, of all waiting backends together."""
POLL_MAX_WITHOUT_WAKES_S = 5.0
"""The same where the storage does not tell of others' changes; of each backend."""
WATCH_POLL_S = 30.0
"""How often who watches jobs looks beneath the wake-ups."""
PROBE = "probe-"
"""What the blobs are called by which a storage in trouble is asked whether it can be written again."""
FIRST_REOPEN_S = 0.5
HEALTH_PATIENCE_S = 2.0
"""Calls must fail for so long, without one that goes well, before the health turns."""
REOPEN_MAX_S = 30.0


class Storage:
    """One storage of this process. Trouble stays in it: its calls fail fast, and it recovers by itself."""

    def __init__(
        self,
        name: str,
        type_name: str,
        make_provider: Callable[[], Provider],
        *,
        policy: Policy,
        clock: Clock,
        description: str = "",
        owner: str = "",
        active: bool = True,
        metrics: StorageMetrics | None = None,
    ) -> None:
        """Put the parts together; `start` sets them going.

        Args:
            name: as configured.
            type_name: name of the provider type.
            make_provider: makes one, not yet open; this object opens and closes it. What it raises is the
                storage's trouble, and it is asked again.
            policy: for backends whose operators have set none.
            clock: the machine's clocks.
            description: for people.
            owner: who answers for it.
            active: takes submits and gives jobs.
            metrics: its counters; None: some that nobody reads.
        """
        self.name = name
        self.type_name = type_name
        self.description = description
        self.owner = owner
        self.active = active
        self.trouble = "not opened yet"
        """What the last call said; empty: it went well."""
        self.serving = False
        """Its health: follows `trouble`, but not at each call that fails."""
        self._turning: asyncio.TimerHandle | None = None
        self.clock = clock
        self.metrics = metrics or Metrics().storage(name)
        self._make_provider = make_provider
        self._provider: Provider | None = None
        self._opening = asyncio.Lock()
        self.feed = Feed(lambda: self.provider)
        self.leases = Leases(self)
        self.reaper = Reaper(self)
        self.janitor = Janitor(self)
        self.opened = asyncio.Event()
        self._in_trouble = asyncio.Event()
        self.default_policy = policy
        self._backends: dict[str, Backend] = {}
        self._backends_read_at = float("-inf")
        self._rules: dict[str, tuple[str, JobRules]] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._withdrawals: set[asyncio.Task[None]] = set()
        self.on_health_change: Callable[[], None] = lambda: None
        self.is_home: Callable[[str], bool] = lambda _backend: True
        """Whether a backend's jobs here count; else they are copies, of before or for later."""

    @property
    def provider(self) -> Provider:
        """The provider of the moment, made at the first use; another one once the login has changed."""
        if self._provider is None:
            self._provider = self._make_provider()
        return self._provider

    # Life

    async def start(self) -> None:
        """Open the provider and set the loops going; what can't be opened is tried again and again."""
        first = self._spawn(self._first_try())
        await asyncio.wait({first})
        if first.cancelled():  # stopped meanwhile
            return
        self._spawn(self._keep_open())
        self._spawn(self._listen())
        self._spawn(self.feed.run())
        self._spawn(self.reaper.run())
        self._spawn(self.janitor.run())

    async def stop(self) -> None:
        """End the loops and close the provider."""
        if self._turning is not None:
            self._turning.cancel()
        running = {*self._tasks, *self._withdrawals}
        running |= {task for task in (d.stop() for d in self._dispatchers.values()) if task is not None}
        while running:
            for task in running:
                task.cancel()
            # Again and again: a wait may swallow a cancellation (Python 3.11's wait_for does, if what it
            # waited for has just come).
            _, running = await asyncio.wait(running, timeout=1)
        if self._provider is not None:
            await self._provider.close()

    def set_active(self, active: bool) -> None:
        """Let it take submits and give jobs, or not."""
        self.active = active
        if active:
            self.wake(None)

    async def change_login(self, make_provider: Callable[[], Provider]) -> None:
        """Go on with another provider: the old one finishes what is under way, then the new one is opened.

        Not side by side: two would be two owners where a storage has one. Calls in between are UNAVAILABLE,
        to be repeated; sessions and leases lie in the storage and go on. Returns after the first try to open
        the new one.
        """
        async with self._opening:
            self._make_provider = make_provider
            self.opened.clear()
            self.report(Unavailable("its login has changed, and it is being opened anew"))
            old, self._provider = self._provider, None
            if old is not None:
                await old.close()
        self._backends_read_at = float("-inf")
        self.reaper.pardon()
        self.feed.restart()
        if await self._try():
            self.wake(None)

    async def _first_try(self) -> None:
        await self._try()

    def report(self, error: ProviderError | None) -> None:
        """Tell how the last call went; None: well.

        Calls that fail turn the storage's health once that has lasted, so that nobody looks elsewhere for one
        that timed out; what no further try would mend turns it at once. The first success turns it back.
        """
        trouble = "" if error is None else str(error) or type(error).__name__
        is_new = bool(trouble) and not self.trouble
        self.trouble = trouble
        if trouble:
            self._in_trouble.set()
        if not trouble or not isinstance(error, Unavailable | Uncertain):
            self._turn_health()
        elif is_new:
            loop = asyncio.get_running_loop()
            self._turning = loop.call_later(HEALTH_PATIENCE_S, self._turn_health)

    def _turn_health(self) -> None:
        """Let the health say what the last call said."""
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        serving = not self.trouble
        if serving != self.serving:
            log = _log.info if serving else _log.warning
            log("storage health", storage=self.name, serving=serving, trouble=self.trouble)
            self.serving = serving
            self.on_health_change()

    @contextmanager
    def noting_trouble(self) -> Iterator[None]:
        """Report what a call of the provider raises within, if it is the storage's trouble."""
        try:
            yield
        except (Unavailable, Uncertain, LoginRefused, NotOwner) as error:
            self.report(error)
            raise

    def require_usable(self) -> None:
        """Raise ServiceError at once if calls would fail."""
        if not self.opened.is_set():
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "STORAGE_UNAVAILABLE",
                f"storage {self.name} can't be reached: {without_paths(self.trouble)}",
                metadata={"storage": self.name},
            )

    async def unfinished(self, limit: int = COUNT_LIMIT) -> int:
        """How many jobs have not ended, up to `limit`."""
        self.require_usable()
        states = tuple(state for state in State if state not in TERMINAL_STATES)
        with self.noting_trouble():
            return await self.provider.count(Query(states=states, limit=limit))

    def require_active(self) -> None:
        """Raise ServiceError if it takes no new jobs."""
        self.require_usable()
        if not self.active:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "STORAGE_INACTIVE",
                f"storage {self.name} is inactive: it takes no jobs until an operator activates it",
                metadata={"storage": self.name},
            )

    # Backends

    async def backends(self, *, fresh: bool = False) -> dict[str, Backend]:
        """All backends by name, at most 2 s old; `fresh` reads them now."""
        self.require_usable()
        if fresh or self.clock.monotonic() - self._backends_read_at > BACKENDS_FRESH_S:
            with self.noting_trouble():
                listed = await self.provider.backends()
            self._backends = {backend.name: backend for backend in listed}
            self._backends_read_at = self.clock.monotonic()
        return self._backends

    async def backend(self, name: str) -> Backend:
        """One backend. Raises NotFound."""
        known = await self.backends()
        if name not in known:
            known = await self.backends(fresh=True)
        if name not in known:
            raise NotFound(f"storage {self.name} has no backend {name}")
        return known[name]

    def note_backend(self, backend: Backend) -> None:
        """A backend was just written by this process."""
        self._backends[backend.name] = backend

    def policy(self, backend: str) -> Policy:
        """The policy in force, as last read."""
        known = self._backends.get(backend)
        return (known and known.policy) or self.default_policy

    def rules(self, backend: Backend) -> JobRules:
        """What the backend's config demands of jobs; compiled once a version."""
        cached = self._rules.get(backend.name)
        if cached is None or cached[0] != backend.config_etag:
            try:
                made = read_config(parse_document(backend.config, field="config"))
            except ServiceError as error:
                # Registered configs are checked; other programs may have written this one.
                message = f"the config of backend {backend.name} can't be used: {error.message}"
                raise ServiceError(
                    grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_CONFIG_INVALID", message
                ) from error
            cached = (backend.config_etag, made)
            self._rules[backend.name] = cached
        return cached[1]

    def dispatcher(self, backend: str) -> Dispatcher:
        """The one dispatcher of a backend in this process."""
        if backend not in self._dispatchers:
            self._dispatchers[backend] = Dispatcher(self, backend)
        return self._dispatchers[backend]

    @property
    def poll_max_s(self) -> float:
        """The longest interval of a backend's polls beneath wake-ups."""
        if not self.provider.capabilities.wakes:
            return POLL_MAX_WITHOUT_WAKES_S
        waiting = sum(dispatcher.waiting_places > 0 for dispatcher in self._dispatchers.values())
        return POLL_MAX_S * max(waiting, 1)

    def expect_jobs(self, backends: Iterable[str]) -> None:
        """Jobs are about to be submitted: where calls are served in order, ask for them at once.

        The claim then waits in line behind the submit, and is served as soon as that is on the disk.
        """
        if self.provider.capabilities.processes != "many":
            for backend in backends:
                if backend in self._dispatchers:
                    self._dispatchers[backend].wake()

    def wake(self, hints: Hints | None) -> None:
        """Pass hints on; None: look at everything."""
        queued = self._dispatchers if hints is None or hints.queued is None else hints.queued
        for backend in queued:
            if backend in self._dispatchers:
                self._dispatchers[backend].wake()
        if hints is None or hints.changed:
            self.feed.notify()
            self.reaper.note_change()

    # Acceptance

    def expect_accept(self, session: Session, claimed: Sequence[Claimed]) -> None:
        """Take back what `session` does not accept within its accept timeout."""
        self.reaper.note_work()
        if not session.has_stream:
            return
        tokens = [(one.job.key, one.job.holder.token) for one in claimed if one.job.holder]
        delay_s = session.accept_timeout.total_seconds()
        asyncio.get_running_loop().call_later(delay_s, self._check_accepted, session, tokens)

    def _check_accepted(self, session: Session, tokens: Sequence[tuple[JobKey, str]]) -> None:
        known = [(session.known(key, token), token) for key, token in tokens]
        late = [(job, token) for job, token in known if job is not None and job.state is State.CLAIMED]
        if not late:
            return
        _log.warning(
            "not accepted in time", spooler=session.spooler_id, jobs=[str(job.key) for job, _ in late]
        )
        session.penalise()
        updates = [Update(job.key, _unaccepted(session, token), known=job) for job, token in late]
        task = asyncio.create_task(self._apply_withdrawals(updates))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)

    async def _apply_withdrawals(self, updates: Sequence[Update]) -> None:
        # What fails here the reaper withdraws later.
        await self.leases.apply(updates)

    # Loops

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self) -> None:
        await self.provider.open()
        self.opened.set()
        self.report(None)

    async def _keep_open(self) -> None:
        """Open what is not open; look after what is in trouble until it answers again."""
        delay = FIRST_REOPEN_S
        while True:
            if not self.trouble:
                delay = FIRST_REOPEN_S
                self._in_trouble.clear()
                await self._in_trouble.wait()
            await asyncio.sleep(delay)
            delay = min(delay * 2, REOPEN_MAX_S)
            if self.trouble and await self._try():
                self.wake(None)

    async def _try(self) -> bool:
        """Open it, or ask it something; tells how that went, and returns whether it went well."""
        try:
            async with self._opening:
                if self.opened.is_set():
                    await self.provider.backends()
                    # Reads may go on where nothing can be written, as on a full disk. What nobody names is
                    # swept.
                    await self.provider.stage(f"{PROBE}{new_token()}", 0, b"?")
                    self.report(None)
                else:
                    await self._open()
        except (ProviderTypeError, ServiceError, ValueError) as error:
            # Its provider can't even be made: a package, a key, or a field of the login is missing.
            self.report(Unavailable(str(error)))
        except ProviderError as error:
            self.report(error)
            if not isinstance(error, Unavailable | LoginRefused | NotOwner):
                _log.error("storage can't be used", storage=self.name, error=str(error))
        except Exception:  # noqa: BLE001  # a fault of the provider, maybe a plug-in's, stays in its storage
            _log.exception("storage can't be used", storage=self.name)
            self.report(Unavailable("its provider failed in a way it must not; the server's log has it"))
        else:
            return True
        return False

    async def _listen(self) -> None:
        """Wait for hints and pass them on."""
        while True:
            await self.opened.wait()
            provider = self.provider
            try:
                hints = await provider.wait(timedelta(seconds=self._longest_wait_s))
            except ProviderError as error:
                if provider is self._provider:
                    self.report(error)
                    await asyncio.sleep(1)
                continue
            except Exception:  # noqa: BLE001  # the loop is what wakes all others: whatever happened, it goes on
                _log.exception("listening failed", storage=self.name)
                await asyncio.sleep(1)
                continue
            if hints is None:
                # Dispatchers and reaper look by themselves; who watches has but this.
                self.feed.notify()
            else:
                self.metrics.wakeup_misses.inc(hints.missed)
                self.wake(hints)

    @property
    def _longest_wait_s(self) -> float:
        """After so long without a hint those who watch look by themselves."""
        longest = POLL_MAX_S if self.provider.capabilities.wakes else POLL_MAX_WITHOUT_WAKES_S
        return min(longest, WATCH_POLL_S)


def _unaccepted(session: Session, token: str) -> SessionGone | Withdraw:
    """What a job means that was not accepted: its spooler is slow, or the job may have killed it.

    The second counts as a crash, else a job that kills its spoolers would go round for ever (R11).
    """
    if session.closed:
        return SessionGone(session.id, "its stream ended before the job was accepted")
    return Withdraw(token, f"{session.spooler_id} did not accept it in time")
