"""Jobs in every state, made by the rules."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.digests import blob_ref
from spoolway_providers.model import Draft, Job, JobKey, Policy, Reason, State

__all__ = ["ACCEPT", "CLAIM", "NOW", "RESULT", "after", "job_in", "moment", "submitted"]

NOW = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
RESULT = blob_ref("result", b"{}")

CLAIM = rules.Claim("t", "session", "spooler")
ACCEPT = rules.Accept("t")
GONE = rules.SessionGone("session")


def moment(seconds: float) -> datetime:
    """So long after NOW."""
    return NOW + timedelta(seconds=seconds)


def submitted(**changes: Any) -> Job:
    """A job as a submit at NOW makes it."""
    fields = {"backend": "b", "owner": "alice", "content": RESULT, "max_attempts": 3, **changes}
    return rules.admit(Draft(**fields), key=JobKey("b", "0" * 24), content=RESULT, seq=1, now=NOW)


def after(events: Sequence[rules.Event], job: Job | None = None, policy: Policy | None = None) -> list[Job]:
    """The job at the start and after each event, a second apart."""
    jobs = [job or submitted()]
    for event in events:
        at = jobs[-1].updated_at + timedelta(seconds=1)
        changed = rules.decide(jobs[-1], event, at, policy or Policy())
        assert isinstance(changed, Job), changed
        jobs.append(changed)
    return jobs


WAYS: dict[str, tuple[dict[str, Any], Sequence[rules.Event]]] = {
    "QUEUED": ({}, []),
    "QUEUED, token LOST": ({}, [CLAIM, GONE]),
    "HELD(DELAYED), not before": ({"not_before": moment(60)}, []),
    "HELD(DELAYED), failed": ({}, [CLAIM, ACCEPT, rules.Fail("t", "noise", retryable=True)]),
    "HELD(DELAYED), token LOST": ({}, [CLAIM, ACCEPT, GONE]),
    "HELD(OPERATOR)": ({}, [rules.Hold("operator")]),
    "HELD(SPOOLER_LOST)": ({"max_attempts": 1}, [CLAIM, ACCEPT, GONE]),
    "CLAIMED": ({}, [CLAIM]),
    "RUNNING": ({}, [CLAIM, ACCEPT]),
    "RUNNING, last attempt": ({"max_attempts": 1}, [CLAIM, ACCEPT]),
    "CANCELLING": ({}, [CLAIM, ACCEPT, rules.Cancel("alice")]),
    "DONE": ({}, [CLAIM, ACCEPT, rules.Complete("t", RESULT)]),
    "ERROR": ({}, [CLAIM, ACCEPT, rules.Fail("t", "no vacuum")]),
    "CANCELLED": ({}, [rules.Cancel("alice")]),
}


def job_in(name: str) -> Job:
    """A job in a state, with what else its name says; its attempt's token is `t`."""
    if name == "HELD(IMPORTED)":
        return replace(submitted(), state=State.HELD, reason=Reason.IMPORTED)
    if name == "CANCELLING(TIMEOUT)":
        running = after([CLAIM, ACCEPT], submitted(max_run_time=timedelta(seconds=5)))[-1]
        return _due(running, moment(60))
    if name == "EXPIRED":
        return _due(submitted(expire_at=moment(5)), moment(5))
    draft, events = WAYS[name]
    return after(events, submitted(**draft))[-1]


def _due(job: Job, at: datetime) -> Job:
    changed = rules.decide(job, rules.Due(), at, Policy())
    assert isinstance(changed, Job)
    return changed
