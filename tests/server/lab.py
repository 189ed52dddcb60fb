"""A real server on a free port, and callers of it by the bare stubs."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_pb2, job_service_pb2_grpc, storage_admin_pb2_grpc
from spoolway.v1 import job_service_pb2 as pb
from spoolway_providers import rules
from spoolway_providers.interface import Change
from spoolway_providers.model import JobKey, Policy
from spoolway_server.access_tokens import new_token_id, store_new_token
from spoolway_server.app import SpoolwayServer
from spoolway_server.auth import Role
from spoolway_server.catalog import TokenRecord
from spoolway_server.clock import Clock
from spoolway_server.storage import Storage
from tests.server.fake_clock import JumpClock
from tests.server.storage_faults import StorageFaults

__all__ = ["PATIENCE_S", "Caller", "Lab", "eventually", "merged", "outcomes_of", "state_of", "states_of"]

PATIENCE_S = 10.0
"""How long a test waits for what must come at once."""


class Caller:
    """A user's stubs; every RPC of both services is a method."""

    def __init__(self, channel: grpc.aio.Channel, user: str | None, secret: str = "") -> None:
        self._stubs = (
            job_service_pb2_grpc.JobServiceStub(channel),
            storage_admin_pb2_grpc.StorageAdminStub(channel),
        )
        self.user = user
        self._metadata = (("spoolway-user", user),) if user is not None else ()
        if secret:
            self._metadata += (("authorization", f"Bearer {secret}"),)

    def __getattr__(self, rpc: str) -> Any:
        stub = next((stub for stub in self._stubs if hasattr(stub, rpc)), None)
        if stub is None:
            raise AttributeError(rpc)
        return partial(getattr(stub, rpc), metadata=self._metadata)

    async def first(self, rpc: str, request: Any) -> Any:
        """The answer of a call; of one that answers in a stream the first."""
        call = getattr(self, rpc)(request)
        return await (call.read() if isinstance(call, grpc.aio.UnaryStreamCall) else call)

    async def register(self, backend: str = "sim", config: bytes = b"{}", **fields: Any) -> job_pb2.Backend:
        """Register a backend."""
        request = pb.RegisterBackendRequest(backend=backend, config=config, **fields)
        return (await self.RegisterBackend(request)).backend

    async def submit(self, backend: str = "sim", content: bytes = b'{"a": 1}', **fields: Any) -> job_pb2.Job:
        """Submit a job."""
        request = pb.SubmitJobRequest(backend=backend, content=content, **fields)
        return (await self.SubmitJob(request)).job

    async def job(self, name: str) -> job_pb2.Job:
        """A job as it is now."""
        return (await self.GetJob(pb.GetJobRequest(name=name))).job

    async def cancel(self, name: str) -> job_pb2.Job:
        """Cancel a job."""
        return (await self.CancelJob(pb.CancelJobRequest(name=name))).job

    async def until(self, name: str, *states: str) -> job_pb2.Job:
        """A job once it is in one of `states`, told by WaitJob."""
        async with asyncio.timeout(PATIENCE_S):
            job = await self.job(name)
            while state_of(job) not in states:
                job = (await self.WaitJob(pb.WaitJobRequest(name=name, etag=job.etag))).job
        return job

    async def wait(self, name: str, **fields: Any) -> job_pb2.Job:
        """WaitJob."""
        return (await self.WaitJob(pb.WaitJobRequest(name=name, **fields), timeout=PATIENCE_S)).job

    async def until_ended(self, name: str) -> job_pb2.Job:
        """A job once it has ended, told by one WaitJob."""
        job = await self.wait(name, timeout=Duration(seconds=60))
        assert job.HasField("end_time")
        return job

    async def all_jobs(self) -> list[job_pb2.Job]:
        """All jobs of the user, oldest first."""
        request = pb.ListJobsRequest(page_size=1000, oldest_first=True)
        return list((await self.ListJobs(request)).jobs)


class Lab:
    """A running server; what a test needs around it."""

    def __init__(self, server: SpoolwayServer, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.secrets: dict[str, str] = {}
        """Of access tokens, by user: what their callers show."""
        self._channels: list[grpc.aio.Channel] = []
        self.channel = self.new_channel()

    def new_channel(self, **options: int) -> grpc.aio.Channel:
        """A channel with a connection of its own; closed at the test's end, if not before."""
        # Else channels to one address share a connection.
        given = {"grpc.use_local_subchannel_pool": 1, "grpc.max_send_message_length": -1, **options}
        channel = grpc.aio.insecure_channel(self.server.address, options=list(given.items()))
        self._channels.append(channel)
        return channel

    def caller(self, user: str | None = "alice", channel: grpc.aio.Channel | None = None) -> Caller:
        """Stubs of a user; None: of nobody."""
        return Caller(channel or self.channel, user, self.secrets.get(user or "", ""))

    async def give_token(self, user: str, role: Role = Role.USER, **fields: Any) -> TokenRecord:
        """Make an access token, as `spoolway admin init` does; the user's callers show it from then on."""
        server = self.server
        facts = {"user": user, "role": role, "created_by": "test", "now": self.clock.now(), **fields}
        record, self.secrets[user] = await store_new_token(server.catalog, new_token_id(), **facts)
        await server.tokens.refresh()
        return record

    def storage(self, name: str = "main") -> Storage:
        """A storage within the server."""
        return self.server.storages.by_name[name]

    @staticmethod
    def key(name: str) -> JobKey:
        """A job's key."""
        _, backend, _, job_id = name.split("/")
        return JobKey(backend, job_id)

    def faults(self, name: str = "main") -> StorageFaults:
        """Faults for a storage."""
        return StorageFaults(self.storage(name).provider)

    async def put_policy(self, backend: str = "sim", **fields: Any) -> None:
        """Set a backend's policy, which no call can yet."""
        storage = self.storage()
        policy = Policy(**fields)
        storage.note_backend(await storage.provider.put_policy(backend, policy, None))

    async def commit_elsewhere(self, name: str, event: rules.Event) -> None:
        """Apply an event as another replica does: this server is told nothing."""
        storage, key = self.storage(), self.key(name)
        job = await storage.provider.get(key)
        changed = rules.decide(job, event, self.clock.now(), storage.policy(key.backend))
        assert not isinstance(changed, rules.Refusal)
        await storage.provider.commit([Change(changed, job.revision)])

    async def pass_time(self, seconds: float) -> None:
        """Let the reapers see that `seconds` go by in which nothing happens. Needs a JumpClock."""
        for storage in self.server.storages.usable():
            await storage.reaper.look()
        self.jump(seconds)
        for storage in self.server.storages.usable():
            await storage.reaper.look()

    def jump(self, seconds: float) -> None:
        """Set the server's clock ahead. Needs a JumpClock."""
        assert isinstance(self.clock, JumpClock)
        self.clock.advance(seconds)

    async def close(self) -> None:
        """Close the channels and stop the server at once."""
        for channel in self._channels:
            await channel.close()
        await self.server.stop(0)


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for something within the server that tells nobody when it happens."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.001)


def state_of(job: job_pb2.Job) -> str:
    """A job's state in short: QUEUED, or HELD(DELAYED) with its reason."""
    state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
    reason = job_pb2.StateReason.Name(job.reason).removeprefix("STATE_REASON_")
    return state if reason == "UNSPECIFIED" else f"{state}({reason})"


def states_of(job: job_pb2.Job) -> list[str]:
    """All states a job was in, in order."""
    return [
        state_of(job_pb2.Job(state=transition.state, reason=transition.reason))
        for transition in job.transitions
    ]


def outcomes_of(job: job_pb2.Job) -> list[str]:
    """How a job's attempts ended, in order."""
    return [
        job_pb2.AttemptOutcome.Name(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_")
        for attempt in job.attempts
    ]


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes, table by table."""
    result = dict(settings)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
