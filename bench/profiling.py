"""Where a server's time goes, for who wants to make it faster: `python -m bench --profile`."""

import marshal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bodies import Throughput, start_service
from bench.plan import Plan
from bench.rounds import BATCH, SINGLE
from bench.storages import StorageCase
from bench.worker import StreamPlan

__all__ = ["print_profile", "run_profiled"]

STATISTICS = "profile"
FUNCTIONS = 40
THREADS = 4
LOAD_S = 8.0
_WAITS = (
    "method 'poll' of 'select.epoll'",
    "method 'get' of '_queue.SimpleQueue'",
    "method 'acquire' of '_thread.lock'",
    "method 'watch' of",
    "threading.py:",
)
"""Functions in which a thread waits. A lock's time of the interpreter is in all others."""


@dataclass(frozen=True)
class _Spent:
    """The time that a function took by itself, in one thread."""

    thread: str
    function: str
    calls: int
    own_s: float
    with_callees_s: float


async def run_profiled(
    case: StorageCase, folder: Path, plan: Plan, *, batch: bool, seconds: float = LOAD_S
) -> Throughput:
    """Put a server under load and under cProfile, whose statistics are left in `folder`."""
    call, backend = ("batch", BATCH) if batch else ("single", SINGLE)
    in_flight = plan.batches_in_flight if batch else plan.in_flight
    credit = plan.batch_credit if batch else plan.credit
    async with AsyncExitStack() as stack:
        streams = [StreamPlan(backend, credit, gated=True)]
        body = await start_service(stack, case, streams, folder, profile=folder / STATISTICS)
        await body.client.do("preload", backend=backend, jobs=plan.short_queue + credit)
        return await body.throughput(call, backend, seconds, in_flight, grants=True)


def print_profile(folder: Path, profiled: Throughput) -> None:
    """The functions of all threads that took most, waits left out."""
    spent = sorted(_all_spent(folder), key=lambda one: one.own_s, reverse=True)
    threads = dict.fromkeys((one.thread for one in spent), 0.0)
    for one in spent:
        threads[one.thread] += one.own_s
    us_a_job = 1e6 / profiled.jobs
    print(f"{profiled.per_s:,.0f} life cycles/s under the profiler; microseconds of each, waits left out")
    for thread, own_s in sorted(threads.items(), key=lambda item: -item[1])[:THREADS]:
        print(f"  {own_s * us_a_job:8.0f} thread {thread}")
    print(f"\n{'own':>8} {'with callees':>13} {'calls a job':>12}  {'thread':22} function")
    for one in spent[:FUNCTIONS]:
        print(
            f"{one.own_s * us_a_job:8.1f} {one.with_callees_s * us_a_job:13.1f} "
            f"{one.calls / profiled.jobs:12.2f}  {one.thread:22} {one.function}"
        )


def _all_spent(folder: Path) -> Iterator[_Spent]:
    for file in folder.glob(f"{STATISTICS}.*"):
        # What cProfile has just written; pstats would read it the same way, and only print it.
        profile = marshal.loads(file.read_bytes())  # noqa: S302
        for (path, line, name), (calls, _, own_s, with_callees_s, _) in profile.items():
            function = name if path == "~" else f"{_short(path)}:{line} {name}"
            if not any(wait in function for wait in _WAITS):
                thread = file.name.removeprefix(f"{STATISTICS}.")
                yield _Spent(thread, function, calls, own_s, with_callees_s)


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])
