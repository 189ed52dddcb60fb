"""Signing in to a Dropbox account by calls: a page, a code, and a token that never leaves the server."""

from pathlib import Path
from urllib.parse import urlparse

import grpc
import pytest

from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_server.clock import Clock
from spoolway_server.vault import new_key
from tests.dropbox_emulator.scene import DropboxAccount, make_account
from tests.server.conftest import StartLab
from tests.server.lab import Caller
from tests.server.refusals import refusal

pytestmark = pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


@pytest.fixture
async def operator(start_lab: StartLab, monkeypatch: pytest.MonkeyPatch) -> Caller:
    monkeypatch.setenv("SPOOLWAY_KEY", new_key())
    return (await start_lab(clock=Clock())).caller("olga")


def login(**fields: str) -> admin_pb.StorageLogin:
    return admin_pb.StorageLogin(dropbox=admin_pb.DropboxLogin(app_key="key", app_secret="secret", **fields))


async def test_an_account_is_signed_in_to_from_afar(
    operator: Caller, account: DropboxAccount, storage_settings: object, tmp_path: Path
) -> None:
    """The page's code is given with the new storage; the server exchanges it, and the storage serves."""
    account.set(code="the-code")

    page = await operator.GetSignInPage(admin_pb.GetSignInPageRequest(login=login()))
    created = await operator.CreateStorage(
        admin_pb.CreateStorageRequest(name="cloud", login=login(authorization_code="the-code"))
    )
    again = await refusal(
        operator.CreateStorage(
            admin_pb.CreateStorageRequest(name="other", login=login(authorization_code="the-code"))
        )
    )

    assert urlparse(page.url).path == "/oauth2/authorize"
    assert created.storage.health.serving
    assert account.refresh_token not in str(created)
    assert (again.code, again.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SIGN_IN_REFUSED")
    assert again.fields == ("login.authorization_code",)
    assert "open the page anew" in again.message


async def test_an_account_is_signed_in_to_anew(operator: Caller, account: DropboxAccount) -> None:
    """With a code alone a storage gets a new refresh token; app key and secret stay."""
    wrong = await operator.CreateStorage(
        admin_pb.CreateStorageRequest(name="cloud", login=login(refresh_token="revoked"))
    )
    account.set(code="new-code")
    only = admin_pb.StorageLogin(dropbox=admin_pb.DropboxLogin(authorization_code="new-code"))
    request = admin_pb.UpdateStorageRequest(name="cloud", login=only)
    request.update_mask.paths.append("login.authorization_code")

    mended = await operator.UpdateStorage(request)

    assert not wrong.storage.health.serving
    assert mended.storage.health.serving


async def test_a_missing_permission_is_named(operator: Caller, account: DropboxAccount) -> None:
    """The sign-in fails with what to tick; nothing is stored."""
    account.set(code="the-code", scopes=["files.content.read"])

    refused = await refusal(
        operator.CreateStorage(
            admin_pb.CreateStorageRequest(name="cloud", login=login(authorization_code="the-code"))
        )
    )

    assert refused.reason == "SIGN_IN_REFUSED"
    assert "files.metadata.read" in refused.message
    listed = await operator.ListStorages(admin_pb.ListStoragesRequest())
    assert [one.name for one in listed.storages] == ["storages/main"]


async def test_a_login_that_is_not_saved_is_tried(operator: Caller, account: DropboxAccount) -> None:
    """TestStorage goes through the steps with it."""
    request = admin_pb.TestStorageRequest(login=login(refresh_token=account.refresh_token))

    answer = await operator.TestStorage(request)

    assert answer.passed, answer
    assert "claim_race" in [step.name for step in answer.steps]
