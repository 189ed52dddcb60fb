"""A job's status in the words of the readers in use."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import pytest

from spoolway_providers import rules
from spoolway_providers.model import Job, Policy, Reason, State
from spoolway_providers.status import status_document
from tests.providers.ways import ACCEPT, CLAIM, NOW, RESULT, after, submitted

ACCEPTED_WORDS = {"INITIALIZING", "QUEUED", "DONE", "ERROR"}

WAYS: dict[str, tuple[Sequence[rules.Event], State, str]] = {
    "queued": ([], State.QUEUED, "INITIALIZING"),
    "held": ([rules.Hold("operator")], State.HELD, "QUEUED"),
    "let-go": ([rules.Hold("operator"), rules.Unhold("operator")], State.QUEUED, "QUEUED"),
    "claimed": ([CLAIM], State.CLAIMED, "QUEUED"),
    "running": ([CLAIM, ACCEPT], State.RUNNING, "QUEUED"),
    "cancelling": ([CLAIM, ACCEPT, rules.Cancel("alice")], State.CANCELLING, "QUEUED"),
    "done": ([CLAIM, ACCEPT, rules.Complete("t", RESULT)], State.DONE, "DONE"),
    "done-at-once": ([CLAIM, rules.Complete("t", RESULT)], State.DONE, "DONE"),
    "failed": ([CLAIM, ACCEPT, rules.Fail("t", "no vacuum")], State.ERROR, "ERROR"),
    "retried": ([CLAIM, ACCEPT, rules.Fail("t", "no vacuum"), rules.Retry("alice")], State.QUEUED, "QUEUED"),
    "cancelled": ([rules.Cancel("alice")], State.CANCELLED, "ERROR"),
    "lost": ([CLAIM, ACCEPT, rules.SessionGone("session")], State.HELD, "QUEUED"),
}


@pytest.mark.parametrize(("events", "state", "status"), WAYS.values(), ids=WAYS.keys())
def test_f7_f17_every_state_has_its_word(events: Sequence[rules.Event], state: State, status: str) -> None:
    """Each state reads as the word that today's readers expect, with our own beside it."""
    job = after(events)[-1]

    document = status_document(job)

    assert job.state is state
    assert (document["status"], document["state"]) == (status, state.value)
    assert document["job_id"] == "0" * 24
    assert set(document) == {"job_id", "status", "detail", "error_message", "state"}
    assert all(isinstance(text, str) for text in document.values())


def test_all_states_are_covered() -> None:
    """The table above leaves out no state but EXPIRED, which has a test of its own."""
    assert {state for _, state, _ in WAYS.values()} | {State.EXPIRED} == set(State)


def test_first_status_is_todays() -> None:
    """The answer to a submit reads as it does today."""
    assert status_document(submitted()) == {
        "job_id": "0" * 24,
        "status": "INITIALIZING",
        "detail": "Got your json.",
        "error_message": "None",
        "state": "QUEUED",
    }


def test_done_reads_as_today() -> None:
    """The status of a job that went well has today's words, and no error."""
    document = status_document(after(WAYS["done"][0])[-1])

    assert document["detail"] == (
        "Got your json.; Passed json sanity check; Compilation done. Shots sent to solver."
    )
    assert document["error_message"] == "None"


def test_failure_reads_as_today() -> None:
    """The status of a job that failed has today's words with the reason."""
    document = status_document(after(WAYS["failed"][0])[-1])

    assert document["detail"].endswith(
        "; Failed json sanity check. File will be deleted. Error message : no vacuum"
    )
    assert document["error_message"] == "no vacuum"


def test_expired_job_reads_as_an_error() -> None:
    """A job whose latest start has passed is ERROR for today's readers, with the reason."""
    expired = rules.decide(submitted(expire_at=NOW), rules.Due(), NOW, Policy())

    assert isinstance(expired, Job)
    document = status_document(expired)
    assert (document["status"], document["state"]) == ("ERROR", "EXPIRED")
    assert document["error_message"] == "the job did not start in time"


@pytest.mark.parametrize("way", [name for name in WAYS if name != "retried"])
def test_f7_detail_only_grows(way: str) -> None:
    """Each status begins with the detail of the one before, and never runs backwards."""
    documents = [status_document(job) for job in after(WAYS[way][0])]

    for earlier, later in pairwise(documents):
        assert later["detail"].startswith(earlier["detail"])
        assert later["status"] != "INITIALIZING"
        assert earlier["status"] not in {"DONE", "ERROR"}


@pytest.mark.parametrize(
    ("policy", "max_attempts", "reason"),
    [
        (Policy(max_crashes=1), 3, Reason.POISON),
        (Policy(lost_timeout=timedelta(0)), 1, Reason.SPOOLER_LOST),
    ],
)
def test_lost_job_tells_why(policy: Policy, max_attempts: int, reason: Reason) -> None:
    """A job that ended because its spooler was lost does not claim that its JSON was bad."""
    events = [CLAIM] if reason is Reason.POISON else [CLAIM, ACCEPT]
    job = after(events, submitted(max_attempts=max_attempts))[-1]
    lost = rules.decide(job, rules.SessionGone("session"), NOW, policy)

    assert isinstance(lost, Job)
    assert lost.reason is reason
    document = status_document(lost)
    assert "json sanity check. File" not in document["detail"]
    assert "lost" in document["error_message"]


def test_words_are_those_that_readers_accept() -> None:
    """No status has a word that today's readers would refuse."""
    assert {status_document(after(events)[-1])["status"] for events, _, _ in WAYS.values()} == ACCEPTED_WORDS
