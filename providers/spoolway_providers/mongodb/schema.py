"""What lies in the database: collections, indexes, and how an older layout becomes today's."""

import secrets
from collections.abc import Awaitable, Callable

from pymongo import ASCENDING, IndexModel

from spoolway_providers.errors import Corrupt
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.documents import Document
from spoolway_providers.rules import SPOOLER_REVOKED

__all__ = ["INDEXES", "SCHEMA_VERSION", "prepare"]


def _index(name: str, *fields: str, where: Document | None = None, unique: bool = False) -> IndexModel:
    options: Document = {} if where is None else {"partialFilterExpression": where}
    if unique:
        options["unique"] = True
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **options)


INDEXES: dict[str, list[IndexModel]] = {
    "jobs": [
        # The claim: equality first, then the order; a job that is not queued is not in it.
        _index("claim", "backend", "state", "rank", "seq", "_id", where={"state": "QUEUED"}),
        # One job a request id, in the same document, so in the same commit.
        _index("request", "owner", "backend", "request", where={"request": {"$exists": True}}, unique=True),
        # What a session holds, all held jobs, and orphans.
        _index("session", "session", where={"session": {"$exists": True}}),
        _index("due", "due", "seq", where={"due": {"$exists": True}}),
        _index("change", "change"),
        _index("owner", "owner", "seq"),
        # Lists and counts of a backend's jobs by state.
        _index("backend", "backend", "state", "seq"),
        _index("seq", "seq"),
        # Sweeping.
        _index("requested", "requested_at", where={"request": {"$exists": True}}),
        _index("deleted", "deleted_at", where={"deleted_at": {"$exists": True}}),
    ],
    "sessions": [
        # At most one live session a spooler.
        _index("live", "principal", "spooler", where={"state": "LIVE"}, unique=True),
        _index("state", "state"),
        # Instances that may not come back.
        _index("revoked", "principal", "spooler", where={"reason": SPOOLER_REVOKED}),
    ],
    # The last round of each owner on a backend on which owners take turns.
    "rounds": [_index("backend", "backend", "round")],
    # The layout of GridFS, so that its tools can read the blobs.
    "blobs.chunks": [_index("files_id_1_n_1", "files_id", "n", unique=True)],
    "blobs.files": [
        _index("uncommitted", "uploadDate", where={"metadata.committed": False}),
        _index("job", "metadata.job", "metadata.backend"),
    ],
}


async def prepare(connection: Connection) -> None:
    """Create what is missing and bring an older layout to today's.

    Raises:
        Corrupt: a newer version's layout.
        LoginRefused: the login may not do what is needed.
    """
    with connection.reading():
        schema = await connection["meta"].find_one({"_id": "schema"})
    if schema is not None:
        await _migrate(connection, schema)
    await _create_indexes(connection)
    if schema is None:
        schema = await _found(connection)
    connection.epoch = schema["epoch"]


async def _found(connection: Connection) -> Document:
    """Write the first schema document, or read that of who came first."""
    schema: Document = {"version": SCHEMA_VERSION, "epoch": secrets.token_hex(4)}
    with connection.writing():
        await connection["meta"].update_one({"_id": "schema"}, {"$setOnInsert": schema}, upsert=True)
        [found] = await connection.newest("meta").find({"_id": "schema"}).to_list()
    return found


async def _create_indexes(connection: Connection) -> None:
    """Idempotent: an index that is there already costs nothing."""
    for name, indexes in INDEXES.items():
        with connection.writing():
            await connection[name].create_indexes(indexes)


async def _migrate(connection: Connection, schema: Document) -> None:
    version = schema.get("version")
    if not isinstance(version, int) or "epoch" not in schema:
        raise Corrupt(f"database {connection.login.database} has a collection `meta` that is not Spoolway's")
    if version > SCHEMA_VERSION:
        raise Corrupt(
            f"database {connection.login.database} has schema version {version}, and this program knows up "
            f"to {SCHEMA_VERSION}; use the newer program that wrote it"
        )
    while version < SCHEMA_VERSION:
        # Each step can be repeated: several processes may take it, or one again after a crash.
        await STEPS[version - 1](connection)
        with connection.writing():
            await connection["meta"].update_one(
                {"_id": "schema", "version": version}, {"$set": {"version": version + 1}}
            )
        version += 1


STEPS: list[Callable[[Connection], Awaitable[None]]] = []
"""The step at index n makes version n + 2 of version n + 1."""

SCHEMA_VERSION = 1
