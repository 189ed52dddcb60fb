"""Policies of backends: changed by operators, apart from the config, on every server."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.errors import Unavailable
from spoolway_server.catalog import AuditQuery
from spoolway_server.clock import Clock
from tests.server.conftest import StartLab, StartSpooler
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually, state_of
from tests.server.refusals import refusal

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def get(caller: Caller, name: str = "sim") -> job_pb2.Backend:
    backend: job_pb2.Backend = (await caller.GetBackend(pb.GetBackendRequest(name=name))).backend
    return backend


def change(*paths: str, etag: str = "", name: str = "sim", **policy: Any) -> admin_pb.SetBackendPolicyRequest:
    return admin_pb.SetBackendPolicyRequest(
        name=name,
        policy=job_pb2.BackendPolicy(**policy),
        update_mask=FieldMask(paths=paths or list(policy)),
        etag=etag,
    )


async def pause(caller: Caller, name: str = "sim") -> job_pb2.Backend:
    answer = await caller.PauseBackend(admin_pb.PauseBackendRequest(name=name))
    backend: job_pb2.Backend = answer.backend
    return backend


async def resume(caller: Caller, name: str = "sim") -> job_pb2.Backend:
    answer = await caller.ResumeBackend(admin_pb.ResumeBackendRequest(name=name))
    backend: job_pb2.Backend = answer.backend
    return backend


async def test_only_the_named_fields_change(lab: Lab) -> None:
    """A mask says what is meant; the other fields, and the config, stay as they are."""
    admin = lab.caller("admin")
    before = await get(admin)

    answer = await admin.SetBackendPolicy(
        change("max_attempts", "lease_ttl", max_attempts=1, lease_ttl=Duration(seconds=7200), max_queued=9)
    )

    now = await get(admin)
    assert answer.backend == now
    assert (now.policy.max_attempts, now.policy.max_queued) == (1, 0)
    assert now.policy.lease_ttl.ToTimedelta() == timedelta(hours=2)
    assert now.policy.max_crashes == before.policy.max_crashes
    assert now.policy_etag != before.policy_etag
    assert (now.config, now.config_etag) == (before.config, before.config_etag)


async def test_a_named_field_without_a_value_is_the_servers_default(lab: Lab) -> None:
    """What is named and not given goes back to what the server's configuration says."""
    admin = lab.caller("admin")
    await admin.SetBackendPolicy(
        change(max_attempts=1, lease_ttl=Duration(seconds=7), max_run_time=Duration(seconds=5), max_queued=4)
    )

    await admin.SetBackendPolicy(change("*"))

    policy = (await get(admin)).policy
    assert (policy.max_attempts, policy.lease_ttl.seconds, policy.max_queued) == (3, 30, 0)
    assert not policy.HasField("max_run_time")


async def test_what_is_so_already_is_not_written(lab: Lab) -> None:
    """The same policy again keeps its etag."""
    admin = lab.caller("admin")
    first = (await admin.SetBackendPolicy(change(max_queued=4))).backend

    assert (await admin.SetBackendPolicy(change(max_queued=4))).backend == first
    assert await resume(admin) == first


async def test_f9_a_stale_change_is_refused(lab: Lab) -> None:
    """Who decides on an old policy is told to read again, and the newer one stays."""
    admin = lab.caller("admin")
    old = (await admin.SetBackendPolicy(change(max_queued=4))).backend.policy_etag
    await admin.SetBackendPolicy(change(max_queued=5, etag=old))

    refused = await refusal(admin.SetBackendPolicy(change(max_queued=6, etag=old)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refused.fields == ("etag",)
    assert "GetBackend" in refused.message
    assert (await get(admin)).policy.max_queued == 5


async def test_f9_changes_of_different_fields_are_all_kept(lab: Lab) -> None:
    """Operators who change different fields at once, and a spooler that registers, lose nothing."""
    admin = lab.caller("admin")

    await asyncio.gather(
        pause(admin),
        admin.SetBackendPolicy(change(max_queued=4)),
        admin.SetBackendPolicy(change(max_attempts=2)),
        lab.caller("robot").register("sim", b'{"version": "2.0.0"}'),
    )

    now = await get(admin)
    assert (now.policy.paused, now.policy.max_queued, now.policy.max_attempts) == (True, 4, 2)
    assert now.config == b'{"version": "2.0.0"}'


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (change(name="sim", max_queued=1, etag="stale"), grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "etag"),
        (admin_pb.SetBackendPolicyRequest(name="sim"), INVALID, "UPDATE_MASK_MISSING", "update_mask"),
        (change("lease"), INVALID, "UPDATE_MASK_INVALID", "update_mask"),
        (change("*", "paused"), INVALID, "UPDATE_MASK_INVALID", "update_mask"),
        (change(max_attempts=101), INVALID, "POLICY_INVALID", "policy.max_attempts"),
        (change(max_attempts=-1), INVALID, "POLICY_INVALID", "policy.max_attempts"),
        (change(max_queued=-1), INVALID, "POLICY_INVALID", "policy.max_queued"),
        (change(lease_ttl=Duration(nanos=1)), INVALID, "POLICY_INVALID", "policy.lease_ttl"),
        (change(lease_ttl=Duration(seconds=1 << 50)), INVALID, "POLICY_INVALID", "policy.lease_ttl"),
        (change(cancel_grace=Duration(seconds=-1)), INVALID, "POLICY_INVALID", "policy.cancel_grace"),
        (change(max_run_time=Duration()), INVALID, "POLICY_INVALID", "policy.max_run_time"),
        (change(name="lamp", paused=True), grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND", "name"),
        (change(name="../x", paused=True), INVALID, "BACKEND_NAME_INVALID", "name"),
    ],
)
async def test_a_wrong_policy_is_refused(
    lab: Lab, request_: admin_pb.SetBackendPolicyRequest, code: grpc.StatusCode, reason: str, field: str
) -> None:
    """Each mistake has its reason and names its field, and nothing is changed."""
    admin = lab.caller("admin")
    before = await get(admin)

    refused = await refusal(admin.SetBackendPolicy(request_))

    assert (refused.code, refused.reason, refused.fields) == (code, reason, (field,))
    assert await get(admin) == before


async def test_a_storage_that_does_not_answer_is_told(lab: Lab) -> None:
    """A policy that can't be stored is UNAVAILABLE, and the storage's health shows why."""
    lab.faults().fail_once(Unavailable("the disk is gone"), "put_policy")

    refused = await refusal(pause(lab.caller("admin")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert refused.retry_after


async def test_a_paused_backend_hands_out_nothing(
    lab: Lab, alice: Caller, start_spooler: StartSpooler
) -> None:
    """Pause changes no job's state: what waits keeps its place, what runs goes on, and all can see it."""
    spooler = await start_spooler(credit=2)
    running = await alice.submit()
    one = await spooler.take()

    paused = await pause(lab.caller("admin"))
    with lab.faults().watched("claim") as claims:
        waiting = await alice.submit()
        await eventually(lambda: claims)
    await spooler.beat()

    assert spooler.unasked == []
    status = await alice.GetStatus(pb.GetStatusRequest(name=waiting.name))
    assert status.backend_paused
    assert status.queue_position == 0
    assert state_of(await alice.job(waiting.name)) == "QUEUED"
    assert (paused.status.operational, paused.status.status_msg) == (False, "paused by an operator")
    await spooler.complete(one)
    assert state_of(await alice.job(running.name)) == "DONE"

    resumed = await resume(lab.caller("admin"))

    assert (await spooler.take()).job == waiting.name
    assert resumed.status.operational
    assert not (await alice.GetStatus(pb.GetStatusRequest(name=waiting.name))).backend_paused


@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_a_pause_counts_on_every_server(start_lab: StartLab) -> None:
    """Paused on one server, no other hands out a job from the answer on; resumed, all do again."""
    here, there = await start_lab(clock=Clock()), await start_lab(clock=Clock())
    await here.caller("robot").register("sim")
    spooler = FakeSpooler(there)
    await spooler.connect()
    await spooler.credit(1)
    alice = there.caller("alice")

    await pause(here.caller("admin"))
    with there.faults().watched("claim") as claims:
        job = await alice.submit()
        await eventually(lambda: claims)
    await spooler.beat()

    assert spooler.unasked == []
    async with asyncio.timeout(PATIENCE_S):
        while not (await alice.GetStatus(pb.GetStatusRequest(name=job.name))).backend_paused:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # it is read anew within seconds, which tells nobody
    assert state_of(await alice.job(job.name)) == "QUEUED"

    await resume(here.caller("admin"))

    assert (await spooler.take()).job == job.name


@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_a_policy_counts_on_every_server_within_seconds(start_lab: StartLab) -> None:
    """What one server was told the rules of another go by too, though nobody asks it for the backend."""
    here, there = await start_lab(), await start_lab()
    await here.caller("robot").register("sim")
    await get(there.caller("admin"))

    await here.caller("admin").SetBackendPolicy(change(max_attempts=7))
    await there.pass_time(3)

    assert there.storage().policy("sim").max_attempts == 7


async def test_what_operators_do_is_in_the_audit_trail(lab: Lab, start_spooler: StartSpooler) -> None:
    """Who changed a policy, paused, purged or revoked, and what came of it; refusals with their reason."""
    admin = lab.caller("admin")
    spooler = await start_spooler()

    await pause(admin)
    await resume(admin)
    await admin.SetBackendPolicy(change("lease_ttl", "max_attempts", lease_ttl=Duration(seconds=7)))
    await refusal(admin.SetBackendPolicy(change(max_queued=1, etag="stale")))
    await admin.PurgeBackend(admin_pb.PurgeBackendRequest(name="sim"))
    await admin.RevokeSpooler(admin_pb.RevokeSpoolerRequest(session=spooler.session))

    trail = (await lab.server.audit.events(AuditQuery())).events
    assert {event.who for event in trail} == {"admin"}
    assert [(event.what, event.subject, event.outcome, event.detail) for event in reversed(trail)] == [
        ("PauseBackend", "backends/sim", "OK", ""),
        ("ResumeBackend", "backends/sim", "OK", ""),
        ("SetBackendPolicy", "backends/sim", "OK", "lease_ttl=7 s, max_attempts=default"),
        ("SetBackendPolicy", "backends/sim", "ETAG_MISMATCH", "max_queued=1"),
        ("PurgeBackend", "backends/sim", "OK", "0 deleted, 0 cancelled"),
        ("RevokeSpooler", f"sessions/{spooler.session}", "OK", "spooler, 0 jobs taken back"),
    ]
