"""What a backend takes: its config read once, and each job checked against it before it is accepted."""

from collections.abc import Mapping
from typing import Any

import grpc
import jsonschema_rs

from spoolway_server.errors import ServiceError

__all__ = ["JobRules", "job_document_of", "read_config"]

MAX_SCHEMA_ERRORS = 3
MAX_SEARCHED_BYTES = 8 * 1024
"""Longer jobs are told their first mistake only: to find all in two megabytes takes seconds."""

TODAYS_JOB_SCHEMA: Mapping[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "patternProperties": {
        "^experiment_[0-9]+$": {
            "type": "object",
            "required": ["instructions", "num_wires", "shots"],
            "properties": {
                "instructions": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "array",
                        "minItems": 3,
                        "maxItems": 3,
                        "prefixItems": [
                            {"type": "string"},
                            {"type": "array", "items": {"type": "integer", "minimum": 0}},
                            {"type": "array"},
                        ],
                    },
                    "contains": {"type": "array", "prefixItems": [{"const": "measure"}], "minItems": 3},
                },
                "num_wires": {"type": "integer", "minimum": 1},
                "shots": {"type": "integer", "minimum": 1},
                "wire_order": {"enum": ["interleaved", "sequential"]},
                "seed": {"type": ["integer", "null"]},
            },
        }
    },
}
"""The shape of a job in today's installations, for configs of theirs, which bring no job_schema."""


class JobRules:
    """What one version of a backend's config demands of jobs."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Read a config, plain or signed.

        Raises:
            ServiceError: INVALID_ARGUMENT with the field at fault.
        """
        payload = job_document_of(config)
        self.max_shots = _limit(payload, "max_shots")
        self.max_experiments = _limit(payload, "max_experiments")
        self.is_simulator = payload.get("simulator", True) is not False
        """Else hardware; stands in the backend's long name."""
        schema = payload.get("job_schema")
        if schema is None and "supported_instructions" in payload:
            schema = TODAYS_JOB_SCHEMA
        self._validator = None if schema is None else _compile(schema)

    def check(self, job: Any, *, size: int) -> None:
        """Let a parsed job of `size` bytes pass, or raise ServiceError."""
        self._check_limits(job)
        if self._validator is None:
            return
        errors = self._errors(self._validator, job, size)
        if errors:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT,
                "JOB_SCHEMA_VIOLATION",
                "the job is not what this backend takes: "
                + "; ".join(_describe(error) for error in errors[:MAX_SCHEMA_ERRORS]),
                metadata={"violations": len(errors), "path": _path(errors[0])},
                field="content",
            )

    @staticmethod
    def _errors(
        validator: jsonschema_rs.Validator, job: Any, size: int
    ) -> list[jsonschema_rs.ValidationError]:
        """The mistakes of a job, those of the smallest parts first; of a long one only the first."""
        if size <= MAX_SEARCHED_BYTES:
            return sorted(
                validator.iter_errors(job), key=lambda error: len(error.instance_path), reverse=True
            )
        try:
            validator.validate(job)
        except jsonschema_rs.ValidationError as error:
            return [error]
        return []

    def _check_limits(self, job: Any) -> None:
        if not isinstance(job, dict):
            return
        experiments = {name: body for name, body in job.items() if name.startswith("experiment_")}
        if self.max_experiments is not None and len(experiments) > self.max_experiments:
            raise _over("MAX_EXPERIMENTS_EXCEEDED", "experiments", len(experiments), self.max_experiments)
        if self.max_shots is None:
            return
        for name, body in experiments.items():
            shots = body.get("shots") if isinstance(body, dict) else None
            if isinstance(shots, int | float) and shots > self.max_shots:
                raise _over("MAX_SHOTS_EXCEEDED", f"shots in {name[:80]}", shots, self.max_shots)


def read_config(config: Any) -> JobRules:
    """The rules of a config that has just been parsed; it must be a JSON object."""
    if not isinstance(config, dict):
        raise _invalid("CONFIG_INVALID", "config", "a backend's config is one JSON object")
    return JobRules(config)


def job_document_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config itself: what a signed document carries as payload, or the plain one."""
    if set(config) == {"header", "payload", "signature"} and isinstance(config["payload"], dict):
        payload: Mapping[str, Any] = config["payload"]
        return payload
    return config


def _limit(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid("CONFIG_INVALID", f"config.{name}", f"{name} must be a whole number from 1 up")
    return value


def _compile(schema: Any) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(
            schema,
            # Linear-time patterns: a schema can't stall the server. No reference leaves the document.
            pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
            retriever=_refuse_reference,
        )
    except (ValueError, TypeError, jsonschema_rs.ReferencingError) as error:
        message = f"job_schema is no JSON Schema that can be used here: {str(error)[:500]}"
        raise _invalid("JOB_SCHEMA_INVALID", "config.job_schema", message) from error


def _refuse_reference(uri: str) -> Any:
    raise ValueError(f"it refers to {uri[:200]}; put all definitions into the schema itself, under $defs")


def _describe(error: jsonschema_rs.ValidationError) -> str:
    return f"{_path(error)}: {error.message[:300]}"


def _path(error: jsonschema_rs.ValidationError) -> str:
    return "/" + "/".join(str(part)[:80] for part in error.instance_path)


def _over(reason: str, what: str, value: float, limit: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        f"{value} {what}; this backend allows {limit}",
        metadata={"limit": limit},
        field="content",
    )


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
