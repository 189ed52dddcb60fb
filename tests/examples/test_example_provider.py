"""The example of a provider from another package keeps all promises of the interface."""

import os
import re
import stat
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.examples.conformance import ProviderConformance, Scene

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "provider"

sys.path.insert(0, str(EXAMPLE))

from spoolway_jsonfile import JsonFileProvider  # noqa: E402 - found by the path above

from spoolway_providers.conformance import AdoptionConformance, AgeingConformance, ManualClock  # noqa: E402
from spoolway_providers.errors import Corrupt, Unavailable, Uncertain  # noqa: E402
from spoolway_providers.interface import Query  # noqa: E402


class TestJsonFileProvider(ProviderConformance, AdoptionConformance, AgeingConformance):
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def provider(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[JsonFileProvider]:
        provider = JsonFileProvider(tmp_path / "jobs.json", clock=clock)
        await provider.open()
        yield provider
        await provider.close()


class BrokenSync:
    """Stands in for `os.fsync`; fails for files or for folders while `breaks` says so."""

    def __init__(self) -> None:
        self.breaks = ""
        self.error: BaseException = OSError(5, "Input/output error")
        self._fsync = os.fsync

    def __call__(self, descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        if kind == self.breaks:
            raise self.error
        self._fsync(descriptor)


class Killed(BaseException):
    """The process ends here; nothing of it is caught."""


@pytest.fixture
def sync(monkeypatch: pytest.MonkeyPatch) -> BrokenSync:
    sync = BrokenSync()
    monkeypatch.setattr(os, "fsync", sync)
    return sync


async def opened(path: Path) -> JsonFileProvider:
    provider = JsonFileProvider(path)
    await provider.open()
    return provider


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """What was acknowledged is found by the next process, in order, and goes on."""
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    jobs = [await scene.submit() for _ in range(3)]
    taken = await scene.claim()

    again = await opened(tmp_path / "jobs.json")

    assert [await again.get(job.key) for job in jobs] == [*taken, *jobs[1:]]
    assert await again.position(jobs[2], 10) == 1
    assert await again.read_blob(jobs[2].content)
    assert [view.leases for view in await again.sessions()] == [1]


async def test_what_can_not_be_saved_is_not_done(tmp_path: Path) -> None:
    """If the file can't be written the caller hears so, and nothing is claimed to be there."""
    folder = tmp_path / "folder"
    folder.mkdir()
    scene = Scene(await opened(folder / "jobs.json"))
    await scene.set_up()
    first = await scene.submit()
    (folder / "jobs.json").rename(tmp_path / "aside.json")
    folder.rmdir()

    with pytest.raises(Unavailable):
        await scene.submit()

    folder.mkdir()
    second = await scene.submit()
    assert [one.key for one in await scene.claim(3)] == [first.key, second.key]


async def test_unsaved_claim_leaves_the_job_queued(tmp_path: Path, sync: BrokenSync) -> None:
    """A claim that can't be saved has taken nothing, in memory as in the file."""
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    job = await scene.submit()
    sync.breaks = "file"

    with pytest.raises(Unavailable):
        await scene.claim()

    assert await scene.provider.get(job.key) == job
    assert await (await opened(tmp_path / "jobs.json")).get(job.key) == job


async def test_unsynced_folder_is_an_unknown_outcome(tmp_path: Path, sync: BrokenSync) -> None:
    """Once the file has its name the outcome is unknown, until the folder is on the disk: no repeat is
    acknowledged before that, nothing can be read back, and the job is there once in the end.
    """
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    first = await scene.submit()
    sync.breaks = "folder"

    with pytest.raises(Uncertain):
        await scene.submit(request_id="r-1")
    with pytest.raises(Uncertain):
        await scene.submit(request_id="r-1")
    with pytest.raises(Unavailable):
        await scene.provider.find(Query())
    with pytest.raises(Unavailable):
        await scene.provider.get(first.key)

    sync.breaks = ""
    job = await scene.submit(request_id="r-1")
    assert await scene.find_keys() == [first.key, job.key]


@pytest.mark.parametrize(("step", "survivors"), [("file", 1), ("folder", 2)])
async def test_file_is_whole_wherever_a_kill_hits(
    tmp_path: Path, sync: BrokenSync, step: str, survivors: int
) -> None:
    """A kill amid a save leaves the file as it was before or as it is after, and what was there stays."""
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    first = await scene.submit()
    sync.breaks, sync.error = step, Killed()

    with pytest.raises(Killed):
        await scene.submit()

    sync.breaks = ""
    found = (await (await opened(tmp_path / "jobs.json")).find(Query())).jobs
    assert found[0] == first
    assert len(found) == survivors


async def test_missing_folder_shows_at_once(tmp_path: Path) -> None:
    """A path that can't be written is found by opening and by a probe, not by the first job."""
    provider = JsonFileProvider(tmp_path / "nowhere" / "jobs.json")

    with pytest.raises(Unavailable, match="No such file"):
        await provider.open()

    [step] = await provider.probe()
    assert not step.ok
    assert "No such file" in step.advice


async def test_nothing_but_the_file_remains(tmp_path: Path) -> None:
    """Neither a save nor a probe leaves a file of its own behind."""
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    await scene.provider.probe()
    await scene.provider.close()

    assert names_in(tmp_path) == ["jobs.json"]


async def test_another_file_is_refused(tmp_path: Path) -> None:
    """A file that is none of this storage's is Corrupt, and stays as it is."""
    path = tmp_path / "jobs.json"
    path.write_text('{"not": "ours"}')

    with pytest.raises(Corrupt):
        await opened(path)

    assert path.read_text() == '{"not": "ours"}'


@pytest.mark.parametrize("login", [{}, {"path": ""}, {"path": 5}, {"path": "\0"}, {"path": "x", "user": "y"}])
def test_wrong_login_is_named(login: dict[str, object]) -> None:
    """A login that is not just a path is a ValueError that says so."""
    with pytest.raises(ValueError, match="path"):
        JsonFileProvider.from_login(login)


def test_it_plugs_in_by_its_entry_point(tmp_path: Path) -> None:
    """Installed beside the server, with the entry point of its own pyproject, it is a type like ours."""
    [(group, points)] = _pyproject()["project"]["entry-points"].items()
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    info = tmp_path / "spoolway_jsonfile-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoolway-jsonfile\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    code = (
        "import asyncio, sys;"
        "from spoolway_providers.registry import make_provider;"
        "provider = make_provider('jsonfile', {'path': sys.argv[1]});"
        "asyncio.run(provider.open());"
        "print(provider.description)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{EXAMPLE}"}
    command = [sys.executable, "-c", code, str(tmp_path / "jobs.json")]

    ran = subprocess.run(command, env=environment, capture_output=True, text=True)

    assert ran.stdout.strip() == JsonFileProvider.description, ran.stderr
    assert (tmp_path / "jobs.json").exists()


def test_guide_shows_the_example_as_it_is() -> None:
    """Each piece of code that docs/providers.md shows of the example stands in it, word for word."""
    guide = (ROOT / "docs" / "providers.md").read_text()
    walk = guide.split("\n## A whole example\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", walk, flags=re.DOTALL)
    source = (EXAMPLE / "spoolway_jsonfile" / "__init__.py").read_text()

    assert len(blocks) >= 4
    assert [b for b in blocks if b not in source and textwrap.indent(b, "    ") not in source] == []
    [(group, points)] = _pyproject()["project"]["entry-points"].items()
    shown = re.findall(r"```toml\n(.*?)```", walk, flags=re.DOTALL)
    assert {"project": {"entry-points": {group: points}}} in [tomllib.loads(block) for block in shown]


def _pyproject() -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    return tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
