"""Copies, checks, backups and operations from the command line."""

import json
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spoolway import Operation, StorageCheck, StorageFinding
from spoolway_providers.conformance import Scene
from spoolway_providers.sqlite import SqliteProvider
from spoolway_server.cli import admin, app
from spoolway_server.cli.exits import ExitCode
from tests.server.test_cli_added_storages import field, kind

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def operation(state="RUNNING", **facts):
    usual = {
        "id": "0" * 32,
        "type": "COPY",
        "source": "old",
        "target": "new",
        "backends": ("sim",),
        "state": state,
        "cancel_requested": False,
        "phase": "copying jobs" if state == "RUNNING" else "",
        "done_jobs": 3,
        "total_jobs": 7,
        "reason": "",
        "message": "",
        "creator": "ada",
        "create_time": NOW,
        "update_time": NOW,
        "end_time": None if state == "RUNNING" else NOW,
    }
    return Operation(**(usual | facts))


class FakeAdmin:
    """A copy that ends as the test wants it."""

    end = operation("DONE", done_jobs=7)
    findings = ()

    def __init__(self):
        self.asked = []

    async def copy_storage(self, source, target):
        self.asked.append((source, target))
        return operation()

    async def provider_types(self):
        return [kind("server", field("uri", secret=True), field("database", required=False))]

    async def import_storage(self, target, type_name, login, *, owner):
        self.asked.append((target, type_name, login, owner))
        return operation(type="IMPORT", source="server installation")

    async def watch_operation(self, operation_id):
        yield operation()
        yield self.end

    async def operations(self):
        return [self.end, operation()]

    async def operation(self, operation_id):
        return operation(id=operation_id)

    async def cancel_operation(self, operation_id):
        return operation(id=operation_id, cancel_requested=True)

    async def check_storage(self, name, *, repair, verify_checksums):
        self.asked.append((name, repair, verify_checksums))
        yield StorageCheck(findings=(), checked_jobs=1, total_jobs=2)
        yield StorageCheck(findings=self.findings, checked_jobs=2, total_jobs=2)


@pytest.fixture
def fake(monkeypatch):
    client = FakeAdmin()

    @asynccontextmanager
    async def opened(connection):
        yield client

    monkeypatch.setattr(admin, "open_admin", opened)
    return client


def run(*arguments):
    return CliRunner().invoke(app, arguments)


def test_copy_waits_for_its_end(fake):
    """It shows the operation as it ended."""
    result = run("storage", "copy", "old", "new")

    assert result.exit_code == 0
    assert fake.asked == [("old", "new")]
    assert "DONE" in result.stdout
    assert "7 of 7" in result.stdout


def test_import_takes_a_login_as_add_does(fake, monkeypatch):
    """A secret from a variable, never from the command line."""
    monkeypatch.setenv("OLD_URI", "mongodb://a")
    command = ("storage", "import", "server", "main", "--owner", "ada")
    result = run(*command, "--from-env", "uri=OLD_URI")
    refused = run(*command, "--set", "uri=mongodb://a")

    assert result.exit_code == 0
    assert fake.asked == [("main", "server", {"uri": "mongodb://a"}, "ada")]
    assert refused.exit_code == ExitCode.USAGE


def test_copy_does_not_wait_where_nobody_wants_it(fake):
    """With --detach it shows the operation as it began, as JSON if that is asked for."""
    result = run("storage", "copy", "old", "new", "--detach", "--json")

    assert json.loads(result.stdout)["state"] == "RUNNING"


@pytest.mark.parametrize("command", [("storage", "copy", "old", "new"), ("operation", "watch", "0" * 32)])
def test_a_copy_that_failed_is_told_by_the_exit_code(fake, command):
    """The error says what to do."""
    fake.end = operation("FAILED", reason="PAYLOAD_LOST", message="backends/sim/jobs/1 can't be copied")

    result = run(*command)

    assert result.exit_code == ExitCode.ENDED_BADLY
    assert "can't be copied" in result.stdout


def test_operations_are_listed_shown_and_cancelled(fake):
    """The newest first; one by its id."""
    listed = run("operation", "list")
    shown = run("operation", "show", "1" * 32)
    cancelled = json.loads(run("operation", "cancel", "2" * 32, "--json").stdout)

    assert [line.split()[4] for line in listed.stdout.splitlines()[1:]] == ["DONE", "RUNNING"]
    assert "1" * 32 in shown.stdout
    assert "copying jobs" in shown.stdout
    assert (cancelled["id"], cancelled["cancel_requested"]) == ("2" * 32, True)


def test_check_lists_what_it_found(fake):
    """Exit code 1 as long as something is not mended."""
    sound = run("storage", "check", "main")
    lost = StorageFinding(
        kind="result_lost", subject="backends/sim/jobs/1", message="is gone", repaired=False
    )
    fake.findings = (lost,)
    found = run("storage", "check", "main", "--repair", "--checksums")

    assert (sound.exit_code, sound.stdout) == (0, "")
    assert found.exit_code == ExitCode.ENDED_BADLY
    assert "result_lost" in found.stdout
    assert fake.asked == [("main", False, False), ("main", True, True)]


async def _fill(path: Path) -> None:
    provider = SqliteProvider(path)
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    await scene.submit()
    await provider.close()


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    await _fill(tmp_path / "jobs.sqlite")
    made = tmp_path / "spoolway.toml"
    made.write_text(
        f'''
[storages.main]
type = "sqlite"
path = "{tmp_path / "jobs.sqlite"}"

[storages.folder]
type = "local"
base_path = "{tmp_path / "folder"}"
'''
    )
    return made


def test_backup_makes_one_whole_file(config: Path, tmp_path: Path):
    """The copy holds the job, and is readable by its owner only; a second one does not overwrite it."""
    target = tmp_path / "copy.sqlite"

    made = run("storage", "backup", "main", str(target), "--config", str(config))
    again = run("storage", "backup", "main", str(target), "--config", str(config))

    assert (made.exit_code, made.stdout.strip()) == (0, str(target))
    with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    assert target.stat().st_mode & 0o777 == 0o600
    assert again.exit_code == ExitCode.REFUSED
    assert "is there already" in again.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"copy.sqlite"}
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("folder", ExitCode.REFUSED, "means of its system"),
        ("nowhere", ExitCode.NOT_FOUND, "no storage"),
    ],
)
def test_backup_of_what_is_no_file_is_refused(config: Path, tmp_path: Path, name, code, message):
    """A folder, or a storage that is not there; the error says what to do."""
    result = run("storage", "backup", name, str(tmp_path / "copy"), "--config", str(config))

    assert result.exit_code == code
    assert message in result.stderr.replace("\n", " ")
