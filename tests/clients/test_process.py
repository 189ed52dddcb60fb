"""A spooler as a program of its own: signals, and its end."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from spoolway.spooler import _signals
from tests.clients.fake_server import PATIENCE_S, FakeServer

PROGRAM = """
import sys
from spoolway import Spooler

def run(job):
    print("started", flush=True)
    return {"said": sys.stdin.readline().strip()}

Spooler("lab-1", backend="echo", config={}, run=run, address=sys.argv[1], user="ada").run()
print("ended", flush=True)
"""


@contextlib.asynccontextmanager
async def program(server: FakeServer) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        server.address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return (await process.stdout.readline()).decode().strip()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to other processes")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(server: FakeServer, number: signal.Signals) -> None:
    """At SIGTERM or Ctrl-C the job in hand is finished and confirmed, then the program ends well."""
    async with program(server) as process:
        stream = await server.next_stream()
        await stream.accept("1")
        assert await line_of(process) == "started"
        process.send_signal(number)
        stream.confirm(await stream.receive("drain"))
        assert process.stdin is not None
        process.stdin.write(b"all of it\n")
        complete = await stream.receive("complete")
        stream.confirm(complete)

        assert complete.complete.result == b'{"said":"all of it"}'
        assert await line_of(process) == "ended"
        assert await process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to other processes")
async def test_a_second_signal_ends_a_program_whose_function_hangs(server: FakeServer) -> None:
    """A function that never returns does not keep the process alive."""
    async with program(server) as process:
        stream = await server.next_stream()
        await stream.accept("1")
        assert await line_of(process) == "started"
        process.send_signal(signal.SIGINT)
        stream.confirm(await stream.receive("drain"))
        process.send_signal(signal.SIGINT)

        assert await line_of(process) == "ended"
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0


async def test_signals_arrive_where_the_loop_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, whose event loops take no signal handlers, Ctrl-C drains too."""
    loop = asyncio.get_running_loop()

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_signal_handler", refuse)
    monkeypatch.setattr(loop, "remove_signal_handler", refuse)
    arrived = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)

    def tell() -> None:
        loop.call_soon_threadsafe(arrived.set)

    with _signals(tell):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(arrived.wait(), PATIENCE_S)

    assert signal.getsignal(signal.SIGINT) is before


def test_only_the_main_thread_takes_signals() -> None:
    """A spooler in a thread of a larger program leaves the signals to the program."""
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    async def look() -> None:
        with _signals(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=lambda: asyncio.run(look()))
    thread.start()
    thread.join()

    assert seen == [before]
