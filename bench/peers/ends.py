"""What the peers' clients and workers share. They run in .venv-peers, which has none of our packages."""

from bench.commands import Answer, obey
from bench.link import Link
from bench.load import Call, Load
from bench.tally import Tally

__all__ = ["Counter", "serve_client"]


async def serve_client(link_fd: int, submit: Call) -> None:
    """Do what the parent asks for, until it has had enough."""
    load = Load(link_fd, {"single": submit})
    await obey({"load": load.load, "one_by_one": load.one_by_one})


class Counter:
    """A worker's side: counts what arrives and what is done, and tells the client where it waits for that."""

    def __init__(self, link_fd: int) -> None:
        self.tally = Tally()
        self._link = Link(link_fd, lambda _jobs: None)

    async def serve(self) -> None:
        """Do what the parent asks for, until it has had enough."""
        await obey({"reset": self._reset, "wait": self.tally.wait})

    async def _reset(self, backend: str, *, one_by_one: bool) -> Answer:
        self.tally.restart(backend, keep_arrivals=one_by_one)
        self.tally.on_finished = self._tell_at_once if one_by_one else None
        return {}

    def _tell_at_once(self, jobs: int) -> None:
        self._link.tell(jobs, now=True)
