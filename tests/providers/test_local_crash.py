# ruff: noqa: F401 - fixtures are imported, and used by their names
"""A process that is killed between any two steps of writing the folder: all is there, and is repaired."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Scene, session, token_of
from spoolway_providers.errors import NotFound
from spoolway_providers.interface import Query
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Naming, Place
from spoolway_providers.model import ACTIVE_STATES, Job, State
from tests.providers.local_folder import Folder, settled
from tests.providers.local_zygote import CONTENT, RESULT
from tests.providers.test_local_files import count_blobs

ZYGOTE = [sys.executable, "-m", "tests.providers.local_zygote"]
ROOT = Path(__file__).parents[2]


class Zygote:
    """Runs scenarios that are killed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert self._answer() == "ready"

    def play(self, folder: Folder, scenario: str, steps: int) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder.base} {folder.naming} {scenario} {steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with subprocess.Popen(
        ZYGOTE, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield Zygote(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(
    ("scenario", "naming", "stride"),
    [
        ("lives", Naming.LOCAL, 1),
        ("lives", Naming.BACKEND_FILES, 3),
        ("uploads", Naming.LOCAL, 1),
        ("stock", Naming.LOCAL, 1),
    ],
)
async def test_f3_f8_kill_9_between_any_two_steps(
    zygote: Zygote, tmp_path: Path, scenario: str, naming: Naming, stride: int
) -> None:
    """Wherever the process is killed, nothing acknowledged is lost, and the folder is as it should be."""
    steps = 1
    while True:
        folder = Folder(tmp_path / str(steps), naming)
        end = zygote.play(folder, scenario, steps)
        assert end in {"killed", "done"}, f"step {steps}"
        await assert_repaired(folder, is_stock=scenario == "stock")
        if end == "done":
            break
        steps += stride

    assert steps > 20


async def assert_repaired(folder: Folder, *, is_stock: bool) -> None:
    stock_spoolers = frozenset({BACKEND}) if is_stock else frozenset()
    provider = LocalProvider(folder.settings(stock_spoolers=stock_spoolers))
    await provider.open()
    try:
        scene = Scene(provider)
        await settled(scene)
        jobs = (await provider.find(Query(limit=100))).jobs
        assert_told(folder, jobs)
        for job in jobs:
            await assert_files(folder, scene, job, is_stock=is_stock)
        assert await count_blobs(scene) == 0
        assert list(Path(folder.layout.drafts).iterdir()) == []
        assert len(folder.documents()) == sum(map(count_documents, jobs)) + len(await provider.backends())
        await assert_goes_on(scene, jobs)
        assert await provider.repair() == []
    finally:
        await provider.close()


def assert_told(folder: Folder, jobs: list[Job]) -> None:
    """What was acknowledged is so, or has gone on from there."""
    states = {job.key.id: job.state for job in jobs}
    path = Path(f"{folder.base}.told")
    told = dict(reversed(line.split()) for line in path.read_text().splitlines()) if path.exists() else {}
    for job_id, what in told.items():
        match what:
            case "deleted":
                assert job_id not in states
            case "done":
                assert states[job_id] is State.DONE
            case "cancelled":
                assert states.get(job_id, State.CANCELLED) is State.CANCELLED
            case _:
                assert job_id in states


async def assert_files(folder: Folder, scene: Scene, job: Job, *, is_stock: bool) -> None:
    """The documents of a job say what the index says."""
    place = folder.place(job.key)
    match job.state:
        case State.QUEUED if is_stock:
            assert place in {Place.QUEUED, Place.WAITING}
        case State.QUEUED:
            assert place is Place.QUEUED
        case State.DONE:
            assert place is Place.FINISHED
            assert folder.result_path(job.key).read_bytes() == RESULT
        case State.CANCELLED:
            assert place is Place.DELETED
        case _:
            assert place is Place.RUNNING
    assert folder.job_path(place, job.key).read_bytes() == CONTENT
    assert folder.status(job.key)["state"] == job.state
    assert folder.result_path(job.key).exists() == (job.state is State.DONE)
    assert await scene.provider.read_blob(job.content) == CONTENT


def count_documents(job: Job) -> int:
    return 3 if job.state is State.DONE else 2


async def assert_goes_on(scene: Scene, jobs: list[Job]) -> None:
    """Every job that has not ended can be run to its end, once (F8)."""
    for held in (job for job in jobs if job.state in ACTIVE_STATES):
        await scene.provider.close_session(scene.session_id, None, "LOST")
        job = await scene.do(held, rules.SessionGone(scene.session_id))
        if job.state is State.HELD:
            await scene.do(job, rules.Cancel("alice"))
    if not await scene.provider.backends():
        return
    again = Scene(scene.provider, "again")
    await again.set_up()
    waiting = sum(job.state is State.QUEUED for job in (await scene.provider.find(Query(limit=100))).jobs)
    for _ in range(waiting):
        job = await again.complete(await again.claim_and_accept(), RESULT)
        assert job.state is State.DONE
    assert await again.claim(5) == []
