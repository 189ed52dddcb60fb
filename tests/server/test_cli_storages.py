import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from spoolway_server.cli import admin, app
from spoolway_server.cli.exits import ExitCode


class FakeAdmin:
    """Two storages, one of them in trouble."""

    passes = True

    async def storages(self):
        return [
            admin.Storage("main", "sqlite", "All jobs", True, True, True, True, ""),
            admin.Storage("cloud", "dropbox", "", False, False, True, False, "the login is refused"),
        ]

    async def test_storage(self, name):
        steps = [admin.StorageTestStep("connect", True, timedelta(milliseconds=1.25), "")]
        if not self.passes:
            steps.append(admin.StorageTestStep("write", False, timedelta(), f"{name} is read-only"))
        return admin.StorageTest(self.passes, tuple(steps))


@pytest.fixture
def fake(monkeypatch):
    fake = FakeAdmin()

    @asynccontextmanager
    async def opened(_connection):
        yield fake

    monkeypatch.setattr(admin, "open_admin", opened)
    return fake


@pytest.mark.usefixtures("fake")
def test_storages_tells_which_answer():
    """Each storage is a row that says how it stands, and what is the matter."""
    lines = CliRunner().invoke(app, ["storages"]).stdout.splitlines()

    assert lines[1].split() == ["main", "sqlite", "ok,", "default", "All", "jobs"]
    assert "in trouble: the login is refused, inactive" in lines[2]


@pytest.mark.usefixtures("fake")
def test_storages_as_json():
    """Programs get one document with all storages."""
    document = json.loads(CliRunner().invoke(app, ["storages", "--json"]).stdout)

    assert [storage["name"] for storage in document["storages"]] == ["main", "cloud"]
    assert document["storages"][1]["serving"] is False


@pytest.mark.usefixtures("fake")
def test_a_storage_that_passes_is_0():
    """Each step is a row with its time."""
    result = CliRunner().invoke(app, ["storage", "test", "main"])

    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["connect", "ok", "1.2"]


def test_a_storage_that_fails_is_1(fake):
    """A failed step comes with its advice, and the exit code is 1, also as JSON."""
    fake.passes = False

    people = CliRunner().invoke(app, ["storage", "test", "main"])
    programs = CliRunner().invoke(app, ["storage", "test", "main", "--json"])

    assert people.exit_code == programs.exit_code == ExitCode.ENDED_BADLY
    assert "FAILED" in people.stdout
    assert "main is read-only" in people.stdout
    assert json.loads(programs.stdout)["steps"][1] == {
        "name": "write",
        "passed": False,
        "duration": 0.0,
        "advice": "main is read-only",
    }
