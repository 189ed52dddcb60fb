"""A process that is killed in the middle of its work loses nothing that it had acknowledged."""

import subprocess
import sys
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, JobKey, State
from tests.providers.conftest import OpenSqlite

WORKER = """
import asyncio, sys
from pathlib import Path
from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.sqlite import SqliteProvider

async def submit(scene):
    while True:
        job = await scene.submit()
        print("submitted", job.key.id, flush=True)

async def work(scene):
    while True:
        for job in await scene.claim(4):
            print("claimed", job.key.id, flush=True)
            job = await scene.do(job, rules.Accept(job.attempts[-1].token))
            job = await scene.complete(job)
            print("done", job.key.id, flush=True)

async def main():
    provider = SqliteProvider(Path(sys.argv[1]))
    await provider.open()
    scene = Scene(provider, sys.argv[2])
    await scene.set_up()
    await asyncio.gather(*(submit(scene) for _ in range(8)), *(work(scene) for _ in range(2)))

asyncio.run(main())
"""


def work_until_killed(path: Path, session: str, acknowledgements: int) -> list[tuple[str, str]]:
    """Let a process work, and kill it once it has acknowledged so much; what it has acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), session], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        # What it said before it died counts too; a last line may be cut off.
        lines += process.stdout.read().splitlines(keepends=True)
    told = [line.split() for line in lines if line.endswith("\n")]
    return [(what, job_id) for what, job_id in told]


async def test_f3_kill_9_loses_nothing_acknowledged(path: Path, open_sqlite: OpenSqlite) -> None:
    """Whenever the process is killed, each acknowledged step of each job is there afterwards."""
    told: list[tuple[str, str]] = []
    for round_number, acknowledgements in enumerate((50, 333, 700)):
        told += work_until_killed(path, f"killed-{round_number}", acknowledgements)

    scene = Scene(await open_sqlite())
    jobs = {job.key.id: job for job in await all_jobs(scene)}
    assert told
    for what, job_id in told:
        job = jobs[job_id]
        assert what != "claimed" or job.attempts
        assert what != "done" or job.state is State.DONE
    for job in jobs.values():
        await assert_whole(scene, job)


async def all_jobs(scene: Scene) -> list[Job]:
    return (await scene.provider.find(Query(limit=100_000))).jobs


async def assert_whole(scene: Scene, job: Job) -> None:
    """Its content is there, and its result exactly if it is DONE."""
    assert await scene.provider.read_blob(job.content)
    assert (job.result is not None) == (job.state is State.DONE)
    if job.result is not None:
        assert await scene.provider.read_blob(job.result)


async def test_f4_jobs_of_a_killed_spooler_are_found(path: Path, open_sqlite: OpenSqlite) -> None:
    """What a killed process held is found by its session, and orphaned once that is closed."""
    work_until_killed(path, "killed", 200)
    scene = Scene(await open_sqlite())
    held = await scene.find_keys(session="killed", limit=1000)

    await scene.provider.close_session("killed", None, "LOST")

    assert await scene.find_keys(orphaned=True, limit=1000) == held
    with pytest.raises(Exception, match="LOST"):
        await scene.provider.renew("killed", 1)
    assert all(isinstance(key, JobKey) for key in held)
