"""From a draft to the upsert that makes it a job.

The server dates and numbers the job in the upsert itself, so that no client's clock counts. The record is
made by `rules.admit`; where it depends on the time of the commit, both outcomes are sent along and the
server takes one. All that a user gave stands under `$literal`.
"""

from datetime import datetime
from typing import Any

from bson.binary import Binary
from bson.int64 import Int64

from spoolway_providers import rules
from spoolway_providers.model import BlobRef, Draft, Job, JobKey, new_token
from spoolway_providers.mongodb.documents import (
    Document,
    from_microseconds,
    job_fields,
    label_pairs,
    to_microseconds,
)
from spoolway_providers.mongodb.numbers import Numbers

__all__ = ["new_job"]

_NOMINAL = from_microseconds(0)
"""Stands for the time of the commit until the server fills it in."""
_ISO = "%Y-%m-%dT%H:%M:%S.%LZ"


def new_job(
    draft: Draft,
    key: JobKey,
    ref: BlobRef,
    fingerprint: str,
    numbers: Numbers,
    *,
    file_id: str,
    floor: int,
    offset: int,
    turn: int | None = None,
) -> tuple[Document, list[Document]]:
    """Filter and change of the upsert; sent again, it leaves the job as it is by then.

    The content lies in the file `file_id`, or in the document if that is empty. `turn` is its rank, where
    owners take turns.
    """
    waiting = _admitted(draft, key, ref, _NOMINAL)
    by_server = {
        "change": numbers.number(floor, offset),
        "seq": numbers.number(floor, offset),
        # Ranked at 1970, its rank is what its priority is worth.
        "rank": {"$add": [numbers.ranking_ms(floor), waiting.rank]}
        if turn is None
        else {"$literal": Int64(turn)},
        "requested_at": numbers.now(),
    }
    same = _same_either_way(draft, key, fingerprint, file_id)
    record = _at_commit(waiting, same, numbers)
    if draft.not_before is not None:
        ready = _at_commit(_admitted(draft, key, ref, draft.not_before), same, numbers)
        comes_early = {"$lt": [numbers.now_ms(), {"$literal": _whole_ms(draft.not_before)}]}
        record = {"$cond": [comes_early, record, ready]}
    made = {"$mergeObjects": [record, by_server]}
    is_new = {"$eq": [{"$type": "$state"}, "missing"]}
    change = {"$replaceWith": {"$cond": [is_new, made, "$$ROOT"]}}
    return {"_id": key.id, "backend": key.backend}, [change]


def _whole_ms(moment: datetime) -> Int64:
    """Since 1970, rounded up: the server counts in milliseconds, and no job starts too early."""
    return Int64(-(-to_microseconds(moment) // 1000))


def _admitted(draft: Draft, key: JobKey, ref: BlobRef, now: Any) -> Job:
    return rules.admit(draft, key=key, content=ref, seq=0, now=now, ranked_at=_NOMINAL)


def _same_either_way(draft: Draft, key: JobKey, fingerprint: str, file_id: str) -> Document:
    document: Document = {
        "_id": key.id,
        "backend": key.backend,
        "owner": draft.owner,
        "labels": label_pairs(draft.labels),
        "request_id": draft.request_id,
        "commit": f"{key.backend}/{new_token()}",
    }
    if draft.request_id:
        document |= {"request": draft.request_id, "fingerprint": fingerprint}
    if file_id:
        document["content_file"] = file_id
    elif isinstance(draft.content, bytes):
        document["content"] = Binary(draft.content)
    return document


def _at_commit(job: Job, same: Document, numbers: Numbers) -> Document:
    """An expression for the job's document, with the time of the commit as that of its first transition."""
    fields = {name: value for name, value in job_fields(job).items() if value is not None}
    record = fields.pop("job")
    [first] = record.pop("times")
    dated = {"at": {"$dateToString": {"date": numbers.now(), "format": _ISO}}}
    times = [{"$mergeObjects": [{"$literal": first}, dated]}]
    return {
        "$mergeObjects": [
            {"$literal": {**same, **fields}},
            {"job": {"$mergeObjects": [{"$literal": record}, {"times": times}]}},
        ]
    }
