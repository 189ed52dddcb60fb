"""Signing in to Dropbox, and trying an account."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from spoolway_providers.errors import LoginRefused, Unavailable
from spoolway_providers.interface import Step
from spoolway_providers.registry import provider_class
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    Fault,
    authorization_url,
    login_from_code,
    make_account,
    make_provider,
    opened,
    staged_scene,
)

ROOT = Path(__file__).parents[2]
SCOPES = ["files.content.read", "files.content.write", "files.metadata.read"]


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


def failed(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.advice for step in steps if not step.ok}


def test_dropbox_is_a_type_of_storage() -> None:
    """It is found by its name, as those of other packages are."""
    assert provider_class("dropbox") is DropboxProvider


@pytest.mark.parametrize("field", ["app_key", "app_secret", "refresh_token"])
def test_login_needs_all_its_fields(account: DropboxAccount, field: str) -> None:
    """A field that is missing, empty or of another kind is named; so is one too many."""
    assert DropboxProvider.from_login(account.login)
    for wrong in ("", None, 5):
        with pytest.raises(ValueError, match=field):
            DropboxProvider.from_login({**account.login, field: wrong})
    with pytest.raises(ValueError, match="password"):
        DropboxProvider.from_login({**account.login, "password": "x"})


def test_backends_with_stock_spoolers_are_names(account: DropboxAccount) -> None:
    """They are separated by commas, and what is no name of a backend is refused."""
    provider = DropboxProvider.from_login({**account.login, "stock_spoolers": " a, b,,"})
    with pytest.raises(ValueError, match="stock_spoolers"):
        DropboxProvider.from_login({**account.login, "stock_spoolers": "a,../b"})

    assert provider._stock_spoolers == {"a", "b"}


def run_live_tests(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    path = "tests/providers/test_dropbox_live.py"
    return subprocess.run(
        [*command, path],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_live_tests_run_on_the_account_that_is_named(account: DropboxAccount) -> None:
    """They do what they are to do on a real account; here it is one of the emulator."""
    account.calls(forget=True)
    named = {f"SPOOLWAY_TEST_DROPBOX_{field.upper()}": text for field, text in account.login.items()}
    done = run_live_tests("-m", "live", "-k", "probe or repeat_returns_the_first", **named)

    assert done.returncode == 0, done.stdout
    assert account.calls()["files/upload"] > 0
    assert account.tree() == {}


def test_without_an_account_it_is_said_that_they_were_not_run() -> None:
    """Nothing is left out in silence."""
    unnamed = {f"SPOOLWAY_TEST_DROPBOX_{field}": "" for field in ("APP_KEY", "APP_SECRET", "REFRESH_TOKEN")}
    done = run_live_tests(**unnamed)

    assert "not run: tests/providers/test_dropbox_live.py needs a Dropbox account" in done.stdout
    assert "SPOOLWAY_TEST_DROPBOX_REFRESH_TOKEN" in done.stdout


def test_secrets_are_marked_and_never_shown(account: DropboxAccount) -> None:
    """The secret fields are known as such, and no text of the provider holds them."""
    provider = DropboxProvider.from_login({**account.login, "server_address": "lab-1:50061"})

    assert {field.name for field in provider.login_fields if field.secret} == {"app_secret", "refresh_token"}
    assert account.refresh_token not in repr(provider._login) + repr(provider) + repr(vars(provider))


async def test_refused_logins_say_why(account: DropboxAccount) -> None:
    """A wrong app and a revoked token are told apart, and neither is shown."""
    account.set(app_secret="another")
    wrong_app = make_provider(account)
    with pytest.raises(LoginRefused, match="app key") as first:
        await wrong_app.open()
    unknown = make_provider(DropboxAccount("revoked-token"))
    with pytest.raises(LoginRefused, match="refresh token") as second:
        await unknown.open()

    assert "revoked-token" not in str(second.value)
    assert account.refresh_token not in str(first.value)


@pytest.mark.parametrize("scope", SCOPES)
async def test_missing_permission_is_named(account: DropboxAccount, scope: str) -> None:
    """Whoever left a permission out is told which one, by the probe and by the storage itself."""
    account.set(scopes=[one for one in SCOPES if one != scope])
    provider = make_provider(account)
    steps = await provider.probe()
    with pytest.raises(LoginRefused, match=scope):
        await provider.open()
    await provider.close()

    [advice] = failed(steps).values()
    assert scope in advice


async def test_all_missing_permissions_are_named_at_once(account: DropboxAccount) -> None:
    """An app without any permission needs one look, not three."""
    account.set(scopes=[])
    steps = await make_provider(account).probe()

    advice = " ".join(failed(steps).values())
    assert [scope for scope in SCOPES if scope in advice] == SCOPES


async def test_probe_tries_everything_and_leaves_nothing(account: DropboxAccount) -> None:
    """A sound account passes each step, though it was never opened, and is as empty as before."""
    steps = await make_provider(account).probe()

    assert [step.name for step in steps] == [
        "sign_in",
        "write",
        "read_back",
        "list",
        "conditional_write_race",
        "claim_race",
        "wake_up",
        "delete",
    ]
    assert failed(steps) == {}
    assert account.tree() == {}


async def test_probe_of_an_account_that_another_owns(account: DropboxAccount) -> None:
    """An account can be tried beside its owner, who notices nothing."""
    async with opened(account) as owner:
        scene = await staged_scene(owner)
        job = await scene.submit()
        steps = await make_provider(account).probe()

        assert failed(steps) == {}
        assert await owner.get(job.key) == job


async def test_probe_reports_what_fails(account: DropboxAccount) -> None:
    """A step that fails is reported with advice, and what needs it is left out."""
    account.fail(Fault.SERVER_ERROR, "files/upload", times=-1)
    steps = await make_provider(account).probe()

    assert list(failed(steps)) == ["write"]
    assert [step.name for step in steps] == ["sign_in", "write", "read_back", "list"]


def test_authorization_page_asks_for_what_is_needed(account: DropboxAccount) -> None:
    """The address has the app, the permissions, and asks for a refresh token."""
    url = urlparse(authorization_url("key", "secret"))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}

    assert (url.scheme, url.path) == ("https", "/oauth2/authorize")
    assert query["token_access_type"] == "offline"
    assert query["response_type"] == "code"
    assert query["client_id"] == "key"
    assert sorted(query["scope"].split()) == SCOPES
    assert "secret" not in url.query


async def test_code_becomes_a_login(account: DropboxAccount) -> None:
    """The code that Dropbox shows is good for a login, once."""
    account.set(code="the-code")
    login = await asyncio.to_thread(login_from_code, "key", "secret", " the-code\n")
    with pytest.raises(LoginRefused, match="code"):
        await asyncio.to_thread(login_from_code, "key", "secret", "the-code")

    assert login.refresh_token == account.refresh_token
    assert account.refresh_token not in repr(login)
    provider = DropboxProvider(login)
    await provider.open()
    await provider.close()


async def test_code_without_permissions_is_no_login(account: DropboxAccount) -> None:
    """An app whose permissions were not ticked is told so when it signs in."""
    account.set(code="the-code", scopes=["files.content.read"])
    with pytest.raises(LoginRefused, match=r"files.content.write, files.metadata.read"):
        await asyncio.to_thread(login_from_code, "key", "secret", "the-code")


async def test_account_that_is_full_is_told(account: DropboxAccount) -> None:
    """Where Dropbox refuses to store, the caller hears why, and nothing was done."""
    async with opened(account, patience_s=0.1) as provider:
        scene = await staged_scene(provider)
        account.set(is_full=True)
        with pytest.raises(Unavailable, match="insufficient_space"):
            await provider.submit([scene.draft()])
        account.set(is_full=False)
        await scene.submit()


async def test_owner_document_holds_no_secret(account: DropboxAccount) -> None:
    """What is written into the account names the server, not its login."""
    async with opened(account, address="lab-1:50061"):
        [text] = account.tree("/spoolway/owner").values()

    assert json.loads(text)["address"] == "lab-1:50061"
    assert not {account.refresh_token, account.app_secret} & set(text.split('"'))
