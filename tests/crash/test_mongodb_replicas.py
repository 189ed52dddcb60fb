"""Three servers on one MongoDB, twelve spoolers on six backends: a server is killed, then the database."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spoolway_providers.model import State
from tests.crash.checks import check
from tests.crash.journal import Journal, read_journal
from tests.crash.plan import JobPlan, Plan
from tests.crash.processes import Company, Zygote, address_of, free_ports, own_host, zygote
from tests.crash.rounds import look
from tests.crash.storages import storage_case
from tests.crash.telling import tell
from tests.providers.mongodb_server import StandIn

BACKENDS = tuple(f"sim{n}" for n in range(1, 7))
SERVERS = tuple(f"server-{n}" for n in range(1, 4))
SPOOLERS = tuple(f"spooler-{n}" for n in range(1, 13))
CLIENTS = tuple(f"client-{n}" for n in range(1, 7))
"""Each submits to one backend, one job after the other: so the order of all of them is known."""
JOBS_OF_EACH = 100
GAP_S = 0.25
SLOW_EVERY = 20
"""Of so many jobs one runs long: some are in hand whenever something dies."""
LEASES = {"ttl_s": 6.0, "resume_grace_s": 3.0, "heartbeat_interval_s": 1.0, "accept_timeout_s": 5.0}
"""Long enough for a machine that is busy with 22 processes."""
DOWN_FOR_S = 10.0
"""Over lease and grace: all leases are unsure by then, and none may be taken away."""
LIMIT_S = 270.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[StandIn]:
    """A database of our own, to be killed."""
    server = StandIn(tmp_path / "mongodb")
    server.start()
    yield server
    server.kill()


def make_plan() -> Plan:
    jobs = tuple(
        JobPlan(n, "slow" if n % SLOW_EVERY == 0 else "ok", GAP_S, 0.02, 0.0) for n in range(JOBS_OF_EACH)
    )
    return Plan(
        seed=0,
        number=0,
        provider="mongodb",
        servers=SERVERS,
        spoolers=SPOOLERS,
        clients=dict.fromkeys(CLIENTS, jobs),
        actions=(),
        targets={},
        restart_s=(0.5,),
    )


def backend_of(name: str) -> str:
    """Two spoolers and a client each."""
    return BACKENDS[int(name.partition("-")[2]) % len(BACKENDS)]


class Harm:
    """What is done to them, each while there is much to do."""

    def __init__(self, company: Company, database: StandIn, journal: Journal, path: Path) -> None:
        self._company = company
        self._database = database
        self._journal = journal
        self._path = path

    async def do(self) -> None:
        await self._until_ended(150)
        self._company.lives["server-2"].send(signal.SIGKILL, "kills")
        await self._until_ended(300)
        self._journal.note("kills", whom="mongodb")
        await asyncio.to_thread(self._database.kill)
        await asyncio.sleep(DOWN_FOR_S)
        await asyncio.to_thread(self._database.start)
        self._journal.note("starts", pid=0)

    async def _until_ended(self, number: int) -> None:
        while self._path.read_text().count('"sees the end"') < number:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.2)


@pytest.mark.fleet
@pytest.mark.timeout(400)
async def test_600_jobs_are_done_once_and_in_order(database: StandIn, tmp_path: Path) -> None:
    """All are done, none is lost, no two spoolers hold one at a time, and each backend keeps the order."""
    with zygote("mongodb") as started:
        await run_all(started, database, tmp_path)


async def run_all(started: Zygote, database: StandIn, tmp_path: Path) -> None:
    case, plan = storage_case("mongodb"), make_plan()
    login = {"uri": database.uri, "database": "lab"}
    ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
    journal = Journal(tmp_path / "journal", "harness")
    host, began_at = own_host(), time.time()

    def arguments(name: str, who: str) -> dict[str, Any]:
        if name in SERVERS:
            storage = {"type": "mongodb", **login}
            place = {"host": host, "port": ports[name]}
            return {**place, "storage": storage, "leases": LEASES, "look_s": 0.5}
        own = {"address": address_of(ports.values(), host), "backend": backend_of(name)}
        if name in SPOOLERS:
            return own
        jobs = msgspec.to_builtins(plan.clients[name])
        return {**own, "began_at": began_at, "jobs": jobs, "done": str(tmp_path / f"{name}.done")}

    company = Company(
        started,
        tmp_path,
        journal,
        arguments,
        restart_s=plan.restart_s,
        is_done=lambda name: (tmp_path / f"{name}.done").exists(),
    )
    keepers = {name: company.keep(name) for name in plan.process_names()}
    try:
        async with asyncio.timeout(LIMIT_S):
            harm = Harm(company, database, journal, tmp_path / "journal")
            await asyncio.gather(harm.do(), *(keepers[name] for name in CLIENTS))
    except TimeoutError:
        # What was not done is told below.
        pass
    finally:
        await company.end()
    remains = await look(case, login)
    history = read_journal(tmp_path / "journal")
    faults = check(plan, history, remains, slack_s=case.clock_slack_s)

    assert not faults, tell(plan, history, remains, faults, tmp_path)
    assert [job.state for job in remains.jobs] == [State.DONE] * len(CLIENTS) * JOBS_OF_EACH
    assert {one.about["whom"] for one in history if one.what == "kills"} == {"server-2.1", "mongodb"}
