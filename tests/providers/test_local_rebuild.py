# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""A local storage with new index takes over what lies in the folders: its own, or another installation's."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, token_of
from spoolway_providers.errors import Unavailable
from spoolway_providers.interface import Query
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import Job, JobKey, Reason, State
from tests.providers.local_folder import (
    Folder,
    OpenLocal,
    found,
    open_local,
    remove_index,
    settled,
    until,
)

CONTENT = b'{"experiment_0": {"shots": 4}}'
RESULT = b'{"success": true}'


@pytest.fixture(params=list(Naming))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "lab", request.param)


async def all_jobs(scene: Scene) -> dict[str, Job]:
    return {job.key.id: job for job in (await scene.provider.find(Query(limit=10_000))).jobs}


async def known(scene: Scene, number: int) -> dict[str, Job]:
    """All jobs, once there are so many."""

    async def are_known() -> bool:
        return await scene.provider.count(Query()) == number

    await until(are_known)
    return await all_jobs(scene)


async def test_lost_index_is_rebuilt(folder: Folder, open_local: OpenLocal) -> None:
    """Without its index every job is there again, in its state or HELD(IMPORTED) if it ran, with owner."""
    scene = await open_local(folder)
    await scene.submit(content=CONTENT)
    done = await scene.complete(await scene.claim_and_accept(), RESULT)
    await scene.submit()
    failed = await scene.claim_and_accept()
    failed = await scene.do(failed, rules.Fail(token_of(failed), "no vacuum"))
    cancelled = await scene.submit_and_cancel(owner="bob")
    await scene.submit()
    running = await scene.claim_and_accept()
    held = await scene.do(await scene.submit(), rules.Hold("operator"))
    queued = await scene.submit(owner="bob", labels={"run": "7"}, max_attempts=1, priority=3)
    await scene.provider.close()
    remove_index(folder)

    again = await open_local(folder, "session-2")
    jobs = await known(again, 6)

    assert {job_id: (job.state, job.reason) for job_id, job in jobs.items()} == {
        done.key.id: (State.DONE, Reason.NONE),
        failed.key.id: (State.ERROR, Reason.FAILED),
        cancelled.key.id: (State.CANCELLED, Reason.NONE),
        running.key.id: (State.HELD, Reason.IMPORTED),
        held.key.id: (State.HELD, Reason.OPERATOR),
        queued.key.id: (State.QUEUED, Reason.NONE),
    }
    assert {job_id for job_id, job in jobs.items() if job.owner == "bob"} == {cancelled.key.id, queued.key.id}
    found_again = jobs[queued.key.id]
    assert (found_again.labels, found_again.max_attempts, found_again.priority) == ({"run": "7"}, 1, 3)
    result, error = jobs[done.key.id].result, jobs[failed.key.id].error
    assert result is not None
    assert await again.provider.read_blob(result) == RESULT
    assert await again.provider.read_blob(jobs[done.key.id].content) == CONTENT
    assert error is not None
    assert error.message == "no vacuum"


async def test_rebuilt_queue_keeps_its_order(folder: Folder, open_local: OpenLocal) -> None:
    """Jobs that waited are claimed in the order of their files, before any that is submitted afterwards."""
    scene = await open_local(folder)
    jobs = []
    for _ in range(8):
        jobs.append(await scene.submit())
        await settled(scene)
    await scene.provider.close()
    remove_index(folder)

    again = await open_local(folder, "session-2")
    last = await again.submit()

    assert [job.key.id for job in await again.claim(20)] == [job.key.id for job in (*jobs, last)]


async def test_imported_job_goes_on_by_an_operators_word(folder: Folder, open_local: OpenLocal) -> None:
    """A job that ran when the index was lost waits for a decision, and runs again from its own file."""
    scene = await open_local(folder)
    await scene.submit(content=CONTENT)
    job = await scene.claim_and_accept()
    await scene.provider.close()
    remove_index(folder)
    again = await open_local(folder, "session-2")
    imported = await found(again, job.key, State.HELD)
    held_claim = await again.claim()

    await again.do(imported, rules.Unhold("operator"))
    await settled(again)

    assert held_claim == []
    assert folder.place(job.key) is Place.QUEUED
    [claimed] = await again.provider.claim(BACKEND, [again.order()])
    assert claimed.content == CONTENT


async def test_index_that_is_removed_at_run_time_is_made_anew(folder: Folder, open_local: OpenLocal) -> None:
    """A server whose index is removed under its feet goes on: nothing that it had acknowledged is lost."""
    scene = await open_local(folder)
    jobs = [await scene.submit() for _ in range(5)]
    remove_index(folder)

    async def are_known() -> bool:
        try:
            return Path(folder.layout.index).exists() and len(await all_jobs(scene)) == 5
        except Unavailable:
            # It is being opened anew.
            return False

    await until(are_known)
    again = Scene(scene.provider, "session-2")
    await again.set_up()
    assert [job.key.id for job in await again.claim(9)] == [job.key.id for job in jobs]


async def test_documents_stay_as_they_are(folder: Folder, open_local: OpenLocal) -> None:
    """To take over what has ended rewrites no document."""
    scene = await open_local(folder)
    for _ in range(3):
        await scene.submit()
        await scene.complete(await scene.claim_and_accept())
    await scene.provider.close()
    remove_index(folder)
    before = {name: (folder.base / name).stat() for name in folder.documents()}

    again = await open_local(folder, "session-2")
    await known(again, 3)
    await settled(again)

    after = {name: (folder.base / name).stat() for name in folder.documents()}
    assert {name: info.st_ino for name, info in after.items()} == {
        name: info.st_ino for name, info in before.items()
    }


def existing(folder: Folder) -> dict[str, JobKey]:
    """An installation of today's programs, as storage-layout.md describes it."""
    config = {"description": "a qudit", "version": "0.2", "display_name": BACKEND, "num_wires": 1}
    folder.write(folder.config_path(), config)
    keys = {}
    for number, what in enumerate(("queued", "running", "done", "failed", "resultless")):
        dated = f"20210906_20373{number}-{BACKEND}-user_1-1088{number}"
        job_id = dated if folder.naming is Naming.BACKEND_FILES else f"6b056aacd1d9ca373200{number:04x}"
        keys[what] = key = JobKey(BACKEND, job_id)
        status = {"failed": "ERROR", "done": "DONE"}.get(what, "INITIALIZING")
        words = {"job_id": job_id, "status": status, "detail": "Got your json.", "error_message": "None"}
        if what == "failed":
            words["error_message"] = "too many wires"
        folder.write(folder.status_path(key, "user_1"), words)
        place = {"queued": Place.QUEUED, "running": Place.RUNNING, "failed": Place.DELETED}.get(
            what, Place.FINISHED
        )
        folder.write(folder.job_path(place, key, "user_1"), json.loads(CONTENT))
    result = {"header": {"alg": "EdDSA"}, "payload": {"success": True}, "signature": "..."}
    folder.write(folder.result_path(keys["done"], "user_1"), result)
    return keys


async def test_existing_installation_is_adopted_in_place(folder: Folder, open_local: OpenLocal) -> None:
    """Where today's programs have worked we go on: configs, jobs, results and ids are theirs."""
    keys = existing(folder)

    scene = await open_local(folder, owner="lab", registers=False)
    jobs = await known(scene, 5)

    assert {what: jobs[key.id].state for what, key in keys.items()} == {
        "queued": State.QUEUED,
        "running": State.HELD,
        "done": State.DONE,
        "failed": State.ERROR,
        "resultless": State.ERROR,
    }
    owner = "user_1" if folder.naming is Naming.BACKEND_FILES else "lab"
    assert {job.owner for job in jobs.values()} == {owner}
    error, result = jobs[keys["failed"].id].error, jobs[keys["done"].id].result
    assert error is not None
    assert error.message == "too many wires"
    assert result is not None
    assert json.loads(await scene.provider.read_blob(result))["signature"] == "..."
    [backend] = await scene.provider.backends()
    assert backend.config == folder.config_path().read_bytes()
    assert json.loads(backend.config)["description"] == "a qudit"
    assert [job.key for job in await scene.claim(5)] == [keys["queued"]]


async def test_waiting_jobs_of_a_marked_backend_are_rebuilt(tmp_path: Path, open_local: OpenLocal) -> None:
    """What lies out of others' reach is found again as well."""
    folder, stock = Folder(tmp_path / "lab"), frozenset({BACKEND})
    scene = await open_local(folder, stock_spoolers=stock)
    jobs = [await scene.submit() for _ in range(4)]
    await scene.provider.close()
    remove_index(folder)

    again = await open_local(folder, "session-2", stock_spoolers=stock)

    assert sorted(job.key for job in await again.claim(9)) == sorted(job.key for job in jobs)
