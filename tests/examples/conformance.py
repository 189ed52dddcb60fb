"""The shipped conformance class, its failures showing their values."""

import pytest

pytest.register_assert_rewrite("spoolway_providers.conformance")

from spoolway_providers.conformance import ProviderConformance, Scene  # noqa: E402 - after its rewriting

__all__ = ["ProviderConformance", "Scene"]
