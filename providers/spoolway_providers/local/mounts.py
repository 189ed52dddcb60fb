"""Refuses network file systems: neither their renames nor their locks are what this storage relies on."""

import os
import re
from pathlib import Path

from spoolway_providers.errors import LoginRefused

__all__ = ["MOUNT_TABLE", "refuse_network_file_system"]

MOUNT_TABLE = Path("/proc/self/mounts")

_NETWORK_TYPES = frozenset(
    {
        *("9p", "afs", "auristorfs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs2", "glusterfs", "gpfs"),
        *("lustre", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3"),
        *("smbfs", "vboxsf", "vmhgfs"),
    }
)
_NETWORK_FUSE = frozenset(
    {
        *(
            "blobfuse",
            "blobfuse2",
            "ceph",
            "ceph-fuse",
            "curlftpfs",
            "davfs",
            "davfs2",
            "gcsfuse",
            "glusterfs",
        ),
        *("goofys", "gvfsd-fuse", "juicefs", "mount-s3", "nfs", "rclone", "s3fs", "seaweedfs", "smbnetfs"),
        *("sshfs", "vmhgfs-fuse"),
    }
)
"""Behind `fuse.`; what is not listed, such as an overlay of a container, may well lie on a disk."""
_OCTAL = re.compile(r"\\([0-7]{3})")


def refuse_network_file_system(folder: Path, mount_table: Path = MOUNT_TABLE) -> None:
    """Raise LoginRefused if `folder`, or where it is to be made, lies on a network file system.

    Where there is no table of mounts, as on other systems than Linux, nothing is refused.
    """
    try:
        table = mount_table.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    point, kind = _mount_of(os.path.realpath(folder), table)
    if _is_network(kind):
        raise LoginRefused(
            f"base_path {folder} lies on a network file system ({kind}, mounted at {point}), where neither "
            "renames nor locks are safe; use a disk of this machine, or a storage of type mongodb"
        )


def _mount_of(path: str, table: str) -> tuple[str, str]:
    """The mount that holds `path`, and its type: of the longest the last, which covers the others."""
    found = ("", "")
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[1])
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(found[0]):
            found = (point, fields[2].lower())
    return found


def _is_network(kind: str) -> bool:
    if kind.startswith("fuse."):
        return kind.removeprefix("fuse.") in _NETWORK_FUSE
    return kind in _NETWORK_TYPES
