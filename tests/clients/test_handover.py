"""Jobs handed from a spooler's stream to a loop that asks for them."""

import asyncio
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from spoolway import handover as module
from spoolway.blocking import thread as loop_thread
from spoolway.errors import JobError, RetryLater, SessionReplacedError, SettingsError, UnauthenticatedError
from spoolway.handover import Handover
from spoolway.leases import LeaseClock
from spoolway.runner import RunFunction
from spoolway.running import RunningJob
from spoolway.timing import steady_clock
from spoolway.v1 import job_service_pb2 as pb

PATIENCE_S = 10.0


class FakeSpooler:
    """Serves until it is stopped; the test hands it jobs."""

    def __init__(self, backends: Collection[str], run: RunFunction, *, is_restart: bool) -> None:
        self.backends = list(backends)
        self.is_restart = is_restart
        self._run = run
        self._stopped = asyncio.Event()
        self._jobs: set[asyncio.Task[bytes]] = set()
        self.error: Exception | None = None

    async def serve(self) -> None:
        await self._stopped.wait()
        for job in self._jobs:
            job.cancel()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        loop_thread.start(self._stop())

    drain = stop

    def give(self, job: RunningJob) -> "Future[bytes]":
        return loop_thread.start(self._work(job))

    async def _work(self, job: RunningJob) -> bytes:
        task = asyncio.ensure_future(self._run(job))
        self._jobs.add(task)
        return await task

    async def _stop(self) -> None:
        self._stopped.set()


class Bench:
    """A handover, and the spoolers that it opened."""

    def __init__(self) -> None:
        self.opened: list[FakeSpooler] = []
        self.error: Exception | None = None
        self.handover = Handover(self._open)

    def _open(self, backends: Collection[str], run: RunFunction, is_restart: bool) -> Any:
        if self.error is not None:
            raise self.error
        self.opened.append(FakeSpooler(backends, run, is_restart=is_restart))
        return self.opened[-1]

    def give(self, job_id: str = "1", backend: str = "a") -> "tuple[RunningJob, Future[bytes]]":
        job = a_job(job_id, backend)
        return job, self.opened[-1].give(job)


def a_job(job_id: str, backend: str = "a") -> RunningJob:
    assignment = pb.Assignment(job=f"backends/{backend}/jobs/{job_id}", lease_token="t", content=b"{}")
    return RunningJob(assignment, LeaseClock(steady_clock()), lambda token: None)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    assert bench.handover.take("a", 0) is None
    yield bench
    bench.handover.close()


def test_a_job_that_comes_while_the_loop_waits_is_taken_at_once(bench: Bench) -> None:
    """Waiting for it ends with its coming, and its end is what the loop brings."""
    job, end = bench.give()

    assert bench.handover.take("a", PATIENCE_S) is job
    assert bench.handover.job("1") is job
    bench.handover.complete("1", b"[1]")
    assert end.result(PATIENCE_S) == b"[1]"


def test_a_job_of_another_backend_is_kept_until_the_loop_asks_for_it() -> None:
    """The loop asks for one backend after the other, and must not wait at the wrong one."""
    bench = Bench()
    bench.handover.take("a", 0, others=["b"])
    job, _ = bench.give(backend="b")

    assert bench.handover.take("b", PATIENCE_S) is job
    assert bench.opened[0].backends == ["a", "b"]
    bench.handover.close()


def test_a_failure_is_told_in_the_loops_own_words(bench: Bench) -> None:
    _, end = bench.give()
    bench.handover.take("a", PATIENCE_S)

    bench.handover.fail("1", "too hot")

    with pytest.raises(JobError, match=r"^too hot$"):
        end.result(PATIENCE_S)


def test_a_loop_that_died_gives_its_job_back_when_the_next_one_asks(bench: Bench) -> None:
    """As an attempt that failed and may be repeated: a job that ends every loop must end, too."""
    _, end = bench.give()
    bench.handover.take("a", PATIENCE_S)

    assert bench.handover.take("a", 0) is None

    with pytest.raises(RetryLater, match="loop ended"):
        end.result(PATIENCE_S)


def test_the_process_end_gives_the_job_back_with_what_ended_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, end = bench.give()
    bench.handover.take("a", PATIENCE_S)
    monkeypatch.setattr("sys.last_value", KeyError("spin"), raising=False)

    bench.handover.close()

    with pytest.raises(RetryLater, match="KeyError\\('spin'\\)"):
        end.result(PATIENCE_S)


def test_a_job_cancelled_before_it_was_taken_is_not_handed_out(bench: Bench) -> None:
    job, end = bench.give()
    job._cancel()

    assert bench.handover.take("a", 0.5) is None

    with pytest.raises(JobError, match="cancelled"):
        end.result(PATIENCE_S)


def test_what_is_not_in_hand_changes_nothing(bench: Bench) -> None:
    """A late or repeated end is dropped; the first one counts."""
    _, end = bench.give()
    bench.handover.take("a", PATIENCE_S)

    bench.handover.fail("2", "another's")
    bench.handover.complete("1", b"1")
    bench.handover.complete("1", b"2")

    assert end.result(PATIENCE_S) == b"1"


def test_a_backend_that_is_asked_for_later_is_served_by_a_new_spooler(bench: Bench) -> None:
    """With those before it; the old spooler is surely dead."""
    assert bench.handover.take("b", PATIENCE_S / 10) is None

    assert [spooler.backends for spooler in bench.opened] == [["a"], ["a", "b"]]
    assert bench.opened[1].is_restart


def test_a_job_that_nobody_asks_for_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop may be gone while the process lives on."""
    monkeypatch.setattr(module, "_UNASKED_S", 0.01)
    _, end = bench.give()

    with pytest.raises(CancelledError):
        end.result(PATIENCE_S)


def test_a_job_of_a_backend_that_the_loop_never_asks_for_is_given_back() -> None:
    """It would block all others; the next spooler serves what is asked for."""
    bench = Bench()
    bench.handover.take("a", 0, others=["b", "c"])
    bench.handover.take("c", 0)
    _, end = bench.give(backend="b")

    while not end.done():
        assert bench.handover.take("a", 0) is bench.handover.take("c", 0) is None
    bench.handover.take("a", 0.2)

    assert end.cancelled()
    assert [spooler.backends for spooler in bench.opened] == [["a", "b", "c"], ["a", "c"]]
    bench.handover.close()


def test_a_spooler_that_was_replaced_is_not_said_to_be_dead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that took its place lives, and its jobs must not be given to another."""
    monkeypatch.setattr(module, "_REPLACED_S", 0.01)
    bench.opened[0].error = SessionReplacedError("newer")
    bench.opened[0].stop()

    while len(bench.opened) < 2:
        assert bench.handover.take("a", 0.05) is None

    assert not bench.opened[1].is_restart


def test_a_spooler_that_is_refused_is_no_exception_but_no_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, and another spooler is opened after a while."""
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    bench.opened[0].error = UnauthenticatedError("no token")
    bench.opened[0].stop()

    while len(bench.opened) < 2:
        assert bench.handover.take("a", 0.05) is None


def test_settings_that_are_wrong_are_no_exception_but_no_job() -> None:
    bench = Bench()
    bench.error = SettingsError("no such name")

    assert bench.handover.take("a", 0) is None
