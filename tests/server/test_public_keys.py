"""Public keys of backends that sign."""

import base64
import json
from typing import Any

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from tests.server.lab import Caller, Lab
from tests.server.refusals import refusal

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def key(kid: Any = "lab-1", point: bytes = b"x" * 32, **fields: Any) -> bytes:
    text = base64.urlsafe_b64encode(point).decode()
    document = {
        "x": text,
        "key_ops": "verify",
        "kid": kid,
        "d": None,
        "kty": "OKP",
        "crv": "Ed25519",
        **fields,
    }
    return json.dumps(document).encode()


def signed(kid: str = "lab-1", **config: Any) -> bytes:
    payload = {"version": "1.0.0", "sign": True, "kid": kid, **config}
    return json.dumps({"header": {"kid": kid}, "payload": payload, "signature": "c2ln"}).encode()


async def shown_key(caller: Caller, name: str) -> bytes:
    return (await caller.GetBackend(pb.GetBackendRequest(name=name))).backend.public_key


async def test_a_key_is_shown_with_the_signed_config_that_names_it(lab: Lab, alice: Caller) -> None:
    """Both as they were sent, also after the config was registered again without the key."""
    robot = lab.caller("robot")

    registered = await robot.register("lamp", signed(), public_key=key())
    again = await robot.register("lamp", signed(num_wires=2))

    assert registered.public_key == again.public_key == await shown_key(alice, "lamp") == key()
    assert registered.config == signed()
    listed = (await alice.ListBackends(pb.ListBackendsRequest())).backends
    assert [backend.public_key for backend in listed if backend.name == "backends/lamp"] == [key()]


async def test_backends_share_a_key_and_one_without_kid_has_none(lab: Lab, alice: Caller) -> None:
    robot = lab.caller("robot")
    await robot.register("lamp", signed(), public_key=key())

    await robot.register("bulb", signed(), public_key=key().replace(b'", "', b'","'))
    await robot.register("wick", b"{}")

    assert await shown_key(alice, "bulb") == key()
    assert await shown_key(alice, "wick") == b""


async def test_a_kid_is_never_given_to_another_key(lab: Lab, alice: Caller) -> None:
    """Older results are verified by it; the refused call changes no config either."""
    robot = lab.caller("robot")
    await robot.register("lamp", signed(), public_key=key())

    error = await refusal(robot.register("lamp", signed(num_wires=9), public_key=key(point=b"y" * 32)))

    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_ID_USED")
    backend = (await alice.GetBackend(pb.GetBackendRequest(name="lamp"))).backend
    assert (backend.public_key, backend.config) == (key(), signed())


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (key(d="c2VjcmV0"), "PRIVATE_KEY_SENT"),
        (key(kid="lab-2"), "PUBLIC_KEY_INVALID"),
        (key(kid="../lab"), "PUBLIC_KEY_INVALID"),
        (key(kid=7), "PUBLIC_KEY_INVALID"),
        (key(kty="RSA"), "PUBLIC_KEY_INVALID"),
        (key(x="?"), "PUBLIC_KEY_INVALID"),
        (key(x=5), "PUBLIC_KEY_INVALID"),
        (key(point=b"short"), "PUBLIC_KEY_INVALID"),
        (b"[]", "PUBLIC_KEY_INVALID"),
        (b"{", "DOCUMENT_NOT_JSON"),
        (key(more="m" * 5000), "CONTENT_TOO_LARGE"),
    ],
)
async def test_what_is_no_public_key_of_the_backend_is_refused(
    lab: Lab, document: bytes, reason: str
) -> None:
    """Before anything is stored; a private key above all."""
    error = await refusal(lab.caller("robot").register("lamp", signed(), public_key=document))

    assert error.reason == reason
    assert "c2VjcmV0" not in error.message
    assert "lamp" not in [backend.name for backend in await lab.storage().provider.backends()]


async def test_a_private_key_that_another_program_stored_is_not_shown(lab: Lab, alice: Caller) -> None:
    await lab.storage().provider.put_public_key("lab-1", key(d="c2VjcmV0"))

    await lab.caller("robot").register("lamp", signed())

    assert await shown_key(alice, "lamp") == b""
