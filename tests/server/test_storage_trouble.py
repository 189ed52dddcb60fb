"""Trouble of a storage: it shows, it stays there, and it passes by itself."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.errors import Corrupt, LoginRefused, NotOwner, Unavailable, Uncertain
from spoolway_server import reaper, storage
from spoolway_server.app import SpoolwayServer
from spoolway_server.clock import Clock
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually, outcomes_of, state_of
from tests.server.refusals import refusal
from tests.server.storage_faults import StorageFaults

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Follows the health of a service."""

    def __init__(self, lab: Lab, service: str) -> None:
        self._stub = health_pb2_grpc.HealthStub(lab.channel)
        self._request = health_pb2.HealthCheckRequest(service=service)

    async def now(self) -> int:
        """How it stands."""
        status: int = (await self._stub.Check(self._request)).status
        return status

    async def until(self, status: int) -> None:
        """Wait until it stands so."""
        watch = self._stub.Watch(self._request)
        async with asyncio.timeout(PATIENCE_S):
            while (await watch.read()).status != status:
                pass
        watch.cancel()


@pytest.fixture(autouse=True)
def _quick_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage in trouble is looked at again soon."""
    monkeypatch.setattr(storage, "FIRST_REOPEN_S", 0.05)
    monkeypatch.setattr(storage, "HEALTH_PATIENCE_S", 0.1)


Call = Callable[[Caller, str], Any]
CALLS: dict[str, tuple[str, Call]] = {
    "SubmitJob": ("submit", lambda c, _: c.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}"))),
    "GetJob": ("get", lambda c, name: c.GetJob(pb.GetJobRequest(name=name))),
    "GetJob by id": ("find", lambda c, name: c.GetJob(pb.GetJobRequest(name=name[-24:]))),
    "GetStatus": ("get", lambda c, name: c.GetStatus(pb.GetStatusRequest(name=name))),
    "GetResult": ("get", lambda c, name: c.GetResult(pb.GetResultRequest(name=name))),
    "WaitJob": ("get", lambda c, name: c.WaitJob(pb.WaitJobRequest(name=name))),
    "WatchJobs": ("find", lambda c, _: c.WatchJobs(pb.WatchJobsRequest()).read()),
    "ListJobs": ("find", lambda c, _: c.ListJobs(pb.ListJobsRequest())),
    "CancelJob": ("commit", lambda c, name: c.CancelJob(pb.CancelJobRequest(name=name))),
    "ExplainJob": ("sessions", lambda c, name: c.ExplainJob(pb.ExplainJobRequest(name=name))),
    "RegisterBackend": (
        "put_config",
        lambda c, _: c.RegisterBackend(pb.RegisterBackendRequest(backend="sim", config=b'{"a": 1}')),
    ),
    "GetBackend": ("sessions", lambda c, _: c.GetBackend(pb.GetBackendRequest(name="sim"))),
}


@pytest.mark.parametrize("rpc", CALLS)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_call_that_needs_a_storage_in_trouble_is_unavailable(
    lab: Lab, alice: Caller, rpc: str
) -> None:
    """It is UNAVAILABLE and says when to try again; when the trouble is over it works."""
    job = await alice.submit()
    method, call = CALLS[rpc]

    with lab.faults().failing(Unavailable("disk full", timedelta(seconds=7)), method):
        refused = await refusal(call(alice, job.name))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refused.retry_after == timedelta(seconds=7)
    assert refused.message == "disk full"
    if rpc == "GetResult":
        assert (await refusal(call(alice, job.name))).reason == "RESULT_NOT_READY"
    elif rpc != "WaitJob":
        await call(alice, job.name)


@pytest.mark.parametrize(
    "rpc",
    ["SubmitJob", "GetJob", "GetJob by id", "GetStatus", "WaitJob", "ListJobs", "CancelJob", "GetResult"],
)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_trouble_shows_in_the_health_of_its_storage_alone(lab: Lab, alice: Caller, rpc: str) -> None:
    """A failed call turns `storage/NAME`, never the server's own health."""
    job = await alice.submit()
    method, call = CALLS[rpc]

    with lab.faults().failing(Unavailable("disk full"), method, "backends"):
        await refusal(call(alice, job.name))

        await Health(lab, "storage/main").until(NOT_SERVING)
        assert await Health(lab, "").now() == SERVING
        assert await Health(lab, "spoolway.v1.JobService").now() == SERVING
        answer = await alice.GetStorage(admin_pb.GetStorageRequest(name="main"))
        assert (answer.storage.health.serving, answer.storage.health.message) == (False, "disk full")


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_one_failed_call_does_not_turn_the_health(
    lab: Lab, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks elsewhere for a call that timed out; what the storage says for good turns it at once."""
    monkeypatch.setattr(storage, "HEALTH_PATIENCE_S", 60.0)
    turns: list[bool] = []
    health = lab.storage()
    health.on_health_change = lambda: turns.append(health.serving)

    for _ in range(3):
        lab.faults().fail_once(Unavailable("busy"), "submit")
        await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))
        await alice.submit()
    assert turns == []

    with lab.faults().failing(LoginRefused("the login is refused"), "submit", "backends"):
        await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))
        assert turns == [False]

    await eventually(lambda: turns == [False, True])


async def test_trouble_passes_by_itself(lab: Lab, alice: Caller) -> None:
    """When the storage answers again its health turns back, without a call or a restart."""
    with lab.faults().failing(Unavailable("down"), "submit", "backends"):
        await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))
        await Health(lab, "storage/main").until(NOT_SERVING)

    await Health(lab, "storage/main").until(SERVING)

    answer = await alice.GetStorage(admin_pb.GetStorageRequest(name="main"))
    assert (answer.storage.health.serving, answer.storage.health.message) == (True, "")


async def test_the_trouble_of_one_storage_stops_no_other(start_lab: StartLab) -> None:
    """While one storage is down jobs of the others go through, spoolers of both included."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    spooler = FakeSpooler(lab, backends=["one", "two"])
    await spooler.connect()
    await spooler.credit(1)

    with lab.faults("second").failing(Unavailable("down"), "submit", "claim", "commit", "find", "get"):
        job = await alice.submit("one")
        assert await spooler.serve(1) == [job.name]
        refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="two", content=b"{}")))
        assert refused.reason == "STORAGE_UNAVAILABLE"
        assert await Health(lab, "storage/main").now() == SERVING

    later = await alice.submit("two")
    assert await spooler.serve(1) == [later.name]


async def test_a_batch_over_two_storages_is_answered_job_by_job(start_lab: StartLab) -> None:
    """In a batch the jobs of the storage that is down are refused, and the others are stored and say so."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    requests = [pb.SubmitJobRequest(backend=name, content=b"{}") for name in ("two", "one", "two", "one")]

    with lab.faults("second").failing(Unavailable("down"), "submit"):
        outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes

    assert [outcome.error.reason for outcome in outcomes] == [
        "STORAGE_UNAVAILABLE",
        "",
        "STORAGE_UNAVAILABLE",
        "",
    ]
    assert len((await alice.ListJobs(pb.ListJobsRequest(backend="one"))).jobs) == 2


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("no route"), "STORAGE_UNAVAILABLE"),
        (LoginRefused("the key has expired"), "STORAGE_UNAVAILABLE"),
        (NotOwner("otherhost:50061"), "STORAGE_UNAVAILABLE"),
        (Corrupt("written by a newer version"), "STORAGE_UNAVAILABLE"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_f19_a_storage_that_cannot_be_opened_comes_later(
    start_lab: StartLab, error: Exception, reason: str
) -> None:
    """A storage in trouble at start holds nothing up: its calls fail with the trouble, and it comes later."""
    down = ExitStack()

    def break_it(server: SpoolwayServer) -> None:
        faults = StorageFaults(server.storages.by_name["main"].provider)
        down.enter_context(faults.failing(error, "open"))

    lab = await start_lab(before_start=break_it)
    alice = lab.caller()

    refused = [await refusal(call(alice, f"backends/sim/jobs/{'0' * 24}")) for _, call in CALLS.values()]
    await Health(lab, "storage/main").until(NOT_SERVING)
    for answer in refused:
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, reason)
        assert answer.metadata == {"storage": "main"}
        assert answer.retry_after
        assert str(error) in answer.message
    assert await Health(lab, "").now() == SERVING

    down.close()
    await Health(lab, "storage/main").until(SERVING)

    await lab.caller("robot").register()
    assert (await alice.submit()).name


@pytest.mark.parametrize("method", ["open", "wait", "changes", "sessions", "claim"])
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_f19_a_fault_of_a_provider_ends_neither_server_nor_storage(
    start_lab: StartLab, method: str
) -> None:
    """What a provider must never raise stops nothing: jobs go through as soon as it is over."""
    down = ExitStack()

    def break_it(server: SpoolwayServer) -> None:
        faults = StorageFaults(server.storages.by_name["main"].provider)
        down.enter_context(faults.failing(RuntimeError("a bug in a plug-in"), method))
        broken.append(faults)

    broken: list[StorageFaults] = []
    lab = await start_lab(before_start=break_it)
    await lab.storage().provider.put_config("sim", b"{}", None)
    await eventually(lambda: method == "claim" or method in broken[0].calls or method == "changes")
    down.close()
    await asyncio.wait_for(lab.storage().opened.wait(), PATIENCE_S)

    alice = lab.caller()
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    job = await alice.submit()
    ended = asyncio.create_task(alice.until_ended(job.name))
    await spooler.serve(1)

    assert state_of(await ended) == "DONE"


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_watch_outlives_a_fault_of_the_provider(lab: Lab, alice: Caller) -> None:
    """Who waits for a job is told of its end, also if reading the changes failed in a way it must not."""
    job = await alice.submit()
    waiting = asyncio.create_task(alice.until_ended(job.name))
    await eventually(lambda: lab.storage().feed.watched)
    lab.faults().fail_once(RuntimeError("a bug in a plug-in"), "changes")

    await alice.cancel(job.name)

    assert state_of(await waiting) == "CANCELLED"


async def test_jobs_go_through_without_wake_ups(
    lab: Lab, alice: Caller, spooler: FakeSpooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wake-ups are an optimisation: without any, polls find new jobs, changes and ends."""
    provider = lab.storage().provider

    async def wait(timeout: timedelta) -> None:
        await asyncio.sleep(0.05)

    monkeypatch.setattr(provider, "wait", wait)
    monkeypatch.setattr(lab.storage(), "expect_jobs", lambda _: None)
    await provider.put_config("other", b"{}", None)
    await spooler.beat()
    jobs = []
    for _ in range(3):
        job = await alice.submit()
        ended = asyncio.create_task(alice.until_ended(job.name))
        await spooler.serve(1)
        jobs.append(state_of(await ended))

    assert jobs == ["DONE"] * 3


# Outcomes that are unknown


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_a_submit_of_unknown_outcome_is_read_back(lab: Lab, alice: Caller, done: bool) -> None:
    """With a request id a submit whose outcome was unknown is stored once, and answered."""
    lab.faults().fail_once(Uncertain("connection lost"), "submit", done=done)

    job = await alice.submit(request_id="r")

    assert [one.name for one in await alice.all_jobs()] == [job.name]
    assert (await alice.submit(request_id="r")).name == job.name


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_a_submit_without_a_request_id_is_never_stored_twice(
    lab: Lab, alice: Caller, done: bool
) -> None:
    """Without a request id the caller is told that the outcome is unknown."""
    lab.faults().fail_once(Uncertain("connection lost"), "submit", done=done)

    refused = await refusal(alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
    assert refused.retry_after
    assert len(await alice.all_jobs()) == done


async def test_a_batch_of_unknown_outcome_is_read_back_where_it_can_be(lab: Lab, alice: Caller) -> None:
    """Jobs of a batch with request ids are answered; of the others it is said that nobody knows."""
    lab.faults().fail_once(Uncertain("connection lost"), "submit", done=True)
    requests = [
        pb.SubmitJobRequest(backend="sim", content=b"%d" % i, request_id=f"r{i}" if i % 2 else "")
        for i in range(6)
    ]

    outcomes = (await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes

    assert [outcome.error.reason for outcome in outcomes] == ["OUTCOME_UNKNOWN", ""] * 3
    assert len(await alice.all_jobs()) == 6


async def test_a_submit_that_stays_unknown_says_so(lab: Lab, alice: Caller) -> None:
    """Where the read back fails too the outcome is unknown, not surely nothing."""
    faults = lab.faults()
    with faults.failing(Unavailable("down"), "submit"):
        faults.fail_once(Uncertain("connection lost"), "submit")
        refused = await refusal(
            alice.SubmitJob(pb.SubmitJobRequest(backend="sim", content=b"{}", request_id="r"))
        )

    assert refused.reason == "OUTCOME_UNKNOWN"


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_a_claim_of_unknown_outcome_is_read_back(
    lab: Lab, alice: Caller, spooler: FakeSpooler, done: bool
) -> None:
    """A job whose claim was unknown reaches its spooler once, with its content."""
    await spooler.beat()
    job = await alice.submit(content=b'{"n": 7}')
    await spooler.serve(1)
    await spooler.credit(0)
    await spooler.beat()
    job = await alice.submit(content=b'{"n": 8}')
    lab.faults().fail_once(Uncertain("connection lost"), "claim", done=done)
    await spooler.credit(1)

    one = await spooler.take()

    assert (one.job, one.content) == (job.name, b'{"n": 8}')
    await spooler.complete(one)
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("report", ["accept", "complete", "fail", "release"])
async def test_a_report_of_unknown_outcome_takes_effect_once(
    lab: Lab, alice: Caller, spooler: FakeSpooler, report: str, done: bool
) -> None:
    """A report whose commit was unknown is read back: confirmed, and in effect exactly once."""
    job = await alice.submit()
    one = await (spooler.assignment() if report == "accept" else spooler.take())
    await spooler.credit(0)
    await spooler.beat()
    lab.faults().fail_once(Uncertain("connection lost"), "commit", done=done)

    confirm = await getattr(spooler, report)(one)

    assert not confirm.HasField("error")
    after = await alice.job(job.name)
    assert (state_of(after), after.attempt_count) == {
        "accept": ("RUNNING", 1),
        "complete": ("DONE", 1),
        "fail": ("ERROR(FAILED)", 1),
        "release": ("QUEUED", 0),
    }[report]
    if report == "complete":
        result = await alice.GetResult(pb.GetResultRequest(name=job.name))
        assert result.sha256 == confirm.result_sha256


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
async def test_a_cancel_of_unknown_outcome_is_read_back(lab: Lab, alice: Caller, done: bool) -> None:
    """A cancel whose commit was unknown is in effect once, and answered."""
    job = await alice.submit()
    lab.faults().fail_once(Uncertain("connection lost"), "commit", done=done)

    answer = await alice.cancel(job.name)

    assert state_of(answer) == "CANCELLED"
    assert answer.revision == job.revision + 1


async def test_a_report_that_could_not_be_committed_may_be_sent_again(
    lab: Lab, alice: Caller, spooler: FakeSpooler
) -> None:
    """While the storage is down a report is refused with UNAVAILABLE; sent again later it counts."""
    job = await alice.submit()
    one = await spooler.take()
    with lab.faults().failing(Unavailable("down"), "commit"):
        refused = await spooler.complete(one, b'{"n": 1}')

    confirm = await spooler.complete(one, b'{"n": 1}')

    assert refused.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert not confirm.HasField("error")
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


async def test_spoolers_are_served_again_after_an_outage(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """When claims have failed for a while the waiting spooler gets its job, without doing anything."""
    spooler = await start_spooler()
    await spooler.beat()
    faults = lab.faults()
    with faults.failing(Unavailable("down"), "claim"):
        job = await alice.submit()
        await eventually(lambda: faults.calls.count("claim") >= 2)

    assert await spooler.serve(1) == [job.name]


async def test_a_hello_while_the_storage_is_down_is_unavailable(lab: Lab) -> None:
    """A stream that can't open its session ends with UNAVAILABLE: try again."""
    spooler = FakeSpooler(lab)
    with (
        lab.faults().failing(Unavailable("down"), "open_session"),
        pytest.raises(grpc.aio.AioRpcError) as caught,
    ):
        await spooler.connect()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await spooler.connect()


async def test_an_outage_is_an_amnesty(start_lab: StartLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No session is closed for beats that the storage itself did not take, however long it was down."""
    monkeypatch.setattr(reaper, "BUSY_LOOK_S", 0.1)
    lab = await start_lab(
        clock=Clock(),
        leases={"ttl_s": 0.3, "resume_grace_s": 0.2, "heartbeat_interval_s": 0.1},
    )
    await lab.caller("robot").register()
    alice = lab.caller()
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    job = await alice.submit()
    one = await spooler.take()
    faults = lab.faults()

    with faults.failing(Unavailable("down"), "renew", "sessions", "close_session", "commit"):
        # Longer than lease and grace: as long as it takes to look six times.
        await spooler.send_beat()
        await eventually(lambda: faults.calls.count("sessions") >= 6)
    await spooler.beat()
    await lab.storage().reaper.look()

    assert not (await spooler.complete(one)).HasField("error")
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]


async def test_a_storage_that_takes_no_writes_closes_no_session(lab: Lab, alice: Caller) -> None:
    """While renewals fail nobody is silent, even if the storage can be read throughout."""
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    job = await alice.submit()
    one = await spooler.take()
    with lab.faults().failing(Unavailable("read-only"), "renew"):
        for _ in range(4):
            await lab.pass_time(25)
            await spooler.send_beat()
            await spooler.report(pb.Assignment(job="x", lease_token="x"), accept=pb.Accept())
    await lab.pass_time(25)
    await spooler.beat()

    assert not (await spooler.complete(one)).HasField("error")
    assert outcomes_of(await alice.job(job.name)) == ["DONE"]
