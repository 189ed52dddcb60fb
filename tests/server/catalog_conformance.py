"""What every catalog must do; a catalog's test file is a subclass that makes them."""

import asyncio
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from spoolway_server.catalog import (
    AuditEvent,
    AuditQuery,
    Catalog,
    CatalogConflict,
    Routes,
    Sealed,
    StorageRecord,
    TokenRecord,
)

__all__ = ["CatalogConformance", "storage_record"]

NOON = datetime(2026, 11, 24, 12, 0, 0, 250, tzinfo=UTC)
PATIENCE = timedelta(seconds=10)


def storage_record(name: str, **fields: object) -> StorageRecord:
    """A record of a storage, not stored yet."""
    login = Sealed("key", b"\x00\xffsealed")
    record = StorageRecord(name=name, type="sqlite", login=login, created_at=NOON, updated_at=NOON)
    return msgspec.structs.replace(record, **fields)


def event(subject: str, **fields: object) -> AuditEvent:
    """An event of the trail."""
    made = AuditEvent(at=NOON, who="ada", what="CreateStorage", subject=subject, outcome="OK")
    return msgspec.structs.replace(made, **fields)


class CatalogConformance(ABC):
    """Subclass it, and give `catalog` and `another` as fixtures."""

    @pytest.fixture
    @abstractmethod
    async def catalog(self) -> Catalog:
        """An open, empty catalog; closed at the test's end."""

    @pytest.fixture
    @abstractmethod
    async def another(self, catalog: Catalog) -> Catalog:
        """The same catalog, opened as another process does; closed at the test's end."""

    async def test_a_record_is_read_as_it_was_stored(self, catalog: Catalog) -> None:
        """Every field comes back, and the revision is the catalog's."""
        token = TokenRecord(
            id="t1",
            hash="ab" * 32,
            name="lab",
            user="ada",
            role="spooler",
            backends=("sim",),
            created_at=NOON,
            expires_at=NOON,
        )

        stored = await catalog.put(storage_record("lab", owner="ada", description="ü", active=False))
        stored_token = await catalog.put(token)
        routes = await catalog.put(Routes(backends={"sim": "lab"}))

        assert stored.revision > 0
        assert await catalog.get(StorageRecord, "lab") == stored
        assert stored == storage_record(
            "lab", owner="ada", description="ü", active=False, revision=stored.revision
        )
        assert await catalog.all(TokenRecord) == [stored_token]
        assert await catalog.get(Routes, Routes.KEY) == routes

    async def test_records_are_listed_by_key_and_kind(self, catalog: Catalog) -> None:
        """`all` has the records of one kind, in the order of their keys."""
        for name in ("b", "c", "a"):
            await catalog.put(storage_record(name))

        assert [record.name for record in await catalog.all(StorageRecord)] == ["a", "b", "c"]
        assert await catalog.all(TokenRecord) == []
        assert await catalog.get(StorageRecord, "d") is None
        assert await catalog.get(Routes, Routes.KEY) is None

    async def test_a_record_is_created_once(self, catalog: Catalog, another: Catalog) -> None:
        """Of many that create the same record one succeeds, whatever the process."""
        outcomes = await asyncio.gather(
            *(one.put(storage_record("lab")) for one in [catalog, another] * 5), return_exceptions=True
        )

        assert sum(isinstance(outcome, StorageRecord) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, CatalogConflict) for outcome in outcomes) == 9

    async def test_a_stale_change_is_refused(self, catalog: Catalog, another: Catalog) -> None:
        """F9: who changes what somebody else has changed since is told so, and nothing is lost."""
        read = await catalog.put(storage_record("lab"))
        theirs = await another.put(msgspec.structs.replace(read, description="theirs"))

        with pytest.raises(CatalogConflict):
            await catalog.put(msgspec.structs.replace(read, description="ours"))
        with pytest.raises(CatalogConflict):
            await catalog.delete(read)

        assert theirs.revision > read.revision
        assert await catalog.get(StorageRecord, "lab") == theirs

    async def test_what_is_deleted_is_gone_and_its_revision_never_comes_again(self, catalog: Catalog) -> None:
        """A record made anew is not the one that was read before."""
        first = await catalog.put(storage_record("lab"))
        await catalog.delete(first)
        assert await catalog.get(StorageRecord, "lab") is None
        with pytest.raises(CatalogConflict):
            await catalog.delete(first)
        with pytest.raises(CatalogConflict):
            await catalog.put(first)

        second = await catalog.put(storage_record("lab"))

        assert second.revision > first.revision

    async def test_a_wait_ends_with_a_change_of_another_process(
        self, catalog: Catalog, another: Catalog
    ) -> None:
        """Who waits is woken by what another process stores, changes and removes."""
        version = await catalog.version()
        record = storage_record("lab")
        for change in ("create", "update", "delete"):
            waiting = asyncio.create_task(catalog.wait(version, PATIENCE))
            await asyncio.sleep(0)
            if change == "delete":
                await another.delete(record)
            else:
                record = await another.put(msgspec.structs.replace(record, description=change))

            version, before = await waiting, version

            assert version > before
            assert await catalog.version() == version

    async def test_a_wait_ends_with_a_change_of_its_own_process(self, catalog: Catalog) -> None:
        """Who waits is woken by what its own process stores."""
        version = await catalog.version()
        waiting = asyncio.create_task(catalog.wait(version, PATIENCE))
        await asyncio.sleep(0)
        await catalog.put(storage_record("lab"))

        assert await waiting > version

    async def test_what_changed_before_the_wait_ends_it_at_once(
        self, catalog: Catalog, another: Catalog
    ) -> None:
        """A change between the reading and the waiting is not missed."""
        version = await catalog.version()
        await another.put(storage_record("lab"))

        assert await catalog.wait(version, PATIENCE) > version

    async def test_a_wait_without_a_change_ends_in_time(self, catalog: Catalog) -> None:
        """The trail is no change: nobody is woken by it."""
        version = await catalog.version()
        await catalog.note(event("storages/lab"))

        assert await catalog.wait(version, timedelta(milliseconds=20)) == version

    async def test_the_trail_tells_the_newest_first_in_pages(
        self, catalog: Catalog, another: Catalog
    ) -> None:
        """All pages together have every event once, of both processes."""
        for number in range(5):
            await (catalog, another)[number % 2].note(event(f"storages/s{number}", detail=str(number)))

        found: list[AuditEvent] = []
        before = 0
        while True:
            page = await catalog.events(AuditQuery(limit=2, before=before))
            assert len(page.events) <= 2
            found += page.events
            before = page.before
            if not before:
                break

        assert [one.detail for one in found] == ["4", "3", "2", "1", "0"]
        assert found[0] == event("storages/s4", detail="4", number=found[0].number)
        assert len({one.number for one in found}) == 5

    async def test_the_trail_is_searched(self, catalog: Catalog) -> None:
        """By who, what, subject and time; all conditions hold together."""
        later = NOON + timedelta(hours=1)
        await catalog.note(event("storages/a"))
        await catalog.note(event("storages/a", who="bob"))
        await catalog.note(event("storages/b", what="DeleteStorage", at=later, outcome="STORAGE_NOT_FOUND"))

        async def count(**conditions: object) -> int:
            return len((await catalog.events(AuditQuery(**conditions))).events)  # type: ignore[arg-type]

        assert await count() == 3
        assert await count(who="ada") == 2
        assert await count(what="DeleteStorage") == 1
        assert await count(subject="storages/a") == 2
        assert await count(subject="storages/a", who="bob") == 1
        assert await count(since=later) == 1
        assert await count(who="eve") == 0

    async def test_it_can_be_closed_twice(self, catalog: Catalog) -> None:
        """Closing is safe to repeat."""
        await catalog.close()
        await catalog.close()
