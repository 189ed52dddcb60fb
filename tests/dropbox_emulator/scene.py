"""Providers on accounts of the emulator, and what tests do with them.

Importing this module brings the emulator first and the SDK after it, as must be.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from spoolway_providers import digests, rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, CONTENT
from spoolway_providers.dropbox_storage import (
    DropboxProvider,
    Login,
    Timings,
    authorization_url,
    documents,
    login_from_code,
    names,
    ownership,
)
from spoolway_providers.dropbox_storage.faults import PathConflict
from spoolway_providers.errors import NotOwner
from spoolway_providers.model import Job, JobKey, content_blob_id
from tests.dropbox_emulator import DropboxAccount, Fault, make_account

__all__ = [
    "FAST",
    "DropboxAccount",
    "DropboxProvider",
    "Fault",
    "Login",
    "ManualSeconds",
    "PathConflict",
    "Timings",
    "authorization_url",
    "kill",
    "leave_jobs",
    "login_from_code",
    "make_account",
    "make_provider",
    "names",
    "opened",
    "opened_after_crash",
    "ownership",
    "staged_scene",
    "until",
]

FAST = Timings(
    renew_every_s=60.0,
    patience_s=5.0,
    first_backoff_s=0.01,
    amnesty_s=0.0,
    place_after_s=0.05,
    care_every_s=0.02,
    sync_every_s=0.05,
)
"""For tests that don't wait."""


class ManualSeconds:
    """A clock that only goes forward, and only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make_provider(account: DropboxAccount, timings: Timings = FAST, **options: Any) -> DropboxProvider:
    """A provider, not yet open."""
    changes = {name: options.pop(name) for name in list(options) if name in Timings.__struct_fields__}
    return DropboxProvider(Login(**account.login), timings=replace(timings, **changes), **options)


@asynccontextmanager
async def opened(account: DropboxAccount, **options: Any) -> AsyncIterator[DropboxProvider]:
    """A provider, opened and closed."""
    provider = make_provider(account, **options)
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


@asynccontextmanager
async def opened_after_crash(account: DropboxAccount, **options: Any) -> AsyncIterator[DropboxProvider]:
    """The next owner of an account whose owner went without a word; its patience is not waited for."""
    provider = make_provider(account, take_over_after_s=0.0, **options)
    with suppress(NotOwner):
        await provider.open()
    await provider.open()
    try:
        yield provider
    finally:
        await provider.close()


async def kill(provider: DropboxProvider) -> None:
    """End a provider at once, without a word to the account, as SIGKILL would."""
    office, provider._office = provider._office, None
    if office is not None:
        await office.stop()
    await provider.close()


async def staged_scene(provider: DropboxProvider, session_id: str = "session-1") -> Scene:
    """A backend and a session."""
    scene = Scene(provider, session_id)
    await scene.set_up()
    return scene


def leave_jobs(account: DropboxAccount, number: int, *, in_snapshot: int) -> list[Job]:
    """What an owner leaves that was killed with so many jobs queued, byte for byte, but in no time.

    Args:
        account: Empty so far.
        number: Of jobs.
        in_snapshot: Of these, the first ones that its index document knows.
    """
    layout, numbering = names.Layout(), names.Numbering()
    now = datetime.now(UTC) - timedelta(minutes=5)
    files = {layout.config(BACKEND): "{}"}
    jobs: list[Job] = []
    statuses: list[str] = []
    for _ in range(number):
        seq = numbering.next(now)
        key = JobKey(BACKEND, names.id_of(seq, BACKEND, "alice"))
        ref = digests.blob_ref(content_blob_id(key), CONTENT)
        job = rules.admit(Scene.draft(), key=key, content=ref, seq=seq, now=now, ranked_at=names.time_of(seq))
        files[layout.job(key, names.Place.QUEUED, "alice")] = CONTENT.decode()
        statuses.append(layout.status(key, "alice"))
        files[statuses[-1]] = documents.encode_status(job, "nonce", "").decode()
        jobs.append(job)
    revs = account.put(files)
    known = [documents.SnapshotEntry(p, revs[p], j, "") for p, j in zip(statuses, jobs, strict=True)]
    account.put_bytes(layout.snapshot, documents.encode_snapshot(known[:in_snapshot]))
    return jobs


async def until(look: Callable[[], Any]) -> Any:
    """Look, again and again, until there is something to see; what that is."""
    async with asyncio.timeout(10):
        while True:
            seen = look()
            if inspect.isawaitable(seen):
                seen = await seen
            if seen:
                return seen
            await asyncio.sleep(0.02)
