"""How channels are set up."""

import json
import logging

import pytest

from spoolway.channel import Connection, channel_options, service_config
from spoolway.settings import Settings
from spoolway.v1 import job_service_pb2, storage_admin_pb2

NEVER_REPEATED = {
    # Streams go on by themselves where they broke off; an answer of NextJob that got lost holds a job.
    "StreamNextJobs",
    "WatchJobs",
    "ReadResult",
    "ReadContent",
    "UploadContent",
    "UploadResult",
    "WatchOperation",
    "CheckStorage",
    "NextJob",
    # A repeat finds its own work done, and fails: the caller looks first.
    "CreateStorage",
    "CreateToken",
    "UpdateStorage",
    "DeleteStorage",
    "UnregisterBackend",
    "CopyStorage",
    "ImportStorage",
    # What may have been done already is to be told, not done again.
    "TestStorage",
    "RetryJob",
    "DeleteJob",
}


def test_each_call_is_either_safe_to_repeat_or_never_repeated() -> None:
    """A new call of the contract must be put on one side or the other."""
    [config] = json.loads(service_config("lab:50061"))["methodConfig"]
    repeated = {name["method"] for name in config["name"]}
    services = (
        job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
        storage_admin_pb2.DESCRIPTOR.services_by_name["StorageAdmin"],
    )
    known = {method.name for service in services for method in service.methods}

    assert repeated | NEVER_REPEATED == known
    assert not repeated & NEVER_REPEATED
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


@pytest.mark.parametrize("address", ["dns:///lab:50061", "ipv4:10.0.0.1:50061,10.0.0.2:50061"])
def test_calls_are_spread_over_healthy_servers(address: str) -> None:
    """With several addresses the channel takes turns, and passes over a server that is not serving."""
    config = json.loads(service_config(address))

    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "spoolway.v1.JobService"}


@pytest.mark.parametrize("address", ["lab:50061", "127.0.0.1:50061", "unix:/run/spoolway.sock"])
def test_a_balancer_is_not_taken_for_the_server_behind_it(address: str) -> None:
    """Behind one address the state of one server says nothing about the others: no check by the client."""
    assert "healthCheckConfig" not in json.loads(service_config(address))


def test_pings_are_fewer_than_what_servers_count() -> None:
    """A ping comes before a proxy's usual 60 s are over, and only during calls."""
    options = dict(channel_options("lab:50061", own_connections=False))

    assert 30_000 <= options["grpc.keepalive_time_ms"] < 60_000
    assert options["grpc.keepalive_permit_without_calls"] == 0
    assert options["grpc.max_receive_message_length"] == 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("127.0.0.1:50061", False),
        ("localhost:50061", False),
        ("dns:///localhost:1", False),
        ("[::1]:50061", False),
        ("unix:/run/spoolway.sock", False),
        ("lab.example.org:50061", True),
    ],
)
async def test_a_token_without_tls_is_warned_about(
    caplog: pytest.LogCaptureFixture, address: str, warns: bool
) -> None:
    """A token that travels unencrypted to another machine is told, without showing it."""
    with caplog.at_level(logging.WARNING, logger="spoolway"):
        await Connection(Settings(address=address, user="ada", token="secret")).close()

    assert ("unencrypted" in caplog.text) is warns
    assert "secret" not in caplog.text
