"""Kills a server at a chosen step of a chosen transition.

Nothing of it is in the service: a server of this harness wraps its provider before it starts. A step is what
the provider's own work consists of, each storage in its own way: a commit, a file, a command, a call.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from spoolway_providers.interface import Change, Claimed, Provider
from spoolway_providers.model import Job
from tests.crash.journal import Journal
from tests.crash.plan import Target

__all__ = ["FaultPoints", "watch_provider"]

Step = Callable[[str], None]


class FaultPoints:
    """Counts, and kills this process as by kill -9 once the target is reached."""

    def __init__(self, journal: Journal, target: Target | None) -> None:
        self._journal = journal
        self._target = target
        self._met: Counter[str] = Counter()
        self._left: int | None = None
        """Steps left, once the target's transition has begun."""
        self._under_way = ""

    def begin(self, transition: str) -> None:
        """A transition begins; that is its step 0."""
        self._met[transition] += 1
        target = self._target
        if target and (target.transition, target.occurrence) == (transition, self._met[transition]):
            self._left = target.step
            self._under_way = transition
            self.step("it begins")

    def step(self, name: str) -> None:
        """Something is about to be done, or was done, somewhere in this process, in any thread."""
        if self._left is None:
            return
        if self._left <= 0:
            self._journal.note("killed at", transition=self._under_way, step=name)
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def watch_provider(provider: Provider, points: FaultPoints, journal: Journal) -> Provider:
    """Have a provider's calls be transitions, and note what it has committed."""

    def wrap(name: str, transitions: Callable[..., Sequence[str]]) -> None:
        original = getattr(provider, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            for transition in transitions(*args):
                points.begin(transition)
            answer = await original(*args, **kwargs)
            if isinstance(answer, list):
                for one in answer:
                    _note_commit(journal, name, one)
            points.step(f"{name} has its answer")
            return answer

        setattr(provider, name, call)

    for name in ("submit", "claim", "open_session", "close_session", "renew", "repair", "put_config"):
        wrap(name, lambda *_, name=name: [name])
    wrap("commit", lambda changes: [_transition_of(change) for change in changes])
    return provider


def _transition_of(change: Change) -> str:
    before, after = change.job.times[-2:] if len(change.job.times) > 1 else change.job.times * 2
    return f"commit {before.state}>{after.state}"


def _note_commit(journal: Journal, name: str, answer: object) -> None:
    job = answer.job if isinstance(answer, Claimed) else answer
    if isinstance(job, Job):
        journal.note(
            "committed",
            by=name,
            job=str(job.key),
            revision=job.revision,
            state=f"{job.state}({job.reason})" if job.reason else str(job.state),
            token=job.attempts[-1].token if job.attempts else "",
        )
