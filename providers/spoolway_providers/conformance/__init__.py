"""Tests that every provider passes; a provider's own test file is a subclass of these classes.

    pytest.register_assert_rewrite("spoolway_providers.conformance")  # in conftest.py, before the import

    class TestMine(ProviderConformance):
        @pytest_asyncio.fixture
        async def provider(self):
            provider = MyProvider(...)
            await provider.open()
            yield provider
            await provider.close()

`provider` is opened and empty. A storage that several processes may share adds
`SharedStorageConformance` and a fixture `second`: another handle on the same storage, as another process
would have. A provider that takes a clock adds `AgeingConformance` and a fixture `clock`: the
`ManualClock` that `provider` was made with. A storage that takes over others' jobs (`adopt`) adds
`AdoptionConformance`. Needs pytest and pytest-asyncio; nothing is ever skipped.
"""

from spoolway_providers.conformance.adoptions import AdoptionConformance
from spoolway_providers.conformance.ageing import AgeingConformance
from spoolway_providers.conformance.blobs import BlobConformance
from spoolway_providers.conformance.care import CareConformance
from spoolway_providers.conformance.changes import ChangeConformance
from spoolway_providers.conformance.claims import ClaimConformance
from spoolway_providers.conformance.commits import CommitConformance
from spoolway_providers.conformance.queries import QueryConformance
from spoolway_providers.conformance.scene import ManualClock, Scene
from spoolway_providers.conformance.sessions import SessionConformance
from spoolway_providers.conformance.shared import SharedStorageConformance
from spoolway_providers.conformance.submits import SubmitConformance

__all__ = [
    "AdoptionConformance",
    "AgeingConformance",
    "ManualClock",
    "ProviderConformance",
    "Scene",
    "SharedStorageConformance",
]


class ProviderConformance(
    SubmitConformance,
    ClaimConformance,
    CommitConformance,
    QueryConformance,
    ChangeConformance,
    BlobConformance,
    SessionConformance,
    CareConformance,
):
    """All that every provider promises."""
