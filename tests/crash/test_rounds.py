"""Whatever is killed, and whenever: nothing is lost, held twice, overwritten, passed by or stuck."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

# First: it points the SDK at itself, before anything imports that.
import tests.dropbox_emulator  # noqa: F401
from tests.crash.plan import TRANSITIONS, Plan, make_plan
from tests.crash.processes import Zygote, zygote
from tests.crash.rounds import play_round

pytestmark = pytest.mark.flaky(reruns=0)
"""Here a single failure counts."""
SEED = 4
PROVIDERS = ["sqlite", "local", "mongodb", "dropbox"]
ROUNDS = 20
"""Of each."""
PARTS = 4
"""Tests that share the rounds of a storage, so that they spread over the cores."""
AT_ONCE = 3
LIMIT_S = 60.0
"""On a loaded machine a round may take longer than by itself."""


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """Each storage in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def started(provider: str) -> Iterator[Zygote]:
    """What starts the processes of all rounds on a storage."""
    with zygote(provider) as one:
        yield one


@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", range(PARTS))
async def test_f3_f4_f8_rounds_of_kills(started: Zygote, tmp_path: Path, provider: str, part: int) -> None:
    """Servers, spoolers and clients are killed at any moment and step; every job ends once, as it should."""
    lanes = asyncio.Semaphore(AT_ONCE)

    async def play(number: int) -> int:
        async with lanes:
            return (await play_round(SEED, number, provider, started, tmp_path, limit_s=LIMIT_S)).kills

    kills = await asyncio.gather(*(play(number) for number in range(part, ROUNDS, PARTS)))

    assert all(kills)


def plan_of(seed: int, number: int) -> Plan:
    return make_plan(seed, number, "sqlite", max_servers=2, steps=4)


def test_a_round_is_drawn_from_its_seed() -> None:
    """Seed and number say everything about a round."""
    assert plan_of(1, 2) == plan_of(1, 2)
    assert plan_of(1, 2) != plan_of(1, 3)
    assert plan_of(1, 2) != plan_of(2, 2)


def test_a_round_is_as_large_as_promised() -> None:
    """At least 30 jobs, 2 spoolers, 1 or 2 servers and a kill."""
    plans = [plan_of(1, number) for number in range(50)]

    for plan in plans:
        assert sum(map(len, plan.clients.values())) >= 30
        assert len(plan.spoolers) == 2
        assert any(action.what == "kill" for action in plan.actions)
    assert {len(plan.servers) for plan in plans} == {1, 2}


def test_rounds_go_through_every_step_of_every_transition() -> None:
    """In so many rounds as there are transitions and steps, each of them is a target."""
    rounds = range(len(TRANSITIONS) * 4)

    targets = {target for number in rounds for target in plan_of(1, number).targets.values()}

    assert {(t.transition, t.step) for t in targets} == {
        (transition, step) for transition in TRANSITIONS for step in range(4)
    }
