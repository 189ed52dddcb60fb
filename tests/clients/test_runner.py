"""Running functions: threads, tracebacks, results."""

import asyncio
import functools
import threading
from typing import Any

import pytest

from spoolway import RunningJob
from spoolway.held import HeldJob, SpooledBackend
from spoolway.leases import LeaseClock
from spoolway.runner import Runner, end_of_error, end_of_result, is_async
from spoolway.timing import Backoff
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import PATIENCE_S, job_name, token

NO_TRANSFER: Any = None


def held_job(run: Any = str, job_id: str = "1") -> HeldJob:
    assignment = pb.Assignment(job=job_name(job_id), lease_token=token(job_id), content=b"{}")
    backend = SpooledBackend(
        name="echo", config=b"{}", storage="", run=run, is_async=is_async(run), concurrency=1
    )
    job = RunningJob(assignment, LeaseClock(lambda: 0.0), lambda _: None)
    return HeldJob(token=token(job_id), job=job, backend=backend, resends=Backoff(1, 1))


async def asynchronous(job: RunningJob) -> None:
    pass


class AsyncCallable:
    async def __call__(self, job: RunningJob) -> None:
        pass


@pytest.mark.parametrize(
    ("run", "awaited"),
    [
        (asynchronous, True),
        (functools.partial(asynchronous), True),
        (AsyncCallable(), True),
        (AsyncCallable().__call__, True),
        (str, False),
        (lambda job: None, False),
        (functools.partial(str), False),
    ],
)
def test_async_functions_are_known(run: Any, awaited: bool) -> None:
    """Whatever shape an async function comes in, it is awaited."""
    assert is_async(run) is awaited


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    """What is cut to 10,000 characters still shows where it began and what went wrong."""

    def deep(n: int) -> None:
        if n == 0:
            raise ValueError("x" * 20_000 + " the very end")
        deep(n - 1)

    try:
        deep(3)
    except ValueError as error:
        message = end_of_error(held_job(), error).fail.message

    assert len(message) == 10_000
    assert message.startswith("Traceback (most recent call last):")
    assert "characters or more left out" in message
    assert message.endswith("the very end\n")


def test_an_error_that_can_t_be_shown_is_told_all_the_same() -> None:
    """An exception whose own text fails does not take the spooler with it."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert "Broken" in end_of_error(held_job(), Broken()).fail.message


def test_the_cause_of_an_error_is_shown() -> None:
    """Chained exceptions are told whole."""
    try:
        try:
            raise OSError("cable unplugged")
        except OSError as cause:
            raise ValueError("no laser") from cause
    except ValueError as error:
        message = end_of_error(held_job(), error).fail.message

    assert "cable unplugged" in message
    assert "direct cause" in message


def test_a_result_that_contains_itself_is_a_failure() -> None:
    """A result without end is no JSON."""
    endless: list[Any] = []
    endless.append(endless)

    assert "can't be written as JSON" in end_of_result(held_job(), endless, 1000).fail.message


def test_a_result_up_to_the_limit_is_sent_within_the_report() -> None:
    """Only what does not fit into a message is uploaded."""
    inline, large = held_job(), held_job()
    end = end_of_result(inline, "x" * 1000, 1000)
    end_of_result(large, "x" * 1001, 1000)

    assert len(end.complete.result) == 1000
    assert inline.large_result is None
    assert large.large_result == b"x" * 1001


async def test_every_end_of_a_storm_of_threads_arrives() -> None:
    """No end is lost between threads that finish together and the event loop."""
    ends: list[str] = []
    done = asyncio.Event()

    def finished(held: HeldJob, end: pb.LeaseUpdate) -> None:
        ends.append(end.job)
        if len(ends) == 2_000:
            done.set()

    runner = Runner(16, NO_TRANSFER, finished)
    for n in range(2_000):
        runner.start(held_job(lambda job: "{}", str(n)))
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    runner.close()

    assert sorted(ends) == sorted(job_name(str(n)) for n in range(2_000))


async def test_idle_threads_end_with_the_runner() -> None:
    """A spooler that has ended leaves no threads behind."""
    ended = asyncio.Event()
    runner = Runner(3, NO_TRANSFER, lambda held, end: ended.set())
    runner.start(held_job(lambda job: "{}"))
    await ended.wait()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("spoolway-run")]

    runner.close()

    assert threads
    for thread in threads:
        await asyncio.to_thread(thread.join, PATIENCE_S)
        assert not thread.is_alive()


def test_an_end_after_the_spooler_s_end_is_passed_over() -> None:
    """A function that returns when its event loop is gone does no harm."""
    go_on, started = threading.Event(), threading.Event()

    def run(job: RunningJob) -> None:
        started.set()
        go_on.wait(PATIENCE_S)

    async def main() -> None:
        runner = Runner(1, NO_TRANSFER, lambda held, end: None)
        runner.start(held_job(run))
        runner.close()
        await asyncio.to_thread(started.wait, PATIENCE_S)

    asyncio.run(main())
    [thread] = [thread for thread in threading.enumerate() if thread.name.startswith("spoolway-run")]
    go_on.set()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()


def test_reports_from_many_threads_keep_all_fields() -> None:
    """Threads that report different things at once do not lose each other's words."""
    notified: list[str] = []
    assignment = pb.Assignment(job=job_name("1"), lease_token="t")
    job = RunningJob(assignment, LeaseClock(lambda: 0.0), notified.append)
    threads = [
        threading.Thread(target=job.report, kwargs=fields)
        for fields in ({"stage": "a"}, {"fraction": 0.5}, {"detail": "b"})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert job._take_progress() == pb.Progress(stage="a", fraction=0.5, detail="b")
    assert job._take_progress() is None
    assert notified == ["t"]
