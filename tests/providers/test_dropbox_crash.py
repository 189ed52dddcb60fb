"""A process that is killed in the middle of its work loses nothing that it had acknowledged."""

import subprocess
import sys
from pathlib import Path

from spoolway_providers.interface import Query
from spoolway_providers.model import State
from tests.dropbox_emulator.scene import DropboxAccount, make_account, opened, staged_scene

ROOT = Path(__file__).parents[2]
WORKER = """
import asyncio, sys
from tests.dropbox_emulator.scene import DropboxAccount, make_provider
from spoolway_providers import rules
from spoolway_providers.conformance import Scene

async def submit(scene):
    while True:
        job = await scene.submit()
        print("submitted", job.key.id, flush=True)

async def work(scene):
    while True:
        for job in await scene.claim(4):
            print("claimed", job.key.id, flush=True)
            job = await scene.do(job, rules.Accept(job.attempts[-1].token))
            print("accepted", job.key.id, flush=True)
            job = await scene.complete(job)
            print("done", job.key.id, flush=True)

async def main():
    provider = make_provider(DropboxAccount(sys.argv[1]))
    await provider.open()
    scene = Scene(provider, sys.argv[2])
    await scene.set_up()
    await asyncio.gather(*(submit(scene) for _ in range(4)), *(work(scene) for _ in range(2)))

asyncio.run(main())
"""


def work_until_killed(account: DropboxAccount, session: str, acknowledgements: int) -> list[tuple[str, str]]:
    """Let a process work, and kill it once it has acknowledged so much; what it has acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, account.refresh_token, session],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledgements)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
    told = [line.split() for line in lines if line.endswith("\n")]
    return [(what, job_id) for what, job_id in told]


async def test_f3_f8_kill_9_loses_nothing_acknowledged() -> None:
    """Whenever the process is killed, each acknowledged step of each job is there, and each file once."""
    account = make_account()
    told: list[tuple[str, str]] = []
    for round_number, acknowledgements in enumerate((20, 77, 150)):
        told += work_until_killed(account, f"killed-{round_number}", acknowledgements)
    async with opened(account) as provider:
        await provider.repair()
        jobs = {job.key.id: job for job in (await provider.find(Query(limit=10_000))).jobs}
        scene = await staged_scene(provider)
        for job in jobs.values():
            assert await provider.read_blob(job.content)
            assert job.result is None or await provider.read_blob(job.result)
        waiting = [job.key.id for job in jobs.values() if job.state is State.QUEUED]
        claimed = [job.key.id for job in await scene.claim(len(jobs))]

    assert len(told) > 200
    for what, job_id in told:
        job = jobs[job_id]
        assert what != "claimed" or job.attempts
        assert what != "accepted" or job.attempt_count == 1
        assert what != "done" or job.state is State.DONE
    assert claimed == sorted(waiting)
    files = [path.rsplit("/", 1)[1] for path in account.tree("/Backend_files") if "/job-" in path]
    assert sorted(files) == sorted(f"job-{job_id}.json" for job_id in jobs)
