"""An existing installation's documents as jobs of ours."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from spoolway_providers import digests, rules
from spoolway_providers.interface import Adoptee, Installation, Portion
from spoolway_providers.model import Draft, Job, Policy, content_blob_id, result_blob_id
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.existing import PLACES, ExistingInstallation, ExistingJob, plain
from spoolway_providers.mongodb.login import Login

__all__ = ["MongoInstallation", "adoptee_of"]

_TIME_LIMIT = timedelta(seconds=10)
_TOKEN = "imported"  # noqa: S105  # in place of a token, in the name of a result
_NO_ERROR = "None"


class _Place(msgspec.Struct, frozen=True):
    """The last job that was read."""

    place: str = PLACES[0]
    collection: str = ""
    id: str = ""


class MongoInstallation(Installation):
    """Reads the databases `backends`, `jobs`, `status` and `results` of one server."""

    def __init__(self, login: Login, *, owner: str, now: datetime) -> None:
        self._connection = Connection(login, clock=None, time_limit=_TIME_LIMIT, listeners=(), options={})
        self._owner = owner
        self._now = now

    async def open(self) -> None:
        """See the interface."""
        await self._connection.connect()

    async def close(self) -> None:
        """See the interface."""
        await self._connection.close()

    @property
    def _existing(self) -> ExistingInstallation:
        return ExistingInstallation(self._connection.databases)

    async def backends(self) -> Mapping[str, bytes]:
        """See the interface."""
        return {backend.name: backend.document for backend in await self._existing.backends()}

    async def public_keys(self) -> Mapping[str, bytes]:
        """See the interface."""
        return {key.kid: key.document for key in await self._existing.public_keys()}

    async def jobs(self, after: str, limit: int) -> Portion:
        """See the interface."""
        known = msgspec.json.decode(after, type=_Place) if after else _Place()
        found: list[Adoptee] = []
        for place in PLACES[PLACES.index(known.place) :]:
            at = known if place == known.place else _Place(place)
            async for job in self._existing.jobs(place, at.id, collection=at.collection):
                found.append(adoptee_of(job, owner=self._owner, now=self._now))
                if len(found) == limit:
                    last = _Place(place, _collection_of(job), job.key.id)
                    return Portion(found, msgspec.json.encode(last).decode())
        return Portion(found, "")


def _collection_of(job: ExistingJob) -> str:
    return job.place if job.place in {"running", "deleted"} else f"{job.place}.{job.key.backend}"


def adoptee_of(existing: ExistingJob, *, owner: str, now: datetime) -> Adoptee:
    """The job that a document is; each time the same."""
    policy = Policy()
    content = digests.blob_ref(content_blob_id(existing.key), existing.content)
    draft = Draft(
        backend=existing.key.backend,
        owner=owner,
        content=existing.content,
        max_attempts=policy.max_attempts,
    )
    job = rules.admit(draft, key=existing.key, content=content, seq=0, now=now, ranked_at=now)
    event = _event(existing)
    if event is None:
        return Adoptee(job, existing.content)
    decided = rules.decide(job, event, now, policy)
    if not isinstance(decided, Job):
        raise AssertionError(f"a new job can always end: {decided.message}")
    # It moves onwards only: read again in a later place it is newer.
    revision = 2 if isinstance(event, rules.Imported) else 3
    job = msgspec.structs.replace(decided, revision=revision)
    return Adoptee(job, existing.content, existing.result if job.result is not None else None)


def _event(existing: ExistingJob) -> rules.Event | None:
    """What has happened to a job, by its place and its documents."""
    message = _message(existing.status)
    if existing.said == "ERROR" or existing.place == "deleted":
        return rules.EndedByForeign(None, message)
    if existing.said == "DONE" or existing.place == "finished":
        if existing.result is not None:
            ref = digests.blob_ref(result_blob_id(existing.key, _TOKEN), existing.result)
            return rules.EndedByForeign(ref)
        if existing.place == "finished":
            return rules.EndedByForeign(None, "it lies among the finished jobs, but has no result")
    if existing.place == "running":
        return rules.Imported()
    return None


def _message(status: bytes | None) -> str:
    """Why it ended in error, as its status says."""
    if status is None:
        return ""
    said = plain(msgspec.json.decode(status))
    message = str(said.get("error_message", ""))
    return message if message not in {"", _NO_ERROR} else str(said.get("detail", ""))
