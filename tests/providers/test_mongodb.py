"""The MongoDB provider keeps all promises of the interface, with change streams and without."""

from collections.abc import AsyncIterator

import pytest

from spoolway_providers.conformance import (
    AdoptionConformance,
    AgeingConformance,
    ManualClock,
    ProviderConformance,
    SharedStorageConformance,
)
from spoolway_providers.mongodb import MongoProvider
from tests.providers.mongodb_server import MongoServer, StandIn, lone_stand_in, server, stand_in

__all__ = ["lone_stand_in", "server", "stand_in"]


class _Mongo(ProviderConformance, AdoptionConformance, SharedStorageConformance):
    @pytest.fixture
    def mongo(self, server: MongoServer) -> MongoServer:
        return server

    @pytest.fixture
    async def database(self, mongo: MongoServer) -> AsyncIterator[str]:
        async with mongo.database() as name:
            yield name

    @pytest.fixture
    async def provider(self, mongo: MongoServer, database: str) -> AsyncIterator[MongoProvider]:
        provider = mongo.provider(database)
        await provider.open()
        yield provider
        await provider.close()

    @pytest.fixture
    async def second(
        self, mongo: MongoServer, database: str, provider: MongoProvider
    ) -> AsyncIterator[MongoProvider]:
        second = mongo.provider(database)
        await second.open()
        yield second
        await second.close()


class TestMongoProvider(_Mongo):
    """With change streams."""


class TestMongoProviderAlone(_Mongo):
    """On a server that is no member of a replica set."""

    @pytest.fixture
    def mongo(self, lone_stand_in: StandIn) -> MongoServer:
        return lone_stand_in


class TestMongoProviderAgeing(AgeingConformance):
    """With a clock in place of the server's."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def provider(self, server: MongoServer, clock: ManualClock) -> AsyncIterator[MongoProvider]:
        async with server.database() as name:
            provider = server.provider(name, clock=clock)
            await provider.open()
            yield provider
            await provider.close()
