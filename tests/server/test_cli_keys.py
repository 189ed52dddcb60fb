"""`spoolway admin`: keys made and changed."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from spoolway_server.catalog import AuditQuery, Sealed, SqliteCatalog, StorageRecord
from spoolway_server.cli import app
from spoolway_server.cli.exits import ExitCode
from spoolway_server.vault import Vault, new_key
from tests.server.catalog_conformance import storage_record


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default configuration, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPOOLWAY_KEY", raising=False)


async def _store(**logins: Sealed) -> None:
    catalog = SqliteCatalog("spoolway.catalog.sqlite")
    await catalog.open()
    for name, login in logins.items():
        await catalog.put(msgspec.structs.replace(storage_record(name), login=login))
    await catalog.close()


async def _stored() -> tuple[dict[str, Sealed], list[str]]:
    catalog = SqliteCatalog("spoolway.catalog.sqlite")
    await catalog.open()
    logins = {record.name: record.login for record in await catalog.all(StorageRecord)}
    details = [event.detail for event in (await catalog.events(AuditQuery(what="RotateKey"))).events]
    await catalog.close()
    return logins, details


def vault(*keys: str) -> Vault:
    return Vault.load("", {"SPOOLWAY_KEY": ",".join(keys)})


def test_a_new_key_is_good_for_a_server() -> None:
    """stdout has the key alone, another one each time."""
    keys = [CliRunner().invoke(app, ["admin", "new-key"]).stdout.strip() for _ in range(2)]

    assert keys[0] != keys[1]
    assert vault(keys[0]).key_id


def test_all_logins_are_encrypted_anew() -> None:
    """With the first key, those too that were not encrypted at all; a repeat changes nothing."""
    old, new = new_key(), new_key()
    login = {"password": "correct-horse"}
    plain = Vault().seal("plain", {"path": "x"}, has_secret=False)
    asyncio.run(_store(lab=vault(old).seal("lab", login, has_secret=True), plain=plain))
    env = {"SPOOLWAY_KEY": f"{new},{old}"}

    first = CliRunner().invoke(app, ["admin", "rotate-key"], env=env)
    second = CliRunner().invoke(app, ["admin", "rotate-key"], env=env)

    logins, details = asyncio.run(_stored())
    assert first.exit_code == second.exit_code == 0
    assert first.stderr.startswith("2 logins were encrypted anew")
    assert second.stderr.startswith("0 logins")
    assert vault(new).open("lab", logins["lab"]) == login
    assert vault(new).open("plain", logins["plain"]) == {"path": "x"}
    assert [detail.split(",")[0] for detail in details] == ["0 logins", "2 logins"]


def test_a_missing_key_is_named() -> None:
    """Without the old key nothing is lost: the command says which one it needs."""
    sealed = vault(new_key()).seal("lab", {"password": "p"}, has_secret=True)
    asyncio.run(_store(lab=sealed))

    without = CliRunner().invoke(app, ["admin", "rotate-key"], env={"SPOOLWAY_KEY": new_key()})
    none = CliRunner().invoke(app, ["admin", "rotate-key"])

    assert without.exit_code == none.exit_code == ExitCode.REFUSED
    assert sealed.key_id in without.stderr
    assert "new-key" in none.stderr
    assert asyncio.run(_stored())[0] == {"lab": sealed}


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["admin", "rotate-key"]])
def test_what_is_no_key_is_said_and_not_shown(command: list[str]) -> None:
    """Neither the server starts, nor does the check pass."""
    result = CliRunner().invoke(app, command, env={"SPOOLWAY_KEY": "correct-horse"})

    assert result.exit_code == ExitCode.REFUSED
    assert "SPOOLWAY_KEY: is no key" in result.stderr
    assert "correct-horse" not in result.output


def test_a_missing_driver_of_the_catalog_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not start, and says what to install."""
    monkeypatch.setitem(sys.modules, "spoolway_server.catalog.mongodb", None)

    result = CliRunner().invoke(app, ["serve"], env={"SPOOLWAY_CATALOG__URI": "mongodb://127.0.0.1:9"})

    assert result.exit_code == ExitCode.REFUSED
    assert "pip install 'spoolway-server[mongodb]'" in result.stderr


def test_the_catalogs_address_is_hidden_by_the_check() -> None:
    """It holds a password."""
    env = {"SPOOLWAY_CATALOG__URI": "mongodb://ada:correct-horse@127.0.0.1:9"}

    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["config", "check", *options], env=env)
        assert result.exit_code == 0
        assert "correct-horse" not in result.output
