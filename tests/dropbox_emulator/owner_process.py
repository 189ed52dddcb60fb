"""An owner in a process of its own, for tests that pause and kill it: one command a line, one answer a line.

    python -m tests.dropbox_emulator.owner_process REFRESH_TOKEN ADDRESS

Commands: `submit ID`, `claim`, `accept`, `complete`. The answer is the job's state, or the error's name.
"""

import asyncio
import sys

from spoolway_providers import rules
from spoolway_providers.conformance import Scene
from spoolway_providers.conformance.scene import token_of
from spoolway_providers.dropbox_storage import DropboxProvider, Login, Timings
from spoolway_providers.errors import ProviderError
from spoolway_providers.model import Job

TIMINGS = Timings(
    renew_every_s=0.4,
    stop_after_s=1.6,
    take_over_after_s=3.0,
    patience_s=2.0,
    care_every_s=0.02,
    place_after_s=0.05,
    amnesty_s=0.0,
)


class Owner:
    """Obeys the commands."""

    def __init__(self, provider: DropboxProvider) -> None:
        self._scene = Scene(provider)
        self._job: Job | None = None

    async def obey(self, command: str, *arguments: str) -> str:
        try:
            job = await self._do(command, *arguments)
        except ProviderError as error:
            return type(error).__name__
        return str(job.state) if job else "nothing"

    async def _do(self, command: str, *arguments: str) -> Job | None:
        scene, job = self._scene, self._job
        match command:
            case "submit":
                [answer] = await scene.provider.submit([scene.draft(request_id=arguments[0])])
                if isinstance(answer, ProviderError):
                    raise answer
                return answer
            case "claim":
                await scene.set_up()
                self._job = next(iter(await scene.claim()), None)
            case "accept" if job is not None:
                self._job = await scene.do(job, rules.Accept(token_of(job)))
            case "complete" if job is not None:
                self._job = await scene.complete(job)
        return self._job


async def main(refresh_token: str, address: str) -> None:
    login = Login("key", "secret", refresh_token)
    provider = DropboxProvider(login, address=address, timings=TIMINGS)
    while True:
        try:
            await provider.open()
            break
        except ProviderError as error:
            print(type(error).__name__, flush=True)  # noqa: T201 - how it speaks to the test
            await asyncio.sleep(0.1)
    await provider.put_config("singlequdit", b"{}", None)
    print("open", flush=True)  # noqa: T201
    owner = Owner(provider)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(await owner.obey(*line.split()), flush=True)  # noqa: T201
    await provider.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
