"""How a job is put into words for people."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spoolway import JobSnapshot

__all__ = ["ended_badly", "ending", "facts", "joined", "progress"]

_NO_REASON = "UNSPECIFIED"
_NO_ERROR = "None"
"""What stands in a job's status while there is no error, for readers of existing installations."""


def ended_badly(snapshot: "JobSnapshot") -> bool:
    """Whether it has ended, and has no result."""
    return snapshot.is_terminal and snapshot.state != "DONE"


def ending(snapshot: "JobSnapshot") -> str:
    """One line about how a job ended, with the error if there is one."""
    why = _error(snapshot)
    return f"{snapshot.name} ended {snapshot.state}" + (f": {why}" if why else "")


def facts(snapshot: "JobSnapshot") -> list[tuple[str, object]]:
    """What there is to know about a job, as pairs of name and value, without what is empty."""
    position = snapshot.queue_position
    pairs: list[tuple[str, object]] = [
        ("job", snapshot.name),
        ("state", snapshot.state),
        ("reason", "" if snapshot.reason == _NO_REASON else snapshot.reason),
        ("queue", None if position is None else _place(position)),
        ("progress", progress(snapshot)),
        ("error", _error(snapshot)),
        ("detail", snapshot.detail),
        ("owner", snapshot.owner),
        ("labels", joined(snapshot.labels)),
        ("submitted", _local(snapshot.create_time)),
        ("started", _local(snapshot.start_time)),
        ("ended", _local(snapshot.end_time)),
        ("kept until", _local(snapshot.purge_time)),
    ]
    return [(name, value) for name, value in pairs if value]


def progress(snapshot: "JobSnapshot") -> str:
    """Percent and stage, as far as the spooler tells; nothing once the job has ended."""
    if snapshot.is_terminal:
        return ""
    percent = f"{snapshot.fraction:.0%}" if snapshot.fraction else ""
    return f"{percent} {snapshot.stage}".strip()


def joined(labels: Mapping[str, str]) -> str:
    """Labels as they are given on the command line."""
    return " ".join(f"{key}={value}" for key, value in labels.items())


def _place(position: int) -> str:
    return "next" if position == 0 else f"behind {position if position <= 1000 else 'over 1000'}"


def _error(snapshot: "JobSnapshot") -> str:
    if snapshot.error is not None:
        return snapshot.error.message
    return "" if snapshot.error_message == _NO_ERROR else snapshot.error_message


def _local(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
