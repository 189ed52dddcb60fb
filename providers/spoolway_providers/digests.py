"""How documents are named by what they say: blob references, etags and fingerprints."""

from hashlib import sha256

import msgspec

from spoolway_providers.model import BlobRef, Draft, Job, Policy, State

__all__ = ["blob_ref", "config_etag", "draft_fingerprint", "job_fingerprint", "policy_etag"]

_ETAG_LENGTH = 32
"""Hex digits: 128 bits, as no two documents of one backend may share an etag."""


def blob_ref(blob_id: str, data: bytes) -> BlobRef:
    """The reference to `data`, stored as `blob_id`."""
    return BlobRef(blob_id, len(data), sha256(data).hexdigest())


def config_etag(config: bytes) -> str:
    """The etag of a backend's config; a backend without one has an empty etag."""
    return sha256(config).hexdigest()[:_ETAG_LENGTH]


def policy_etag(policy: Policy) -> str:
    """The etag of a backend's policy."""
    return sha256(msgspec.json.encode(policy)).hexdigest()[:_ETAG_LENGTH]


def draft_fingerprint(draft: Draft, content_sha256: str) -> str:
    """What a repeated request id must agree in, as 64 hex digits."""
    return sha256(draft.fingerprint_parts() + content_sha256.encode()).hexdigest()


def job_fingerprint(job: Job) -> str:
    """The fingerprint of the draft that a job was; empty, which agrees with all, if that can't be told.

    A job does not keep its `not_before` once that has passed.
    """
    is_delayed = job.times[0].state is not State.QUEUED
    if is_delayed and len(job.times) > 1:
        return ""
    draft = Draft(
        backend=job.key.backend,
        owner=job.owner,
        content=job.content,
        max_attempts=job.max_attempts,
        request_id=job.request_id,
        labels=job.labels,
        priority=job.priority,
        not_before=job.due_at if is_delayed else None,
        expire_at=job.expire_at,
        max_run_time=job.max_run_time,
    )
    return draft_fingerprint(draft, job.content.sha256)
