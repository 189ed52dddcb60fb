# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""Files that today's spoolers take, end and put back beside us are followed by their jobs."""

import json

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, token_of
from spoolway_providers.interface import Query
from spoolway_providers.local import following
from spoolway_providers.local.layout import Place
from spoolway_providers.model import Job, Reason, State
from tests.providers.local_folder import Folder, OpenLocal, folder, found, open_local, scene, settled, until

RESULT = {"success": True, "results": []}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience as for programs that are quick."""
    for name, seconds in (
        ("_ABSENT_S", 0.2),
        ("_STATUS_S", 0.4),
        ("_DOCUMENTS_S", 0.4),
        ("_QUIET_LOOK_S", 0.1),
    ):
        monkeypatch.setattr(following, name, seconds)


async def taken(folder: Folder, scene: Scene) -> Job:
    """A job that another program runs."""
    job = await scene.submit()
    await settled(scene)
    folder.take(job.key)
    return await found(scene, job.key, State.RUNNING)


async def test_taken_job_is_foreign(folder: Folder, scene: Scene) -> None:
    """A job whose file another spooler took runs there: no lease, no claim, no due time."""
    job = await taken(folder, scene)

    assert (job.state, job.reason, job.holder, job.due_at) == (State.RUNNING, Reason.FOREIGN, None, None)
    assert await scene.claim(5) == []
    assert await scene.find_keys(orphaned=True) == []
    await scene.provider.close_session(scene.session_id, None, "LOST")
    await settled(scene)
    assert await scene.provider.get(job.key) == job


async def test_foreign_job_ends_by_its_documents(folder: Folder, scene: Scene) -> None:
    """A job that the other spooler ended is DONE with that one's result; its documents stay as they are."""
    job = await taken(folder, scene)
    folder.end(job.key, result=RESULT)
    said = folder.status(job.key)

    job = await found(scene, job.key, State.DONE)
    await settled(scene)

    assert job.result is not None
    assert json.loads(await scene.provider.read_blob(job.result)) == RESULT
    assert folder.status(job.key) == said
    assert folder.place(job.key) is Place.FINISHED


async def test_foreign_failure_is_told(folder: Folder, scene: Scene) -> None:
    """A job that failed there is an ERROR in that spooler's words."""
    job = await taken(folder, scene)
    folder.end(job.key, "ERROR", error="no vacuum")

    job = await found(scene, job.key, State.ERROR)

    assert job.error is not None
    assert job.error.message == "no vacuum"
    assert folder.place(job.key) is Place.DELETED


async def test_status_alone_ends_it_a_little_later(folder: Folder, scene: Scene) -> None:
    """A spooler that died before it moved the file has told how the job ended: we move it then."""
    job = await taken(folder, scene)
    folder.write(folder.result_path(job.key), RESULT)
    folder.write(folder.status_path(job.key), {"job_id": job.key.id, "status": "DONE"})

    await found(scene, job.key, State.DONE)
    await settled(scene)

    assert folder.place(job.key) is Place.FINISHED


async def test_result_that_comes_after_the_move_is_waited_for(folder: Folder, scene: Scene) -> None:
    """A spooler that moves the file before it writes the documents is waited for."""
    job = await taken(folder, scene)
    folder.job_path(Place.RUNNING, job.key).rename(folder.job_path(Place.FINISHED, job.key))
    await settled(scene)
    before = (await scene.provider.get(job.key)).state
    folder.write(folder.result_path(job.key), b'{"success"')
    await settled(scene)
    folder.write(folder.result_path(job.key), RESULT)
    folder.write(folder.status_path(job.key), {"job_id": job.key.id, "status": "DONE"})

    job = await found(scene, job.key, State.DONE)
    assert before is State.RUNNING
    assert job.result is not None


async def test_end_without_a_result_is_an_error(folder: Folder, scene: Scene) -> None:
    """A file among the finished ones to which no result ever comes is an ERROR, not running for ever (F4)."""
    job = await taken(folder, scene)
    folder.job_path(Place.RUNNING, job.key).rename(folder.job_path(Place.FINISHED, job.key))

    job = await found(scene, job.key, State.ERROR)
    await settled(scene)

    assert folder.status(job.key)["status"] == "ERROR"


async def test_file_that_was_put_back_is_queued(folder: Folder, scene: Scene) -> None:
    """A job that somebody moved back into the queue runs with us, in its old place."""
    job = await taken(folder, scene)
    later = await scene.submit()
    folder.job_path(Place.RUNNING, job.key).rename(folder.job_path(Place.QUEUED, job.key))

    await found(scene, job.key, State.QUEUED)

    assert [one.key for one in await scene.claim(2)] == [job.key, later.key]


async def test_foreign_job_that_is_let_go_is_queued(folder: Folder, scene: Scene) -> None:
    """An operator's word brings its file back into the queue, and it is handed out like any other."""
    job = await taken(folder, scene)

    await scene.do(job, rules.Unhold("operator"))
    await settled(scene)

    assert folder.place(job.key) is Place.QUEUED
    [claimed] = await scene.claim()
    assert claimed.key == job.key
    await settled(scene)
    assert folder.place(job.key) is Place.RUNNING


async def test_foreign_job_is_ended_by_an_operator(folder: Folder, scene: Scene) -> None:
    """An operator's word ends it, with its file among the deleted."""
    job = await taken(folder, scene)

    await scene.do(job, rules.FailHeld("operator", "its machine is gone"))
    await settled(scene)

    assert folder.place(job.key) is Place.DELETED
    assert folder.status(job.key)["error_message"] == "its machine is gone"


async def test_job_that_was_taken_unseen_is_followed(folder: Folder, scene: Scene) -> None:
    """A job that was dropped, taken and ended before we had a look is there with its result."""
    await settled(scene)
    keys = [folder.drop(f"20210906_203730-singlequdit-user_1-1088{n}") for n in range(5)]
    for key in keys:
        folder.take(key)
        folder.end(key, result=RESULT)

    jobs = [await found(scene, key, State.DONE) for key in keys]

    assert {job.owner for job in jobs} == {"user_1"}


async def test_cancelled_foreign_job_stays_cancelled(folder: Folder, scene: Scene) -> None:
    """Whoever cancels a job that another spooler runs has cancelled it, whatever that says later (F17)."""
    job = await taken(folder, scene)
    cancelled = await scene.do(job, rules.Cancel("alice"))
    await settled(scene)
    where = folder.place(job.key)
    folder.end(job.key, result=RESULT)
    await settled(scene)

    assert where is Place.RUNNING
    assert await scene.provider.get(job.key) == cancelled


async def test_what_we_hold_follows_nobody(folder: Folder, scene: Scene) -> None:
    """A job that a session of ours runs stays so, whatever happens to its file; its documents end well."""
    await scene.submit()
    job = await scene.claim_and_accept()
    await settled(scene)
    folder.end(job.key, result=RESULT)
    await settled(scene)
    during = await scene.provider.get(job.key)
    done = await scene.complete(job, b'{"ours": true}')
    await settled(scene)

    assert during == job
    assert done.state is State.DONE
    assert json.loads(folder.result_path(job.key).read_bytes()) == {"ours": True}
    assert folder.status(job.key)["state"] == "DONE"
    assert folder.place(job.key) is Place.FINISHED


async def test_what_happened_while_we_were_away_is_followed(
    folder: Folder, scene: Scene, open_local: OpenLocal
) -> None:
    """Jobs that were taken, ended and dropped while no server ran are found at the next start."""
    one, two, three = [await scene.submit() for _ in range(3)]
    await scene.provider.close()
    folder.take(one.key)
    folder.take(two.key)
    folder.end(two.key, result=RESULT)
    dropped = folder.drop("dropped")

    again = await open_local(folder, "session-2")
    await settled(again)

    states = {job.key: job.state for job in (await again.provider.find(Query())).jobs}
    assert states == {
        one.key: State.RUNNING,
        two.key: State.DONE,
        three.key: State.QUEUED,
        dropped: State.QUEUED,
    }
