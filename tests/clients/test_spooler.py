"""A spooler and a scripted server, over a real channel: the spooler's side of the contract."""

import asyncio
import json
import threading
from datetime import timedelta
from typing import Any

import grpc
import pytest

from spoolway import (
    InvalidArgumentError,
    JobError,
    RetryLater,
    RunningJob,
    SessionReplacedError,
    SettingsError,
    Spooler,
    SpoolerRevokedError,
    SpoolwayError,
    UnauthenticatedError,
)
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import FakeServer, Refusal, duration, in_turn, job, job_name, revoked, token
from tests.clients.spooling import Runs, at_work, echo, ended, make_spooler, timed

ALL_STATUSES = list(grpc.StatusCode)
MISTAKES = [
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
]
UNAVAILABLE = job_pb2.JobError(code=14, reason="STORAGE_UNAVAILABLE", message="storage down")
SUPERSEDED = job_pb2.JobError(code=9, reason="LEASE_SUPERSEDED", message="given to another")


def refusal(status: grpc.StatusCode) -> Refusal | None:
    return None if status is grpc.StatusCode.OK else Refusal(status, "said by the test")


async def test_hello_says_who_comes(server: FakeServer) -> None:
    """The backends are registered first; then hello names the spooler, its process and its backends."""
    async with at_work(make_spooler(server, echo, storage="main", token="secret")):
        stream = await server.next_stream()

    [register] = server.requests["RegisterBackend"]
    assert (register.backend, register.storage) == ("echo", "main")
    assert json.loads(register.config) == {"version": "1.0.0"}
    assert (stream.hello.spooler_id, stream.hello.protocol) == ("lab-1", 1)
    assert list(stream.hello.backends) == ["echo"]
    assert len(stream.hello.instance_id) == 32
    assert stream.hello.max_message_bytes == 32 * 1024 * 1024
    assert stream.hello.sdk.startswith("spoolway-python/")
    assert not stream.hello.held
    assert (server.metadata["spoolway-user"], server.metadata["authorization"]) == ("ada", "Bearer secret")


async def test_a_job_from_assignment_to_confirm(server: FakeServer) -> None:
    """A job is accepted, run, and its result sent with its token."""
    async with at_work(make_spooler(server, echo)):
        stream = await server.next_stream()
        await stream.accept("1", content=b'{"shots": 4}')
        complete = await stream.receive("complete")

    assert (complete.job, complete.lease_token) == (job_name("1"), token("1"))
    assert json.loads(complete.complete.result) == {"echo": {"shots": 4}}


async def test_the_run_function_sees_the_job(server: FakeServer) -> None:
    """Everything that the assignment says is there for the run function."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        stream.assign(
            "1",
            content=b"[1]",
            owner="bob",
            attempts_before=2,
            labels={"a": "b"},
            max_run_time=duration(3600),
        )
        stream.confirm(await stream.receive("accept"))
        seen = await runs.next()

    assert (seen.name, seen.id, seen.backend, seen.owner) == (job_name("1"), "1", "echo", "bob")
    assert (seen.content, seen.content_bytes, seen.labels) == ([1], b"[1]", {"a": "b"})
    assert (seen.attempts_before, seen.max_run_time) == (2, timedelta(hours=1))
    assert (seen.cancelled, seen.lease_unsure) == (False, False)
    assert repr(seen) == "<RunningJob backends/echo/jobs/1>"


async def test_a_job_is_run_only_after_the_confirm(server: FakeServer) -> None:
    """An accept that the server has not confirmed starts nothing (R10)."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, concurrency=2)):
        stream = await server.next_stream()
        stream.assign("1", "2")
        accepts = {
            update.job: update for update in [await stream.receive("accept"), await stream.receive("accept")]
        }
        stream.confirm(accepts[job_name("2")])

        assert (await runs.next()).id == "2"
        assert list(runs.jobs) == ["2"]


async def test_an_accept_that_is_refused_starts_nothing(server: FakeServer) -> None:
    """A job that was withdrawn before the accept came is not run, and its place is free again."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        stream.assign("1")
        stream.confirm(await stream.receive("accept"), error=SUPERSEDED)
        await stream.accept("2")

        assert (await runs.next()).id == "2"
        assert list(runs.jobs) == ["2"]


async def test_an_accept_is_sent_again_after_unavailable(server: FakeServer) -> None:
    """UNAVAILABLE in a confirm means: once more, later."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        stream.assign("1")
        first = await stream.receive("accept")
        stream.confirm(first, error=UNAVAILABLE)
        second = await stream.receive("accept")
        stream.confirm(second)

        assert (await runs.next()).id == "1"
        assert second.sequence != first.sequence


async def test_credit_is_the_concurrency_of_each_backend(server: FakeServer) -> None:
    """Each backend is given as many jobs as it runs at once."""
    spooler = make_spooler(server, echo, concurrency=3)
    spooler.add_backend("other", config={}, run=echo)
    async with at_work(spooler):
        stream = await server.next_stream()
        both = [await stream.receive("credit"), await stream.receive("credit")]

    assert {credit.backend: credit.outstanding for credit in both} == {"echo": 3, "other": 1}


async def test_several_backends_run_side_by_side(server: FakeServer) -> None:
    """Jobs of several backends run at the same time, each in its own function."""
    first, second = Runs(), Runs()
    spooler = make_spooler(server, first.run, concurrency=2)
    spooler.add_backend("other", config={}, run=second.run)
    async with at_work(spooler):
        stream = await server.next_stream()
        stream.assign("1", "2")
        stream.assign("3", backend="other")
        for _ in range(3):
            stream.confirm(await stream.receive("accept"))
        await first.next()
        await first.next()
        await second.next()

        assert set(first.jobs) == {"1", "2"}
        assert set(second.jobs) == {"3"}
        assert [request.backend for request in server.requests["RegisterBackend"]] == ["echo", "other"]


async def test_plain_functions_run_in_threads_at_once(server: FakeServer) -> None:
    """As many plain functions run side by side as there is concurrency."""
    together = threading.Barrier(3, timeout=10)

    def meet(job: RunningJob) -> str:
        together.wait()
        assert threading.current_thread().daemon
        return '"met"'

    async with at_work(make_spooler(server, meet, concurrency=3)):
        stream = await server.next_stream()
        await stream.accept("1", "2", "3")
        results = [(await stream.receive("complete")).complete.result for _ in range(3)]

    assert results == [b'"met"'] * 3


async def test_more_than_was_asked_for_is_given_back(server: FakeServer) -> None:
    """A job beyond the concurrency is released at once, not kept waiting in secret."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        stream.assign("2")
        released = await stream.receive("release")

    assert released.lease_token == token("2")


async def test_a_failure_is_reported_with_a_trimmed_traceback(server: FakeServer) -> None:
    """The owner sees where the run function failed, and none of this package's own frames."""

    def deeper() -> None:
        raise ValueError("no laser")

    def run(job: RunningJob) -> None:
        deeper()

    async with at_work(make_spooler(server, run)):
        stream = await server.next_stream()
        await stream.accept("1")
        fail = (await stream.receive("fail")).fail

    assert fail.message.startswith("Traceback (most recent call last):")
    assert "in deeper" in fail.message
    assert "ValueError: no laser" in fail.message
    assert "runner.py" not in fail.message
    assert not fail.retryable


@pytest.mark.parametrize(
    ("error", "retryable", "after", "message"),
    [
        (RetryLater("warming up", timedelta(seconds=7)), True, 7.0, "warming up"),
        (RetryLater("warming up"), True, 0.0, "warming up"),
        (JobError("7 shots are too many"), False, 0.0, "7 shots are too many"),
        (JobError(), False, 0.0, "JobError"),
        (JobError("half \ud800"), False, 0.0, "half ?"),
    ],
)
async def test_a_run_function_may_say_why_in_its_own_words(
    server: FakeServer, error: Exception, retryable: bool, after: float, message: str
) -> None:
    """RetryLater lets the job run again, JobError ends it; the owner sees the message alone."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        runs.end("1", error)
        fail = (await stream.receive("fail")).fail

    assert (fail.message, fail.retryable) == (message, retryable)
    assert fail.retry_after.ToTimedelta().total_seconds() == after


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_nothing_that_a_job_raises_ends_the_spooler(
    server: FakeServer, error: BaseException, kind: str
) -> None:
    """A job that tries to end the process fails alone; the next one runs."""

    def plain(job: RunningJob) -> str:
        if job.id == "1":
            raise error
        return "{}"

    async def asynchronous(job: RunningJob) -> str:
        return plain(job)

    async with at_work(make_spooler(server, plain if kind == "plain" else asynchronous)):
        stream = await server.next_stream()
        await stream.accept("1")
        fail = await stream.receive("fail")
        stream.confirm(fail)
        await stream.accept("2")
        await stream.receive("complete")

    assert type(error).__name__ in fail.fail.message


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"a": object()}, "returned a dict, which is no result: it can't be written as JSON"),
        (float("nan"), "can't be written as JSON"),
    ],
)
async def test_a_result_that_can_t_be_sent_is_a_failure(server: FakeServer, result: Any, says: str) -> None:
    """What is no JSON fails the job with a clear message."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        runs.end("1", result)
        fail = await stream.receive("fail")

    assert says in fail.fail.message


async def test_a_plain_function_that_forgot_to_await_is_a_failure(server: FakeServer) -> None:
    """A coroutine that nobody awaited is no result, and leaves no warning."""

    async def later() -> None:
        pass

    async with at_work(make_spooler(server, lambda job: later())):
        stream = await server.next_stream()
        await stream.accept("1")
        fail = await stream.receive("fail")

    assert "returned a coroutine" in fail.fail.message


@pytest.mark.parametrize(
    ("result", "sent"), [(None, b"null"), ("[1]", b"[1]"), (b"[1]", b"[1]"), ([1], b"[1]"), (2.5, b"2.5")]
)
async def test_a_result_may_be_any_json(server: FakeServer, result: Any, sent: bytes) -> None:
    """Python values are written as JSON; text and bytes are JSON already."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        runs.end("1", result)

        assert (await stream.receive("complete")).complete.result == sent


async def test_a_result_that_the_server_refuses_becomes_a_failure(server: FakeServer) -> None:
    """A result that is no JSON by the server's check ends the job with the server's words."""
    error = job_pb2.JobError(code=3, reason="NOT_JSON", message="not JSON at byte 0")
    async with at_work(make_spooler(server, lambda job: "oops")):
        stream = await server.next_stream()
        await stream.accept("1")
        stream.confirm(await stream.receive("complete"), error=error)
        fail = await stream.receive("fail")

    assert "not JSON at byte 0" in fail.fail.message


async def test_a_cancelled_function_that_raises_has_stopped(server: FakeServer) -> None:
    """After a cancel, raising or returning None reports that the job was stopped."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, concurrency=2)):
        stream = await server.next_stream()
        await stream.accept("1", "2")
        for job_id, result in (("1", RuntimeError("stopped")), ("2", None)):
            await runs.next()
            stream.cancel(job_id)
            await _until(lambda job_id=job_id: runs.jobs[job_id].cancelled)
            runs.end(job_id, result)
            cancelled = await stream.receive("cancelled")

            assert cancelled.lease_token == token(job_id)


async def test_a_cancelled_function_that_was_quicker_completes(server: FakeServer) -> None:
    """After a cancel, a result still counts."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        running = await runs.next()
        stream.cancel("1")
        await _until(lambda: running.cancelled)
        runs.end("1", {"memory": []})

        assert (await stream.receive("complete")).complete.result == b'{"memory":[]}'


async def test_a_job_cancelled_before_its_start_is_never_run(server: FakeServer) -> None:
    """A cancel that overtakes the confirm of the accept keeps the function from starting."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        stream.assign("1")
        accept = await stream.receive("accept")
        stream.cancel("1")
        stream.confirm(accept)
        await stream.receive("cancelled")

    assert not runs.jobs


async def test_a_revoked_job_keeps_its_place_until_its_function_returns(server: FakeServer) -> None:
    """A function that can't be interrupted blocks its place; its result is then delivered once."""
    server.answers["CompleteJob"] = in_turn(
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "superseded", "LEASE_SUPERSEDED")
    )
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        assert (await stream.receive("credit")).outstanding == 1
        await stream.accept("1")
        running = await runs.next()
        stream.revoke("1")

        assert (await stream.receive("credit")).outstanding == 0
        assert running.cancelled
        runs.end("1", {"too": "late"})
        assert (await stream.receive("credit")).outstanding == 1
        await stream.accept("2")
        assert (await runs.next()).id == "2"
        assert "complete" not in stream.seen()
        [late] = await server.called("CompleteJob")

    assert (late.job, late.lease_token, late.result) == (job_name("1"), token("1"), b'{"too":"late"}')


async def test_a_late_result_is_delivered_before_the_spooler_ends(server: FakeServer) -> None:
    """A drained spooler waits until the server has answered to a result of a lease that is gone."""
    server.answers["CompleteJob"] = in_turn(
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "superseded", "LEASE_SUPERSEDED")
    )
    runs = Runs()
    spooler = make_spooler(server, runs.run)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        runs.end("1", 1)
        await stream.receive("complete")
        stream.revoke("1")
        spooler.drain()
        stream.confirm(await stream.receive("drain"))
        await ended(task)

    assert len(server.requests["CompleteJob"]) == 1


async def test_a_revoked_accept_is_forgotten(server: FakeServer) -> None:
    """A job that is withdrawn before it was started leaves nothing behind."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        stream.assign("1")
        accept = await stream.receive("accept")
        stream.revoke("1", "LEASE_WITHDRAWN")
        stream.confirm(accept)
        await stream.accept("2")

        assert (await runs.next()).id == "2"
        assert list(runs.jobs) == ["2"]


@pytest.mark.parametrize("status", ALL_STATUSES, ids=lambda status: status.name)
async def test_a_spooler_survives_a_stream_that_is_refused(
    server: FakeServer, status: grpc.StatusCode
) -> None:
    """Whatever status a stream is refused with, the spooler comes back and works."""
    server.refused_streams = [refusal(status), refusal(status)]
    async with at_work(make_spooler(server, echo)):
        stream = await server.next_stream()
        await stream.accept("1")
        await stream.receive("complete")

    assert server.stream_count == 3


@pytest.mark.parametrize("status", ALL_STATUSES, ids=lambda status: status.name)
async def test_a_spooler_survives_a_stream_that_breaks(server: FakeServer, status: grpc.StatusCode) -> None:
    """Whatever status a stream breaks with, the job in hand goes on and ends on the next stream."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        await first.accept("1")
        await runs.next()
        first.close(refusal(status))
        second = await server.next_stream(kept=[job_name("1")])
        runs.end("1", {"a": 1})
        complete = await second.receive("complete")

    assert [(held.job, held.lease_token) for held in second.hello.held] == [(job_name("1"), token("1"))]
    assert second.hello.instance_id == first.hello.instance_id
    assert complete.lease_token == token("1")
    assert len(runs.jobs) == 1


@pytest.mark.parametrize(
    "status", [status for status in ALL_STATUSES if status not in {*MISTAKES, grpc.StatusCode.OK}]
)
async def test_registering_is_tried_again_after_each_status(
    server: FakeServer, status: grpc.StatusCode
) -> None:
    """A server in trouble at the start only delays a spooler."""
    answers = [Refusal(status)] * 7 + [pb.RegisterBackendResponse()]
    server.answers["RegisterBackend"] = in_turn(*answers)
    async with at_work(make_spooler(server, echo)):
        await server.next_stream()

    assert len(server.requests["RegisterBackend"]) == 8


@pytest.mark.parametrize("status", MISTAKES)
async def test_a_mistake_at_the_start_is_raised(server: FakeServer, status: grpc.StatusCode) -> None:
    """A config, a name or a token that is refused three times ends the spooler with the server's words."""
    server.answers["RegisterBackend"] = in_turn(Refusal(status, "job_schema is wrong", "BAD_CONFIG"))
    async with at_work(make_spooler(server, echo)) as task:
        with pytest.raises(SpoolwayError, match="job_schema is wrong"):
            await ended(task)

    assert len(server.requests["RegisterBackend"]) == 3


async def test_a_hello_that_is_refused_again_and_again_is_raised(server: FakeServer) -> None:
    """A spooler that the server never takes does not try for ever in silence."""
    server.refused_streams = [Refusal(grpc.StatusCode.INVALID_ARGUMENT, "unknown protocol")] * 9
    async with at_work(make_spooler(server, echo)) as task:
        with pytest.raises(InvalidArgumentError, match="unknown protocol"):
            await ended(task)


async def test_a_token_that_is_revoked_later_is_survived(server: FakeServer) -> None:
    """Once a spooler has worked no refusal ends it: the operator may mend it."""
    async with at_work(make_spooler(server, echo)) as task:
        first = await server.next_stream()
        server.refused_streams = [Refusal(grpc.StatusCode.UNAUTHENTICATED)] * 5
        first.close()
        await server.next_stream()

        assert not task.done()


async def test_an_unknown_backend_is_registered_again(server: FakeServer) -> None:
    """A server that has lost the backend is told about it again."""
    server.refused_streams = [Refusal(grpc.StatusCode.NOT_FOUND, "no backend echo")]
    async with at_work(make_spooler(server, echo)):
        await server.next_stream()

    assert len(server.requests["RegisterBackend"]) == 2


@pytest.mark.parametrize(
    "reason", ["DRAINING", "SESSION_CLOSED", "BACKEND_CHANGED", "STORAGE_UNAVAILABLE", "SOMETHING_NEW"]
)
async def test_after_goaway_the_client_closes_and_comes_back(server: FakeServer, reason: str) -> None:
    """At goaway the spooler closes its side, lets the server end, and reconnects with what it holds."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        await first.accept("1")
        await runs.next()
        first.goaway(reason)
        await first.receive_end()
        second = await server.next_stream(kept=[job_name("1")])

    assert first.was_half_closed
    assert [held.job for held in second.hello.held] == [job_name("1")]


async def test_goaway_instead_of_welcome_is_survived(server: FakeServer) -> None:
    """A server that is about to stop sends the spooler on before it has started."""
    async with at_work(make_spooler(server, echo)):
        first = await server.next_unwelcomed()
        first.goaway("DRAINING")
        await server.next_stream()


async def test_goaway_says_when_to_come_back(server: FakeServer) -> None:
    """The spooler waits at least as long as the server asks."""
    async with at_work(make_spooler(server, echo)):
        first = await server.next_stream()
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        first.goaway("DRAINING", 0.3)
        await server.next_stream()

    assert loop.time() - asked_at >= 0.3


async def test_what_is_confirmed_after_goaway_counts(server: FakeServer) -> None:
    """Between goaway and the end of the stream confirms still arrive."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        first.assign("1")
        accept = await first.receive("accept")
        first.goaway("DRAINING")
        first.confirm(accept)

        assert (await runs.next()).id == "1"


async def test_a_replaced_spooler_ends_with_a_clear_error(server: FakeServer) -> None:
    """Of two processes with one spooler_id the older one stops, and says why."""
    async with at_work(make_spooler(server, echo)) as task:
        stream = await server.next_stream()
        stream.goaway("SESSION_REPLACED")
        with pytest.raises(SessionReplacedError, match="one process per spooler_id"):
            await ended(task)


async def test_a_replaced_spooler_delivers_what_it_had_in_hand(server: FakeServer) -> None:
    """What runs when a spooler is replaced is finished, and its result delivered by a unary call."""
    server.answers["CompleteJob"] = in_turn(pb.CompleteJobResponse(job=job(state="DONE")))
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        # Said again to a second stream: a message that could no longer be sent hides the first.
        replaced = Refusal(grpc.StatusCode.ABORTED, "replaced", "SESSION_REPLACED")
        server.refused_streams = [replaced]
        stream.close(replaced)
        runs.end("1", {"a": 1})
        with pytest.raises(SessionReplacedError):
            await ended(task)

    [complete] = server.requests["CompleteJob"]
    assert (complete.lease_token, complete.result) == (token("1"), b'{"a":1}')
    assert server.stream_count <= 2


@pytest.mark.parametrize("told_by", ["goaway", "status"])
async def test_a_revoked_spooler_ends_and_does_not_come_back(server: FakeServer, told_by: str) -> None:
    """What an operator has ended says so and stops, whichever way it is told."""
    async with at_work(make_spooler(server, echo)) as task:
        stream = await server.next_stream()
        if told_by == "goaway":
            stream.goaway("SPOOLER_REVOKED")
        else:
            # Said again to a second stream, as above.
            revoked = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "revoked", "SPOOLER_REVOKED")
            server.refused_streams = [revoked]
            stream.close(revoked)
        with pytest.raises(SpoolerRevokedError, match="start it anew"):
            await ended(task)

    assert server.stream_count <= (1 if told_by == "goaway" else 2)


async def test_a_server_without_welcome_is_left(server: FakeServer) -> None:
    """A server that does not answer hello in time is tried again."""
    async with at_work(make_spooler(server, echo, timing=timed(welcome_s=0.05))):
        await server.next_unwelcomed()
        await server.next_stream()


async def test_a_first_message_that_is_no_welcome_is_survived(server: FakeServer) -> None:
    """A server that breaks the protocol is tried again."""
    async with at_work(make_spooler(server, echo)):
        first = await server.next_unwelcomed()
        first.assign("1")
        await server.next_stream()


async def test_a_silent_stream_is_torn_down(server: FakeServer) -> None:
    """A stream on which beats get no answer is given up, and the job in hand goes on."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, timing=timed(silence_margin_s=0.1))):
        first = await server.next_stream(heartbeat_interval=duration(0.05))
        await first.accept("1")
        await runs.next()
        second = await server.next_stream(kept=[job_name("1")])

    assert [held.job for held in second.hello.held] == [job_name("1")]


async def test_a_stream_with_answered_beats_stays(server: FakeServer) -> None:
    """Beats come at the interval that the server says, and their answers keep the stream."""
    async with at_work(make_spooler(server, echo, timing=timed(silence_margin_s=0.3))):
        stream = await server.next_stream(heartbeat_interval=duration(0.05))
        for _ in range(10):
            beat = await stream.receive("beat")
            stream.send(beat=pb.ServerBeat(acked_sequence=beat.sequence))

    assert server.stream_count == 1


async def test_leases_are_unsure_without_answers_and_sure_again_with_them(server: FakeServer) -> None:
    """When beats stay unanswered for the lease's time the job is told, and no new work is taken."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, concurrency=2)):
        stream = await server.next_stream(lease_ttl=duration(0.3))
        assert (await stream.receive("credit")).outstanding == 2
        await stream.accept("1")
        running = await runs.next()

        assert (await stream.receive("credit")).outstanding == 0
        assert running.lease_unsure
        assert not running.cancelled
        stream.assign("2")
        assert (await stream.receive("release")).lease_token == token("2")
        stream.answers_beats = True
        assert (await stream.receive("credit")).outstanding == 2
        assert not running.lease_unsure
        assert list(runs.jobs) == ["1"]


async def test_welcome_decides_what_goes_on(server: FakeServer) -> None:
    """After a break kept jobs go on, revoked ones and those that nobody mentions are told to stop."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, concurrency=3)):
        first = await server.next_stream()
        await first.accept("1", "2", "3")
        for _ in range(3):
            await runs.next()
        first.close()
        second = await server.next_stream(kept=[job_name("1")], revoked=[revoked("2")])
        credit = await second.receive("credit")

    assert {held.job for held in second.hello.held} == {job_name("1"), job_name("2"), job_name("3")}
    assert [runs.jobs[job_id].cancelled for job_id in ("1", "2", "3")] == [False, True, True]
    assert credit.outstanding == 1


async def test_an_accept_of_unknown_outcome_is_asked_again(server: FakeServer) -> None:
    """A stream that breaks between accept and confirm starts nothing until the next one confirms."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        first.assign("1")
        await first.receive("accept")
        first.close()
        second = await server.next_stream(kept=[job_name("1")])
        accept = await second.receive("accept")
        assert not runs.jobs
        second.confirm(accept)

        assert (await runs.next()).id == "1"


async def test_an_unconfirmed_end_is_sent_again(server: FakeServer) -> None:
    """A result whose confirm was lost with the stream is sent on the next one, with the same token."""
    async with at_work(make_spooler(server, echo)):
        first = await server.next_stream()
        await first.accept("1")
        before = await first.receive("complete")
        first.close(Refusal(grpc.StatusCode.UNKNOWN, "Stream removed"))
        second = await server.next_stream(kept=[job_name("1")])
        after = await second.receive("complete")
        second.confirm(after)
        await second.accept("2")

    assert (after.lease_token, after.complete) == (before.lease_token, before.complete)
    assert [held.job for held in second.hello.held] == [job_name("1")]


async def test_an_end_is_sent_again_after_unavailable(server: FakeServer) -> None:
    """A storage in trouble costs no result."""
    async with at_work(make_spooler(server, echo)):
        stream = await server.next_stream()
        await stream.accept("1")
        for _ in range(3):
            stream.confirm(await stream.receive("complete"), error=UNAVAILABLE)
        stream.confirm(await stream.receive("complete"))
        await stream.accept("2")


async def test_an_end_whose_confirm_never_comes_is_sent_again(server: FakeServer) -> None:
    """A confirm that the server forgot does not take the place for ever."""
    async with at_work(make_spooler(server, echo, timing=timed(confirm_s=0.1))):
        stream = await server.next_stream(heartbeat_interval=duration(0.05))
        await stream.accept("1")
        first = await stream.receive("complete")
        second = await stream.receive("complete")

    assert second.sequence > first.sequence
    assert second.lease_token == first.lease_token


async def test_an_end_that_is_refused_for_good_is_dropped(server: FakeServer) -> None:
    """A result that came too late is not sent for ever, and its place is free."""
    async with at_work(make_spooler(server, echo)):
        stream = await server.next_stream()
        await stream.accept("1")
        stream.confirm(await stream.receive("complete"), error=SUPERSEDED)
        await stream.accept("2")
        await stream.receive("complete")


@pytest.mark.parametrize(
    ("result", "method"),
    [({"a": 1}, "CompleteJob"), (RuntimeError("no laser"), "FailJob"), (None, "FailJob")],
)
async def test_an_end_is_delivered_by_unary_call_while_the_stream_is_down(
    server: FakeServer, result: Any, method: str
) -> None:
    """A day-long run is delivered even where streams do not come through (R7)."""
    server.answers["CompleteJob"] = in_turn(
        Refusal(grpc.StatusCode.UNKNOWN, "Stream removed"), pb.CompleteJobResponse(job=job(state="DONE"))
    )
    server.answers["FailJob"] = in_turn(pb.FailJobResponse(job=job(state="ERROR")))
    runs = Runs()
    spooler = make_spooler(server, runs.run)
    async with at_work(spooler) as task:
        first = await server.next_stream()
        await first.accept("1")
        running = await runs.next()
        if result is None:
            first.cancel("1")
            await _until(lambda: running.cancelled)
        server.refused_streams = [Refusal(grpc.StatusCode.UNAVAILABLE)] * 1000
        first.close()
        runs.end("1", result)
        requests = await server.called(method, 2 if method == "CompleteJob" else 1)
        # Nothing is in hand any more: the spooler can end without another stream.
        spooler.drain()
        await ended(task)

    assert {(request.job, request.lease_token) for request in requests} == {(job_name("1"), token("1"))}


async def test_a_result_refused_by_unary_call_becomes_a_failure(server: FakeServer) -> None:
    """A bad result is told to the owner, on whichever way."""
    server.answers["CompleteJob"] = in_turn(Refusal(grpc.StatusCode.INVALID_ARGUMENT, "not JSON", "NOT_JSON"))
    server.answers["FailJob"] = in_turn(pb.FailJobResponse())
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        await first.accept("1")
        await runs.next()
        server.refused_streams = [Refusal(grpc.StatusCode.UNAVAILABLE)] * 1000
        first.close()
        runs.end("1", "oops")
        [request] = await server.called("FailJob")

    assert "not JSON" in request.fail.message


async def test_drain_finishes_what_runs_and_returns(server: FakeServer) -> None:
    """A draining spooler says so, takes no more, has the ends of its jobs confirmed, closes the stream."""
    runs = Runs()
    spooler = make_spooler(server, runs.run, concurrency=2)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        threading.Thread(target=spooler.drain).start()
        stream.confirm(await stream.receive("drain"))
        stream.assign("2")
        assert (await stream.receive("release")).lease_token == token("2")
        assert not task.done()
        runs.end("1", {})
        complete = await stream.receive("complete")
        assert not task.done()
        stream.confirm(complete)
        await ended(task)

    assert stream.was_half_closed
    assert list(runs.jobs) == ["1"]


async def test_an_idle_spooler_drains_at_once(server: FakeServer) -> None:
    """Without jobs in hand draining ends once the server knows."""
    spooler = make_spooler(server, echo)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        spooler.drain()
        stream.confirm(await stream.receive("drain"))
        await ended(task)

    assert stream.was_half_closed


async def test_draining_needs_no_server(server: FakeServer) -> None:
    """A spooler without jobs in hand ends though no server answers."""
    server.answers["RegisterBackend"] = in_turn(Refusal(grpc.StatusCode.UNKNOWN))
    spooler = make_spooler(server, echo)
    async with at_work(spooler) as task:
        await server.called("RegisterBackend")
        spooler.drain()
        await ended(task)


async def test_a_drain_goes_on_over_a_break(server: FakeServer) -> None:
    """A stream that breaks while draining is reopened, the drain repeated, and the end still delivered."""
    runs = Runs()
    spooler = make_spooler(server, runs.run)
    async with at_work(spooler) as task:
        first = await server.next_stream()
        await first.accept("1")
        await runs.next()
        spooler.drain()
        await first.receive("drain")
        first.close()
        second = await server.next_stream(kept=[job_name("1")])
        second.confirm(await second.receive("drain"))
        runs.end("1", {})
        second.confirm(await second.receive("complete"))
        await ended(task)


async def test_a_drain_does_not_wait_for_revoked_jobs(server: FakeServer) -> None:
    """A function that hangs after its lease is gone does not keep the spooler from ending."""
    hung = threading.Event()
    started = threading.Event()

    def hang(job: RunningJob) -> None:
        started.set()
        hung.wait(10)

    spooler = make_spooler(server, hang)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await asyncio.to_thread(started.wait, 10)
        stream.revoke("1")
        spooler.drain()
        stream.confirm(await stream.receive("drain"))
        await ended(task)
    hung.set()


async def test_stop_gives_back_what_it_can(server: FakeServer) -> None:
    """Stopping releases what has not started, cancels async functions and gives their jobs back."""
    runs = Runs()
    spooler = make_spooler(server, runs.run, concurrency=2)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await runs.next()
        stream.assign("2")
        await stream.receive("accept")
        spooler.stop()
        stream.confirm(await stream.receive("drain"))
        released = [await stream.receive("release"), await stream.receive("release")]
        stream.confirm(*released)
        await ended(task)

    assert {update.lease_token for update in released} == {token("1"), token("2")}


async def test_stop_does_not_wait_for_plain_functions(server: FakeServer) -> None:
    """A plain function can't be interrupted: it is left to the lease, and not given back while it runs."""
    hung = threading.Event()
    started = threading.Event()

    def hang(job: RunningJob) -> None:
        started.set()
        hung.wait(10)

    spooler = make_spooler(server, hang)
    async with at_work(spooler) as task:
        stream = await server.next_stream()
        await stream.accept("1")
        await asyncio.to_thread(started.wait, 10)
        spooler.stop()
        stream.confirm(await stream.receive("drain"))
        await ended(task)

        assert stream.seen() == []
    hung.set()


async def test_progress_is_coalesced(server: FakeServer) -> None:
    """Many reports in a short time become few, and the newest wins."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run, timing=timed(progress_s=0.2))):
        stream = await server.next_stream()
        await stream.accept("1")
        running = await runs.next()
        await asyncio.to_thread(_report_a_thousand_times, running)
        first = await stream.receive("progress")
        running.report(detail="the last word")
        second = await stream.receive("progress")

        assert first.progress.stage.startswith("step ")
        assert second.progress == pb.Progress(stage="step 999", fraction=0.999, detail="the last word")
        assert stream.seen() == []


async def test_progress_is_cut_to_what_the_contract_takes(server: FakeServer) -> None:
    """Whatever is reported, the report is valid."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        stream = await server.next_stream()
        await stream.accept("1")
        running = await runs.next()
        running.report("x" * 101, 7.5, "y" * 1001)
        progress = (await stream.receive("progress")).progress
        running.report(fraction=float("nan"))
        second = (await stream.receive("progress")).progress

    assert progress == pb.Progress(stage="x" * 100, fraction=1.0, detail="y" * 1000)
    assert second == pb.Progress(stage="x" * 100, fraction=1.0)


async def test_progress_during_a_break_is_sent_after_it(server: FakeServer) -> None:
    """What was reported while there was no stream is shown when there is one again."""
    runs = Runs()
    async with at_work(make_spooler(server, runs.run)):
        first = await server.next_stream()
        await first.accept("1")
        running = await runs.next()
        first.close()
        second = await server.next_unwelcomed()
        running.report("in the dark")
        second.welcome(kept=[job_name("1")])

        assert (await second.receive("progress")).progress.stage == "in the dark"


async def test_a_predecessor_is_declared_dead_only_at_the_start(server: FakeServer) -> None:
    """On a reconnect the earlier instance would be this very process."""
    async with at_work(make_spooler(server, echo, predecessor_dead=True)):
        first = await server.next_stream()
        first.close()
        second = await server.next_stream()

    assert (first.hello.predecessor_dead, second.hello.predecessor_dead) == (True, False)


async def test_many_jobs_travel_in_few_messages(server: FakeServer) -> None:
    """Reports that fall together are sent together."""
    async with at_work(make_spooler(server, echo, concurrency=50)):
        stream = await server.next_stream()
        stream.assign(*map(str, range(50)))
        await stream.receive("accept")

        assert len(stream.seen()) == 49


async def test_a_message_that_is_new_here_is_passed_over(server: FakeServer) -> None:
    """A newer server may send messages that this client does not know."""
    async with at_work(make_spooler(server, echo)):
        stream = await server.next_stream()
        stream.send()
        await stream.accept("1")
        await stream.receive("complete")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spooler_id": "a b"}, "spooler_id 'a b' must match"),
        ({"backend": "Echo"}, "backend 'Echo' must match"),
        ({"config": None}, "give its `config` and `run` too"),
        ({"concurrency": 0}, "must be at least 1"),
        ({"run": "echo"}, "must be a function"),
        ({"config": {"a": "x" * 2**20}}, "over the limit of 1,048,576"),
        ({"config": {"a": {1}}}, "can't be written as JSON"),
    ],
)
def test_a_wrong_argument_is_refused(change: dict[str, Any], says: str) -> None:
    """What can't work is refused before anything is sent."""
    arguments: dict[str, Any] = {"spooler_id": "lab-1", "backend": "echo", "config": {}, "run": echo}

    with pytest.raises(SpoolwayError, match=says):
        Spooler(**(arguments | change))


async def test_a_spooler_without_backend_does_not_start() -> None:
    """There is nothing to do without a backend."""
    with pytest.raises(SettingsError, match="add a backend"):
        await Spooler("lab-1").serve()


async def test_a_spooler_runs_once_at_a_time(server: FakeServer) -> None:
    """While it runs it can't be started again, and gets no more backends."""
    spooler = make_spooler(server, echo)
    async with at_work(spooler):
        await server.next_stream()
        with pytest.raises(SettingsError, match="runs already"):
            await spooler.serve()
        with pytest.raises(SettingsError, match="before the spooler runs"):
            spooler.add_backend("other", config={}, run=echo)
        with pytest.raises(SettingsError, match="was added before"):
            Spooler("a", backend="echo", config={}, run=echo).add_backend("echo", config={}, run=echo)


async def test_an_unauthenticated_hello_at_the_start_is_raised(server: FakeServer) -> None:
    """A token that opens no stream is told, not retried in silence."""
    server.refused_streams = [Refusal(grpc.StatusCode.UNAUTHENTICATED, "unknown token")] * 9
    async with at_work(make_spooler(server, echo)) as task:
        with pytest.raises(UnauthenticatedError, match="unknown token"):
            await ended(task)


def _report_a_thousand_times(job: RunningJob) -> None:
    for n in range(1000):
        job.report(f"step {n}", n / 1000)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it looks at has no event
            await asyncio.sleep(0.001)
