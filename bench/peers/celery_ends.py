"""Celery: its client and its worker, `python -m bench.peers.celery_ends client|worker PORT LINK`."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery

from bench import payload
from bench.peers.ends import Counter, serve_client

BACKEND = "free"
PROCESSES = 2
THREADS = 16
"""Of the client: it knows no asyncio."""
TASK = "bench.run"
START_S = 20.0


def _address(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


async def client(port: int, link_fd: int) -> None:
    # Without a result backend it does not subscribe to each result, which would cost it half of its speed.
    app = Celery(broker=_address(port), set_as_current=False)
    app.conf.broker_pool_limit = THREADS
    threads = ThreadPoolExecutor(THREADS)

    def send() -> None:
        app.send_task(TASK, (payload.job(time.monotonic_ns()).decode(),))

    async def submit(_backend: str) -> int:
        await asyncio.get_running_loop().run_in_executor(threads, send)
        return 1

    await serve_client(link_fd, submit)


async def worker(port: int, link_fd: int) -> None:
    counter = Counter(link_fd)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/told"
        told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        told.bind(path)
        told.setblocking(False)
        asyncio.get_running_loop().add_reader(told, _listen, told, counter)
        process = await _start(port, path)
        try:
            await _until_ready(port, counter)
            await counter.serve()
        finally:
            process.send_signal(signal.SIGQUIT)
            await process.wait()


async def _start(port: int, told: str) -> asyncio.subprocess.Process:
    options = ["-P", "prefork", "-c", str(PROCESSES), "-l", "ERROR"]
    # What a worker says to other workers; there is none.
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    celery = [sys.executable, "-m", "celery", "-A", "bench.peers.celery_app", "worker", *options]
    return await asyncio.create_subprocess_exec(
        # It ends with us, however we end.
        "setpriv", "--pdeathsig", "QUIT", *celery,
        env={**os.environ, "BENCH_REDIS": _address(port), "BENCH_TOLD": told, "C_FORCE_ROOT": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=Path.cwd(),
    )  # fmt: skip


async def _until_ready(port: int, counter: Counter) -> None:
    """A job of our own tells that the worker works."""
    app = Celery(broker=_address(port), set_as_current=False)
    await asyncio.to_thread(app.send_task, TASK, (payload.job(time.monotonic_ns()).decode(),))
    counter.tally.restart(BACKEND, keep_arrivals=False)
    async with asyncio.timeout(START_S):
        await counter.tally.wait(1)


def _listen(told: socket.socket, counter: Counter) -> None:
    while True:
        try:
            words = told.recv(64).split()
        except BlockingIOError:
            return
        if words[0] == b"arrived":
            counter.tally.travelled(BACKEND, int(words[1]))
        else:
            counter.tally.finished(BACKEND, 1)


if __name__ == "__main__":
    # A parent that asks us to stop gets its worker stopped, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run({"client": client, "worker": worker}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3])))
