"""The command `demo`: a server, a simulator and a scan of jobs, from nothing to a curve."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from spoolway_server.cli.children import Children
from spoolway_server.cli.connection import Connection, open_client
from spoolway_server.cli.exits import ExitCode, fail
from spoolway_server.cli.output import put, say
from spoolway_server.cli.progress import follow
from spoolway_server.cli.words import ended_badly, ending

if TYPE_CHECKING:
    from spoolway import Backend, JobClient, JobSnapshot

__all__ = ["demo"]

BACKEND = "singlequdit"
START_S = 60
RUN_S = 300
POLL_S = 0.05

_T = TypeVar("_T")


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def demo(
    examples: Annotated[Path, typer.Option(help="Folder of the examples, as in the repository.")] = Path(
        "examples"
    ),
) -> None:
    """Start a server and a simulator, run a scan of Rabi oscillations job by job, and draw the curve."""
    examples = examples.resolve()
    _check(examples)
    with (
        _without_settings() as env,
        _stoppable(_interrupt),
        tempfile.TemporaryDirectory(prefix="spoolway-", ignore_cleanup_errors=True) as folder,
        Children(Path(folder), env | {"SPOOLWAY_SERVER__DRAIN_PAUSE_S": "0"}) as children,
    ):
        from spoolway import SpoolwayError

        try:
            asyncio.run(_stoppable_run(children, examples, Path(folder)))
        except (DemoError, SpoolwayError, OSError) as error:
            say(children.tails())
            fail(str(error), ExitCode.ENDED_BADLY)
        except typer.Exit:
            say(children.tails())
            raise
        except (KeyboardInterrupt, asyncio.CancelledError):
            fail("stopped", ExitCode.INTERRUPTED)


async def _stoppable_run(children: Children, examples: Path, folder: Path) -> None:
    # Between two steps only: an exception in the middle of a start would leave a process that nobody knows.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - for mypy: asyncio.run has made one
    with _stoppable(lambda *_: loop.call_soon_threadsafe(task.cancel)):
        await _run(children, examples, folder)


async def _run(children: Children, examples: Path, folder: Path) -> None:
    began = time.monotonic()
    say("Starting a server and a simulator ...")
    server = children.start("server", "spoolway_server.cli", "serve", "--port", "0", cwd=folder)
    address = await _until(children, lambda: asyncio.to_thread(server.first_line), "the server did not start")
    children.start("simulator", "examples.singlequdit.spooler", "--address", address, cwd=examples.parent)
    scan = examples / "jobs" / "rabi.json"
    async with open_client(Connection(address=address)) as client:
        await _until(children, lambda: _operational_backend(client), "the simulator did not register")
        result = await _while_alive(children, _run_scan(client, json.loads(scan.read_text("utf-8"))))
    merged = folder / "result.json"
    merged.write_text(json.dumps(result), "utf-8")
    put("\n" + await asyncio.to_thread(_curve, examples.parent, scan, merged))
    say(f"{len(result['results'])} jobs in {time.monotonic() - began:.1f} s, from the start of the server")


async def _run_scan(client: "JobClient", scan: Mapping[str, Any]) -> dict[str, Any]:
    """Submit one job for each point of the scan, follow them all, and put their results together."""
    angles = {}
    for name, experiment in scan.items():
        angle = _angle(experiment)
        job = await client.submit(BACKEND, {name: experiment}, labels={"scan": "rabi", "theta": angle})
        angles[job.name] = angle

    def tell(snapshot: "JobSnapshot") -> None:
        if snapshot.is_terminal:
            put(f"rabi  theta={angles[snapshot.name]}  {snapshot.id}  {snapshot.state}")

    ended = await follow(client, list(angles), timeout_s=RUN_S, tell=tell)
    if bad := next(filter(ended_badly, ended), None):
        raise DemoError(ending(bad))
    results = [json.loads(await client.job(name).result_bytes()) for name in angles]
    return {**results[0], "results": [entry for result in results for entry in result["results"]]}


def _angle(experiment: Mapping[str, Any]) -> str:
    return next(f"{params[0]:.2f}" for gate, _wires, params in experiment["instructions"] if gate == "rlx")


async def _operational_backend(client: "JobClient") -> "Backend | None":
    found = [backend for backend in await client.backends() if backend.name == BACKEND]
    return next((backend for backend in found if backend.status.operational), None)


def _curve(cwd: Path, scan: Path, result: Path) -> str:
    """Table and plot, made by the example itself."""
    made = subprocess.run(  # noqa: S603  # our own interpreter and example
        [sys.executable, "-m", "examples.singlequdit", str(scan), "--result", str(result)],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if made.returncode:
        raise DemoError(f"the curve could not be drawn:\n{made.stderr}")
    return made.stdout


async def _until(children: Children, ask: Callable[[], Awaitable[_T | None]], trouble: str) -> _T:
    """Ask again and again until there is an answer."""
    deadline = time.monotonic() + START_S
    while True:
        if (answer := await ask()) is not None:
            return answer
        _check_alive(children)
        if time.monotonic() > deadline:
            raise DemoError(f"{trouble} within {START_S} s")
        await asyncio.sleep(POLL_S)


async def _while_alive(children: Children, work: Awaitable[_T]) -> _T:
    """Do the work, but stop it as soon as a process has died."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            _check_alive(children)
            await asyncio.wait({task}, timeout=POLL_S)
    finally:
        task.cancel()
    return await task


def _check_alive(children: Children) -> None:
    if dead := children.dead():
        raise DemoError(f"the {dead.name} ended by itself, with exit code {dead.exit_code}")


def _check(examples: Path) -> None:
    """End the command where the demo could not run."""
    if not (examples / BACKEND / "spooler.py").is_file():
        hint = "Run it in the repository's root, or say where the examples are: --examples DIR"
        fail(f"there are no examples in {examples}", ExitCode.USAGE, hint)
    if examples.name != "examples":
        fail(
            f"{examples} must be called 'examples': its modules know each other by that name", ExitCode.USAGE
        )
    if missing := [name for name in ("numpy", "scipy") if importlib.util.find_spec(name) is None]:
        hint = "Install them with: pip install 'spoolway-server[examples]'"
        fail(f"the simulator needs {' and '.join(missing)}", ExitCode.USAGE, hint)


@contextmanager
def _without_settings() -> Iterator[dict[str, str]]:
    """Hide the user's own settings: the demo talks to its own server only."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SPOOLWAY_")}
    try:
        yield {**os.environ, "SPOOLWAY_PROFILES_FILE": os.devnull}
    finally:
        os.environ.update(hidden)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _stoppable(stop: Callable[[int, Any], object]) -> Iterator[None]:
    """End on SIGTERM like on Ctrl-C, with everything cleared away: `stop` is called on it."""
    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
