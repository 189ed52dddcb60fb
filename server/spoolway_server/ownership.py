"""Whose a job is. Not there and not yours look the same."""

import grpc

from spoolway_providers.errors import NotFound
from spoolway_providers.model import Job, JobKey
from spoolway_server.auth import Principal
from spoolway_server.errors import ServiceError
from spoolway_server.storage import Storage

__all__ = ["any_job", "job_not_found", "own_job"]


async def own_job(storage: Storage, caller: Principal, key: JobKey, name: str, *, field: str = "name") -> Job:
    """The job if it is there and the caller may see it; `name` is what the caller called it in `field`."""
    job = await any_job(storage, key, name, field=field)
    if not caller.sees_all and job.owner != caller.name:
        raise job_not_found(name, field=field)
    return job


async def any_job(storage: Storage, key: JobKey, name: str, *, field: str) -> Job:
    """The job if it is there, whosever it is."""
    storage.require_usable()
    try:
        with storage.noting_trouble():
            return await storage.provider.get(key)
    except NotFound:
        raise job_not_found(name, field=field) from None


def job_not_found(name: str, *, field: str = "name") -> ServiceError:
    """The one answer for both."""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        "JOB_NOT_FOUND",
        f"there is no job {name[:300]} of yours; ListJobs tells which there are",
        field=field,
    )
