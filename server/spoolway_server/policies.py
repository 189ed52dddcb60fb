"""What operators allow on a backend: pause, limits, leases, order. Its spooler's config is left alone."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import grpc
import msgspec

from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import Backend, Policy
from spoolway_server.errors import ServiceError
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages

__all__ = ["Policies"]

MAX_TRIES = 5
"""Times a change without an etag is made anew after somebody else's came first."""
LONGEST = timedelta(days=7)
LONGEST_RUN = timedelta(days=3650)
SHORTEST_RETENTION = timedelta(minutes=1)
"""Time to fetch a result."""
MOST_ATTEMPTS = 100
MOST_QUEUED = 1_000_000
MOST_BYTES = 1 << 40


class Policies:
    """Changes of policies, each by compare-and-set on the policy's own etag."""

    def __init__(self, storages: Storages) -> None:
        """Work on `storages`."""
        self._storages = storages

    async def change(
        self, name: str, changes: Mapping[str, Any], *, etag: str = ""
    ) -> tuple[Storage, Backend]:
        """Change some fields of a backend's policy; None as a value stands for the server's default.

        Returns:
            The storage, and the backend as it is now. What is so already is not written again.
        """
        for _ in range(MAX_TRIES):
            storage, backend = await self._newest(name)
            before = backend.policy or storage.default_policy
            policy = msgspec.structs.replace(before, **_filled_in(changes, storage.default_policy))
            _check(policy, changes, storage)
            if policy == before:
                return storage, backend
            if etag and etag != backend.policy_etag:
                raise _changed_since(name)
            try:
                with storage.noting_trouble():
                    stored = await storage.provider.put_policy(backend.name, policy, backend.policy_etag)
            except Conflict:
                continue
            storage.note_backend(stored)
            storage.dispatcher(backend.name).wake()
            return storage, stored
        raise _changed_since(name)

    async def _newest(self, name: str) -> tuple[Storage, Backend]:
        storage, found = await self._storages.find_backend(name, field="name")
        try:
            return storage, (await storage.backends(fresh=True))[found.name]
        except KeyError:
            raise NotFound(f"backend {name} is gone by now") from None


def _filled_in(changes: Mapping[str, Any], default: Policy) -> dict[str, Any]:
    return {field: getattr(default, field) if value is None else value for field, value in changes.items()}


def _check(policy: Policy, changes: Mapping[str, Any], storage: Storage) -> None:
    """ServiceError if a changed field has a value that it can't have."""
    shortest = storage.provider.capabilities.min_ttl
    ranges: dict[str, tuple[Any, Any]] = {
        "max_attempts": (1, MOST_ATTEMPTS),
        "max_crashes": (1, MOST_ATTEMPTS),
        "lease_ttl": (shortest, LONGEST),
        "resume_grace": (timedelta(0), LONGEST),
        "lost_timeout": (timedelta(0), LONGEST),
        "cancel_grace": (timedelta(0), LONGEST),
        "max_run_time": (timedelta(milliseconds=1), LONGEST_RUN),
        "max_queued": (0, MOST_QUEUED),
        "retention": (SHORTEST_RETENTION, LONGEST_RUN),
        "foreign_claim_timeout": (timedelta(seconds=1), LONGEST_RUN),
        "user_submits_per_s": (0, MOST_QUEUED),
        "user_bytes_per_s": (0, MOST_BYTES),
        "user_max_queued": (0, MOST_QUEUED),
    }
    for field in ranges.keys() & changes.keys():
        value, (least, most) = getattr(policy, field), ranges[field]
        if value is not None and not least <= value <= most:
            raise _invalid(field, f"{field} is {_shown(value)}; it can be {_shown(least)} to {_shown(most)}")
    if policy.round_robin and not storage.provider.capabilities.priority:
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "NOT_SUPPORTED_BY_STORAGE",
            f"storage {storage.name} keeps first in, first out only; leave round_robin off",
            metadata={"storage": storage.name},
            field="policy.round_robin",
        )


def _shown(value: int | timedelta) -> str:
    return f"{value.total_seconds():g} s" if isinstance(value, timedelta) else str(value)


def _invalid(field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID", message, field=f"policy.{field}")


def _changed_since(name: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        "ETAG_MISMATCH",
        f"the policy of {name} has changed since; read it with GetBackend and decide again",
        field="etag",
    )
