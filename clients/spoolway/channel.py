"""The one seam to gRPC: how a channel is opened, a call made, a stream read and written."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc import aio

from spoolway.errors import CallCancelledError, SpoolwayError, error_from_rpc
from spoolway.settings import SYSTEM_CA, Settings
from spoolway.tracing import current_context
from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import job_service_pb2_grpc as rpc
from spoolway.v1 import storage_admin_pb2_grpc as admin_rpc

__all__ = ["MAX_RECEIVE_BYTES", "Connection"]

MAX_RECEIVE_BYTES = 32 * 1024 * 1024
"""The longest message that is received; the server's own limit is the same."""

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)

if TYPE_CHECKING:
    # Only the types know these: not every version of grpcio takes parameters at run time, and the generated
    # module tells the asynchronous stub from the synchronous one only in its types.
    Stub = rpc.JobServiceAsyncStub
    AdminStub = admin_rpc.StorageAdminAsyncStub
    UnaryMethod = aio.UnaryUnaryMultiCallable
    WorkCall = aio.StreamStreamCall[pb.StreamNextJobsRequest, pb.StreamNextJobsResponse]

_log = logging.getLogger("spoolway")

# Calls that change nothing when they are repeated. SubmitJob and SubmitJobs are among them because this
# client always sends request ids. NextJob is not: the job of a lost answer would wait for its timeout.
_SAFE_TO_REPEAT = (
    "SubmitJob",
    "SubmitJobs",
    "GetJob",
    "GetStatus",
    "WaitJob",
    "GetResult",
    "GetUpload",
    "ListJobs",
    "CancelJob",
    "ExplainJob",
    "ListBackends",
    "GetBackend",
    "CompleteJob",
    "FailJob",
    "ReleaseJob",
    "ExtendLeases",
    "RegisterBackend",
)
_ADMIN_SAFE_TO_REPEAT = (
    "ListStorages",
    "GetStorage",
    "GetStorageStats",
    "GetSignInPage",
    "ActivateStorage",
    "DeactivateStorage",
    "ListProviderTypes",
    "SetBackendPolicy",
    "PauseBackend",
    "ResumeBackend",
    "HoldJob",
    "ResumeJob",
    "FailHeldJob",
    "PurgeBackend",
    "ListSpoolers",
    "RevokeSpooler",
    "ListTokens",
    "ListAuditEvents",
    "RevokeToken",
    "GetOperation",
    "ListOperations",
    "CancelOperation",
)
_SERVICE = "spoolway.v1.JobService"
_ADMIN_SERVICE = "spoolway.v1.StorageAdmin"


def service_config(address: str) -> str:
    """The gRPC service config for an address, as JSON."""
    # Not behind a balancer: the check's stream goes through to one of its servers, and when that drains the
    # channel would take all of them for down.
    checked = {"healthCheckConfig": {"serviceName": _SERVICE}} if _names_servers(address) else {}
    safe = ((_SERVICE, _SAFE_TO_REPEAT), (_ADMIN_SERVICE, _ADMIN_SAFE_TO_REPEAT))
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            **checked,
            "methodConfig": [
                {
                    "name": [
                        {"service": service, "method": method} for service, calls in safe for method in calls
                    ],
                    # 5 tries is the most that gRPC does: here over 3 s.
                    "retryPolicy": {
                        "maxAttempts": 5,
                        "initialBackoff": "0.1s",
                        "maxBackoff": "2s",
                        "backoffMultiplier": 3,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ],
        }
    )


def _names_servers(address: str) -> bool:
    """Whether servers are named for the channel to choose from, not a balancer or one server."""
    return address.startswith("dns:") or "," in address


def channel_options(address: str, *, own_connections: bool) -> list[tuple[str, Any]]:
    """The gRPC channel options.

    Args:
        address: Where to.
        own_connections: Share no TCP connection with other channels of this process.
    """
    return [
        ("grpc.service_config", service_config(address)),
        ("grpc.enable_retries", 1),
        # A call whose message does not fit here is not retried: it must hold a whole batch of submits.
        ("grpc.per_rpc_retry_buffer_size", 4 * 1024 * 1024),
        ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
        # A ping after 50 s of silence, under the usual 60 s of proxies, and only during calls. By default a
        # server hangs up at the fourth ping within 5 min without data in between: it sees a beat, a bookmark
        # or an answer between any two, as none of our calls is silent for longer than 60 s.
        ("grpc.keepalive_time_ms", 50_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        # A connection without calls is closed before a firewall forgets it (240 s at the strictest cloud),
        # and before the pings of its health check, which is a call without data, are too many (170 s).
        ("grpc.client_idle_timeout_ms", 90_000),
        # The default of up to 2 min would keep a spooler away long after its server is back.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.use_local_subchannel_pool", int(own_connections)),
    ]


class Connection:
    """A channel to the server, with the caller's name and token on each call.

    Every error that comes out of it is a SpoolwayError. Must be made and used within one event loop; who
    makes it closes it.
    """

    def __init__(self, settings: Settings, *, own_connections: bool = False) -> None:
        """Open a channel; it connects at the first call.

        Args:
            settings: Where to, and as whom.
            own_connections: Share no TCP connection with other channels, so that one that is half dead stays
                behind when this one is closed.
        """
        self.address = settings.address
        self._metadata = _metadata(settings)
        options = channel_options(settings.address, own_connections=own_connections)
        if settings.ca is None:
            self._channel = aio.insecure_channel(settings.address, options=options)
        else:
            self._channel = aio.secure_channel(
                settings.address, channel_credentials(settings), options=options
            )
        self.jobs: Stub = rpc.JobServiceStub(self._channel)
        self.admin: AdminStub = admin_rpc.StorageAdminStub(self._channel)

    async def call(
        self,
        method: "UnaryMethod[_Request, _Response]",
        request: _Request,
        *,
        timeout_s: float | None,
    ) -> _Response:
        """Make a unary call; `method` is one of `jobs` or `admin`."""
        try:
            return await method(request, timeout=timeout_s, metadata=self._traced_metadata())
        except aio.AioRpcError as error:
            raise error_from_rpc(error, self.address) from error

    def _traced_metadata(self) -> aio.Metadata:
        context = current_context()
        return aio.Metadata(*self._metadata, *context) if context else self._metadata

    async def send(
        self, method: "aio.StreamUnaryMultiCallable[_Request, _Response]", requests: AsyncIterator[_Request]
    ) -> _Response:
        """Send a stream of messages, get one answer. No limit of time: keepalive notices a dead server."""
        try:
            return await method(requests, metadata=self._traced_metadata())
        except aio.AioRpcError as error:
            raise error_from_rpc(error, self.address) from error

    def open(
        self, method: "aio.UnaryStreamMultiCallable[_Request, _Response]", request: _Request
    ) -> "aio.UnaryStreamCall[_Request, _Response]":
        """Open a stream of answers to `read`; the caller cancels it (gRPC does not, see its issue 43462)."""
        return method(request, metadata=self._metadata)

    def stream_next_jobs(self) -> "WorkCall":
        """Open StreamNextJobs."""
        return self.jobs.StreamNextJobs(metadata=self._metadata)

    async def read(
        self, call: "aio.UnaryStreamCall[Any, _Response] | aio.StreamStreamCall[Any, _Response]"
    ) -> _Response | None:
        """The stream's next message; None at its regular end."""
        try:
            message = await call.read()
        except aio.AioRpcError as error:
            raise error_from_rpc(error, self.address) from error
        except asyncio.CancelledError as error:
            # gRPC raises this also for a status CANCELLED that the other side sent.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise CallCancelledError(f"{self.address}: the stream was cancelled") from error
        return None if message is aio.EOF else message  # type: ignore[return-value] # EOF is a singleton

    async def write(self, call: "WorkCall", message: pb.StreamNextJobsRequest) -> bool:
        """Send a message; False if the stream has ended, why tells `read`."""
        try:
            await call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    async def finish_writing(self, call: "WorkCall") -> None:
        """Close our side of the stream; the server then ends it."""
        with contextlib.suppress(aio.AioRpcError, aio.InternalError, asyncio.InvalidStateError):
            await call.done_writing()

    async def close(self) -> None:
        """Close the channel; calls still under way are cancelled."""
        await self._channel.close()


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials:
    """What a TLS connection is made with; the files are read now."""
    return grpc.ssl_channel_credentials(
        None if settings.ca == SYSTEM_CA else _bytes_of(settings.ca),
        _bytes_of(settings.client_key),
        _bytes_of(settings.client_cert),
    )


def _bytes_of(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _metadata(settings: Settings) -> aio.Metadata:
    metadata = aio.Metadata(("spoolway-user", settings.user))
    if settings.token is not None:
        if settings.ca is None and not _is_local(settings.address):
            _log.warning("the token travels unencrypted to %s; give `ca` to use TLS", settings.address)
        metadata.add("authorization", f"Bearer {settings.token}")
    return metadata


def _is_local(address: str) -> bool:
    host = address.removeprefix("dns:///").removeprefix("ipv4:").rpartition(":")[0]
    return address.startswith("unix:") or host in {"localhost", "127.0.0.1", "[::1]", "ipv6:[::1]"}


def closed_error(what: str) -> SpoolwayError:
    """The error of who uses a thing after closing it."""
    return SpoolwayError(f"this {what} is closed; make a new one")
