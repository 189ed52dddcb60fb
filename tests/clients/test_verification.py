"""Signed results, verified against their backend's key."""

import base64
import importlib.util
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from spoolway import SettingsError, VerificationError
from spoolway.verification import require_cryptography, verified_result

JOB = "backends/echo/jobs/abc"
# Signed by sqooler 0.9.0, with floats, an umlaut and keys in no order.
SQOOLER_KEY = json.loads("""
{
 "x": "rt-1ciWpdWB3_FONgsgZDbi2KSV3Qa4x8wh8VNqsPUU=",
 "key_ops": "verify",
 "kid": "lab-7",
 "d": null,
 "kty": "OKP",
 "alg": "EdDSA",
 "crv": "Ed25519"
}
""")
SQOOLER_RESULT = json.loads("""
{
 "header": {
  "alg": "EdDSA",
  "kid": "lab-7",
  "typ": "JWS",
  "version": "0.1"
 },
 "payload": {
  "backend_name": null,
  "display_name": "a",
  "backend_version": "0.3.0",
  "job_id": "65f0c0ffee65f0c0ffee65f0",
  "qobj_id": null,
  "success": true,
  "status": "DONE",
  "header": {
   "ü": 1.5e-07,
   "b": 1,
   "a": 0.1
  },
  "results": [
   {
    "header": {
     "name": "experiment_0"
    },
    "shots": 2,
    "success": true,
    "data": {
     "memory": [
      "1 0",
      "0 1"
     ],
     "instructions": [
      {
       "name": "rlx",
       "wires": [
        0
       ],
       "params": [
        0.7
       ]
      }
     ]
    }
   }
  ]
 },
 "signature": "1qkWmqM0qqIRhO-EpU5rYgPR3FGzozGBcRlpc2YhoN5uaG0MAcuPrpJMEW1rUa8n4tHrF11nv93kB_62dPnrBg=="
}
""")

private = Ed25519PrivateKey.generate()
KEY = {
    "kty": "OKP",
    "crv": "Ed25519",
    "kid": "lab",
    "x": base64.urlsafe_b64encode(private.public_key().public_bytes_raw()).decode().rstrip("="),
}


def signed(payload: dict[str, Any], kid: str = "lab") -> dict[str, Any]:
    header = {"alg": "EdDSA", "kid": kid, "typ": "JWS", "version": "0.1"}
    written = json.dumps(header, separators=(",", ":")), json.dumps(payload)
    message = b".".join(base64.urlsafe_b64encode(text.encode()) for text in written)
    signature = base64.urlsafe_b64encode(private.sign(message)).decode()
    return {"header": header, "payload": payload, "signature": signature}


def test_what_sqooler_signed_is_verified() -> None:
    """Also after the document went through JSON."""
    payload = verified_result(
        SQOOLER_RESULT, SQOOLER_KEY, job_name="backends/a/jobs/65f0c0ffee65f0c0ffee65f0"
    )

    assert payload["results"][0]["data"]["memory"] == ["1 0", "0 1"]


def test_the_payload_of_a_signed_result_is_returned() -> None:
    assert verified_result(signed({"job_id": "abc", "z": 0.1}), KEY, job_name=JOB) == {
        "job_id": "abc",
        "z": 0.1,
    }


@pytest.mark.parametrize(
    ("result", "key", "reason"),
    [
        ({"job_id": "abc"}, KEY, "RESULT_NOT_SIGNED"),
        ([1], KEY, "RESULT_NOT_SIGNED"),
        (signed({"job_id": "abc"}), None, "NO_PUBLIC_KEY"),
        (signed({"job_id": "abc"}, kid="other"), KEY, "OTHER_KEY"),
        ({**signed({"job_id": "abc"}), "payload": {"job_id": "abc", "more": 1}}, KEY, "SIGNATURE_WRONG"),
        ({**signed({"job_id": "abc"}), "signature": "!"}, KEY, "SIGNATURE_WRONG"),
        ({**signed({"job_id": "abc"}), "signature": None}, KEY, "SIGNATURE_WRONG"),
        (signed({"job_id": "abc"}), {**KEY, "x": "AAAA"}, "SIGNATURE_WRONG"),
        (signed({"job_id": "another"}), KEY, "OTHER_JOB"),
    ],
)
def test_what_is_not_signed_rightly_is_refused(result: Any, key: Any, reason: str) -> None:
    """Each with a reason of its own."""
    with pytest.raises(VerificationError) as caught:
        verified_result(result, key, job_name=JOB)

    assert caught.value.reason == reason


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(SettingsError, match=r"spoolway-client\[verify\]"):
        require_cryptography()
