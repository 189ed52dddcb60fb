"""How long things take, and may take; tests give shorter ones."""

import msgspec

__all__ = ["Timings"]


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds of this process's own monotonic clock."""

    renew_every_s: float = 60.0
    """Between two renewals of the ownership."""
    stop_after_s: float = 180.0
    """After the last confirmed renewal was sent, nothing is written any more."""
    take_over_after_s: float = 300.0
    """An owner file that did not change for so long belongs to nobody: `stop_after_s`, and the longest
    call, and a good deal more."""
    call_limit_s: float = 40.0
    """The longest a call may take; under 60, so that nothing written before `stop_after_s` comes late."""
    socket_timeout_s: float = 30.0
    """The longest silence within a call."""
    patience_s: float = 20.0
    """How long a step is tried again before its caller is told."""
    first_backoff_s: float = 0.2
    """Before the second try; doubles, with jitter."""
    amnesty_s: float = 60.0
    """After a takeover, spoolers of the owner before have so long to come back with what they hold."""
    progress_after_s: float = 30.0
    """A job's progress is written so long after it was told, at the latest."""
    place_after_s: float = 3.0
    """Files of jobs that have ended are moved together, so long after the first has."""
    word_after_s: float = 30.0
    """Another program moves a job's file first, and then tells how it ended: so long that is waited for."""
    sync_every_s: float = 30.0
    """Between two looks at what other programs changed, while this one writes itself."""
    longpoll_s: int = 240
    """How long Dropbox is asked to wait for a change; 30 to 480."""
    snapshot_every_s: float = 300.0
    """Between two writes of the index document, at least."""
    care_every_s: float = 1.0
    """Between two looks at what is due to be written late."""
