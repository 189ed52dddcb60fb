"""A copy of the file while others write to it."""

import asyncio
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.errors import Corrupt, NotFound
from spoolway_providers.interface import Query
from spoolway_providers.model import Job
from spoolway_providers.sqlite import SqliteProvider, backup


async def test_a_copy_under_writes_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the jobs of before, and of those that came meanwhile the first ones without a gap; it ends."""
    monkeypatch.setattr(backup, "_PAGES", 1)
    provider = SqliteProvider(tmp_path / "jobs.sqlite")
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    jobs = [await scene.submit(content=b'"%s"' % (b"x" * 20_000)) for _ in range(20)]
    steps: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()

    def write_meanwhile(done: int, of: int) -> None:
        steps.append((done, of))
        if len(steps) % 20 == 1:
            jobs.append(asyncio.run_coroutine_threadsafe(scene.submit(), loop).result(10))

    size = await provider.back_up(tmp_path / "copy.sqlite", write_meanwhile)
    await provider.close()

    assert size == (tmp_path / "copy.sqlite").stat().st_size
    assert len(steps) > 20
    assert steps[-1][0] == steps[-1][1]
    copy = SqliteProvider(tmp_path / "copy.sqlite")
    await copy.open()
    found: list[Job] = (await copy.find(Query())).jobs
    assert 20 <= len(found) < len(jobs)
    assert found == jobs[: len(found)]
    await copy.close()


async def test_what_can_not_be_copied_leaves_nothing(tmp_path: Path) -> None:
    """No file, or a damaged one: an error, and no copy."""
    missing = SqliteProvider(tmp_path / "missing.sqlite")
    with pytest.raises(NotFound):
        await missing.back_up(tmp_path / "copy", lambda done, of: None)
    (tmp_path / "broken.sqlite").write_bytes(b"no database at all " * 100)
    broken = SqliteProvider(tmp_path / "broken.sqlite")
    with pytest.raises(Corrupt):
        await broken.back_up(tmp_path / "copy", lambda done, of: None)

    assert {path.name for path in tmp_path.iterdir()} == {"broken.sqlite"}
