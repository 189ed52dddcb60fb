"""Who owns the account: one server at a time, by a document that it renews by rev.

Nobody's clock is compared with another's. The owner writes nothing once its last confirmed renewal was sent
too long ago by its own clock; who waits takes over once it saw the document unchanged for longer than that
and the longest call together. A request that a paused process had in flight is the known rest.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from spoolway_providers.dropbox_storage.calls import Calls, unavailable
from spoolway_providers.dropbox_storage.client import ADD, Commit, FileInfo
from spoolway_providers.dropbox_storage.documents import SCHEMA, Owner, decode_owner
from spoolway_providers.dropbox_storage.faults import LostAnswer, NotDone, PathConflict, SessionSpent
from spoolway_providers.errors import NotOwner, Unavailable
from spoolway_providers.model import new_token

__all__ = ["Ownership", "seconds_awake_or_asleep"]


def seconds_awake_or_asleep() -> float:
    """A clock that only goes forward, also while the machine sleeps."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Ownership:
    """This server's claim on the account."""

    def __init__(self, calls: Calls, path: str, address: str) -> None:
        self.nonce = new_token()
        self.last_seq: Callable[[], int] = lambda: 0
        """What to write as the highest place given so far."""
        self._calls = calls
        self._path = path
        self._address = address
        self._rev = ""
        self._beat = 0
        self._sent_at: dict[int, float] = {}
        """When each renewal of unknown outcome was sent, by its beat."""
        self._confirmed_at = float("-inf")
        """When the last confirmed renewal was sent."""
        self._successor = ""
        self._seen = ("", 0.0)
        """The rev of somebody else's document, and since when it is that."""

    # Taking

    async def acquire(self) -> Owner | None:
        """Become the owner; whose place was taken, None if the account had none.

        Raises:
            NotOwner: another server owns it, as far as one can know yet.
        """
        asked_at = self._calls.monotonic()
        found = await self._calls.download(self._path)
        if found is None:
            self._rev = ADD
            await self._take(None, ADD)
            return None
        info, data = found
        before = decode_owner(data)
        if not (before.released or before.nonce == self.nonce or _is_dead(before)):
            self._wait_longer(before, info.rev, asked_at)
        await self._take(before, info.rev)
        return before

    def _wait_longer(self, other: Owner, rev: str, asked_at: float) -> None:
        """Raise, unless the other has been silent for long enough."""
        seen_rev, seen_at = self._seen
        if seen_rev != rev:
            self._seen = (rev, self._calls.monotonic())
            raise NotOwner(other.address)
        if asked_at - seen_at < self._calls.timings.take_over_after_s:
            raise NotOwner(other.address)

    async def _take(self, before: Owner | None, rev: str) -> None:
        self.nonce = new_token()
        self._successor = ""
        self._beat = before.beat if before else 0
        self._rev = rev
        self._sent_at.clear()
        last_seq = before.last_seq if before else 0
        if not await self._write(last_seq, released=False):
            raise NotOwner(self._successor)

    # Keeping

    async def renew(self) -> None:
        """Say that this server is still there. Raises NotOwner; Unavailable: not now."""
        if not await self._write(self.last_seq(), released=False):
            raise NotOwner(self._successor)

    async def release(self, *, settled: bool) -> None:
        """Leave, so that another need not wait; `settled` says that nothing is left half done."""
        await self._write(self.last_seq(), released=True, settled=settled)

    def check(self) -> None:
        """Raise unless this server may write now."""
        if self._successor:
            raise NotOwner(self._successor)
        silent_s = self._calls.monotonic() - self._confirmed_at
        if silent_s >= self._calls.timings.stop_after_s:
            raise Unavailable(f"the ownership of the account could not be renewed for {silent_s:.0f} s")

    @property
    def is_lost(self) -> bool:
        """Whether another server has taken over."""
        return bool(self._successor)

    async def _write(self, last_seq: int, *, released: bool, settled: bool = False) -> bool:
        """Write the document by rev; whether it is still, or again, ours."""
        self._beat += 1
        document = Owner(
            nonce=self.nonce,
            address=self._address,
            beat=self._beat,
            last_seq=last_seq,
            released=released,
            settled=settled,
            host=_host(),
            pid=os.getpid(),
            pid_start=_start_of(os.getpid()) or "",
        )
        self._sent_at[self._beat] = self._calls.monotonic()
        try:
            info: FileInfo = await self._calls.once(
                self._calls.client.upload, msgspec.json.encode(document), Commit(self._path, self._rev)
            )
        except (NotDone, SessionSpent) as error:
            raise unavailable(error) from error
        except (LostAnswer, PathConflict):
            return await self._look()
        self._confirm(info.rev, self._beat)
        return True

    async def _look(self) -> bool:
        """Whether what lies there is ours, after an answer was lost."""
        found = await self._calls.download(self._path)
        if found is None:
            # Somebody removed it: make it anew.
            self._rev = ADD
            raise Unavailable("the owner's document was removed")
        info, data = found
        there = decode_owner(data)
        if there.nonce != self.nonce:
            self._successor = there.address
            return False
        self._confirm(info.rev, there.beat)
        return True

    def _confirm(self, rev: str, beat: int) -> None:
        self._rev = rev
        sent_at = self._sent_at.get(beat)
        if sent_at is not None:
            self._confirmed_at = max(self._confirmed_at, sent_at)
        self._sent_at = {b: at for b, at in self._sent_at.items() if b > beat}


# Processes of this machine


def _is_dead(owner: Owner) -> bool:
    """Whether the owner was a process of this very machine, boot and namespace that has ended."""
    if owner.schema > SCHEMA or not owner.host or owner.host != _host():
        return False
    return _start_of(owner.pid) != owner.pid_start


def _host() -> str:
    """Names where a process id means what it means here; empty if nobody can tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str | None:
    """When a process began, by the kernel's count; None: it is not there, or has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in {"Z", "X"} else fields[18]
