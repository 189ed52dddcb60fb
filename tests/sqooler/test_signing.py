"""What sqooler signs is stored and served as it is, and verified by clients."""

import json
from typing import Any

import pytest
from sqooler.schemes import ResultDict
from sqooler.security import JWK, create_jwk_pair

from spoolway import AlreadyExistsError, SyncJobClient, VerificationError
from spoolway.sqooler import SpoolwayStorageProvider
from tests.sqooler.conftest import Server
from tests.sqooler.jobs import job, submit, wait_for_backends
from tests.sqooler.lab import make_spooler


def test_a_signed_result_is_verified_by_the_client(server: Server, client: SyncJobClient, lab: Any) -> None:
    """Against the key that the spooler registered; an unsigned one is refused."""
    private, public = create_jwk_pair("lab-7")
    signing = lab(server.address, "alpha", "--sign", PRIVATE_JWK_STR=private.to_config_str())
    lab(server.address, "beta")
    wait_for_backends(client, "alpha", "beta")
    signed, plain = submit(client, "alpha", [job(5)])[0], submit(client, "beta", [job(6)])[0]

    payload = signed.result(60, verify=True)

    assert payload["results"][0]["data"]["memory"] == ["5", "5"]
    assert signed.result(60)["payload"] == payload
    assert signed.result(60)["header"]["kid"] == "lab-7"
    backend = client.backend("alpha")
    assert JWK(**backend.public_key) == public
    assert json.loads(backend.config_bytes)["payload"]["kid"] == backend.config["kid"] == "lab-7"
    with pytest.raises(VerificationError, match="not signed"):
        plain.result(60, verify=True)
    assert signing.starts == 1


def test_sqoolers_own_methods_read_what_was_signed(server: Server, client: SyncJobClient, lab: Any) -> None:
    """A program that uses the provider as any other finds configs, statuses, results and keys."""
    private, public = create_jwk_pair("lab-7")
    lab(server.address, "alpha", "--sign", PRIVATE_JWK_STR=private.to_config_str())
    wait_for_backends(client, "alpha")
    provider = SpoolwayStorageProvider(server.address, user="ada", name="lab")

    job_id = provider.upload_job(job(5), "alpha", "ada")
    assert provider.upload_status("alpha", "ada", job_id).job_id == job_id
    client.job(f"backends/alpha/jobs/{job_id}").wait(60)

    assert provider.get_status("alpha", "ada", job_id).status == "DONE"
    result = provider.get_result("alpha", "ada", job_id)
    assert isinstance(result, ResultDict)
    assert (result.status, result.backend_name) == ("DONE", "lab_alpha_simulator")
    assert provider.verify_result("alpha", job_id)
    assert provider.get_public_key("alpha") == public
    assert provider.get_backends() == ["alpha"]
    assert provider.get_config("alpha").sign
    assert provider.get_backend_dict("alpha").n_qubits == 1
    assert provider.get_backend_status("alpha").operational
    assert provider.get_file_queue(provider.get_attribute_path("queue", "alpha")) == []
    assert provider.get_status("alpha", "ada", "0" * 24).status == "ERROR"
    assert provider.get_result("alpha", "ada", "0" * 24).status == "ERROR"
    provider.close()


def test_keys_and_configs_that_do_not_fit_are_refused(server: Server, client: SyncJobClient) -> None:
    """As sqooler's own storages do, and a kid is never given to another key."""
    private, public = create_jwk_pair("lab-7")
    other_private, other_public = create_jwk_pair("lab-7")
    provider = SpoolwayStorageProvider(server.address, user="ada")
    config = make_spooler(sign=True).get_configuration()
    with pytest.raises(FileNotFoundError):
        provider.update_config(config.model_copy(), "alpha", private)
    config.display_name = "alpha"
    provider.upload_config(config, "alpha", private)

    with pytest.raises(FileNotFoundError):
        provider.get_public_key("alpha")
    with pytest.raises(ValueError, match="public one"):
        provider.upload_public_key(private, "alpha")
    provider.upload_public_key(public, "alpha")
    provider.upload_public_key(public, "alpha")
    with pytest.raises(AlreadyExistsError, match="another kid"):
        provider.upload_public_key(other_public, "alpha")
    with pytest.raises(ValueError, match="same signature"):
        provider.update_config(config, "alpha", other_private)
    provider.close()
