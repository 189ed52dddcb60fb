"""Logging in to MongoDB: what an operator may write, and what is said when it is wrong."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import pytest
from pymongo import MongoClient, uri_parser

from spoolway_providers.errors import Corrupt, LoginRefused, ProviderError, Unavailable
from spoolway_providers.mongodb import MongoProvider, schema
from spoolway_providers.mongodb.connection import Connection
from spoolway_providers.mongodb.login import login_of
from spoolway_providers.registry import make_provider
from tests.providers.mongodb_server import (
    DRIVERS_LEFTOVERS,
    MongoServer,
    StandIn,
    leftovers,
    server,
    stand_in,
)

__all__ = ["leftovers", "server", "stand_in"]

pytestmark = [DRIVERS_LEFTOVERS, pytest.mark.usefixtures("leftovers")]

USER = "al@ice/:%"
PASSWORD = "p@ss/w:rd%?#[ä"
THREE_FIELDS = {
    "mongodb_username": USER,
    "mongodb_password": PASSWORD,
    "mongodb_database_url": "cluster0.ab1cd.mongodb.net",
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """A server that wants a login; `reader` may only read."""
    server = StandIn(tmp_path_factory.mktemp("guarded"))
    server.start()
    with MongoClient[dict[str, Any]](server.uri) as client:
        rights = {"readWrite": USER, "read": "reader"}
        for role, user in rights.items():
            client.admin.command("createUser", user, pwd=PASSWORD, roles=[{"role": role, "db": "lab"}])
    server.stop()
    server.start_again("--auth")
    yield server
    server.kill()


def uri(server: StandIn, user: str = USER, password: str = PASSWORD) -> str:
    return f"mongodb://{quote_plus(user)}:{quote_plus(password)}@127.0.0.1:{server.port}/"


async def error_of(provider: MongoProvider) -> ProviderError:
    """What opening it says; never the password."""
    with pytest.raises(ProviderError) as caught:
        await provider.open()
    await provider.close()
    chain: list[BaseException | None] = [caught.value]
    while chain[-1] is not None:
        assert PASSWORD not in str(chain[-1])
        assert quote_plus(PASSWORD) not in str(chain[-1])
        chain.append(chain[-1].__cause__)
    return caught.value


def test_three_fields_make_an_address_with_srv_and_escapes() -> None:
    """Today's three fields make a connection string in which special characters are escaped."""
    login = login_of(THREE_FIELDS)

    assert login.uri == (
        f"mongodb+srv://{quote_plus(USER)}:{quote_plus(PASSWORD)}@cluster0.ab1cd.mongodb.net/"
    )
    assert login.database == "spoolway"
    parsed = uri_parser.parse_userinfo(login.uri.removeprefix("mongodb+srv://").partition("@")[0])
    assert parsed == (USER, PASSWORD)


@pytest.mark.parametrize(
    "pasted",
    [
        "cluster0.ab1cd.mongodb.net/",
        "mongodb+srv://cluster0.ab1cd.mongodb.net",
        " Cluster0.ab1cd.mongodb.net/?retryWrites=true ",
    ],
)
def test_host_may_be_pasted_as_an_address(pasted: str) -> None:
    """The host is found in what Atlas shows."""
    login = login_of({**THREE_FIELDS, "mongodb_database_url": pasted})

    assert login.host == "cluster0.ab1cd.mongodb.net"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "mongodb_username"),
        ({"mongodb_username": "alice"}, "mongodb_password"),
        ({**THREE_FIELDS, "mongodb_database_url": "localhost:27017"}, "mongodb_database_url"),
        ({**THREE_FIELDS, "mongodb_database_url": "alice:secret@h.x.mongodb.net"}, "mongodb_database_url"),
        ({**THREE_FIELDS, "mongodb_password": 5}, "mongodb_password"),
        ({**THREE_FIELDS, "mongodb_password": "a\0"}, "mongodb_password"),
        ({**THREE_FIELDS, "database": "../admin"}, "database"),
        ({**THREE_FIELDS, "uri": "mongodb://h/"}, "uri"),
        ({"uri": "http://secret@h/"}, "uri"),
        ({"uri": "mongodb://alice:se/cret@h/"}, "uri"),
        ({"uri": "mongodb://alice:secret@"}, "uri"),
        ({"path": "x"}, "path"),
    ],
)
def test_wrong_field_is_named_and_not_shown(fields: dict[str, Any], named: str) -> None:
    """A wrong field is an error that names it, and shows no secret."""
    with pytest.raises(ValueError, match=named) as caught:
        make_provider("mongodb", fields)

    assert "cret" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_login_does_not_show_its_password() -> None:
    """The text of a login, as a log or a traceback would show it, has no secret."""
    assert quote_plus(PASSWORD) not in repr(login_of(THREE_FIELDS))


async def test_login_with_special_characters_works(guarded: StandIn) -> None:
    """A user name and a password of special characters open the storage, and each step of a probe passes."""
    provider = make_provider("mongodb", {"uri": uri(guarded), "database": "lab"})
    await provider.open()
    steps = await provider.probe()
    await provider.close()

    assert [step.name for step in steps if not step.ok] == []
    assert next(step.name for step in steps) == "login"


async def test_wrong_password_is_a_refused_login(guarded: StandIn) -> None:
    """A wrong password says that it is user name or password."""
    login = login_of({"uri": uri(guarded, password="wrong"), "database": "lab"})

    error = await error_of(MongoProvider(login))

    assert isinstance(error, LoginRefused)
    assert "user name or the password" in str(error)


async def test_missing_login_is_a_refused_login(guarded: StandIn) -> None:
    """Without a login, a server that wants one says so."""
    assert isinstance(await error_of(guarded.provider("lab")), LoginRefused)


async def test_missing_right_is_named(guarded: StandIn) -> None:
    """A user who may only read is told which right it lacks."""
    login = login_of({"uri": uri(guarded, "reader"), "database": "lab"})

    error = await error_of(MongoProvider(login))

    assert isinstance(error, LoginRefused)
    assert "readWrite" in str(error)


async def test_lost_right_fails_a_step_of_the_probe(guarded: StandIn) -> None:
    """A probe names the step that a user's rights don't reach, and leaves out what needs it."""
    provider = make_provider("mongodb", {"uri": uri(guarded), "database": "lab"})
    await provider.open()
    other = MongoProvider(login_of({"uri": uri(guarded, "reader"), "database": "lab"}))
    await other._connection.connect()

    steps = await other.probe()

    assert [(step.name, step.ok) for step in steps] == [("login", True), ("write", False)]
    assert "readWrite" in steps[-1].advice
    await other.close()
    await provider.close()


async def test_wrong_host_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens is an error that names the host, and comes soon."""
    monkeypatch.setattr("spoolway_providers.mongodb.connection._CONNECT_S", 0.5)
    secret = quote_plus(PASSWORD)

    error = await error_of(MongoProvider(login_of({"uri": f"mongodb://alice:{secret}@127.0.0.1:1/"})))

    assert isinstance(error, Unavailable)
    assert "127.0.0.1:1" in str(error)


async def test_unknown_cluster_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose name the name servers don't know is an error that names it."""

    async def resolve(*_: object, **__: object) -> None:
        from dns.resolver import NXDOMAIN

        raise NXDOMAIN

    monkeypatch.setattr("dns.asyncresolver.resolve", resolve)

    error = await error_of(MongoProvider(login_of(THREE_FIELDS)))

    assert isinstance(error, Unavailable)
    assert "cluster0.ab1cd.mongodb.net" in str(error)


@pytest.mark.parametrize("rest", ["h:99999/", "h:port/", "h/?tls=maybe&w=0"])
async def test_wrong_connection_string_is_not_quoted(rest: str) -> None:
    """A connection string that can't be read is an error which does not show it."""
    login = login_of({"uri": f"mongodb://alice:{quote_plus(PASSWORD)}@{rest}"})

    assert isinstance(await error_of(MongoProvider(login)), LoginRefused | Unavailable)


async def test_call_before_open_is_unavailable(server: MongoServer) -> None:
    """Who asks a storage that is not open is told so, and it may be closed all the same."""
    provider = server.provider("never")

    with pytest.raises(Unavailable, match="not open"):
        await provider.backends()
    await provider.close()


async def test_open_again_goes_on(server: MongoServer) -> None:
    """Opening twice, or after a close, finds all that was there."""
    async with server.database() as name:
        provider = server.provider(name)
        await provider.open()
        await provider.open()
        backend = await provider.put_config("a", b"{}", None)
        await provider.close()
        await provider.open()

        assert await provider.backends() == [backend]
        await provider.close()


async def test_newer_layout_is_refused(server: MongoServer) -> None:
    """A database that a newer version has written stays as it is."""
    async with server.database() as name:
        with MongoClient[dict[str, Any]](server.uri) as client:
            client[name].meta.insert_one({"_id": "schema", "version": 99, "epoch": "e"})

            error = await error_of(server.provider(name))

            assert isinstance(error, Corrupt)
            assert "99" in str(error)
            assert client[name].list_collection_names() == ["meta"]


async def test_older_layout_is_migrated(server: MongoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of an older version takes each step in turn, also if two processes open it at once."""
    taken: list[str] = []

    async def step(connection: Connection) -> None:
        taken.append(connection.login.database)

    async with server.database() as name:
        first, second = server.provider(name), server.provider(name)
        await first.open()
        await first.close()
        monkeypatch.setattr(schema, "STEPS", [step, step])
        monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
        await first.open()
        await second.open()
        await first.close()
        await second.close()
        with MongoClient[dict[str, Any]](server.uri) as client:
            stored = client[name].meta.find_one({"_id": "schema"})

    assert taken == [name, name]
    assert stored is not None
    assert stored["version"] == 3


async def test_foreign_database_is_refused(server: MongoServer) -> None:
    """A database in which another program keeps a `meta` of that name is left alone."""
    async with server.database() as name:
        with MongoClient[dict[str, Any]](server.uri) as client:
            client[name].meta.insert_one({"_id": "schema", "version": "2.0"})

        assert isinstance(await error_of(server.provider(name)), Corrupt)
