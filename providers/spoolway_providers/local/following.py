"""Lets jobs follow their files where other programs move them: taken, ended, put back, lost."""

import logging
from collections.abc import Iterable
from time import monotonic

from spoolway_providers import rules
from spoolway_providers.local.adopting import Following, follow
from spoolway_providers.local.disk import is_disk_trouble
from spoolway_providers.local.foreign import ForeignReader
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.tables import FileRow, job_files
from spoolway_providers.model import Job, JobKey, Reason, State

__all__ = ["Follower"]

_log = logging.getLogger(__name__)

_ABSENT_S = 1.0
"""A waiting job's file may be on its way from one folder to another for so long."""
_STATUS_S = 5.0
"""So long we wait for another program to move the file of a job of which it says that it has ended."""
_DOCUMENTS_S = 10.0
"""So long we wait for the status of a job whose file another program has moved to the ended ones."""
_LOOK_S = 0.25
_QUIET_LOOK_S = 2.0


class Follower:
    """Used by the keeper's thread only."""

    def __init__(self, index: Index, layout: Layout, reader: ForeignReader) -> None:
        self._index = index
        self._layout = layout
        self._reader = reader
        self._watched: dict[JobKey, None] = {}
        self._urgent: dict[JobKey, None] = {}
        self._odd_since: dict[JobKey, float] = {}
        self._look_at = 0.0

    def start(self) -> None:
        """Find the jobs that others hold."""
        rows = self._index.connection.execute(
            "SELECT backend, id FROM jobs INDEXED BY jobs_held WHERE session = '' AND session IS NOT NULL"
            " UNION ALL SELECT backend, id FROM jobs WHERE state IN ('QUEUED', 'HELD') AND state = 'HELD'"
            " AND json_extract(doc, '$.reason') = 'IMPORTED'"
        )
        self.watch(JobKey(backend, job_id) for backend, job_id in rows.fetchall())

    def watch(self, keys: Iterable[JobKey]) -> None:
        """Look at these jobs soon, and as long as others hold them or their files are missing."""
        self._urgent.update(dict.fromkeys(keys))

    @property
    def next_look(self) -> float:
        """When to look again, by the monotonic clock."""
        if self._urgent:
            return 0.0
        return self._look_at if self._watched else float("inf")

    def look(self) -> None:
        """Look at the jobs about which there is news, and at all of them if it is time."""
        if monotonic() >= self._look_at:
            self._urgent.update(self._watched)
        while self._urgent:
            key = next(iter(self._urgent))
            del self._urgent[key]
            if self._try_examine(key):
                self._watched[key] = None
            else:
                self._watched.pop(key, None)
                self._odd_since.pop(key, None)
        self._look_at = monotonic() + (_LOOK_S if self._odd_since else _QUIET_LOOK_S)

    def _try_examine(self, key: JobKey) -> bool:
        try:
            return self._examine(key)
        except OSError as error:
            if is_disk_trouble(error):
                self._urgent[key] = None
                raise
            _log.debug("nobody knows where the file of %s is: %s", key, error)
            return True

    def _examine(self, key: JobKey) -> bool:
        """Let one job follow its file; whether to look again."""
        found = job_files(self._index.connection, key)
        if found is None:
            return False
        job, files = found
        if (job.state, job.reason) in _HELD_BY_OTHERS:
            return self._examine_foreign(job, files)
        if job.state in _WAITING and files.place in {Place.QUEUED, Place.NOWHERE}:
            return self._examine_waiting(job, files)
        return False

    def _examine_waiting(self, job: Job, files: FileRow) -> bool:
        """A job whose file should lie in the queue."""
        place = self._layout.where(job.key, files.user)
        match place:
            case Place.QUEUED:
                return place is not files.place and self._follow(job, place=place)
            case Place.WAITING:
                return self._follow(job, place=place)
            case Place.NOWHERE:
                lost = rules.Spoiled("FILE_LOST", "its file was removed by somebody while it waited")
                return not self._is_odd_for(job.key, _ABSENT_S) or self._follow(job, lost, place=place)
        self._follow(job, rules.TakenByForeign(), place=place)
        # It may have ended there by now.
        self._urgent[job.key] = None
        return True

    def _examine_foreign(self, job: Job, files: FileRow) -> bool:
        """A job that another program runs, or did."""
        place = self._layout.where(job.key, files.user, first=Place.RUNNING)
        if place is Place.QUEUED:
            return self._follow(job, rules.ReturnedByForeign(), place=place)
        ended = self._ended(job.key, files.user, place)
        if ended is None:
            if place is Place.RUNNING:
                self._odd_since.pop(job.key, None)
            return True
        event, patience_s = ended
        if patience_s and not self._is_odd_for(job.key, patience_s):
            return True
        return self._follow(job, event, place=place, has_result=event.result is not None)

    def _ended(self, key: JobKey, user: str, place: Place) -> tuple[rules.EndedByForeign, float] | None:
        """How a job has ended by its documents, and how long to wait for more; None: it runs on."""
        status = self._reader.status(key, user)
        says_so = status is not None and status.is_terminal
        is_here = place is Place.RUNNING
        if is_here and not says_so:
            return None
        message = status.reason if status is not None else ""
        if place is Place.DELETED or (status is not None and status.status == "ERROR"):
            return rules.EndedByForeign(None, message), _STATUS_S if is_here or not says_so else 0.0
        result = self._reader.result(key, user)
        if result is not None:
            return rules.EndedByForeign(result), _STATUS_S if is_here or not says_so else 0.0
        if is_here:
            return None
        return rules.EndedByForeign(None, "it lies among the ended jobs, but has no result"), _DOCUMENTS_S

    def _is_odd_for(self, key: JobKey, seconds: float) -> bool:
        """Whether something about a job has not been as it should be for so long."""
        return monotonic() - self._odd_since.setdefault(key, monotonic()) >= seconds

    def _follow(self, job: Job, *events: rules.Event, place: Place, has_result: bool = False) -> bool:
        """Let it follow; whether it has changed meanwhile, so that it must be looked at again."""
        following = Following(
            key=job.key, revision=job.revision, events=events, place=place, has_result=has_result
        )
        self._odd_since.pop(job.key, None)
        return self._index.commit(follow, following) is None


_WAITING = frozenset({State.QUEUED, State.HELD})
_HELD_BY_OTHERS = frozenset({(State.RUNNING, Reason.FOREIGN), (State.HELD, Reason.IMPORTED)})
