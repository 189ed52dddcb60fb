"""The Node.js example submits, watches and spools from the protos alone."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spoolway import JobClient, JobFailedError, Spooler
from tests.balancers.fleet import Server

pytestmark = pytest.mark.node

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
PATIENCE_S = 60.0


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    server = Server("server", folder, folder / "main.sqlite")
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def start(script: str, server: Server, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        "node",
        script,
        *arguments,
        cwd=EXAMPLE,
        env=os.environ | {"SPOOLWAY_ADDRESS": f"127.0.0.1:{server.port}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def said(process: asyncio.subprocess.Process, text: str) -> None:
    """Wait until a program has said something on stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while text not in (line := (await process.stderr.readline()).decode()):
            assert line, f"it ended without saying {text!r}"


@asynccontextmanager
async def spooling(server: Server) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start("spooler.js", server)
    try:
        await said(process, "connected")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_node_submits_and_watches_what_node_spools(tmp_path: Path) -> None:
    """submit.js shows every state and prints the result that spooler.js made."""
    async with serving(tmp_path) as server, spooling(server):
        submit = await start("submit.js", server, "adder", '{"numbers": [1, 2, 3.5]}')
        async with asyncio.timeout(PATIENCE_S):
            out, told = await submit.communicate()

    assert submit.returncode == 0, told.decode()
    assert json.loads(out) == {"sum": 6.5}
    assert told.decode().split()[-1] == "DONE"


async def test_node_and_python_run_each_others_jobs(tmp_path: Path) -> None:
    """A job of the client package runs in Node, and a job of Node in the client package."""
    async with serving(tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        async with spooling(server), JobClient(address, user="ada") as client:
            jobs = [await client.submit("adder", {"numbers": [n, 1]}) for n in range(20)]
            sums = [(await job.result(PATIENCE_S))["sum"] for job in jobs]
            with pytest.raises(JobFailedError, match="numbers"):
                await (await client.submit("adder", {"nothing": 1})).result(PATIENCE_S)
        spooler = Spooler(
            "py", backend="echo", config={}, run=lambda job: job.content, address=address, user="robot"
        )
        running = asyncio.create_task(spooler.serve())
        async with JobClient(address, user="ada") as client:
            async with asyncio.timeout(PATIENCE_S):
                while not [one for one in await client.backends() if one.name == "echo"]:
                    await asyncio.sleep(0.1)
        submit = await start("submit.js", server, "echo", '{"from": "node"}')
        out, told = await submit.communicate()
        spooler.drain()
        await running

    assert sums == [n + 1 for n in range(20)]
    assert json.loads(out) == {"from": "node"}, told


async def test_node_keeps_its_job_over_a_restart_of_the_server_and_ends_when_asked(tmp_path: Path) -> None:
    """The server is killed while a job runs: the spooler comes back with it, finishes it once, and drains."""
    async with serving(tmp_path) as server, spooling(server) as spooler:
        async with JobClient(f"127.0.0.1:{server.port}", user="ada") as client:
            job = await client.submit("adder", {"numbers": [20, 22], "milliseconds": 4000})
            async for snapshot in job.watch():
                if snapshot.state == "RUNNING":
                    break
            await server.end(signal.SIGKILL)
            await server.start()
            await said(spooler, "connected")
            result = await job.result(PATIENCE_S)
            attempts = (await job.status()).attempts
        spooler.send_signal(signal.SIGTERM)
        await said(spooler, "ended")
        code = await spooler.wait()

    assert result == {"sum": 42}
    assert [attempt.outcome for attempt in attempts] == ["DONE"]
    assert code == 0


async def test_node_tells_of_a_cancel(tmp_path: Path) -> None:
    """A running job that is cancelled ends CANCELLED, at once."""
    async with (
        serving(tmp_path) as server,
        spooling(server),
        JobClient(f"127.0.0.1:{server.port}", user="ada") as client,
    ):
        job = await client.submit("adder", {"numbers": [1], "milliseconds": 60_000})
        async for snapshot in job.watch():
            if snapshot.state == "RUNNING":
                break
        await job.cancel()
        ended = await job.wait(PATIENCE_S)

    assert ended.state == "CANCELLED"
