"""`spoolway token` and `spoolway admin init`, against a server that wants tokens."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from spoolway_server.app import SpoolwayServer
from spoolway_server.catalog import AuditQuery, SqliteCatalog
from spoolway_server.cli import app, tokens
from spoolway_server.cli.exits import ExitCode
from spoolway_server.config import load_config

CONFIG = """
[server]
port = 0
[auth]
mode = "tokens"
[catalog]
path = "catalog.sqlite"
[storages.main]
type = "memory"
"""


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server runs that would have to hear of it."""
    monkeypatch.setattr(tokens, "HEARD_OF_WITHIN_S", 0)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOOLWAY_TOKEN", raising=False)
    (tmp_path / "spoolway.toml").write_text(CONFIG)


@pytest.fixture
def address(_folder: None) -> Iterator[str]:
    """A server of this configuration, in a thread of its own."""
    running = threading.Event()
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    found: list[str] = []

    async def serve() -> None:
        server = SpoolwayServer(load_config(Path("spoolway.toml"), {}))
        await server.start()
        stops.append((asyncio.get_running_loop(), asyncio.Event()))
        found.append(server.address)
        running.set()
        await stops[0][1].wait()
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert running.wait(20)
    yield found[0]
    loop, stop = stops[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)


def run(*arguments: str, token: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), env={"SPOOLWAY_TOKEN": token})


def init() -> str:
    return run("admin", "init", "--user", "ada").stdout.strip()


async def _trail() -> list[tuple[str, str]]:
    catalog = SqliteCatalog("catalog.sqlite")
    await catalog.open()
    events = (await catalog.events(AuditQuery())).events
    await catalog.close()
    return [(event.what, event.detail) for event in events]


def test_the_first_token_makes_the_others(address: str) -> None:
    """`admin init` beside a running server, then tokens by calls: made, listed, revoked."""
    secret = init()

    made = run("token", "create", "alice", "--days", "7", "--address", address, token=secret)
    document = run("token", "list", "--of", "alice", "--json", "--address", address, token=secret)
    [token] = json.loads(document.stdout)["tokens"]
    lines = run("token", "list", "--address", address, token=secret).stdout.splitlines()
    allowed = run("backends", "--address", address, token=made.stdout.strip())
    denied = run("token", "list", "--address", address, token=made.stdout.strip())
    revoked = run("token", "revoke", token["id"], "--address", address, token=secret)
    refused = run("backends", "--address", address, token=made.stdout.strip())

    trail = run("audit", "--by", "ada", "--json", "--address", address, token=secret)
    table = run("audit", "--call", "InitAdmin", "--address", address, token=secret).stdout

    assert [event["call"] for event in json.loads(trail.stdout)["events"]] == ["RevokeToken", "CreateToken"]
    assert "user ada, role admin" in table
    assert (token["user"], token["role"], token["created_by"]) == ("alice", "user", "ada")
    assert made.stdout.strip() not in document.stdout
    assert len(lines) == 3
    assert any("good for 6 d" in line for line in lines)
    assert (allowed.exit_code, revoked.exit_code) == (ExitCode.OK, ExitCode.OK)
    assert (denied.exit_code, refused.exit_code) == (ExitCode.PERMISSION, ExitCode.PERMISSION)
    assert "revoked" in refused.stderr


@pytest.mark.usefixtures("_no_patience")
def test_the_first_token_is_in_the_trail() -> None:
    """Who made it by the command line is kept, like what is made by calls."""
    secret = init()

    [(what, detail)] = asyncio.run(_trail())

    assert (what, detail) == ("InitAdmin", "user ada, role admin")
    assert secret not in detail


@pytest.mark.usefixtures("_no_patience")
def test_an_account_without_a_name_makes_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a mere number."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)

    assert init().startswith("spw_")


def test_a_catalog_in_memory_has_no_first_token() -> None:
    """Nobody but the server could read it there: say so."""
    Path("spoolway.toml").write_text(CONFIG.replace("catalog.sqlite", ":memory:"))

    result = run("admin", "init")

    assert result.exit_code == ExitCode.REFUSED
    assert "catalog.path" in result.stderr


def test_a_role_that_is_none_is_said(address: str) -> None:
    """The roles that there are stand in the message."""
    result = run("token", "create", "bob", "--role", "king", "--address", address, token=init())

    assert result.exit_code == ExitCode.USAGE
    assert "operator" in result.stderr
