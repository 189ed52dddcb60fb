"""Processes that the demo starts, and that never outlive it."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Child", "Children"]

STOP_S = 5


class Child:
    """A Python module that runs as a process of its own, its output in files."""

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, cwd: Path, env: Mapping[str, str]
    ) -> None:
        """Start it: a module's name and arguments. `folder` takes NAME.out and NAME.log."""
        self.name = name
        self.output = folder / f"{name}.out"
        self.log = folder / f"{name}.log"
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and modules
                [sys.executable, "-m", "spoolway_server.cli.leash", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                cwd=cwd,
                env=env,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def first_line(self) -> str | None:
        """The first line of its output, once it is there."""
        line, newline, _rest = self.output.read_text("utf-8").partition("\n")
        return line.strip() if newline else None

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask it to stop, then make it."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


class Children:
    """All of them; a context manager that stops them, the newest first."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        """Keep their output in `folder`, and give them this environment."""
        self._folder = folder
        self._env = dict(env)
        self._started: list[Child] = []

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what was started."""
        for child in reversed(self._started):
            child.stop()

    def start(self, name: str, *command: str, cwd: Path) -> Child:
        """Start a module."""
        child = Child(name, command, folder=self._folder, cwd=cwd, env=self._env)
        self._started.append(child)
        return child

    def dead(self) -> Child | None:
        """One that has ended although nobody asked it to."""
        return next((child for child in self._started if child.exit_code is not None), None)

    def tails(self) -> str:
        """The ends of all logs that have something."""
        tails = [(child.name, child.tail()) for child in self._started]
        return "\n".join(f"--- end of the {name}'s log\n{tail}" for name, tail in tails if tail)
