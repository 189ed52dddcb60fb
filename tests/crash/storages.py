"""The storages that the harness knows: how each is made, where its steps are, and what must lie where."""

import asyncio
import atexit
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spoolway_providers.interface import Provider
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Layout, Naming, Place
from spoolway_providers.local.login import settings_of
from spoolway_providers.model import Job, State
from spoolway_providers.sqlite import SqliteProvider, engine
from spoolway_providers.sqlite.writer import Writer as SqliteWriter

if TYPE_CHECKING:
    from tests.providers.mongodb_server import StandIn

__all__ = ["STORAGES", "StorageCase", "storage_case"]

Step = Callable[[str], None]
Login = Mapping[str, Any]


class StorageCase:
    """One type of storage."""

    name = ""
    max_servers = 2
    """Servers that may share it."""
    steps = 4
    """Steps of its longest transition, roughly: so many are killed at in turn."""
    clock_slack_s = 0.0
    """By how much the times of two claims, or of an end and a claim, may be out of order."""

    def prepare(self) -> None:
        """Set up in the harness what all processes need, before any is started."""

    @contextmanager
    def login(self, folder: Path) -> Iterator[dict[str, Any]]:
        """The login of a new storage; gone afterwards."""
        raise NotImplementedError
        yield {}

    def maker(self, step: Step) -> Callable[[Login], Provider]:
        """How to make its provider, with `step` called at every step."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, login: Login) -> AsyncIterator[Provider]:
        """The storage, after its servers were killed."""
        provider = self.maker(lambda _: None)(login)
        await provider.open()
        try:
            yield provider
        finally:
            await provider.close()

    def misplaced(self, login: Login, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
        """Jobs whose documents don't lie where they belong, and what is wrong with each."""
        yield from ()


class SqliteCase(StorageCase):
    """One file; a step is a commit."""

    name = "sqlite"

    @contextmanager
    def login(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"path": str(folder / "jobs.sqlite")}

    def maker(self, step: Step) -> Callable[[Login], Provider]:
        self._watch_commits(step)
        return SqliteProvider.from_login

    @staticmethod
    def _watch_commits(step: Step) -> None:
        class Writer(SqliteWriter):
            def _commit(self, connection: Any) -> None:
                step("before the commit")
                super()._commit(connection)
                step("after the commit")

        engine.Writer = Writer  # type: ignore[misc]


class LocalCase(SqliteCase):
    """A folder; a step is a commit of the index, or one in writing a file."""

    name = "local"
    steps = 14

    @contextmanager
    def login(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"base_path": str(folder / "lab")}

    def maker(self, step: Step) -> Callable[[Login], Provider]:
        self._watch_commits(step)
        return lambda login: LocalProvider(
            settings_of(login), fault=lambda what, subject: step(f"{what} {subject}")
        )

    def misplaced(self, login: Login, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
        layout = Layout(login["base_path"], Naming.LOCAL)
        for job in (job for job in jobs if job.is_terminal):
            places = [
                place
                for place in Place
                if place is not Place.NOWHERE and Path(layout.job(place, job.key, job.owner)).exists()
            ]
            expected = Place.FINISHED if job.state is State.DONE else Place.DELETED
            if places != [expected]:
                yield str(job.key), f"its file lies in {places}, not in {expected}"
            if Path(layout.result.path(job.key, job.owner)).exists() != (job.state is State.DONE):
                yield str(job.key), "its result's file does not go with its state"


class MongoCase(StorageCase):
    """A database of the stand-in; a step is a command, before it is sent and after its answer."""

    name = "mongodb"
    steps = 8
    clock_slack_s = 1.0
    """A time is read before its command is sent; and it is the server's or the client's."""

    @contextmanager
    def login(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"uri": _mongodb().uri, "database": f"round_{secrets.token_hex(6)}"}

    def maker(self, step: Step) -> Callable[[Login], Provider]:
        from pymongo.monitoring import CommandListener

        from spoolway_providers.mongodb import MongoProvider
        from spoolway_providers.mongodb.login import login_of

        class Listener(CommandListener):
            def started(self, event: Any) -> None:
                step(f"before {event.command_name}")

            def succeeded(self, event: Any) -> None:
                step(f"after {event.command_name}")

            def failed(self, event: Any) -> None:
                step(f"after {event.command_name}, which failed")

        return lambda login: MongoProvider(login_of(login), listeners=[Listener()])


@cache
def _mongodb() -> "StandIn":
    """A stand-in for MongoDB for all rounds of this process, and its own."""
    from tests.providers.mongodb_server import StandIn

    folder = tempfile.TemporaryDirectory(prefix="spoolway-mongodb-")
    server = StandIn(Path(folder.name))
    server.start()

    def end() -> None:
        server.kill()
        folder.cleanup()

    atexit.register(end)
    return server


class DropboxCase(StorageCase):
    """An account of the emulator; a step is a call, before it is sent and after its answer."""

    name = "dropbox"
    max_servers = 1
    steps = 12

    def prepare(self) -> None:
        # Before anything imports the SDK, which it points at itself, by the environment.
        import tests.dropbox_emulator  # noqa: F401

    @contextmanager
    def login(self, folder: Path) -> Iterator[dict[str, Any]]:
        from tests.dropbox_emulator import make_account

        yield make_account().login

    def maker(self, step: Step) -> Callable[[Login], Provider]:
        provider = self._provider()
        _watch_requests(step)
        return provider

    @staticmethod
    def _provider() -> Callable[[Login], Provider]:
        from spoolway_providers.dropbox_storage import DropboxProvider, Timings
        from spoolway_providers.dropbox_storage import Login as DropboxLogin

        timings = Timings(
            renew_every_s=0.3,
            stop_after_s=1.0,
            # Longer than a lease: the owner before may have prolonged one just before it went.
            take_over_after_s=1.6,
            patience_s=1.0,
            first_backoff_s=0.05,
            call_limit_s=0.5,
            socket_timeout_s=0.5,
            amnesty_s=0.5,
            place_after_s=0.1,
            sync_every_s=1.0,
            care_every_s=0.05,
        )
        return lambda login: DropboxProvider(DropboxLogin(**login), timings=timings)

    @asynccontextmanager
    async def opened(self, login: Login) -> AsyncIterator[Provider]:
        from spoolway_providers.errors import NotOwner

        provider = self._provider()(login)
        while True:
            try:
                await provider.open()
                break
            except NotOwner:
                await asyncio.sleep(0.1)
        try:
            yield provider
        finally:
            await provider.close()

    def misplaced(self, login: Login, jobs: Sequence[Job]) -> Iterator[tuple[str, str]]:
        from spoolway_providers.dropbox_storage.names import Layout as DropboxLayout
        from spoolway_providers.dropbox_storage.names import Place as DropboxPlace
        from tests.dropbox_emulator import DropboxAccount

        layout, files = DropboxLayout(), DropboxAccount(login["refresh_token"]).tree()
        for job in (job for job in jobs if job.is_terminal):
            places = [place for place in DropboxPlace if layout.job(job.key, place, job.owner) in files]
            expected = DropboxPlace.FINISHED if job.state is State.DONE else DropboxPlace.DELETED
            if places != [expected]:
                yield str(job.key), f"its file lies in {places}, not in {expected}"


def _watch_requests(step: Step) -> None:
    import requests

    send = requests.Session.send

    def watched(session: Any, request: Any, **options: Any) -> Any:
        is_step = "/2/files/" in request.url and "longpoll" not in request.url
        if is_step:
            step(f"before {request.path_url}")
        answer = send(session, request, **options)
        if is_step:
            step(f"after {request.path_url}")
        return answer

    requests.Session.send = watched  # type: ignore[method-assign]


STORAGES: dict[str, type[StorageCase]] = {
    case.name: case for case in (SqliteCase, LocalCase, MongoCase, DropboxCase)
}


def storage_case(name: str) -> StorageCase:
    """One of them by name."""
    if name not in STORAGES:
        raise SystemExit(f"the crash harness knows no storage {name!r}; it knows {', '.join(STORAGES)}")
    return STORAGES[name]()
