"""What the MongoDB provider costs in round trips: of a job, of a batch, and of waiting."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, token_of
from spoolway_providers.interface import Change
from spoolway_providers.model import Job
from spoolway_providers.mongodb import MongoProvider
from spoolway_providers.mongodb.wake import Pace
from tests.providers.mongodb_server import Commands, MongoServer, StandIn, lone_stand_in, server, stand_in

__all__ = ["lone_stand_in", "server", "stand_in"]


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def scene(server: MongoServer, commands: Commands) -> AsyncIterator[Scene]:
    async with server.database() as name:
        provider = server.provider(name, listeners=[commands])
        await provider.open()
        scene = Scene(provider)
        await scene.set_up()
        # Whether there is such a backend is asked once a process.
        await scene.submit_and_cancel()
        yield scene
        await provider.close()


async def test_f15_job_costs_five_round_trips(scene: Scene, commands: Commands) -> None:
    """Submit, claim, accept and complete one job by itself: one, two, one and one round trips."""
    with commands.counted() as submit:
        await scene.submit(request_id="r")
    with commands.counted() as claim:
        [job] = await scene.claim()
    with commands.counted() as accept:
        job = await scene.do(job, rules.Accept(token_of(job)))
    with commands.counted() as complete:
        await scene.complete(job)

    assert submit == ["findAndModify"]
    assert claim == ["aggregate", "findAndModify"]
    assert accept == ["update"]
    assert complete == ["update"]


async def test_job_with_a_limited_queue_costs_one_more(scene: Scene, commands: Commands) -> None:
    """A limit of waiting jobs has to be counted, from an index."""
    with commands.counted() as submit:
        await scene.submit(max_queued=10)

    assert submit == ["aggregate", "findAndModify"]


async def test_batch_of_twenty_costs_seven_round_trips(scene: Scene, commands: Commands) -> None:
    """Twenty jobs at once cost hardly more than one, so less than half a round trip each."""
    with commands.counted() as counted:
        await scene.provider.submit([scene.draft(request_id=f"r{n}") for n in range(20)])
        claimed = await scene.claim(20)
        running = await _all(scene, claimed, lambda job: rules.Accept(token_of(job)))
        await _all(scene, running, lambda job: rules.Release(token_of(job)))

    assert len(claimed) == 20
    assert counted == ["update", "find", "aggregate", "update", "find", "update", "update"]


async def _all(scene: Scene, jobs: list[Job], event: Any) -> list[Job]:
    changes = [Change(scene.decide(job, event(job)), job.revision) for job in jobs]
    answers = await scene.provider.commit(changes)
    assert all(isinstance(answer, Job) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Job)]


async def test_empty_queue_costs_one_round_trip(scene: Scene, commands: Commands) -> None:
    """One look serves all that wait: policy, sessions and head of the queue."""
    with commands.counted() as counted:
        await scene.provider.claim(BACKEND, [scene.order() for _ in range(50)])

    assert counted == ["aggregate"]


async def test_beat_costs_one_write_and_one_read(scene: Scene, commands: Commands) -> None:
    """A sign of life is one write, however many jobs are held; a read tells which."""
    await scene.submit()
    await scene.claim()

    with commands.counted() as counted:
        await scene.provider.renew(scene.session_id, 1)

    assert counted == ["update", "find"]


async def test_same_config_again_is_not_written(scene: Scene, commands: Commands) -> None:
    """A spooler that registers the config that is there already writes nothing."""
    with commands.counted() as counted:
        await scene.provider.put_config(BACKEND, b"{}", None)

    assert counted == ["find"]


async def test_reading_changes_costs_two_round_trips(scene: Scene, commands: Commands) -> None:
    """A look by numbers, and the documents; only the look if nothing has changed."""
    cursor = (await scene.provider.changes("")).cursor
    await scene.provider.submit([scene.draft() for _ in range(10)])

    with commands.counted() as with_news:
        changes = await scene.provider.changes(cursor)
    with commands.counted() as without:
        await scene.provider.changes(changes.cursor)

    assert with_news == ["find", "find"]
    assert without == ["find"]


def test_f15_idle_process_asks_three_times_a_minute() -> None:
    """An idle stream is one round trip a minute, the looks beneath it two."""
    pace = Pace()

    assert 60 / pace.stream_s + 60 / pace.beneath_stream_s == 3
    assert (pace.first_look_s, pace.last_look_s) == (0.2, 5.0)


async def test_f15_waiting_on_a_stream_is_quiet(server: MongoServer) -> None:
    """While nothing happens, a process sends one command a round of its stream and one a look, no more."""
    commands = Commands()
    pace = Pace(stream_s=0.4, beneath_stream_s=0.4)
    async with server.database() as name:
        provider = server.provider(name, listeners=[commands], pace=pace)
        await provider.open()
        await _quiet(provider)
        with commands.counted() as counted:
            assert await provider.wait(timedelta(seconds=2)) is None
        await provider.close()

    kinds = Counter(counted)
    assert set(kinds) == {"getMore", "find"}
    assert kinds["getMore"] <= 6
    assert kinds["find"] <= 6


async def test_f15_waiting_without_streams_backs_off(lone_stand_in: StandIn) -> None:
    """Without change streams looks come less and less often while nothing happens."""
    commands = Commands()
    pace = Pace(first_look_s=0.05, last_look_s=0.8)
    async with lone_stand_in.database() as name:
        provider = lone_stand_in.provider(name, listeners=[commands], pace=pace)
        await provider.open()
        with commands.counted() as counted:
            assert await provider.wait(timedelta(seconds=2)) is None
        await provider.close()

    # After 0.05, 0.15, 0.35, 0.75 and 1.55 s.
    assert 3 <= len(counted) <= 5
    assert set(counted) == {"find"}


async def _quiet(provider: MongoProvider) -> None:
    """Until the stream is open and the look after that is done."""
    while await provider.wait(timedelta(milliseconds=300)) is not None:
        pass
