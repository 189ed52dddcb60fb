"""What belongs to no job, or lies twice, is found, and put out of the way on request."""

import os
import time
from pathlib import Path

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.interface import Finding
from spoolway_providers.local import LocalProvider, inspecting
from spoolway_providers.local.layout import Naming
from spoolway_providers.local.login import Settings
from spoolway_providers.sqlite import SqliteProvider
from spoolway_providers.sqlite.writer import Transaction
from tests.providers.local_folder import settled


def _insert_blob(transaction: Transaction, ids: list[str]) -> list[None]:
    rows = [(blob,) for blob in ids]
    transaction.connection.executemany("INSERT INTO blobs(id, data) VALUES (?, x'00')", rows)
    return [None for _ in ids]


async def test_blobs_of_no_job_are_found_and_removed(tmp_path: Path) -> None:
    """Those of jobs stay, however they are stored."""
    provider = SqliteProvider(tmp_path / "jobs.sqlite")
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    await scene.submit()
    done = await scene.complete(await scene.claim_and_accept())
    lost = "singlequdit/000000000000000000000000/content"
    await provider._engine.write(_insert_blob, lost)

    found = await provider.inspect(repair=False)
    mended = await provider.inspect(repair=True)

    assert [(one.kind, one.subject) for one in found] == [("blob_without_job", lost)]
    assert mended == [Finding("blob_without_job", lost, "removed")]
    assert await provider.inspect(repair=False) == []
    assert done.result is not None
    assert await provider.read_blob(done.result)
    await provider.close()


@pytest.mark.parametrize("naming", Naming)
async def test_files_of_no_job_and_second_files_are_found(
    tmp_path: Path, naming: Naming, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result without its job, and a job's file in a second place: moved aside on request, never lost."""
    provider = LocalProvider(Settings(tmp_path, naming))
    await provider.open()
    scene = Scene(provider)
    await scene.set_up()
    await scene.submit()
    done = await scene.complete(await scene.claim_and_accept())
    await settled(scene)
    layout = provider._layout
    result = Path(layout.result.path(done.key, done.owner))
    stray = result.with_name(result.name.replace(done.key.id, "0" * 24))
    stray.write_bytes(b'{"old": 1}')
    second = Path(layout[inspecting.Place.RUNNING].path(done.key, done.owner))
    second.write_bytes(b"{}")
    young = await provider.inspect(repair=False)
    monkeypatch.setattr(inspecting, "time", lambda: time.time() + 3600)

    found = await provider.inspect(repair=False)
    mended = await provider.inspect(repair=True)

    assert young == []
    wanted = [
        ("result_without_job", os.path.relpath(stray, tmp_path)),
        ("file_twice", os.path.relpath(second, tmp_path)),
    ]
    assert [(one.kind, one.subject) for one in found] == wanted
    assert [(one.kind, one.subject) for one in mended] == wanted
    assert await provider.inspect(repair=False) == []
    kept = {path.name: path.read_bytes() for path in Path(layout.refused).iterdir()}
    assert kept == {stray.name: b'{"old": 1}', second.name: b"{}"}
    assert result.exists()
    assert await provider.get(done.key) == done
    await provider.close()
