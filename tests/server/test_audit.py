"""The audit trail: what is written, and what happens if it can't be."""

import io
from collections.abc import AsyncIterator

import grpc
import pytest

from spoolway_providers.errors import Unavailable
from spoolway_server.audit import Audit
from spoolway_server.auth import Principal
from spoolway_server.catalog import AuditQuery, SqliteCatalog
from spoolway_server.catalog.sqlite import IN_MEMORY
from spoolway_server.errors import ServiceError
from spoolway_server.logs import setup_logging
from tests.server.fake_clock import JumpClock

ADA = Principal("ada")


@pytest.fixture
async def catalog() -> AsyncIterator[SqliteCatalog]:
    opened = SqliteCatalog(IN_MEMORY)
    await opened.open()
    yield opened
    await opened.close()


async def test_what_went_well_is_noted(catalog: SqliteCatalog) -> None:
    """Who, what, when, on what, and what it changed."""
    clock = JumpClock()
    audit = Audit(catalog, clock)

    async with audit.of(ADA, "PauseBackend", "backends/sim") as deed:
        deed.detail = "x" * 5000

    (event,) = (await audit.events(AuditQuery())).events
    assert (event.who, event.what, event.subject) == ("ada", "PauseBackend", "backends/sim")
    assert (event.outcome, event.detail) == ("OK", "x" * 1000)
    assert abs((event.at - clock.now()).total_seconds()) < 60


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ServiceError(grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "changed"), "ETAG_MISMATCH"),
        (Unavailable("down"), "STORAGE_UNAVAILABLE"),
        (ValueError("a fault"), "INTERNAL"),
        (KeyboardInterrupt(), "INTERRUPTED"),
    ],
)
async def test_what_failed_is_noted_with_its_reason(
    catalog: SqliteCatalog, error: BaseException, outcome: str
) -> None:
    """The error goes on to the caller, and its reason into the trail."""
    audit = Audit(catalog, JumpClock())

    with pytest.raises(type(error)):
        async with audit.of(ADA, "DeleteStorage", "storages/lab"):
            raise error

    (event,) = (await audit.events(AuditQuery())).events
    assert event.outcome == outcome


async def test_a_catalog_that_does_not_answer_undoes_nothing(catalog: SqliteCatalog) -> None:
    """What was done is not reported as failed; the event goes into the log."""
    log = io.StringIO()
    setup_logging(log_format="json", stream=log)
    audit = Audit(catalog, JumpClock())
    await catalog.close()

    async with audit.of(ADA, "DeleteStorage", "storages/lab"):
        pass

    assert "audit event not stored" in log.getvalue()
    assert "storages/lab" in log.getvalue()
