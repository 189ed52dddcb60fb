"""What one user may submit to a backend, by its policy: jobs and bytes a second, and jobs that wait."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc

from spoolway_providers.interface import Query
from spoolway_providers.model import Policy, State
from spoolway_server.auth import Principal
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError
from spoolway_server.storage import Storage

__all__ = ["USER_QUOTA", "Quotas"]

USER_QUOTA = "USER_QUOTA"
"""Reason of what a user's quota refuses."""

HOLD_S = 1.0
"""How long a refusal is held back: who repeats at once is slowed down, and nobody waits for his sake."""
MAX_HELD_BACK = 64
"""Refusals of one user that are held back at once; the requests stay in memory meanwhile."""
MAX_BUCKETS = 10_000
QUEUE_RETRY = timedelta(seconds=10)


@dataclass(frozen=True)
class _Bucket:
    """Fills at a rate up to what one second brings; what is larger than that waits for a full one."""

    level: float
    at: float

    def filled(self, rate: int, now: float) -> "_Bucket":
        return _Bucket(min(rate, self.level + (now - self.at) * rate), now)

    def lacks_s(self, cost: int, rate: int) -> float:
        """Seconds until it has enough; 0 or less: it has."""
        return (min(cost, rate) - self.level) / rate


class Quotas:
    """Counts in this process: over several servers a user may submit as many times as fast."""

    def __init__(self, clock: Clock) -> None:
        """Nobody has submitted yet."""
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], _Bucket] = {}
        self._held_back: Counter[str] = Counter()

    def spend(self, caller: Principal, backend: str, policy: Policy, size: int) -> None:
        """Count one submit of `size` bytes, or raise RESOURCE_EXHAUSTED."""
        now = self._clock.monotonic()
        costs = {
            "user_submits_per_s": (1, policy.user_submits_per_s),
            "user_bytes_per_s": (size, policy.user_bytes_per_s),
        }
        filled: dict[tuple[str, str, str], tuple[_Bucket, int]] = {}
        for limit, (cost, rate) in costs.items():
            if not rate:
                continue
            key = (caller.name, backend, limit)
            bucket = self._buckets.get(key, _Bucket(rate, now)).filled(rate, now)
            lacks_s = bucket.lacks_s(cost, rate)
            if lacks_s > 0:
                raise _exhausted(caller, backend, limit, rate, timedelta(seconds=lacks_s))
            filled[key] = bucket, cost
        for key, (bucket, cost) in filled.items():
            self._buckets[key] = replace(bucket, level=bucket.level - cost)
        if len(self._buckets) > MAX_BUCKETS:
            # Who has not been seen for a while has a full one.
            self._buckets = {key: one for key, one in self._buckets.items() if now - one.at < 60}

    async def waiting_refusal(
        self, caller: Principal, storage: Storage, backend: str, policy: Policy, ahead: int
    ) -> ServiceError | None:
        """The error for one more job that waits, besides `ahead` of the same call; None: there is room."""
        limit = policy.user_max_queued
        if not limit:
            return None
        query = Query(backend=backend, owner=caller.name, states=(State.QUEUED, State.HELD), limit=limit)
        with storage.noting_trouble():
            waiting = await storage.provider.count(query)
        if waiting + ahead < limit:
            return None
        return _exhausted(caller, backend, "user_max_queued", limit, QUEUE_RETRY)

    async def hold_back(self, caller: Principal, error: ServiceError) -> None:
        """Keep who was refused by a rate from asking again at once."""
        if error.reason != USER_QUOTA or self._held_back[caller.name] >= MAX_HELD_BACK:
            return
        self._held_back[caller.name] += 1
        try:
            await asyncio.sleep(HOLD_S)
        finally:
            self._held_back[caller.name] -= 1
            if not self._held_back[caller.name]:
                del self._held_back[caller.name]


def _exhausted(
    caller: Principal, backend: str, name: str, limit: int, retry_after: timedelta
) -> ServiceError:
    what = {
        "user_submits_per_s": f"{limit} jobs a second",
        "user_bytes_per_s": f"{limit} bytes a second",
        "user_max_queued": f"{limit} jobs that wait at once",
    }[name]
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        USER_QUOTA,
        f"backend {backend} takes {what} from one user, and you are over it; submit again later",
        metadata={"quota": name, "limit": limit, "retry_after_s": f"{retry_after.total_seconds():.3f}"},
        retry_after=retry_after,
        quota_subject=f"users/{caller.name}",
    )
