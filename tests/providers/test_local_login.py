# ruff: noqa: F401, F811 - fixtures are imported, and used by their names
"""What a local storage demands of its login and of the folder."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from spoolway_providers.conformance import Scene
from spoolway_providers.errors import Corrupt, LoginRefused
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Naming
from spoolway_providers.local.login import settings_of
from spoolway_providers.local.mounts import refuse_network_file_system
from spoolway_providers.registry import make_provider
from tests.providers.local_folder import Folder, OpenLocal, folder, open_local, remove_index, scene

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/vdb /home/disk ext4 rw 0 0
//server/share /mnt/a\\040share cifs rw 0 0
host /mnt/host 9p rw,trans=virtio 0 0
lab@server: /mnt/ssh fuse.sshfs rw 0 0
bucket /mnt/s3 fuse.rclone rw 0 0
overlay /mnt/layers fuse.fuse-overlayfs rw 0 0
server:/vol /mnt/both nfs rw 0 0
/dev/vdc /mnt/both xfs rw 0 0
malformed
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/lab", "nfs4"),
        ("/home", "nfs4"),
        ("/mnt/a share/lab", "cifs"),
        ("/mnt/host/x/y", "9p"),
        ("/mnt/ssh/lab", "fuse.sshfs"),
        ("/mnt/s3/lab", "fuse.rclone"),
    ],
)
def test_network_file_system_is_refused(tmp_path: Path, path: str, kind: str) -> None:
    """A folder on a network file system is refused with a word that names it and the way out."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)

    with pytest.raises(LoginRefused, match=kind.replace(".", r"\.")) as caught:
        refuse_network_file_system(Path(path), table)

    assert "a disk of this machine" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/var/lab", "/home2/lab", "/home/disk/lab", "/mnt/layers/x", "/mnt/both/x", "/"]
)
def test_disk_is_taken(tmp_path: Path, path: str) -> None:
    """A folder on a disk of this machine is taken, also one that covers or lies below another mount."""
    table = tmp_path / "mounts"
    table.write_text(MOUNTS)

    refuse_network_file_system(Path(path), table)
    refuse_network_file_system(Path(path), tmp_path / "no such table")


async def test_network_file_system_is_left_untouched(folder: Folder, tmp_path: Path) -> None:
    """What is refused for its file system is not even made."""
    table = tmp_path / "mounts"
    table.write_text(f"server:/ {tmp_path} nfs rw 0 0\n")
    provider = LocalProvider(folder.settings(), mount_table=table)

    with pytest.raises(LoginRefused, match="nfs"):
        await provider.open()

    assert not folder.base.exists()
    await provider.close()


def test_login_is_read() -> None:
    """All fields have their meaning, and what is left out its default."""
    settings = settings_of(
        {"base_path": "/lab", "layout": "backend_files", "stock_spoolers": " a, b,,", "owner": "lab"}
    )

    assert settings.base == Path("/lab")
    assert settings.naming is Naming.BACKEND_FILES
    assert settings.stock_spoolers == {"a", "b"}
    assert settings.owner == "lab"
    plain = settings_of({"base_path": "/lab"})
    assert (plain.naming, plain.stock_spoolers, plain.owner) == (Naming.LOCAL, frozenset(), "unknown")
    assert settings_of({"base_path": "~/lab"}).base == Path.home() / "lab"


@pytest.mark.parametrize(
    ("login", "field"),
    [
        ({}, "base_path"),
        ({"base_path": ""}, "base_path"),
        ({"base_path": 5}, "base_path"),
        ({"base_path": "a\0b"}, "base_path"),
        ({"base_path": "/lab", "layout": "mongodb"}, "layout"),
        ({"base_path": "/lab", "stock_spoolers": "a,../b"}, "stock_spoolers"),
        ({"base_path": "/lab", "path": "/lab"}, "path"),
    ],
)
def test_wrong_login_names_the_field(login: dict[str, Any], field: str) -> None:
    """A mistake in the login is told by its field, before anything is touched."""
    with pytest.raises(ValueError, match=field):
        LocalProvider.from_login(login)


async def test_type_is_found_by_its_name(tmp_path: Path) -> None:
    """The registry makes one of type `local`."""
    provider = make_provider("local", {"base_path": str(tmp_path / "lab")})
    await provider.open()
    await Scene(provider).set_up()
    await provider.close()

    assert (tmp_path / "lab" / "backends" / "configs" / "singlequdit.json").exists()


async def test_path_that_is_a_file_is_refused(tmp_path: Path, open_local: OpenLocal) -> None:
    """A path that can't be a folder is a wrong login."""
    (tmp_path / "file").write_bytes(b"")

    for base in (tmp_path / "file", tmp_path / "file" / "lab", tmp_path / ("x" * 300)):
        with pytest.raises(LoginRefused, match="base_path"):
            await open_local(Folder(base))


async def test_folders_on_two_disks_are_refused(folder: Folder, open_local: OpenLocal) -> None:
    """Files can't be moved between disks in one step: all folders must lie on one."""
    memory_disk = Path("/dev/shm")  # noqa: S108  # only linked to
    if not memory_disk.exists() or memory_disk.stat().st_dev == folder.base.parent.stat().st_dev:
        pytest.fail("this test needs two file systems")
    (folder.base / "jobs").mkdir(parents=True)
    (folder.base / "jobs" / "running").symlink_to(memory_disk)

    with pytest.raises(LoginRefused, match="file systems"):
        await open_local(folder)


async def test_other_layout_is_refused(folder: Folder, scene: Scene, open_local: OpenLocal) -> None:
    """A folder keeps the names that it was set up with."""
    await scene.provider.close()

    with pytest.raises(LoginRefused, match="layout"):
        await open_local(Folder(folder.base, Naming.BACKEND_FILES))
    await open_local(folder, "session-2")


async def test_newer_index_is_refused(folder: Folder, scene: Scene, open_local: OpenLocal) -> None:
    """An index that a newer program wrote is left to it."""
    await scene.provider.close()
    with closing(sqlite3.connect(folder.layout.index, isolation_level=None)) as index:
        index.execute("UPDATE local_meta SET schema = 99")

    with pytest.raises(Corrupt, match="99"):
        await open_local(folder, "session-2")


async def test_open_and_close_can_be_repeated(folder: Folder, scene: Scene) -> None:
    """A storage may be opened and closed again and again, and loses nothing."""
    job = await scene.submit()
    for _ in range(3):
        await scene.provider.open()
        await scene.provider.close()
        await scene.provider.close()
        await scene.provider.open()

    assert await scene.provider.get(job.key) == job


async def test_probe_tries_the_files(folder: Folder, scene: Scene) -> None:
    """A probe writes, moves, reads and removes a file, and leaves nothing."""
    before = folder.documents()

    steps = await scene.provider.probe()

    assert [step.name for step in steps if step.name.startswith("file_")] == [
        "file_write",
        "file_move",
        "file_read_back",
        "file_remove",
    ]
    assert all(step.ok for step in steps)
    assert set(folder.documents()) >= set(before)
    assert [name for name in folder.documents() if "probe" in name] == []
