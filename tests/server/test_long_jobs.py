"""Jobs of great length: pages and events are bounded by bytes, not by their number alone."""

import asyncio

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import PATIENCE_S, Caller

LABELS = {f"{number:0>64}": "x" * 256 for number in range(32)}
JOBS = 450
"""Of 10 kB each: more than gRPC's default limit of 4 MiB."""


async def submit_long_jobs(alice: Caller) -> list[str]:
    names: list[str] = []
    for _ in range(JOBS // 150):
        one = pb.SubmitJobRequest(backend="sim", content=b"{}", labels=LABELS)
        answer = await alice.SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 150))
        names += [outcome.job.name for outcome in answer.outcomes]
    return names


async def test_a_page_of_long_jobs_is_shorter(alice: Caller) -> None:
    """ListJobs answers as many as fit into a message, and all pages together have each job once."""
    names = await submit_long_jobs(alice)

    found: list[str] = []
    request = pb.ListJobsRequest(page_size=1000, oldest_first=True)
    while True:
        page = await alice.ListJobs(request)
        found += [job.name for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert found == names


async def test_an_event_of_long_jobs_comes_in_parts(alice: Caller) -> None:
    """A snapshot of named jobs comes in messages that fit, and is complete with the last."""
    names = await submit_long_jobs(alice)
    watch = alice.WatchJobs(pb.WatchJobsRequest(names=names))

    seen: list[str] = []
    messages = 0
    async with asyncio.timeout(PATIENCE_S):
        while True:
            event = await watch.read()
            seen += [job.name for job in event.jobs]
            messages += bool(event.jobs)
            if event.snapshot_complete:
                break

    assert sorted(seen) == sorted(names)
    assert messages > 1
