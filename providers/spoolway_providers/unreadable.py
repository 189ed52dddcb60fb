"""Jobs whose documents do not say what they must: whoever meets one ends it, so that it harms only itself."""

from datetime import datetime

from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.errors import Corrupt
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, Policy

__all__ = ["UnreadableJob", "ended"]

_MESSAGE = (
    "its document in the storage can't be read any more; submit it again, or ask the storage's operator"
)


class UnreadableJob(Corrupt):
    """A job's document can't be read; `document` is all of it."""

    def __init__(self, document: object, why: Exception) -> None:
        """Remember the document, by which its row can be found."""
        super().__init__(f"a job's document can't be read: {why}")
        self.document = document


def ended(
    key: JobKey,
    *,
    owner: str,
    content: BlobRef,
    request_id: str,
    seq: int,
    rank: int,
    revision: int,
    now: datetime,
    policy: Policy,
) -> Job:
    """What takes the place of a job of which only this is known: its end, so that its owner sees it."""
    draft = Draft(
        backend=key.backend,
        owner=owner,
        content=content,
        request_id=request_id,
        max_attempts=policy.max_attempts,
    )
    job = rules.admit(draft, key=key, content=content, seq=seq, now=now)
    event = rules.Spoiled("DOCUMENT_CORRUPT", _MESSAGE)
    spoiled = rules.decide(replace(job, rank=rank, revision=revision), event, now, policy)
    if isinstance(spoiled, rules.Refusal):
        raise AssertionError(f"a queued job can always be spoiled: {spoiled.message}")
    return spoiled
