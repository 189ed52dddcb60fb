"""The examples of the quick starts work as they stand."""

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from spoolway import JobClient, Spooler
from spoolway.testing import serving

DOCS = Path(__file__).parents[2] / "docs"


def example(name: str) -> str:
    """The first program of a document."""
    found = re.search(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_quick_starts_submit_and_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spooler of docs/spoolers.md runs the job of docs/clients.md."""
    made: list[Spooler] = []
    monkeypatch.setattr(Spooler, "run", lambda spooler: made.append(spooler))
    printed = io.StringIO()
    names: dict[str, Any] = {}
    async with serving() as address, JobClient(address, user="ada") as client:
        monkeypatch.setenv("SPOOLWAY_ADDRESS", address)
        monkeypatch.setenv("SPOOLWAY_USER", "robot")
        exec(example("spoolers.md"), names)  # noqa: S102  # our own text
        spooling = asyncio.create_task(made[0].serve())
        async with asyncio.timeout(20):
            while not await client.backends():  # noqa: ASYNC110  # only a call tells
                await asyncio.sleep(0.05)
        with contextlib.redirect_stdout(printed):
            submit = example("clients.md").replace("lab.example.org:50051", address)
            await asyncio.to_thread(exec, submit, {})
        made[0].drain()
        await spooling

    assert printed.getvalue().splitlines()[-1] == "{'sum': 6}"
