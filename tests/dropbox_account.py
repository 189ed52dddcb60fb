"""The real Dropbox account of the live tests, named in the environment."""

import os

__all__ = ["MISSING", "login"]

_VARIABLES = {
    field: f"SPOOLWAY_TEST_DROPBOX_{field.upper()}" for field in ("app_key", "app_secret", "refresh_token")
}
MISSING = [variable for variable in _VARIABLES.values() if not os.environ.get(variable)]
"""What must be set for the live tests to run."""


def login() -> dict[str, str]:
    """Raises KeyError: no account is named."""
    return {field: os.environ[variable] for field, variable in _VARIABLES.items()}
