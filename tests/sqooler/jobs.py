"""Jobs for the lab, and what to wait for."""

import time
from collections.abc import Callable
from typing import Any

from spoolway import SpoolwayError, SyncJobClient

__all__ = ["job", "submit", "until", "wait_for_backends"]

PATIENCE_S = 120.0


def job(tag: int, *, boom: int = -1, seconds: float = 0.0, wire: int = 0) -> dict[str, Any]:
    """A job that measures its tag, or fails by the kind `boom`, after some time."""
    instructions = [["rlx", [wire], [0.7]], ["boom", [0], [boom, seconds]], ["measure", [0], []]]
    body = {"num_wires": 1, "shots": 2, "wire_order": "interleaved", "seed": tag}
    return {"experiment_0": {"instructions": instructions, **body}}


def submit(client: SyncJobClient, backend: str, contents: list[dict[str, Any]]) -> list[Any]:
    """Submit jobs, none of which is refused."""
    jobs = client.submit_many(backend, contents)
    assert not [refused for refused in jobs if isinstance(refused, SpoolwayError)]
    return jobs


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Look now and then until it is so."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def wait_for_backends(client: SyncJobClient, *names: str) -> None:
    """Wait until a spooler takes jobs of them."""

    def are_there() -> bool:
        return {backend.name for backend in client.backends() if backend.status.operational} >= set(names)

    until(are_there, f"{names} are not operational")
