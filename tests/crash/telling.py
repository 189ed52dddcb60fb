"""The story of a round that failed, for people."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.crash.checks import Fault, Remains
from tests.crash.journal import Happening
from tests.crash.plan import Plan

__all__ = ["command", "tell"]

MAX_JOBS_TOLD = 3
PROCESS_EVENTS = frozenset(
    {
        *("starts", "listens", "ended", "begins", "ends", "does not come up"),
        *("kills", "killed at", "pauses", "wakes", "asks to stop", "is gone"),
    }
)


def command(plan: Plan) -> str:
    """What plays the round again."""
    return f"make crash PROVIDER={plan.provider} SEED={plan.seed} ROUND={plan.number}"


def tell(
    plan: Plan, history: Sequence[Happening], remains: Remains, faults: Sequence[Fault], folder: Path
) -> str:
    """What was wrong, what happened to the processes and to the jobs concerned, and how to see it again."""
    jobs = list(dict.fromkeys(fault.job for fault in faults if fault.job))
    told = jobs[:MAX_JOBS_TOLD]
    return "\n".join(
        [
            f"Round {plan.number} of seed {plan.seed} on {plan.provider} has failed. Again: {command(plan)}",
            "",
            *(f"- {fault.job or 'the round'} {fault.message}" for fault in faults),
            "",
            f"What happened, in seconds, to the processes and to {', '.join(told) or 'no job'}:",
            *_lines(history, set(told)),
            *(
                f"\nIn the storage: {msgspec.json.encode(job).decode()}"
                for job in remains.jobs
                if str(job.key) in told
            ),
            "",
            f"The plan: {msgspec.json.encode([plan.actions, plan.targets]).decode()}",
            f"All of it, with the logs: {folder}",
        ]
    )


def _lines(history: Sequence[Happening], jobs: set[str]) -> Iterator[str]:
    tokens = _tokens_of(history, jobs)
    requests = {
        one.about["request"] for one in history if one.about.get("job") in jobs and "request" in one.about
    }
    start = history[0].t if history else 0.0
    for one in history:
        about = one.about
        is_told = (
            one.what in PROCESS_EVENTS
            or about.get("job") in jobs
            or about.get("token") in tokens
            or about.get("request") in requests
            or about.get("subject") in jobs | requests
        )
        if is_told:
            rest = " ".join(f"{name}={value}" for name, value in about.items())
            yield f"{one.t - start:8.3f}  {one.who:12} {one.what:16} {rest}"


def _tokens_of(history: Iterable[Happening], jobs: set[str]) -> set[str]:
    return {one.about["token"] for one in history if one.about.get("job") in jobs and one.about.get("token")}
