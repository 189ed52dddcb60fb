"""The MongoDB provider does what a dictionary would do, whatever is asked of it in whatever order."""

import secrets
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from pymongo import AsyncMongoClient

from spoolway_providers.interface import Provider
from tests.providers.mongodb_server import MongoServer, server, stand_in
from tests.providers.test_equivalence import ProviderMachine

__all__ = ["server", "stand_in"]


class MongoMachine(ProviderMachine):
    outlives_its_process = True
    server: ClassVar[MongoServer]

    def make_provider(self) -> Provider:
        self.database = f"test_{secrets.token_hex(6)}"
        return self.server.provider(self.database, clock=self.clock)

    def teardown(self) -> None:
        self.run(self._drop())
        super().teardown()

    async def _drop(self) -> None:
        async with AsyncMongoClient[dict[str, object]](self.server.uri) as client:
            await client.drop_database(self.database)


@pytest.fixture(autouse=True, scope="module")
def machines_server(server: MongoServer) -> Iterator[None]:
    """The machine is no fixture's client: it is told where the server is."""
    MongoMachine.server = server
    yield
    del MongoMachine.server


TestMongoEquivalence = MongoMachine.TestCase
TestMongoEquivalence.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
