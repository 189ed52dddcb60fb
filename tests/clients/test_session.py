"""The rules of a spooler's session, by a fake clock and without gRPC."""

from typing import Any

import pytest

from spoolway.held import HeldJob, SpooledBackend
from spoolway.session import Identity, Session
from spoolway.timing import Timing
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import duration, job_name, revoked, token


class Clock:
    """Moves when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FakeRunner:
    """Starts nothing; the test ends the functions."""

    def __init__(self) -> None:
        self.started: dict[str, HeldJob] = {}
        self.max_inline_bytes = 0

    def start(self, held: HeldJob) -> None:
        self.started[held.job.id] = held

    def stop(self) -> None:
        pass


class Bench:
    """A session with a fake clock, a fake runner, and a server played by the test."""

    def __init__(self, concurrency: int = 10, *, is_async: bool = False, max_jobs: int | None = None) -> None:
        self.clock = Clock()
        backend = SpooledBackend(
            name="echo", config=b"{}", storage="", run=str, is_async=is_async, concurrency=concurrency
        )
        identity = Identity(spooler_id="lab-1", instance_id="i1", sdk="test")
        no_transfer: Any = None
        self.session = Session(
            identity, [backend], transfer=no_transfer, timing=Timing(), now=self.clock, max_jobs=max_jobs
        )
        self.runner = FakeRunner()
        self.session.runner = self.runner  # type: ignore[assignment] # the same two methods

    def welcome(self, *kept: str, interval_s: float = 10, **fields: Any) -> None:
        fields.setdefault("lease_ttl", duration(30))
        interval = duration(interval_s)
        names = map(job_name, kept)
        self.session.welcomed(pb.Welcome(kept=names, heartbeat_interval=interval, **fields), self.clock.now_s)

    async def sent(self, kind: str) -> list[Any]:
        """What was sent of this kind since the last look at it; the rest is passed over."""
        messages: list[Any] = []
        outbox = self.session.outbox
        while outbox._control or outbox._updates:
            message = await outbox.take()
            assert message is not None
            if message.HasField("updates"):
                messages += [u for u in message.updates.updates if u.WhichOneof("update") == kind]
            elif message.WhichOneof("message") == kind:
                messages.append(getattr(message, kind))
        return messages

    def receive(self, **message: Any) -> None:
        self.session.receive(pb.StreamNextJobsResponse(**message))

    def assign(self, job_id: str) -> None:
        assignment = pb.Assignment(job=job_name(job_id), lease_token=token(job_id), content=b"{}")
        self.receive(assign=pb.Assign(jobs=[assignment]))

    def confirm(self, update: Any, error: job_pb2.JobError | None = None) -> None:
        self.receive(confirms=pb.Confirms(confirms=[pb.Confirm(sequence=update.sequence, error=error)]))

    async def start(self, job_id: str) -> HeldJob:
        self.assign(job_id)
        [accept] = await self.sent("accept")
        self.confirm(accept)
        return self.runner.started[job_id]

    async def beat(self) -> Any:
        """Move to the next beat."""
        self.clock.now_s = self.session._last_beat_at + self.session.interval_s
        self.session.tick()
        [beat] = await self.sent("beat")
        return beat

    def ack(self, beat: Any, interval_s: float = 10) -> None:
        interval = duration(interval_s)
        self.receive(beat=pb.ServerBeat(acked_sequence=beat.sequence, heartbeat_interval=interval))


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    bench.welcome()
    await bench.sent("credit")
    return bench


async def test_the_lease_counts_from_when_the_acknowledged_beat_was_sent(bench: Bench) -> None:
    """Not the answer's arrival but the beat's departure renews the leases (R13)."""
    held = await bench.start("1")
    beat = await bench.beat()
    sent_at = bench.clock.now_s
    bench.clock.now_s += 15
    bench.ack(beat)

    bench.clock.now_s = sent_at + 29.9
    assert not held.job.lease_unsure
    bench.clock.now_s = sent_at + 30
    assert held.job.lease_unsure


async def test_a_beat_that_is_not_acknowledged_renews_nothing(bench: Bench) -> None:
    """Beats that got lost, or that the server could not make durable, do not count."""
    started_at = bench.clock.now_s
    held = await bench.start("1")
    await bench.beat()
    await bench.beat()
    bench.clock.now_s = started_at + 30

    assert held.job.lease_unsure


async def test_an_answer_acknowledges_the_beats_before_it(bench: Bench) -> None:
    """One answer for several beats renews the leases from the newest of them."""
    held = await bench.start("1")
    first = await bench.beat()
    second = await bench.beat()
    sent_at = bench.clock.now_s
    bench.ack(second)
    bench.ack(first)
    bench.clock.now_s = sent_at + 29

    assert not held.job.lease_unsure


async def test_beats_come_as_often_as_the_server_says() -> None:
    """Welcome and the answers to beats set the interval."""
    bench = Bench()
    bench.welcome(interval_s=55)
    began_at = bench.clock.now_s

    beat = await bench.beat()
    assert bench.clock.now_s == began_at + 55
    bench.ack(beat, interval_s=20)
    await bench.beat()
    assert bench.clock.now_s == began_at + 75


async def test_beats_come_more_often_while_jobs_are_held() -> None:
    """Whatever the server said while idle, a lease is renewed three times before it would run out."""
    bench = Bench()
    bench.welcome(interval_s=55)
    bench.clock.now_s += 54
    await bench.start("1")

    bench.session.tick()

    assert len(await bench.sent("beat")) == 1
    assert bench.session.interval_s == 10


async def test_a_first_job_after_a_long_idle_time_is_taken() -> None:
    """The clock of an idle session has run out; a confirmed accept starts it anew."""
    bench = Bench()
    bench.welcome(interval_s=55)
    bench.clock.now_s += 50
    bench.assign("1")
    bench.session.tick()
    [accept] = await bench.sent("accept")
    bench.confirm(accept)
    bench.session.tick()

    assert not bench.runner.started["1"].job.lease_unsure
    assert await bench.sent("credit") == []


async def test_a_confirmed_accept_does_not_renew_leases_that_are_held(bench: Bench) -> None:
    """Only beats renew a session that holds leases: a new job must not make old leases look sure."""
    began_at = bench.clock.now_s
    held = await bench.start("1")
    bench.clock.now_s = began_at + 29
    await bench.start("2")
    bench.clock.now_s = began_at + 30

    assert held.job.lease_unsure


async def test_no_work_is_started_while_leases_are_unsure(bench: Bench) -> None:
    """A job accepted just before the leases became unsure waits until they are sure again."""
    await bench.start("1")
    await bench.beat()
    bench.assign("2")
    [accept] = await bench.sent("accept")
    bench.clock.now_s += 25
    bench.session.tick()
    assert [credit.outstanding for credit in await bench.sent("credit")] == [0]
    bench.confirm(accept)
    assert "2" not in bench.runner.started

    beat = await bench.beat()
    bench.ack(beat)

    assert "2" in bench.runner.started
    assert [credit.outstanding for credit in await bench.sent("credit")] == [10]


async def test_a_waiting_job_is_started_by_the_next_welcome(bench: Bench) -> None:
    """A job accepted on a stream that then broke starts when the server keeps it."""
    await bench.start("1")
    bench.assign("2")
    [accept] = await bench.sent("accept")
    bench.clock.now_s += 31
    bench.confirm(accept)
    bench.session.disconnected()
    bench.welcome("1", "2")

    assert "2" in bench.runner.started


async def test_a_waiting_job_can_be_cancelled_and_revoked(bench: Bench) -> None:
    """A job that waits for sure leases ends without ever being run."""
    await bench.start("1")
    for job_id in ("2", "3"):
        bench.assign(job_id)
    accepts = await bench.sent("accept")
    bench.clock.now_s += 31
    for accept in accepts:
        bench.confirm(accept)

    bench.receive(cancel=pb.Cancel(job=job_name("2"), lease_token=token("2")))
    bench.receive(revoke=revoked("3"))

    assert [update.lease_token for update in await bench.sent("cancelled")] == [token("2")]
    assert bench.session.held_count == 2
    assert list(bench.runner.started) == ["1"]


async def test_tick_says_when_to_come_again(bench: Bench) -> None:
    """The next tick is due with the next beat, or when the leases run out, whichever is first."""
    assert bench.session.tick() == bench.clock.now_s + 10
    await bench.start("1")
    bench.session.leases.start(bench.clock.now_s - 25, 30)

    assert bench.session.tick() == bench.clock.now_s + 5


async def test_an_unsure_session_does_not_tick_without_rest(bench: Bench) -> None:
    """Once the leases are unsure there is nothing to do before the next beat."""
    await bench.start("1")
    bench.clock.now_s += 31

    assert bench.session.tick() > bench.clock.now_s


async def test_progress_is_sent_once_a_second_with_the_newest_words(bench: Bench) -> None:
    """The first report goes at once, what follows within a second goes together at its end."""
    held = await bench.start("1")
    for n in range(5):
        held.job.report(f"step {n}", n / 10)
        bench.session._progressed(held.token)
    first = await bench.sent("progress")
    bench.clock.now_s += 0.9
    bench.session.tick()
    early = await bench.sent("progress")
    bench.clock.now_s += 0.2
    bench.session.tick()
    second = await bench.sent("progress")

    assert [update.progress.stage for update in first] == ["step 0"]
    assert early == []
    assert [update.progress for update in second] == [pb.Progress(stage="step 4", fraction=0.4)]


async def test_no_progress_follows_the_end(bench: Bench) -> None:
    """A report that was due after the job had ended is not sent."""
    held = await bench.start("1")
    held.job.report("a")
    bench.session._progressed(held.token)
    held.job.report("b")
    bench.session._progressed(held.token)
    bench.session.function_ended(held, _completed(held))
    await bench.sent("complete")
    bench.clock.now_s += 2
    bench.session.tick()

    assert await bench.sent("progress") == []


async def test_a_late_confirm_of_a_repeated_accept_changes_nothing(bench: Bench) -> None:
    """An accept that was sent twice starts its job once, whatever the second answer says."""
    bench.assign("1")
    [first] = await bench.sent("accept")
    bench.clock.now_s += 30
    bench.session.tick()
    [second] = await bench.sent("accept")
    bench.confirm(second)
    bench.confirm(first, error=job_pb2.JobError(code=9, reason="LEASE_SUPERSEDED"))

    assert list(bench.runner.started) == ["1"]
    assert bench.session.held_count == 1


async def test_credit_returns_when_the_last_revoked_function_has(bench: Bench) -> None:
    """Each revoked function takes one place from the credit, and gives it back when it returns."""
    jobs = [await bench.start(job_id) for job_id in ("1", "2")]
    for job_id in ("1", "2"):
        bench.receive(revoke=revoked(job_id))
    numbers = [credit.outstanding for credit in await bench.sent("credit")]
    for held in jobs:
        bench.session.function_ended(held, _completed(held))

    assert numbers == [9, 8]
    assert [credit.outstanding for credit in await bench.sent("credit")] == [9, 10]
    assert await bench.sent("complete") == []


async def test_a_revoke_while_the_end_is_under_way_forgets_the_job(bench: Bench) -> None:
    """A result that does not count any more is not sent again on the stream, but once to be kept aside."""
    held = await bench.start("1")
    bench.session.function_ended(held, _completed(held))
    bench.receive(revoke=revoked("1", "JOB_ENDED"))

    assert bench.session.held_count == 0
    assert bench.session.ends() == []
    assert bench.session.late.get_nowait().lease_token == token("1")


async def test_a_cancel_of_an_unknown_job_is_passed_over(bench: Bench) -> None:
    """Messages about jobs that have ended meanwhile do no harm."""
    bench.receive(cancel=pb.Cancel(job=job_name("9"), lease_token=token("9")))
    bench.receive(revoke=revoked("9"))
    bench.receive(confirms=pb.Confirms(confirms=[pb.Confirm(sequence=999)]))

    assert bench.session.held_count == 0


async def test_a_job_of_an_unknown_backend_is_given_back(bench: Bench) -> None:
    """A job that nobody here can run is not kept."""
    assignment = pb.Assignment(job="backends/other/jobs/1", lease_token="t")
    bench.receive(assign=pb.Assign(jobs=[assignment]))

    assert [update.lease_token for update in await bench.sent("release")] == ["t"]


async def test_nothing_is_taken_after_goaway(bench: Bench) -> None:
    """A job assigned after goaway is left alone: missing in the next hello, it returns at once."""
    bench.session.leave()
    bench.assign("1")

    assert bench.session.held_count == 0
    assert list(bench.session.hello().held) == []


async def test_a_drain_that_is_never_confirmed_ends_all_the_same(bench: Bench) -> None:
    """A server that does not answer a drain does not keep the spooler from ending."""
    bench.session.drain()
    assert not bench.session.finished.is_set()
    bench.clock.now_s += 5
    bench.session.tick()

    assert bench.session.finished.is_set()


async def test_draining_sends_no_credit(bench: Bench) -> None:
    """A draining spooler does not ask for work, also on a new stream."""
    await bench.start("1")
    bench.session.drain()
    bench.session.disconnected()
    bench.welcome("1")

    assert [credit.outstanding for credit in await bench.sent("credit")] == []


async def test_a_replaced_session_waits_for_what_runs(bench: Bench) -> None:
    """After a replacement nothing new starts, and the end of what runs is waited for."""
    held = await bench.start("1")
    bench.assign("2")
    bench.session.disconnected()
    bench.session.replaced()
    assert bench.session.held_count == 1
    bench.session.function_ended(held, _completed(held))
    [ended] = bench.session.ends()
    bench.session.end_delivered(ended)

    assert bench.session.finished.is_set()


def _completed(held: HeldJob) -> pb.LeaseUpdate:
    end = held.report()
    end.complete.result = b"{}"
    return end


async def test_jobs_over_all_backends_are_limited_by_a_credit_of_the_session() -> None:
    """It shrinks while a revoked function runs, and what comes beyond it is refused."""
    bench = Bench(max_jobs=1)
    bench.welcome()
    assert [(credit.backend, credit.outstanding) for credit in await bench.sent("credit")] == [
        ("", 1),
        ("echo", 10),
    ]

    held = await bench.start("1")
    bench.assign("2")
    assert [update.job for update in await bench.sent("release")] == [job_name("2")]
    bench.receive(revoke=revoked("1"))
    credits_left = [(credit.backend, credit.outstanding) for credit in await bench.sent("credit")]
    bench.session.function_ended(held, held.report())

    assert ("", 0) in credits_left
    assert ("", 1) in [(credit.backend, credit.outstanding) for credit in await bench.sent("credit")]
