"""What the SQLite provider's calls cost when there are many jobs that they are not about."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import BACKEND, session
from spoolway_providers.interface import Change, Query
from spoolway_providers.model import Job, State
from spoolway_providers.sqlite import queries
from spoolway_providers.sqlite.queries import ChangesAsked, PositionAsked
from tests.providers.conftest import OpenSqlite
from tests.providers.ways import NOW

ENDED = 2_000
STEPS = 20
"""Of SQLite's machine, between two counts."""


@pytest.fixture
async def crowded(open_sqlite: OpenSqlite) -> tuple[Scene, Job]:
    """Many ended jobs of one owner, and one job each that waits, runs or is orphaned; the running one."""
    scene = Scene(await open_sqlite())
    await scene.set_up()
    await end_many(scene)
    await scene.submit(owner="bob", max_run_time=timedelta(minutes=1))
    running = await scene.claim_and_accept()
    await scene.provider.open_session(session("lost", spooler="lost"))
    await scene.submit(owner="bob")
    await scene.provider.claim(BACKEND, [scene.order("lost")])
    await scene.provider.close_session("lost", None, "LOST")
    await scene.submit(owner="bob")
    return scene, running


async def end_many(scene: Scene) -> None:
    answers = await scene.provider.submit([scene.draft() for _ in range(ENDED)])
    jobs = [job for job in answers if isinstance(job, Job)]
    await scene.provider.commit(
        [Change(scene.decide(job, rules.Cancel("alice")), job.revision) for job in jobs]
    )


def count_steps(path: Path, query: Callable[[sqlite3.Connection, Any], Any], argument: Any) -> int:
    """How many steps SQLite's machine takes to answer."""
    counted = [0]

    def count() -> None:
        counted[0] += STEPS

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        query(connection, argument)
        connection.set_progress_handler(count, STEPS)
        query(connection, argument)
    return counted[0]


async def test_few_jobs_are_found_without_reading_all(path: Path, crowded: tuple[Scene, Job]) -> None:
    """What servers ask again and again costs the same however many jobs have ended."""
    scene, running = crowded
    newest = await scene.provider.changes("")
    number = int(newest.cursor.rpartition("-")[2])
    asked: dict[str, tuple[Callable[[sqlite3.Connection, Any], Any], Any]] = {
        "get": (queries.get, running.key),
        "by id": (queries.find, Query(id=running.key.id)),
        "held": (queries.find, Query(session=scene.session_id)),
        "orphans": (queries.find, Query(orphaned=True)),
        "claimed": (queries.find, Query(states=(State.CLAIMED,))),
        "active of a backend": (queries.count, Query(backend=BACKEND, states=(State.RUNNING, State.CLAIMED))),
        "waiting of a backend": (queries.count, Query(backend=BACKEND, states=(State.QUEUED, State.HELD))),
        "due": (queries.find, Query(due_before=NOW)),
        "next due": (queries.next_due, None),
        "of an owner": (queries.find, Query(owner="bob")),
        "of an owner, newest first": (queries.find, Query(owner="bob", newest_first=True)),
        "newest": (queries.find, Query(newest_first=True, limit=5)),
        "position": (queries.position, PositionAsked(running, 1000)),
        "changes": (queries.changes, ChangesAsked(number - 2, 1000)),
    }

    steps = {name: count_steps(path, query, argument) for name, (query, argument) in asked.items()}

    assert {name: cost for name, cost in steps.items() if cost > 500} == {}
