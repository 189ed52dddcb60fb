"""Lists of jobs over all storages: their pages merged, each storage with a place of its own in the token."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Page, Query
from spoolway_providers.model import Job
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token

__all__ = ["ListedJobs", "Listing"]

_FILTER = "filter"
_AT = "at:"
"""Before a storage's name: where its jobs go on; empty once all were listed."""


class ListedJobs(msgspec.Struct, frozen=True):
    """A page."""

    jobs: Sequence[Job]
    next_token: str
    """Empty at the end."""
    unreachable: Sequence[str]
    """Storages that did not answer, by name: their jobs are missing."""


class _Part:
    """What one storage has for a page."""

    def __init__(
        self, storage: Storage, page: Page, at: str, is_home: Callable[[Storage, str], bool]
    ) -> None:
        self.storage = storage
        self.at = at
        """Where its jobs go on, after those that were taken."""
        self.is_last = not page.cursor
        """Whether later pages have nothing of it but what is left of this one."""
        self._jobs = deque(page.jobs)
        self._is_home = is_home

    def head(self) -> Job | None:
        """The next job; those that were copied away are passed over."""
        while self._jobs and not self._is_home(self.storage, self._jobs[0].key.backend):
            self.take()
        return self._jobs[0] if self._jobs else None

    def take(self) -> Job:
        """Have the next job, and go on after it."""
        job = self._jobs.popleft()
        self.at = self.storage.provider.cursor_after(job)
        return job

    @property
    def is_done(self) -> bool:
        """Whether it has nothing for later pages."""
        return self.is_last and self.head() is None


class Listing:
    """The jobs of a query in all storages, by the time of their submit; within a storage by its own order."""

    def __init__(self, storages: Storages, caller: Principal, query: Query, only: Storage | None) -> None:
        """List `query.limit` jobs a page, of all storages or of `only` one."""
        # The default storage first, so that its trouble is told first.
        default, everywhere = storages.default, storages.by_name.values()
        asked = everywhere if only is None else [only]
        self._storages = sorted(asked, key=lambda storage: (storage is not default, storage.name))
        self._is_home = storages.is_home
        self._query = query
        shape = (caller.name, query.backend, sorted(query.states), sorted(query.labels.items()))
        text = repr((*shape, query.newest_first))
        self._filter = hashlib.sha256(text.encode()).hexdigest()[:16]

    async def page(self, token: str) -> ListedJobs:
        """The page that a token stands for; the first one if it is empty.

        Raises:
            ServiceError: the token is none of this list, or none of the storages answers.
        """
        places = decode_token(token, "page_token")
        if places and places.pop(_FILTER, None) != self._filter:
            raise bad_token("page_token", "it belongs to another filter; start again without it")
        asked = [storage for storage in self._storages if places.get(_AT + storage.name) != ""]
        found = await asyncio.gather(
            *(self._read(storage, places.get(_AT + storage.name, "")) for storage in asked)
        )
        parts = [part for part in found if isinstance(part, _Part)]
        failed = {
            s.name: error for s, error in zip(asked, found, strict=True) if isinstance(error, Exception)
        }
        if failed and not parts:
            raise next(iter(failed.values()))
        jobs = self._merge(parts)
        next_token = ""
        if not all(part.is_done for part in parts):
            for part in parts:
                # One of which nothing was taken yet begins at its beginning.
                if part.is_done or part.at:
                    places[_AT + part.storage.name] = "" if part.is_done else part.at
            next_token = encode_token({**places, _FILTER: self._filter})
        return ListedJobs(jobs, next_token, sorted(failed))

    async def _read(self, storage: Storage, at: str) -> _Part | ProviderError | ServiceError:
        """What a storage has, or why it can't tell: one in trouble hides none of the others."""
        try:
            storage.require_usable()
            with storage.noting_trouble():
                page = await storage.provider.find(msgspec.structs.replace(self._query, cursor=at))
        except ValueError as error:
            raise bad_token("page_token", "it is not one of this server's") from error
        except (ProviderError, ServiceError) as error:
            return error
        return _Part(storage, page, at, self._is_home)

    def _merge(self, parts: Sequence[_Part]) -> list[Job]:
        jobs: list[Job] = []
        first = max if self._query.newest_first else min
        while len(jobs) < self._query.limit:
            heads = [(job.created_at, part.storage.name, part) for part in parts if (job := part.head())]
            # What one has on its next page may come before what the others have on this one.
            if not heads or not all(part.head() or part.is_last for part in parts):
                break
            jobs.append(first(heads, key=lambda head: head[:2])[2].take())
        return jobs
