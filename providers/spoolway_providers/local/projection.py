"""Writes the folders after the index: what a commit has made of a job, its files say a moment later.

The order of writes keeps every reader safe: results, then statuses, then the jobs' own files, which enter the
queue or move on. Of a job that changed several times meanwhile only the newest state is written.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from spoolway_providers.errors import NotFound
from spoolway_providers.local.disk import Batch, Disk, is_disk_trouble
from spoolway_providers.local.drafting import Drafter, Plan, is_held_by_others
from spoolway_providers.local.filed import filed_uploads, forget_chunks
from spoolway_providers.local.index import Index
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.names import user_of_id
from spoolway_providers.local.placing import Placer
from spoolway_providers.local.tables import (
    FileRow,
    Gone,
    Pending,
    PendingPage,
    Placed,
    Projected,
    acknowledge,
    failed,
    pending,
    projected,
)
from spoolway_providers.local.taking import Settler
from spoolway_providers.model import JobKey, State

__all__ = ["Projector"]

_log = logging.getLogger(__name__)

_BATCH = 500
"""Jobs; bounds how long a file that somebody drops waits for the files of others."""
_DOCUMENTS_A_JOB = 3
_WAITING = frozenset({State.QUEUED, State.HELD})


class Projector:
    """Brings the files up to the index; used by the keeper's thread only."""

    def __init__(self, index: Index, disk: Disk, layout: Layout, *, stock_spoolers: frozenset[str]) -> None:
        self._index = index
        self._disk = disk
        self._layout = layout
        self._drafter = Drafter(layout, stock_spoolers=stock_spoolers)
        self._placer = Placer(layout)
        self._settler = Settler(index, layout, stock_spoolers)
        self._cautious_upto = 0
        self._suspects: set[JobKey] = set()
        self.has_more = False
        """Whether the last projection left something behind."""

    def take_suspects(self) -> set[JobKey]:
        """Jobs that others hold, or may hold as their files are elsewhere, since the last time."""
        suspects, self._suspects = self._suspects, set()
        return suspects

    def start(self) -> None:
        """What is behind now was perhaps written before a crash: look before it is written again."""
        self._cautious_upto = projected(self._index.connection)[1]
        for blob in filed_uploads(self._index.connection):
            self._forget(blob)

    def project(self) -> bool:
        """Write what is behind, of a batch of jobs; whether there was anything.

        Raises:
            OSError: the disk does not let us; nothing is forgotten, it is done again.
            ProviderError: the index does not answer.
        """
        after, newest = projected(self._index.connection)
        if after == newest:
            self.has_more = False
            return False
        self.has_more = self._write(lambda connection: pending(connection, _BATCH))
        return True

    def write_again(self, keys: list[JobKey]) -> None:
        """Write the files of these jobs, whether they are behind or not."""
        if keys:
            self._index.commit(acknowledge, Projected(upto=0, failed=keys))
            self.retry_failed()

    def retry_failed(self) -> None:
        """Write again the files of jobs of which something could not be written."""
        page = failed(self._index.connection)
        if page.jobs or page.gone:
            self._write(failed)

    def _write(self, find: Callable[[sqlite3.Connection], PendingPage]) -> bool:
        troubles = _Troubles()
        with self._index.snapshot() as connection:
            page = find(connection)
            jobs = self._settler.settle(page.jobs)
            batch = self._disk.batch(len(jobs) * _DOCUMENTS_A_JOB)
            with _discarding(batch):
                plans = list(self._draft(connection, batch, jobs, troubles))
        with _discarding(batch):
            batch.sync()
            placed = self._name(batch, plans, troubles)
            for gone in page.gone:
                with troubles.of(gone.key):
                    self._remove(batch, gone)
            batch.sync_folders()
        self._acknowledge(page, placed, troubles)
        return page.more

    def _draft(
        self, connection: sqlite3.Connection, batch: Batch, jobs: Sequence[Pending], troubles: "_Troubles"
    ) -> Iterator[Plan]:
        for one in jobs:
            plan = None
            with troubles.of(one.job.key):
                cautious = one.change <= self._cautious_upto
                plan = self._drafter.draft(connection, batch, one, cautious=cautious)
            if plan is not None:
                yield plan

    def _name(self, batch: Batch, plans: Sequence[Plan], troubles: "_Troubles") -> list[tuple[Plan, Place]]:
        """Give all documents their names, in the order of writes."""
        for plan in plans:
            if plan.result is not None:
                with troubles.of(plan.job.key):
                    batch.name(plan.result)
        for plan in troubles.without(plans):
            if plan.status is not None:
                with troubles.of(plan.job.key):
                    batch.name(plan.status)
        placed: list[tuple[Plan, Place]] = []
        for plan in troubles.without(plans):
            with troubles.of(plan.job.key):
                place = self._placer.place(batch, plan)
                if place is not plan.place and plan.job.state in _WAITING:
                    # It lay where others may take it: what that means is not for us to say.
                    self._suspects.add(plan.job.key)
                    place = plan.row.place
                if is_held_by_others(plan.job):
                    self._suspects.add(plan.job.key)
                placed.append((plan, place))
        return placed

    def _remove(self, batch: Batch, gone: Gone) -> None:
        """Remove the files of a deleted job."""
        key, layout = gone.key, self._layout
        row = gone.row or FileRow(user_of_id(key.id), Place.NOWHERE)
        place = row.place or layout.where(key, row.user, first=Place.FINISHED)
        if place is not Place.NOWHERE:
            batch.remove(layout.job(place, key, row.user))
        batch.remove(layout.result.path(key, row.user))
        batch.remove(layout.status.path(key, row.user))

    def _acknowledge(
        self, page: PendingPage, placed: Iterable[tuple[Plan, Place]], troubles: "_Troubles"
    ) -> None:
        well = [(plan, place) for plan, place in placed if plan.job.key not in troubles.keys]
        self._disk.fault("acknowledge", "")
        self._index.commit(
            acknowledge,
            Projected(
                upto=page.upto,
                files=[Placed(plan.job.seq, plan.job.key, _row_of(plan, place)) for plan, place in well],
                blobs=[blob for plan, _ in well for blob in plan.blobs],
                uploads=[(blob, plan.job.seq) for plan, _ in well for blob in plan.unnamed],
                gone=[gone.key for gone in page.gone if gone.key not in troubles.keys],
                failed=list(troubles.keys),
                mended=[plan.job.key for plan, _ in well] if not page.upto else [],
            ),
        )
        self._disk.fault("acknowledged", "")
        for plan, _ in well:
            for blob in plan.uploads:
                self._forget(blob)

    def _forget(self, blob: str) -> None:
        """Free the bytes of a staged blob that is a file by now, in steps that hold up nobody."""
        while self._index.commit(forget_chunks, blob):
            pass


def _row_of(plan: Plan, place: Place) -> FileRow:
    has_result = plan.row.has_result or plan.job.result is not None
    return FileRow(plan.row.user, place, has_result)


@contextmanager
def _discarding(batch: Batch) -> Iterator[None]:
    """Whatever goes wrong, leave nothing without a name."""
    try:
        yield
    except BaseException:
        batch.discard()
        raise


class _Troubles:
    """Jobs of whom something can't be written, while others' files can."""

    def __init__(self) -> None:
        self.keys: dict[JobKey, None] = {}

    def without(self, plans: Iterable[Plan]) -> Iterator[Plan]:
        """The plans of jobs with whom all went well so far."""
        return (plan for plan in plans if plan.job.key not in self.keys)

    @contextmanager
    def of(self, key: JobKey) -> Iterator[None]:
        """Note what goes wrong with one job; what would go wrong with all goes on as an error."""
        try:
            yield
        except OSError as error:
            if is_disk_trouble(error):
                raise
            _log.warning("the files of %s can't be written: %s", key, error)
            self.keys[key] = None
        except NotFound as error:
            _log.warning("the files of %s can't be written: %s", key, error)
            self.keys[key] = None
