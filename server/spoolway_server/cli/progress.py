"""Waiting for jobs: a bar for each on stderr where somebody looks, nothing elsewhere."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import console

if TYPE_CHECKING:
    from rich.progress import TaskID

    from spoolway import JobClient, JobSnapshot

__all__ = ["JobBars", "follow"]

MAX_BARS = 20
"""More would not fit on a screen; above it one bar counts the jobs that have ended."""


class JobBars:
    """Bars for jobs, by name; a context manager that takes the screen's lines and gives them back."""

    def __init__(self, names: Sequence[str]) -> None:
        """Prepare for these jobs; shows nothing yet."""
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        shown = sys.stderr.isatty()
        # Lines for stdout pass above the bars only where both are the same screen.
        self._progress = Progress(
            *columns,
            console=console(sys.stderr),
            transient=True,
            disable=not shown,
            redirect_stdout=shown and sys.stdout.isatty(),
            redirect_stderr=False,
        )
        self._ended: set[str] = set()
        self._tasks: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        if len(names) > MAX_BARS:
            self._all = self._progress.add_task(f"{len(names)} jobs", total=len(names), note="")
        else:
            for name in names:
                short = name.rpartition("/")[2]
                self._tasks[name] = self._progress.add_task(short, total=1.0, note="")

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing on the screen."""
        self._progress.stop()

    def update(self, snapshot: "JobSnapshot") -> None:
        """Show how a job stands now."""
        if snapshot.is_terminal:
            self._ended.add(snapshot.name)
        if self._all is not None:
            self._progress.update(self._all, completed=len(self._ended))
        elif (task := self._tasks.get(snapshot.name)) is not None:
            completed = 1.0 if snapshot.is_terminal else snapshot.fraction
            self._progress.update(task, completed=completed, note=_note(snapshot))


def _note(snapshot: "JobSnapshot") -> str:
    if snapshot.queue_position is not None:
        return f"{snapshot.state} behind {snapshot.queue_position}"
    return f"{snapshot.state} {snapshot.stage}".rstrip()


async def follow(
    client: "JobClient",
    names: Iterable[str],
    *,
    timeout_s: float | None = None,
    tell: Callable[["JobSnapshot"], None] | None = None,
) -> list["JobSnapshot"]:
    """Wait until all jobs have ended, showing their progress.

    Args:
        client: open.
        names: names or bare ids of jobs.
        timeout_s: ends the command with exit code 7; None: wait for ever.
        tell: called with every change, the first state included.

    Returns:
        The jobs as they ended, in the order of `names`.
    """
    # Asked one by one first: an unknown name is an error at once, and bare ids become names.
    latest = {snapshot.name: snapshot for snapshot in [await client.job(name).status() for name in names]}
    try:
        with JobBars(list(latest)) as bars:
            async with asyncio.timeout(timeout_s):
                await _watch(client, latest, bars, tell)
    except TimeoutError:
        waiting = next(snapshot for snapshot in latest.values() if not snapshot.is_terminal)
        hint = "It goes on all the same. Wait again with: spoolway watch " + waiting.name
        fail(f"{waiting.name} is still {waiting.state} after {timeout_s:g} s", ExitCode.TIMED_OUT, hint)
    return list(latest.values())


async def _watch(
    client: "JobClient",
    latest: dict[str, "JobSnapshot"],
    bars: JobBars,
    tell: Callable[["JobSnapshot"], None] | None,
) -> None:
    def note(snapshot: "JobSnapshot") -> None:
        latest[snapshot.name] = snapshot
        bars.update(snapshot)
        if tell is not None:
            tell(snapshot)

    for snapshot in list(latest.values()):
        note(snapshot)
    open_jobs = {name for name, snapshot in latest.items() if not snapshot.is_terminal}
    if not open_jobs:
        return
    async with aclosing(client.watch(names=sorted(open_jobs))) as changes:
        async for snapshot in changes:
            if snapshot.revision > latest[snapshot.name].revision:
                note(snapshot)
            if snapshot.is_terminal:
                open_jobs.discard(snapshot.name)
            if not open_jobs:
                return
