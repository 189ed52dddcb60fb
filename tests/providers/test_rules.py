"""The state machine of semantics.md, row by row."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.digests import blob_ref
from spoolway_providers.model import (
    Draft,
    Job,
    JobKey,
    Outcome,
    Policy,
    Reason,
    Session,
    SessionState,
    State,
)
from spoolway_providers.rules import (
    Accept,
    Cancel,
    Cancelled,
    Claim,
    Complete,
    Due,
    Event,
    Fail,
    FailHeld,
    Hold,
    Progress,
    Refusal,
    Release,
    Resume,
    Retry,
    SessionGone,
    Unhold,
    Withdraw,
)
from tests.providers.ways import NOW, RESULT, after, job_in, moment, submitted

LATER = moment(600)
COMPLETE, FAIL, FAIL_RETRYABLE = Complete("t", RESULT), Fail("t", "noise"), Fail("t", "noise", retryable=True)
RELEASE, WITHDRAW, CANCELLED = Release("t", "going home"), Withdraw("t"), Cancelled("t")
CANCEL, HOLD, UNHOLD, RETRY = Cancel("alice"), Hold("operator"), Unhold("operator"), Retry("alice")
FAIL_HELD, GONE, RESUME = FailHeld("operator", "broken"), SessionGone("session"), Resume("t", "session-2")
CLAIM, ACCEPT = Claim("t-2", "session-2", "spooler"), Accept("t")

CHANGES: list[tuple[str, Event, str]] = [
    ("QUEUED", CLAIM, "CLAIMED"),
    ("QUEUED", CANCEL, "CANCELLED"),
    ("QUEUED", HOLD, "HELD(OPERATOR)"),
    ("QUEUED, token LOST", RESUME, "RUNNING"),
    ("QUEUED, token LOST", COMPLETE, "DONE"),
    ("QUEUED, token LOST", FAIL, "ERROR(FAILED)"),
    ("QUEUED, token LOST", FAIL_RETRYABLE, "HELD(DELAYED)"),
    ("HELD(DELAYED), token LOST", RESUME, "RUNNING"),
    ("HELD(DELAYED), token LOST", COMPLETE, "DONE"),
    ("HELD(DELAYED), token LOST", FAIL, "ERROR(FAILED)"),
    ("HELD(DELAYED), token LOST", CANCEL, "CANCELLED"),
    ("HELD(DELAYED), token LOST", Due(), "QUEUED"),
    ("HELD(DELAYED), failed", Due(), "QUEUED"),
    ("HELD(DELAYED), not before", Due(), "QUEUED"),
    ("HELD(DELAYED), not before", CANCEL, "CANCELLED"),
    ("HELD(OPERATOR)", UNHOLD, "QUEUED"),
    ("HELD(OPERATOR)", FAIL_HELD, "ERROR(OPERATOR)"),
    ("HELD(OPERATOR)", CANCEL, "CANCELLED"),
    ("HELD(IMPORTED)", UNHOLD, "QUEUED"),
    ("HELD(IMPORTED)", FAIL_HELD, "ERROR(OPERATOR)"),
    ("HELD(IMPORTED)", CANCEL, "CANCELLED"),
    ("HELD(SPOOLER_LOST)", RESUME, "RUNNING"),
    ("HELD(SPOOLER_LOST)", COMPLETE, "DONE"),
    ("HELD(SPOOLER_LOST)", FAIL, "ERROR(FAILED)"),
    ("HELD(SPOOLER_LOST)", FAIL_HELD, "ERROR(OPERATOR)"),
    ("HELD(SPOOLER_LOST)", UNHOLD, "QUEUED"),
    ("HELD(SPOOLER_LOST)", CANCEL, "CANCELLED"),
    ("CLAIMED", ACCEPT, "RUNNING"),
    ("CLAIMED", Progress("t", stage="measuring"), "RUNNING"),
    ("CLAIMED", COMPLETE, "DONE"),
    ("CLAIMED", FAIL, "ERROR(FAILED)"),
    ("CLAIMED", FAIL_RETRYABLE, "HELD(DELAYED)"),
    ("CLAIMED", WITHDRAW, "QUEUED"),
    ("CLAIMED", RELEASE, "QUEUED"),
    ("CLAIMED", GONE, "QUEUED"),
    ("CLAIMED", CANCEL, "CANCELLED"),
    ("CLAIMED", RESUME, "CLAIMED"),
    ("RUNNING", COMPLETE, "DONE"),
    ("RUNNING", FAIL, "ERROR(FAILED)"),
    ("RUNNING", FAIL_RETRYABLE, "HELD(DELAYED)"),
    ("RUNNING, last attempt", FAIL_RETRYABLE, "ERROR(ATTEMPTS_EXHAUSTED)"),
    ("RUNNING", RELEASE, "QUEUED"),
    ("RUNNING", GONE, "HELD(DELAYED)"),
    ("RUNNING, last attempt", GONE, "HELD(SPOOLER_LOST)"),
    ("RUNNING", CANCEL, "CANCELLING(USER)"),
    ("RUNNING", Progress("t", fraction=0.5), "RUNNING"),
    ("RUNNING", RESUME, "RUNNING"),
    ("CANCELLING", COMPLETE, "DONE"),
    ("CANCELLING", CANCELLED, "CANCELLED"),
    ("CANCELLING", FAIL, "CANCELLED"),
    ("CANCELLING", RELEASE, "CANCELLED"),
    ("CANCELLING", GONE, "CANCELLED"),
    ("CANCELLING", Due(), "CANCELLED"),
    ("CANCELLING", RESUME, "CANCELLING(USER)"),
    ("CANCELLING(TIMEOUT)", COMPLETE, "DONE"),
    ("CANCELLING(TIMEOUT)", CANCELLED, "ERROR(TIMEOUT)"),
    ("CANCELLING(TIMEOUT)", FAIL, "ERROR(TIMEOUT)"),
    ("CANCELLING(TIMEOUT)", RELEASE, "ERROR(TIMEOUT)"),
    ("CANCELLING(TIMEOUT)", GONE, "ERROR(TIMEOUT)"),
    ("CANCELLING(TIMEOUT)", Due(), "ERROR(TIMEOUT)"),
    ("ERROR", RETRY, "QUEUED"),
    ("CANCELLED", RETRY, "QUEUED"),
    ("EXPIRED", RETRY, "QUEUED"),
]

NO_CHANGES: list[tuple[str, Event]] = [
    ("QUEUED", UNHOLD),
    ("QUEUED", Due()),
    ("QUEUED", GONE),
    ("HELD(OPERATOR)", HOLD),
    ("HELD(OPERATOR)", Due()),
    ("HELD(IMPORTED)", Due()),
    ("CLAIMED", SessionGone("another session")),
    ("CLAIMED", Due()),
    ("RUNNING", ACCEPT),
    ("RUNNING", Progress("t")),
    ("RUNNING", SessionGone("another session")),
    ("RUNNING", Resume("t", "session")),
    ("CANCELLING", CANCEL),
    ("CANCELLING", ACCEPT),
    ("DONE", COMPLETE),
    ("DONE", Complete("t", blob_ref("another", b"[]"))),
    ("DONE", CANCEL),
    ("DONE", GONE),
    ("DONE", Due()),
    ("ERROR", FAIL),
    ("ERROR", CANCEL),
    ("CANCELLED", CANCEL),
    ("EXPIRED", CANCEL),
]

REFUSALS: list[tuple[str, Event, str]] = [
    ("CLAIMED", CLAIM, "WRONG_STATE"),
    ("RUNNING", CLAIM, "WRONG_STATE"),
    ("HELD(OPERATOR)", CLAIM, "WRONG_STATE"),
    ("DONE", CLAIM, "WRONG_STATE"),
    ("QUEUED", ACCEPT, "LEASE_SUPERSEDED"),
    ("QUEUED", RESUME, "LEASE_SUPERSEDED"),
    ("QUEUED", COMPLETE, "LEASE_SUPERSEDED"),
    ("QUEUED", CANCELLED, "LEASE_SUPERSEDED"),
    ("QUEUED, token LOST", ACCEPT, "LEASE_SUPERSEDED"),
    ("QUEUED, token LOST", RELEASE, "LEASE_SUPERSEDED"),
    ("QUEUED, token LOST", WITHDRAW, "LEASE_SUPERSEDED"),
    ("QUEUED", UNHOLD, ""),
    ("QUEUED", FAIL_HELD, "WRONG_STATE"),
    ("QUEUED", RETRY, "WRONG_STATE"),
    ("HELD(DELAYED), failed", UNHOLD, "WRONG_STATE"),
    ("HELD(DELAYED), failed", FAIL_HELD, "WRONG_STATE"),
    ("HELD(DELAYED), failed", HOLD, "WRONG_STATE"),
    ("HELD(DELAYED), failed", COMPLETE, "LEASE_ENDED"),
    ("CLAIMED", HOLD, "WRONG_STATE"),
    ("CLAIMED", Accept("t-2"), "LEASE_SUPERSEDED"),
    ("CLAIMED", CANCELLED, "WRONG_STATE"),
    ("RUNNING", WITHDRAW, "LEASE_ENDED"),
    ("RUNNING", CANCELLED, "WRONG_STATE"),
    ("RUNNING", Complete("t-2", RESULT), "LEASE_SUPERSEDED"),
    ("RUNNING", Progress("t-2"), "LEASE_SUPERSEDED"),
    ("RUNNING", HOLD, "WRONG_STATE"),
    ("RUNNING", RETRY, "WRONG_STATE"),
    ("DONE", FAIL, "LEASE_ENDED"),
    ("DONE", RELEASE, "LEASE_ENDED"),
    ("DONE", Complete("t-2", RESULT), "LEASE_SUPERSEDED"),
    ("DONE", RETRY, "WRONG_STATE"),
    ("DONE", HOLD, "WRONG_STATE"),
    ("ERROR", COMPLETE, "LEASE_ENDED"),
    ("ERROR", RESUME, "LEASE_ENDED"),
]
REFUSALS = [row for row in REFUSALS if row[2]]


def named(state: State, reason: Reason) -> str:
    return f"{state}({reason})" if reason else state.value


@pytest.mark.parametrize(("start", "event", "end"), CHANGES, ids=lambda value: repr(value)[:40])
def test_row_of_the_table(start: str, event: Event, end: str) -> None:
    """An event that applies makes a new revision in the state that the table says."""
    job = job_in(start)

    changed = rules.decide(job, event, LATER, Policy())

    assert isinstance(changed, Job), changed
    assert named(changed.state, changed.reason) == end
    assert changed.revision == job.revision + 1
    assert changed.key == job.key


@pytest.mark.parametrize(("start", "event"), NO_CHANGES, ids=lambda value: repr(value)[:40])
def test_event_that_says_nothing_new(start: str, event: Event) -> None:
    """An event that is repeated, or is not about this job, leaves the very same document."""
    job = job_in(start)

    assert rules.decide(job, event, LATER, Policy()) is job


@pytest.mark.parametrize(("start", "event", "reason"), REFUSALS, ids=lambda value: repr(value)[:40])
def test_event_that_is_refused(start: str, event: Event, reason: str) -> None:
    """An event that does not apply is refused with a reason that names the job."""
    job = job_in(start)

    refusal = rules.decide(job, event, LATER, Policy())

    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert str(job.key) in refusal.message


@pytest.mark.parametrize("event", [COMPLETE, FAIL, FAIL_RETRYABLE, RELEASE, CANCELLED, WITHDRAW, CANCEL])
@pytest.mark.parametrize("start", ["CLAIMED", "RUNNING", "CANCELLING"])
def test_f8_repeat_takes_effect_once(start: str, event: Event) -> None:
    """Whatever ended an attempt can be reported again without another effect."""
    changed = rules.decide(job_in(start), event, LATER, Policy())
    if not isinstance(changed, Job):
        return

    again = rules.decide(changed, event, LATER, Policy())

    # A failure while cancelling ends as cancelled; its repeat learns that the attempt has ended.
    assert again is changed or (isinstance(again, Refusal) and again.reason == "LEASE_ENDED")


def test_f8_first_result_wins() -> None:
    """A second result for one token changes nothing."""
    done = job_in("DONE")

    again = rules.decide(done, Complete("t", blob_ref("other", b"[]")), LATER, Policy())

    assert isinstance(again, Job)
    assert again.result == RESULT


def test_late_result_of_a_lost_spooler_is_refused_after_the_next_claim() -> None:
    """A token that was lost ends for ever when somebody else claims the job."""
    job = after([Due(), CLAIM], replace(job_in("HELD(DELAYED), token LOST"), due_at=NOW))[-1]

    for event in (COMPLETE, FAIL, RESUME, ACCEPT):
        refusal = rules.decide(job, event, LATER, Policy())
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "LEASE_SUPERSEDED"


def test_retry_voids_all_tokens() -> None:
    """After a retry no old token can say anything, and the job starts over at the tail."""
    job = rules.decide(job_in("ERROR"), RETRY, LATER, Policy())

    assert isinstance(job, Job)
    assert (job.attempt_count, job.crashes, job.error, job.due_at) == (0, 0, None, None)
    assert job.rank == int(LATER.timestamp() * 1000)
    for event in (COMPLETE, FAIL, RESUME):
        refusal = rules.decide(job, event, LATER, Policy())
        assert isinstance(refusal, Refusal)


def test_delayed_submit_is_held_until_its_time() -> None:
    """A job with a time before which it may not start is held, and due then or when it expires."""
    delayed = submitted(not_before=moment(60))
    expiring = submitted(not_before=moment(60), expire_at=moment(30))
    past = submitted(not_before=moment(-60))

    assert (delayed.state, delayed.reason, delayed.due_at) == (State.HELD, Reason.DELAYED, moment(60))
    assert expiring.due_at == moment(30)
    assert (past.state, past.due_at) == (State.QUEUED, None)


def test_latest_start_ends_what_waits() -> None:
    """A job that did not start in time expires, wherever it waits, unless a spooler may still have it."""
    draft = {"expire_at": moment(30)}
    waiting = [
        submitted(**draft),
        submitted(**draft, not_before=moment(60)),
        after([HOLD], submitted(**draft))[-1],
        after([Claim("t", "session", "spooler"), WITHDRAW], submitted(**draft))[-1],
        after([Claim("t", "session", "spooler"), ACCEPT, GONE], submitted(**draft, max_attempts=3))[-1],
    ]

    for job in waiting:
        changed = rules.decide(job, Due(), moment(30), Policy())
        assert isinstance(changed, Job)
        assert (changed.state, changed.due_at) == (State.EXPIRED, None)
        assert rules.decide(job, Due(), moment(29), Policy()) in (job, replace(job, state=State.QUEUED)) or (
            job.reason is Reason.DELAYED
        )


def test_returned_job_keeps_its_place() -> None:
    """Withdrawn, released, delayed and lost jobs keep rank and sequence number."""
    start = submitted(priority=2)
    for events in ([WITHDRAW], [RELEASE], [ACCEPT, FAIL_RETRYABLE], [GONE]):
        job = after([Claim("t", "session", "spooler"), *events], start)[-1]
        assert (job.rank, job.seq) == (start.rank, start.seq)


def test_delays_grow_to_a_minute() -> None:
    """A job whose attempt went wrong waits 2, 4, 8 ... at most 60 seconds, or what the spooler says."""
    assert [rules.retry_delay(n).total_seconds() for n in (1, 2, 3, 5, 6, 60)] == [2, 4, 8, 32, 60, 60]
    said = rules.decide(
        job_in("RUNNING"), Fail("t", "hot", retryable=True, retry_after=timedelta(hours=1)), LATER, Policy()
    )
    assert isinstance(said, Job)
    assert said.due_at == LATER + timedelta(hours=1)


def test_run_time_limit_cancels_and_then_fails() -> None:
    """A job that runs too long is asked to stop, and is an error when its grace is over."""
    running = after([Claim("t", "session", "spooler"), ACCEPT], submitted(max_run_time=timedelta(minutes=1)))[
        -1
    ]
    assert running.due_at == running.updated_at + timedelta(minutes=1)

    stopping = rules.decide(running, Due(), LATER, Policy(cancel_grace=timedelta(seconds=7)))

    assert isinstance(stopping, Job)
    assert named(stopping.state, stopping.reason) == "CANCELLING(TIMEOUT)"
    assert stopping.due_at == LATER + timedelta(seconds=7)
    ended = rules.decide(stopping, Due(), LATER + timedelta(seconds=7), Policy())
    assert isinstance(ended, Job)
    assert ended.error is not None
    assert ended.error.reason == "TIMEOUT"


def test_poison_job_ends() -> None:
    """A job with which spooler after spooler is lost before it runs is an error in the end."""
    job, policy = submitted(), Policy(max_crashes=3)
    states = []
    for n in range(3):
        session = f"session-{n}"
        job = after([Claim(f"t{n}", session, "spooler"), SessionGone(session)], job, policy)[-1]
        states.append(named(job.state, job.reason))

    assert states == ["QUEUED", "QUEUED", "ERROR(POISON)"]


def test_f4_lost_job_is_never_stuck() -> None:
    """A job whose spooler was lost runs again, or waits for a while, or is an error: as the policy says."""
    last = job_in("RUNNING, last attempt")
    cases = {
        "again": (job_in("RUNNING"), Policy(), "HELD(DELAYED)"),
        "waits a day": (last, Policy(), "HELD(SPOOLER_LOST)"),
        "waits": (last, Policy(lost_timeout=timedelta(hours=1)), "HELD(SPOOLER_LOST)"),
        "ends": (last, Policy(lost_timeout=timedelta(0)), "ERROR(SPOOLER_LOST)"),
    }
    for job, policy, expected in cases.values():
        lost = rules.decide(job, GONE, LATER, policy)
        assert isinstance(lost, Job)
        assert named(lost.state, lost.reason) == expected
        assert lost.is_terminal or lost.due_at is not None
        assert lost.attempts[-1].outcome is Outcome.LOST

    assert rules.lost_timeout(last, Policy()) == timedelta(hours=24)
    assert rules.lost_timeout(job_in("RUNNING"), Policy()) == timedelta(0)


def test_f4_patience_with_a_lost_spooler_ends() -> None:
    """A job that waits for its lost spooler is an error when the spooler does not come back in time."""
    waiting = job_in("HELD(SPOOLER_LOST)")

    assert rules.decide(waiting, Due(), moment(3600), Policy()) is waiting
    ended = rules.decide(waiting, Due(), moment(25 * 3600), Policy())
    assert isinstance(ended, Job)
    assert named(ended.state, ended.reason) == "ERROR(SPOOLER_LOST)"


def test_f17_ended_job_has_nothing_due() -> None:
    """A job that has ended waits for nothing, and tells its end in state, times and error."""
    for name in ("DONE", "ERROR", "CANCELLED", "EXPIRED"):
        job = job_in(name)
        assert job.is_terminal
        assert job.due_at is None
        assert job.times[-1].state is job.state
        assert (job.error is not None) == (job.state is State.ERROR)
        assert (job.result is not None) == (job.state is State.DONE)


def test_f3_job_is_in_one_state_at_a_time() -> None:
    """A change is one new document: there is no moment at which a job is nowhere or twice."""
    for start, event, _ in CHANGES:
        changed = rules.decide(job_in(start), event, LATER, Policy())
        assert isinstance(changed, Job)
        assert changed.times[-1].state is changed.state


def test_releases_are_counted() -> None:
    """A release gives its attempt back, but not for ever: the next one after twenty is a failure."""
    job = submitted(max_attempts=1)
    for n in range(20):
        job = after([Claim(f"t{n}", "session", "spooler"), Accept(f"t{n}"), Release(f"t{n}")], job)[-1]
        assert (job.state, job.attempt_count) == (State.QUEUED, 0)

    job = after([Claim("last", "session", "spooler"), Accept("last"), Release("last", "tired")], job)[-1]

    assert named(job.state, job.reason) == "ERROR(ATTEMPTS_EXHAUSTED)"
    assert job.error is not None
    assert "tired" in job.error.message


def test_operators_decision_gives_one_more_attempt() -> None:
    """A job that an operator lets run again after its spooler was lost stays within its attempts."""
    job = after([UNHOLD, Claim("t-2", "session-2", "spooler"), Accept("t-2")], job_in("HELD(SPOOLER_LOST)"))[
        -1
    ]

    assert (job.state, job.attempt_count, job.max_attempts) == (State.RUNNING, 1, 1)


def test_lost_spooler_may_return_after_the_operators_decision() -> None:
    """A job that was let go, and is taken up again by its old spooler, counts that attempt once."""
    returned, released = after([UNHOLD, RESUME, RELEASE], job_in("HELD(SPOOLER_LOST)"))[-2:]

    assert (returned.state, returned.attempt_count) == (State.RUNNING, 1)
    assert (released.state, released.attempt_count) == (State.QUEUED, 0)


def test_history_is_kept_within_bounds() -> None:
    """Of a job with a long history the first transition and the newest ones are kept, and 50 attempts."""
    job = submitted()
    for n in range(120):
        job = after([Claim(f"t{n}", "session", "spooler"), Withdraw(f"t{n}")], job)[-1]

    assert len(job.attempts) == 50
    assert len(job.times) == 100
    assert job.created_at == NOW
    assert job.claim_count == 120
    assert job.attempts[-1].number == 120


def test_priority_is_worth_a_minute_a_step() -> None:
    """A step of priority passes jobs that are up to a minute older."""

    def rank(priority: int, seconds: float) -> int:
        draft = Draft(backend="b", owner="alice", content=RESULT, max_attempts=1, priority=priority)
        key = JobKey("b", "0" * 24)
        return rules.admit(draft, key=key, content=RESULT, seq=1, now=moment(seconds)).rank

    assert rank(1, 59) < rank(0, 0) < rank(1, 61)


def test_progress_is_kept_within_bounds() -> None:
    """What a spooler says about its progress is cut to its limits."""
    job = rules.decide(
        job_in("RUNNING"), Progress("t", stage="s" * 500, fraction=7.0, detail="d" * 5000), LATER, Policy()
    )

    assert isinstance(job, Job)
    assert (len(job.stage), job.fraction, len(job.detail)) == (100, 1.0, 1000)


@pytest.mark.parametrize(
    ("detached", "dead", "instance", "expected"),
    [
        (False, False, "1", (SessionState.CLOSED, "SESSION_RESUMED")),
        (False, False, "2", (SessionState.REPLACED, "SESSION_REPLACED")),
        (True, False, "2", (SessionState.CLOSED, "SESSION_REPLACED")),
        (False, True, "2", (SessionState.CLOSED, "SESSION_REPLACED")),
    ],
    ids=["same-instance", "other-instance", "detached", "said-to-be-dead"],
)
def test_new_session_supersedes(
    detached: bool, dead: bool, instance: str, expected: tuple[SessionState, str]
) -> None:
    """A session whose spooler opens a newer one is closed, or keeps its leases if it may still be alive."""
    old = Session(
        id="old",
        spooler_id="x",
        instance_id="1",
        principal="lab",
        backends=("b",),
        opened_at=NOW,
        silence_limit=timedelta(seconds=60),
        detached=detached,
    )

    changed = rules.supersede(old, replace(old, id="new", instance_id=instance), predecessor_dead=dead)

    assert (changed.state, changed.reason) == expected
