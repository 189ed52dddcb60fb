"""2,000 jobs, two servers on one storage, four spoolers on one backend; some die, one is cut off."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolway import JobClient, SpoolwayError
from spoolway_providers.model import Outcome
from tests.crash.checks import check
from tests.crash.journal import Journal, now, read_journal
from tests.crash.plan import BACKEND, JobPlan, Plan
from tests.crash.processes import Company, Zygote, address_of, free_ports, zygote
from tests.crash.proxy import Proxy
from tests.crash.rounds import look
from tests.crash.storages import storage_case
from tests.crash.telling import tell

pytestmark = pytest.mark.flaky(reruns=0)
"""Here a single failure counts."""
BATCHES, BATCH = 20, 100
SLOW_EVERY = 50
"""Of so many jobs one runs longer than a lease: one of them is in hand whenever somebody dies."""
SERVERS = ("server-1", "server-2")
SPOOLERS = ("spooler-1", "spooler-2", "spooler-3", "spooler-4")
CUT_OFF = "spooler-4"
CUT_FOR_S = 3.0
LONG_S = 0.2
"""A job that has run for so long is one of the slow ones."""
"""Over lease and grace: its jobs go to others, and it comes back."""
AGAIN_S = 0.2


@pytest.fixture(scope="module", params=["sqlite", "local"])
def provider(request: pytest.FixtureRequest) -> str:
    """Each storage that several servers of one machine share."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def started(provider: str) -> Iterator[Zygote]:
    """What starts the processes."""
    with zygote(provider) as one:
        yield one


def make_plan(provider: str) -> Plan:
    jobs = tuple(JobPlan(n, "ok" if n % SLOW_EVERY else "slow", 0.0, 0.005, 0.0) for n in range(BATCH))
    return Plan(
        seed=0,
        number=0,
        provider=provider,
        servers=SERVERS,
        spoolers=SPOOLERS,
        clients={f"client-{batch}": jobs for batch in range(BATCHES)},
        actions=(),
        targets={},
        restart_s=(0.2,),
    )


class Submitter:
    """Submits all jobs, and waits until none is left."""

    def __init__(self, plan: Plan, journal: Journal, client: JobClient) -> None:
        self._plan = plan
        self._journal = journal
        self._client = client
        self.ended = 0

    async def submit(self) -> None:
        for name, jobs in self._plan.clients.items():
            await self._submit(name, jobs)

    async def _submit(self, name: str, jobs: tuple[JobPlan, ...]) -> None:
        contents = [{"request": f"{name}-{job.number}", "kind": job.kind, "run_s": job.run_s} for job in jobs]
        for job in jobs:
            self._journal.note("submits", request=f"{name}-{job.number}")
        while True:
            try:
                answers = await self._client.submit_many(BACKEND, contents, request_id=name)
            except SpoolwayError:
                await asyncio.sleep(AGAIN_S)
                continue
            refused = [one for one in answers if isinstance(one, SpoolwayError)]
            if not refused:
                break
            await asyncio.sleep(AGAIN_S)
        for number, job in enumerate(answers):
            assert not isinstance(job, SpoolwayError)
            self._journal.note("acknowledged", request=f"{name}-{number}", job=job.name)

    async def wait(self) -> None:
        """By a watch of everything, as one who keeps a table of all jobs does."""
        seen: set[str] = set()
        async for job in self._client.watch():
            if job.is_terminal and job.name not in seen:
                seen.add(job.name)
                self.ended = len(seen)
                self._journal.note("sees the end", job=job.name, state=job.state, result="")
            if len(seen) == BATCHES * BATCH:
                return

    async def until_ended(self, number: int) -> None:
        while self.ended < number:  # noqa: ASYNC110 - a watch tells of no numbers
            await asyncio.sleep(0.05)


async def until_busy(journal: Path, spooler: str) -> None:
    """Wait until a spooler is in the midst of a job that runs longer than a lease."""
    while True:
        running: dict[str, float] = {}
        for one in read_journal(journal):
            if one.who.partition(".")[0] == spooler and one.what == "run":
                running[one.about["token"]] = one.t
            elif one.what == "run ended":
                running.pop(one.about["token"], None)
        if any(now() - since > LONG_S for since in running.values()):
            return
        await asyncio.sleep(AGAIN_S)


async def do_harm(submitter: Submitter, company: Company, proxy: Proxy, journal: Path) -> None:
    """Cut one spooler off, kill a server and two spoolers; each while there is much to do."""
    await submitter.until_ended(100)
    await until_busy(journal, CUT_OFF)
    proxy.cut()
    await submitter.until_ended(250)
    company.lives["spooler-1"].send(signal.SIGKILL, "kills")
    await submitter.until_ended(400)
    company.lives["server-1"].send(signal.SIGKILL, "kills")
    await submitter.until_ended(600)
    company.lives["spooler-2"].send(signal.SIGKILL, "kills")
    await asyncio.sleep(CUT_FOR_S)
    await proxy.mend()


@pytest.mark.timeout(300)
async def test_2000_jobs_are_all_done_once(started: Zygote, provider: str, tmp_path: Path) -> None:
    """All are done, none is lost, and no two spoolers ever hold one at a time."""
    case, plan = storage_case(provider), make_plan(provider)
    ports = dict(zip(SERVERS, free_ports(2), strict=True))
    journal = Journal(tmp_path / "journal", "harness")
    with case.login(tmp_path) as login:
        # Both on one server: the one that is cut off must not simply go to the other.
        async with Proxy(ports["server-2"]) as proxy:

            def arguments(name: str, who: str) -> dict[str, Any]:
                if name in SERVERS:
                    return {"port": ports[name], "storage": {"type": provider, **login}}
                own = [proxy.port] if name == CUT_OFF else ports.values()
                return {"address": address_of(own), "concurrency": 4}

            company = Company(started, tmp_path, journal, arguments, restart_s=plan.restart_s)
            for name in (*SERVERS, *SPOOLERS):
                company.keep(name)
            try:
                async with JobClient(address_of(ports.values()), user="alice") as client:
                    submitter = Submitter(plan, journal, client)
                    waiting = asyncio.create_task(submitter.wait())
                    harm = asyncio.create_task(do_harm(submitter, company, proxy, tmp_path / "journal"))
                    await asyncio.gather(submitter.submit(), waiting, harm)
            finally:
                await company.end()
        remains = await look(case, login)
    history = read_journal(tmp_path / "journal")
    faults = check(plan, history, remains)

    assert not faults, tell(plan, history, remains, faults, tmp_path)
    assert len(remains.jobs) == BATCHES * BATCH
    # What was done to them has cost some of them an attempt, among them the one that was cut off.
    lost = {a.spooler for job in remains.jobs for a in job.attempts if a.outcome is Outcome.LOST}
    assert CUT_OFF in lost
