# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""Files that people and other programs drop into the queue of a local storage become jobs."""

import asyncio
import json
import os
import statistics
from datetime import timedelta
from pathlib import Path
from time import monotonic

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, token_of
from spoolway_providers.interface import Query
from spoolway_providers.local import intake, reading
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import Job, JobKey, State
from tests.providers.local_folder import Folder, OpenLocal, folder, found, open_local, scene, settled, until

CONTENT = b'{"experiment_0": {"shots": 4}}'
MANY = int(os.environ.get("SPOOLWAY_TEST_FOREIGN_FILES", "20000"))
"""Files that are dropped at once; the promise is about 100,000."""


async def next_job(scene: Scene) -> Job:
    """Claim as the dispatcher does: woken by hints, and at once."""
    while True:
        claimed = await scene.claim()
        if claimed:
            return claimed[0]
        await scene.provider.wait(timedelta(seconds=5))


async def test_dropped_file_is_a_job(folder: Folder, scene: Scene) -> None:
    """A file in the queue is claimed with its content and run to its end, and its documents follow."""
    key = folder.drop("some_job-1", CONTENT)
    await found(scene, key)

    [claimed] = await scene.provider.claim(BACKEND, [scene.order()])
    assert (claimed.job.key, claimed.content) == (key, CONTENT)
    started = await scene.do(claimed.job, rules.Accept(token_of(claimed.job)))
    await scene.complete(started, b'{"success": true}')
    await settled(scene)

    assert folder.place(key) is Place.FINISHED
    assert folder.status(key)["status"] == "DONE"
    assert json.loads(folder.result_path(key).read_bytes()) == {"success": True}


async def test_dropped_file_is_assigned_within_200_ms(folder: Folder, scene: Scene) -> None:
    """Who waits has a dropped job in hand within 200 ms at the median."""
    await settled(scene)
    await asyncio.sleep(0.5)
    delays_s = []
    for number in range(9):
        waiting = asyncio.create_task(next_job(scene))
        await asyncio.sleep(0.03 * number)
        dropped_at = monotonic()
        key = folder.drop(f"job-{number}", CONTENT)
        job = await waiting
        delays_s.append(monotonic() - dropped_at)
        assert job.key == key

    assert statistics.median(delays_s) < 0.2


async def test_dropped_jobs_keep_the_order_of_their_files(folder: Folder, scene: Scene) -> None:
    """Files that are found together come by their times and names (F12)."""
    await scene.provider.close()
    names = ["c", "a", "b", "z", "y"]
    for age, name in enumerate(reversed(names)):
        key = folder.drop(name)
        at = 1_700_000_000 - age * (name not in "ab")
        os.utime(folder.job_path(Place.QUEUED, key), (at, at))
    await scene.provider.open()
    await settled(scene)

    by_time = sorted(
        names, key=lambda n: (folder.job_path(Place.QUEUED, JobKey(BACKEND, n)).stat().st_mtime, n)
    )
    assert [job.key.id for job in await scene.claim(10)] == by_time


async def test_dropped_job_comes_after_earlier_submits(folder: Folder, scene: Scene) -> None:
    """Dropped jobs and submitted ones share one queue: first come, first served."""
    first = await scene.submit()
    key = folder.drop("dropped")
    await found(scene, key)
    last = await scene.submit()

    assert [job.key for job in await scene.claim(3)] == [first.key, key, last.key]


async def test_half_written_file_waits_until_it_is_whole(folder: Folder, scene: Scene) -> None:
    """A file that somebody is still writing is no job before its last byte."""
    await settled(scene)
    path = folder.job_path(Place.QUEUED, JobKey(BACKEND, "slow"))
    with path.open("wb", buffering=0) as file:
        for piece in (b"", b'{"experiment_0"', b': {"shots": 4}', b"}"):
            file.write(piece)
            if piece != b"}":
                await asyncio.sleep(0.1)
                assert await scene.find_keys() == []
    job = await found(scene, JobKey(BACKEND, "slow"))

    assert await scene.provider.read_blob(job.content) == CONTENT


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"no json", b'"\xff"', b"[" * 100_000])
async def test_bad_file_is_set_aside(
    folder: Folder, scene: Scene, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that never becomes a job is an ERROR with its status, and the others go on (F6)."""
    monkeypatch.setattr(intake, "_SETTLED_S", 0.1)
    bad, good = folder.drop("bad", content), folder.drop("good")

    job = await found(scene, bad, State.ERROR)
    await settled(scene)

    assert job.error is not None
    assert job.error.reason == "CONTENT_INVALID"
    assert folder.status(bad)["status"] == "ERROR"
    assert folder.place(bad) is Place.DELETED
    assert [job.key for job in await scene.claim(5)] == [good]


async def test_odd_files_are_left_alone(folder: Folder, scene: Scene, tmp_path: Path) -> None:
    """Links, folders, pipes, other names and drafts are no jobs, stay put and harm nobody (F11)."""
    await settled(scene)
    secret = tmp_path / "secret.json"
    secret.write_bytes(CONTENT)
    queue = folder.job_path(Place.QUEUED, JobKey(BACKEND, "x")).parent
    (queue / "link.json").symlink_to(secret)
    (queue / "folder.json").mkdir()
    os.mkfifo(queue / "pipe.json")
    for name in ("draft.json.part", "..json", ".hidden.json", "a b.json", "ä.json", "x" * 201 + ".json"):
        (queue / name).write_bytes(CONTENT)
    before = sorted(queue.iterdir())
    good = folder.drop("good")
    await found(scene, good)
    await settled(scene)

    assert await scene.find_keys() == [good]
    assert sorted(path for path in queue.iterdir() if path.name != "good.json") == before


async def test_endless_file_is_an_error(folder: Folder, scene: Scene) -> None:
    """A file that is far too large is an ERROR at once: it is not read to its end."""
    await settled(scene)
    await scene.provider.close()
    huge = JobKey(BACKEND, "endless")
    path = folder.job_path(Place.QUEUED, huge)
    path.touch()
    os.truncate(path, 1 << 42)
    await scene.provider.open()

    job = await found(scene, huge, State.ERROR)

    assert job.error is not None
    assert job.error.reason == "CONTENT_TOO_LARGE"
    assert job.content.size == 1 << 42


async def test_one_id_in_two_backends(folder: Folder, scene: Scene) -> None:
    """Where jobs run the files of all backends lie together: a second job of one id is refused."""
    await scene.provider.put_config("other", b"{}", None)
    first = folder.drop("twin", CONTENT)
    await found(scene, first)
    second = folder.drop("twin", b'{"another": {}}', backend="other")
    refused = Path(folder.layout.refused) / "twin.json"
    await until(refused.exists)
    done = await scene.complete(await scene.claim_and_accept())
    await settled(scene)

    assert done.key == first
    assert refused.read_bytes() == b'{"another": {}}'
    assert folder.job_path(Place.FINISHED, first).read_bytes() == CONTENT
    assert await scene.claim(backend="other") == []
    assert second not in await scene.find_keys()


async def test_folder_named_like_a_job_is_in_nobodys_way(folder: Folder, scene: Scene) -> None:
    """A folder in the queue that is called like a job that runs stays there, and the others go on."""
    folder.drop("known")
    await found(scene, JobKey(BACKEND, "known"))
    running = await scene.claim_and_accept()
    await settled(scene)
    folder.job_path(Place.QUEUED, running.key).mkdir()

    await found(scene, folder.drop("other"))
    await settled(scene)

    assert folder.job_path(Place.RUNNING, running.key).is_file()
    assert folder.job_path(Place.QUEUED, running.key).is_dir()


async def test_user_folder_with_an_odd_name(tmp_path: Path, open_local: OpenLocal) -> None:
    """A folder among those of users whose name is no text is passed over."""
    folder = Folder(tmp_path / "lab", Naming.BACKEND_FILES)
    scene = await open_local(folder)
    await settled(scene)
    statuses = os.fsencode(folder.layout.status.folder_of(BACKEND, ""))
    os.makedirs(statuses + b"\xff")
    (Path(os.fsdecode(statuses + b"\xff")) / "status-odd.json").write_bytes(b'{"status": "INITIALIZING"}')

    job = await found(scene, folder.drop("odd"))

    assert job.owner == "unknown"


async def test_status_that_cannot_be_read(
    folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that this process may not read is as if it were not there."""

    def refuse(path: str, offset: int, limit: int) -> bytes:
        if path == str(folder.status_path(key)):
            raise PermissionError(13, "Permission denied", path)
        return read(path, offset, limit)

    read, key = reading.read_range, JobKey(BACKEND, "guarded")
    monkeypatch.setattr(reading, "read_range", refuse)
    await settled(scene)
    folder.write(folder.status_path(key), {"status": "INITIALIZING"})
    folder.drop("guarded")

    assert (await found(scene, key)).owner == "unknown"


async def test_jobs_of_an_unknown_backend_wait_for_it(folder: Folder, scene: Scene) -> None:
    """What lies in the queue of a backend that nobody has registered is a job once somebody does."""
    key = folder.drop("early", backend="multiqudit")
    await settled(scene)
    before = await scene.find_keys()
    await scene.provider.put_config("multiqudit", b"{}", None)

    await found(scene, key)
    assert before == []


@pytest.mark.parametrize(
    ("job_id", "status_user", "owner"),
    [
        ("20210906_203730-singlequdit-user_1-1088f", None, "user_1"),
        ("20210906_203730-singlequdit-anne-marie-1-1088f", None, "anne-marie-1"),
        ("6b056aacd1d9ca3732000f9c", "bob", "bob"),
        ("20210906_203730-singlequdit-user_1-1088f", "None", "user_1"),
        ("6b056aacd1d9ca3732000f9c", "None", "somebody"),
        ("6b056aacd1d9ca3732000f9c", None, "somebody"),
    ],
)
async def test_owner_is_told_by_id_or_status(
    tmp_path: Path, open_local: OpenLocal, job_id: str, status_user: str | None, owner: str
) -> None:
    """Whose a dropped job is says its dated id, or the folder of its status, else the configuration."""
    folder = Folder(tmp_path, Naming.BACKEND_FILES)
    scene = await open_local(folder, owner="somebody")
    key = JobKey(BACKEND, job_id)
    if status_user is not None:
        words = {
            "job_id": job_id,
            "status": "INITIALIZING",
            "detail": "Got your json.",
            "error_message": "None",
        }
        folder.write(folder.status_path(key, status_user), words)
    folder.drop(job_id)

    job = await found(scene, key)

    assert job.owner == owner
    await scene.complete(await scene.claim_and_accept())
    await settled(scene)
    # Its readers look where they wrote the first status.
    assert folder.status(key, status_user or owner)["status"] == "DONE"
    assert folder.result_path(key, status_user or owner).exists()


async def test_dropped_again_is_put_aside(folder: Folder, scene: Scene) -> None:
    """A file of a job that has ended is not run again, overwrites nothing, and is kept."""
    await scene.submit(content=CONTENT)
    job = await scene.complete(await scene.claim_and_accept())
    await settled(scene)
    folder.drop(job.key.id, b'{"experiment_0": "another"}')

    await until(lambda: not folder.job_path(Place.QUEUED, job.key).exists())

    assert await scene.claim(5) == []
    assert await scene.provider.get(job.key) == job
    assert folder.job_path(Place.FINISHED, job.key).read_bytes() == CONTENT
    [aside] = Path(folder.layout.refused).iterdir()
    assert aside.read_bytes() == b'{"experiment_0": "another"}'


async def test_file_that_somebody_removed_ends_its_job(folder: Folder, scene: Scene) -> None:
    """A waiting job whose file was removed is an ERROR that says so; the others go on."""
    lost, other = await scene.submit(), await scene.submit()
    await settled(scene)
    folder.job_path(Place.QUEUED, lost.key).unlink()

    job = await found(scene, lost.key, State.ERROR)

    assert job.error is not None
    assert job.error.reason == "FILE_LOST"
    assert [job.key for job in await scene.claim(5)] == [other.key]


async def test_claim_passes_over_lost_and_changed_files(folder: Folder, scene: Scene) -> None:
    """Who claims before anybody has noticed gets only jobs whose documents are as they were submitted."""
    lost, changed, sound = [await scene.submit(content=CONTENT) for _ in range(3)]
    await settled(scene)
    folder.job_path(Place.QUEUED, lost.key).unlink()
    folder.job_path(Place.QUEUED, changed.key).write_bytes(b'{"experiment_0": "else"}')

    [claimed] = await scene.provider.claim(BACKEND, [scene.order()])

    assert (claimed.job.key, claimed.content) == (sound.key, CONTENT)
    errors = [(await scene.provider.get(job.key)).error for job in (lost, changed)]
    assert [error and error.reason for error in errors] == ["FILE_LOST", "FILE_CHANGED"]
    assert await scene.claim() == []


@pytest.mark.timeout(300)
async def test_many_dropped_files(folder: Folder, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of files are adopted in seconds, others' work goes on, no claim lists a folder."""
    await settled(scene)
    queue = folder.job_path(Place.QUEUED, JobKey(BACKEND, "x")).parent
    await asyncio.to_thread(drop_many, queue, MANY)
    began = monotonic()
    await scene.provider.put_config("other", b"{}", None)
    submitted = await scene.submit(backend="other")

    async def all_adopted() -> bool:
        await asyncio.sleep(0.1)
        [claimed] = await scene.claim(backend="other")
        await scene.do(claimed, rules.Withdraw(token_of(claimed)))
        return await scene.provider.count(Query(backend=BACKEND, limit=MANY)) == MANY

    await until(all_adopted, limit_s=60)
    took_s = monotonic() - began
    listings: list[str] = []
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, lambda path=".": listings.append(str(path)) or [])
    claimed = [job.key.id for _ in range(20) for job in await scene.claim(5)]
    monkeypatch.undo()

    assert took_s < 60 * MANY / 100_000
    assert sorted(claimed) == claimed[:100]
    assert len(claimed) == 100
    assert [path for path in listings if path == str(queue)] == []
    assert (await scene.provider.get(submitted.key)).state is State.QUEUED


def drop_many(queue: Path, number: int) -> None:
    for n in range(number):
        (queue / f"job{n:06}.json").write_bytes(CONTENT)
