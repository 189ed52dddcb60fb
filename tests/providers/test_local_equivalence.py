# ruff: noqa: F401 - fixtures are imported, and used by their names
"""The local folder does what a dictionary would do, whatever is asked of it in whatever order."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, rule

from spoolway_providers.interface import Provider
from spoolway_providers.local import LocalProvider
from spoolway_providers.local.layout import Naming
from spoolway_providers.model import State
from tests.providers.local_folder import Folder
from tests.providers.test_equivalence import ProviderMachine


class LocalMachine(ProviderMachine):
    outlives_its_process = True
    naming = Naming.LOCAL

    def make_provider(self) -> Provider:
        self.folder = Folder(Path(tempfile.mkdtemp()), self.naming)
        return LocalProvider(self.folder.settings(), clock=self.clock, watches=False)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder.base)

    @rule()
    def write_files(self) -> None:
        """After a look at everything the files say what the index says, and nothing was amiss."""
        assert self.run(self.provider.repair()) == []
        for key, job in self.model.jobs.items():
            assert self.folder.status(key, job.owner)["state"] == job.state
            assert self.folder.result_path(key, job.owner).exists() == (job.state is State.DONE)
        for key in self.model.deleted:
            assert not self.folder.status_path(key, "alice").exists()


class BackendFilesMachine(LocalMachine):
    naming = Naming.BACKEND_FILES


TestLocalEquivalence = LocalMachine.TestCase
TestLocalEquivalence.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBackendFilesEquivalence = BackendFilesMachine.TestCase
TestBackendFilesEquivalence.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
