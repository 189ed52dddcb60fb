"""What must hold after a round, by what the storage holds and by what was noted while it went on."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise

import msgspec

from spoolway_providers.model import Job, Outcome, Reason, State
from tests.crash.journal import Happening
from tests.crash.plan import Plan

__all__ = ["Fault", "Remains", "check", "held_intervals"]

ENDS: Mapping[str, frozenset[State]] = {
    "ok": frozenset({State.DONE}),
    "slow": frozenset({State.DONE}),
    "retry": frozenset({State.DONE}),
    "crash": frozenset({State.DONE}),
    "delayed": frozenset({State.DONE}),
    "fail": frozenset({State.ERROR}),
    "expiring": frozenset({State.DONE, State.EXPIRED}),
    "overtime": frozenset({State.ERROR}),
    "cancel": frozenset({State.CANCELLED, State.DONE}),
    "cancel running": frozenset({State.CANCELLED}),
    "deaf": frozenset({State.CANCELLED, State.DONE}),
}
"""How a job of a kind may end. Attempts are plenty in a round: none ends because its spoolers were killed."""
ERRORS = frozenset({Reason.FAILED, Reason.TIMEOUT})
TERMINAL = frozenset({"DONE", "ERROR", "CANCELLED", "EXPIRED"})


class Fault(msgspec.Struct, frozen=True):
    """Something that must not be."""

    job: str
    """Its name; empty if it is not about one job."""
    message: str


class Remains(msgspec.Struct, frozen=True):
    """What a round left in the storage."""

    jobs: Sequence[Job]
    results: Mapping[str, bytes]
    """By the job's name."""
    faults: Sequence[Fault] = ()
    """What was wrong with the storage itself."""


class Interval(msgspec.Struct, frozen=True):
    """A time in which a spooler's own clock called a lease live, and its job was in hand."""

    job: str
    token: str
    who: str
    began: float
    ended: float


def check(plan: Plan, history: Sequence[Happening], remains: Remains, *, slack_s: float = 0.0) -> list[Fault]:
    """All faults of a round; none if all is well."""
    return [
        *remains.faults,
        *_never_ready(history),
        *_lost(history, remains),
        *_doubled(remains),
        *_not_ended_well(plan, history, remains),
        *_torn(remains),
        *_overlapping_leases(remains.jobs, slack_s),
        *_overlapping_runs(history),
        *_overwritten(history, remains),
        *_out_of_order(history, remains.jobs, slack_s),
    ]


def _never_ready(history: Iterable[Happening]) -> Iterator[Fault]:
    for one in history:
        if one.what == "does not come up":
            yield Fault("", f"{one.about['whom']} ended at once, again and again; see its log")


def _lost(history: Iterable[Happening], remains: Remains) -> Iterator[Fault]:
    """Every job that was acknowledged is there, and the same one for each repeat."""
    there = {str(job.key) for job in remains.jobs}
    names: dict[str, str] = {}
    for one in history:
        if one.what == "acknowledged":
            job = one.about["job"]
            if job not in there:
                yield Fault(job, f"was acknowledged as {one.about['request']}, and is lost")
            known = names.setdefault(one.about["request"], job)
            if known != job:
                yield Fault(job, f"is a second job of {one.about['request']}, which is {known}")


def _doubled(remains: Remains) -> Iterator[Fault]:
    """A request id made one job, and a job is listed once."""
    requests: dict[str, str] = {}
    for job in remains.jobs:
        other = requests.setdefault(job.request_id, str(job.key))
        if other != str(job.key):
            yield Fault(str(job.key), f"was made from {job.request_id}, as {other} was")
    if len({job.key for job in remains.jobs}) != len(remains.jobs):
        yield Fault("", "a job is listed twice")


def _not_ended_well(plan: Plan, history: Sequence[Happening], remains: Remains) -> Iterator[Fault]:
    kinds = {f"{client}-{job.number}": job.kind for client, jobs in plan.clients.items() for job in jobs}
    seen = {one.about["job"]: one for one in history if one.what == "sees the end"}
    for job in remains.jobs:
        name, kind = str(job.key), kinds.get(job.request_id, "")
        if not job.is_terminal:
            yield Fault(name, f"({kind}) has not ended: it is {job.state}({job.reason})")
            continue
        if job.state not in ENDS[kind]:
            yield Fault(name, f"({kind}) has ended as {job.state}({job.reason}): {job.error}")
        if job.state is State.ERROR and job.reason not in ERRORS:
            yield Fault(name, f"({kind}) is an ERROR because of {job.reason}: {job.error}")
        if name in seen and seen[name].about["state"] != job.state:
            yield Fault(name, f"was seen {seen[name].about['state']} by its client, and is {job.state}")
    acknowledged = {one.about["job"] for one in history if one.what == "acknowledged"}
    for name in acknowledged - set(seen):
        yield Fault(name, "its client never saw its end")


def _torn(remains: Remains) -> Iterator[Fault]:
    """A result is there exactly if the job is DONE, and is the one of the attempt that is DONE."""
    for job in remains.jobs:
        name = str(job.key)
        done = [attempt for attempt in job.attempts if attempt.outcome is Outcome.DONE]
        if (job.state is State.DONE) != (job.result is not None) or len(done) != (job.state is State.DONE):
            yield Fault(name, f"is {job.state} with {len(done)} attempts that are DONE, result {job.result}")
            continue
        if job.result is None:
            continue
        result = msgspec.json.decode(remains.results[name])
        if result["token"] != done[0].token or result["request"] != job.request_id:
            yield Fault(name, f"has the result {result}, not that of its attempt {done[0].token}")
        if done[0] is not job.attempts[-1]:
            yield Fault(name, "an older attempt has won over a newer one")


def _overlapping_leases(jobs: Iterable[Job], slack_s: float) -> Iterator[Fault]:
    """In the storage's own history an attempt ends before the next begins."""
    for job in jobs:
        for earlier, later in pairwise(job.attempts):
            if earlier.ended_at is None or earlier.ended_at > later.claimed_at + timedelta(seconds=slack_s):
                yield Fault(
                    str(job.key),
                    f"was claimed again at {later.claimed_at}, before attempt {earlier.number} had ended at "
                    f"{earlier.ended_at}",
                )
        if job.is_terminal and job.holder is not None:
            yield Fault(str(job.key), "has ended and is held")


def _overlapping_runs(history: Sequence[Happening]) -> Iterator[Fault]:
    by_job: defaultdict[str, list[Interval]] = defaultdict(list)
    for interval in held_intervals(history):
        by_job[interval.job].append(interval)
    for job, intervals in by_job.items():
        intervals.sort(key=lambda interval: interval.began)
        for earlier, later in pairwise(intervals):
            if earlier.token != later.token and later.began < earlier.ended:
                yield Fault(
                    job,
                    f"was held by {later.who} {earlier.ended - later.began:.3f} s before {earlier.who} had "
                    "done with it, by its own clock",
                )


def held_intervals(history: Sequence[Happening]) -> list[Interval]:
    """When each spooler held each job by its own clock: it ran, was not revoked, and the lease was sure."""
    died = _deaths(history)
    sure: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in history:
        if one.what == "sure":
            sure[one.who].append((one.t, one.about["until"]))
    ends: dict[str, float] = {}
    for one in history:
        if one.what in {"run ended", "revoked"}:
            ends.setdefault(f"{one.who} {one.about['token']}", one.t)
    intervals: list[Interval] = []
    for one in history:
        if one.what == "run":
            end = min(
                died.get(one.who, float("inf")), ends.get(f"{one.who} {one.about['token']}", float("inf"))
            )
            intervals += _sure_parts(one, end, sure[one.who])
    return intervals


def _sure_parts(run: Happening, end: float, sure: Iterable[tuple[float, float]]) -> Iterator[Interval]:
    parts: list[tuple[float, float]] = []
    for since, until in sure:
        since, until = max(since, run.t), min(until, end)
        if until <= since:
            continue
        if parts and since <= parts[-1][1]:
            parts[-1] = (parts[-1][0], max(until, parts[-1][1]))
        else:
            parts.append((since, until))
    for since, until in parts:
        yield Interval(run.about["job"], run.about["token"], run.who, since, until)


def _deaths(history: Iterable[Happening]) -> dict[str, float]:
    """When each process was killed, or was seen to be gone."""
    died: dict[str, float] = {}
    for one in history:
        if one.what == "killed at":
            died.setdefault(one.who, one.t)
        elif one.what in {"kills", "is gone"}:
            died.setdefault(one.about["whom"], one.t)
    return died


def _overwritten(history: Iterable[Happening], remains: Remains) -> Iterator[Fault]:
    """No two commits made one revision, none came after the end, and none is missing in the storage."""
    commits: defaultdict[str, dict[int, Happening]] = defaultdict(dict)
    for one in history:
        if one.what != "committed":
            continue
        known = commits[one.about["job"]].setdefault(one.about["revision"], one)
        if (known.about["state"], known.about["token"]) != (one.about["state"], one.about["token"]):
            yield Fault(one.about["job"], f"has two commits of revision {one.about['revision']}")
    last = {str(job.key): job for job in remains.jobs}
    for name, revisions in commits.items():
        ended = [number for number, one in revisions.items() if one.about["state"].split("(")[0] in TERMINAL]
        if ended and max(revisions) > min(ended):
            yield Fault(name, "was changed after it had ended")
        if name not in last:
            yield Fault(name, "was committed, and is gone")
        elif last[name].revision < max(revisions):
            yield Fault(name, f"revision {max(revisions)} was committed; {last[name].revision} is left")


def _out_of_order(history: Sequence[Happening], jobs: Sequence[Job], slack_s: float) -> Iterator[Fault]:
    """If B's submit to a backend began after A's was acknowledged, A is claimed first; delayed jobs aside."""
    began: dict[str, float] = {}
    acknowledged: dict[str, float] = {}
    for one in history:
        if one.what == "submits":
            began.setdefault(one.about["request"], one.t)
        elif one.what == "acknowledged":
            acknowledged.setdefault(one.about["request"], one.t)
    claimed = [
        (job.attempts[0].claimed_at.timestamp(), job)
        for job in jobs
        if job.attempts and job.times[0].state is State.QUEUED
    ]
    claimed.sort(key=lambda pair: pair[0])
    for place, (later_at, later) in enumerate(claimed):
        for earlier_at, earlier in claimed[:place]:
            # `earlier` was claimed first: it must not have come wholly after `later`.
            was_acknowledged = acknowledged.get(later.request_id)
            if was_acknowledged is None or earlier_at + slack_s >= later_at:
                continue
            if earlier.key.backend != later.key.backend:
                continue
            if began.get(earlier.request_id, float("-inf")) > was_acknowledged:
                yield Fault(
                    str(later.key),
                    f"({later.request_id}) was claimed {later_at - earlier_at:.3f} s after "
                    f"{earlier.request_id}, whose submit began after its own was acknowledged",
                )
