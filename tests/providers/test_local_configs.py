# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""Backends' configs in a local storage: the file counts, whoever writes it."""

import asyncio
import json
from pathlib import Path

import pytest

from spoolway_providers.conformance.scene import BACKEND, Scene
from spoolway_providers.digests import config_etag
from spoolway_providers.errors import Conflict
from spoolway_providers.local.layout import Naming
from spoolway_providers.model import Backend, Policy
from tests.providers.local_folder import Folder, OpenLocal, open_local, scene, settled, until

EDITED = b'{ "num_wires": 5 }\n'


@pytest.fixture(params=list(Naming))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(tmp_path / "lab", request.param)


async def config(scene: Scene, name: str = BACKEND) -> Backend | None:
    backends = {backend.name: backend for backend in await scene.provider.backends()}
    return backends.get(name)


async def taken_up(scene: Scene, content: bytes, name: str = BACKEND) -> Backend:
    """The backend, once its config is this."""
    seen: list[Backend] = []

    async def is_so() -> bool:
        backend = await config(scene, name)
        seen[:] = [backend] if backend is not None else []
        return backend is not None and backend.config == content

    await until(is_so)
    return seen[0]


async def test_registered_config_is_written(folder: Folder, scene: Scene) -> None:
    """What a spooler registers lies in the file, byte for byte."""
    await scene.provider.put_config(BACKEND, EDITED, None)
    await settled(scene)

    assert folder.config_path().read_bytes() == EDITED


async def test_edit_by_hand_is_taken_up(folder: Folder, scene: Scene) -> None:
    """What somebody writes into the file is the config soon, with these bytes' etag; policy stays (F9)."""
    await scene.set_policy(max_queued=7)
    before = await config(scene)
    await settled(scene)
    folder.write(folder.config_path(), EDITED)

    backend = await taken_up(scene, EDITED)

    assert backend.config_etag == config_etag(EDITED)
    assert backend.policy == Policy(max_queued=7)
    assert before is not None
    with pytest.raises(Conflict):
        await scene.provider.put_config(BACKEND, b"{}", before.config_etag)
    await settled(scene)
    assert folder.config_path().read_bytes() == EDITED


async def test_edit_in_place_is_taken_up_once_it_is_whole(folder: Folder, scene: Scene) -> None:
    """An editor that writes the file in place is no trouble: half of it is never the config."""
    await settled(scene)
    with folder.config_path().open("wb", buffering=0) as file:
        file.write(EDITED[:8])
        await asyncio.sleep(0.1)
        during = await config(scene)
        file.write(EDITED[8:])

    await taken_up(scene, EDITED)
    assert during is not None
    assert during.config == b"{}"


async def test_dropped_config_is_a_backend(folder: Folder, scene: Scene) -> None:
    """Whoever puts a config into the folder has registered a backend, with a queue to drop files into."""
    await settled(scene)
    folder.write(folder.config_path("multiqudit"), EDITED)

    await taken_up(scene, EDITED, "multiqudit")
    await scene.submit(backend="multiqudit")

    key = folder.drop("job-1", backend="multiqudit")
    await until(lambda: asyncio.ensure_future(is_known(scene, key.id)))


async def is_known(scene: Scene, job_id: str) -> bool:
    return bool(await scene.find_keys(id=job_id))


async def test_edit_while_no_server_runs_is_taken_up(
    folder: Folder, scene: Scene, open_local: OpenLocal
) -> None:
    """A config that was edited before the start counts."""
    await settled(scene)
    await scene.provider.close()
    folder.write(folder.config_path(), EDITED)

    again = await open_local(folder, "session-2", registers=False)

    backend = await config(again)
    assert backend is not None
    assert backend.config == EDITED


async def test_what_was_acknowledged_beats_an_edit_at_the_same_time(folder: Folder, scene: Scene) -> None:
    """A config that was registered while somebody edited the file is what counts in both places."""
    await settled(scene)
    folder.write(folder.config_path(), b'{"by": "hand"}')
    await scene.provider.put_config(BACKEND, EDITED, None)
    await settled(scene)
    await settled(scene)

    backend = await config(scene)
    assert backend is not None
    assert folder.config_path().read_bytes() == backend.config


async def test_odd_files_are_no_configs(folder: Folder, scene: Scene, tmp_path: Path) -> None:
    """Names that can't be a backend's, links and what is no document are left alone (F11)."""
    await settled(scene)
    secret = tmp_path / "secret.json"
    secret.write_bytes(EDITED)
    for name in ("A", "a-b", "x" * 65, "..a"):
        folder.write(folder.config_path(name), EDITED)
    link = folder.config_path("linked")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    folder.write(folder.config_path("list"), b"[]")
    folder.write(folder.config_path("good"), EDITED)

    await taken_up(scene, EDITED, "good")
    await settled(scene)
    assert [backend.name for backend in await scene.provider.backends()] == ["good", BACKEND]


async def test_removed_config_is_written_again(folder: Folder, scene: Scene) -> None:
    """A backend does not go by removing its file: who still knows it finds it again."""
    await settled(scene)
    folder.config_path().unlink()
    await settled(scene)

    assert folder.config_path().read_bytes() == b"{}"


async def test_today_s_polls_are_taken_up(folder: Folder, scene: Scene) -> None:
    """A spooler of today's systems that rewrites the config at each poll, in place, harms nobody."""
    await settled(scene)
    for number in range(30):
        folder.config_path().write_text(json.dumps({"num_wires": 1, "last_queue_check": number}))
        await asyncio.sleep(0.01)
    last = folder.config_path().read_bytes()

    await taken_up(scene, last)


async def test_config_that_is_taken_away_takes_its_file_along(folder: Folder, scene: Scene) -> None:
    """A file that somebody writes later registers the backend again, also one with the same bytes."""
    before = await config(scene)
    assert before is not None
    await settled(scene)

    await scene.provider.remove_config(BACKEND, None)
    await settled(scene)

    assert not folder.config_path().exists()
    folder.write(folder.config_path(), before.config)
    assert await taken_up(scene, before.config) == before


async def test_config_that_was_taken_away_stays_away(folder: Folder, open_local: OpenLocal) -> None:
    """Opened anew, the folder does not bring it back; its jobs are there."""
    first = await open_local(folder)
    job = await first.submit()
    await settled(first)
    await first.provider.remove_config(BACKEND, None)
    await first.provider.close()

    second = (await open_local(folder, "session-2", registers=False)).provider
    await second.repair()

    assert [backend.is_registered for backend in await second.backends()] == [False]
    assert not folder.config_path().exists()
    assert await second.get(job.key) == job
