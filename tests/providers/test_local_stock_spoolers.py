# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""Backends that spoolers of today's systems serve beside us: only the next job lies in the queue."""

import asyncio
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, ManualClock, Scene, token_of
from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Query
from spoolway_providers.local import claiming, following
from spoolway_providers.local.layout import Place
from spoolway_providers.local.taking import Taker, lock_of
from spoolway_providers.model import Job, JobKey, Outcome, Reason, State
from tests.providers.local_folder import Folder, OpenLocal, folder, found, open_local, settled, until

STOCK = frozenset({BACKEND})
RESULT = {"success": True}


@pytest.fixture
async def scene(open_local: OpenLocal, folder: Folder) -> Scene:
    return await open_local(folder, stock_spoolers=STOCK)


def offered(folder: Folder) -> list[str]:
    """The ids of the jobs that a spooler of today's systems would find."""
    queue = folder.job_path(Place.QUEUED, JobKey(BACKEND, "x")).parent
    return sorted(path.stem for path in queue.glob("*.json"))


async def is_offered(folder: Folder, *jobs: Job) -> None:
    await until(lambda: offered(folder) == sorted(job.key.id for job in jobs))


async def test_only_the_next_job_is_offered(folder: Folder, scene: Scene) -> None:
    """Of all that wait only the first lies in the queue; the next follows once it has left."""
    first, second, third = [await scene.submit() for _ in range(3)]
    await is_offered(folder, first)
    [claimed] = await scene.claim()
    await is_offered(folder, second)
    folder.take(second.key)
    await is_offered(folder, third)

    assert claimed.key == first.key
    await settled(scene)
    assert folder.place(first.key) is Place.RUNNING
    assert (await found(scene, second.key, State.RUNNING)).reason is Reason.FOREIGN


async def test_waiting_contents_are_files_too(folder: Folder, scene: Scene) -> None:
    """Jobs that are not offered lie out of reach, and are read and claimed from there."""
    jobs = [await scene.submit(content=b'{"n": %d}' % n) for n in range(3)]
    await settled(scene)

    assert [folder.place(job.key) for job in jobs] == [Place.QUEUED, Place.WAITING, Place.WAITING]
    claimed = await scene.provider.claim(BACKEND, [scene.order() for _ in range(3)])
    assert [one.content for one in claimed] == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']


async def test_urgent_job_is_offered_instead(folder: Folder, scene: Scene) -> None:
    """A job that comes first by its priority takes the place of the one that is offered."""
    ordinary = await scene.submit()
    await is_offered(folder, ordinary)
    urgent = await scene.submit(priority=5)
    await is_offered(folder, urgent)

    assert folder.place(ordinary.key) is Place.WAITING


async def test_job_past_its_latest_start_is_not_offered(folder: Folder, open_local: OpenLocal) -> None:
    """Once the latest start of the job that is offered has passed, the next one is offered instead."""
    clock = ManualClock()
    scene = await open_local(folder, stock_spoolers=STOCK, options={"clock": clock})
    late = await scene.submit(expire_at=clock.now + timedelta(seconds=1))
    later = await scene.submit()
    await is_offered(folder, late)
    clock.advance(timedelta(seconds=1))
    await is_offered(folder, later)

    assert folder.place(late.key) is Place.WAITING
    expired = await scene.do(late, rules.Due())
    await settled(scene)
    assert (expired.state, folder.place(late.key)) == (State.EXPIRED, Place.DELETED)
    assert offered(folder) == [later.key.id]


async def test_nothing_is_offered_while_paused(folder: Folder, scene: Scene) -> None:
    """A backend that an operator paused, and a job that is held, offer nothing to others."""
    job = await scene.submit()
    await is_offered(folder, job)
    await scene.set_policy(paused=True)
    await is_offered(folder)
    await scene.set_policy(paused=False)
    await is_offered(folder, job)
    await scene.do(await scene.provider.get(job.key), rules.Hold("operator"))
    await is_offered(folder)

    await settled(scene)
    assert folder.place(job.key) is Place.WAITING


async def test_claim_passes_over_what_another_took(folder: Folder, scene: Scene) -> None:
    """A claim that comes after another's rename leaves the job to the other and takes the next one."""
    first, second = [await scene.submit() for _ in range(2)]
    await is_offered(folder, first)
    folder.take(first.key)

    [claimed] = await scene.claim()

    assert claimed.key == second.key
    job = await found(scene, first.key, State.RUNNING)
    assert (job.reason, job.holder) == (Reason.FOREIGN, None)
    folder.end(first.key, result=RESULT)
    await found(scene, first.key, State.DONE)


async def test_dropped_files_take_their_turn(folder: Folder, scene: Scene) -> None:
    """A file that somebody drops waits for its turn, out of others' reach, as any other."""
    first = await scene.submit()
    await is_offered(folder, first)
    key = folder.drop("dropped")
    dropped = await found(scene, key)
    await is_offered(folder, first)
    await scene.claim()

    await is_offered(folder, dropped)


async def test_f2_race_with_other_spoolers_has_one_winner(folder: Folder, scene: Scene) -> None:
    """While another program takes whatever lies in the queue, each job runs once, there or here."""
    jobs = [await scene.submit() for _ in range(40)]
    theirs: list[str] = []
    ours: list[str] = []

    async def take() -> None:
        while len(theirs) + len(ours) < len(jobs):
            for job_id in offered(folder):
                key = JobKey(BACKEND, job_id)
                try:
                    folder.take(key)
                except FileNotFoundError:
                    continue
                theirs.append(job_id)
                folder.end(key, result=RESULT)
            await asyncio.sleep(random.random() * 0.01)

    async def claim() -> None:
        while len(theirs) + len(ours) < len(jobs):
            for job in await scene.claim():
                ours.append(job.key.id)
                await scene.complete(await scene.do(job, rules.Accept(token_of(job))))
            await asyncio.sleep(random.random() * 0.02)

    await asyncio.wait_for(asyncio.gather(take(), claim()), 30)

    assert sorted(theirs + ours) == sorted(job.key.id for job in jobs)
    assert theirs
    assert ours
    for job in jobs:
        await found(scene, job.key, State.DONE)


async def test_claim_that_was_killed_before_its_rename(
    folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that was committed but not followed by its rename: if another took the file, it has the job."""
    first, second = [await scene.submit() for _ in range(2)]
    await is_offered(folder, first)

    def be_killed(self: Taker, jobs: object) -> None:
        raise OSError("killed")

    monkeypatch.setattr(Taker, "take", be_killed)
    with pytest.raises(OSError, match="killed"):
        await scene.claim()
    monkeypatch.undo()
    folder.take(first.key)

    job = await found(scene, first.key, State.RUNNING)

    assert (job.reason, job.attempts[-1].outcome) == (Reason.FOREIGN, Outcome.WITHDRAWN)
    await is_offered(folder, second)


async def test_busy_queue_is_unavailable(
    folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim waits for another process's to end, but not for ever."""
    monkeypatch.setattr(claiming, "_LOCK_LIMIT_S", 0.1)
    lock = lock_of(folder.layout, BACKEND)
    while not lock.try_acquire():  # noqa: ASYNC110 - a lock of another process, which wakes nobody
        await asyncio.sleep(0.01)

    with pytest.raises(Unavailable, match="locked"):
        await scene.claim()
    lock.release()
    assert await scene.claim() == []


async def test_other_backends_are_as_always(folder: Folder, scene: Scene) -> None:
    """On a backend that is not marked all that waits lies in the queue."""
    await scene.provider.put_config("multiqudit", b"{}", None)
    jobs = [await scene.submit(backend="multiqudit") for _ in range(3)]
    await settled(scene)

    assert [folder.place(job.key) for job in jobs] == [Place.QUEUED] * 3


async def test_backend_that_is_no_longer_marked(folder: Folder, scene: Scene, open_local: OpenLocal) -> None:
    """Once the mark is taken away all that waits lies in the queue, and is claimed in its order."""
    jobs = [await scene.submit() for _ in range(3)]
    await settled(scene)
    await scene.provider.close()
    again = await open_local(folder, "session-2")

    await is_offered(folder, *jobs)
    assert [job.key for job in await again.claim(5)] == [job.key for job in jobs]


async def test_backend_that_is_newly_marked(folder: Folder, open_local: OpenLocal) -> None:
    """Once a backend is marked, all but the next job are taken out of others' reach."""
    scene = await open_local(folder)
    jobs = [await scene.submit() for _ in range(3)]
    await settled(scene)
    await scene.provider.close()
    again = await open_local(folder, "session-2", stock_spoolers=STOCK)

    await is_offered(folder, jobs[0])
    assert [job.key for job in await again.claim(5)] == [job.key for job in jobs]
