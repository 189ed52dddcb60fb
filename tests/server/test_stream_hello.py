"""The beginning of a spooler's stream."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway_server.services import spooler_stream
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab
from tests.server.refusals import Refused, error_info

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def refused_stream(spooler: FakeSpooler) -> Refused:
    """How the server ended a stream that it refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await spooler.ended()
    return error_info(caught.value)


async def test_hello_is_answered_with_what_a_spooler_must_know(lab: Lab) -> None:
    """The welcome has the session, the periods and the limit of results."""
    spooler = FakeSpooler(lab)

    welcome = await spooler.connect()

    assert len(welcome.session) == 32
    assert welcome.lease_ttl.ToTimedelta() == timedelta(seconds=30)
    assert welcome.heartbeat_interval.ToTimedelta() == timedelta(seconds=55)
    assert welcome.accept_timeout.ToTimedelta() == timedelta(seconds=3)
    assert welcome.max_inline_bytes == 2 * 1024 * 1024
    assert (list(welcome.kept), list(welcome.revoked)) == ([], [])


async def test_the_lease_is_the_shortest_of_the_backends(lab: Lab) -> None:
    """With several backends the shortest lease counts, and heartbeats fit into it."""
    await lab.caller("robot").register("quick")
    await lab.put_policy("quick", lease_ttl=timedelta(seconds=6))
    spooler = FakeSpooler(lab, backends=["sim", "quick"])

    welcome = await spooler.connect()

    assert welcome.lease_ttl.ToTimedelta() == timedelta(seconds=6)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({"beat": pb.SpoolerBeat(sequence=1)}, "HELLO_MISSING"),
        ({"credit": pb.Credit(outstanding=1)}, "HELLO_MISSING"),
        ({"drain": pb.Drain(sequence=1)}, "HELLO_MISSING"),
        ({}, "HELLO_MISSING"),
    ],
    ids=["beat", "credit", "drain", "nothing"],
)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_stream_begins_with_hello(lab: Lab, first: dict[str, Any], reason: str) -> None:
    """Any other first message ends the stream."""
    spooler = FakeSpooler(lab)
    spooler.open()

    await spooler.send(**first)

    refused = await refused_stream(spooler)
    assert (refused.code, refused.reason) == (INVALID, reason)


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_stream_without_a_word_is_refused(lab: Lab) -> None:
    """A stream that is closed before hello is refused."""
    spooler = FakeSpooler(lab)
    spooler.open()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await spooler.end()

    assert error_info(caught.value).reason == "HELLO_MISSING"


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_silent_stream_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that says no hello for some seconds is refused."""
    monkeypatch.setattr(spooler_stream, "HELLO_TIMEOUT_S", 0.05)
    spooler = FakeSpooler(lab)
    spooler.open()

    refused = await refused_stream(spooler)

    assert (refused.code, refused.reason) == (INVALID, "HELLO_MISSING")


@pytest.mark.parametrize(
    ("hello", "code", "reason", "fields"),
    [
        ({"protocol": 0}, INVALID, "PROTOCOL_UNKNOWN", ()),
        ({"protocol": 2}, INVALID, "PROTOCOL_UNKNOWN", ()),
        ({"backends": []}, INVALID, "BACKENDS_INVALID", ("hello.backends",)),
        ({"backends": ["sim"] * 257}, INVALID, "BACKENDS_INVALID", ("hello.backends",)),
        (
            {"backends": ["sim", "none"]},
            grpc.StatusCode.NOT_FOUND,
            "BACKEND_NOT_FOUND",
            ("hello.backends",),
        ),
        (
            {"held": [pb.HeldLease(job="backends/sim/jobs/x", lease_token="0" * 32)] * 1001},
            INVALID,
            "TOO_MANY_HELD",
            (),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_wrong_hello_ends_the_stream(
    lab: Lab, hello: dict[str, Any], code: grpc.StatusCode, reason: str, fields: tuple[str, ...]
) -> None:
    """A hello that is wrong ends the stream with what is wrong, and opens no session."""
    spooler = FakeSpooler(lab)
    spooler.open()

    await spooler.say_hello(**hello)

    refused = await refused_stream(spooler)
    assert (refused.code, refused.reason, refused.fields) == (code, reason, fields)
    assert await lab.storage().provider.sessions() == []


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_hello_comes_once(spooler: FakeSpooler) -> None:
    """A second hello ends the stream."""
    await spooler.say_hello()

    refused = await refused_stream(spooler)
    assert (refused.code, refused.reason) == (INVALID, "HELLO_REPEATED")


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_an_empty_message_ends_the_stream(spooler: FakeSpooler) -> None:
    """A message without any of its fields, as of a later protocol, ends the stream."""
    await spooler.send()

    refused = await refused_stream(spooler)
    assert (refused.code, refused.reason) == (INVALID, "MESSAGE_EMPTY")


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("backend", "outstanding", "field"),
    [("", -1, "outstanding"), ("", 1001, "outstanding"), ("other", 1, "backend"), ("../x", 1, "backend")],
)
async def test_a_wrong_credit_ends_the_stream(
    spooler: FakeSpooler, backend: str, outstanding: int, field: str
) -> None:
    """Credit that is no number of jobs, or for a backend that is not in hello, ends the stream."""
    await spooler.credit(outstanding, backend)

    refused = await refused_stream(spooler)
    assert (refused.code, refused.reason) == (INVALID, "CREDIT_INVALID")
    assert refused.fields == (f"credit.{field}",)


async def test_reports_before_a_mistake_are_committed(alice: Caller, spooler: FakeSpooler) -> None:
    """What a stream reported before it broke the rules is durable, and confirmed."""
    job = await alice.submit()
    one = await spooler.take()
    sequence = await spooler.send_report(one, complete=pb.Complete(result=b"{}"))
    await spooler.send()

    confirm = await spooler.confirmed(sequence)

    assert not confirm.HasField("error")
    assert (await alice.until(job.name, "DONE")).result_bytes == 2
    assert (await refused_stream(spooler)).reason == "MESSAGE_EMPTY"


async def test_a_stream_that_the_client_closes_ends_well(lab: Lab, spooler: FakeSpooler) -> None:
    """When the client has closed its side the server ends the stream with OK and forgets the session."""
    await spooler.end()

    await lab.server.spoolers.settle()
    assert await lab.storage().provider.sessions() == []


async def test_a_session_spans_storages(start_lab: StartLab) -> None:
    """One stream may serve backends in several storages."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    spooler = FakeSpooler(lab, backends=["one", "two"])
    await spooler.connect()
    await spooler.credit(2)
    jobs = [await alice.submit("one"), await alice.submit("two")]

    served = await spooler.serve(2)

    assert set(served) == {job.name for job in jobs}
    await spooler.beat()
    await spooler.end()
    await lab.server.spoolers.settle()
    for name in ("main", "second"):
        assert await lab.storage(name).provider.sessions() == []


async def test_an_idle_session_of_two_storages_is_no_ghost_in_either(start_lab: StartLab) -> None:
    """A session that works in one storage all day is kept alive in the other too."""
    lab = await start_lab("main", "second")
    robot, alice = lab.caller("robot"), lab.caller()
    await robot.register("one")
    await robot.register("two", storage="second")
    spooler = FakeSpooler(lab, backends=["one", "two"])
    await spooler.connect()
    await spooler.credit(1)

    for _ in range(12):
        await lab.pass_time(300)
        await alice.submit("one")
        one = await spooler.take()
        await spooler.beat()
        await spooler.complete(one)
        await spooler.beat()

    assert "goaway" not in spooler.kinds
    for name in ("main", "second"):
        (view,) = await lab.storage(name).provider.sessions()
        assert view.session.state == "LIVE"
    job = await alice.submit("two")
    assert await spooler.serve(1) == [job.name]


async def test_assignments_fit_into_the_messages_of_the_spooler(lab: Lab, alice: Caller) -> None:
    """Jobs go out in messages no longer than the spooler says that it can receive."""
    requests = [pb.SubmitJobRequest(backend="sim", content=b'"' + b"a" * 40_000 + b'"') for _ in range(10)]
    await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))
    spooler = FakeSpooler(lab)
    await spooler.connect(max_message_bytes=100_000)
    await spooler.credit(10)

    await spooler.assignments(10)

    assert max(spooler.sizes) <= 100_000
    assert spooler.kinds.count("assign") == 5


async def test_many_streams_open_at_once(lab: Lab, alice: Caller) -> None:
    """A crowd of spoolers connects at once, and each gets its job."""
    crowd = [FakeSpooler(lab, f"s{i}") for i in range(20)]
    await asyncio.gather(*(spooler.connect() for spooler in crowd))
    await asyncio.gather(*(spooler.credit(1) for spooler in crowd))

    await asyncio.gather(*(alice.submit() for _ in crowd))

    names = await asyncio.gather(*(spooler.serve(1) for spooler in crowd))
    assert len({name for (name,) in names}) == 20
