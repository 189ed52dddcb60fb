"""The blocking twins."""

import asyncio
import inspect
import threading
from collections.abc import Iterator

import grpc
import pytest

from spoolway import (
    AdminClient,
    Job,
    JobClient,
    NotFoundError,
    SpoolwayError,
    SyncAdminClient,
    SyncJob,
    SyncJobClient,
)
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import FakeServer, Refusal, events, fake_server, in_turn, job, job_name


@pytest.fixture
def sync_server() -> Iterator[FakeServer]:
    """A server in a thread of its own, as the blocking client would block its loop."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # noise of gRPC where two loops run
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    running = fake_server()
    yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result()
    asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def sync_client(sync_server: FakeServer) -> Iterator[SyncJobClient]:
    with SyncJobClient(sync_server.address, user="ada") as client:
        yield client


@pytest.mark.parametrize(
    ("blocking", "original"), [(SyncJobClient, JobClient), (SyncJob, Job), (SyncAdminClient, AdminClient)]
)
def test_each_method_has_its_twin(blocking: type, original: type) -> None:
    """The blocking classes have the same methods with the same arguments."""

    def arguments(cls: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(cls, inspect.isfunction)
        public = {name: f for name, f in methods if not name.startswith("_")}
        return {name: list(inspect.signature(f).parameters) for name, f in public.items()}

    assert arguments(blocking) == arguments(original)
    if original is not Job:
        mine, theirs = inspect.signature(blocking), inspect.signature(original)
        assert list(mine.parameters.values()) == list(theirs.parameters.values())


def test_a_job_from_submit_to_result(sync_server: FakeServer, sync_client: SyncJobClient) -> None:
    """A script submits, waits and reads without a word of asyncio."""
    sync_server.answers["SubmitJob"] = in_turn(pb.SubmitJobResponse(job=job()))
    sync_server.answers["WatchJobs"] = lambda request: events(
        pb.WatchJobsResponse(jobs=[job(state="DONE", revision=2)]), hang=True
    )
    sync_server.answers["GetResult"] = in_turn(pb.GetResultResponse(content=b"[1]"))

    handle = sync_client.submit("echo", {}, labels={"a": "b"})

    assert (handle.id, handle.backend, handle.name) == ("1", "echo", job_name("1"))
    assert handle.result(timeout=10) == [1]
    assert handle.result_bytes() == b"[1]"
    assert handle.snapshot is not None
    assert handle.wait().state == "DONE"
    assert repr(handle) == "<Job backends/echo/jobs/1 DONE>"


def test_many_jobs_are_blocking_handles(sync_server: FakeServer, sync_client: SyncJobClient) -> None:
    """A batch answers blocking handles."""
    sync_server.answers["SubmitJobs"] = in_turn(
        pb.SubmitJobsResponse(outcomes=[pb.SubmitOutcome(job=job("1")), pb.SubmitOutcome(job=job("2"))])
    )

    first, second = sync_client.submit_many("echo", ["1", "2"])

    assert isinstance(first, SyncJob)
    assert isinstance(second, SyncJob)
    assert second.id == "2"


def test_iterators_block(sync_server: FakeServer, sync_client: SyncJobClient) -> None:
    """Lists and watches are plain iterators, and can be left early."""
    sync_server.answers["ListJobs"] = in_turn(pb.ListJobsResponse(jobs=[job("1"), job("2")]))
    sync_server.answers["WatchJobs"] = lambda request: events(
        pb.WatchJobsResponse(jobs=[job()]),
        pb.WatchJobsResponse(jobs=[job(state="DONE", revision=2)]),
        hang=True,
    )

    listed = [handle.id for handle in sync_client.jobs("echo")]
    watched = [snapshot.state for snapshot in sync_client.job(job_name("1")).watch()]
    first = next(iter(sync_client.watch([sync_client.job(job_name("1"))])))

    assert listed == ["1", "2"]
    assert watched == ["QUEUED", "DONE"]
    assert first.state == "QUEUED"


def test_errors_are_the_same(sync_server: FakeServer, sync_client: SyncJobClient) -> None:
    """Errors pass from the background thread to the caller."""
    sync_server.answers["GetJob"] = in_turn(Refusal(grpc.StatusCode.NOT_FOUND, "no job"))

    with pytest.raises(NotFoundError, match="no job"):
        sync_client.job("1").status()


def test_the_other_calls_work(sync_server: FakeServer, sync_client: SyncJobClient) -> None:
    """Each of the remaining methods reaches the server."""
    sync_server.answers["SubmitJob"] = in_turn(pb.SubmitJobResponse(job=job()))
    sync_server.answers["CancelJob"] = in_turn(pb.CancelJobResponse(job=job(state="CANCELLED", revision=2)))
    sync_server.answers["ListBackends"] = in_turn(pb.ListBackendsResponse())
    sync_server.answers["GetBackend"] = in_turn(pb.GetBackendResponse())

    sync_client.validate("echo", {})

    assert sync_client.job("1").cancel().state == "CANCELLED"
    assert sync_client.backends() == []
    assert sync_client.backend("echo").config == {}
    assert (sync_client.address, sync_client.user) == (sync_server.address, "ada")


def test_a_closed_client_says_so(sync_server: FakeServer) -> None:
    """Using a client after its end is an error that tells why."""
    client = SyncJobClient(sync_server.address)
    client.close()

    with pytest.raises(SpoolwayError, match="this client is closed"):
        client.backends()
