"""Several processes claim from one MongoDB."""

import asyncio
import subprocess
import sys
from collections import Counter

from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND
from spoolway_providers.model import Job
from tests.providers.mongodb_server import MongoServer, server, stand_in

__all__ = ["server", "stand_in"]

PROCESSES = 3
JOBS = 120
"""At most 200 queued: the stand-in's claim costs in proportion to the queue."""

CLAIMER = """
import asyncio, sys
from spoolway_providers.conformance import Scene
from spoolway_providers.mongodb import MongoProvider

async def main():
    provider = MongoProvider.from_login({"uri": sys.argv[1], "database": sys.argv[2]})
    await provider.open()
    scene = Scene(provider, sys.argv[3])
    await scene.set_up()
    print("ready", flush=True)
    sys.stdin.readline()
    size = 1
    while claimed := await scene.claim(size):
        for job in claimed:
            print(job.key.id, job.attempts[-1].token, job.seq)
        size = size % 3 + 1
    await provider.close()

asyncio.run(main())
"""


def claim_all(server: MongoServer, name: str) -> list[list[list[str]]]:
    """Let processes claim all they can, at once; of each what it claimed, in order."""
    claimers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CLAIMER, server.uri, name, f"claimer-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    outputs = [claimer.communicate()[0] for claimer in claimers]
    assert [claimer.returncode for claimer in claimers] == [0] * PROCESSES
    return [[line.split() for line in output.splitlines()] for output in outputs]


async def test_f2_f12_each_job_has_one_holder_and_order_holds(server: MongoServer) -> None:
    """Of processes that claim at once, each job goes to one, and each has its jobs in order."""
    async with server.database() as name:
        provider = server.provider(name)
        await provider.open()
        scene = Scene(provider)
        await scene.set_up()
        jobs = [
            job for job in await provider.submit([scene.draft() for _ in range(JOBS)]) if isinstance(job, Job)
        ]

        claimed = await asyncio.to_thread(claim_all, server, name)

        winners = Counter(job_id for process in claimed for job_id, _, _ in process)
        assert winners == Counter(job.key.id for job in jobs)
        for process in claimed:
            order = [int(seq) for _, _, seq in process]
            assert order == sorted(order)
        told = {job_id: token for process in claimed for job_id, token, _ in process}
        stored = [await provider.get(job.key) for job in jobs]
        assert {job.key.id: job.attempts[-1].token for job in stored} == told
        assert all(len(job.attempts) == 1 for job in stored)
        assert await provider.claim(BACKEND, [scene.order()]) == []
        await provider.close()
