"""`spoolway top`, against a real server."""

import asyncio

from typer.testing import CliRunner

from spoolway import UnavailableError
from spoolway_server.cli import app
from spoolway_server.cli.exits import ExitCode
from spoolway_server.cli.top import _Clients, _picture_or_trouble
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab


async def test_it_shows_storages_backends_and_spoolers(lab: Lab, alice: Caller) -> None:
    """One picture where nobody looks: who waits, who works, what is well."""
    for _ in range(3):
        await alice.submit()
    spooler = FakeSpooler(lab, "lab-1")
    await spooler.connect()
    await spooler.credit(1)
    await spooler.take()

    result = await asyncio.to_thread(
        CliRunner().invoke, app, ["top", "--address", lab.server.address, "--user", "op"]
    )

    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert result.exit_code == 0, result.output
    assert "2 jobs wait, 1 in hand" in result.stdout
    assert lines["main"][-1] == "ok"
    assert lines["sim"] == ["2", "1", "ok"]
    assert lines["lab-1"][:2] == ["sim", "1"]


async def test_a_server_that_is_away_ends_a_single_picture() -> None:
    """Once means once: the exit code tells that nobody answers."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["top", "--once", "--address", "127.0.0.1:1"])

    assert result.exit_code == ExitCode.UNAVAILABLE


async def test_a_live_view_outlives_its_server() -> None:
    """While the server is away the view says so, and tries again."""

    class Away:
        async def storages(self) -> None:
            raise UnavailableError("nobody answers")

        backends = spoolers = storages

    trouble = await _picture_or_trouble(_Clients(Away(), Away()))  # type: ignore[arg-type]  # as much as is asked

    assert "nobody answers" in str(trouble)
    assert "Trying again" in str(trouble)
