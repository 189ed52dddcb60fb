"""Plays one round: starts its processes, does to them what the plan says, and looks at what is left."""

import asyncio
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec

from spoolway_providers.interface import Query
from spoolway_providers.model import Job
from tests.crash.checks import Fault, Remains, check
from tests.crash.journal import Journal, now, read_journal
from tests.crash.plan import Action, Plan, make_plan
from tests.crash.processes import Company, Zygote, address_of, free_ports, own_host
from tests.crash.storages import StorageCase, storage_case
from tests.crash.telling import tell

__all__ = ["LIMIT_S", "Outcome", "RoundFailed", "look", "play_round"]

AGAIN_S = 0.02
LIMIT_S = 10.0
"""A round takes no longer, unless a loaded machine is granted more."""


class RoundFailed(AssertionError):
    """A round has shown a fault; the message has its seed and its history."""


class Outcome(msgspec.Struct, frozen=True):
    """A round that went well."""

    took_s: float
    jobs: int
    kills: int
    """Processes that ended by kill -9, by the harness or by themselves."""
    target_hits: tuple[str, ...]
    """Fault points at which servers killed themselves."""


class _Round:
    def __init__(self, plan: Plan, zygote: Zygote, folder: Path, login: dict[str, Any]) -> None:
        self._plan = plan
        self._folder = folder
        self._storage = {"type": plan.provider, **login}
        self._ports = dict(zip(plan.servers, free_ports(len(plan.servers)), strict=True))
        self._host = own_host()
        self._began_at = time.time()
        self.journal = Journal(folder / "journal", "harness")
        self._company = Company(
            zygote, folder, self.journal, self._arguments, restart_s=plan.restart_s, is_done=self._is_done
        )

    async def play(self, limit_s: float) -> None:
        """Until every client has seen the end of all its jobs, or the time is up; then nobody lives."""
        self.journal.note("begins", seed=self._plan.seed, round=self._plan.number)
        keeping = [self._company.keep(name) for name in self._plan.process_names()]
        acting = [asyncio.create_task(self._act(action)) for action in self._plan.actions]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    # The clients' keepers end when they are done; the actions are a part of the round.
                    await asyncio.gather(*keeping[-len(self._plan.clients) :], *acting)
        finally:
            for task in acting:
                task.cancel()
            await asyncio.gather(*acting, return_exceptions=True)
            await self._company.end()

    async def _act(self, action: Action) -> None:
        await asyncio.sleep(action.at_s)
        life = await self._company.living(action.whom)
        match action.what:
            case "kill":
                # One that happens to be away is killed once it is back: no round is without a kill.
                while not (  # noqa: ASYNC110 - lives come one after the other, each with an event of its own
                    self._company.lives[action.whom].is_alive or self._is_done(action.whom)
                ):
                    await asyncio.sleep(AGAIN_S)
                self._company.lives[action.whom].send(signal.SIGKILL, "kills")
            case "pause":
                life.send(signal.SIGSTOP, "pauses")
                await asyncio.sleep(action.for_s)
                life.send(signal.SIGCONT, "wakes")
            case "stop":
                life.send(signal.SIGTERM, "asks to stop")
                await asyncio.sleep(0.1)
                life.send(signal.SIGTERM)

    def _arguments(self, name: str, who: str) -> dict[str, Any]:
        address = address_of(self._ports.values(), self._host)
        if name in self._plan.servers:
            target = self._plan.targets.get(who)
            return {
                "host": self._host,
                "port": self._ports[name],
                "storage": self._storage,
                "wakes": self._plan.wakes,
                "target": target and msgspec.to_builtins(target),
            }
        if name in self._plan.spoolers:
            return {"address": address}
        return {
            "address": address,
            "began_at": self._began_at,
            "jobs": msgspec.to_builtins(self._plan.clients[name]),
            "done": str(self._done(name)),
        }

    def _done(self, name: str) -> Path:
        return self._folder / f"{name}.done"

    def _is_done(self, name: str) -> bool:
        return self._done(name).exists()


async def play_round(
    seed: int, number: int, provider: str, zygote: Zygote, parent: Path, *, limit_s: float = LIMIT_S
) -> Outcome:
    """Play a round and check what it left.

    Raises:
        RoundFailed: with the seed, and the history of what went wrong.
    """
    case = storage_case(provider)
    plan = make_plan(seed, number, provider, max_servers=case.max_servers, steps=case.steps)
    folder = Path(mkdtemp(prefix=f"{provider}-{number}-", dir=parent))
    began = now()
    with case.login(folder) as login:
        playing = _Round(plan, zygote, folder, login)
        await playing.play(limit_s)
        took_s = now() - began
        remains = await look(case, login)
    history = read_journal(folder / "journal")
    faults = check(plan, history, remains, slack_s=case.clock_slack_s)
    if faults:
        raise RoundFailed(tell(plan, history, remains, faults, folder))
    shutil.rmtree(folder)
    return Outcome(
        took_s=took_s,
        jobs=len(remains.jobs),
        kills=sum(one.what in {"kills", "killed at"} for one in history),
        target_hits=tuple(
            f"{one.about['transition']}: {one.about['step']}"
            for one in history
            if one.what == "killed at" and "transition" in one.about
        ),
    )


async def look(case: StorageCase, login: dict[str, Any]) -> Remains:
    """What is in the storage, once it was repaired; whoever opens it next would see the same."""
    async with case.opened(login) as provider:
        await provider.repair()
        jobs: list[Job] = []
        cursor = ""
        while True:
            page = await provider.find(Query(limit=1000, cursor=cursor))
            jobs += page.jobs
            cursor = page.cursor
            if not cursor:
                break
        results: dict[str, bytes] = {}
        faults: list[Fault] = []
        for job in jobs:
            if not await provider.read_blob(job.content):
                faults.append(Fault(str(job.key), "its content is gone"))
            if job.result is not None:
                results[str(job.key)] = await provider.read_blob(job.result)
        faults += [Fault(job, message) for job, message in case.misplaced(login, jobs)]
        again = await provider.repair()
        faults += [Fault("", f"a second repair still found {finding}") for finding in again]
    return Remains(jobs, results, faults)
