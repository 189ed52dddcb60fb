"""A stand-in for Dropbox: the documented routes over HTTPS on loopback, in a process of its own.

Importing this package points the SDK at it, which reads its hosts from the environment when it is imported
itself: so this import comes first. The process starts with the first account that a test makes.
"""

import atexit
import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import trustme

from tests.dropbox_emulator.faults import Fault

__all__ = ["DropboxAccount", "Fault", "make_account"]

START_LIMIT_S = 20.0
ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


_IN_USE = "SPOOLWAY_DROPBOX_EMULATOR"
"""Set for the processes that a test starts: they use its emulator."""

if _IN_USE in os.environ:
    _PORT, _FOLDER = int(os.environ[_IN_USE]), None
else:
    if "dropbox" in sys.modules:  # pragma: no cover - a mistake in the tests
        raise ImportError("import tests.dropbox_emulator before dropbox, which reads its hosts only once")
    _PORT, _FOLDER = _free_port(), tempfile.TemporaryDirectory(prefix="spoolway-dropbox-")
    os.environ[_IN_USE] = str(_PORT)
    for _name in ("DROPBOX_API_HOST", "DROPBOX_API_CONTENT_HOST", "DROPBOX_API_NOTIFY_HOST"):
        os.environ[_name] = f"127.0.0.1:{_PORT}"
    os.environ["REQUESTS_CA_BUNDLE"] = str(Path(_FOLDER.name) / "ca.pem")


@cache
def _start() -> ssl.SSLContext:
    """Start the process, once; what its caller needs to trust it."""
    assert _FOLDER is not None, "the process that runs the test starts it"
    ca = Path(_FOLDER.name) / "ca.pem"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(Path(_FOLDER.name) / "server.pem")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dropbox_emulator.server", str(_PORT), _FOLDER.name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
    )
    atexit.register(_stop, process)
    until = monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", _PORT)).close()
            return ssl.create_default_context(cafile=str(ca))
        except ConnectionRefusedError:
            if monotonic() > until or process.poll() is not None:
                raise
            sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if _FOLDER is not None:
        _FOLDER.cleanup()


def make_account() -> "DropboxAccount":
    """A new, empty account that has authorized an app with all scopes."""
    account = DropboxAccount(secrets.token_hex(8))
    account.control(do="make", app_key=account.app_key, app_secret=account.app_secret)
    return account


class DropboxAccount:
    """One account of the emulator, seen from a test."""

    def __init__(self, name: str) -> None:
        self.refresh_token = name
        self.app_key = "key"
        self.app_secret = "secret"

    @property
    def login(self) -> dict[str, str]:
        """What a provider is made from."""
        return {
            "app_key": self.app_key,
            "app_secret": self.app_secret,
            "refresh_token": self.refresh_token,
        }

    def control(self, do: str = "change", **command: Any) -> dict[str, Any]:
        """Change the emulator's mind about this account; what it knows of it comes back."""
        context = _start()
        body = json.dumps({"do": do, "account": self.refresh_token, **command}).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{_PORT}/control", body, method="POST")
        with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310 - it is https
            result: dict[str, Any] = json.load(answer)
            return result

    def set(self, **settings: Any) -> None:
        """Settings of the account, its files or its routes, by name."""
        self.control(set=settings)

    def fail(
        self, fault: Fault, route: str = "*", *, skip: int = 0, times: int = 1, seconds: float = 1
    ) -> None:
        """Plan a fault; -1 times is for ever."""
        rule = {"fault": fault.value, "route": route, "skip": skip, "times": times, "seconds": seconds}
        self.control(faults=[rule])

    def heal(self) -> None:
        """Forget all planned faults."""
        self.control(clear_faults=True)

    def put(self, files: Mapping[str, str]) -> dict[str, str]:
        """Files that another program writes; the rev of each."""
        revs: dict[str, str] = self.control(put=dict(files)).get("revs", {})
        return revs

    def put_bytes(self, path: str, data: bytes) -> None:
        """A file that is no text."""
        self.control(put={path: base64.b64encode(data).decode()}, base64=True)

    def delete(self, paths: Iterable[str]) -> None:
        """Files that another program removes."""
        self.control(delete=list(paths))

    def move(self, paths: Mapping[str, str]) -> None:
        """Files that another program moves."""
        self.control(move=dict(paths))

    def tree(self, under: str = "") -> dict[str, str]:
        """All files and what is in them, by path."""
        tree = self.control(tree=True)["tree"]
        return {path: text for path, text in sorted(tree.items()) if path.startswith(under)}

    def calls(self, *, forget: bool = False) -> Counter[str]:
        """How often each route was called."""
        return Counter(route for route, _ in self.control(forget_calls=forget)["calls"])
