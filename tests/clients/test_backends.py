"""What clients see of backends."""

import json
from datetime import timedelta

import pytest

from spoolway import JobClient
from spoolway.backend import backend_from_proto
from spoolway.v1 import job_pb2
from spoolway.v1 import job_service_pb2 as pb
from tests.clients.fake_server import FakeServer, duration, in_turn

CONFIG = {
    "description": "one qudit",
    "version": "0.1.0",
    "display_name": "singlequdit",
    "gates": [{"name": "rlx"}, {"name": "rlz"}],
    "simulator": True,
    "num_wires": 1,
    "max_shots": 1000,
}


def backend(config: object) -> job_pb2.Backend:
    return job_pb2.Backend(
        name="backends/singlequdit",
        storage="main",
        config=json.dumps(config).encode(),
        config_etag="c1",
        policy=job_pb2.BackendPolicy(max_attempts=3, lease_ttl=duration(30)),
        status=job_pb2.BackendStatus(
            backend_name="singlequdit", operational=True, pending_jobs=2, status_msg="ok"
        ),
    )


async def test_backends_are_listed_with_config_policy_and_status(
    server: FakeServer, client: JobClient
) -> None:
    """A backend tells what it can do, what is allowed, and how it stands."""
    server.answers["ListBackends"] = in_turn(pb.ListBackendsResponse(backends=[backend(CONFIG)]))
    server.answers["GetBackend"] = in_turn(pb.GetBackendResponse(backend=backend(CONFIG)))

    [listed] = await client.backends()
    found = await client.backend("singlequdit")

    assert listed == found
    assert (found.name, found.storage, found.config) == ("singlequdit", "main", CONFIG)
    assert (found.status.operational, found.status.pending_jobs) == (True, 2)
    assert found.policy.lease_ttl == timedelta(seconds=30)
    assert (found.policy.max_run_time, found.policy.lost_timeout) == (None, None)


def test_the_configuration_speaks_qiskit_s_words() -> None:
    """Programs that know Qiskit find their words."""
    words = backend_from_proto(backend(CONFIG)).configuration()

    assert words["backend_name"] == "main_singlequdit_simulator"
    assert words["backend_version"] == "0.1.0"
    assert words["n_qubits"] == 1
    assert words["basis_gates"] == ["rlx", "rlz"]
    assert words["max_shots"] == 1000
    assert {"conditional", "coupling_map", "memory", "local", "open_pulse", "url"} <= words.keys()
    assert "num_wires" not in words


def test_a_real_device_is_called_hardware() -> None:
    """The name tells a device from a simulator."""
    words = backend_from_proto(backend(CONFIG | {"simulator": False})).configuration()

    assert words["backend_name"] == "main_singlequdit_hardware"


@pytest.mark.parametrize("config", [{}, [], {"gates": None}, {"gates": ["rlx"]}])
def test_a_config_with_nothing_known_is_carried(config: object) -> None:
    """A backend of another kind need not say anything."""
    assert backend_from_proto(backend(config)).configuration()["backend_name"] == "main_singlequdit_simulator"


def test_a_signed_config_shows_its_payload() -> None:
    """A reader sees the same config, signed or not."""
    signed = {"header": {"alg": "EdDSA"}, "payload": CONFIG, "signature": "x"}

    assert backend_from_proto(backend(signed)).config == CONFIG
