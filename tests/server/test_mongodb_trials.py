"""TestStorage with logins of a MongoDB: what is wrong is said, with what to do, and the password is not."""

from typing import Any
from urllib.parse import quote_plus

import pytest

from spoolway.v1 import storage_admin_pb2 as admin_pb
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, StandIn, leftovers
from tests.providers.test_mongodb_login import PASSWORD, guarded, uri
from tests.server.lab import Lab

__all__ = ["guarded", "leftovers"]

pytestmark = [
    DRIVERS_LEFTOVERS,
    pytest.mark.usefixtures("leftovers"),
    pytest.mark.parametrize("storage_type", ["memory"], indirect=True),
]


async def tried(lab: Lab, **login: Any) -> admin_pb.TestStorageResponse:
    """The steps with a login that is not saved."""
    wanted = admin_pb.StorageLogin(mongodb=admin_pb.MongodbLogin(**login))
    answer: admin_pb.TestStorageResponse = await lab.caller().TestStorage(
        admin_pb.TestStorageRequest(login=wanted)
    )
    assert PASSWORD not in str(answer)
    assert quote_plus(PASSWORD) not in str(answer)
    return answer


async def advice(lab: Lab, **login: Any) -> str:
    """Of the step that fails."""
    answer = await tried(lab, **login)
    assert not answer.passed
    return answer.steps[-1].advice


async def test_a_good_login_passes_all_steps(lab: Lab, guarded: StandIn) -> None:
    """From opening to the clean-up; races and a wake-up are among them."""
    answer = await tried(lab, uri=uri(guarded), database="lab")

    assert answer.passed, answer
    names = [step.name for step in answer.steps]
    assert names[0] == "open"
    assert {"write", "read_back", "conditional_write_race", "claim_race", "list", "wake_up"} < set(names)


async def test_each_mistake_has_its_own_advice(
    lab: Lab, guarded: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, a wrong host, a missing right and a string that is none are told apart."""
    monkeypatch.setattr("spoolway_providers.mongodb.connection._CONNECT_S", 0.5)
    nowhere = f"mongodb://alice:{quote_plus(PASSWORD)}@127.0.0.1:1/"

    wrong_password = await advice(lab, uri=uri(guarded, password="wrong"), database="lab")
    missing_right = await advice(lab, uri=uri(guarded, "reader"), database="lab")
    wrong_host = await advice(lab, uri=nowhere)

    assert "user name or the password" in wrong_password
    assert "readWrite" in missing_right
    assert "127.0.0.1:1" in wrong_host
    assert "check the host" in wrong_host
