"""One time in office: everything that is good only while this server owns the account."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from spoolway_providers.dropbox_storage.calls import Calls
from spoolway_providers.dropbox_storage.contents import Contents
from spoolway_providers.dropbox_storage.entries import Entry
from spoolway_providers.dropbox_storage.feed import Feed
from spoolway_providers.dropbox_storage.index import Index
from spoolway_providers.dropbox_storage.mirror import Mirror
from spoolway_providers.dropbox_storage.names import Layout, Numbering, user_of_id
from spoolway_providers.dropbox_storage.ownership import Ownership
from spoolway_providers.dropbox_storage.sessions import Sessions
from spoolway_providers.dropbox_storage.staging import Staging
from spoolway_providers.dropbox_storage.timings import Timings
from spoolway_providers.dropbox_storage.writer import Writer
from spoolway_providers.interface import Capabilities
from spoolway_providers.model import Backend, JobKey, Policy

__all__ = ["MAX_DOCUMENT_BYTES", "Request", "Tenure"]

T = TypeVar("T")

MAX_DOCUMENT_BYTES = 4 << 20


class Request(msgspec.Struct):
    """What is known of a request id."""

    at: datetime
    """When it was submitted first."""
    key: JobKey | None = None
    fingerprint: str = ""
    tombstone: str = ""
    """The path of what is left of it, if its job is deleted; while `key` is None that must be read."""
    arriving: "asyncio.Future[None] | None" = None
    """Ends when the submit under way does, whatever comes of it."""


class Tenure:
    """The owner's memory of the account, and what writes to it; it decides nothing, the rules do."""

    def __init__(
        self,
        calls: Calls,
        ownership: Ownership,
        layout: Layout,
        capabilities: Capabilities,
        clock: Callable[[], datetime],
        stock_spoolers: frozenset[str] = frozenset(),
    ) -> None:
        self.calls = calls
        self.ownership = ownership
        self.layout = layout
        self.capabilities = capabilities
        self.clock = clock
        self.stock_spoolers = stock_spoolers
        """Backends whose jobs spoolers of today's systems take beside us."""
        self.nonce = ownership.nonce
        self.mirror = Mirror()
        self.writer = Writer(calls, self.mirror)
        self.feed = Feed(self.nonce)
        self.sessions = Sessions(clock, calls.monotonic)
        self.index = Index(self.feed, self.sessions)
        self.numbering = Numbering()
        self.contents = Contents()
        self.staging = Staging(calls, self.writer, self.mirror, layout.uploads, clock)
        self.requests: dict[str, Request] = {}
        self.orphans: dict[JobKey, str] = {}
        """Statuses without a job's file that were not read yet: their paths."""
        self.known_orphans: dict[JobKey, str] = {}
        """And those that were."""
        self.arriving: Counter[str] = Counter()
        """Jobs of submits under way, by backend."""
        self.backends: dict[str, Backend] = {}
        self.backends_lock = asyncio.Lock()
        self.misplaced: dict[JobKey, float] = {}
        """Jobs whose file is to be moved, and since when."""
        self.unwritten: set[JobKey] = set()
        """Jobs whose status is to be written later."""
        self.doubts: set[JobKey] = set()
        """Jobs whose file may or may not have moved."""
        self.amnesty_ends_at = float("-inf")
        self.had_clean_start = True
        """The owner before has left, so nothing that it began is still on its way."""
        self.is_settled = False
        """And it has finished all: what lies at odds, another program moved."""
        self.unsaid: dict[JobKey, float] = {}
        """Jobs whose file says that another program has ended them, before a word of it; and since when."""
        self.garbage: set[str] = set()
        """Files that nobody needs any more."""
        self.changed_statuses = 0
        """Since the index document was written."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def is_registered(self, backend: str) -> bool:
        """Whether there is such a backend, with a config."""
        return backend in self.backends and self.backends[backend].is_registered

    @property
    def timings(self) -> Timings:
        """How long things take."""
        return self.calls.timings

    @property
    def is_amnesty(self) -> bool:
        """Whether a move that the owner before began may still arrive."""
        return not self.had_clean_start and self.calls.monotonic() < self.amnesty_ends_at

    def may_be_foreign(self, backend: str) -> bool:
        """Whether a waiting job whose file lies elsewhere is another program's, and no step of ours."""
        return self.is_settled or backend in self.stock_spoolers

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something to its end, even if its caller is cancelled: half of it would have to be mended."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def settle(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def policy(self, backend: str) -> Policy:
        """The policy of a backend."""
        known = self.backends.get(backend)
        return (known and known.policy) or Policy()

    # A job's files

    def user(self, entry: Entry) -> str:
        """The name of the folders in which a job's documents lie."""
        found = self.layout.parse(entry.status_path)
        return user_of_id(entry.key.id) or (found.user if found else "")

    def result_path(self, entry: Entry) -> str:
        """Where a job's result lies, or would."""
        return self.layout.result(entry.key, self.user(entry))

    def note_place(self, entry: Entry) -> None:
        """See to it that a job's file comes to where it should lie."""
        if entry.wanted_place is entry.place:
            self.misplaced.pop(entry.key, None)
        else:
            self.misplaced.setdefault(entry.key, self.calls.monotonic())

    def write_later(self, entry: Entry, after_s: float) -> None:
        """See to it that a job's status is written."""
        until = self.calls.monotonic() + after_s
        entry.unwritten_until = min(until, entry.unwritten_until or until)
        self.unwritten.add(entry.key)

    def note_written(self, entry: Entry) -> None:
        """A job's status says what its job says."""
        entry.unwritten_until = None
        self.unwritten.discard(entry.key)
        self.changed_statuses += 1
