"""Backends: registered by spoolers, shown to everybody."""

import asyncio
import json
import socket
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers.errors import Unavailable
from spoolway_server.app import SpoolwayServer
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Caller, Lab
from tests.server.refusals import refusal
from tests.server.storage_faults import StorageFaults

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def as_json(**config: Any) -> bytes:
    return json.dumps(config).encode()


async def get(caller: Caller, name: str = "sim") -> Any:
    return (await caller.GetBackend(pb.GetBackendRequest(name=name))).backend


async def test_a_backend_is_shown_as_it_was_registered(lab: Lab, alice: Caller) -> None:
    """Config, storage, policy and status of a backend, by its short name and by its resource name."""
    config = b'{ "version": "1.2.3",\n "anything": ["\\u00fc", 1.50] }'

    registered = await lab.caller("robot").register("lamp", config)

    shown = await get(alice, "backends/lamp")
    assert shown == registered == await get(alice, "lamp")
    assert (shown.name, shown.storage, shown.config) == ("backends/lamp", "main", config)
    assert shown.config_etag
    assert (shown.status.backend_name, shown.status.backend_version) == ("lamp", "1.2.3")
    assert (shown.status.operational, shown.status.pending_jobs) == (False, 0)
    assert shown.policy.max_attempts == 3
    assert shown.policy.lease_ttl.ToTimedelta() == timedelta(seconds=30)


async def test_an_unchanged_config_is_not_written_again(lab: Lab, alice: Caller) -> None:
    """Registering the same config changes nothing, whatever etag comes with it."""
    robot = lab.caller("robot")
    first = await robot.register("lamp", b'{"a": 1}')

    again = await robot.register("lamp", b'{"a": 1}')
    stale = await robot.register("lamp", b'{"a": 1}', etag="stale")

    assert again == first == stale


async def test_f9_of_two_admins_one_is_told_to_read_again(lab: Lab) -> None:
    """Who replaces a config that has changed since is refused, and nothing of the other's change is lost."""
    robot = lab.caller("robot")
    read = await robot.register("lamp", as_json(max_shots=5))

    first = await robot.register("lamp", as_json(max_shots=1000), etag=read.config_etag)
    second = await refusal(
        robot.RegisterBackend(
            pb.RegisterBackendRequest(backend="lamp", config=as_json(max_shots=7), etag=read.config_etag)
        )
    )

    assert (second.code, second.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert second.fields == ("etag",)
    assert (await get(robot, "lamp")).config == first.config == as_json(max_shots=1000)


async def test_f9_of_concurrent_changes_exactly_one_wins(lab: Lab) -> None:
    """Of any number of changes made from one version exactly one is stored."""
    robot = lab.caller("robot")
    read = await robot.register("lamp", b"{}")
    requests = [
        pb.RegisterBackendRequest(backend="lamp", config=as_json(n=n), etag=read.config_etag)
        for n in range(10)
    ]

    answers = await asyncio.gather(*map(robot.RegisterBackend, requests), return_exceptions=True)

    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(won) == 1
    assert (await get(robot, "lamp")).config == won[0].backend.config


async def test_an_etag_for_a_backend_that_is_not_there_is_refused(lab: Lab) -> None:
    """A config with an etag never creates a backend."""
    robot = lab.caller("robot")

    refused = await refusal(
        robot.RegisterBackend(pb.RegisterBackendRequest(backend="lamp", config=b"{}", etag="any"))
    )

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await refusal(robot.GetBackend(pb.GetBackendRequest(name="lamp")))).reason == "BACKEND_NOT_FOUND"


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        (b"", INVALID, "DOCUMENT_EMPTY"),
        (b"{", INVALID, "DOCUMENT_NOT_JSON"),
        (b'{"a":1,"a":2}', INVALID, "DOCUMENT_DUPLICATE_KEY"),
        (b'{"version": "\\ud800"}', INVALID, "DOCUMENT_LONE_SURROGATE"),
        (b"[]", INVALID, "CONFIG_INVALID"),
        (b'"x"', INVALID, "CONFIG_INVALID"),
        (as_json(max_shots=0), INVALID, "CONFIG_INVALID"),
        (as_json(max_shots="5"), INVALID, "CONFIG_INVALID"),
        (as_json(max_shots=True), INVALID, "CONFIG_INVALID"),
        (as_json(max_experiments=1.5), INVALID, "CONFIG_INVALID"),
        (as_json(job_schema=5), INVALID, "JOB_SCHEMA_INVALID"),
        (as_json(job_schema={"type": "nothing"}), INVALID, "JOB_SCHEMA_INVALID"),
        (as_json(job_schema={"pattern": "("}), INVALID, "JOB_SCHEMA_INVALID"),
        (as_json(job_schema={"$ref": "#/$defs/none"}), INVALID, "JOB_SCHEMA_INVALID"),
        (as_json(job_schema={"$ref": "file:///etc/passwd"}), INVALID, "JOB_SCHEMA_INVALID"),
        (b'"' + b"a" * 1_100_000 + b'"', grpc.StatusCode.RESOURCE_EXHAUSTED, "CONTENT_TOO_LARGE"),
    ],
    ids=str,
)
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_bad_config_is_refused(lab: Lab, config: bytes, code: grpc.StatusCode, reason: str) -> None:
    """A config that is none is refused, and the one before it stays in force."""
    robot = lab.caller("robot")
    before = await robot.register("lamp", as_json(max_shots=5))

    refused = await refusal(robot.RegisterBackend(pb.RegisterBackendRequest(backend="lamp", config=config)))

    assert (refused.code, refused.reason) == (code, reason)
    assert refused.fields[0].startswith("config")
    assert await get(robot, "lamp") == before


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_a_schema_makes_no_network_call(lab: Lab, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """A schema that refers to another host is refused, and nobody is called for it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        address = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/schema.json"
        config = as_json(job_schema={"properties": {"a": {"$ref": address}}})

        refused = await refusal(
            lab.caller().RegisterBackend(pb.RegisterBackendRequest(backend="lamp", config=config))
        )

        assert (refused.code, refused.reason) == (INVALID, "JOB_SCHEMA_INVALID")
        with pytest.raises(TimeoutError):
            listening.accept()


async def test_a_new_schema_counts_from_the_next_job_on(lab: Lab, alice: Caller) -> None:
    """A changed config is in force with the answer of its registration."""
    robot = lab.caller("robot")
    await robot.register("lamp", as_json(job_schema={"type": "object"}))
    await alice.submit("lamp", b"{}")

    await robot.register("lamp", as_json(job_schema={"type": "array"}))

    assert (await alice.submit("lamp", b"[]")).name
    bad = pb.SubmitJobRequest(backend="lamp", content=b"{}")
    assert (await refusal(alice.SubmitJob(bad))).reason == "JOB_SCHEMA_VIOLATION"


async def test_a_signed_config_is_read_like_a_plain_one(lab: Lab, alice: Caller) -> None:
    """In a signed document the payload counts, and the document is kept whole."""
    payload = {"version": "2.0.0", "max_shots": 5, "max_experiments": 1, "supported_instructions": ["m"]}
    signed = as_json(header={"alg": "ed25519"}, payload=payload, signature="c2ln")

    backend = await lab.caller("robot").register("lamp", signed)

    assert backend.config == signed
    assert backend.status.backend_version == "2.0.0"
    body = {"instructions": [["measure", [0], []]], "num_wires": 1, "shots": 6}
    over = pb.SubmitJobRequest(backend="lamp", content=as_json(experiment_0=body))
    assert (await refusal(alice.SubmitJob(over))).reason == "MAX_SHOTS_EXCEEDED"
    assert (await alice.submit("lamp", as_json(experiment_0=body | {"shots": 5}))).name


async def test_a_bad_payload_of_a_signed_config_is_refused(lab: Lab) -> None:
    """What is wrong in the payload of a signed document is wrong."""
    signed = as_json(header={}, payload={"max_shots": -1}, signature="")

    refused = await refusal(
        lab.caller().RegisterBackend(pb.RegisterBackendRequest(backend="lamp", config=signed))
    )

    assert refused.reason == "CONFIG_INVALID"


async def test_a_backend_stays_where_it_is(start_lab: StartLab) -> None:
    """A new backend goes to the storage named, or the default; one that exists can't be moved."""
    lab = await start_lab("main", "second")
    robot = lab.caller("robot")
    first = await robot.register("one")
    second = await robot.register("two", storage="second")

    again = await robot.register("two", b'{"a": 1}')
    moved = await refusal(
        robot.RegisterBackend(pb.RegisterBackendRequest(backend="one", config=b"{}", storage="second"))
    )

    assert [first.storage, second.storage, again.storage] == ["main", "second", "second"]
    assert (moved.code, moved.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_ELSEWHERE")
    assert (moved.metadata, moved.fields) == ({"storage": "main"}, ("storage",))


async def test_f16_the_status_of_a_backend_is_that_of_now(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Operational while a spooler is connected and nothing is paused; waiting jobs are counted."""
    await alice.submit()
    await alice.submit()

    async def status() -> tuple[bool, str, int]:
        shown = (await get(alice)).status
        return shown.operational, shown.status_msg, shown.pending_jobs

    before = await status()
    spooler = await start_spooler()
    await spooler.take()
    during = await status()
    await lab.put_policy(paused=True)
    paused = await status()
    await lab.put_policy()
    lab.storage().active = False
    inactive = await status()
    lab.storage().active = True

    assert before == (False, "no spooler is connected", 2)
    assert during == (True, "ok", 1)
    assert paused == (False, "paused by an operator", 1)
    assert inactive == (False, "storage main is inactive", 1)


async def test_f16_a_spooler_busy_for_hours_is_online(lab: Lab, alice: Caller, spooler: FakeSpooler) -> None:
    """A spooler that runs one long job, or waits for long, is online as long as it beats."""
    await alice.submit()
    await spooler.take()
    for _ in range(40):
        await lab.pass_time(50)
        await spooler.beat()
    busy = await get(alice)
    one = await alice.all_jobs()
    await alice.cancel(one[0].name)
    await lab.pass_time(31)
    for _ in range(40):
        await lab.pass_time(55)
        await spooler.beat()

    idle = await get(alice)

    assert busy.status.operational
    assert idle.status.operational


async def test_all_backends_are_listed_by_name(start_lab: StartLab) -> None:
    """ListBackends has those of all storages, sorted by name."""
    lab = await start_lab("main", "second")
    robot = lab.caller("robot")
    for name, storage in (("c", "main"), ("a", "second"), ("b", "main")):
        await robot.register(name, storage=storage)

    answer = await robot.ListBackends(pb.ListBackendsRequest())

    assert [(backend.name, backend.storage) for backend in answer.backends] == [
        ("backends/a", "second"),
        ("backends/b", "main"),
        ("backends/c", "main"),
    ]
    assert list(answer.unreachable_storages) == []


@pytest.mark.parametrize("method", ["backends", "sessions", "count"])
async def test_f13_a_broken_storage_hides_no_other(start_lab: StartLab, method: str) -> None:
    """A storage that does not answer is named as unreachable; the backends of the others are all there."""
    lab = await start_lab("main", "second")
    robot = lab.caller("robot")
    await robot.register("one")
    await robot.register("two", storage="second")
    lab.jump(10)

    with lab.faults("second").failing(Unavailable("down"), method):
        answer = await robot.ListBackends(pb.ListBackendsRequest())

    assert [backend.name for backend in answer.backends] == ["backends/one"]
    assert list(answer.unreachable_storages) == ["second"]
    lab.jump(10)
    after = await robot.ListBackends(pb.ListBackendsRequest())
    assert [backend.name for backend in after.backends] == ["backends/one", "backends/two"]


async def test_f13_a_storage_that_was_never_open_hides_no_other(start_lab: StartLab) -> None:
    """A storage that could not be opened at start is named as unreachable; jobs of the others go through."""
    with ExitStack() as down:

        def break_second(server: SpoolwayServer) -> None:
            faults = StorageFaults(server.storages.by_name["second"].provider)
            down.enter_context(faults.failing(Unavailable("no route"), "open"))

        lab = await start_lab("main", "second", before_start=break_second)
        await lab.storage().provider.put_config("one", b"{}", None)
        lab.jump(10)  # what was read of the backends until now is too old
        alice = lab.caller()

        answer = await alice.ListBackends(pb.ListBackendsRequest())

        assert [backend.name for backend in answer.backends] == ["backends/one"]
        assert list(answer.unreachable_storages) == ["second"]
        assert (await alice.submit("one")).name
        unknown = await refusal(alice.GetBackend(pb.GetBackendRequest(name="two")))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


async def test_f13_a_config_that_is_broken_in_the_storage_hides_no_other(lab: Lab) -> None:
    """A config that somebody has spoilt by hand is shown as it is; the list goes on."""
    await lab.storage().provider.put_config("spoilt", b"{nonsense", None)
    lab.jump(10)
    alice = lab.caller()

    answer = await alice.ListBackends(pb.ListBackendsRequest())

    names = {backend.name: backend for backend in answer.backends}
    assert set(names) == {"backends/sim", "backends/spoilt"}
    assert names["backends/spoilt"].config == b"{nonsense"
    assert not names["backends/spoilt"].status.operational
    assert "config" in names["backends/spoilt"].status.status_msg
    bad = pb.SubmitJobRequest(backend="spoilt", content=b"{}")
    refused = await refusal(alice.SubmitJob(bad))
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "BACKEND_CONFIG_INVALID"
