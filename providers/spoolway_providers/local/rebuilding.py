"""Takes over what lies in the folders when the index is new: others' installation, or ours without it.

What waits comes first, in the order in which it was written; until then the storage does not open. What has
ended comes afterwards, beside traffic.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from spoolway_providers import rules
from spoolway_providers.local.adopting import Found, adopt
from spoolway_providers.local.documents import Record
from spoolway_providers.local.foreign import ForeignReader, Origin, Ripe
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place, list_folder
from spoolway_providers.local.names import backend_of_id
from spoolway_providers.local.reading import NoDocumentError
from spoolway_providers.local.tables import REBUILT_ALL, REBUILT_QUEUE, rebuilt, set_rebuilt
from spoolway_providers.model import JobKey, Reason, State

__all__ = ["Rebuilder"]

_log = logging.getLogger(__name__)

_CHUNK = 500

_File = tuple[JobKey, str, Place]
"""A job's file: the folder of its user if that is known, and where it lies."""


class Rebuilder:
    """Used by the keeper's thread only."""

    def __init__(self, index: Index, layout: Layout, reader: ForeignReader) -> None:
        self._index = index
        self._layout = layout
        self._reader = reader
        self._ended: Iterator[_File] | None = None

    def take_over(self, backends: Sequence[str]) -> None:
        """Make jobs of what waits and of what runs, if the index is new."""
        if rebuilt(self._index.connection) >= REBUILT_QUEUE:
            return
        for backend in backends:
            for chunk in _chunks(self._waiting(backend)):
                self._adopt(chunk)
        for chunk in _chunks(self._shared(Place.RUNNING, backends)):
            self._adopt(chunk)
        self._index.commit(set_rebuilt, REBUILT_QUEUE)

    @property
    def is_done(self) -> bool:
        """Whether all that has ended is taken over too."""
        return rebuilt(self._index.connection) >= REBUILT_ALL

    def step(self, backends: Sequence[str]) -> None:
        """Make jobs of some of what has ended."""
        if self._ended is None:
            self._ended = self._all_ended(backends)
        chunk = list(islice(self._ended, _CHUNK))
        self._adopt(chunk)
        if len(chunk) < _CHUNK:
            self._ended = None
            self._index.commit(set_rebuilt, REBUILT_ALL)

    def _waiting(self, backend: str) -> list[_File]:
        found: list[tuple[int, str, Place]] = []
        for place in (Place.QUEUED, Place.WAITING):
            found += [(at, job_id, place) for at, job_id in self._listed(place, backend, "")]
        return [(JobKey(backend, job_id), "", place) for _, job_id, place in sorted(found)]

    def _shared(self, place: Place, backends: Sequence[str]) -> Iterator[_File]:
        """The jobs of a place where those of all backends lie together."""
        for _, job_id in sorted(self._listed(place, "", "")):
            backend = self._backend_of(job_id, backends)
            if backend:
                yield JobKey(backend, job_id), "", place
            else:
                _log.warning("%s lies among the %s jobs, and nothing says of which backend", job_id, place)

    def _all_ended(self, backends: Sequence[str]) -> Iterator[_File]:
        shelf = self._layout[Place.FINISHED]
        for backend in backends:
            for user in self._layout.user_folders(shelf, backend):
                for _, job_id in sorted(self._listed(Place.FINISHED, backend, user)):
                    yield JobKey(backend, job_id), user, Place.FINISHED
        yield from self._shared(Place.DELETED, backends)

    def _listed(self, place: Place, backend: str, user: str) -> list[tuple[int, str]]:
        """The jobs of a folder, each with the time of its file."""
        shelf = self._layout[place]
        folder = shelf.folder_of(backend, user).rstrip("/")
        found = []
        for name in list_folder(folder):
            job_id = shelf.id_of(name)
            if job_id is not None:
                with suppress(FileNotFoundError):  # taken by somebody just now
                    found.append((os.lstat(f"{folder}/{name}").st_mtime_ns, job_id))
        return found

    def _backend_of(self, job_id: str, backends: Sequence[str]) -> str:
        named = backend_of_id(job_id)
        if named:
            return named
        with_status = (
            name for name in backends if self._reader.origin(JobKey(name, job_id)).status is not None
        )
        return next(with_status, "")

    def _adopt(self, chunk: Sequence[_File]) -> None:
        found = [one for key, user, place in chunk if (one := self._found(key, user, place)) is not None]
        if found:
            self._index.commit(adopt, found)

    def _found(self, key: JobKey, folder: str, place: Place) -> Found | None:
        origin = self._reader.origin(key)
        user = folder or origin.user
        try:
            seen = self._reader.job(self._layout.job(place, key, user), key)
        except (OSError, NoDocumentError) as error:
            _log.warning("%s can't be taken over: %s", key, error)
            return None
        if seen is None or (place is Place.QUEUED and not isinstance(seen, Ripe)):
            # What is not whole, or gone, is for those who look at the queue.
            return None
        events, has_result = self._events(key, user, place, origin)
        record = origin.status.record if origin.status is not None else None
        return Found(
            key=key,
            owner=origin.owner,
            user=user,
            content=seen.content,
            place=place,
            at=seen.at,
            record=record or Record(),
            events=events,
            has_result=has_result,
        )

    def _events(
        self, key: JobKey, user: str, place: Place, origin: Origin
    ) -> tuple[tuple[rules.Event, ...], bool]:
        """What has happened to a job by its place and its documents, and whether its result is there."""
        status = origin.status
        said = status.status if status is not None else ""
        message = status.reason if status is not None else ""
        record = status.record if status is not None else None
        if record is not None and record.state is State.CANCELLED:
            return (rules.Cancel("its owner, before the index was lost"),), False
        if said == "ERROR" or place is Place.DELETED:
            return (rules.EndedByForeign(None, message),), False
        if said == "DONE" or place is Place.FINISHED:
            result = self._reader.result(key, user)
            if result is not None or place is Place.FINISHED:
                missing = "it lies among the finished jobs, but has no result"
                return (rules.EndedByForeign(result, message or missing),), result is not None
        if place is Place.RUNNING:
            return (rules.Imported(),), False
        if record is not None and (record.state, record.reason) == (State.HELD, Reason.OPERATOR):
            return (rules.Hold("an operator, before the index was lost"),), False
        return (), False


def _chunks(found: Iterable[_File]) -> Iterator[list[_File]]:
    files = iter(found)
    while chunk := list(islice(files, _CHUNK)):
        yield chunk
