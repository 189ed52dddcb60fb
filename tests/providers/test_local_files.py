# ruff: noqa: F401, F811 - fixtures are imported, and used by their names

"""What the folder of a local storage says: which documents, where, when, and always whole."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, blob, token_of
from spoolway_providers.errors import NotFound, Unsupported
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import Job, JobKey, result_blob_id
from tests.providers.local_folder import Folder, OpenLocal, folder, open_local, scene, settled

CONTENT = b'{"experiment_0": {"shots": 4}}'
RESULT = b'{"success": true}'

PATHS = {
    Naming.LOCAL: {
        "config": "backends/configs/{D}.json",
        Place.QUEUED: "jobs/queued/{D}/{J}.json",
        Place.RUNNING: "jobs/running/{J}.json",
        Place.FINISHED: "jobs/finished/{D}/{J}.json",
        Place.DELETED: "jobs/deleted/{J}.json",
        "status": "status/{D}/{J}.json",
        "result": "results/{D}/{J}.json",
    },
    Naming.BACKEND_FILES: {
        "config": "Backend_files/Config/{D}/config.json",
        Place.QUEUED: "Backend_files/Queued_Jobs/{D}/job-{J}.json",
        Place.RUNNING: "Backend_files/Running_Jobs/job-{J}.json",
        Place.FINISHED: "Backend_files/Finished_Jobs/{D}/{U}/job-{J}.json",
        Place.DELETED: "Backend_files/Deleted_Jobs/job-{J}.json",
        "status": "Backend_files/Status/{D}/{U}/status-{J}.json",
        "result": "Backend_files/Result/{D}/{U}/result-{J}.json",
    },
}
"""As storage-layout.md has them."""


class Watched(Folder):
    """A folder whose every step of writing is noted."""

    def __init__(self, base: Path, naming: Naming) -> None:
        super().__init__(base, naming)
        self.steps: list[tuple[str, str]] = []

    def note(self, step: str, subject: str) -> None:
        self.steps.append((step, subject.removeprefix(f"{self.base}/")))

    def named(self) -> list[str]:
        """The documents that appeared, in the order in which they did; forgets them."""
        steps, self.steps = self.steps, []
        return [subject for step, subject in steps if step in {"name", "move"}]

    def paths(self, key: JobKey, *kinds: str) -> list[str]:
        names = PATHS[self.naming]
        return [names[kind].format(D=key.backend, J=key.id, U="alice") for kind in kinds]


@pytest.fixture(params=list(Naming))
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Watched:
    return Watched(tmp_path / "lab", request.param)


@pytest.fixture
async def watched_scene(watched: Watched, open_local: OpenLocal) -> Scene:
    scene = await open_local(watched, options={"fault": watched.note})
    await settled(scene)
    return scene


async def test_documents_follow_a_job(watched: Watched, watched_scene: Scene) -> None:
    """On its whole way a job's documents lie where today's programs look for them, and nowhere else."""
    scene = watched_scene
    job = await scene.submit(content=CONTENT)
    seen = []
    for step in (None, scene.claim_and_accept, scene.complete):
        if step is not None:
            job = await (step(job, RESULT) if step == scene.complete else step())  # type: ignore[call-arg]
        await settled(scene)
        seen.append(watched.documents())

    config, status = PATHS[watched.naming]["config"].format(D=BACKEND), watched.paths(job.key, "status")
    assert seen == [
        sorted([config, *status, *watched.paths(job.key, Place.QUEUED)]),
        sorted([config, *status, *watched.paths(job.key, Place.RUNNING)]),
        sorted([config, *status, *watched.paths(job.key, Place.FINISHED, "result")]),
    ]
    assert watched.job_path(Place.FINISHED, job.key).read_bytes() == CONTENT
    assert watched.result_path(job.key).read_bytes() == RESULT
    assert watched.config_path().read_bytes() == b"{}"


async def test_order_of_writes(watched: Watched, watched_scene: Scene) -> None:
    """Status first, then the job into the queue; result, then status, then the job's move."""
    scene = watched_scene
    watched.named()
    job = await scene.submit()
    await settled(scene)
    submitted = watched.named()
    job = await scene.claim_and_accept()
    await settled(scene)
    started = watched.named()
    await scene.complete(job)
    await settled(scene)

    assert submitted == watched.paths(job.key, "status", Place.QUEUED)
    assert started == watched.paths(job.key, "status", Place.RUNNING)
    assert watched.named() == watched.paths(job.key, "result", "status", Place.FINISHED)


async def test_document_is_synced_before_it_has_its_name(watched: Watched, watched_scene: Scene) -> None:
    """A document is on the disk before it is renamed, and its folder before the index forgets the bytes."""
    watched.named()
    job = await watched_scene.submit()
    await settled(watched_scene)

    steps = [step for step in watched.steps if job.key.id in step[1] or step[0] == "acknowledge"]
    path = watched.paths(job.key, Place.QUEUED)[0]
    own = [step for step, subject in watched.steps if subject == path]
    assert own == ["draft", "sync", "name"]
    assert steps[-1][0] == "acknowledge"
    folder = ("sync", path.rpartition("/")[0])
    assert watched.steps.index(("name", path)) < watched.steps.index(folder)
    assert watched.steps.index(folder) < watched.steps.index(("acknowledge", ""))


async def test_failed_job_lies_among_the_deleted(watched: Watched, watched_scene: Scene) -> None:
    """A job that failed, or was cancelled, is kept among the deleted ones, and its status reads ERROR."""
    scene = watched_scene
    cancelled = await scene.submit_and_cancel()
    await scene.submit()
    job = await scene.claim_and_accept()
    failed = await scene.do(job, rules.Fail(token_of(job), "no vacuum"))
    await settled(scene)

    for job in (cancelled, failed):
        assert watched.place(job.key) is Place.DELETED
        assert watched.status(job.key)["status"] == "ERROR"
    assert watched.status(failed.key)["error_message"] == "no vacuum"


async def test_status_has_todays_words(watched: Watched, watched_scene: Scene) -> None:
    """A status has the four texts that its readers demand, and our state beside them."""
    scene = watched_scene
    job = await scene.submit()
    await settled(scene)
    words = [watched.status(job.key)]
    job = await scene.claim_and_accept()
    await settled(scene)
    words.append(watched.status(job.key))
    await scene.complete(job)
    await settled(scene)
    words.append(watched.status(job.key))

    assert [(one["status"], one["state"]) for one in words] == [
        ("INITIALIZING", "QUEUED"),
        ("QUEUED", "RUNNING"),
        ("DONE", "DONE"),
    ]
    for one in words:
        assert one["job_id"] == job.key.id
        assert one["error_message"] == "None"
        assert one["detail"].startswith("Got your json.")


async def test_deleted_job_leaves_no_document(watched: Watched, watched_scene: Scene) -> None:
    """With a job all its documents go."""
    scene = watched_scene
    before = watched.documents()
    await scene.submit()
    job = await scene.complete(await scene.claim_and_accept())
    await settled(scene)
    await scene.provider.delete(job.key, job.revision)
    await settled(scene)

    assert watched.documents() == before


async def test_requeued_job_returns_to_the_queue(folder: Folder, scene: Scene) -> None:
    """A job that was given back lies in the queue again, with its own content."""
    await scene.submit(content=CONTENT)
    job = await scene.claim_and_accept()
    await settled(scene)
    await scene.do(job, rules.Release(token_of(job)))
    await settled(scene)

    assert folder.job_path(Place.QUEUED, job.key).read_bytes() == CONTENT
    [claimed] = await scene.provider.claim(BACKEND, [scene.order()])
    assert claimed.content == CONTENT


async def test_nothing_is_written_because_somebody_looks(watched: Watched, watched_scene: Scene) -> None:
    """Reading, and a claim that finds nothing, write no document (F1)."""
    scene = watched_scene
    job = await scene.submit_and_cancel()
    await settled(scene)
    watched.named()
    for _ in range(3):
        await scene.claim()
        await scene.provider.get(job.key)
        await scene.provider.backends()
        await scene.provider.put_config(BACKEND, b"{}", None)
        await scene.provider.renew(scene.session_id, 1)
    await settled(scene)

    assert watched.named() == []


async def test_f1_no_reader_sees_a_torn_document(folder: Folder, scene: Scene) -> None:
    """Whoever reads the documents in a tight loop while jobs run sees each whole."""
    await settled(scene)
    reader = Reader(folder)
    reader.start()
    try:
        await asyncio.gather(*(run_jobs(scene, 12) for _ in range(4)))
        await scene.provider.put_config(BACKEND, b'{"description": "' + b"x" * 5000 + b'"}', None)
        await settled(scene)
    finally:
        reader.stop.set()
        reader.join()

    assert reader.torn == []
    assert reader.read > 200


async def run_jobs(scene: Scene, times: int) -> None:
    for _ in range(times):
        await scene.submit(content=b'{"experiment_0": "' + b"x" * 3000 + b'"}')
        for job in await scene.claim():
            started = await scene.do(job, rules.Accept(token_of(job)))
            told = await scene.do(started, rules.Progress(token_of(job), detail="d" * 900))
            await scene.complete(told, b'{"results": "' + b"y" * 5000 + b'"}')


class Reader(threading.Thread):
    """Another program that reads all documents again and again."""

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self.stop = threading.Event()
        self.torn: list[str] = []
        self.read = 0
        self._folder = folder

    def run(self) -> None:
        while not self.stop.is_set():
            for name in self._folder.documents():
                try:
                    data = (self._folder.base / name).read_bytes()
                except FileNotFoundError:
                    continue
                self.read += 1
                try:
                    json.loads(data)
                except ValueError:
                    self.torn.append(name)


@pytest.mark.parametrize("owner", ["../../secret", "a/b", "", "..", "läßt", "x" * 300, "None", "a\nb", "\0"])
@pytest.mark.parametrize("naming", list(Naming))
async def test_f11_owner_is_never_a_path(
    owner: str, naming: Naming, tmp_path: Path, open_local: OpenLocal
) -> None:
    """Whatever the owner is called, all documents lie within the folder, each in its place."""
    folder = Folder(tmp_path / "deep" / "lab", naming)
    scene = await open_local(folder)
    await scene.submit(owner=owner)
    job = await scene.complete(await scene.claim_and_accept())
    await settled(scene)

    assert len(folder.documents()) == 4
    assert {str(path.relative_to(tmp_path)).split("/")[0] for path in tmp_path.rglob("*")} == {"deep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["lab"]
    assert job.result is not None
    assert await scene.provider.read_blob(job.result)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "A", "a-b", "a.json", "x" * 65, "a\0"])
async def test_f11_backend_is_never_a_path(folder: Folder, scene: Scene, name: str) -> None:
    """A backend whose name could lead elsewhere is refused, and nothing is written."""
    await settled(scene)
    before = folder.documents()
    with pytest.raises(Unsupported):
        await scene.provider.put_config(name, b"{}", None)
    await settled(scene)

    assert folder.documents() == before
    assert [backend.name for backend in await scene.provider.backends()] == [BACKEND]


async def test_f11_unknown_names_read_nothing(folder: Folder, scene: Scene, tmp_path: Path) -> None:
    """No id of a job or a blob leads to a file that is not a job's."""
    (tmp_path / "secret.json").write_bytes(b"{}")
    for job_id in ("../../secret", "../../../secret", "/etc/passwd"):
        with pytest.raises(NotFound):
            await scene.provider.get(JobKey(BACKEND, job_id))
        for blob_id in (f"{BACKEND}/{job_id}/content", job_id, f"{BACKEND}/x/result/{job_id}"):
            with pytest.raises(NotFound):
                await scene.provider.read_blob(blob(blob_id, b"{}"))


async def test_dated_ids_follow_the_order_of_submission(tmp_path: Path, open_local: OpenLocal) -> None:
    """With the Dropbox names ids are dated ones, name backend and user, and sort as they were submitted."""
    scene = await open_local(Folder(tmp_path, Naming.BACKEND_FILES))
    jobs = await scene.provider.submit([scene.draft(owner="user-1") for _ in range(50)])

    ids = [job.key.id for job in jobs if isinstance(job, Job)]
    assert ids == sorted(set(ids))
    for job_id in ids:
        date, backend, user, number = job_id.split("-", 2)[0], BACKEND, "user-1", job_id[-5:]
        assert job_id == f"{date}-{backend}-{user}-{number}"
        assert len(date) == len("20210906_203730")
        int(number, 16)


async def test_index_forgets_what_is_in_the_files(folder: Folder, scene: Scene) -> None:
    """Contents and results leave the index once their files are synced, and are read from there."""
    await scene.submit(content=CONTENT)
    job = await scene.complete(await scene.claim_and_accept(), RESULT)
    await settled(scene)

    assert job.result is not None
    assert await count_blobs(scene) == 0
    assert await scene.provider.read_blob(job.content) == CONTENT
    assert await scene.provider.read_blob(job.result, 2, 7) == RESULT[2:9]
    other = blob(result_blob_id(job.key, "else"), RESULT)
    with pytest.raises(NotFound):
        await scene.provider.read_blob(other)


async def count_blobs(scene: Scene) -> int:
    """How many committed blobs the index has the bytes of."""

    def count(connection: Any, _: None) -> int:
        chunks = "SELECT count(*) FROM chunks JOIN uploads ON uploads.id = upload WHERE committed"
        query = f"SELECT (SELECT count(*) FROM blobs) + ({chunks})"  # noqa: S608 - of fixed parts
        return int(connection.execute(query).fetchone()[0])

    return await scene.provider._engine.read(count, None)  # type: ignore[attr-defined, no-any-return]


async def test_large_content_and_result_become_files(folder: Folder, scene: Scene) -> None:
    """Staged blobs become the layout's files, leave the index, and are served in ranges."""
    content, result = (letter * 5_000_000 for letter in (b"c", b"r"))
    for offset in range(0, 5_000_000, 1 << 20):
        await scene.provider.stage("up/load", offset, content[offset : offset + (1 << 20)])
    job = await scene.submit(content=blob("up/load", content))
    job = await scene.claim_and_accept()
    ref = blob(result_blob_id(job.key, token_of(job)), result)
    for offset in range(0, 5_000_000, 1 << 20):
        await scene.provider.stage(ref.id, offset, result[offset : offset + (1 << 20)])
    await scene.do(job, rules.Complete(token_of(job), ref))
    await settled(scene)

    assert folder.job_path(Place.FINISHED, job.key).read_bytes() == content
    assert folder.result_path(job.key).read_bytes() == result
    assert await count_blobs(scene) == 0
    assert await scene.provider.read_blob(job.content, 4_999_990, 100) == b"c" * 10
    assert await scene.provider.read_blob(ref, 10, 3) == b"rrr"
    assert await scene.provider.stage("up/load", 0, b"x" * 100) == 5_000_000


async def test_read_follows_a_file_that_moves(folder: Folder, scene: Scene) -> None:
    """A content is read whole while its file moves from place to place."""
    job = await scene.submit(content=CONTENT)
    await settled(scene)
    moving = asyncio.create_task(move_about(scene, 15))
    while not moving.done():
        assert await scene.provider.read_blob(job.content) == CONTENT

    await moving


async def move_about(scene: Scene, times: int) -> None:
    for _ in range(times):
        job = await scene.claim_and_accept()
        await settled(scene)
        await scene.do(job, rules.Release(token_of(job)))
        await settled(scene)
