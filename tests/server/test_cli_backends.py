"""The commands about backends, without a server."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from spoolway import Purged
from spoolway_server.cli import admin, app, connection
from spoolway_server.cli.exits import ExitCode
from tests.server.fake_client import backend


class FakeAdmin:
    """Notes what it is asked for."""

    def __init__(self):
        self.asked = []

    async def pause_backend(self, name):
        self.asked.append(("pause", name))
        return self._backend(name, paused=True)

    async def resume_backend(self, name):
        self.asked.append(("resume", name))
        return self._backend(name, paused=False)

    async def set_backend_policy(self, name, *, etag=None, **changes):
        self.asked.append(("policy", name, etag, changes))
        return self._backend(name, lease_ttl=timedelta(seconds=30))

    async def unregister_backend(self, name, *, etag, force):
        self.asked.append(("unregister", name, etag, force))
        return 2 if force else 0

    async def purge_backend(self, name, *, ended_before, cancel_queued):
        self.asked.append(("purge", name, ended_before, cancel_queued))
        yield Purged(deleted=2, cancelled=1)
        yield Purged(deleted=3, cancelled=0)

    @staticmethod
    def _backend(name, **policy):
        made = backend(name)
        return replace(made, policy=replace(made.policy, **policy))


@pytest.fixture
def fake(monkeypatch):
    fake = FakeAdmin()

    @asynccontextmanager
    async def opened(_connection):
        yield fake

    monkeypatch.setattr(admin, "open_admin", opened)
    return fake


def run(*arguments):
    return CliRunner().invoke(app, ["backend", *arguments])


def test_pause_and_resume_name_the_backend(fake):
    """The backend is told as it stands afterwards; programs get its document."""
    people, programs = run("pause", "lamp"), run("resume", "lamp", "--json")

    assert fake.asked == [("pause", "lamp"), ("resume", "lamp")]
    assert people.stdout.splitlines()[0].split() == ["backend", "lamp"]
    assert json.loads(programs.stdout)["policy"]["paused"] is False


def test_policy_changes_what_is_given(fake):
    """Only the options that are there are sent; a field may be left to the server."""
    result = run(
        "policy", "lamp", "--max-attempts", "1", "--round-robin", "--default", "lease_ttl", "--etag", "p"
    )

    changes = {"max_attempts": 1, "round_robin": True, "lease_ttl": None}
    assert fake.asked == [("policy", "lamp", "p", changes)]
    facts = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (facts["lease_ttl"], facts["max_queued"], facts["max_run_time"]) == (
        "30 s",
        "no limit",
        "no limit",
    )


@pytest.mark.parametrize(
    ("arguments", "hint"), [((), "backend show lamp"), (("--default", "lease"), "There are: max_attempts,")]
)
def test_a_policy_without_sense_is_told_before_a_call(fake, arguments, hint):
    """Nothing to change, or a field that there is not, is a mistake of the command line."""
    result = run("policy", "lamp", *arguments)

    assert result.exit_code == ExitCode.USAGE
    assert hint in result.stderr
    assert fake.asked == []


def test_show_has_the_policy(monkeypatch):
    """One backend, with how it stands and what it allows."""

    class FakeClient:
        async def backend(self, name):
            return backend(name)

    @asynccontextmanager
    async def opened(_connection):
        yield FakeClient()

    monkeypatch.setattr(connection, "open_client", opened)

    facts = dict(line.split(maxsplit=1) for line in run("show", "lamp").stdout.splitlines())
    document = json.loads(run("show", "lamp", "--json").stdout)

    assert (facts["version"], facts["max_attempts"], facts["paused"]) == ("1.2.3", "3", "no")
    assert document["policy_etag"] == "p"


def test_purge_counts_all_steps(fake):
    """Progress goes to stderr, the sum to stdout; programs get the numbers."""
    people = run("purge", "lamp", "--yes", "--cancel-queued")
    programs = run("purge", "lamp", "-y", "--older-than", "24", "--json")

    assert people.stdout == "5 deleted, 1 cancelled\n"
    assert "2 deleted, 1 cancelled so far" in people.stderr
    assert json.loads(programs.stdout) == {"deleted": 5, "cancelled": 1}
    assert fake.asked[0] == ("purge", "lamp", None, True)
    ago = datetime.now(UTC) - fake.asked[1][2]
    assert timedelta(hours=24) <= ago < timedelta(hours=25)


def test_purge_asks_first(fake):
    """Without a yes nothing is deleted."""
    result = CliRunner().invoke(app, ["backend", "purge", "lamp"], input="n\n")

    assert result.exit_code == ExitCode.ENDED_BADLY
    assert "with their results?" in result.stderr
    assert fake.asked == []


def test_unregister_tells_how_many_jobs_wait(fake):
    """As words for people, as numbers for programs."""
    plain = run("unregister", "sim", "--etag", "abc")
    forced = run("unregister", "sim", "--force")
    as_json = run("unregister", "sim", "--force", "--json")

    assert fake.asked[:2] == [("unregister", "sim", "abc", False), ("unregister", "sim", "", True)]
    assert "jobs" not in plain.stderr
    assert "2 jobs have not ended" in forced.stderr
    assert json.loads(as_json.stdout) == {"backend": "sim", "unfinished_jobs": 2}
