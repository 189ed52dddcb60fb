"""AdminClient and its blocking twin against a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from spoolway import (
    AdminClient,
    EtagMismatchError,
    InvalidArgumentError,
    JobClient,
    NotFoundError,
    Spooler,
    SpoolerRevokedError,
    SyncAdminClient,
)
from spoolway.testing import serving, serving_in_thread
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.spooling import echo


async def register(address: str, name: str = "echo") -> None:
    """Register a backend, as a spooler does."""
    async with JobClient(address, user="robot") as robot:
        request = pb.RegisterBackendRequest(backend=name, config=b"{}")
        await robot._call(robot._jobs.RegisterBackend, request)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server with the backend `echo`."""
    async with serving() as found:
        await register(found)
        yield found


@pytest.fixture
async def admin(address: str) -> AsyncIterator[AdminClient]:
    async with AdminClient(address, user="ada") as client:
        yield client


async def test_storages_are_listed_and_tested(admin: AdminClient) -> None:
    """Each storage with its health, and the steps of its test."""
    [storage] = await admin.storages()
    test = await admin.test_storage(storage.name)

    assert (storage.name, storage.type, storage.serving, storage.is_default) == ("main", "memory", True, True)
    assert test.passed
    assert [step.name for step in test.steps] == ["write"]


async def test_a_backend_is_paused_and_resumed(admin: AdminClient) -> None:
    """The backend comes back as it stands then."""
    paused = await admin.pause_backend("echo")
    resumed = await admin.resume_backend("echo")

    assert (paused.policy.paused, paused.status.operational) == (True, False)
    assert not resumed.policy.paused


async def test_fields_of_a_policy_change_alone(admin: AdminClient) -> None:
    """Numbers, spans of time in seconds or as timedelta, zero and the server's default all arrive."""
    first = await admin.set_backend_policy("echo", max_attempts=1, lease_ttl=2.5, resume_grace=0)
    second = await admin.set_backend_policy(
        "echo", etag=first.policy_etag, max_attempts=None, max_run_time=timedelta(minutes=1)
    )

    assert (first.policy.max_attempts, first.policy.lease_ttl) == (1, timedelta(seconds=2.5))
    assert first.policy.resume_grace is None
    assert (second.policy.max_attempts, second.policy.max_run_time) == (3, timedelta(minutes=1))
    assert second.policy.lease_ttl == timedelta(seconds=2.5)
    with pytest.raises(EtagMismatchError):
        await admin.set_backend_policy("echo", etag=first.policy_etag, max_queued=1)


async def test_mistakes_are_errors_of_the_package(admin: AdminClient) -> None:
    """What the server refuses is told by class, reason and field."""
    with pytest.raises(InvalidArgumentError) as wrong:
        await admin.set_backend_policy("echo", max_attempts=1000)
    with pytest.raises(NotFoundError):
        await admin.pause_backend("lamp")

    assert wrong.value.reason == "POLICY_INVALID"
    assert [one.field for one in wrong.value.violations] == ["policy.max_attempts"]


async def test_spoolers_are_listed_and_revoked(address: str, admin: AdminClient) -> None:
    """A spooler is seen at work; revoked, it ends with an error that says so, and its session is closed."""
    spooler = Spooler("lab-1", backend="echo", config={}, run=echo, address=address, user="robot")
    running = asyncio.create_task(spooler.serve())
    async with asyncio.timeout(20):
        while not (listed := await admin.spoolers("echo")):  # noqa: ASYNC110 - no watch
            await asyncio.sleep(0.02)
    assert await admin.spoolers("echo2") == []

    revoked = await admin.revoke_spooler(listed[0].session)

    assert (listed[0].spooler_id, listed[0].state, listed[0].principal) == ("lab-1", "LIVE", "robot")
    assert listed[0].last_beat_time is not None
    assert (revoked.state, revoked.reason) == ("CLOSED", "SPOOLER_REVOKED")
    with pytest.raises(SpoolerRevokedError, match="an operator has ended"):
        async with asyncio.timeout(20):
            await running
    assert await admin.spoolers() == []
    assert [one.session for one in await admin.spoolers(closed=True)] == [revoked.session]


async def test_a_backend_is_purged_step_by_step(address: str, admin: AdminClient) -> None:
    """What waits is cancelled, what has ended is deleted, and each step tells its counts."""
    async with JobClient(address, user="ada") as client:
        ended, waiting = [await client.submit("echo", {}) for _ in range(2)]
        await ended.cancel()
        await asyncio.sleep(0.01)

        done = [step async for step in admin.purge_backend("echo", cancel_queued=True)]

        assert (sum(s.deleted for s in done), sum(s.cancelled for s in done)) == (1, 1)
        assert (await waiting.status()).state == "CANCELLED"
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    assert [s.deleted async for s in admin.purge_backend("echo", ended_before=long_ago)] == [0]


def test_the_blocking_twin_does_the_same() -> None:
    """A script makes the calls of operators without a word of asyncio."""
    with serving_in_thread() as address, SyncAdminClient(address, user="ada") as admin:
        assert admin.test_storage(admin.storages()[0].name).passed
        with pytest.raises(NotFoundError):
            admin.pause_backend("lamp")
        with pytest.raises(NotFoundError):
            admin.resume_backend("lamp")
        with pytest.raises(NotFoundError):
            admin.set_backend_policy("lamp", max_queued=1)
        assert admin.spoolers() == []
        with pytest.raises(NotFoundError):
            list(admin.purge_backend("lamp"))
        with pytest.raises(NotFoundError):
            admin.revoke_spooler("0" * 32)
