"""Bad jobs harm only their own submit (F6, F14): a status, a reason of its own, the field, nothing stored."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import Lab
from tests.server.refusals import error_info, refusal

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

CIRCUIT = {"instructions": [["rlx", [0], [0.5]], ["measure", [0], []]], "num_wires": 1, "shots": 4}
QUDIT_CONFIG = {
    "version": "1.0.0",
    "max_shots": 5,
    "max_experiments": 2,
    "supported_instructions": ["rlx", "measure"],
}
SCHEMA_CONFIG = {
    "job_schema": {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 10}, "word": {"pattern": "^(a+)+$"}},
        "required": ["n"],
    }
}


class Bad(NamedTuple):
    """A submit that must be refused."""

    name: str
    request: pb.SubmitJobRequest
    code: grpc.StatusCode
    reason: str
    field: str


def circuit(**changes: Any) -> bytes:
    return json.dumps({"experiment_0": CIRCUIT | changes}).encode()


def content(
    name: str, data: bytes, reason: str, code: grpc.StatusCode = INVALID, backend: str = "sim"
) -> Bad:
    request = pb.SubmitJobRequest(backend=backend, content=data, request_id="bad")
    return Bad(name, request, code, reason, "content")


def option(name: str, reason: str, field: str, **fields: Any) -> Bad:
    request = pb.SubmitJobRequest(backend="sim", content=b"{}", **({"request_id": "bad"} | fields))
    return Bad(name, request, INVALID, reason, field)


NESTED = 10_000
BAD = [
    content("empty", b"", "DOCUMENT_EMPTY"),
    content("spaces", b"  ", "DOCUMENT_NOT_JSON"),
    content("no JSON", b"shots=5", "DOCUMENT_NOT_JSON"),
    content("cut off", b'{"a": [1, 2', "DOCUMENT_NOT_JSON"),
    content("two documents", b"{} {}", "DOCUMENT_NOT_JSON"),
    content("byte order mark", b"\xef\xbb\xbf{}", "DOCUMENT_NOT_JSON"),
    content("NUL", b'{"a": "\x00"}', "DOCUMENT_NOT_JSON"),
    content("not UTF-8", b'{"a": "\xff"}', "DOCUMENT_NOT_UTF8"),
    content("UTF-16", '{"a": 1}'.encode("utf-16"), "DOCUMENT_NOT_UTF8"),
    content("raw surrogate", b'{"a": "\xed\xa0\x80"}', "DOCUMENT_NOT_UTF8"),
    content("lone surrogate", b'{"a": "\\ud800"}', "DOCUMENT_LONE_SURROGATE"),
    content("lone surrogate in a key", b'{"\\udfff": 1}', "DOCUMENT_LONE_SURROGATE"),
    content("NaN", b'{"a": NaN}', "DOCUMENT_NOT_FINITE"),
    content("Infinity", b'{"a": Infinity}', "DOCUMENT_NOT_FINITE"),
    content("minus Infinity", b"[-Infinity]", "DOCUMENT_NOT_FINITE"),
    content("1e999", b'{"a": 1e999}', "DOCUMENT_NOT_FINITE"),
    content("endless number", b"[" + b"9" * 5000 + b"]", "DOCUMENT_NUMBER_TOO_LONG"),
    content("twice a key", b'{"a": 1, "a": 2}', "DOCUMENT_DUPLICATE_KEY"),
    content("twice a key within", b'{"x": [{"a": 1, "\\u0061": 2}]}', "DOCUMENT_DUPLICATE_KEY"),
    content("101 levels", b"[" * 101 + b"]" * 101, "DOCUMENT_TOO_DEEP"),
    content("10,000 levels", b"[" * NESTED + b"]" * NESTED, "DOCUMENT_TOO_DEEP"),
    content("10,000 objects", b'{"a":' * NESTED + b"1" + b"}" * NESTED, "DOCUMENT_TOO_DEEP"),
    content("100,000 levels", b"[" * 100_000 + b"]" * 100_000, "DOCUMENT_TOO_DEEP"),
    content("20 MB", b'"' + b"a" * 20_000_000 + b'"', "CONTENT_TOO_LARGE", EXHAUSTED),
    # F6: what stopped a spooler of today.
    content("list", b"[]", "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content("no experiment", b"{}", "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content("number", b'{"experiment_0": 5}', "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content(
        "no measurement", circuit(instructions=[["rlx", [0], [0.5]]]), "JOB_SCHEMA_VIOLATION", backend="qudit"
    ),
    content(
        "two elements",
        circuit(instructions=[["rlx", [0]], ["measure", [0], []]]),
        "JOB_SCHEMA_VIOLATION",
        backend="qudit",
    ),
    content("stranger", b'{"experiment_x": {}}', "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content("true shots", circuit(shots=True), "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content("giant wires", circuit(num_wires=-(10**400)), "JOB_SCHEMA_VIOLATION", backend="qudit"),
    content("own schema", b'{"n": 11}', "JOB_SCHEMA_VIOLATION", backend="schema"),
    content("own schema, giant", b'{"n": 1' + b"0" * 400 + b"}", "JOB_SCHEMA_VIOLATION", backend="schema"),
    content(
        "slow pattern", b'{"n":1,"word":"' + b"a" * 50_000 + b'b"}', "JOB_SCHEMA_VIOLATION", backend="schema"
    ),
    # F14: limits of the backend.
    content("10^9 shots", circuit(shots=10**9), "MAX_SHOTS_EXCEEDED", backend="qudit"),
    content("10^400 shots", circuit(shots=10**400), "MAX_SHOTS_EXCEEDED", backend="qudit"),
    content("1e300 shots", circuit(shots=1e300), "MAX_SHOTS_EXCEEDED", backend="qudit"),
    content(
        "three experiments",
        json.dumps({f"experiment_{i}": CIRCUIT for i in range(3)}).encode(),
        "MAX_EXPERIMENTS_EXCEEDED",
        backend="qudit",
    ),
    option("priority 101", "PRIORITY_INVALID", "priority", priority=101),
    option("priority -101", "PRIORITY_INVALID", "priority", priority=-101),
    option("lowest priority", "PRIORITY_INVALID", "priority", priority=-(2**31)),
    option("33 labels", "LABELS_INVALID", "labels", labels={str(i): "" for i in range(33)}),
    option("label without a key", "LABELS_INVALID", "labels", labels={"": "x"}),
    option("long key", "LABELS_INVALID", "labels", labels={"k" * 65: "x"}),
    option("NUL in a label", "LABELS_INVALID", "labels", labels={"k": "a\0b"}),
    option("long value", "LABELS_INVALID", "labels", labels={"k": "v" * 257}),
    option("long request id", "REQUEST_ID_INVALID", "request_id", request_id="r" * 129),
    option("request id with a line", "REQUEST_ID_INVALID", "request_id", request_id="a\nb"),
    option("request id with NUL", "REQUEST_ID_INVALID", "request_id", request_id="a\0b"),
    option("request id in Greek", "REQUEST_ID_INVALID", "request_id", request_id="αβγ"),
    option("101 attempts", "MAX_ATTEMPTS_INVALID", "max_attempts", max_attempts=101),
    option("-1 attempts", "MAX_ATTEMPTS_INVALID", "max_attempts", max_attempts=-1),
    option("no run time", "MAX_RUN_TIME_INVALID", "max_run_time", max_run_time=Duration()),
    option("negative run time", "MAX_RUN_TIME_INVALID", "max_run_time", max_run_time=Duration(seconds=-1)),
    option("run time of 2^62 s", "DURATION_INVALID", "max_run_time", max_run_time=Duration(seconds=2**62)),
    option(
        "run time of -2^62 s", "DURATION_INVALID", "max_run_time", max_run_time=Duration(seconds=-(2**62))
    ),
    option(
        "run time, nanos", "DURATION_INVALID", "max_run_time", max_run_time=Duration(seconds=1, nanos=10**9)
    ),
    option("run time, signs", "DURATION_INVALID", "max_run_time", max_run_time=Duration(seconds=9, nanos=-1)),
    option("11 years", "DURATION_INVALID", "max_run_time", max_run_time=Duration(seconds=11 * 366 * 86400)),
    option("not before 2^62", "TIME_INVALID", "not_before", not_before=Timestamp(seconds=2**62)),
    option("not before -2^62", "TIME_INVALID", "not_before", not_before=Timestamp(seconds=-(2**62))),
    option(
        "not before, nanos", "TIME_INVALID", "not_before", not_before=Timestamp(seconds=1, nanos=2**31 - 1)
    ),
    option("not before, -nanos", "TIME_INVALID", "not_before", not_before=Timestamp(seconds=1, nanos=-1)),
    option("expires 2^62", "TIME_INVALID", "expire_time", expire_time=Timestamp(seconds=2**62)),
    option("expired", "EXPIRE_TIME_PAST", "expire_time", expire_time=Timestamp(seconds=1_000_000)),
    option(
        "expires before it may start",
        "EXPIRE_TIME_INVALID",
        "expire_time",
        not_before=Timestamp(seconds=5_000_000_000),
        expire_time=Timestamp(seconds=4_999_999_999),
    ),
    Bad(
        "unknown backend",
        pb.SubmitJobRequest(backend="nowhere", content=b"{}"),
        grpc.StatusCode.NOT_FOUND,
        "BACKEND_NOT_FOUND",
        "backend",
    ),
    Bad(
        "no backend",
        pb.SubmitJobRequest(content=b"{}"),
        INVALID,
        "BACKEND_NAME_INVALID",
        "backend",
    ),
]


@pytest.fixture
async def busy_lab(lab: Lab) -> Lab:
    """A lab with backends that check their jobs."""
    robot = lab.caller("robot")
    await robot.register("qudit", json.dumps(QUDIT_CONFIG).encode())
    await robot.register("schema", json.dumps(SCHEMA_CONFIG).encode())
    return lab


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_f6_f14_a_bad_job_is_refused_and_harms_nothing(busy_lab: Lab, bad: Bad) -> None:
    """A bad job has its status, a reason of its own and the field at fault; nothing is stored of it."""
    alice = busy_lab.caller()

    refused = await refusal(alice.SubmitJob(bad.request))

    assert (refused.code, refused.reason, refused.fields) == (bad.code, bad.reason, (bad.field,))
    assert refused.domain == "spoolway"
    assert await alice.all_jobs() == []
    good = await alice.submit(request_id="bad")
    assert [job.name for job in await alice.all_jobs()] == [good.name]


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_bad_jobs_of_a_batch_are_refused_like_single_ones(busy_lab: Lab) -> None:
    """In a batch each bad job has the same error as alone, and good ones beside it are stored."""
    alice = busy_lab.caller()
    some = [bad for bad in BAD if len(bad.request.content) < 1_000_000]
    requests = [bad.request for bad in some]
    requests.insert(3, pb.SubmitJobRequest(backend="sim", content=b'{"good": 1}'))

    outcomes = list((await alice.SubmitJobs(pb.SubmitJobsRequest(requests=requests))).outcomes)

    good = outcomes.pop(3).job
    assert [job.name for job in await alice.all_jobs()] == [good.name]
    assert [(o.error.code, o.error.reason) for o in outcomes] == [(b.code.value[0], b.reason) for b in some]
    assert all(outcome.error.message for outcome in outcomes)


def test_each_kind_of_mistake_has_a_reason_of_its_own() -> None:
    """Mistakes in different fields never share a reason; only times that are none do."""
    fields: dict[str, set[str]] = {}
    for bad in BAD:
        fields.setdefault(bad.reason, set()).add(bad.field)

    assert fields.pop("TIME_INVALID") == {"not_before", "expire_time"}
    assert all(len(found) == 1 for found in fields.values())
    assert len(fields) >= 22


@pytest.mark.parametrize(
    "make",
    [
        lambda: pb.SubmitJobRequest(
            backend="sim", content=b'{"' + b"k" * 100_000 + b'":1,"' + b"k" * 100_000 + b'":1}'
        ),
        lambda: pb.SubmitJobRequest(
            backend="qudit", content=json.dumps({"experiment_" + "9" * 5000: 5}).encode()
        ),
        lambda: pb.SubmitJobRequest(backend="qudit", content=json.dumps({"ü" * 5000: 5}).encode()),
        lambda: pb.SubmitJobRequest(backend="qudit", content=circuit(shots=10**4000)),
        lambda: pb.SubmitJobRequest(backend="qudit", content=circuit(instructions=[["é" * 90]] * 50)),
        lambda: pb.SubmitJobRequest(
            backend="deep", content=b'{"%s":' % (b"k" * 80) * 90 + b'"x"' + b"}" * 90
        ),
        lambda: pb.SubmitJobRequest(backend="b" * 100_000, content=b"{}"),
    ],
    ids=["key", "experiment", "stranger", "shots", "words", "path", "backend"],
)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_the_error_of_an_oversized_mistake_fits_into_the_trailer(
    busy_lab: Lab, make: Callable[[], pb.SubmitJobRequest]
) -> None:
    """However long what is wrong may be, its error arrives with its reason: trailers have 8 KiB."""
    schema = {
        "$defs": {"n": {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"}}},
        "$ref": "#/$defs/n",
    }
    await busy_lab.caller("robot").register("deep", json.dumps({"job_schema": schema}).encode())

    refused = await refusal(busy_lab.caller().SubmitJob(make()))

    assert refused.code is INVALID
    assert refused.reason
    assert len(refused.message) <= 1000


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_job_at_every_limit_is_taken(busy_lab: Lab) -> None:
    """What is just within the limits is no mistake."""
    alice = busy_lab.caller()
    not_before = Timestamp()
    not_before.FromDatetime(busy_lab.clock.now() + timedelta(days=3000))

    job = await alice.submit(
        content=b"[" * 100 + b"]" * 100,
        labels={f"{i:0>64}": "v" * 256 for i in range(32)},
        priority=100,
        request_id="r" * 128,
        max_attempts=100,
        max_run_time=Duration(nanos=1000),
        not_before=not_before,
    )
    most = b'"' + b"a" * (2 * 1024 * 1024 - 2) + b'"'
    long = await alice.submit(content=most)

    assert {stored.name for stored in await alice.all_jobs()} == {job.name, long.name}
    assert long.content_bytes == len(most)
    assert (await alice.submit("qudit", circuit(shots=5))).name


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_too_many_jobs_at_once_are_refused_whole(lab: Lab) -> None:
    """A batch over the limit is refused with the limit, and nothing of it is stored."""
    alice = lab.caller()
    one = pb.SubmitJobRequest(backend="sim", content=b"{}")

    refused = await refusal(alice.SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 1001)))

    assert (refused.code, refused.reason, refused.fields) == (INVALID, "BATCH_TOO_LARGE", ("requests",))
    assert refused.metadata == {"limit": "1000"}
    assert await alice.all_jobs() == []


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_message_over_the_receive_limit_is_refused_by_grpc(start_lab: Any) -> None:
    """Above the receive limit gRPC itself refuses, without details, and the server goes on."""
    lab = await start_lab(limits={"max_receive_bytes": 3 * 1024 * 1024})
    await lab.caller("robot").register()
    alice = lab.caller()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await alice.submit(content=b'"' + b"a" * 4_000_000 + b'"')

    assert error_info(caught.value).code is EXHAUSTED
    assert error_info(caught.value).reason == ""
    assert (await alice.submit()).name


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_bytes_that_are_no_message_harm_only_their_call(lab: Lab) -> None:
    """A request that is no protobuf message, or has text that is not UTF-8, fails alone."""
    method = "/spoolway.v1.JobService/SubmitJob"
    raw = lab.channel.unary_unary(method, request_serializer=None, response_deserializer=None)

    for garbage in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
        refused = await refusal(raw(garbage, metadata=(("spoolway-user", "alice"),)))
        assert (refused.code, refused.reason) == (INVALID, "REQUEST_MALFORMED")

    assert (await lab.caller().submit()).name


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_long_job_is_told_its_first_mistake_only(busy_lab: Lab) -> None:
    """Of two megabytes of mistakes one is looked for: to find all would keep the server busy for seconds."""
    request = pb.SubmitJobRequest(backend="qudit", content=circuit(instructions=[["a"]] * 250_000))

    refused = await refusal(busy_lab.caller().SubmitJob(request))

    assert refused.reason == "JOB_SCHEMA_VIOLATION"
    assert refused.metadata["violations"] == "1"
