"""The commands about spoolers, without a server."""

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from spoolway import SpoolerSession, SpoolerState
from spoolway_server.cli import admin, app


def session(spooler_id, **facts):
    usual = {
        "session": "5" * 32,
        "instance_id": "i",
        "principal": "robot",
        "backends": ("lamp", "laser"),
        "storages": ("main",),
        "state": SpoolerState.LIVE,
        "reason": "",
        "has_stream": True,
        "disconnected": False,
        "connected_here": True,
        "open_time": datetime.now(UTC),
        "close_time": None,
        "last_beat_time": datetime.now(UTC),
        "jobs_in_hand": 1,
        "credit": {"": 4, "lamp": 2},
    }
    return SpoolerSession(spooler_id=spooler_id, **(usual | facts))


class FakeAdmin:
    def __init__(self):
        self.asked = []

    async def spoolers(self, backend=None, *, closed=False):
        self.asked.append((backend, closed))
        gone = session("lab-2", state=SpoolerState.CLOSED, reason="SPOOLER_SILENT", connected_here=False)
        return [session("lab-1"), gone]

    async def revoke_spooler(self, session_id):
        self.asked.append(session_id)
        return session("lab-1", state=SpoolerState.CLOSED, reason="SPOOLER_REVOKED")


@pytest.fixture
def fake(monkeypatch):
    fake = FakeAdmin()

    @asynccontextmanager
    async def opened(_connection):
        yield fake

    monkeypatch.setattr(admin, "open_admin", opened)
    return fake


def run(*arguments):
    return CliRunner().invoke(app, ["spooler", *arguments])


def test_list_tells_who_spools(fake):
    """Each session is a row with its backends, state, jobs and credit."""
    lines = run("list", "--backend", "lamp", "--closed").stdout.splitlines()

    assert fake.asked == [("lamp", True)]
    assert lines[1].split()[:8] == ["lab-1", "lamp", "laser", "live", "1", "4", "lamp=2", "0"]
    assert "closed: SPOOLER_SILENT" in lines[2]


@pytest.mark.usefixtures("fake")
def test_list_as_json():
    """Programs get one document with all sessions."""
    document = json.loads(run("list", "--json").stdout)

    assert [spooler["state"] for spooler in document["spoolers"]] == ["LIVE", "CLOSED"]
    assert document["spoolers"][0]["credit"] == {"": 4, "lamp": 2}


def test_revoke_says_how_it_comes_back(fake):
    """The operator is told what to do next; programs get the session."""
    people, programs = run("revoke", "5" * 32), run("revoke", "5" * 32, "--json")

    assert fake.asked == ["5" * 32] * 2
    assert "start it anew" in people.stderr
    assert json.loads(programs.stdout)["reason"] == "SPOOLER_REVOKED"
