"""How the processes that share a database wake each other.

One change stream a process brings what others do; `wait` hands it out. A stream is a hint only: beneath it
this process looks by itself, each 30 s while the stream is well. Without a replica set there are no
streams: then, and while one is broken, looks come each 0.2 s, backing off to 5 s while nothing happens.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextvars import Context
from datetime import timedelta
from typing import Any

import msgspec
from pymongo.errors import OperationFailure, PyMongoError

from spoolway_providers.errors import ProviderError, Unavailable
from spoolway_providers.interface import Hints
from spoolway_providers.model import JobKey, State
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.journal import Journal
from spoolway_providers.rules import SPOOLER_REVOKED

__all__ = ["Pace", "Wake"]

_log = logging.getLogger(__name__)

_NO_STREAMS = frozenset({40573, 115})
"""The server is no member of a replica set, or can't have change streams at all."""
_FIRST_RETRY_S = 0.2
_LAST_RETRY_S = 5.0
_CANCEL_AGAIN_S = 0.2
_OWN_COMMITS_KEPT = 200
_REASONS = ["SESSION_REPLACED", SPOOLER_REVOKED]
"""Why a session was ended by another process than the one that has its stream."""

_PIPELINE: list[dict[str, Any]] = [
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": ["jobs", "backends"]}},
                # Another server's spooler took this one's place, or an operator has revoked it.
                {"ns.coll": "sessions", "updateDescription.updatedFields.reason": {"$in": _REASONS}},
            ]
        }
    },
    {
        "$project": {
            "operationType": 1,
            "ns": 1,
            "documentKey": 1,
            **{
                f"{place}.{name}": 1
                for place in ("fullDocument", "updateDescription.updatedFields")
                for name in ("rev", "state", "change", "commit")
            },
        }
    },
]


class Pace(msgspec.Struct, frozen=True):
    """How often a process that waits asks the storage; in seconds."""

    stream_s: float = 60.0
    """One round trip of an idle change stream."""
    beneath_stream_s: float = 30.0
    first_look_s: float = 0.2
    last_look_s: float = 5.0


class Wake:
    """Gathers hints from this process's own commits, from the change stream and from looks."""

    def __init__(self, connection: Connection, journal: Journal, pace: Pace) -> None:
        self._connection = connection
        self._journal = journal
        self._pace = pace
        self._woken = asyncio.Event()
        self._nudged = asyncio.Event()
        self._changed = False
        self._queued: set[str] | None = set()
        self._own_commits: dict[str, None] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._token: Any = None
        self.is_streaming = False
        """Whether a change stream is open."""
        self._untold = 0
        self.missed = 0
        """Changes that a look found before the change stream told of them."""

    async def wait(self, timeout: timedelta) -> Hints | None:
        """See the interface. The first call sets the stream and the looks going."""
        self._start()
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return None
        self._woken.clear()
        queued, self._queued = self._queued, set()
        changed, self._changed = self._changed, False
        untold, self._untold = self._untold, 0
        return Hints(None if queued is None else frozenset(queued), changed, untold)

    def _start(self) -> None:
        if self._tasks:
            return
        if not self._connection.is_open:
            raise Unavailable("the storage is not open")
        loops = [self._look_again_and_again()]
        if self._connection.has_streams:
            loops.append(self._listen())
        # In a context of their own, without the time limit of the call that came first.
        self._tasks = [asyncio.create_task(loop, context=Context()) for loop in loops]

    async def close(self) -> None:
        """End the tasks."""
        tasks, self._tasks = self._tasks, []
        left = set(tasks)
        while left:
            # Again, if need be: the driver may turn a cancellation into an error of its own.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.is_streaming = False

    # What happened

    def ring(self, queued: Iterable[str] | None) -> None:
        """Something has changed; these backends may have new jobs, or any (None)."""
        self._changed = True
        if queued is None or self._queued is None:
            self._queued = None
        else:
            self._queued.update(queued)
        self._woken.set()
        if not self.is_streaming:
            # Others may be busy too.
            self._nudged.set()

    def told(self, key: JobKey, revision: int, state: State | None) -> None:
        """A change of a job is committed, by this process or by another."""
        if self._journal.note(key, revision):
            self.ring([key.backend] if state is State.QUEUED else [])

    def told_backend(self, name: str, commit: str) -> None:
        """This process has changed a backend."""
        self._own_commits[commit] = None
        if len(self._own_commits) > _OWN_COMMITS_KEPT:
            del self._own_commits[next(iter(self._own_commits))]
        self.ring([name])

    # Looking

    async def _look_again_and_again(self) -> None:
        delay = self._pace.first_look_s
        while True:
            nudged = await self._nudged_within(self._pace.beneath_stream_s if self.is_streaming else delay)
            if nudged and not self.is_streaming:
                await asyncio.sleep(self._pace.first_look_s)
            has_news = await self._look(is_beneath_stream=self.is_streaming and not nudged)
            is_busy = nudged or has_news
            delay = self._pace.first_look_s if is_busy else min(delay * 2, self._pace.last_look_s)

    async def _nudged_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            return False
        self._nudged.clear()
        return True

    async def _look(self, *, is_beneath_stream: bool) -> bool:
        """Look for changes that nobody told of; whether there were any."""
        try:
            news = await self._journal.look()
        except ProviderError as error:
            _log.debug("could not look for changes: %s", error)
            return False
        if not news:
            return False
        if is_beneath_stream:
            self.missed += len(news)
            self._untold += len(news)
        self.ring({one.key.backend for one in news if one.is_queued})
        return True

    # Listening

    async def _listen(self) -> None:
        """Keep a change stream open."""
        retry_s = _FIRST_RETRY_S
        while True:
            heard = False
            try:
                heard = await self._follow()
            except PyMongoError as error:
                if getattr(error, "code", None) in _NO_STREAMS:
                    _log.info("this MongoDB has no change streams: polling")
                    return
                self._forget_place(error)
            except Exception:  # noqa: BLE001  # the wake-ups' life: whatever happened, it goes on
                _log.exception("the change stream broke")
            finally:
                self._set_streaming(is_streaming=False)
            retry_s = _FIRST_RETRY_S if heard else min(retry_s * 2, _LAST_RETRY_S)
            await asyncio.sleep(retry_s)

    def _forget_place(self, error: PyMongoError) -> None:
        """After an error: go on where the stream broke, unless the server says that it can't."""
        _log.info("the change stream broke: %s", str(error).split(", full error", 1)[0])
        if isinstance(error, OperationFailure):
            self._token = None
            # What came since the last event is unknown: a full look.
            self.ring(None)

    async def _follow(self) -> bool:
        """Open a stream and hand on what it says, until it ends; whether it said anything."""
        heard = False
        async with await self._connection.database.watch(
            _PIPELINE, resume_after=self._token, max_await_time_ms=round(self._pace.stream_s * 1000)
        ) as stream:
            self._set_streaming(is_streaming=True)
            while stream.alive:
                event = await stream.try_next()
                self._token = stream.resume_token
                if event is not None:
                    heard = True
                    self._hear(event)
        # It ends by itself only where the database was dropped.
        self._token = None
        return heard

    def _set_streaming(self, *, is_streaming: bool) -> None:
        if self.is_streaming != is_streaming:
            self.is_streaming = is_streaming
            # What happened before it began, or happens from now on, only a look finds.
            self._nudged.set()
            if is_streaming:
                # And of sessions that were ended meanwhile only those who know them find out.
                self.ring(())

    def _hear(self, event: Mapping[str, Any]) -> None:
        if event["ns"]["coll"] == "sessions":
            self.ring(())
            return
        fields = event.get("fullDocument") or event.get("updateDescription", {}).get("updatedFields", {})
        commit = fields.get("commit")
        if not isinstance(commit, str):
            return
        name = event["documentKey"]["_id"]
        if event["ns"]["coll"] == "backends":
            if commit not in self._own_commits:
                self.ring([name])
        elif "rev" in fields:
            self._journal.note_late(name, int(fields["change"]))
            state = State(fields["state"]) if "state" in fields else None
            self.told(JobKey(commit.partition("/")[0], name), fields["rev"], state)
