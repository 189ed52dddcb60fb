"""The spooler's side of the contract (R1-R15): what to send, given what came. It never waits.

All methods are called in the event loop. Time comes from the clock that is passed in; what is due later is
done by `tick`, which the stream calls when the last answer of `tick` says so, or when `poke` is set.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spoolway.agenda import Agenda
from spoolway.channel import MAX_RECEIVE_BYTES
from spoolway.errors import (
    DataLossError,
    InvalidArgumentError,
    ResourceExhaustedError,
    SpoolwayError,
    UnauthenticatedError,
    error_from_item,
    is_transient,
)
from spoolway.held import HeldJob, Phase, SpooledBackend
from spoolway.leases import LeaseClock
from spoolway.outbox import Outbox
from spoolway.reports import Report, Reports, Unconfirmed
from spoolway.runner import Runner
from spoolway.running import RunningJob, backend_of
from spoolway.submission import MAX_INLINE_BYTES
from spoolway.timing import Backoff, Timing
from spoolway.transfer import Transfer
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["Identity", "Session"]

_PROTOCOL = 1
_BEATS_PER_LEASE = 3
"""While jobs are held, at least: two beats may be lost before the leases are unsure."""
_HEARTBEAT_S = 10.0
"""Where the server does not say."""
_SHORTEST_HEARTBEAT_S = 0.05
_BAD_RESULT = (InvalidArgumentError, ResourceExhaustedError, DataLossError)

_log = logging.getLogger("spoolway.spooler")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this spooler is."""

    spooler_id: str
    """Stable over restarts."""
    instance_id: str
    """New at each start."""
    sdk: str
    """Name and version of this package."""
    predecessor_dead: bool = False
    """The earlier process of this name is surely dead."""


class Session:
    """What a spooler holds and says, over any number of streams.

    Attributes:
        outbox: What the stream has to write.
        leases: How sure the leases are.
        runner: Runs the functions.
        poke: Set when `tick` must be called earlier than it said.
        finished: Set once draining or stopping with nothing left to report.
        lost: Set while there is no stream that was welcomed.
        lost_at: When the last one was lost.
        late: Results of leases that are gone, each to be delivered once: a finished run must not vanish.
    """

    def __init__(
        self,
        identity: Identity,
        backends: Iterable[SpooledBackend],
        *,
        transfer: Transfer,
        timing: Timing,
        now: Callable[[], float],
        max_jobs: int | None = None,
    ) -> None:
        """Begin without a stream; hold at most `max_jobs` jobs at once, whatever backends they are of."""
        self._identity = identity
        self._backends = {backend.name: backend for backend in backends}
        self._timing = timing
        self._now = now
        self._max_jobs = max_jobs
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox()
        self.leases = LeaseClock(now)
        threads = sum(backend.concurrency for backend in self._backends.values())
        if max_jobs is not None:
            threads = min(threads, max_jobs)
        self.runner = Runner(threads, transfer, self.function_ended)
        self.poke = asyncio.Event()
        self.finished = asyncio.Event()
        self.late: asyncio.Queue[pb.LeaseUpdate] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.lost.set()
        self.lost_at = now()
        self._held: dict[str, HeldJob] = {}
        self._reports = Reports(self.outbox)
        self._agenda = Agenda()
        self._told_interval_s = _HEARTBEAT_S
        self._last_beat_at = now()
        self._next_tick = float("inf")
        self._was_unsure = False
        self._was_welcomed = False
        self._is_leaving = False
        self._is_draining = False
        self._is_stopping = False
        self._drain_sequence: int | None = None

    @property
    def held_count(self) -> int:
        """Jobs in hand, without revoked ones."""
        return len(self._held)

    @property
    def interval_s(self) -> float:
        """How often a beat is sent now: as the server says, and often enough for the leases."""
        interval_s = self._told_interval_s
        if self._held:
            interval_s = min(interval_s, self.leases.ttl_s / _BEATS_PER_LEASE)
        return max(interval_s, _SHORTEST_HEARTBEAT_S)

    # The life of a stream.

    def hello(self) -> pb.Hello:
        """The first message of a stream."""
        return pb.Hello(
            spooler_id=self._identity.spooler_id,
            instance_id=self._identity.instance_id,
            protocol=_PROTOCOL,
            backends=self._backends,
            max_message_bytes=MAX_RECEIVE_BYTES,
            held=[pb.HeldLease(job=held.job.name, lease_token=held.token) for held in self._held.values()],
            sdk=self._identity.sdk,
            # After the first welcome the predecessor would be this process itself.
            predecessor_dead=self._identity.predecessor_dead and not self._was_welcomed,
        )

    def welcomed(self, welcome: pb.Welcome, hello_sent_at: float) -> None:
        """The server has answered: go on with what it keeps, stop what it revokes."""
        self.leases.start(hello_sent_at, welcome.lease_ttl.ToTimedelta().total_seconds())
        self._told_interval_s = welcome.heartbeat_interval.ToTimedelta().total_seconds() or _HEARTBEAT_S
        self._last_beat_at = hello_sent_at
        self._was_unsure = False
        self._was_welcomed = True
        self.runner.max_inline_bytes = welcome.max_inline_bytes or MAX_INLINE_BYTES
        self._revoke_all(welcome)
        self.lost.clear()
        self._reports.open()
        for held in list(self._held.values()):
            self._resume(held)
        if self._is_draining:
            self._send_drain()
        else:
            self._send_credits()

    def receive(self, message: pb.StreamNextJobsResponse) -> None:
        """A message of the server after welcome, except goaway."""
        match message.WhichOneof("message"):
            case "assign":
                for assignment in message.assign.jobs:
                    self._assigned(assignment)
            case "confirms":
                for confirm in message.confirms.confirms:
                    self._confirmed(confirm)
            case "beat":
                self._beat_acked(message.beat)
            case "cancel":
                self._cancel(message.cancel)
            case "revoke":
                self._revoke(message.revoke.lease_token, message.revoke.reason)
            case other:
                # A newer server may say more; what it says by these rules stays understood.
                _log.debug("the server sent %s, which is unknown here", other)

    def leave(self) -> None:
        """The server said goaway: send what waits, close our side, take nothing more from this stream."""
        self._is_leaving = True
        self.outbox.close()
        self.poke.set()

    def disconnected(self) -> None:
        """The stream has ended. What was not confirmed is sent again after the next welcome."""
        if not self.lost.is_set():
            self.lost_at = self._now()
            self.lost.set()
        self._reports.close()
        self.outbox.reset()
        self._agenda.clear()
        self._is_leaving = False
        self._drain_sequence = None
        self._check_finished()

    def tick(self) -> float:
        """Do what is due. Returns when to come again, by the session's clock."""
        now = self._now()
        if now >= self._last_beat_at + self.interval_s:
            self._beat(now)
        self._agenda.run(now)
        self._note_sureness()
        due = min(self._last_beat_at + self.interval_s, self._agenda.next_due)
        if self._held and self.leases.run_out_at > now:
            due = min(due, self.leases.run_out_at)
        self._next_tick = due
        return due

    # The end of the work.

    def drain(self) -> None:
        """Take no more jobs; `finished` is set once the ends of those in hand are confirmed."""
        if self._is_draining:
            return
        self._is_draining = True
        if self._reports.is_open:
            self._send_drain()
        self._check_finished()

    def stop(self) -> None:
        """Give back what has not started, interrupt async functions, abandon the plain ones."""
        self.drain()
        self._is_stopping = True
        self._give_back_unstarted("the spooler was stopped")
        self.runner.stop()
        self._check_finished()

    def replaced(self) -> None:
        """This instance may not come back: start nothing, finish what runs."""
        self._is_draining = True
        self._give_back_unstarted("the spooler was replaced")
        self._check_finished()

    # Ends on other ways than the stream.

    def ends(self) -> list[HeldJob]:
        """Jobs whose end is not confirmed yet."""
        return [held for held in self._held.values() if held.phase is Phase.ENDING]

    def end_delivered(self, held: HeldJob) -> None:
        """The job's end is durable."""
        self._forget(held)

    def end_refused(self, held: HeldJob, error: SpoolwayError) -> None:
        """The job's end was refused for good: a bad result becomes a failure, anything else is dropped."""
        if held.token not in self._held or held.end is None:
            return
        if isinstance(error, _BAD_RESULT) and held.end.HasField("complete"):
            held.end = held.report()
            held.end.fail.message = f"The server refused the result: {error}"
            self._reports.send(held, Report.END, self._now())
            return
        _log.warning("%s: its end was refused and is dropped: %s", held.job.name, error)
        self._forget(held)

    def function_ended(self, held: HeldJob, end: pb.LeaseUpdate) -> None:
        """The job's run function has returned or raised; `end` says how."""
        held.backend.busy -= 1
        if held.phase is Phase.REVOKED:
            held.backend.revoked -= 1
            self._deliver_late(end)
            self._send_credits()
            return
        held.phase = Phase.ENDING
        held.end = end
        self._reports.send(held, Report.END, self._now())

    # Messages of the server.

    def _assigned(self, assignment: pb.Assignment) -> None:
        if self._is_leaving:
            return  # not listed in the next hello, so it returns at once
        backend = self._backends.get(backend_of(assignment.job))
        if backend is None or self._refuses(backend):
            self._reports.release(assignment.job, assignment.lease_token, "no place for it here")
            return
        held = HeldJob(
            token=assignment.lease_token,
            job=RunningJob(assignment, self.leases, self._notify),
            backend=backend,
            resends=Backoff(self._timing.resend_first_s, self._timing.resend_longest_s),
        )
        backend.busy += 1
        self._held[held.token] = held
        self._tick_by(self._last_beat_at + self.interval_s)  # beats are more frequent now
        self._reports.send(held, Report.ACCEPT, self._now())

    def _refuses(self, backend: SpooledBackend) -> bool:
        if self._is_draining or backend.busy >= backend.concurrency or self._are_leases_unsure():
            return True
        busy = sum(backend.busy for backend in self._backends.values())
        return self._max_jobs is not None and busy >= self._max_jobs

    def _are_leases_unsure(self) -> bool:
        """Whether there are leases, and they are unsure.

        The clock of an idle session may have run out long ago; its first accepted job starts it anew.
        """
        return self.leases.is_unsure and any(
            held.phase is not Phase.ACCEPTING for held in self._held.values()
        )

    def _confirmed(self, confirm: pb.Confirm) -> None:
        if confirm.sequence == self._drain_sequence:
            self._drain_sequence = None
            self._check_finished()
            return
        sent = self._reports.confirmed(confirm.sequence)
        if sent is None or sent.held.token not in self._held:
            return  # progress, or no longer ours
        if not confirm.HasField("error"):
            self._durable(sent)
            return
        error = error_from_item(confirm.error.code, confirm.error.message, confirm.error.reason)
        if is_transient(error) or isinstance(error, UnauthenticatedError):
            due = self._now() + sent.held.resends.next_s()
            self._later(due, lambda: self._resend(sent.held, sent.kind))
        elif sent.kind is Report.END:
            self.end_refused(sent.held, error)
        elif sent.held.phase is Phase.ACCEPTING:
            _log.info("%s: not ours any more: %s", sent.held.job.name, error)
            self._drop_unstarted(sent.held)

    def _durable(self, sent: Unconfirmed) -> None:
        held = sent.held
        held.resends.reset()
        if sent.kind is Report.END:
            self._forget(held)
        elif held.phase is Phase.ACCEPTING:
            if self.leases.is_unsure and not self._are_leases_unsure():
                # The first job of an idle session: that its accept was taken proves that the session lives.
                self.leases.renew(sent.sent_at)
            self._start(held)

    def _beat_acked(self, beat: pb.ServerBeat) -> None:
        self.leases.beat_acked(beat.acked_sequence)
        if beat.HasField("heartbeat_interval"):
            self._told_interval_s = beat.heartbeat_interval.ToTimedelta().total_seconds() or _HEARTBEAT_S
        self._note_sureness()
        self._tick_by(self._last_beat_at + self.interval_s)

    def _cancel(self, cancel: pb.Cancel) -> None:
        held = self._held.get(cancel.lease_token)
        if held is None or held.phase is Phase.ENDING:
            return
        _log.info("%s: to be cancelled (%s)", held.job.name, job_pb2.StateReason.Name(cancel.reason))
        held.job._cancel()
        if held.phase is Phase.WAITING:
            self._start(held)

    def _revoke(self, token: str, reason: str) -> None:
        held = self._held.get(token)
        if held is None:
            return
        if held.phase in {Phase.ACCEPTING, Phase.WAITING}:
            self._drop_unstarted(held)
            return
        _log.warning("%s: its lease is gone (%s); its result will not count", held.job.name, reason)
        held.job._cancel()
        if held.phase is Phase.RUNNING:
            # The function can't be interrupted: its place stays taken until it returns.
            held.phase = Phase.REVOKED
            held.backend.revoked += 1
            self._send_credits()
        elif held.end is not None:
            self._deliver_late(held.end)
        self._forget(held)

    def _deliver_late(self, end: pb.LeaseUpdate) -> None:
        """A result of a lease that is gone: the server may keep it aside, for people to find."""
        if end.HasField("complete"):
            self.late.put_nowait(end)

    def _revoke_all(self, welcome: pb.Welcome) -> None:
        for revoke in welcome.revoked:
            self._revoke(revoke.lease_token, revoke.reason)
        kept = set(welcome.kept)
        for held in list(self._held.values()):
            if held.job.name not in kept:
                self._revoke(held.token, "it was not kept")

    # Jobs in hand.

    def _start(self, held: HeldJob) -> None:
        """Run an accepted job, unless it is cancelled already or the leases are unsure."""
        if held.job.cancelled:
            end = held.report()
            end.cancelled.SetInParent()
            self.function_ended(held, end)
        elif self.leases.is_unsure:
            held.phase = Phase.WAITING
        else:
            held.phase = Phase.RUNNING
            self.runner.start(held)

    def _resume(self, held: HeldJob) -> None:
        """Go on after a new welcome. An accept is confirmed once more: whether it came through is unknown."""
        match held.phase:
            case Phase.ACCEPTING:
                self._reports.send(held, Report.ACCEPT, self._now())
            case Phase.WAITING:
                self._start(held)
            case Phase.RUNNING:
                self._send_progress(held)
            case Phase.ENDING:
                self._reports.send(held, Report.END, self._now())

    def _drop_unstarted(self, held: HeldJob) -> None:
        held.backend.busy -= 1
        self._forget(held)

    def _give_back_unstarted(self, reason: str) -> None:
        for held in list(self._held.values()):
            if held.phase in {Phase.ACCEPTING, Phase.WAITING}:
                self._reports.release(held.job.name, held.token, reason)
                self._drop_unstarted(held)

    def _forget(self, held: HeldJob) -> None:
        self._held.pop(held.token, None)
        self._check_finished()

    def _check_finished(self) -> None:
        if not self._is_draining or self.finished.is_set():
            return
        if any(self._is_waited_for(held) for held in self._held.values()):
            return
        if self._drain_sequence is not None:
            return  # set while a drain is not confirmed
        self.finished.set()
        self.outbox.close()
        self.poke.set()

    def _is_waited_for(self, held: HeldJob) -> bool:
        return not self._is_stopping or held.phase is Phase.ENDING or held.backend.is_async

    # Sending.

    def _resend(self, held: HeldJob, kind: Report) -> None:
        phase = Phase.ENDING if kind is Report.END else Phase.ACCEPTING
        if held.token in self._held and held.phase is phase:
            self._reports.send(held, kind, self._now())

    def _beat(self, now: float) -> None:
        self._last_beat_at = now
        # Counted from before it is written: sooner is safe, later is not.
        self.leases.beat_sent(self._reports.beat(), now)
        # A lost confirm must not keep a place for ever.
        for report in self._reports.take_overdue(now - self._timing.confirm_s):
            self._resend(report.held, report.kind)

    def _note_sureness(self) -> None:
        """Stop taking jobs while the leases are unsure; go on when they are sure again."""
        is_unsure = self._are_leases_unsure()
        if is_unsure == self._was_unsure:
            return
        self._was_unsure = is_unsure
        if is_unsure:
            _log.warning("no answer to beats: the leases of %d jobs are unsure", len(self._held))
        else:
            for held in list(self._held.values()):
                if held.phase is Phase.WAITING:
                    self._start(held)
        self._send_credits()

    def _send_credits(self) -> None:
        if self._is_draining:
            return
        if self._max_jobs is not None:
            # First, so that no job comes by a backend's credit that the whole has no place for.
            revoked = sum(backend.revoked for backend in self._backends.values())
            self._reports.credit("", 0 if self._was_unsure else max(0, self._max_jobs - revoked))
        for backend in self._backends.values():
            self._reports.credit(backend.name, 0 if self._was_unsure else backend.credit)

    def _send_drain(self) -> None:
        self._drain_sequence = self._reports.drain()
        self._later(self._now() + self._timing.drain_s, self._drain_overdue)

    def _drain_overdue(self) -> None:
        self._drain_sequence = None
        self._check_finished()

    def _later(self, due: float, action: Callable[[], None]) -> None:
        self._agenda.add(due, action)
        self._tick_by(due)

    def _tick_by(self, due: float) -> None:
        if due < self._next_tick:
            self._next_tick = due
            self.poke.set()

    # Progress.

    def _notify(self, token: str) -> None:
        """Called by run functions, in any thread."""
        try:
            self._loop.call_soon_threadsafe(self._progressed, token)
        except RuntimeError:
            _log.debug("progress came after the spooler had ended")

    def _progressed(self, token: str) -> None:
        held = self._held.get(token)
        if held is None:
            return
        due = held.progress_at + self._timing.progress_s
        if self._now() >= due:
            self._send_progress(held)
        else:
            self._later(due, lambda: self._send_progress(held))

    def _send_progress(self, held: HeldJob) -> None:
        if not self._reports.is_open or held.phase is not Phase.RUNNING:
            return
        progress = held.job._take_progress()
        if progress is None:
            return
        held.progress_at = self._now()
        self._reports.progress(held, progress)
