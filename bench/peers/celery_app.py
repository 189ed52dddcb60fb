"""Celery's worker as such: started by `celery_ends`, which it tells of each job by a datagram."""

import os
import socket
import time
from typing import Any

from celery import Celery
from celery.signals import task_postrun

from bench import payload

__all__ = ["ADDRESS", "TASK", "TOLD", "app"]

ADDRESS = "BENCH_REDIS"
TOLD = "BENCH_TOLD"
"""The environment's variables: the server's address, and the path of the socket."""
TASK = "bench.run"

app = Celery("bench", broker=os.environ[ADDRESS], backend=os.environ[ADDRESS])
app.conf.update(
    # A job is taken off the broker only once its result is stored: else a killed worker loses it.
    task_acks_late=True,
    broker_connection_retry_on_startup=True,
)
_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


@app.task(name=TASK)  # type: ignore[untyped-decorator,unused-ignore]
def run(content: str) -> str:
    travelled_ns = time.monotonic_ns() - payload.sent_ns(content.encode())
    _socket.sendto(b"arrived %d" % travelled_ns, os.environ[TOLD])
    return payload.RESULT.decode()


@task_postrun.connect  # type: ignore[untyped-decorator,unused-ignore]
def _tell_of_the_end(**_named: Any) -> None:
    # The result has been stored by now.
    _socket.sendto(b"finished", os.environ[TOLD])
