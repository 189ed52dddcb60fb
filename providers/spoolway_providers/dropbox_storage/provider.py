"""The provider: one owner server an account, its memory the index, the account the truth."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from spoolway_providers.dropbox_storage import blobs, claims, commits, removals, repair, submits
from spoolway_providers.dropbox_storage.calls import CONNECTIONS, Calls
from spoolway_providers.dropbox_storage.client import Client, Login
from spoolway_providers.dropbox_storage.index import cursor_after
from spoolway_providers.dropbox_storage.names import Layout, backends_of
from spoolway_providers.dropbox_storage.office import Office
from spoolway_providers.dropbox_storage.ownership import Ownership, seconds_awake_or_asleep
from spoolway_providers.dropbox_storage.probing import probe
from spoolway_providers.dropbox_storage.signin import authorization_url, login_from_code
from spoolway_providers.dropbox_storage.tenure import MAX_DOCUMENT_BYTES, Tenure
from spoolway_providers.dropbox_storage.timings import Timings
from spoolway_providers.errors import NotOwner, ProviderError, Unavailable
from spoolway_providers.interface import (
    Attention,
    Capabilities,
    Change,
    Changes,
    Claimed,
    Finding,
    Hints,
    LeaseView,
    LoginField,
    Order,
    Page,
    Provider,
    Query,
    SessionView,
    Step,
)
from spoolway_providers.model import Backend, BlobRef, Draft, Job, JobKey, Policy, Session

__all__ = ["DropboxProvider"]

_CAPABILITIES = Capabilities(
    max_document_bytes=MAX_DOCUMENT_BYTES,
    wakes=True,
    heartbeat_writes=False,
    processes="one",
    priority=False,
    min_ttl=timedelta(seconds=10),
)


class DropboxProvider(Provider):
    """One Dropbox account, in the folders of today's systems."""

    description = "A Dropbox account: needs no server of its own, and is as slow as calls over the internet."
    sign_in_field = "refresh_token"
    login_fields = (
        LoginField("app_key", "App key, from the app console"),
        LoginField("app_secret", "App secret, from the app console", secret=True),
        LoginField("refresh_token", "Refresh token of the account, from signing in", secret=True),
        LoginField(
            "server_address",
            "Where this server is reached: what others that use the account are told; its host's name",
            required=False,
        ),
        LoginField(
            "stock_spoolers",
            "Backends, separated by commas, that spoolers of today's systems take jobs of beside us.",
            required=False,
        ),
    )

    def __init__(
        self,
        login: Login,
        *,
        address: str = "",
        base: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = seconds_awake_or_asleep,
        timings: Timings | None = None,
        stock_spoolers: frozenset[str] = frozenset(),
    ) -> None:
        """Make one for an account.

        Args:
            login: Of an app that the account's owner has authorized.
            address: Where this server is reached; what others are told.
            base: A folder to keep all in; empty for the account's, or the app's, own root.
            clock: The wall clock.
            monotonic: In seconds; only goes forward, also while the machine sleeps.
            timings: How long things take.
            stock_spoolers: Backends whose jobs spoolers of today's systems take beside us.
        """
        self._login = login
        self._address = address or socket.gethostname()
        self._layout = Layout(base)
        self._clock = clock
        self._monotonic = monotonic
        self._timings = timings or Timings()
        self._stock_spoolers = stock_spoolers
        self._calls: Calls | None = None
        self._ownership: Ownership | None = None
        self._office: Office | None = None
        self._trouble: ProviderError = Unavailable("the storage is not open")
        self._opening = asyncio.Lock()
        self._candidacy: asyncio.Task[None] | None = None

    @classmethod
    def from_login(cls, login: Mapping[str, Any]) -> Self:
        """Make one from the login's fields."""
        known = {field.name: field for field in cls.login_fields}
        if set(login) - set(known):
            raise ValueError(
                f"a dropbox storage takes no login field {', '.join(sorted(set(login) - set(known)))!r}"
            )
        for name, field in known.items():
            value = login.get(name, "")
            if not isinstance(value, str) or (not value and field.required):
                raise ValueError(f"{name}: must be a text that is not empty")
        signs_in = {name: login[name] for name in ("app_key", "app_secret", "refresh_token")}
        stock_spoolers = backends_of("stock_spoolers", login.get("stock_spoolers", ""))
        return cls(Login(**signs_in), address=login.get("server_address", ""), stock_spoolers=stock_spoolers)

    @classmethod
    def sign_in_page(cls, login: Mapping[str, Any]) -> str:
        """Needs `app_key` and `app_secret`; see the interface."""
        return authorization_url(*_app_of(login))

    @classmethod
    async def finish_sign_in(cls, login: Mapping[str, Any], code: str) -> Mapping[str, Any]:
        """Exchange the code for a refresh token; see the interface."""
        app_key, app_secret = _app_of(login)
        signed_in = await asyncio.to_thread(login_from_code, app_key, app_secret, code)
        return {**login, "refresh_token": signed_in.refresh_token}

    @property
    def capabilities(self) -> Capabilities:
        """One server, first in, first out."""
        return _CAPABILITIES

    @property
    def counters(self) -> Counter[str]:
        """See the interface: calls by name, lost answers, retries, and each kind of limit that was met."""
        return Counter(self._calls.counters if self._calls else {})

    # Life

    async def open(self) -> None:
        """Become the account's owner and read it; see the interface."""
        async with self._opening:
            if self._office is None:
                await self._take_office()

    async def _take_office(self) -> None:
        if self._calls is None:
            client = Client(self._login, connections=CONNECTIONS, timeout_s=self._timings.socket_timeout_s)
            self._calls = Calls(client, self._timings, self._monotonic)
            self._ownership = Ownership(self._calls, self._layout.owner, self._address)
            self._calls.fence = self._ownership.check
        ownership = self._ownership
        assert ownership is not None  # noqa: S101 - made together with the calls
        before = await ownership.acquire()
        tenure = Tenure(
            self._calls, ownership, self._layout, _CAPABILITIES, self._clock, self._stock_spoolers
        )
        office = Office(tenure, self._lose_office)
        try:
            await office.start(before)
        except BaseException:
            await office.stop()
            await _leave_quietly(ownership)
            raise
        if ownership.is_lost:
            await office.stop()
            ownership.check()
        self._office = office

    def _lose_office(self, error: NotOwner) -> None:
        """Another server owns the account: stop at once, and stand by."""
        office, self._office, self._trouble = self._office, None, error
        self._candidacy = asyncio.create_task(self._stand_by(office))

    async def _stand_by(self, office: Office | None) -> None:
        """Become the owner again once the other one is silent for long enough."""
        if office is not None:
            await office.stop()
        while self._office is None:
            await asyncio.sleep(self._timings.renew_every_s / 2)
            try:
                await self.open()
            except ProviderError as error:
                self._trouble = error

    async def close(self) -> None:
        """Write what is still to be written, and leave the account to the next; see the interface."""
        if self._candidacy is not None:
            self._candidacy.cancel()
            await asyncio.gather(self._candidacy, return_exceptions=True)
            self._candidacy = None
        async with self._opening:
            office, self._office = self._office, None
            calls, self._calls = self._calls, None
            self._trouble = Unavailable("the storage is closed")
            if office is not None:
                await office.leave()
            if calls is not None:
                calls.close()

    def _at_work(self) -> Office:
        """The owner at work. Raises what keeps it from being there."""
        if self._office is None:
            raise self._trouble
        return self._office

    # Jobs

    async def submit(self, drafts: Sequence[Draft]) -> list[Job | ProviderError]:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(submits.submit(office.tenure, office.reader, drafts))

    async def claim(self, backend: str, orders: Sequence[Order]) -> list[Claimed]:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(claims.claim(office.tenure, office.reader, backend, orders))

    async def commit(self, changes: Sequence[Change]) -> list[Job | ProviderError]:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(commits.commit(office.tenure, office.reader, changes))

    async def get(self, key: JobKey) -> Job:
        """See the interface."""
        office = self._at_work()
        entry = office.tenure.index.get(key)
        if entry.job is None or entry.doubted:
            async with entry.lock:
                await office.reader.ensure(entry)
        job = office.tenure.index.get(key).job
        if job is None:  # pragma: no cover - it was read right above
            raise Unavailable(f"{key} can't be read")
        return job

    async def find(self, query: Query) -> Page:
        """See the interface."""
        office = self._at_work()
        await office.reader.ensure_for(query)
        return office.tenure.index.find(query)

    def cursor_after(self, job: Job) -> str:
        """See the interface."""
        return cursor_after(job)

    async def count(self, query: Query) -> int:
        """See the interface."""
        office = self._at_work()
        waiting = office.tenure.index.waiting_of(query)
        if waiting is not None:
            return min(query.limit, waiting)
        await office.reader.ensure_for(query)
        return office.tenure.index.count(query)

    async def position(self, job: Job, limit: int) -> int:
        """See the interface."""
        return self._at_work().tenure.index.position(job, limit)

    async def next_due(self) -> datetime | None:
        """See the interface."""
        return self._at_work().tenure.index.next_due()

    async def delete(self, key: JobKey, revision: int) -> None:
        """See the interface."""
        office = self._at_work()
        await office.tenure.run(removals.delete(office.tenure, office.reader, key, revision))

    async def changes(self, cursor: str, limit: int = 1000) -> Changes:
        """See the interface."""
        tenure = self._at_work().tenure
        keys, next_cursor, more = tenure.feed.since(cursor, limit)
        entries = tenure.index.entries
        jobs = [job for key in keys if key in entries and (job := entries[key].job) is not None]
        return Changes(jobs, [key for key in keys if key not in entries], next_cursor, more)

    async def wait(self, timeout: timedelta) -> Hints | None:
        """See the interface."""
        return await self._at_work().tenure.feed.wait(timeout)

    # Blobs

    async def stage(self, blob_id: str, offset: int, data: bytes) -> int:
        """See the interface."""
        tenure = self._at_work().tenure
        return await tenure.run(blobs.stage(tenure, blob_id, offset, data))

    async def read_staged(self, blob_id: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await self._at_work().tenure.staging.read(blob_id, offset, limit)

    async def read_blob(self, ref: BlobRef, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """See the interface."""
        return await blobs.read_blob(self._at_work().tenure, ref, offset, limit)

    # Sessions

    async def open_session(self, session: Session, *, predecessor_dead: bool = False) -> list[Session]:
        """See the interface."""
        return self._at_work().tenure.sessions.open(session, predecessor_dead=predecessor_dead)

    async def renew(self, session_id: str, beat: int, *, detached: bool = False) -> Attention:
        """See the interface; nothing is written to Dropbox."""
        tenure = self._at_work().tenure
        tenure.ownership.check()
        tenure.sessions.renew(session_id, beat, detached=detached)
        return Attention([_lease_view(job) for job in tenure.index.held_by(session_id)])

    async def close_session(self, session_id: str, beat: int | None, reason: str) -> bool:
        """See the interface."""
        return self._at_work().tenure.sessions.close(session_id, beat, reason)

    async def sessions(self, *, closed: bool = False) -> list[SessionView]:
        """See the interface; closed ones of an earlier owner are not known."""
        tenure = self._at_work().tenure
        return [
            SessionView(session, len(tenure.index.held_by(session.id)), closed_at)
            for session, closed_at in tenure.sessions.all(closed=closed)
        ]

    # Backends

    async def put_config(self, backend: str, config: bytes, etag: str | None) -> Backend:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(office.backends.put_config(backend, config, etag))

    async def remove_config(self, backend: str, etag: str | None) -> Backend:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(office.backends.remove_config(backend, etag))

    async def put_policy(self, backend: str, policy: Policy, etag: str | None) -> Backend:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(office.backends.put_policy(backend, policy, etag))

    async def backends(self) -> list[Backend]:
        """See the interface; no call, unless Dropbox has not answered the last one."""
        tenure = self._at_work().tenure
        tenure.ownership.check()
        await tenure.calls.check(self._layout.owner)
        return [tenure.backends[name] for name in sorted(tenure.backends)]

    async def put_public_key(self, kid: str, key: bytes) -> bytes:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(office.backends.put_public_key(kid, key))

    async def public_key(self, kid: str) -> bytes | None:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(office.backends.public_key(kid))

    # Care

    async def repair(self, limit: int = 1000) -> list[Finding]:
        """See the interface."""
        office = self._at_work()
        return await office.tenure.run(repair.repair(office.tenure, limit))

    async def probe(self) -> list[Step]:
        """See the interface; works for an account that another server owns, too."""
        if self._calls is not None:
            return await probe(self._calls, self._layout)
        client = Client(self._login, connections=2, timeout_s=self._timings.socket_timeout_s)
        calls = Calls(client, self._timings, self._monotonic)
        try:
            return await probe(calls, self._layout)
        finally:
            calls.close()


def _app_of(login: Mapping[str, Any]) -> tuple[str, str]:
    app = []
    for name in ("app_key", "app_secret"):
        value = login.get(name)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{name}: must be a text that is not empty, to sign in with")
        app.append(value)
    return app[0], app[1]


async def _leave_quietly(ownership: Ownership) -> None:
    """Make room for the next owner, if Dropbox lets us."""
    try:
        await ownership.release(settled=False)
    except ProviderError:
        return


def _lease_view(job: Job) -> LeaseView:
    return LeaseView(job.key, job.attempts[-1].token, job.state, job.reason)
