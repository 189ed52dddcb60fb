"""A job's status in the words of the readers in use: four strings, and our finer state beside them.

They know only INITIALIZING, QUEUED, DONE and ERROR, and ignore keys that they don't know.
"""

from spoolway_providers.model import Job, Reason, State, Transition

__all__ = ["status_document"]

_FIRST_WORDS = "Got your json."
_NO_ERROR = "None"
"""Readers expect a string."""

_STATUS = {State.DONE: "DONE", State.ERROR: "ERROR", State.CANCELLED: "ERROR", State.EXPIRED: "ERROR"}

_WORDS = {
    State.QUEUED: "; Back in the queue.",
    State.CLAIMED: "",
    State.RUNNING: "; Passed json sanity check; Compilation done. Shots sent to solver.",
    State.DONE: "",
    State.CANCELLED: "; Cancelled.",
    State.EXPIRED: "; Its latest start has passed.",
}
_WAITING_WORDS = {
    Reason.DELAYED: "; Waits for its time.",
    Reason.OPERATOR: "; Held by an operator.",
    Reason.IMPORTED: "; Imported while running, waits for an operator.",
    Reason.SPOOLER_LOST: "; The spooler was lost, waits for its return.",
}
_CANCELLING_WORDS = {
    Reason.USER: "; Asked to stop.",
    Reason.TIMEOUT: "; Ran too long, asked to stop.",
}


def status_document(job: Job) -> dict[str, str]:
    """The status of `job`: job_id, status, detail, error_message (`"None"` if none), and `state`.

    `detail` grows as the job goes. `status` is INITIALIZING in the answer to the submit only; every
    state that is not terminal then reads QUEUED, and CANCELLED and EXPIRED read ERROR.
    """
    waiting = "INITIALIZING" if job.revision == 1 else "QUEUED"
    return {
        "job_id": job.key.id,
        "status": _STATUS.get(job.state, waiting),
        "detail": _FIRST_WORDS + "".join(_words(job, moment) for moment in job.times[1:]),
        "error_message": _error_message(job),
        "state": job.state.value,
    }


def _words(job: Job, moment: Transition) -> str:
    match moment.state:
        case State.HELD:
            return _WAITING_WORDS.get(moment.reason, "; Held.")
        case State.CANCELLING:
            return _CANCELLING_WORDS.get(moment.reason, "; Asked to stop.")
        case State.ERROR:
            return _error_words(job, moment)
        case _:
            return _WORDS[moment.state]


def _error_words(job: Job, moment: Transition) -> str:
    if moment is not job.times[-1] or job.error is None:
        return "; Failed, and was sent to run again."
    checked = (
        "Failed json sanity check. File will be deleted." if moment.reason is Reason.FAILED else "Failed."
    )
    return f"; {checked} Error message : {job.error.message}"


def _error_message(job: Job) -> str:
    match job.state:
        case State.ERROR:
            return job.error.message if job.error else "the job failed, and nobody said why"
        case State.CANCELLED:
            return "the job was cancelled"
        case State.EXPIRED:
            return "the job did not start in time"
        case _:
            return _NO_ERROR
