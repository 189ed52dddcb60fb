"""Changing a job's document: one compare-and-set, by which its outcome can always be read back.

Each write carries a random number of its own (`commit`). A write of unknown outcome is settled by
looking whether the document has that number: by what a majority of the servers has, so that it stays so.
"""

from typing import Any

import msgspec
from bson.binary import Binary

from spoolway_providers.model import Job, JobKey, new_token
from spoolway_providers.mongodb.documents import Document, job_fields
from spoolway_providers.mongodb.numbers import Numbers

__all__ = ["Write", "commit_id", "write_of"]


class Write(msgspec.Struct, frozen=True):
    """One compare-and-set of a job."""

    key: JobKey
    expected: Document
    """Filter: the document as it must be."""
    change: list[Document]
    commit: str


def commit_id(key: JobKey) -> str:
    """A new number of a write; begins with the backend, so that a change stream tells it."""
    return f"{key.backend}/{new_token()}"


def write_of(
    job: Job, expected_revision: int, numbers: Numbers, *, result: bytes | None = None, file_id: str = ""
) -> Write:
    """What stores `job` in place of the revision that it was made from.

    A new result's bytes are `result`, in the document, or lie in a file.
    """
    commit = commit_id(job.key)
    fields: dict[str, Any] = {
        # In a pipeline, so that numbers come from the server's clock; what users gave is literal.
        name: "$$REMOVE" if value is None else {"$literal": value}
        for name, value in job_fields(job).items()
    }
    fields["commit"] = commit
    fields["change"] = numbers.number(numbers.take())
    if result is not None:
        fields |= {"result": {"$literal": Binary(result)}, "result_file": "$$REMOVE"}
    elif file_id:
        fields |= {"result": "$$REMOVE", "result_file": {"$literal": file_id}}
    expected = {"_id": job.key.id, "backend": job.key.backend, "rev": expected_revision}
    return Write(job.key, expected, [{"$set": fields}], commit)
