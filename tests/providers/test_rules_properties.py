"""What holds for a job whatever happens to it, in whatever order."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spoolway_providers import rules
from spoolway_providers.digests import blob_ref
from spoolway_providers.model import ACTIVE_STATES, TERMINAL_STATES, Job, Outcome, Policy, Reason, State
from tests.providers.ways import NOW, moment, submitted

Draw = Callable[..., Any]
Happening = Callable[[Job], rules.Event]

numbers = st.integers(0, 3)
"""Which of the newest attempts speaks: 0 is the newest."""


def by_token(make: Callable[[str], rules.Event]) -> st.SearchStrategy[Happening]:
    """An event of one of the job's attempts, or with a token that nobody has."""

    def choose(back: int) -> Happening:
        def happen(job: Job) -> rules.Event:
            tokens = ["nobody's", *(attempt.token for attempt in job.attempts)]
            return make(tokens[-1 - back] if back < len(tokens) else tokens[0])

        return happen

    return numbers.map(choose)


def plain(event: rules.Event) -> st.SearchStrategy[Happening]:
    return st.just(lambda job: event)


def claim(job: Job) -> rules.Event:
    number = job.claim_count + 1
    return rules.Claim(f"token-{number}", f"session-{number % 3}", "spooler")


happenings = st.one_of(
    st.just(claim),
    st.just(claim),
    by_token(rules.Accept),
    by_token(rules.Accept),
    by_token(lambda token: rules.Progress(token, stage="measuring", fraction=0.5)),
    by_token(lambda token: rules.Complete(token, blob_ref(token, token.encode()))),
    by_token(lambda token: rules.Fail(token, "noise")),
    by_token(lambda token: rules.Fail(token, "noise", retryable=True)),
    by_token(rules.Release),
    by_token(rules.Withdraw),
    by_token(rules.Cancelled),
    by_token(lambda token: rules.Resume(token, "session-9")),
    numbers.map(lambda n: lambda job: rules.SessionGone(f"session-{n}")),
    plain(rules.SessionGone("session-9")),
    plain(rules.Cancel("alice")),
    plain(rules.Due()),
    plain(rules.Due()),
    plain(rules.Hold("operator")),
    plain(rules.Unhold("operator")),
    plain(rules.FailHeld("operator", "broken")),
    plain(rules.Retry("alice")),
)

drafts = st.fixed_dictionaries(
    {
        "max_attempts": st.integers(1, 3),
        "max_run_time": st.none() | st.just(timedelta(seconds=30)),
        "expire_at": st.none() | st.just(moment(200)),
        "not_before": st.none() | st.just(moment(20)),
    }
)
policies = st.builds(
    Policy,
    max_crashes=st.integers(1, 3),
    lost_timeout=st.none() | st.just(timedelta(0)) | st.just(timedelta(seconds=60)),
)
steps = st.lists(st.tuples(happenings, st.sampled_from([0, 1, 10, 70])), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(draft=drafts, policy=policies, steps=steps)
def test_job_stays_sound(draft: dict[str, Any], policy: Policy, steps: list[tuple[Happening, int]]) -> None:
    """Every step leads from one sound document to the next, or changes nothing."""
    job, now = submitted(**draft), NOW
    assert_sound(job)
    for happening, seconds in steps:
        now += timedelta(seconds=seconds)
        event = happening(job)
        changed = rules.decide(job, event, now, policy)
        if isinstance(changed, rules.Refusal):
            assert changed.reason in {"LEASE_SUPERSEDED", "LEASE_ENDED", "WRONG_STATE"}
            continue
        if changed is not job:
            assert_step(job, event, changed)
            assert_sound(changed)
        job = changed


def assert_step(job: Job, event: rules.Event, changed: Job) -> None:
    """What a step may change, and how."""
    assert changed != job
    assert changed.revision == job.revision + 1
    assert (changed.key, changed.owner, changed.seq) == (job.key, job.owner, job.seq)
    assert (changed.content, changed.request_id, changed.labels) == (job.content, job.request_id, job.labels)
    assert changed.created_at == job.created_at
    assert changed.claim_count >= job.claim_count
    if isinstance(event, rules.Retry):
        assert all(attempt.token == "" for attempt in changed.attempts)
        return
    # Only a retry leads out of an end, changes the place in the queue, or takes away a result (F8, F17).
    assert job.state not in TERMINAL_STATES
    assert changed.rank == job.rank
    assert job.result is None
    assert_attempts_only_end(job, changed)


def assert_attempts_only_end(job: Job, changed: Job) -> None:
    """An attempt that has ended stays as it ended; only the last LOST one may be taken up again."""
    later = {attempt.number: attempt for attempt in changed.attempts}
    for attempt in job.attempts:
        if attempt.number not in later or attempt.outcome is Outcome.OPEN:
            continue
        is_last = attempt is job.attempts[-1]
        assert later[attempt.number] == attempt or (attempt.outcome is Outcome.LOST and is_last)


def assert_sound(job: Job) -> None:
    """What every document must say."""
    opened = [attempt for attempt in job.attempts if attempt.outcome is Outcome.OPEN]
    assert opened in ([], [job.attempts[-1]] if job.attempts else [])
    assert bool(opened) == (job.state in ACTIVE_STATES)
    assert len(job.attempts) <= 50
    assert len(job.times) <= 100
    assert job.times[-1].state is job.state
    assert job.times[-1].reason is job.reason
    assert (job.result is not None) == (job.state is State.DONE)
    assert (job.error is not None) == (job.state is State.ERROR)
    assert job.attempt_count >= 0
    assert job.state is not State.RUNNING or 1 <= job.attempt_count <= job.max_attempts
    assert 0.0 <= job.fraction <= 1.0
    assert (job.due_at is not None) == must_be_due(job)


def must_be_due(job: Job) -> bool:
    """Whether something must happen to the job by itself one day (F4: nothing waits for ever unseen)."""
    match job.state, job.reason:
        case (State.QUEUED, _) | (State.HELD, Reason.OPERATOR):
            return job.expire_at is not None
        case (State.HELD, Reason.DELAYED | Reason.SPOOLER_LOST) | (State.CANCELLING, _):
            return True
        case (State.RUNNING, _):
            return job.max_run_time is not None
        case _:
            return False
