"""The storage in a Dropbox account."""

from spoolway_providers.dropbox_storage.client import Login
from spoolway_providers.dropbox_storage.provider import DropboxProvider
from spoolway_providers.dropbox_storage.signin import SCOPES, authorization_url, login_from_code
from spoolway_providers.dropbox_storage.timings import Timings

__all__ = ["SCOPES", "DropboxProvider", "Login", "Timings", "authorization_url", "login_from_code"]
