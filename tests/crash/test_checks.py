"""The harness sees each fault that it looks for."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.digests import blob_ref
from spoolway_providers.model import Job, Outcome, Policy, State, result_blob_id
from tests.crash.checks import Remains, check, held_intervals
from tests.crash.journal import Happening
from tests.crash.plan import JobPlan, Plan
from tests.crash.telling import tell
from tests.providers.ways import NOW, after, submitted

PLAN = Plan(
    seed=5,
    number=7,
    provider="sqlite",
    servers=("server-1",),
    spoolers=("spooler-1", "spooler-2"),
    clients={"client-1": tuple(JobPlan(n, "ok", 0.0, 0.0, 0.0) for n in range(2))},
    actions=(),
    targets={},
    restart_s=(0.1,),
)


def job_of(number: int, *, claimed_s: float) -> Job:
    """A job that was lost once, ran again and is done; its last token is `new-N`."""
    job = submitted(request_id=f"client-1-{number}")
    job = replace(job, key=replace_id(job, number), seq=number)
    claim_at = NOW + timedelta(seconds=claimed_s)
    for event, at in (
        (rules.Claim(f"old-{number}", "s1", "spooler-1"), claim_at),
        (rules.Accept(f"old-{number}"), claim_at),
        (rules.SessionGone("s1"), claim_at + timedelta(seconds=1)),
        (rules.Due(), claim_at + timedelta(seconds=10)),
        (rules.Claim(f"new-{number}", "s2", "spooler-2"), claim_at + timedelta(seconds=11)),
        (rules.Accept(f"new-{number}"), claim_at + timedelta(seconds=11)),
        (
            rules.Complete(f"new-{number}", blob_ref(result_blob_id(job.key, f"new-{number}"), b"{}")),
            claim_at + timedelta(seconds=12),
        ),
    ):
        job = decided(job, event, at)
    return job


def replace_id(job: Job, number: int) -> Any:
    return msgspec.structs.replace(job.key, id=f"{number:024x}")


def decided(job: Job, event: rules.Event, at: datetime) -> Job:
    changed = rules.decide(job, event, at, Policy())
    assert isinstance(changed, Job), changed
    return changed


class World:
    """A round that went well; tests spoil it."""

    def __init__(self) -> None:
        self.jobs = [job_of(0, claimed_s=1), job_of(1, claimed_s=2)]
        self.results = {
            str(job.key): msgspec.json.encode({"token": f"new-{n}", "request": f"client-1-{n}"})
            for n, job in enumerate(self.jobs)
        }
        self.history: list[Happening] = []
        for number, job in enumerate(self.jobs):
            name, request = str(job.key), f"client-1-{number}"
            self.note(number, "client-1.1", "submits", request=request)
            self.note(number + 0.5, "client-1.1", "acknowledged", request=request, job=name)
            self.note(20, "client-1.1", "sees the end", job=name, state="DONE")
            self.note(
                15,
                "server-1.1",
                "committed",
                job=name,
                revision=job.revision,
                state="DONE",
                token=f"new-{number}",
            )
        first = str(self.jobs[0].key)
        self.note(3.0, "spooler-1.1", "sure", until=5.0)
        self.note(4.0, "spooler-1.1", "run", job=first, token="old-0")
        self.note(11.9, "spooler-2.1", "sure", until=14.0)
        self.note(12.0, "spooler-2.1", "run", job=first, token="new-0")
        self.note(12.5, "spooler-2.1", "run ended", job=first, token="new-0", how="done")

    def note(self, t: float, who: str, what: str, **about: Any) -> None:
        self.history.append(Happening(t, who, what, about))

    def faults(self) -> list[str]:
        self.history.sort(key=lambda one: one.t)
        return [fault.message for fault in check(PLAN, self.history, Remains(self.jobs, self.results))]


def test_a_good_round_has_no_faults() -> None:
    """A job that was lost and ran again, its leases one after the other, is as it should be."""
    assert World().faults() == []


def lose(world: World) -> None:
    del world.jobs[1]


def double(world: World) -> None:
    twin = job_of(2, claimed_s=30)
    world.jobs.append(replace(twin, request_id="client-1-1"))
    world.results[str(twin.key)] = b'{"token": "new-2", "request": "client-1-1"}'


def leave_open(world: World) -> None:
    world.jobs[0] = after([rules.Claim("t", "s", "p")], replace(world.jobs[0], **QUEUED))[-1]


QUEUED = {"state": State.QUEUED, "attempts": (), "result": None}


def mix_results(world: World) -> None:
    first, second = (str(job.key) for job in world.jobs)
    world.results[first] = world.results[second]


def let_the_old_attempt_win(world: World) -> None:
    old, new = world.jobs[0].attempts
    world.jobs[0] = replace(
        world.jobs[0],
        attempts=(replace(old, outcome=Outcome.DONE), replace(new, outcome=Outcome.LOST)),
    )
    world.results[str(world.jobs[0].key)] = b'{"token": "old-0", "request": "client-1-0"}'


def overlap_leases(world: World) -> None:
    old, new = world.jobs[0].attempts
    late = replace(old, ended_at=new.claimed_at + timedelta(seconds=1))
    world.jobs[0] = replace(world.jobs[0], attempts=(late, new))


def overlap_runs(world: World) -> None:
    world.note(4.9, "spooler-1.1", "sure", until=13.0)


def go_back(world: World) -> None:
    name = str(world.jobs[0].key)
    world.note(16, "server-1.1", "committed", job=name, revision=99, state="RUNNING", token="new-0")


def commit_twice(world: World) -> None:
    name, revision = str(world.jobs[0].key), world.jobs[0].revision
    world.note(16, "server-2.1", "committed", job=name, revision=revision, state="DONE", token="old-0")


def pass_by(world: World) -> None:
    world.jobs[0] = job_of(0, claimed_s=3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, "is lost"),
        (double, "was made from client-1-1"),
        (leave_open, "has not ended"),
        (mix_results, "not that of its attempt"),
        (let_the_old_attempt_win, "older attempt has won"),
        (overlap_leases, "was claimed again"),
        (overlap_runs, "before spooler-1.1 had done with it"),
        (go_back, "was changed after it had ended"),
        (commit_twice, "two commits of revision"),
        (pass_by, "was claimed 1.000 s after client-1-1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_fault_is_seen(spoil: Callable[[World], None], message: str) -> None:
    """What must not be is found, and said."""
    world = World()

    spoil(world)

    assert any(message in fault for fault in world.faults())


def spooler_history(*notes: tuple[float, str, dict[str, Any]]) -> Sequence[Happening]:
    return [Happening(t, "spooler-1.1", what, about) for t, what, about in notes]


RUN = (1.0, "run", {"job": "j", "token": "t"})


@pytest.mark.parametrize(
    ("notes", "held"),
    [
        ([(0.9, "sure", {"until": 2.0}), RUN], [(1.0, 2.0)]),
        ([(0.9, "sure", {"until": 2.0}), RUN, (1.5, "run ended", {"token": "t"})], [(1.0, 1.5)]),
        ([(0.9, "sure", {"until": 2.0}), RUN, (1.4, "revoked", {"token": "t"})], [(1.0, 1.4)]),
        ([(0.9, "sure", {"until": 2.0}), RUN, (1.3, "killed at", {})], [(1.0, 1.3)]),
        ([(0.9, "sure", {"until": 2.0}), RUN, (1.5, "sure", {"until": 3.0})], [(1.0, 3.0)]),
        (
            [(0.9, "sure", {"until": 2.0}), RUN, (4.0, "sure", {"until": 5.0})],
            [(1.0, 2.0), (4.0, 5.0)],
        ),
    ],
)
def test_held_is_what_the_holders_own_clock_says(
    notes: list[tuple[float, str, dict[str, Any]]], held: list[tuple[float, float]]
) -> None:
    """A lease is held while it is sure, until the run, the lease or the process ends."""
    intervals = held_intervals(spooler_history(*notes))

    assert [(interval.began, interval.ended) for interval in intervals] == held


def test_a_failed_round_tells_its_story(tmp_path: Any) -> None:
    """What is printed has the seed, the fault, the job's history and the command to play it again."""
    world = World()
    lose(world)
    world.history.sort(key=lambda one: one.t)
    remains = Remains(world.jobs, world.results)

    story = tell(PLAN, world.history, remains, check(PLAN, world.history, remains), tmp_path)

    assert "make crash PROVIDER=sqlite SEED=5 ROUND=7" in story
    assert "was acknowledged as client-1-1, and is lost" in story
    assert "client-1.1   submits          request=client-1-1" in story
