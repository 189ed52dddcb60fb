"""Has a storage repaired: at the start, and from time to time, by one process at a time."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from spoolway_providers.errors import ProviderError
from spoolway_providers.interface import Finding
from spoolway_providers.model import Session, new_token

if TYPE_CHECKING:
    from spoolway_server.storage import Storage

__all__ = ["Janitor"]

_log = structlog.get_logger(__name__)

PERIOD_S = 600.0
"""Between two rounds, on the average; each process draws its own, so that they spread."""
LIMIT = 1000
"""Findings of one step."""
MOST_STEPS = 50
"""Of one round: what is left waits for the next."""
NOBODY = ""
"""The principal of a janitor's session: no caller's name is empty."""
SPOOLER_ID = "janitor"
SILENCE_LIMIT = timedelta(minutes=5)


class Janitor:
    """One a storage and process.

    Who is at work says so with a session of the storage, which holds no jobs: the others then pass their
    round over. If two begin at the same moment both work, which is safe (`Provider.repair`) and only costs. A
    session that its process left behind is closed by the reapers, like any other that is silent.
    """

    def __init__(self, storage: "Storage") -> None:
        """Idle until `run`."""
        self._storage = storage
        self._instance = new_token()
        self.rounds = 0
        """Rounds in which this process did the work."""

    async def run(self) -> None:
        """A round as soon as the storage is open, then more; for ever."""
        await self._storage.opened.wait()
        while True:
            try:
                await self.round()
            except ProviderError as error:
                self._storage.report(error)
            except Exception:  # noqa: BLE001  # a fault of the provider, maybe a plug-in's: the next round tries again
                _log.exception("janitor failed", storage=self._storage.name)
            await asyncio.sleep(PERIOD_S * random.uniform(0.5, 1.5))  # noqa: S311  # only spreads the rounds

    async def round(self) -> list[Finding]:
        """Repair what there is, unless another process does; a test may call it by itself."""
        if any(view.session.principal == NOBODY for view in await self._storage.provider.sessions()):
            return []
        session = Session(
            id=new_token(),
            spooler_id=SPOOLER_ID,
            instance_id=self._instance,
            principal=NOBODY,
            backends=(),
            opened_at=self._storage.clock.now(),
            silence_limit=SILENCE_LIMIT,
            has_stream=False,
        )
        await self._storage.provider.open_session(session, predecessor_dead=True)
        try:
            findings = await self._repair()
        finally:
            await self._storage.provider.close_session(session.id, None, "ROUND_ENDED")
        self.rounds += 1
        self._tell(findings)
        return findings

    async def _repair(self) -> list[Finding]:
        findings: list[Finding] = []
        for _ in range(MOST_STEPS):
            found = await self._storage.provider.repair(LIMIT)
            findings += found
            if len(found) < LIMIT:
                break
        return findings

    def _tell(self, findings: list[Finding]) -> None:
        if not findings:
            return
        kinds = Counter(finding.kind for finding in findings)
        first = findings[0]
        _log.info(
            "repaired",
            storage=self._storage.name,
            first=f"{first.kind} {first.subject}: {first.action}",
            **{f"n_{kind}": number for kind, number in kinds.items()},
        )
        for kind, number in kinds.items():
            self._storage.metrics.repaired(kind, number)
