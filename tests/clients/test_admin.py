"""AdminClient and its blocking twin against a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spoolway import (
    AdminClient,
    EtagMismatchError,
    FailedPreconditionError,
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


async def test_a_storage_is_copied_and_checked(tmp_path: Path, admin: AdminClient) -> None:
    """The copy is an operation, watched to its end; the check tells how far it is."""
    for name in ("from", "to"):
        await admin.add_storage(name, "sqlite", {"path": str(tmp_path / f"{name}.sqlite")})
    with pytest.raises(FailedPreconditionError) as active:
        await admin.copy_storage("from", "to")
    await admin.deactivate_storage("from")

    begun = await admin.copy_storage("from", "to")
    seen = [operation async for operation in admin.watch_operation(begun.id)]
    steps = [step async for step in admin.check_storage("to", repair=True, verify_checksums=True)]

    assert active.value.reason == "STORAGE_ACTIVE"
    assert (begun.type, begun.source, begun.target, begun.creator) == ("COPY", "from", "to", "ada")
    assert (seen[-1].state, seen[-1].is_running, seen[-1].end_time is None) == ("DONE", False, False)
    assert await admin.operation(begun.id) == seen[-1]
    assert await admin.operations() == [seen[-1]]
    assert (await admin.cancel_operation(begun.id)).state == "DONE"
    assert [(step.findings, step.checked_jobs, step.total_jobs) for step in steps] == [((), 0, 0)] * 3
    with pytest.raises(NotFoundError):
        await admin.operation("0" * 32)


def test_the_blocking_client_copies_and_checks(tmp_path: Path) -> None:
    """Each of its methods is the other's."""
    with serving_in_thread() as address, SyncAdminClient(address, user="ada") as admin:
        for name in ("from", "to"):
            admin.add_storage(name, "sqlite", {"path": str(tmp_path / f"{name}.sqlite")})
        admin.deactivate_storage("from")
        begun = admin.copy_storage("from", "to")
        last = list(admin.watch_operation(begun.id))[-1]

        assert admin.operations() == [last] == [admin.operation(begun.id)]
        assert admin.cancel_operation(begun.id) == last
        assert [step.findings for step in admin.check_storage("to")] == [(), ()]


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


async def test_storages_are_added_changed_and_forgotten(admin: AdminClient, tmp_path: Path) -> None:
    """Each call answers with the storage as it is then."""
    path = str(tmp_path / "lab.sqlite")

    added = await admin.add_storage("lab", "sqlite", {"path": path}, description="new", active=False)
    activated = await admin.activate_storage("lab")
    changed = await admin.update_storage("lab", owner="bob", etag=activated.etag)
    with pytest.raises(EtagMismatchError):
        await admin.update_storage("lab", description="stale", etag=added.etag)
    moved = await admin.update_storage("lab", login={"path": str(tmp_path / "moved.sqlite")})
    back = await admin.update_storage("lab", login_fields={"path": path})
    stats = await admin.storage_stats("lab")
    off = await admin.deactivate_storage("lab")
    await admin.delete_storage("lab")

    assert (added.description, added.owner, added.active, added.serving) == ("new", "ada", False, True)
    assert activated.active
    assert (changed.owner, changed.description) == ("bob", "new")
    assert moved.serving
    assert back.serving
    assert (stats.backends, stats.jobs, stats.sessions) == (0, {}, 0)
    assert not off.active
    with pytest.raises(NotFoundError):
        await admin.storage("lab")


async def test_a_login_is_tried_before_it_is_saved(admin: AdminClient, tmp_path: Path) -> None:
    """A type and its login are enough."""
    test = await admin.test_storage(type="sqlite", login={"path": str(tmp_path / "x.sqlite")})

    assert test.passed
    assert "x" not in [storage.name for storage in await admin.storages()]


async def test_the_types_of_storages_are_told(admin: AdminClient) -> None:
    """With the fields of their logins, and how to sign in."""
    types = {kind.name: kind for kind in await admin.provider_types()}

    assert [field.name for field in types["sqlite"].login_fields] == ["path"]
    assert types["dropbox"].sign_in_field == "refresh_token"
    page = await admin.sign_in_page("dropbox", {"app_key": "k", "app_secret": "s"})
    assert page.startswith("https://")


async def test_a_wrong_field_of_a_login_is_said_and_not_shown(admin: AdminClient) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="no field paht") as caught:
        await admin.add_storage("lab", "sqlite", {"paht": "correct-horse"})

    assert "correct-horse" not in str(caught.value)


def test_storages_are_added_without_an_event_loop(tmp_path: Path) -> None:
    """The blocking twin does the same."""
    with serving_in_thread() as address, SyncAdminClient(address, user="ada") as admin:
        added = admin.add_storage("lab", "sqlite", {"path": str(tmp_path / "lab.sqlite")})
        changed = admin.update_storage("lab", description="new")
        switched = [admin.deactivate_storage("lab").active, admin.activate_storage("lab").active]
        test = admin.test_storage("lab")
        stats = admin.storage_stats("lab")
        types = admin.provider_types()
        page = admin.sign_in_page("dropbox", {"app_key": "k", "app_secret": "s"})
        same = admin.storage("lab")
        admin.delete_storage("lab")

        assert added.serving
        assert (changed.description, same.description) == ("new", "new")
        assert switched == [False, True]
        assert test.passed
        assert stats.unfinished_jobs == 0
        assert "sqlite" in {kind.name for kind in types}
        assert page
        assert [storage.name for storage in admin.storages()] == ["main"]


async def test_a_backend_is_unregistered(address: str, admin: AdminClient) -> None:
    """Unless it has jobs that have not ended; forced, it tells how many wait."""
    async with JobClient(address, user="robot") as client:
        await client.submit("echo", {})
        with pytest.raises(FailedPreconditionError) as used:
            await admin.unregister_backend("echo")
        left = await admin.unregister_backend("echo", force=True)
        names = [backend.name for backend in await client.backends()]

    assert used.value.reason == "BACKEND_IN_USE"
    assert (left, names) == (1, [])
    with pytest.raises(NotFoundError):
        await admin.unregister_backend("echo")


def test_the_blocking_client_unregisters() -> None:
    """Its method is the other's."""
    with serving_in_thread() as address, SyncAdminClient(address, user="ada") as admin:
        asyncio.run(register(address))
        assert admin.unregister_backend("echo") == 0
