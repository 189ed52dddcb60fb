"""Backends that today's spoolers serve beside us: they take any file, so only the next job is in the queue.

All others wait in a folder of our own.
"""

from collections.abc import Iterable

import msgspec

from spoolway_providers.local.disk import Fault, rename
from spoolway_providers.local.following import Follower
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place, list_folder
from spoolway_providers.local.taking import lock_of
from spoolway_providers.model import JobKey
from spoolway_providers.sqlite.documents import decode_policy, to_microseconds
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Heads"]


class _Move(msgspec.Struct, frozen=True):
    """A waiting job's file leaves one place for another."""

    key: JobKey
    source: Place
    target: Place


@one_by_one
def _note_move(transaction: Transaction, move: _Move) -> bool:
    """Note where a file is about to lie, or lies by now; False if it is not for us to move any more."""
    moved = transaction.connection.execute(
        "UPDATE local_files SET place = ? WHERE backend = ? AND id = ? AND place = ? AND EXISTS"
        " (SELECT 1 FROM jobs j WHERE j.seq = local_files.seq AND j.state IN ('QUEUED', 'HELD'))",
        (move.target.value, move.key.backend, move.key.id, move.source.value),
    ).rowcount
    return moved == 1


class Heads:
    """Sees to it that the next job, and no other, lies in the queue; used by the keeper's thread only."""

    def __init__(
        self, index: Index, layout: Layout, follower: Follower, backends: frozenset[str], fault: Fault
    ) -> None:
        self._index = index
        self._layout = layout
        self._follower = follower
        self._fault = fault
        self._locks = {backend: lock_of(layout, backend) for backend in sorted(backends)}

    def look(self, backends: Iterable[str]) -> bool:
        """Offer what is next, take back what is not; False if a claim was under way: look again soon."""
        busy = [name for name in backends if name in self._locks and not self._look(name)]
        return not busy

    def held_back(self, backends: Iterable[str]) -> list[JobKey]:
        """The jobs that wait out of others' reach although their backends are not marked any more."""
        waiting = self._layout[Place.WAITING]
        return [
            JobKey(backend, job_id)
            for backend in backends
            if backend not in self._locks
            for name in list_folder(waiting.folder_of(backend, ""))
            if (job_id := waiting.id_of(name)) is not None
        ]

    def _look(self, backend: str) -> bool:
        head = self._head(backend)
        offered = self._index.connection.execute(
            "SELECT f.id, f.user FROM local_files f JOIN jobs j ON j.seq = f.seq"
            " WHERE f.backend = ? AND f.place = 'queued' AND j.state = 'QUEUED'",
            (backend,),
        ).fetchall()
        for job_id, user in offered:
            if head is None or job_id != head[0]:
                self._take_back(JobKey(backend, job_id), user)
        if head is None or head[2] != Place.WAITING:
            return True
        lock = self._locks[backend]
        if not lock.try_acquire():
            return False
        try:
            self._offer(JobKey(backend, head[0]), head[1])
        finally:
            lock.release()
        return True

    def _head(self, backend: str) -> tuple[str, str, str] | None:
        """The next job with its user and place; None if there is none, or it is not to be taken."""
        found = self._index.connection.execute(
            "SELECT policy FROM backends WHERE name = ?", (backend,)
        ).fetchone()
        if found is None or (found[0] is not None and decode_policy(found[0]).paused):
            return None
        return self._index.connection.execute(  # type: ignore[no-any-return]
            "SELECT j.id, f.user, f.place FROM jobs j LEFT JOIN local_files f ON f.seq = j.seq"
            " WHERE j.backend = ? AND j.state = 'QUEUED' AND j.state IN ('QUEUED', 'HELD')"
            # A job whose latest start has passed is the reaper's.
            " AND (j.due_at IS NULL OR j.due_at > ?) ORDER BY j.rank, j.seq LIMIT 1",
            (backend, to_microseconds(self._index.now())),
        ).fetchone()

    def _offer(self, key: JobKey, user: str) -> None:
        if not self._index.commit(_note_move, _Move(key, Place.WAITING, Place.QUEUED)):
            return
        path = self._layout.job(Place.QUEUED, key, user)
        self._fault("offer", path)
        try:
            rename(self._layout.job(Place.WAITING, key, user), path)
        except FileNotFoundError:
            self._follower.watch([key])

    def _take_back(self, key: JobKey, user: str) -> None:
        path = self._layout.job(Place.WAITING, key, user)
        self._fault("take back", path)
        try:
            rename(self._layout.job(Place.QUEUED, key, user), path)
        except FileNotFoundError:
            self._follower.watch([key])
            return
        self._index.commit(_note_move, _Move(key, Place.QUEUED, Place.WAITING))
