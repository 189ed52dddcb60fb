"""Which files the SQLite provider opens, and which it leaves alone."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.errors import Corrupt, LoginRefused, Unavailable
from spoolway_providers.interface import Query
from spoolway_providers.model import JobKey, State
from spoolway_providers.sqlite import SqliteProvider
from spoolway_providers.sqlite.schema import SCHEMA_VERSION
from tests.providers.conftest import OpenSqlite

OLD_FILES = Path(__file__).parent / "old_files"


def execute(path: Path, *statements: str) -> list[tuple[object, ...]]:
    """Run statements as another program would; the rows of the last."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        rows: list[tuple[object, ...]] = []
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        return rows


def contents(path: Path) -> bytes:
    """All bytes of a file."""
    return path.read_bytes()


def make_file(path: Path, data: bytes) -> None:
    """A file that was there before."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def make_old_file(path: Path, version: int) -> None:
    """A storage as an older version left it."""
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((OLD_FILES / f"sqlite_{version}.sql").read_text())


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_older_file_is_migrated(path: Path, open_sqlite: OpenSqlite, version: int) -> None:
    """A storage of any older version is brought to today's, with its jobs, and goes on from there."""
    make_old_file(path, version)

    scene = Scene(await open_sqlite())

    assert execute(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert execute(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'jobs_by_owner'") == [(1,)]
    jobs = (await scene.provider.find(Query())).jobs
    assert [job.state for job in jobs] == [State.DONE, State.RUNNING, State.QUEUED]
    assert jobs[0].result is not None
    assert await scene.provider.read_blob(jobs[0].result) == b'{"success": true}'
    assert await scene.answer(request_id="first", labels={"run": "1"}) == jobs[0]
    new = await scene.submit()
    assert [job.key for job in await scene.claim(5)] == [jobs[2].key, new.key]


async def test_migration_takes_place_once(path: Path, open_sqlite: OpenSqlite) -> None:
    """Several processes may open an older storage, one after the other."""
    make_old_file(path, 1)

    first, second = await open_sqlite(), await open_sqlite()

    assert (await first.find(Query())).jobs == (await second.find(Query())).jobs


async def test_new_file_is_made_once(tmp_path: Path, open_sqlite: OpenSqlite) -> None:
    """Many processes may open a file that is not there yet, all at once."""
    for n in range(10):
        at = tmp_path / f"jobs-{n}.sqlite"
        first, *others = await asyncio.gather(*(open_sqlite(at) for _ in range(8)))

        await first.put_config("a", b"{}", None)
        for other in others:
            assert [backend.name for backend in await other.backends()] == ["a"]


async def test_every_old_version_has_a_file() -> None:
    """Each version but today's lies here as it was written, so that its migration is tested."""
    assert {file.name for file in OLD_FILES.iterdir()} == {
        f"sqlite_{version}.sql" for version in range(1, SCHEMA_VERSION)
    }


async def test_newer_file_is_refused(path: Path, open_sqlite: OpenSqlite) -> None:
    """A storage of a newer version is left as it is, and the error says what to do."""
    await (await open_sqlite()).close()
    execute(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = contents(path)

    with pytest.raises(Corrupt, match=f"schema version {SCHEMA_VERSION + 1}.*newer program"):
        await open_sqlite()

    assert contents(path) == before


async def test_file_of_another_program_is_refused(path: Path, open_sqlite: OpenSqlite) -> None:
    """An SQLite file that is not ours is left as it is."""
    make_file(path, b"")
    execute(path, "CREATE TABLE recipes(name TEXT)")
    before = contents(path)

    with pytest.raises(Corrupt, match="not one of Spoolway's"):
        await open_sqlite()

    assert contents(path) == before


async def test_file_that_is_no_database_is_refused(path: Path, open_sqlite: OpenSqlite) -> None:
    """Any other file is left as it is."""
    make_file(path, b"Dear diary, " * 1000)

    with pytest.raises(Corrupt, match="not a database"):
        await open_sqlite()

    assert contents(path) == b"Dear diary, " * 1000


async def test_open_may_be_tried_again(path: Path, tmp_path: Path) -> None:
    """A provider whose opening failed opens once the trouble is over, and can be opened again later."""
    path.parent.write_text("in the way")
    provider = SqliteProvider(path)
    with pytest.raises(LoginRefused, match="can't be used"):
        await provider.open()
    with pytest.raises(Unavailable):
        await provider.backends()
    path.parent.unlink()

    await provider.open()
    await provider.put_config("a", b"{}", None)
    await provider.close()
    await provider.open()

    assert [backend.name for backend in await provider.backends()] == ["a"]
    await provider.close()


async def test_folder_is_refused(tmp_path: Path, open_sqlite: OpenSqlite) -> None:
    """A path that is a folder can't be a storage."""
    with pytest.raises(LoginRefused, match="is a folder"):
        await open_sqlite(tmp_path)


async def test_close_without_open(path: Path) -> None:
    """A provider that was never opened can be closed, and has made nothing."""
    await SqliteProvider(path).close()

    assert not path.parent.exists()


async def test_damaged_file_is_corrupt(path: Path, open_sqlite: OpenSqlite) -> None:
    """A file with a damaged page is reported as Corrupt, not as something else, and can be closed."""
    provider = await open_sqlite()
    scene = Scene(provider)
    await scene.set_up()
    for _ in range(50):
        await scene.submit()
    await provider.close()
    sound = contents(path)
    make_file(path, sound[:4096] + b"\xff" * (len(sound) - 4096))

    with pytest.raises(Corrupt):
        await open_sqlite()


async def test_lost_table_is_corrupt(path: Path, scene: Scene) -> None:
    """What another program has spoilt is named, and does not end the threads."""
    execute(path, "DROP TABLE sessions")

    with pytest.raises(Corrupt, match="sessions"):
        await scene.provider.sessions()
    with pytest.raises(Corrupt, match="sessions"):
        await scene.provider.renew("x", 1)
    assert await scene.submit()


@pytest.mark.parametrize(
    ("login", "message"),
    [
        ({}, "path"),
        ({"path": ""}, "path"),
        ({"path": 7}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"path": ":memory:"}, ":memory:"),
        ({"path": "file:x?mode=memory"}, "file:x"),
        ({"path": "x", "password": "y"}, "password"),
    ],
    ids=["missing", "empty", "number", "null", "memory", "uri", "unknown"],
)
def test_wrong_login_is_named(login: dict[str, object], message: str) -> None:
    """A login that makes no storage is a ValueError that names the field."""
    with pytest.raises(ValueError, match=message):
        SqliteProvider.from_login(login)


async def test_login_makes_the_file(path: Path) -> None:
    """A login with a path makes a storage there, and its folder."""
    provider = SqliteProvider.from_login({"path": str(path)})
    await provider.open()
    await provider.close()

    assert execute(path, "PRAGMA journal_mode") == [("wal",)]


async def test_key_is_never_a_path(scene: Scene) -> None:
    """F11: names that look like paths or patterns find nothing but their own rows."""
    await scene.submit()
    for name in ("../../secret", "%", "*", "' OR 1=1 --"):
        assert await scene.find_keys(id=name) == []
        assert await scene.find_keys(backend=name) == []
        assert await scene.find_keys(session=name) == []
        with pytest.raises(Exception, match="there is no"):
            await scene.provider.get(JobKey(name, name))
