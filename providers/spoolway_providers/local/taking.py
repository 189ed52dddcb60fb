"""Taking the files of claimed jobs out of a queue that others take from, too.

A claim commits first, and then renames the file: of two who rename one file one wins. If the other did, the
job is the other's.
"""

from collections.abc import Iterable, Sequence
from time import sleep

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.local.adopting import Following, follow
from spoolway_providers.local.disk import rename
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.locks import FileLock
from spoolway_providers.local.tables import FileRow, Pending
from spoolway_providers.model import Job, JobKey, State
from spoolway_providers.sqlite.writer import Transaction, one_by_one

__all__ = ["Settler", "Taker", "lock_of"]

_LOCK_PAUSE_S = 0.002


def lock_of(layout: Layout, backend: str) -> FileLock:
    """Held while a job is offered and while jobs are claimed: so a claim knows which file was offered."""
    return FileLock(f"{layout.locks}/{backend}")


@one_by_one
def _note_taken(transaction: Transaction, keys: list[JobKey]) -> None:
    """The files of claimed jobs are out of others' reach."""
    transaction.connection.executemany(
        "UPDATE local_files SET place = 'waiting' WHERE backend = ? AND id = ? AND place = 'queued'",
        [(key.backend, key.id) for key in keys],
    )


class Taker:
    """Takes the files of claimed jobs out of the queue."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def take(self, jobs: Sequence[tuple[Job, str]]) -> list[tuple[rules.Event, Place] | None]:
        """What happened to each job whose file another program was first to take; None: it is ours.

        Args:
            jobs: Claimed jobs that were offered, each with its user.
        """
        return [self._take(job, user) for job, user in jobs]

    def _take(self, job: Job, user: str) -> tuple[rules.Event, Place] | None:
        key, token = job.key, job.attempts[-1].token
        try:
            rename(self._layout.job(Place.QUEUED, key, user), self._layout.job(Place.WAITING, key, user))
        except FileNotFoundError:
            place = self._layout.where(key, user, first=Place.WAITING)
        else:
            return None
        if place is Place.WAITING:
            # Who was about to offer it was killed before it did.
            return None
        if place is Place.NOWHERE:
            lost = "its file was removed by somebody while it waited"
            return rules.Spoiled("FILE_LOST", lost, token), place
        return rules.TakenByForeign(token), place


class Settler:
    """Finds out whose the files of claimed jobs are before they are moved on; for the keeper's thread only.

    A claim that was killed after its commit has not taken the file: another program may have it by now. To
    tell, a file is moved among the running ones only once the index knows that it was taken out of the queue.
    """

    def __init__(self, index: Index, layout: Layout, backends: frozenset[str]) -> None:
        self._index = index
        self._backends = backends
        self._taker = Taker(layout)
        self._locks = {backend: lock_of(layout, backend) for backend in sorted(backends)}

    def settle(self, jobs: Iterable[Pending]) -> list[Pending]:
        """The jobs as they are to be written; those that others have taken follow, and are left out."""
        settled: list[Pending] = []
        taken: list[JobKey] = []
        for one in jobs:
            row = one.row
            if row is None or not self._was_offered(one.job, row):
                settled.append(one)
                continue
            verdict = self._take(one.job, row.user)
            if verdict is not None and one.job.state is State.CLAIMED:
                event, place = verdict
                following = Following(
                    key=one.job.key, revision=one.job.revision, events=(event,), place=place
                )
                self._index.commit(follow, following)
                continue
            taken.append(one.job.key)
            settled.append(replace(one, row=replace(row, place=Place.WAITING)))
        if taken:
            self._index.commit(_note_taken, taken)
        return settled

    def _was_offered(self, job: Job, row: FileRow) -> bool:
        is_claimed = bool(job.attempts) and job.state not in {State.QUEUED, State.HELD}
        return is_claimed and row.place is Place.QUEUED and job.key.backend in self._backends

    def _take(self, job: Job, user: str) -> tuple[rules.Event, Place] | None:
        lock = self._locks[job.key.backend]
        while not lock.try_acquire():
            # A claim is under way, for as long as a commit takes.
            sleep(_LOCK_PAUSE_S)
        try:
            [verdict] = self._taker.take([(job, user)])
        finally:
            lock.release()
        return verdict
