"""F18: a planted secret is nowhere in what a run leaves behind."""

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from spoolway import AdminClient, SpoolwayError
from spoolway_server.vault import new_key

SECRETS = {name: f"Planted/{name}+hOrse~42" for name in ("LOGIN", "CHANGED", "TRIED", "DECLARED", "CODE")}
START_S = 30.0
NOBODY = "mongodb://ada:{}@127.0.0.1:9/?serverSelectionTimeoutMS=200&connectTimeoutMS=200"
"""A database that is not there: trouble brings errors, logs and health messages."""
CONFIG = """
[server]
drain_pause_s = 0
drain_grace_s = 1
log_level = "debug"
log_format = "json"

[storages.main]
type = "sqlite"
path = "main.sqlite"

[storages.declared]
type = "mongodb"
"""


def forms(secret: str) -> list[bytes]:
    """A secret as it may stand somewhere."""
    raw = secret.encode()
    encoded = [base64.b64encode(raw[start:])[4:-4] for start in range(3)]
    return [raw, quote(secret, safe="").encode(), raw.hex().encode(), *encoded]


def leaks(text: bytes) -> list[str]:
    """Which of the secrets are in it, in whatever form."""
    return [name for name, secret in SECRETS.items() if any(form in text for form in forms(secret))]


def uri_with(name: str) -> str:
    """An address with a secret in it."""
    return NOBODY.format(quote(SECRETS[name], safe=""))


class Run:
    """A server and the commands that were given to it, and what they have left."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self.address = ""
        self.answers: list[object] = []
        self.titles: set[bytes] = set()

    async def command(self, *arguments: str, **variables: str) -> tuple[int, bytes]:
        """Run `spoolway`, and keep its title and all that it says."""
        environment = self.environment | {"SPOOLWAY_ADDRESS": self.address} | variables
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spoolway_server.cli", *arguments,
            cwd=self.folder, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self.note_title(process.pid)
        output, _ = await process.communicate()
        self.answers.append(output)
        return process.returncode or 0, output

    def note_title(self, pid: int) -> None:
        self.titles.add(Path(f"/proc/{pid}/cmdline").read_bytes())

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Everything that lies in the folder now."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield path.name, path.read_bytes()


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """A running server with a key, a declared storage that has a secret, and a log of all there is to say."""
    (tmp_path / "spoolway.toml").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLWAY_")}
    run = Run(tmp_path, environment | {"SPOOLWAY_KEY": new_key(), "SPOOLWAY_USER": "olga"})
    run.environment["SPOOLWAY_STORAGES__DECLARED__URI"] = uri_with("DECLARED")
    with (tmp_path / "server.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spoolway_server.cli.leash", "spoolway_server.cli", "serve", "--port", "0",
            cwd=tmp_path, env=run.environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async with asyncio.timeout(START_S):
                run.address = (await process.stdout.readline()).decode().strip()
            run.note_title(process.pid)
            yield run
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def test_f18_a_planted_secret_is_nowhere(run: Run) -> None:
    """Not in the catalog, a log, an answer, an error, the trail or a process's title, in whatever form."""
    from_env = ("--from-env", "uri=U")

    added, _ = await run.command("storage", "add", "mongodb", "lab", *from_env, U=uri_with("LOGIN"))
    changed, _ = await run.command("storage", "update", "lab", *from_env, U=uri_with("CHANGED"))
    await run.command("storage", "test", "lab")
    async with AdminClient(run.address, user="olga") as admin:
        run.answers += await admin.storages()
        run.answers.append(await admin.test_storage(type="mongodb", login={"uri": uri_with("TRIED")}))
        run.answers += await refusals(admin)
    while_running = [name for name, data in run.files() if leaks(data)]
    rotated, _ = await run.command("admin", "rotate-key", SPOOLWAY_KEY=f"{new_key()},{key_of(run)}")

    assert (added, changed, rotated) == (0, 0, 0)
    assert while_running == []
    assert {name: found for name, data in run.files() if (found := leaks(data))} == {}
    assert [answer for answer in run.answers if leaks(repr(answer).encode() + as_bytes(answer))] == []
    assert [title for title in run.titles if leaks(title)] == []
    assert b"lab" in (run.folder / "server.log").read_bytes()


def key_of(run: Run) -> str:
    return run.environment["SPOOLWAY_KEY"]


def as_bytes(answer: object) -> bytes:
    return answer if isinstance(answer, bytes) else b""


async def refusals(admin: AdminClient) -> list[object]:
    """Everything that is said of logins that are wrong."""
    said: list[object] = []
    secret = SECRETS["TRIED"]
    wrong: list[tuple[str, dict[str, str]]] = [
        ("mongodb", {"uri": secret}),
        ("mongodb", {"uri": f"mongodb://ada:{secret}@host"}),
        (
            "mongodb",
            {"mongodb_password": secret, "mongodb_database_url": f"a:{secret}@b"},
        ),
        ("dropbox", {"app_secret": secret}),
        ("dropbox", {"app_secret": secret, "authorization_code": SECRETS["CODE"]}),
        ("nosuchtype", {"password": secret}),
    ]
    for type_name, login in wrong:
        with pytest.raises(SpoolwayError) as caught:
            await admin.add_storage("wrong", type_name, login)
        error = caught.value
        said += [str(error), error.metadata, error.violations, repr(error.__cause__)]
    return said


def test_the_search_finds_what_is_planted() -> None:
    """Else the test above would prove nothing."""
    secret = SECRETS["LOGIN"].encode()

    for planted in (secret, quote(secret, safe="").encode(), secret.hex().encode()):
        assert leaks(b"before " + planted + b" after") == ["LOGIN"]
    for shift in (b"", b"x", b"xy"):
        assert leaks(base64.b64encode(shift + b'{"uri": "' + secret + b'"}')) == ["LOGIN"]
