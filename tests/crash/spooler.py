"""A spooler of a round: the client package's own, which notes each run, and each moment of its leases."""

import asyncio
import os
import signal
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from spoolway import JobError, RetryLater, RunningJob, Spooler, channel
from spoolway.leases import LeaseClock
from spoolway.session import Session
from spoolway.timing import Timing
from tests.crash.journal import Journal
from tests.crash.plan import BACKEND

__all__ = ["CONCURRENCY", "TIMING", "note_leases", "run_spooler", "shorten_reconnects"]

CONCURRENCY = 2
TIMING = Timing(
    connect_s=2.0,
    welcome_s=1.5,
    silence_margin_s=0.5,
    close_s=0.3,
    confirm_s=1.0,
    unary_after_s=0.4,
    unary_poll_s=0.1,
    unary_timeout_s=2.0,
    progress_s=0.1,
    drain_s=1.0,
    stop_s=0.5,
    reconnect_first_s=0.05,
    reconnect_longest_s=0.4,
    settled_s=1.0,
    resend_first_s=0.05,
    resend_longest_s=0.4,
)
SLOW_S = 1.5
"""Of a `slow` job: longer than a lease."""
LOOK_S = 0.02


def shorten_reconnects() -> None:
    """Let gRPC look for a server that is back more often than its five seconds."""
    make_options = channel.channel_options

    def options(address: str, **given: bool) -> list[tuple[str, Any]]:
        return [*make_options(address, **given), ("grpc.max_reconnect_backoff_ms", 300)]

    channel.channel_options = options


def run_spooler(who: str, journal: Journal, arguments: Mapping[str, Any]) -> None:
    """Spool until killed, or told to stop."""
    shorten_reconnects()
    note_leases(journal)
    name = who.partition(".")[0]
    spooler = Spooler(
        name,
        backend=arguments.get("backend", BACKEND),
        config={"version": "1.0.0"},
        run=make_run(journal),
        concurrency=arguments.get("concurrency", CONCURRENCY),
        address=arguments["address"],
        user="robot",
        # One of them runs under a service manager, as it were.
        predecessor_dead=name == "spooler-1",
    )
    spooler._timing = TIMING
    spooler.run()
    journal.note("ended")


def make_run(journal: Journal) -> Any:
    """The run function; it notes when it begins and ends, and does what the job's kind says."""

    async def run(job: RunningJob) -> dict[str, Any]:
        token = job._token
        journal.note("run", job=job.name, token=token, attempts_before=job.attempts_before)
        how = "cut off"
        try:
            result = await _do(job, token, journal)
            how = "done"
            return {**result, "token": token, "request": job.content["request"]}
        except (JobError, RetryLater):
            how = "failed"
            raise
        finally:
            journal.note("run ended", job=job.name, token=token, how=how)

    return run


async def _do(job: RunningJob, token: str, journal: Journal) -> dict[str, Any]:
    kind, run_s = job.content["kind"], job.content["run_s"]
    is_first = job.attempts_before == 0
    match kind:
        case "slow":
            await asyncio.sleep(SLOW_S)
        case "fail":
            raise JobError("it can't be done")
        case "retry" if is_first:
            raise RetryLater("not yet", after=timedelta(seconds=0.1))
        case "crash" if is_first:
            journal.note("killed at", job=job.name, token=token, step="its job kills it")
            os.kill(os.getpid(), signal.SIGKILL)
        case "overtime" | "cancel running":
            await _until_cancelled(job)
            raise JobError("stopped")
        case "deaf":
            await _until_cancelled(job)
        case _:
            await asyncio.sleep(run_s)
    return {"kind": kind}


async def _until_cancelled(job: RunningJob) -> None:
    while not job.cancelled:  # noqa: ASYNC110 - all that a run function is given
        await asyncio.sleep(LOOK_S)


def note_leases(journal: Journal) -> None:
    """Note until when the leases of this process are sure, and each one that is taken from it."""
    Waiting.journal = journal
    for cls, name, wrapper in (
        (LeaseClock, "start", _noting_sureness),
        (LeaseClock, "renew", _noting_sureness),
        (Session, "_revoke", _noting_revocation),
        (Session, "welcomed", _noting_afterwards),
    ):
        setattr(cls, name, wrapper(getattr(cls, name)))


class Waiting:
    """A welcome says at once that the leases are sure and which ones are gone: the second is noted first."""

    journal: Journal
    is_welcome = False
    leases: LeaseClock | None = None

    @classmethod
    def note(cls, leases: LeaseClock) -> None:
        if cls.is_welcome:
            cls.leases = leases
        else:
            cls.journal.note("sure", until=leases.run_out_at)


def _noting_sureness(original: Any) -> Any:
    def changed(leases: LeaseClock, *arguments: Any) -> None:
        original(leases, *arguments)
        Waiting.note(leases)

    return changed


def _noting_revocation(original: Any) -> Any:
    def revoke(session: Session, token: str, reason: str) -> None:
        Waiting.journal.note("revoked", token=token, reason=reason)
        original(session, token, reason)

    return revoke


def _noting_afterwards(original: Any) -> Any:
    def welcomed(session: Session, *arguments: Any) -> None:
        Waiting.is_welcome = True
        try:
            original(session, *arguments)
        finally:
            Waiting.is_welcome = False
        if Waiting.leases is not None:
            Waiting.note(Waiting.leases)

    return welcomed
