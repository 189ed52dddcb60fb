"""Signing in: the owner of an account authorizes the app in a browser, and a code becomes a login.

Needs no web page of ours: Dropbox shows the code, and a person brings it here. Both calls block, the
second for as long as Dropbox takes to answer.
"""

import dropbox  # type: ignore[import-untyped]  # the SDK ships no types
import requests

from spoolway_providers.dropbox_storage.client import Login
from spoolway_providers.errors import LoginRefused, Unavailable

__all__ = ["SCOPES", "authorization_url", "login_from_code"]

SCOPES = ("files.content.read", "files.content.write", "files.metadata.read")
"""The permissions that a storage needs; each is ticked in the app console, too."""
TIME_LIMIT_S = 30.0


def authorization_url(app_key: str, app_secret: str) -> str:
    """The page where the owner of an account authorizes the app, and is given a code."""
    return str(_flow(app_key, app_secret).start())


def login_from_code(app_key: str, app_secret: str, code: str) -> Login:
    """The login that a code stands for; a code is good once, and for some minutes.

    Raises:
        LoginRefused: the code is wrong, used or too old, or permissions are missing.
        Unavailable: Dropbox does not answer.
    """
    try:
        result = _flow(app_key, app_secret).finish(code.strip())
    except requests.HTTPError as error:
        raise LoginRefused(
            "Dropbox refuses the code: each is good once and for some minutes; open the page anew"
        ) from error
    except requests.RequestException as error:
        raise Unavailable(f"Dropbox can't be reached ({type(error).__name__})") from error
    granted = set((result.scope or "").split())
    missing = [scope for scope in SCOPES if scope not in granted]
    if missing:
        raise LoginRefused(
            f"the app lacks {', '.join(missing)}; tick them in the app console, then sign in anew"
        )
    return Login(app_key, app_secret, result.refresh_token)


def _flow(app_key: str, app_secret: str) -> "dropbox.DropboxOAuth2FlowNoRedirect":
    return dropbox.DropboxOAuth2FlowNoRedirect(
        app_key,
        app_secret,
        token_access_type="offline",  # noqa: S106 - a kind of token, no token
        scope=list(SCOPES),
        timeout=TIME_LIMIT_S,
    )
