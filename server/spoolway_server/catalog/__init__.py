"""What the server itself must know: storages with their logins, access tokens, routes, and the audit trail.

Never a job: those lie in the storages. `Catalog` is the interface, `open_catalog` finds the implementation.
"""

from spoolway_server.catalog.interface import (
    AuditPage,
    AuditQuery,
    Catalog,
    CatalogConflict,
    CatalogCorrupt,
    CatalogUnavailable,
)
from spoolway_server.catalog.model import (
    AuditEvent,
    OperationRecord,
    Record,
    Routes,
    Sealed,
    StorageRecord,
    TokenRecord,
)
from spoolway_server.catalog.sqlite import SqliteCatalog

__all__ = [
    "AuditEvent",
    "AuditPage",
    "AuditQuery",
    "Catalog",
    "CatalogConflict",
    "CatalogCorrupt",
    "CatalogUnavailable",
    "OperationRecord",
    "Record",
    "Routes",
    "Sealed",
    "SqliteCatalog",
    "StorageRecord",
    "TokenRecord",
]
