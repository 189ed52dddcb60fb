"""A process that runs a scenario on a local folder, again and again, in children that are killed at a step.

It has everything imported, so that a child costs a fork. Each line it reads names a folder, the folder's
naming, a scenario and a number: the child kills itself, as by kill -9, before so many steps of writing files
have been taken. It answers `killed`, or `done` if the child came to its end.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, blob, token_of
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Naming
from spoolway_providers.local.login import Settings
from spoolway_providers.model import result_blob_id

CONTENT = b'{"experiment_0": {"shots": 4}}'
RESULT = b'{"success": true}'


async def lives(scene: Scene, tell: Callable[[str, str], None]) -> None:
    """One job ends well, one is cancelled, one fails and runs again, one is deleted."""
    settled = scene.provider.repair
    job = await scene.submit(content=CONTENT)
    tell("submitted", job.key.id)
    other = await scene.submit(content=CONTENT)
    tell("submitted", other.key.id)
    await settled()
    job = await scene.claim_and_accept()
    tell("started", job.key.id)
    await settled()
    job = await scene.complete(job, RESULT)
    tell("done", job.key.id)
    other = await scene.do(other, rules.Cancel("alice"))
    tell("cancelled", other.key.id)
    await settled()
    await scene.provider.delete(other.key, other.revision)
    tell("deleted", other.key.id)
    last = await scene.submit(content=CONTENT)
    tell("submitted", last.key.id)
    last = await scene.claim_and_accept()
    await settled()
    last = await scene.do(last, rules.Release(token_of(last)))
    tell("submitted", last.key.id)


async def uploads(scene: Scene, tell: Callable[[str, str], None]) -> None:
    """A job whose content and result were staged."""
    await scene.provider.stage("upload", 0, CONTENT)
    job = await scene.submit(content=blob("upload", CONTENT))
    tell("submitted", job.key.id)
    await scene.provider.repair()
    job = await scene.claim_and_accept()
    ref = blob(result_blob_id(job.key, token_of(job)), RESULT)
    await scene.provider.stage(ref.id, 0, RESULT)
    job = await scene.do(job, rules.Complete(token_of(job), ref))
    tell("done", job.key.id)


async def stock(scene: Scene, tell: Callable[[str, str], None]) -> None:
    """Jobs of which one at a time is offered to spoolers of today's systems."""
    for _ in range(3):
        tell("submitted", (await scene.submit(content=CONTENT)).key.id)
        await scene.provider.repair()
    tell("submitted", (await scene.submit(content=CONTENT, priority=5)).key.id)
    await scene.provider.repair()
    for _ in range(2):
        for job in await scene.claim():
            started = await scene.do(job, rules.Accept(token_of(job)))
            tell("started", job.key.id)
            await scene.complete(started, RESULT)
            tell("done", job.key.id)
        await scene.provider.repair()


SCENARIOS: dict[str, Callable[[Scene, Callable[[str, str], None]], Awaitable[None]]] = {
    "lives": lives,
    "uploads": uploads,
    "stock": stock,
}


class Killer:
    """Ends the process, without a chance to do anything more, before its n-th step."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __call__(self, step: str, subject: str) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


async def play(base: Path, naming: Naming, scenario: str, steps: int) -> None:
    stock_spoolers = frozenset({BACKEND}) if scenario == "stock" else frozenset()
    provider = LocalProvider(Settings(base, naming, stock_spoolers), fault=Killer(steps))
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    acknowledged = os.open(f"{base}.told", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(what: str, job_id: str) -> None:
        os.write(acknowledged, f"{what} {job_id}\n".encode())

    await SCENARIOS[scenario](scene, tell)
    await provider.close()


def main() -> None:
    print("ready", flush=True)  # noqa: T201 - tells the test
    for line in sys.stdin:
        base, naming, scenario, steps = line.split()
        child = os.fork()
        if child == 0:
            asyncio.run(play(Path(base), Naming(naming), scenario, int(steps)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        outcome = "killed" if os.WIFSIGNALED(status) else "done" if status == 0 else "broken"
        print(outcome, flush=True)  # noqa: T201 - tells the test


if __name__ == "__main__":
    main()
