"""What a process costs, from /proc: Linux only, as all of the bench."""

import os
from pathlib import Path

__all__ = ["cpu_s", "rss_mb"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Counted from the end of the command's name, which may hold anything.
_UTIME, _STIME = 11, 12


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads so far, in user and kernel mode; exact to 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ProcessLookupError(f"process {pid} has no memory left")
