"""Commands about jobs: of clients, and those by which operators decide about one."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spoolway_server.cli.admin import calls_admin
from spoolway_server.cli.connection import calls_server
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import ago, put, say, write_facts, write_json, write_table
from spoolway_server.cli.progress import follow
from spoolway_server.cli.words import ended_badly, ending, facts, joined, progress

if TYPE_CHECKING:
    from spoolway import AdminClient, JobClient, JobSnapshot

__all__ = [
    "cancel",
    "delete",
    "explain",
    "fail_held",
    "hold",
    "list_jobs",
    "result",
    "resume",
    "retry",
    "status",
    "submit",
    "watch",
]


class State(StrEnum):
    """The states of a job, for `--state`."""

    QUEUED = "QUEUED"
    HELD = "HELD"
    CLAIMED = "CLAIMED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    DONE = "DONE"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


_Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job, or its id alone.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
_Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer; exit code 7 then."),
]
_Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for its end; exit code 1 if it is bad.")]
_Labels = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Repeatable.")]


@calls_server
async def submit(
    client: "JobClient",
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE|-", help="The job, a JSON document; - is stdin.")
    ],
    backend: Annotated[
        str, typer.Option("--backend", "-b", envvar="SPOOLWAY_BACKEND", help="Where it is to run.")
    ],
    label: _Labels = None,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="One step is worth a minute of waiting.")
    ] = 0,
    max_run_time: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Stop it after so long a run.")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(help="Repeated within a day it gives the same job, not a second one.")
    ] = None,
    wait: _Wait = False,
    timeout: _Timeout = None,
    as_json: _Json = False,
) -> None:
    """Submit a job and print its name."""
    job = await client.submit(
        backend,
        file.read(),
        labels=_parsed_labels(label),
        priority=priority,
        max_run_time=None if max_run_time is None else timedelta(seconds=max_run_time),
        request_id=request_id,
    )
    if not as_json:
        put(job.name)
    if not wait:
        if as_json:
            write_json(job.snapshot)
        return
    [ended] = await follow(client, [job.name], timeout_s=timeout)
    if as_json:
        write_json(ended)
    else:
        say(ending(ended))
    _exit_by([ended])


@calls_server
async def status(client: "JobClient", job: _Job, as_json: _Json = False) -> None:
    """Show where a job stands."""
    snapshot = await client.job(job).status()
    if as_json:
        write_json(snapshot)
        return
    write_facts(facts(snapshot))


@calls_server
async def watch(
    client: "JobClient",
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Names or ids of jobs.")],
    timeout: _Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each change.")] = False,
) -> None:
    """Follow jobs to their end: a line for each change of state, exit code 1 if one ends badly."""
    states: dict[str, str] = {}

    def tell(snapshot: "JobSnapshot") -> None:
        if as_json:
            write_json(snapshot, one_line=True)
        elif states.get(snapshot.name) != snapshot.state:
            put(f"{snapshot.name}  {snapshot.state}")
            states[snapshot.name] = snapshot.state

    ended = await follow(client, jobs, timeout_s=timeout, tell=tell)
    if not as_json:
        for bad in filter(ended_badly, ended):
            say(ending(bad))
    _exit_by(ended)


@calls_server
async def result(
    client: "JobClient",
    job: _Job,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it there, exactly as it was sent.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="The late result of this attempt, which `explain` tells of.")
    ] = None,
    wait: _Wait = False,
    timeout: _Timeout = None,
    as_json: Annotated[bool, typer.Option("--json", help="Exactly as it was sent, not indented.")] = False,
) -> None:
    """Print a job's result, a JSON document; indented on a terminal."""
    handle = client.job(job)
    if attempt is not None:
        _show_result(await handle.late_result_bytes(attempt), output, as_json=as_json)
        return
    if wait:
        [snapshot] = await follow(client, [job], timeout_s=timeout)
    else:
        snapshot = await handle.status()
    if not snapshot.is_terminal:
        fail(f"{snapshot.name} is {snapshot.state}, so it has no result yet", ExitCode.REFUSED, "Add --wait.")
    if ended_badly(snapshot):
        fail(ending(snapshot), ExitCode.ENDED_BADLY)
    _show_result(await handle.result_bytes(), output, as_json=as_json)


def _show_result(content: bytes, output: Path | None, *, as_json: bool) -> None:
    if output is not None:
        _write(output, content)
    elif sys.stdout.isatty() and not as_json:
        put(json.dumps(json.loads(content), indent=2, ensure_ascii=False))
    else:
        typer.echo(content)


@calls_server
async def cancel(client: "JobClient", job: _Job, as_json: _Json = False) -> None:
    """Cancel a job; what has ended stays as it is."""
    _tell(await client.job(job).cancel(), as_json=as_json)


@calls_server
async def retry(client: "JobClient", job: _Job, as_json: _Json = False) -> None:
    """Run a job anew that ended in ERROR, CANCELLED or EXPIRED."""
    _tell(await client.job(job).retry(), as_json=as_json)


@calls_server
async def delete(
    client: "JobClient",
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Names or ids of jobs.")],
    as_json: _Json = False,
) -> None:
    """Delete jobs that have ended, with their contents and results; there is no way back."""
    deleted = []
    for name in jobs:
        await client.job(name).delete()
        deleted.append(name)
        if not as_json:
            say(f"{name} is deleted")
    if as_json:
        write_json({"deleted": deleted})


@calls_server
async def explain(client: "JobClient", job: _Job, as_json: _Json = False) -> None:
    """Say why a job does not run, and what may be done about it."""
    handle = client.job(job)
    explanations = await handle.explain()
    if as_json:
        document = {"job": handle.snapshot, "explanations": explanations, "late_results": handle.late_results}
        write_json(document)
        return
    write_table(
        ("CAUSE", "WHAT", "ADVICE"),
        ([one.cause, one.message, one.advice] for one in explanations),
        empty="Nothing is known about it.",
    )
    for late in handle.late_results:
        say(
            f"Attempt {late.attempt}, of {late.spooler}, left a late result of {late.size_bytes} bytes: "
            f"spoolway result {job} --attempt {late.attempt}"
        )


@calls_admin
async def hold(admin: "AdminClient", job: _Job, as_json: _Json = False) -> None:
    """Keep a queued job from running, until it is resumed."""
    _tell(await admin.hold_job(job), as_json=as_json)


@calls_admin
async def resume(admin: "AdminClient", job: _Job, as_json: _Json = False) -> None:
    """Let a held job run: held by you, an import, a lost spooler or another program."""
    _tell(await admin.resume_job(job), as_json=as_json)


@calls_admin
async def fail_held(
    admin: "AdminClient",
    job: _Job,
    message: Annotated[str, typer.Option("--message", "-m", help="For its owner: why.")] = "",
    as_json: _Json = False,
) -> None:
    """End a held job in ERROR."""
    _tell(await admin.fail_held_job(job, message), as_json=as_json)


@calls_server
async def list_jobs(
    client: "JobClient",
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="Only of this backend.")] = None,
    state: Annotated[
        list[State] | None,
        typer.Option("--state", "-s", case_sensitive=False, help="Only in this state. Repeatable."),
    ] = None,
    label: _Labels = None,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Instead of newest first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: _Json = False,
) -> None:
    """List your jobs, newest first."""
    found = client.jobs(
        backend=backend,
        states=tuple(entry.value for entry in state or ()),
        labels=_parsed_labels(label),
        oldest_first=oldest_first,
        limit=limit,
    )
    snapshots = [job.snapshot async for job in found if job.snapshot is not None]
    if as_json:
        write_json({"jobs": snapshots})
        return
    write_table(
        ("JOB", "STATE", "PROGRESS", "SUBMITTED", "LABELS"),
        ([s.name, s.state, progress(s), ago(s.create_time), joined(s.labels)] for s in snapshots),
        empty="No jobs.",
    )


def _tell(snapshot: "JobSnapshot", *, as_json: bool) -> None:
    """What became of a job."""
    if as_json:
        write_json(snapshot)
    else:
        put(f"{snapshot.name}  {snapshot.state}")


def _parsed_labels(pairs: Iterable[str] | None) -> dict[str, str] | None:
    labels = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels or None


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", ExitCode.USAGE)
    say(f"{len(content)} bytes written to {path}")


def _exit_by(ended: Sequence["JobSnapshot"]) -> None:
    if any(map(ended_badly, ended)):
        raise typer.Exit(ExitCode.ENDED_BADLY)
