"""Moving a job's file to where it is to lie, and finding it where others have moved it."""

import os

from spoolway_providers.digests import blob_ref
from spoolway_providers.local.disk import Batch, set_aside
from spoolway_providers.local.drafting import Plan
from spoolway_providers.local.layout import Layout, Place
from spoolway_providers.local.reading import read_document
from spoolway_providers.model import BlobRef, State

__all__ = ["Placer"]


class Placer:
    """Gives a job's file its place."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def place(self, batch: Batch, plan: Plan) -> Place:
        """Name or move the file as planned; returns where it lies then, or was found."""
        job, row = plan.job, plan.row
        if plan.content is not None:
            batch.name(plan.content)
            return plan.place
        if row.place is plan.place:
            return row.place
        if row.place is not Place.NOWHERE and self._move(batch, plan, row.place):
            return plan.place
        found = self._layout.where(job.key, row.user, first=plan.place)
        if found in {plan.place, Place.NOWHERE} or _may_be_taken(plan):
            return found
        self._move(batch, plan, found)
        return plan.place

    def _move(self, batch: Batch, plan: Plan, source: Place) -> bool:
        """Move the file; False if it is not there."""
        key, user = plan.job.key, plan.row.user
        source_path, path = (self._layout.job(place, key, user) for place in (source, plan.place))
        if os.path.lexists(path):
            if not os.path.lexists(source_path):
                return True
            self._make_room(path, plan.job.content)
        try:
            batch.move(source_path, path)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, path: str, content: BlobRef) -> None:
        """Another file lies where the job's is to go: it is put aside, unless it is the same."""
        data = read_document(path, content.size)
        if data is None or blob_ref(content.id, data) != content:
            set_aside(path, self._layout.refused)


def _may_be_taken(plan: Plan) -> bool:
    """Whether another program may have taken the file: nobody of ours did, as far as the index knows."""
    times = plan.job.times
    waited = plan.job.state in _WAITING or (plan.job.is_terminal and times[-2].state in _WAITING)
    return plan.row.place is Place.QUEUED and waited


_WAITING = frozenset({State.QUEUED, State.HELD})
