"""A child's side of the talk with its parent: one JSON object a line, answered by one a line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["Answer", "Command", "obey"]

Answer = dict[str, Any]
Command = Callable[..., Awaitable[Answer]]
"""Takes what the parent's object holds beside `do`, as keyword arguments."""


async def obey(commands: Mapping[str, Command], **ready: Any) -> None:
    """Say that we are ready, then serve one command after the other until the parent closes our stdin."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    _say(ready)
    while line := await reader.readline():
        asked = json.loads(line)
        _say(await commands[asked.pop("do")](**asked))


def _say(answer: Answer) -> None:
    print(json.dumps(answer), flush=True)
