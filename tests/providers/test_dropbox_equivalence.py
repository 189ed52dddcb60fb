"""The Dropbox provider does what a dictionary would do, whatever is asked of it in whatever order."""

from hypothesis import HealthCheck, settings

from spoolway_providers.interface import Provider
from tests.dropbox_emulator.scene import make_account, make_provider
from tests.providers.test_equivalence import ProviderMachine


class DropboxMachine(ProviderMachine):
    def make_provider(self) -> Provider:
        return make_provider(make_account(), clock=self.clock)


TestDropboxEquivalence = DropboxMachine.TestCase
TestDropboxEquivalence.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
