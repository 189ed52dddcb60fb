"""Dropbox is a source of copies, and says that it can't be a target."""

from pathlib import Path

import pytest

from spoolway_providers.errors import Unsupported
from spoolway_providers.interface import Query
from spoolway_providers.model import Job
from spoolway_providers.sqlite import SqliteProvider
from spoolway_server.copying import Transfer
from tests.dropbox_emulator.scene import make_account, opened, staged_scene


async def test_jobs_of_an_account_go_into_a_file(tmp_path: Path) -> None:
    """As they are, in their order, with contents and results."""
    target = SqliteProvider(tmp_path / "jobs.sqlite")
    await target.open()
    async with opened(make_account()) as source:
        scene = await staged_scene(source)
        await scene.submit()
        done = await scene.complete(await scene.claim_and_accept(), b'{"n": 1}')
        waiting = [await scene.submit() for _ in range(3)]
        await target.put_config(done.key.backend, b"{}", None)
        jobs: list[Job] = (await source.find(Query())).jobs

        await Transfer(source, target).take(jobs)
        with pytest.raises(Unsupported, match="choose another type"):
            await source.adopt([])

    assert done.result is not None
    assert await target.read_blob(done.result) == b'{"n": 1}'
    copied: list[Job] = (await target.find(Query())).jobs
    assert [(job.key, job.state, job.rank) for job in copied] == [(j.key, j.state, j.rank) for j in jobs]
    assert [job.key for job in copied[1:]] == [job.key for job in waiting]
    await target.close()
