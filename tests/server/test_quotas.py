"""What one user may ask for: quotas by policy, and the limits of a connection (F14)."""

import asyncio
import logging
import statistics
import time
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_server import quotas
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab
from tests.server.refusals import refusal
from tests.server.server_process import caller_of, server_process, write_config

_log = logging.getLogger(__name__)

in_memory = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
CONTENT = b'{"a": 1}'


def submits(number: int, **fields: Any) -> pb.SubmitJobsRequest:
    return pb.SubmitJobsRequest(
        requests=[pb.SubmitJobRequest(backend="sim", content=CONTENT, **fields) for _ in range(number)]
    )


def taken(answer: pb.SubmitJobsResponse) -> list[bool]:
    return [outcome.HasField("job") for outcome in answer.outcomes]


async def submit_for_ever(caller: Caller, content: bytes = CONTENT) -> None:
    while True:
        await caller.submit(content=content)


@pytest.fixture(autouse=True)
def _no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are told at once; the flood's server is another process."""
    monkeypatch.setattr(quotas, "HOLD_S", 0)


@in_memory
async def test_submits_a_second_are_limited(lab: Lab, alice: Caller, bob: Caller) -> None:
    """Beyond it the answer tells whose quota is used up, and when to come back; others are not concerned."""
    await lab.put_policy(user_submits_per_s=3)

    batch = await alice.SubmitJobs(submits(5))
    refused = await refusal(submit_for_ever(alice))
    await bob.submit()
    lab.jump(1)
    await alice.submit()

    assert taken(batch) == [True] * 3 + [False] * 2
    assert batch.outcomes[4].error.reason == "USER_QUOTA"
    assert (refused.code, refused.reason) == (EXHAUSTED, "USER_QUOTA")
    assert refused.metadata["quota"] == "user_submits_per_s"
    assert refused.quota_subjects == ("users/alice",)
    assert refused.retry_after is not None


@in_memory
async def test_bytes_a_second_are_limited(lab: Lab, alice: Caller) -> None:
    """As many as fit; a content that is larger than that passes after a pause, and costs as long a one."""
    await lab.put_policy(user_bytes_per_s=len(CONTENT) * 2)
    large = b'{"a": "' + b"x" * len(CONTENT) * 8 + b'"}'

    await alice.submit()
    refused = await refusal(alice.submit(content=large))
    lab.jump(1)
    await alice.submit(content=large)
    again = await refusal(submit_for_ever(alice, large))
    lab.jump(10)
    await alice.submit()

    assert {refused.metadata["quota"], again.metadata["quota"]} == {"user_bytes_per_s"}


async def test_jobs_that_wait_are_limited(lab: Lab, alice: Caller, bob: Caller) -> None:
    """One user has so many at most; a repeat of an earlier submit is answered all the same."""
    await lab.put_policy(user_max_queued=2)

    first = await alice.submit(request_id="r-1")
    batch = await alice.SubmitJobs(submits(3))
    refused = await refusal(alice.submit())
    repeat = await alice.submit(request_id="r-1")
    await bob.submit()
    await alice.cancel(first.name)
    await alice.submit()

    assert taken(batch) == [True, False, False]
    assert (refused.code, refused.metadata["quota"]) == (EXHAUSTED, "user_max_queued")
    assert repeat.name == first.name


@in_memory
async def test_one_policy_does_not_concern_another_backend(lab: Lab, alice: Caller) -> None:
    """Each backend has quotas of its own."""
    await alice.register("other")
    await lab.put_policy(user_submits_per_s=1)
    await alice.submit()

    assert [await alice.submit("other") for _ in range(3)]


@in_memory
async def test_a_stream_is_not_read_faster_than_allowed(start_lab: StartLab) -> None:
    """Messages beyond the limit wait for the next second; none is lost."""
    lab = await start_lab(limits={"max_messages_per_s": 20})
    await lab.caller("robot").register("sim")
    spooler = FakeSpooler(lab)
    await spooler.connect()

    began = time.monotonic()
    for number in range(60):
        await spooler.credit(number % 3)
    await spooler.beat()

    assert time.monotonic() - began >= 2


@in_memory
async def test_calls_on_one_connection_are_limited(start_lab: StartLab) -> None:
    """One more waits until another has ended; other connections are not concerned."""
    lab = await start_lab(limits={"max_streams": 2})
    alice, other = lab.caller("alice"), lab.caller("alice", lab.new_channel())
    watches = [alice.WatchJobs(pb.WatchJobsRequest()) for _ in range(2)]
    for watch in watches:
        await watch.read()

    third = asyncio.ensure_future(alice.ListBackends(pb.ListBackendsRequest()))
    await other.ListBackends(pb.ListBackendsRequest())
    waited = not third.done()
    watches[0].cancel()
    await asyncio.wait_for(third, PATIENCE_S)
    watches[1].cancel()

    assert waited


@in_memory
async def test_headers_beyond_the_limit_are_refused(lab: Lab) -> None:
    """Metadata of any length would be memory for the asking."""
    call = lab.channel.unary_unary("/spoolway.v1.JobService/ListBackends")
    metadata = [("spoolway-user", "alice"), ("x-long", "x" * 20_000)]

    assert (await refusal(call(b"", metadata=metadata))).code is EXHAUSTED


FLOODERS = 64
SAMPLES = 60


async def _latency_ms(caller: Caller) -> float:
    """Median of a submit, one after another."""
    spans = []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        await caller.submit()
        spans.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.01)
    return statistics.median(spans)


async def test_a_flood_by_one_leaves_the_others_their_pace(tmp_path: Any) -> None:
    """Who submits as fast as he can is slowed down; another's submits take twice as long at most."""
    async with (
        server_process(write_config(tmp_path)) as server,
        caller_of(server) as alice,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        bob = Caller(channel, "bob")
        await alice.register("sim")
        await _limit(alice)
        idle = await _latency_ms(alice)
        refused = 0

        async def flood() -> None:
            nonlocal refused
            while True:
                try:
                    await bob.submit()
                except grpc.aio.AioRpcError:
                    refused += 1

        flooding = [asyncio.create_task(flood()) for _ in range(FLOODERS)]
        await asyncio.sleep(0.5)
        flooded = await _latency_ms(alice)
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)

    _log.info("idle %.2f ms, flooded %.2f ms, %d refused", idle, flooded, refused)
    assert refused > FLOODERS / 2
    # Half a disk's sync more, on a machine that is busy with other things.
    assert flooded < idle * 2 + 10


async def _limit(caller: Caller) -> None:
    policy = job_pb2.BackendPolicy(user_submits_per_s=100)
    mask = FieldMask(paths=["user_submits_per_s"])
    await caller.SetBackendPolicy(
        admin_pb.SetBackendPolicyRequest(name="sim", policy=policy, update_mask=mask)
    )
