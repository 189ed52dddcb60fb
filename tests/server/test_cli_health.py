"""`spoolway health`: what a probe is told."""

import asyncio

import pytest
from typer.testing import CliRunner

from spoolway_server.cli import app
from spoolway_server.cli.exits import ExitCode
from tests.server.lab import Lab


async def probe(*arguments: str) -> tuple[int, str]:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["health", *arguments])
    return result.exit_code, result.output


async def test_a_server_that_serves_is_well(lab: Lab) -> None:
    """Exit code 0, for the server and for a storage."""
    assert await probe("--address", lab.server.address) == (0, "SERVING\n")
    assert await probe("storage/main", "--address", lab.server.address) == (0, "SERVING\n")


async def test_a_server_that_drains_is_not(lab: Lab) -> None:
    """Exit code 1 while it drains."""
    await lab.server._begin_drain()

    code, output = await probe("--address", lab.server.address)

    assert code == ExitCode.ENDED_BADLY
    assert "not serving" in output


async def test_what_is_not_there_has_codes_of_its_own(lab: Lab) -> None:
    """An unknown storage and a dead server are told apart."""
    code, output = await probe("storage/nothing", "--address", lab.server.address)
    assert code == ExitCode.NOT_FOUND
    assert "storage/nothing" in output

    code, output = await probe("--address", "127.0.0.1:1", "--timeout", "5")
    assert code == ExitCode.UNAVAILABLE
    assert "127.0.0.1:1" in output


@pytest.mark.parametrize("address", ["http://lab:50061"])
async def test_a_wrong_address_is_told(address: str) -> None:
    """The settings are checked as for every command."""
    code, _ = await probe("--address", address)

    assert code == ExitCode.USAGE
