import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from spoolway import Storage, StorageTest, StorageTestStep
from spoolway_server.cli import admin, app
from spoolway_server.cli.exits import ExitCode
from tests.server.fake_client import snapshot


def storage(name, **facts):
    usual = {
        "type": "sqlite",
        "description": "",
        "owner": "",
        "etag": "",
        "create_time": None,
        "update_time": None,
        "active": True,
        "is_default": False,
        "read_only": True,
        "serving": True,
        "message": "",
    }
    return Storage(name=name, **(usual | facts))


def step(name, **facts):
    return StorageTestStep(name=name, **({"passed": True, "duration": timedelta(), "advice": ""} | facts))


class FakeAdmin:
    """Two storages, one of them in trouble."""

    passes = True

    def __init__(self):
        self.said = []

    async def hold_job(self, name):
        return snapshot("HELD", name=name)

    async def resume_job(self, name):
        return snapshot("QUEUED", name=name)

    async def fail_held_job(self, name, message):
        self.said.append(message)
        return snapshot("ERROR", name=name)

    async def storages(self):
        return [
            storage("main", type="sqlite", description="All jobs", is_default=True),
            storage("cloud", type="dropbox", active=False, serving=False, message="the login is refused"),
        ]

    async def test_storage(self, name):
        steps = [step("connect", duration=timedelta(milliseconds=1.25))]
        if not self.passes:
            steps.append(step("write", passed=False, advice=f"{name} is read-only"))
        return StorageTest(passed=self.passes, steps=tuple(steps))


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


NAME = "backends/lamp/jobs/20261124120000abcdef0123"


@pytest.mark.parametrize(
    ("command", "state"), [(["hold"], "HELD"), (["resume"], "QUEUED"), (["fail", "-m", "broken"], "ERROR")]
)
def test_operators_decide_about_jobs(fake, command, state):
    """hold, resume and fail print the job and its state, or the job as JSON."""
    verb, *options = command

    plain = CliRunner().invoke(app, ["job", verb, NAME, *options])
    document = CliRunner().invoke(app, ["job", verb, NAME, *options, "--json"])

    assert plain.stdout == f"{NAME}  {state}\n"
    assert json.loads(document.stdout)["state"] == state
    assert fake.said == (["broken"] * 2 if verb == "fail" else [])
