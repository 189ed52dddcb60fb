"""A lost answer, a broken call or a crash at any call of any transition: no job is lost, none is doubled."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, token_of
from spoolway_providers.errors import ProviderError, Unavailable, Uncertain
from spoolway_providers.interface import Change, Page, Query
from spoolway_providers.model import Job, Policy, State
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    Fault,
    kill,
    make_account,
    make_provider,
    opened,
    opened_after_crash,
    staged_scene,
    until,
)

RESULT = b'{"success": true}'
LIFE_CALLS = 8
"""Of one job's life, from submit to the last move."""
FAULTS = (Fault.RESET, Fault.ANSWER_LOST, Fault.ANSWER_TORN, Fault.SERVER_ERROR, Fault.DONE_SERVER_ERROR)

NO_LOOKS: dict[str, Any] = {"sync_every_s": 600.0}
"""So that the faults meet the calls of the jobs, and no others."""

Step = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


async def live(scene: Scene, request_id: str = "r-1") -> Job:
    """One job's whole life."""
    job = await scene.submit(request_id=request_id)
    [job] = await scene.claim()
    job = await scene.do(job, rules.Accept(token_of(job)))
    return await scene.complete(job, RESULT)


async def wait_until_placed(account: DropboxAccount, folder: str, count: int = 1) -> None:
    """Until so many files lie in a folder, and all of the rest is at rest."""
    await until(lambda: len(account.tree(f"/Backend_files/{folder}/")) == count)


def jobs_by_place(account: DropboxAccount) -> dict[str, int]:
    """How many job files lie in each folder."""
    places: dict[str, int] = {}
    for path in account.tree("/Backend_files/"):
        place = path.split("/")[2]
        if place.endswith("_Jobs"):
            places[place] = places.get(place, 0) + 1
    return places


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("nth", range(LIFE_CALLS))
async def test_fault_at_each_call_of_a_life(account: DropboxAccount, fault: Fault, nth: int) -> None:
    """Whichever call breaks, before or after it was done, the caller sees nothing of it."""
    async with opened(account, **NO_LOOKS) as provider:
        scene = await staged_scene(provider)
        account.fail(fault, skip=nth)

        job = await live(scene)

        await wait_until_placed(account, "Finished_Jobs")
        assert job.state is State.DONE
        assert job.result is not None
        assert await provider.read_blob(job.result) == RESULT
        assert await provider.get(job.key) == job
        assert await scene.claim() == []
    assert jobs_by_place(account) == {"Finished_Jobs": 1}


@pytest.mark.parametrize(
    ("fault", "asynchronous"),
    [(Fault.ANSWER_LOST, True), (Fault.RESET, False)],
    ids=["lost-asynchronous", "reset-at-once"],
)
@pytest.mark.parametrize("nth", range(0, 18, 2))
async def test_fault_at_calls_of_a_batch(
    account: DropboxAccount, fault: Fault, nth: int, asynchronous: bool
) -> None:
    """The same for many jobs at once, whose calls are batches."""
    account.set(batches_are_async=asynchronous, checks_until_done=2)
    async with opened(account, **NO_LOOKS) as provider:
        scene = await staged_scene(provider)
        account.fail(fault, skip=nth)

        answers = await provider.submit([scene.draft(request_id=f"r-{n}") for n in range(8)])
        claimed = await scene.claim(8)
        running = await asyncio.gather(*(scene.do(job, rules.Accept(token_of(job))) for job in claimed))
        done = await asyncio.gather(*(scene.complete(job, RESULT) for job in running))

        assert [job.key for job in done] == [job.key for job in answers if isinstance(job, Job)]
        await wait_until_placed(account, "Finished_Jobs", 8)
    assert jobs_by_place(account) == {"Finished_Jobs": 8}


async def submit(scene: Scene) -> None:
    await scene.submit(request_id="r-1")


async def claim(scene: Scene) -> None:
    await scene.claim()


async def submit_with_limits(scene: Scene) -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    await scene.submit(request_id="r-1", expire_at=in_an_hour, max_run_time=timedelta(minutes=1))


def change(event: Callable[[Job], rules.Event], *, after: timedelta = timedelta(seconds=1)) -> Step:
    """A step that lets something happen to the one job that there is, so long after what happened last."""

    async def step(scene: Scene) -> None:
        [job] = (await scene.provider.find(Query())).jobs
        changed = rules.decide(job, event(job), job.updated_at + after, Policy())
        assert isinstance(changed, Job)
        assert changed.state is not job.state
        [answer] = await scene.provider.commit([Change(changed, job.revision)])
        if isinstance(answer, ProviderError):
            raise answer

    return step


async def complete(scene: Scene) -> None:
    [job] = (await scene.provider.find(Query())).jobs
    await scene.complete(job, RESULT)


accept = change(lambda job: rules.Accept(token_of(job)))
withdraw = change(lambda job: rules.Withdraw(token_of(job)))
release = change(lambda job: rules.Release(token_of(job)))
fail = change(lambda job: rules.Fail(token_of(job), "no vacuum"))
fail_for_now = change(lambda job: rules.Fail(token_of(job), "no vacuum", retryable=True))
lose = change(lambda job: rules.SessionGone(job.attempts[-1].session))
come_back = change(lambda job: rules.Resume(token_of(job), job.attempts[-1].session))
cancel = change(lambda job: rules.Cancel("alice"))
give_up = change(lambda job: rules.Cancelled(token_of(job)))
hold = change(lambda job: rules.Hold("olga"))
let_go = change(lambda job: rules.Unhold("olga"))
fail_held = change(lambda job: rules.FailHeld("olga", "no"))
be_due = change(lambda job: rules.Due(), after=timedelta(hours=2))
retry = change(lambda job: rules.Retry("alice"))


async def delete(scene: Scene) -> None:
    [job] = (await scene.provider.find(Query(states=(State.CANCELLED,)))).jobs
    await scene.provider.delete(job.key, job.revision)


async def register(scene: Scene) -> None:
    await scene.provider.put_config("other", b"{}", None)


async def set_policy(scene: Scene) -> None:
    await scene.set_policy(max_queued=7)


CLAIMED: list[Step] = [submit, claim]
RUNNING: list[Step] = [submit, claim, accept]

TRANSITIONS: dict[str, tuple[list[Step], Step, int]] = {
    "submit": ([], submit, 2),
    "claim": ([submit], claim, 2),
    "accept": (CLAIMED, accept, 1),
    "withdraw": (CLAIMED, withdraw, 2),
    "claimant-lost": (CLAIMED, lose, 2),
    "complete-at-once": (CLAIMED, complete, 3),
    "complete": (RUNNING, complete, 3),
    "fail": (RUNNING, fail, 2),
    "fail-for-now": (RUNNING, fail_for_now, 2),
    "release": (RUNNING, release, 2),
    "lose": (RUNNING, lose, 2),
    "come-back": ([*RUNNING, lose], come_back, 2),
    "complete-late": ([*RUNNING, lose], complete, 3),
    "delay-over": ([*RUNNING, fail_for_now], be_due, 1),
    "cancel-running": (RUNNING, cancel, 1),
    "give-up": ([*RUNNING, cancel], give_up, 2),
    "grace-over": ([*RUNNING, cancel], be_due, 2),
    "complete-cancelling": ([*RUNNING, cancel], complete, 3),
    "run-too-long": ([submit_with_limits, claim, accept], be_due, 1),
    "cancel": ([submit], cancel, 2),
    "expire": ([submit_with_limits], be_due, 2),
    "hold": ([submit], hold, 1),
    "let-go": ([submit, hold], let_go, 1),
    "fail-held": ([submit, hold], fail_held, 2),
    "retry": ([*RUNNING, fail], retry, 2),
    "delete": ([submit, cancel], delete, 3),
    "register": ([], register, 1),
    "set-policy": ([], set_policy, 1),
}
"""What comes before, the transition, and its calls with those that come later by themselves."""


async def prepared(provider: DropboxProvider, before: list[Step]) -> Scene:
    """A scene in which all of what came before is done and written, so that only the step's calls follow."""
    await provider.open()
    scene = await staged_scene(provider)
    for earlier in before:
        await earlier(scene)
    await tidy(provider)
    return scene


async def tidy(provider: DropboxProvider) -> None:
    """Do at once what an owner does a little later: move files, and remove what nobody needs."""
    assert provider._office is not None
    # The index document is written by its own tests.
    provider._office.tenure.changed_statuses = 0
    await provider._office.care.finish()


def quiet(account: DropboxAccount) -> DropboxProvider:
    """A provider that makes no calls but those it is made to."""
    return make_provider(account, patience_s=0.15, care_every_s=60.0, **NO_LOOKS)


@pytest.mark.parametrize("name", TRANSITIONS)
async def test_transitions_are_as_many_calls_as_the_faults_meet(account: DropboxAccount, name: str) -> None:
    """So that each of them is cut off below."""
    before, step, calls = TRANSITIONS[name]
    provider = quiet(account)
    scene = await prepared(provider, before)
    account.calls(forget=True)
    await step(scene)
    await tidy(provider)
    made = account.calls()
    await provider.close()

    assert made.total() - made["files/list_folder/longpoll"] == calls


@pytest.mark.parametrize(
    ("name", "nth"), [(name, nth) for name, (_, _, calls) in TRANSITIONS.items() for nth in range(calls)]
)
@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.RESET])
async def test_cut_off_at_each_call_of_each_transition(
    account: DropboxAccount, fault: Fault, name: str, nth: int
) -> None:
    """Dropbox falls silent in the middle of a transition and the owner dies: the next one has it all or none.

    The call is done or not, and nothing after it answers. The caller is told that the outcome is unknown, or
    that surely nothing was done, which then is so.
    """
    before, step, _ = TRANSITIONS[name]
    provider = quiet(account)
    scene = await prepared(provider, before)
    states_before = states(await provider.find(Query()))
    account.fail(fault, skip=nth)
    account.fail(Fault.RESET, skip=nth, times=-1)

    outcome: BaseException | None = None
    try:
        await step(scene)
    except (ProviderError, AssertionError, ValueError) as error:
        outcome = error
    with suppress(ProviderError):
        await tidy(provider)
    await kill(provider)
    account.heal()

    async with opened_after_crash(account) as successor:
        scene = await staged_scene(successor)
        await successor.repair()
        found = await successor.find(Query())
        places = jobs_by_place(account)
        assert sum(places.values()) == len(found.jobs) <= 1
        if step is not submit:
            assert len(account.tree("/Backend_files/Status/")) == len(found.jobs)
        for result in (job.result for job in found.jobs if job.result is not None):
            assert await successor.read_blob(result) == RESULT
        if isinstance(outcome, Unavailable) and not isinstance(outcome, Uncertain):
            assert states(found) == states_before
        if step is submit:
            # The client repeats what it does not know: one job comes of it.
            job = await scene.submit(request_id="r-1")
            assert [one.key for one in await scene.claim(5)] == [job.key]


def states(page: Page) -> list[State]:
    return [job.state for job in page.jobs]


async def test_uncertain_submit_is_settled_by_its_repeat(account: DropboxAccount) -> None:
    """A submit of unknown outcome, repeated, makes one job, whether it had been done or not."""
    async with opened(account, patience_s=0.15, **NO_LOOKS) as provider:
        scene = await staged_scene(provider)
        for nth in range(2):
            account.fail(Fault.ANSWER_LOST, skip=nth)
            account.fail(Fault.RESET, skip=nth, times=-1)
            with pytest.raises((Uncertain, Unavailable)):
                await provider.submit([scene.draft(request_id=f"r-{nth}")])
            account.heal()
            await scene.submit(request_id=f"r-{nth}")

        assert len(await scene.claim(10)) == 2


async def test_uncertain_claim_returns_the_job(account: DropboxAccount) -> None:
    """A claim of unknown outcome gives the job to nobody; once Dropbox answers it can be claimed again."""
    async with opened(account, patience_s=0.15, **NO_LOOKS) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        account.fail(Fault.ANSWER_LOST, "files/move_v2")
        account.fail(Fault.RESET, "files/get_metadata", times=-1)
        account.fail(Fault.RESET, "files/move_v2", times=-1)
        with pytest.raises((Uncertain, Unavailable)):
            await scene.claim()
        account.heal()

        claimed = await until(scene.claim)

        assert [one.key for one in claimed] == [job.key]
        assert claimed[0].claim_count == 1


async def test_uncertain_commit_is_read_back(account: DropboxAccount) -> None:
    """After a commit of unknown outcome, `get` tells what became of it."""
    async with opened(account, patience_s=0.15, **NO_LOOKS) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        [job] = await scene.claim()
        account.fail(Fault.ANSWER_LOST, "files/upload")
        account.fail(Fault.RESET, "files/get_metadata", times=-1)
        account.fail(Fault.RESET, "files/upload", times=-1)
        with pytest.raises(Uncertain):
            await scene.do(job, rules.Accept(token_of(job)))
        account.heal()

        stored = await provider.get(job.key)

        assert (stored.state, stored.revision) == (State.RUNNING, job.revision + 1)
        assert (await scene.complete(stored, RESULT)).state is State.DONE


async def test_outage_is_told_and_passes(account: DropboxAccount) -> None:
    """While nothing answers, calls fail as Unavailable; afterwards all goes on where it was."""
    async with opened(account, patience_s=0.1) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        account.fail(Fault.RESET, times=-1)
        for attempt in (scene.answer(), provider.claim(BACKEND, [scene.order()])):
            with pytest.raises((Unavailable, Uncertain)):
                await attempt
        with pytest.raises(Unavailable):
            await provider.backends()
        account.heal()

        assert len(await provider.backends()) == 1
        claimed = await until(scene.claim)
        assert [one.key for one in claimed] == [job.key]
