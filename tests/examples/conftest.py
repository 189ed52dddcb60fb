"""Where the example jobs lie."""

from pathlib import Path

import pytest

from examples.jobs import make_jobs


@pytest.fixture
def example_jobs() -> Path:
    return Path(make_jobs.__file__).parent
