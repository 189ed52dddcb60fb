"""The job in hand, as a run function sees it."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any

from spoolway.leases import LeaseClock
from spoolway.v1 import job_service_pb2 as pb

__all__ = ["RunningJob"]

_MAX_STAGE_CHARS = 100
_MAX_DETAIL_CHARS = 1_000


class RunningJob:
    """The job in hand. Everything may be used from any thread.

    Attributes:
        name: backends/{backend}/jobs/{id}.
        id: The id alone.
        backend: Short name of the backend.
        owner: Who submitted it.
        content_bytes: The JSON document as submitted.
        labels: As given at submit.
        attempts_before: Attempts that were accepted before this one.
        max_run_time: Longest run; None: no limit. When it passes the job is cancelled.
    """

    def __init__(self, assignment: pb.Assignment, leases: LeaseClock, notify: Callable[[str], None]) -> None:
        """Made by the spooler.

        Args:
            assignment: What the server said.
            leases: How sure the lease is.
            notify: Called with the lease's token, in any thread, when there is progress to take.
        """
        self.name = assignment.job
        self.id = assignment.job.rpartition("/")[2]
        self.backend = backend_of(assignment.job)
        self.owner = assignment.owner
        self.content_bytes = assignment.content
        self._missing_bytes = 0 if assignment.content else assignment.content_bytes
        self.labels: Mapping[str, str] = dict(assignment.labels)
        self.attempts_before = assignment.attempts_before
        self.max_run_time: timedelta | None = (
            assignment.max_run_time.ToTimedelta() if assignment.HasField("max_run_time") else None
        )
        self._token = assignment.lease_token
        self._trace_context = assignment.trace_context
        self._leases = leases
        self._notify = notify
        self._cancelled = False
        self._progress = pb.Progress()
        self._has_progress = False
        self._progress_lock = threading.Lock()

    def __repr__(self) -> str:
        """The name."""
        return f"<RunningJob {self.name}>"

    @cached_property
    def content(self) -> Any:
        """The job's content, parsed when it is first asked for."""
        return json.loads(self.content_bytes)

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the job was cancelled, ran out of time, or was given to somebody else.

        Look at it now and then, and return or raise soon when it is true. What is returned then still counts
        as the result, if it is not None and the server has not yet given up waiting (30 s by default).
        """
        return self._cancelled

    @property
    def lease_unsure(self) -> bool:
        """Whether the server may have given the job to another spooler, as it was not heard for too long.

        Stop if two at once would do harm; else go on: the lease may be kept when the server is back.
        """
        return self._leases.is_unsure

    def report(
        self, stage: str | None = None, fraction: float | None = None, detail: str | None = None
    ) -> None:
        """Say what is being done. Cheap: at most one report a second is sent, and the newest wins.

        Args:
            stage: What it is doing, at most 100 characters, longer is cut. None: as before.
            fraction: How far it is, 0 to 1, beyond is clipped. None: as before.
            detail: A sentence that is added to the job's status, at most 1,000 characters, longer is cut.
        """
        with self._progress_lock:
            if stage is not None:
                self._progress.stage = clean_text(stage)[:_MAX_STAGE_CHARS]
            if fraction is not None and not math.isnan(fraction):
                self._progress.fraction = min(1.0, max(0.0, float(fraction)))
            if detail is not None:
                self._progress.detail = clean_text(detail)[:_MAX_DETAIL_CHARS]
            must_notify, self._has_progress = not self._has_progress, True
        if must_notify:
            self._notify(self._token)

    def _cancel(self) -> None:
        self._cancelled = True

    def _take_progress(self) -> pb.Progress | None:
        """The newest progress that was not taken yet."""
        with self._progress_lock:
            if not self._has_progress:
                return None
            self._has_progress = False
            progress = pb.Progress()
            progress.CopyFrom(self._progress)
            self._progress.detail = ""
        return progress


def backend_of(job_name: str) -> str:
    """The backend in backends/{backend}/jobs/{id}; empty if the name has another form."""
    parts = job_name.split("/")
    return parts[1] if len(parts) == 4 else ""


def clean_text(text: object) -> str:
    """Text that protobuf takes: half surrogate pairs replaced."""
    return str(text).encode(errors="replace").decode()
