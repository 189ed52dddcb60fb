"""Many processes claim from one SQLite file."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from spoolway_providers.conformance import Scene
from spoolway_providers.model import Draft, Job
from tests.providers.conftest import OpenSqlite

PROCESSES = 8
JOBS = 4_000
BACKENDS = [f"backend{n}" for n in range(5)]

CLAIMER = """
import asyncio, sys
from pathlib import Path
from spoolway_providers.conformance import Scene
from spoolway_providers.sqlite import SqliteProvider

async def claim_all(scene, backend):
    while claimed := await scene.claim(10, backend):
        for job in claimed:
            print(backend, job.key.id, job.attempts[-1].token, job.seq)

async def main():
    provider = SqliteProvider(Path(sys.argv[1]))
    await provider.open()
    scene = Scene(provider, sys.argv[2])
    await scene.set_up()
    print("ready", flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(claim_all(scene, backend) for backend in sys.argv[3:]))
    await provider.close()

asyncio.run(main())
"""


def start_claimer(path: Path, number: int) -> "subprocess.Popen[str]":
    """A process with a session of its own that claims all it can once it is told to."""
    return subprocess.Popen(
        [sys.executable, "-c", CLAIMER, str(path), f"claimer-{number}", *BACKENDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_claim(claimers: "list[subprocess.Popen[str]]") -> list[list[list[str]]]:
    """Start all at once; of each process what it claimed, in order."""
    for claimer in claimers:
        assert claimer.stdout is not None
        assert claimer.stdout.readline() == "ready\n"
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    outputs = [claimer.communicate()[0] for claimer in claimers]
    assert [claimer.returncode for claimer in claimers] == [0] * len(claimers)
    return [[line.split() for line in output.splitlines()] for output in outputs]


async def submit_all(scene: Scene) -> list[Job]:
    """All jobs, over all backends in turn."""
    jobs: list[Job] = []
    for backend in BACKENDS:
        await scene.provider.put_config(backend, b"{}", None)
    for start in range(0, JOBS, 500):
        drafts: list[Draft] = [
            scene.draft(backend=BACKENDS[n % len(BACKENDS)]) for n in range(start, start + 500)
        ]
        jobs += [job for job in await scene.provider.submit(drafts) if isinstance(job, Job)]
    return jobs


async def test_f2_f12_each_job_has_one_holder_and_order_holds(path: Path, open_sqlite: OpenSqlite) -> None:
    """Of eight processes that claim at once, each job goes to one, and each backend's jobs in order."""
    scene = Scene(await open_sqlite())
    jobs = await submit_all(scene)
    claimers = [start_claimer(path, number) for number in range(PROCESSES)]

    claimed = await asyncio.to_thread(let_claim, claimers)

    winners = Counter(job_id for process in claimed for _, job_id, _, _ in process)
    assert winners == Counter(job.key.id for job in jobs)
    for process in claimed:
        for backend in BACKENDS:
            order = [int(seq) for name, _, _, seq in process if name == backend]
            assert order == sorted(order)
    await assert_stored(scene, jobs, claimed)


async def assert_stored(scene: Scene, jobs: list[Job], claimed: list[list[list[str]]]) -> None:
    """The storage says of each job what its winner was told, and gave them away in order."""
    told = {job_id: token for process in claimed for _, job_id, token, _ in process}
    stored = [await scene.provider.get(job.key) for job in jobs]
    assert {job.key.id: job.attempts[-1].token for job in stored} == told
    assert all(len(job.attempts) == 1 for job in stored)
    for backend in BACKENDS:
        times = [job.attempts[-1].claimed_at for job in stored if job.key.backend == backend]
        assert times == sorted(times)
