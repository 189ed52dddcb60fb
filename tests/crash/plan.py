"""What is to happen in a round, all of it drawn from the seed."""

import random
from collections.abc import Sequence

import msgspec

__all__ = ["KINDS", "Action", "JobPlan", "Plan", "Target", "make_plan"]

BACKEND = "sim"
KINDS = {
    "ok": 20,
    "slow": 5,
    "fail": 2,
    "retry": 2,
    "crash": 1,
    "delayed": 1,
    "expiring": 1,
    "overtime": 1,
    "cancel": 2,
    "cancel running": 2,
    "deaf": 1,
}
"""Kinds of jobs, and how often each is drawn.

`slow` runs longer than a lease; `fail` and `retry` fail, `retry` only at first; `crash` kills its first
spooler; `delayed` has a not_before; `expiring` an expire_time that passes soon; `overtime` a max_run_time
that does; `deaf` is cancelled and goes on to its end.
"""

TRANSITIONS = (
    "submit",
    "claim",
    "commit CLAIMED>RUNNING",
    "commit RUNNING>DONE",
    "open_session",
    "commit RUNNING>HELD",
    "commit HELD>QUEUED",
    "commit RUNNING>ERROR",
    "commit RUNNING>CANCELLING",
    "commit CANCELLING>CANCELLED",
    "commit QUEUED>CANCELLED",
    "commit CLAIMED>QUEUED",
    "commit RUNNING>QUEUED",
    "commit QUEUED>EXPIRED",
    "commit CANCELLING>ERROR",
    "commit CANCELLING>DONE",
    "commit HELD>RUNNING",
    "close_session",
    "renew",
    "repair",
    "put_config",
)
"""What a server is killed in the midst of; a transition by the states it leads from and to."""
MIN_JOBS = 30
CLIENTS = 2
SPOOLERS = 2
WITHOUT_WAKES_EVERY = 4
ACTIONS_FROM_S, ACTIONS_TO_S = 0.3, 2.2


class Target(msgspec.Struct, frozen=True):
    """A moment at which a server kills itself."""

    transition: str
    occurrence: int
    """In the n-th of these, counted from 1 in the life of this process ..."""
    step: int
    """... before it has taken so many steps from its beginning: commits, files, commands, the answer."""


class Action(msgspec.Struct, frozen=True):
    """Something done to a process."""

    at_s: float
    """From the beginning of the round."""
    what: str
    """`kill`, `pause` for `for_s`, or `stop`, which asks twice for an end."""
    whom: str
    for_s: float = 0.0


class JobPlan(msgspec.Struct, frozen=True):
    """One job, as its client is to submit it."""

    number: int
    kind: str
    gap_s: float
    """Before it is submitted."""
    run_s: float
    moment_s: float
    """From the beginning of the round: its not_before or expire_time, if its kind has one."""


class Plan(msgspec.Struct, frozen=True):
    """A round."""

    seed: int
    number: int
    provider: str
    servers: tuple[str, ...]
    spoolers: tuple[str, ...]
    clients: dict[str, tuple[JobPlan, ...]]
    actions: tuple[Action, ...]
    targets: dict[str, Target]
    """By process and life, such as `server-1.1`."""
    restart_s: tuple[float, ...]
    """How long a process that has ended stays away, in turn."""
    wakes: bool = True
    """False: no storage ever hints at anything, and polls alone must do."""

    def process_names(self) -> list[str]:
        return [*self.servers, *self.spoolers, *self.clients]


def make_plan(seed: int, number: int, provider: str, *, max_servers: int, steps: int) -> Plan:
    """The plan of one round.

    Args:
        seed: Of all the rounds; with the number it says everything.
        number: Of the round. Each goes on where the last one ended in the list of all transitions and steps.
        provider: Type of the storage.
        max_servers: How many servers may share it.
        steps: How many steps a transition has at most.
    """
    draw = random.Random(f"{seed}/{provider}/{number}")
    servers = tuple(f"server-{n + 1}" for n in range(draw.randint(1, max_servers)))
    spoolers = tuple(f"spooler-{n + 1}" for n in range(SPOOLERS))
    clients = {
        f"client-{n + 1}": _jobs(draw, MIN_JOBS // CLIENTS + draw.randint(0, 3)) for n in range(CLIENTS)
    }
    names = [*servers, *spoolers, *clients]
    return Plan(
        seed=seed,
        number=number,
        provider=provider,
        servers=servers,
        spoolers=spoolers,
        clients=clients,
        actions=_actions(draw, names),
        targets=_targets(draw, seed, number, servers, steps),
        restart_s=tuple(round(draw.uniform(0.0, 0.4), 3) for _ in range(16)),
        wakes=number % WITHOUT_WAKES_EVERY != 0,
    )


def _jobs(draw: random.Random, count: int) -> tuple[JobPlan, ...]:
    kinds = draw.choices(list(KINDS), list(KINDS.values()), k=count)
    jobs: list[JobPlan] = []
    at_s = 0.0
    for number, kind in enumerate(kinds):
        gap_s, run_s = round(draw.uniform(0.0, 0.12), 3), round(draw.uniform(0.0, 0.06), 3)
        at_s += gap_s
        jobs.append(JobPlan(number, kind, gap_s, run_s, round(at_s + draw.uniform(0.2, 1.2), 3)))
    return tuple(jobs)


def _actions(draw: random.Random, names: Sequence[str]) -> tuple[Action, ...]:
    victims = [name for name in names if not name.startswith("client")]
    actions = [Action(_moment(draw), "kill", draw.choice(victims))]
    for _ in range(draw.randint(0, 3)):
        what = draw.choices(["kill", "pause", "stop"], [4, 2, 1])[0]
        whom = draw.choice(names if what == "kill" else victims)
        for_s = round(draw.uniform(0.1, 2.0), 3) if what == "pause" else 0.0
        actions.append(Action(_moment(draw), what, whom, for_s))
    return tuple(sorted(actions, key=lambda action: action.at_s))


def _moment(draw: random.Random) -> float:
    return round(draw.uniform(ACTIONS_FROM_S, ACTIONS_TO_S), 3)


def _targets(
    draw: random.Random, seed: int, number: int, servers: Sequence[str], steps: int
) -> dict[str, Target]:
    """Every transition at every step in turn, two a round: in two servers, or in two lives of one."""
    all_of_them = [(transition, step) for transition in TRANSITIONS for step in range(steps)]
    random.Random(seed).shuffle(all_of_them)
    lives = [f"{servers[0]}.1", f"{servers[-1]}.{1 if len(servers) > 1 else 2}"]
    targets: dict[str, Target] = {}
    for place, life in enumerate(lives):
        transition, step = all_of_them[(number * len(lives) + place) % len(all_of_them)]
        targets[life] = Target(transition, draw.choice([1, 1, 1, 2, 5]), step)
    return targets
