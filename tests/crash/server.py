"""A server of a round: the real one, with shorter patience, and a moment at which it kills itself."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from spoolway_providers import rules
from spoolway_providers.interface import Provider
from spoolway_providers.registry import provider_class
from spoolway_server import reaper, sessions, storage
from spoolway_server.app import SpoolwayServer
from spoolway_server.config import Config
from spoolway_server.logs import setup_logging
from tests.crash.fault_points import FaultPoints, watch_provider
from tests.crash.journal import Journal
from tests.crash.plan import Target
from tests.crash.storages import storage_case

__all__ = ["LEASES", "run_server", "shorten_patience"]

LEASES = {
    "ttl_s": 0.9,
    "resume_grace_s": 0.4,
    "accept_timeout_s": 1.0,
    "heartbeat_interval_s": 0.2,
    "idle_heartbeat_s": 0.5,
    "cancel_grace_s": 0.5,
    # Nothing that a round does is to use these up: so every job that can be done has to be.
    "max_attempts": 50,
    "max_crashes": 50,
}


def shorten_patience(look_s: float = 0.2) -> None:
    """Scale what is made for days to a round of seconds; the rules stay as they are."""
    reaper.BUSY_LOOK_S, reaper.IDLE_LOOK_S, reaper.QUIET_LOOK_S = look_s, 2 * look_s, 5 * look_s
    reaper.ORPHAN_PATIENCE_S, reaper.CLAIM_PATIENCE_S = 0.3, 1.0
    sessions.FIRST_PENALTY_S, sessions.LONGEST_PENALTY_S = 0.2, 0.8
    rules.MAX_RETRY_DELAY = timedelta(seconds=0.05)


def run_server(who: str, journal: Journal, arguments: Mapping[str, Any]) -> None:
    """Serve until killed, or told to stop."""
    setup_logging(level="info")
    shorten_patience(arguments.get("look_s", 0.2))
    target = arguments.get("target")
    points = FaultPoints(journal, Target(**target) if target else None)
    kind = arguments["storage"]["type"]
    _wrap_providers(kind, lambda make: watch_provider(make(), points, journal), points)
    if not arguments.get("wakes", True):
        storage.POLL_MAX_S = storage.POLL_MAX_WITHOUT_WAKES_S = 0.5
        provider: Any = provider_class(kind)
        provider.wait = _hint_at_nothing
    config = Config.model_validate(
        {
            "server": {
                "host": arguments.get("host", "127.0.0.1"),
                "port": arguments["port"],
                "drain_pause_s": 0,
                "drain_grace_s": 0.5,
                "name": who,
            },
            "leases": {**LEASES, **arguments.get("leases", {})},
            "storages": {"main": arguments["storage"]},
        }
    )
    asyncio.run(_serve(config, journal))


async def _hint_at_nothing(_provider: Provider, timeout: timedelta) -> None:
    await asyncio.sleep(timeout.total_seconds())


async def _serve(config: Config, journal: Journal) -> None:
    server = SpoolwayServer(config)
    await server.start()
    journal.note("listens")
    await server.run_until_signal()
    journal.note("ended")


def _wrap_providers(
    kind: str, wrap: Callable[[Callable[[], Provider]], Provider], points: FaultPoints
) -> None:
    """Have every provider of a type made with the fault points in it."""
    make = storage_case(kind).maker(points.step)
    cls: Any = provider_class(kind)
    cls.from_login = classmethod(lambda _, login: wrap(lambda: make(login)))
