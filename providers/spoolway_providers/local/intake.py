"""Takes in files that the index does not know: jobs that people or other programs dropped."""

import logging
from collections.abc import Iterable
from time import monotonic

import msgspec

from spoolway_providers import rules
from spoolway_providers.local.adopting import Found, adopt
from spoolway_providers.local.disk import is_disk_trouble
from spoolway_providers.local.foreign import Bad, ForeignReader, Ripe, Unripe
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.names import backend_of_id
from spoolway_providers.local.reading import NoDocumentError
from spoolway_providers.model import Job, JobKey

__all__ = ["Intake"]

_log = logging.getLogger(__name__)

_CHUNK = 500
_FIRST_LOOK_S = 0.02
_LONGEST_LOOK_S = 0.5
_SETTLED_S = 5.0
"""A file that is no document, and has not been written on for so long, will never be one."""


class _Waiting(msgspec.Struct):
    """A file that is not whole yet."""

    seen: Unripe
    since: float
    """When it was first seen as it is now."""
    look_at: float
    pause_s: float = _FIRST_LOOK_S


class Intake:
    """Used by the keeper's thread only."""

    def __init__(self, index: Index, layout: Layout, reader: ForeignReader) -> None:
        self._index = index
        self._layout = layout
        self._reader = reader
        self._waiting: dict[JobKey, _Waiting] = {}
        self._passed_over: set[JobKey] = set()

    @property
    def next_look(self) -> float:
        """When a file that is not whole yet is to be looked at again, by the monotonic clock."""
        return min((one.look_at for one in self._waiting.values()), default=float("inf"))

    def ripen(self) -> list[Job]:
        """Look again at what was not whole."""
        now = monotonic()
        return self.take(key for key, one in list(self._waiting.items()) if one.look_at <= now)

    def take(self, keys: Iterable[JobKey]) -> list[Job]:
        """Make jobs of files in the queue, in this order; a batch is one commit."""
        jobs: list[Job] = []
        chunk: list[Found] = []
        for key in keys:
            try:
                found = self._look(key)
            except (OSError, NoDocumentError) as error:
                self._pass_over(key, error)
                continue
            if found is not None:
                chunk.append(found)
            if len(chunk) >= _CHUNK:
                jobs += self._index.commit(adopt, chunk)
                chunk = []
        return jobs + (self._index.commit(adopt, chunk) if chunk else [])

    def take_running(self, job_id: str, backends: Iterable[str]) -> list[Job]:
        """Make a job of a file that was among the running ones, if its id or its status tells the backend."""
        named = backend_of_id(job_id)
        for backend in [named] if named else backends:
            key = JobKey(backend, job_id)
            try:
                found = self._taken(key) if named or self._reader.has_status(key) else None
            except (OSError, NoDocumentError) as error:
                self._pass_over(key, error)
                continue
            if found is not None:
                return self._index.commit(adopt, [found])
        return []

    def _look(self, key: JobKey) -> Found | None:
        seen = self._read(key, Place.QUEUED, "")
        if isinstance(seen, Unripe):
            spoiled = self._wait(key, seen)
            return None if spoiled is None else self._found(key, seen, Place.QUEUED, spoiled)
        self._waiting.pop(key, None)
        match seen:
            case Ripe():
                return self._found(key, seen, Place.QUEUED)
            case Bad():
                spoiled = rules.Spoiled(seen.reason, seen.message)
                return self._found(key, seen, Place.QUEUED, spoiled)
        return self._taken(key)

    def _taken(self, key: JobKey) -> Found | None:
        """A job that was dropped, and that another program was quicker to take than we."""
        origin = self._reader.origin(key)
        place = self._layout.where(key, origin.user, first=Place.RUNNING)
        if place not in {Place.RUNNING, Place.FINISHED, Place.DELETED}:
            return None
        seen = self._read(key, place, origin.user)
        return None if seen is None else self._found(key, seen, place, rules.TakenByForeign())

    def _read(self, key: JobKey, place: Place, user: str) -> Ripe | Unripe | Bad | None:
        return self._reader.job(self._layout.job(place, key, user), key)

    def _pass_over(self, key: JobKey, error: OSError | NoDocumentError) -> None:
        """Leave alone what can't be read, so that it is in nobody's way."""
        if isinstance(error, OSError) and is_disk_trouble(error):
            raise error
        self._waiting.pop(key, None)
        if key not in self._passed_over:
            self._passed_over.add(key)
            _log.warning("the file of %s can't be read as a job, so it is left alone: %s", key, error)

    def _found(self, key: JobKey, seen: Ripe | Unripe | Bad, place: Place, *events: rules.Event) -> Found:
        origin = self._reader.origin(key)
        return Found(
            key=key,
            owner=origin.owner,
            user=origin.user,
            content=seen.content,
            place=place,
            at=seen.at,
            events=events,
        )

    def _wait(self, key: JobKey, seen: Unripe) -> rules.Spoiled | None:
        """Look again soon; or say what is wrong with it, if nobody has written on for long."""
        now = monotonic()
        known = self._waiting.get(key)
        if known is None or known.seen != seen:
            self._waiting[key] = _Waiting(seen, now, now + _FIRST_LOOK_S)
            return None
        if now - known.since > _SETTLED_S:
            del self._waiting[key]
            return rules.Spoiled("CONTENT_INVALID", "the file is not a JSON object")
        known.pause_s = min(known.pause_s * 2, _LONGEST_LOOK_S)
        known.look_at = now + known.pause_s
        return None
