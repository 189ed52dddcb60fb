"""Applies events to jobs: read, decide, compare-and-set, and what follows from it in this process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import msgspec
import structlog

from spoolway_providers.errors import Conflict, NotFound, ProviderError, Unavailable, Uncertain
from spoolway_providers.interface import Change
from spoolway_providers.model import Job, JobKey, State
from spoolway_providers.rules import Cancelled, Complete, Event, Fail, Refusal, Release, decide
from spoolway_server.errors import ServiceError, from_provider_error, from_refusal
from spoolway_server.sessions import Session

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = ["Leases", "Update"]

_log = structlog.get_logger(__name__)

MAX_DECISIONS = 5
"""Times an event is decided again after somebody else's commit came first."""


class Update(msgspec.Struct, frozen=True):
    """One event for one job."""

    key: JobKey
    event: Event
    payload: bytes | None = None
    """The result's bytes, for Complete."""
    known: Job | None = None
    """The job as the caller last saw it: saves a read if nothing has changed since."""


class Leases:
    """All changes of jobs in one storage that this process makes go through `apply`."""

    def __init__(self, storage: "Storage") -> None:
        """Work on `storage`."""
        self._storage = storage
        self.sessions: dict[str, Session] = {}
        """Sessions whose stream or last call is in this process, by id."""

    async def apply_one(self, update: Update) -> Job:
        """Apply one event and return the job as it is then; raises ServiceError."""
        outcome = (await self.apply([update]))[0]
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    async def apply(self, updates: Sequence[Update]) -> list[Job | ServiceError]:
        """Apply events, each for itself, in few commits.

        Returns:
            One for each update, in order: the job as it is then, also where the event was a repeat and
            changed nothing; or the error for its caller. Several events for one job apply in order.
        """
        outcomes: list[Job | ServiceError | None] = [None] * len(updates)
        later = list(range(len(updates)))
        while later:
            now_index, later = self._first_of_each_job(updates, later)
            await self._apply_round(updates, now_index, outcomes)
        return [outcome for outcome in outcomes if outcome is not None]

    @staticmethod
    def _first_of_each_job(updates: Sequence[Update], indices: list[int]) -> tuple[list[int], list[int]]:
        first: list[int] = []
        rest: list[int] = []
        seen: set[JobKey] = set()
        for index in indices:
            (rest if updates[index].key in seen else first).append(index)
            seen.add(updates[index].key)
        return first, rest

    async def _apply_round(
        self, updates: Sequence[Update], indices: list[int], outcomes: list[Job | ServiceError | None]
    ) -> None:
        known = {index: updates[index].known for index in indices}
        for _ in range(MAX_DECISIONS):
            changes: list[tuple[int, Job, Change]] = []
            for index in indices:
                decided = await self._decide(updates[index], known[index])
                if isinstance(decided, tuple):
                    changes.append((index, *decided))
                else:
                    outcomes[index] = decided
            if not changes:
                return
            indices = []
            for (index, before, change), stored in zip(changes, await self._commit(changes), strict=True):
                if isinstance(stored, Conflict) and isinstance(stored.current, Job):
                    known[index] = stored.current
                    indices.append(index)
                elif isinstance(stored, ProviderError):
                    outcomes[index] = self._failure(before.key, stored)
                else:
                    outcomes[index] = stored
                    self._follow(before, change.job, updates[index].event)
        for index in indices:
            outcomes[index] = from_provider_error(
                Unavailable(f"{updates[index].key} changes all the time; try again")
            )

    async def _decide(self, update: Update, known: Job | None) -> tuple[Job, Change] | Job | ServiceError:
        """The change to commit and the job it is made from; or what can be answered without a commit."""
        fresh = known is None
        try:
            job = known or await self._storage.provider.get(update.key)
            decided = self._decision(job, update)
            if not fresh and (isinstance(decided, Refusal) or decided is job):
                # What we knew may be old news: only the storage's word refuses.
                job = await self._storage.provider.get(update.key)
                decided = self._decision(job, update)
        except ProviderError as error:
            return self._failure(update.key, error)
        if isinstance(decided, Refusal):
            await self._keep_aside(job, update)
            return from_refusal(decided)
        if decided is job:
            return job
        payload = update.payload if decided.result is not job.result else None
        return job, Change(decided, job.revision, payload)

    def _decision(self, job: Job, update: Update) -> Job | Refusal:
        return decide(job, update.event, self._storage.clock.now(), self._storage.policy(job.key.backend))

    async def _commit(self, changes: Sequence[tuple[int, Job, Change]]) -> Sequence[Job | ProviderError]:
        try:
            stored = await self._storage.provider.commit([change for _, _, change in changes])
        except ProviderError as error:
            self._storage.report(error)
            if not isinstance(error, Uncertain):
                return [error] * len(changes)
            return [await self._read_back(change, error) for _, _, change in changes]
        self._storage.report(None)
        return stored

    async def _read_back(self, change: Change, error: Uncertain) -> Job | ProviderError:
        """Whether a commit of unknown outcome was done: revisions are never made twice from one document."""
        try:
            current = await self._storage.provider.get(change.job.key)
        except ProviderError:
            return error
        if current.revision == change.job.revision and current == change.job:
            return current
        return Conflict(str(error), current)

    async def _keep_aside(self, job: Job, update: Update) -> None:
        """Keep the result of a superseded lease: staged, seen by nobody, swept after a day."""
        if not isinstance(update.event, Complete) or update.payload is None:
            return
        if job.attempt(update.event.token) is None:
            return
        try:
            await self._storage.provider.stage(update.event.result.id, 0, update.payload)
        except ProviderError as error:
            _log.warning("a late result could not be kept", job=str(job.key), error=str(error))
        else:
            _log.warning("a late result is kept aside", job=str(job.key), blob=update.event.result.id)

    def _failure(self, key: JobKey, error: ProviderError) -> ServiceError:
        if isinstance(error, NotFound):
            return ServiceError(
                grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", f"there is no job {key}", field="job"
            )
        if isinstance(error, Unavailable | Uncertain):
            self._storage.report(error)
        return from_provider_error(error)

    def _follow(self, before: Job, after: Job, event: Event) -> None:
        """What a commit means for this process; the rest is the reaper's and the renewals'."""
        self._storage.metrics.backend(after.key.backend).changed(before, after)
        if after.due_at is not None:
            self._storage.reaper.note_due(after.due_at)
        held_by = before.holder
        session = held_by and self.sessions.get(held_by.session)
        if not held_by or not session:
            return
        holder = after.holder
        if holder is not None and holder.session == session.id:
            session.update_held(after)
            if after.state is State.CANCELLING and before.state is not State.CANCELLING:
                session.cancel(after, self._storage.policy(after.key.backend).cancel_grace)
        else:
            session.drop(after.key, held_by.token)
            if not isinstance(event, Complete | Fail | Release | Cancelled):
                # The spooler does not know yet.
                session.revoke(
                    after.key, held_by.token, "JOB_ENDED" if after.is_terminal else "LEASE_WITHDRAWN"
                )
            session.credit_freed()
