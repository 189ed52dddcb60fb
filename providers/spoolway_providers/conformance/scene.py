# ruff: noqa: S101 - what the tests need must be so
"""What the tests are played on: a provider with a backend and a spooler's session."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from spoolway_providers import digests, rules
from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Change, Order, Provider, Query
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, Policy, Session, new_token, result_blob_id

__all__ = ["BACKEND", "Base", "ManualClock", "Scene", "blob", "session", "token_of"]

BACKEND = "singlequdit"
OWNER = "alice"
CONTENT = b'{"experiment_0": {"shots": 4}}'
_START = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


class ManualClock:
    """A wall clock that stands until it is moved."""

    def __init__(self, now: datetime = _START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def advance(self, step: timedelta) -> None:
        """Move it; a negative step sets it back."""
        self.now += step


def session(
    session_id: str, *, spooler: str = "spooler", instance: str = "1", principal: str = "lab"
) -> Session:
    """A session that is about to be opened."""
    return Session(
        id=session_id,
        spooler_id=spooler,
        instance_id=instance,
        principal=principal,
        backends=(BACKEND,),
        opened_at=_START,
        silence_limit=timedelta(seconds=60),
    )


def blob(blob_id: str, data: bytes) -> BlobRef:
    """The reference to `data` as `blob_id`."""
    return digests.blob_ref(blob_id, data)


class Scene:
    """A provider with one backend and one live session, and the ordinary steps of a job."""

    def __init__(self, provider: Provider, session_id: str = "session-1") -> None:
        self.provider = provider
        self.session_id = session_id

    async def set_up(self, backend: str = BACKEND) -> None:
        """Make the backend and the session."""
        await self.provider.put_config(backend, b"{}", None)
        await self.provider.open_session(session(self.session_id, spooler=self.session_id))

    @staticmethod
    def draft(**changes: Any) -> Draft:
        """A draft that is like any other but for `changes`."""
        fields: dict[str, Any] = {"backend": BACKEND, "owner": OWNER, "content": CONTENT, "max_attempts": 3}
        return Draft(**{**fields, **changes})

    async def answer(self, **changes: Any) -> Job | ProviderError:
        """Submit one job; what the provider says to it."""
        [answer] = await self.provider.submit([self.draft(**changes)])
        return answer

    async def submit(self, **changes: Any) -> Job:
        """Submit one job that must be taken."""
        answer = await self.answer(**changes)
        assert isinstance(answer, Job), answer
        return answer

    def order(self, session_id: str | None = None) -> Order:
        """A free place, by default of the session of this scene."""
        return Order(session_id or self.session_id, "spooler", new_token())

    async def claim(self, limit: int = 1, backend: str = BACKEND) -> list[Job]:
        """Claim up to `limit` jobs."""
        claimed = await self.provider.claim(backend, [self.order() for _ in range(limit)])
        return [one.job for one in claimed]

    def decide(self, job: Job, event: rules.Event) -> Job:
        """What the rules make of `job`."""
        changed = rules.decide(job, event, job.updated_at + timedelta(seconds=1), Policy())
        assert isinstance(changed, Job), changed
        return changed

    async def do(self, job: Job, event: rules.Event, payload: bytes | None = None) -> Job:
        """Let `event` happen to `job`, which must be in its newest revision."""
        [answer] = await self.provider.commit([Change(self.decide(job, event), job.revision, payload)])
        assert isinstance(answer, Job), answer
        return answer

    async def claim_and_accept(self) -> Job:
        """Claim the next job and start it."""
        [job] = await self.claim()
        return await self.do(job, rules.Accept(token_of(job)))

    async def complete(self, job: Job, result: bytes = b'{"success": true}') -> Job:
        """End a claimed job well."""
        ref = blob(result_blob_id(job.key, token_of(job)), result)
        return await self.do(job, rules.Complete(token_of(job), ref), result)

    async def submit_and_cancel(self, **changes: Any) -> Job:
        """A job that has ended at once."""
        return await self.do(await self.submit(**changes), rules.Cancel("alice"))

    async def find_keys(self, **conditions: Any) -> list[JobKey]:
        """The first page of what a query finds."""
        return [job.key for job in (await self.provider.find(Query(**conditions))).jobs]

    async def set_policy(self, **changes: Any) -> None:
        """Change the backend's policy, whatever it was."""
        await self.provider.put_policy(BACKEND, replace(Policy(), **changes), None)


def token_of(job: Job) -> str:
    """The token of the newest attempt."""
    return job.attempts[-1].token


class Base:
    """What all the classes share."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def scene(self, provider: Provider) -> Scene:
        """The provider with a backend and a session."""
        scene = Scene(provider)
        await scene.set_up()
        return scene
