"""What is known about a backend, and its translation from the contract."""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from spoolway.caller import Seconds, in_seconds
from spoolway.v1 import job_pb2 as pb

__all__ = [
    "Backend",
    "BackendPolicy",
    "BackendStatus",
    "PolicyChanges",
    "backend_from_proto",
    "policy_to_proto",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """How a backend stands."""

    backend_name: str
    """Short name."""
    backend_version: str
    """The config's version, X.Y.Z; empty if it has none."""
    operational: bool
    """Whether jobs submitted now would be taken."""
    pending_jobs: int
    """Jobs that wait to be run."""
    status_msg: str
    """What is the matter, or "ok"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendPolicy:
    """What operators allow on a backend. Where both policy and config name a limit the smaller counts."""

    paused: bool
    """No jobs are handed out while set."""
    max_attempts: int
    """Attempts a job may have."""
    max_crashes: int
    """Sessions that may close with the job claimed before it is an error."""
    lease_ttl: timedelta | None
    """How long a lease lasts without a heartbeat."""
    resume_grace: timedelta | None
    """How long the server waits beyond that before it gives the job to another spooler."""
    lost_timeout: timedelta | None
    """How long a job that may not run again waits for its lost spooler; None: see the contract."""
    cancel_grace: timedelta | None
    """How long a running job has to stop."""
    max_run_time: timedelta | None
    """Longest run; None: no limit."""
    max_queued: int
    """Jobs that may wait at once; 0: no limit."""
    round_robin: bool
    """Whether owners take turns."""
    retention: timedelta | None = None
    """How long a job is kept after its end; None: for ever."""
    foreign_claim_timeout: timedelta | None = None
    """How long a job that another program takes is left to it; None: until an operator decides."""
    user_submits_per_s: int = 0
    """Jobs that one user may submit a second; 0: no limit."""
    user_bytes_per_s: int = 0
    """Bytes of contents that one user may submit a second; 0: no limit."""
    user_max_queued: int = 0
    """Jobs of one user that may wait at once; 0: no limit."""


class PolicyChanges(TypedDict, total=False):
    """New values of a policy's fields, which are those of BackendPolicy; what is left out stays as it is.

    None is the server's default, which for `max_run_time` and `lost_timeout` may be none at all.
    """

    paused: bool | None
    max_attempts: int | None
    max_crashes: int | None
    lease_ttl: Seconds | None
    resume_grace: Seconds | None
    lost_timeout: Seconds | None
    cancel_grace: Seconds | None
    max_run_time: Seconds | None
    max_queued: int | None
    round_robin: bool | None
    retention: Seconds | None
    foreign_claim_timeout: Seconds | None
    user_submits_per_s: int | None
    user_bytes_per_s: int | None
    user_max_queued: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A device or simulator that runs jobs."""

    name: str
    """Short name."""
    storage: str
    """The storage that holds its jobs."""
    config: dict[str, Any]
    """What it can do, as its spooler registered it; of a signed config the payload."""
    config_bytes: bytes
    """The JSON document as it is stored: the config, or the signed document around it."""
    config_etag: str
    """Changes with the config."""
    policy: BackendPolicy
    """What operators allow."""
    policy_etag: str
    """Changes with the policy."""
    status: BackendStatus
    """How it stands."""
    public_key: dict[str, Any] | None = None
    """The key by which its signed documents are verified, a JSON Web Key; None if it has none."""

    def configuration(self) -> dict[str, Any]:
        """The config in Qiskit's words, as far as the config has them.

        Keys of the config that Qiskit does not rename are kept as they are.
        """
        config = self.config
        kind = "simulator" if config.get("simulator", True) else "hardware"
        words: dict[str, Any] = {
            "conditional": False,
            "coupling_map": "linear",
            "dynamic_reprate_enabled": False,
            "local": False,
            "memory": True,
            "open_pulse": False,
            "url": None,
            **{key: value for key, value in config.items() if key not in _RENAMED},
            "backend_name": f"{self.storage}_{self.name}_{kind}",
            "display_name": config.get("display_name", self.name),
            "basis_gates": _gate_names(config.get("gates")),
        }
        words.update({_RENAMED[key]: config[key] for key in _RENAMED if key in config})
        return words


_RENAMED = {"version": "backend_version", "num_wires": "n_qubits"}


def backend_from_proto(backend: pb.Backend) -> Backend:
    """Translate the contract's Backend."""
    return Backend(
        name=backend.name.rpartition("/")[2],
        storage=backend.storage.rpartition("/")[2],
        config=_config(backend.config),
        config_bytes=backend.config,
        config_etag=backend.config_etag,
        policy=_policy(backend.policy),
        policy_etag=backend.policy_etag,
        status=BackendStatus(
            backend_name=backend.status.backend_name,
            backend_version=backend.status.backend_version,
            operational=backend.status.operational,
            pending_jobs=backend.status.pending_jobs,
            status_msg=backend.status.status_msg,
        ),
        public_key=json.loads(backend.public_key) if backend.public_key else None,
    )


def _config(raw: bytes) -> dict[str, Any]:
    config = json.loads(raw) if raw else {}
    if not isinstance(config, dict):
        return {}
    is_signed = config.keys() == {"header", "payload", "signature"} and isinstance(config["payload"], dict)
    return config["payload"] if is_signed else config


def _gate_names(gates: Any) -> list[str]:
    if not isinstance(gates, list):
        return []
    return [gate["name"] for gate in gates if isinstance(gate, dict) and "name" in gate]


def _policy(policy: pb.BackendPolicy) -> BackendPolicy:
    return BackendPolicy(
        paused=policy.paused,
        max_attempts=policy.max_attempts,
        max_crashes=policy.max_crashes,
        lease_ttl=_span(policy.lease_ttl),
        resume_grace=_span(policy.resume_grace),
        lost_timeout=policy.lost_timeout.ToTimedelta() if policy.HasField("lost_timeout") else None,
        cancel_grace=_span(policy.cancel_grace),
        max_run_time=_span(policy.max_run_time),
        max_queued=policy.max_queued,
        round_robin=policy.round_robin,
        retention=_span(policy.retention),
        foreign_claim_timeout=_span(policy.foreign_claim_timeout),
        user_submits_per_s=policy.user_submits_per_s,
        user_bytes_per_s=policy.user_bytes_per_s,
        user_max_queued=policy.user_max_queued,
    )


def policy_to_proto(changes: PolicyChanges) -> pb.BackendPolicy:
    """The contract's policy with these values; a field that is None, or not there, is unset."""
    policy = pb.BackendPolicy()
    for name, value in changes.items():
        if value is None:
            continue
        field = getattr(policy, name)
        if isinstance(field, Duration):
            field.FromTimedelta(timedelta(seconds=in_seconds(value)))  # type: ignore[arg-type]  # a span
            field.SetInParent()
        else:
            setattr(policy, name, value)
    return policy


def _span(duration: Duration) -> timedelta | None:
    """None where it is unset; a limit of zero means none too."""
    span = duration.ToTimedelta()
    return span or None
