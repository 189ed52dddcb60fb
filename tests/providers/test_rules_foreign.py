"""What the rules make of jobs that other programs take, end, put back or spoil."""

import pytest

from spoolway_providers import rules
from spoolway_providers.model import Job, Outcome, Policy, Reason, State
from spoolway_providers.rules import (
    Accept,
    Cancel,
    Claim,
    Complete,
    Due,
    EndedByForeign,
    Event,
    FailHeld,
    Hold,
    Imported,
    Refusal,
    Release,
    Resume,
    Retry,
    ReturnedByForeign,
    SessionGone,
    Spoiled,
    TakenByForeign,
    Unhold,
)
from tests.providers.ways import ACCEPT, CLAIM, NOW, RESULT, after, job_in, moment, submitted

TAKEN, RETURNED, IMPORTED = TakenByForeign(), ReturnedByForeign(), Imported()
DONE, FAILED = EndedByForeign(RESULT), EndedByForeign(None, "no vacuum")
SPOILED = Spoiled("FILE_LOST", "its file was removed")

CHANGES: list[tuple[str, Event, str]] = [
    ("QUEUED", TAKEN, "RUNNING(FOREIGN)"),
    ("QUEUED, token LOST", TAKEN, "RUNNING(FOREIGN)"),
    ("HELD(OPERATOR)", TAKEN, "RUNNING(FOREIGN)"),
    ("HELD(DELAYED), failed", TAKEN, "RUNNING(FOREIGN)"),
    ("CLAIMED", TakenByForeign("t"), "RUNNING(FOREIGN)"),
    ("RUNNING(FOREIGN)", DONE, "DONE"),
    ("RUNNING(FOREIGN)", FAILED, "ERROR(FAILED)"),
    ("RUNNING(FOREIGN)", RETURNED, "QUEUED"),
    ("RUNNING(FOREIGN)", SPOILED, "ERROR(FAILED)"),
    ("RUNNING(FOREIGN)", Cancel("alice"), "CANCELLED"),
    ("QUEUED", DONE, "DONE"),
    ("QUEUED", FAILED, "ERROR(FAILED)"),
    ("QUEUED", IMPORTED, "HELD(IMPORTED)"),
    ("HELD(IMPORTED)", DONE, "DONE"),
    ("HELD(IMPORTED)", RETURNED, "QUEUED"),
    ("QUEUED", SPOILED, "ERROR(FAILED)"),
    ("HELD(OPERATOR)", SPOILED, "ERROR(FAILED)"),
    ("CLAIMED", Spoiled("FILE_LOST", "gone", "t"), "ERROR(FAILED)"),
]

CHANGES += [
    ("RUNNING(FOREIGN)", Unhold("operator"), "QUEUED"),
    ("RUNNING(FOREIGN)", FailHeld("operator", "its machine is gone"), "ERROR(OPERATOR)"),
]

REFUSALS: list[tuple[str, Event]] = [
    ("CLAIMED", TAKEN),
    ("CLAIMED", TakenByForeign("else")),
    ("RUNNING", TAKEN),
    ("RUNNING", TakenByForeign("t")),
    ("CANCELLING", TAKEN),
    ("DONE", TAKEN),
    ("CLAIMED", DONE),
    ("RUNNING", DONE),
    ("CANCELLING", FAILED),
    ("RUNNING", RETURNED),
    ("HELD(OPERATOR)", RETURNED),
    ("DONE", RETURNED),
    ("RUNNING", IMPORTED),
    ("HELD(OPERATOR)", IMPORTED),
    ("CLAIMED", SPOILED),
    ("RUNNING", Spoiled("FILE_LOST", "gone", "t")),
    ("RUNNING(FOREIGN)", CLAIM),
    ("RUNNING(FOREIGN)", ACCEPT),
    ("RUNNING(FOREIGN)", Complete("t", RESULT)),
    ("RUNNING(FOREIGN)", Release("t")),
    ("RUNNING(FOREIGN)", Resume("t", "session-2")),
    ("RUNNING(FOREIGN)", Hold("operator")),
    ("RUNNING(FOREIGN)", Retry("alice")),
]

REPEATS: list[tuple[str, Event]] = [
    ("RUNNING(FOREIGN)", TAKEN),
    ("RUNNING(FOREIGN)", Due()),
    ("RUNNING(FOREIGN)", SessionGone("session")),
    ("QUEUED", RETURNED),
    ("DONE", DONE),
    ("DONE", FAILED),
    ("CANCELLED", DONE),
    ("ERROR", SPOILED),
]


def in_state(name: str) -> Job:
    if name == "RUNNING(FOREIGN)":
        return after([CLAIM, ACCEPT, rules.SessionGone("session"), TAKEN], submitted(expire_at=moment(100)))[
            -1
        ]
    return job_in(name)


def named(job: Job) -> str:
    return job.state.value + (f"({job.reason})" if job.reason else "")


@pytest.mark.parametrize(("start", "event", "expected"), CHANGES)
def test_foreign_event_changes(start: str, event: Event, expected: str) -> None:
    """What other programs do leads where it must, in one revision, with nobody of ours holding the job."""
    job = in_state(start)

    changed = rules.decide(job, event, moment(600), Policy())

    assert isinstance(changed, Job)
    assert named(changed) == expected
    assert changed.revision == job.revision + 1
    assert changed.holder is None
    assert (changed.key, changed.seq, changed.rank, changed.owner) == (job.key, job.seq, job.rank, job.owner)
    assert (changed.result is not None) == (changed.state is State.DONE)
    assert (changed.error is not None) == (changed.state is State.ERROR)
    assert changed.times[-1].state is changed.state


@pytest.mark.parametrize(("start", "event"), REFUSALS)
def test_foreign_event_is_refused(start: str, event: Event) -> None:
    """Nothing that a session of ours holds follows another program, and nothing of another's is ours."""
    assert isinstance(rules.decide(in_state(start), event, moment(600), Policy()), Refusal)


@pytest.mark.parametrize(("start", "event"), REPEATS)
def test_repeated_foreign_event_changes_nothing(start: str, event: Event) -> None:
    """What has happened already, or comes after the end, changes nothing (F17)."""
    job = in_state(start)

    assert rules.decide(job, event, moment(600), Policy()) is job


def test_foreign_job_is_never_due() -> None:
    """A job that another program runs has no lease, so nothing runs out: it is never requeued by us."""
    assert in_state("RUNNING(FOREIGN)").due_at is None


def test_late_claim_is_withdrawn() -> None:
    """A claim that came too late ends, and costs the job no attempt."""
    [*_, job] = after([CLAIM, TakenByForeign("t")])

    assert (job.attempts[-1].outcome, job.attempts[-1].ended_at) == (Outcome.WITHDRAWN, moment(2))
    assert job.attempt_count == 0


def test_foreign_job_goes_on_with_us_once_it_is_put_back() -> None:
    """A job that was put back is claimed in its old place and runs as any other."""
    [*_, job] = after([TAKEN, RETURNED, Claim("t-2", "session", "spooler"), Accept("t-2")])

    assert (job.state, job.reason, job.attempt_count) == (State.RUNNING, Reason.NONE, 1)
    assert job.seq == submitted().seq


def test_error_tells_what_the_other_program_said() -> None:
    """A failure elsewhere has that program's words, or says that there were none."""
    told = after([TAKEN, FAILED])[-1].error
    untold = after([TAKEN, EndedByForeign()])[-1].error

    assert told is not None
    assert (told.reason, told.message) == ("FAILED", "no vacuum")
    assert untold is not None
    assert "no reason" in untold.message


def test_spoiled_job_says_how() -> None:
    """A job whose document is gone says so, with a reason for programs."""
    job = rules.decide(submitted(), SPOILED, NOW, Policy())

    assert isinstance(job, Job)
    assert job.error is not None
    assert (job.error.reason, job.error.message) == ("FILE_LOST", "its file was removed")
