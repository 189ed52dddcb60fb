"""What the commands write: tables for people, JSON for programs, progress for whoever watches."""

import getpass
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "account_name",
    "ago",
    "as_document",
    "console",
    "put",
    "say",
    "write_facts",
    "write_json",
    "write_table",
]

_WIDE = 1000
"""Columns where nobody looks: a program that reads a table must not find it wrapped or cut."""


def as_document(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601 and UTC, durations in seconds, bytes as text."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_document(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(key): as_document(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_document(entry) for entry in value]
    return value


def write_json(value: Any, *, one_line: bool = False) -> None:
    """One JSON document on stdout."""
    indent = None if one_line else 2
    put(json.dumps(as_document(value), indent=indent, ensure_ascii=False))


def write_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table on stdout; where it has no row, `empty` on stderr instead."""
    from rich.table import Table

    filled = list(rows)
    if not filled:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    _print(table, filled)


def write_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values on stdout, one pair a line."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    _print(table, facts)


def _print(table: "Table", rows: Iterable[Sequence[object]]) -> None:
    from rich.text import Text

    for row in rows:
        # Text, not str: rich would take [brackets] in a job's label for markup.
        table.add_row(*(Text("" if cell is None else str(cell), overflow="fold") for cell in row))
    target = console(sys.stdout)
    with target.capture() as lines:
        target.print(table)
    # Without the blanks with which rich fills the last column.
    put("\n".join(line.rstrip() for line in lines.get().splitlines()))


def put(line: str) -> None:
    """A line on stdout, at once."""
    # Not typer.echo: it would write past the bars that may be drawn below.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def say(message: str) -> None:
    """A message for people, on stderr."""
    typer.echo(message, err=True)


def console(stream: TextIO) -> "Console":
    """A rich console on a stream: coloured and as wide as the terminal, or plain and wide without one."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False)


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits; empty for a time not known."""
    if moment is None:
        return ""
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def account_name() -> str:
    """Who runs the command, for the audit trail; a container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
