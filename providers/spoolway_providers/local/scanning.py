"""Which files others have brought, moved or removed: told by file events, and by listings beneath them."""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from time import monotonic, time_ns

from spoolway_providers.interface import Finding
from spoolway_providers.local.adopting import is_taken
from spoolway_providers.local.disk import Disk, is_disk_trouble, set_aside
from spoolway_providers.local.following import Follower
from spoolway_providers.local.index import Index
from spoolway_providers.local.intake import Intake
from spoolway_providers.local.layout import Layout, Place, Seen, list_folder
from spoolway_providers.local.tables import job_files, projected
from spoolway_providers.model import JobKey, State

__all__ = ["Scanner"]

_log = logging.getLogger(__name__)

_WAITING = frozenset({State.QUEUED.value, State.HELD.value})
_STEP = 500
"""Files that are taken in before the keeper looks after something else."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
_PAUSE_UNWATCHED_S = 2.0
_FINDINGS_KEPT = 1_000
_CLOCK_TICK_NS = 50_000_000
"""Within this, two changes of a folder may bear the same time."""


class Scanner:
    """Tells intake and follower whom to look at; used by the keeper's thread only."""

    def __init__(self, index: Index, disk: Disk, layout: Layout, intake: Intake, follower: Follower) -> None:
        self._index = index
        self._disk = disk
        self._layout = layout
        self._intake = intake
        self._follower = follower
        self._backlog: dict[JobKey, None] = {}
        self._changed_ns: dict[str, int] = {}
        self._pause_s = _FIRST_PAUSE_S
        self._findings: list[Finding] = []
        self.next_scan = 0.0
        """When to list the folders again, by the monotonic clock."""

    @property
    def has_backlog(self) -> bool:
        """Whether there are files that are to be taken in."""
        return bool(self._backlog)

    def step(self) -> None:
        """Take in some of them."""
        keys = list(islice(self._backlog, _STEP))
        jobs = self._intake.take(keys)
        for key in keys:
            del self._backlog[key]
        self._follower.watch(job.key for job in jobs if job.state is State.RUNNING)

    def look(self, seen: Iterable[Seen], backends: Sequence[str]) -> None:
        """Look at the files that events were about."""
        queued: dict[str, set[str]] = {}
        running: set[str] = set()
        for one in seen:
            if one.place is Place.QUEUED:
                queued.setdefault(one.backend, set()).add(one.id)
            elif one.place is Place.RUNNING:
                running.add(one.id)
        for backend, ids in queued.items():
            if "" in ids:
                self._scan_queue(backend)
            elif backend in backends:
                self._look_queued(backend, ids)
        self._look_running(running, backends)

    def scan(self, backends: Sequence[str], *, is_watched: bool) -> None:
        """List the folders that have changed since the last time; the less there was, the later the next."""
        odd = sum(self._scan_queue(name) for name in backends if self._has_changed(Place.QUEUED, name))
        if self._has_changed(Place.RUNNING, ""):
            odd += self._look_running(self._listed(Place.RUNNING, ""), backends)
        longest_s = _LONGEST_PAUSE_S if is_watched else _PAUSE_UNWATCHED_S
        self._pause_s = _FIRST_PAUSE_S if odd else min(self._pause_s * 2, longest_s)
        self.next_scan = monotonic() + self._pause_s

    def take_findings(self) -> list[Finding]:
        """What lay where it should not, since the last time."""
        findings, self._findings = self._findings, []
        return findings

    def scan_soon(self) -> None:
        """Something may have been missed: a new folder is watched a moment after it was made."""
        self._pause_s = _FIRST_PAUSE_S
        self.next_scan = min(self.next_scan, monotonic() + _FIRST_PAUSE_S)

    def forget(self) -> None:
        """List all folders the next time, changed or not."""
        self._changed_ns.clear()
        self.next_scan = 0.0

    def _has_changed(self, place: Place, backend: str) -> bool:
        folder = self._layout[place].folder_of(backend, "").rstrip("/")
        try:
            changed_ns = os.stat(folder).st_mtime_ns
        except FileNotFoundError:
            return False
        known_ns = self._changed_ns.get(folder)
        if time_ns() - changed_ns > _CLOCK_TICK_NS:
            self._changed_ns[folder] = changed_ns
        return changed_ns != known_ns

    def _listed(self, place: Place, backend: str) -> set[str]:
        shelf = self._layout[place]
        names = list_folder(shelf.folder_of(backend, "").rstrip("/"))
        return {job_id for name in names if (job_id := shelf.id_of(name)) is not None}

    def _scan_queue(self, backend: str) -> int:
        rows = self._index.connection.execute(
            "SELECT id FROM local_files WHERE backend = ? AND place = 'queued'", (backend,)
        )
        known = {row[0] for row in rows.fetchall()}
        return self._look_queued(backend, self._listed(Place.QUEUED, backend) ^ known)

    def _look_queued(self, backend: str, ids: Iterable[str]) -> int:
        """Look at files that are said to have come to a queue, or left it; how many are not as known."""
        unknown: list[tuple[int, str]] = []
        missing: list[JobKey] = []
        strays = 0
        done = projected(self._index.connection)[0]
        for job_id in ids:
            key = JobKey(backend, job_id)
            row = self._index.connection.execute(
                "SELECT j.state, j.change, f.place FROM jobs j LEFT JOIN local_files f ON f.seq = j.seq"
                " WHERE j.id = ? AND j.backend = ?",
                (job_id, backend),
            ).fetchone()
            path = self._layout.job(Place.QUEUED, key, "")
            if row is None and is_taken(self._index.connection, key):
                strays += self._set_aside(path, "a job of another backend has the same id")
                continue
            if row is None:
                unknown.append((_written_ns(path), job_id))
                continue
            state, change, place = row
            is_here = os.path.lexists(path)
            if state in _WAITING and place == Place.QUEUED:
                if not is_here:
                    missing.append(key)
            elif is_here and change <= done and place is not None:
                strays += self._put_back(key)
        self._backlog.update((JobKey(backend, job_id), None) for _, job_id in sorted(unknown))
        self._follower.watch(missing)
        return len(unknown) + len(missing) + strays

    def _put_back(self, key: JobKey) -> int:
        """A file lies in the queue whose job is elsewhere: a copy, or somebody moved it."""
        found = job_files(self._index.connection, key)
        if found is None:
            return 0
        job, files = found
        if (job.state is State.RUNNING and job.holder is None) or job.state is State.HELD:
            self._follower.watch([key])
            return 1
        path = self._layout.job(Place.QUEUED, key, files.user)
        place = self._layout.job(files.place, key, files.user) if files.place is not Place.NOWHERE else ""
        if not place or os.path.lexists(place):
            return self._set_aside(path, f"its job is {job.state}")
        with suppress(FileNotFoundError):
            batch = self._disk.batch(1)
            batch.move(path, place)
            batch.sync_folders()
            self._note_stray(path, f"its job is {job.state}", place)
        return 1

    def _set_aside(self, path: str, reason: str) -> int:
        try:
            self._note_stray(path, reason, set_aside(path, self._layout.refused))
        except OSError as error:
            if is_disk_trouble(error):
                raise
            _log.warning("%s lies in the queue, but %s, and it can't be moved: %s", path, reason, error)
        return 1

    def _note_stray(self, path: str, reason: str, target: str) -> None:
        finding = Finding("stray_file", path, f"{reason}: moved to {target}")
        self._findings = [*self._findings[-_FINDINGS_KEPT:], finding]
        _log.warning("%s lay in the queue, but %s", path, finding.action)

    def _look_running(self, ids: Iterable[str], backends: Sequence[str]) -> int:
        """Look at files that are said to have come to the running ones, or left them."""
        odd = 0
        for job_id in ids:
            rows = self._index.connection.execute(
                "SELECT j.backend, j.state, j.session, f.place"
                " FROM jobs j LEFT JOIN local_files f ON f.seq = j.seq WHERE j.id = ?",
                (job_id,),
            ).fetchall()
            for backend, state, session, place in rows:
                is_taken = state in _WAITING and place in {Place.QUEUED, Place.RUNNING}
                if session == "" or is_taken:
                    self._follower.watch([JobKey(backend, job_id)])
                    odd += is_taken and place == Place.QUEUED
            if not rows:
                jobs = self._intake.take_running(job_id, backends)
                self._follower.watch(job.key for job in jobs)
                odd += len(jobs)
        return odd


def _written_ns(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
