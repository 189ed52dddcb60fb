"""The example of a provider from another package keeps all promises of the interface."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.examples.conformance import ProviderConformance, Scene

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "provider"

sys.path.insert(0, str(EXAMPLE))

from spoolway_jsonfile import JsonFileProvider  # noqa: E402 - found by the path above

from spoolway_providers.errors import Corrupt, Unavailable  # noqa: E402


class TestJsonFileProvider(ProviderConformance):
    @pytest.fixture
    async def provider(self, tmp_path: Path) -> AsyncIterator[JsonFileProvider]:
        provider = JsonFileProvider.from_login({"path": str(tmp_path / "jobs.json")})
        await provider.open()
        yield provider
        await provider.close()


async def opened(path: Path) -> JsonFileProvider:
    provider = JsonFileProvider(path)
    await provider.open()
    return provider


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """What was acknowledged is found by the next process, in order, and goes on."""
    scene = Scene(await opened(tmp_path / "jobs.json"))
    await scene.set_up()
    jobs = [await scene.submit() for _ in range(3)]
    taken = await scene.claim()

    again = await opened(tmp_path / "jobs.json")

    assert [await again.get(job.key) for job in jobs] == [*taken, *jobs[1:]]
    assert await again.position(jobs[2], 10) == 1


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


async def test_another_file_is_refused(tmp_path: Path) -> None:
    """A file that is none of this storage's is Corrupt, and stays as it is."""
    path = tmp_path / "jobs.json"
    path.write_text('{"not": "ours"}')

    with pytest.raises(Corrupt):
        await opened(path)

    assert path.read_text() == '{"not": "ours"}'


@pytest.mark.parametrize("login", [{}, {"path": ""}, {"path": 5}, {"path": "x", "user": "y"}])
def test_wrong_login_is_named(login: dict[str, object]) -> None:
    """A login that is not just a path is a ValueError that says so."""
    with pytest.raises(ValueError, match="path"):
        JsonFileProvider.from_login(login)


def test_it_plugs_in_by_its_entry_point(tmp_path: Path) -> None:
    """Installed beside the server, it is a type of storage like ours."""
    info = tmp_path / "spoolway_jsonfile-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoolway-jsonfile\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(
        "[spoolway.providers]\njsonfile = spoolway_jsonfile:JsonFileProvider\n"
    )
    code = (
        "from spoolway_providers.registry import make_provider;"
        "print(make_provider('jsonfile', {'path': 'x.json'}).description)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{EXAMPLE}"}

    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    assert ran.stdout.strip() == JsonFileProvider.description, ran.stderr
