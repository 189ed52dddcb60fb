"""Fill a storage before its server starts: `python -m bench.preload TYPE LOGIN BACKEND JOBS`.

Through the service it would take several times as long, and nothing of it is measured.
"""

import asyncio
import json
import sys
from typing import Any

from bench import payload
from bench.commands import obey
from spoolway_providers.errors import ProviderError
from spoolway_providers.model import Draft, Policy
from spoolway_providers.registry import make_provider

__all__ = ["CONFIG"]

CONFIG = b'{"version": "1.0.0"}'
"""Of every backend here."""
AT_ONCE = 1000


def _draft(backend: str, number: int) -> Draft:
    return Draft(
        backend=backend,
        owner="bench",
        content=payload.job(0),
        request_id=f"preload-{number}",
        max_attempts=Policy().max_attempts,
    )


async def main(type_name: str, login: dict[str, Any], backend: str, jobs: int) -> None:
    provider = make_provider(type_name, login)
    await provider.open()
    await provider.put_config(backend, CONFIG, None)
    for first in range(0, jobs, AT_ONCE):
        drafts = [_draft(backend, number) for number in range(first, min(first + AT_ONCE, jobs))]
        for outcome in await provider.submit(drafts):
            if isinstance(outcome, ProviderError):
                raise outcome
    await provider.close()
    await obey({})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
