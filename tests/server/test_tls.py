"""TLS, mutual TLS, and certificates that are renewed while the server runs."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from spoolway import AdminClient, JobClient, SpoolwayError
from spoolway_server.app import SpoolwayServer
from spoolway_server.auth import Role
from spoolway_server.config import Config, ConfigError
from tests.server.certificates import Authority
from tests.server.conftest import StartLab
from tests.server.lab import Lab

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def lab(start_lab: StartLab, authority: Authority) -> Lab:
    """A server with TLS, and a token of ada's."""
    cert, key, _ = authority.sign("server")
    lab = await start_lab(tls={"cert_file": str(cert), "key_file": str(key)}, auth={"mode": "tokens"})
    await lab.give_token("ada", Role.ADMIN)
    return lab


async def serial(lab: Lab) -> int:
    """The number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = lab.server.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))
    writer.close()
    return shown.serial_number


async def names(lab: Lab, **settings: Any) -> list[str]:
    """The storages, asked for by the client package."""
    async with AdminClient(lab.server.address, token=lab.secrets["ada"], timeout=5, **settings) as admin:
        return [storage.name for storage in await admin.storages()]


async def test_a_client_with_the_authority_gets_in(lab: Lab, authority: Authority) -> None:
    """`ca` is all that it takes beside the token."""
    assert await names(lab, ca=authority.ca_file) == ["main"]


async def test_without_tls_or_with_another_authority_nobody_gets_in(lab: Lab, tmp_path: Path) -> None:
    """Neither a client in the clear, nor one that trusts somebody else."""
    stranger = Authority(tmp_path, "stranger")

    for settings in ({}, {"ca": stranger.ca_file}):
        with pytest.raises(SpoolwayError):
            await names(lab, **settings)


async def test_a_renewed_certificate_is_taken_over(lab: Lab, authority: Authority) -> None:
    """From the next connection on, without a restart; one that is open goes on."""
    before = await serial(lab)
    async with JobClient(lab.server.address, token=lab.secrets["ada"], ca=authority.ca_file) as client:
        await client.backends()
        _, _, renewed = authority.sign("server")
        after = await serial(lab)
        await client.backends()

    assert before != renewed
    assert after == renewed
    assert await names(lab, ca=authority.ca_file) == ["main"]


async def test_half_of_a_renewal_is_waited_out(lab: Lab, authority: Authority) -> None:
    """A certificate without its key yet, or a file that is torn, changes nothing; the pair then does."""
    before = await serial(lab)
    cert, key, _ = authority.sign("server")
    good = key.read_bytes()
    key.write_bytes(good[:50])
    torn = await serial(lab)
    key.unlink()
    missing = await serial(lab)
    key.write_bytes(good)
    whole = await serial(lab)

    assert torn == missing == before
    assert whole == x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


async def test_mutual_tls_wants_a_certificate_of_the_client(
    start_lab: StartLab, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one by the authority a spooler gets in; a token alone does not do."""
    cert, key, _ = authority.sign("server")
    tls = {"cert_file": str(cert), "key_file": str(key), "client_ca_file": str(authority.ca_file)}
    lab = await start_lab(tls=tls, auth={"mode": "tokens"})
    await lab.give_token("ada", Role.ADMIN)
    with pytest.raises(SpoolwayError):
        await names(lab, ca=authority.ca_file)

    own_cert, own_key, _ = authority.sign("lab-pc")
    monkeypatch.setenv("SPOOLWAY_CLIENT_CERT", str(own_cert))
    monkeypatch.setenv("SPOOLWAY_CLIENT_KEY", str(own_key))

    assert await names(lab, ca=authority.ca_file) == ["main"]


@pytest.mark.usefixtures("storage_type")
@pytest.mark.parametrize("wrong", ["missing", "torn", "other key"])
def test_bad_files_are_a_mistake_of_the_configuration(
    authority: Authority, tmp_path: Path, wrong: str
) -> None:
    """The server does not start, and says which."""
    cert, key, _ = authority.sign("server")
    if wrong == "missing":
        key.unlink()
    elif wrong == "torn":
        cert.write_bytes(cert.read_bytes()[:100])
    else:
        key.write_bytes(authority.sign("other")[1].read_bytes())
    config = Config.model_validate(
        {
            "tls": {"cert_file": str(cert), "key_file": str(key)},
            "catalog": {"path": str(tmp_path / "catalog.sqlite")},
            "storages": {"main": {"type": "memory"}},
        }
    )

    with pytest.raises(ConfigError, match=r"tls: .*(No such file|can't be used together)"):
        SpoolwayServer(config)
