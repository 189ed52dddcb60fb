"""The example's spooler, driven by the commands."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolway_server.cli.children import Children
from spoolway_server.cli.exits import ExitCode
from tests.server.test_cli_children import until
from tests.server.test_cli_serving import Lab, clean_environment

ROOT = Path(__file__).parents[2]


def job(experiments: int = 1, **changes: object) -> str:
    """Circuits of 500 atoms: some 10 ms each."""
    instructions = [["load", [0], [500]], ["sq_full", [0], [1.0, 1.0, 1.0]], ["measure", [0], []]]
    experiment = {"instructions": instructions, "num_wires": 1, "shots": 1, "wire_order": "interleaved"}
    return json.dumps({f"experiment_{n}": experiment | changes for n in range(experiments)})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("quditlab")
    env = clean_environment(SPOOLWAY_SERVER__DRAIN_PAUSE_S="0")
    with Children(folder, env) as children:
        server = children.start("server", "spoolway_server.cli", "serve", "--port", "0", cwd=folder)
        lab = Lab(until(server.first_line), folder)
        children.start("simulator", "examples.singlequdit.spooler", "--address", lab.address, cwd=ROOT)
        until(lab.is_operational)
        yield lab


def test_a_job_that_does_not_fit_the_schema_is_refused_at_once(lab):
    """The backend's job_schema is checked before a job is accepted, and the answer says what is wrong."""
    ran = lab("submit", "-", "-b", "singlequdit", stdin=job(shots=0))

    assert (ran.exit_code, ran.stdout) == (ExitCode.REFUSED, "")
    assert "shots" in ran.stderr


def test_what_only_the_simulator_can_see_is_told_to_the_owner(lab):
    """A job that the schema lets pass and the simulator refuses ends in ERROR with its words."""
    late = [["load", [0], [1]], ["measure", [0], []], ["rlx", [0], [1.0]]]

    ran = lab("submit", "-", "-b", "singlequdit", "--wait", stdin=job(instructions=late))

    assert ran.exit_code == ExitCode.ENDED_BADLY
    assert "only a barrier may follow measure" in ran.stderr


def test_a_running_scan_tells_how_far_it_is_and_stops_when_it_is_cancelled(lab):
    """Progress is seen while it runs; a cancel stops it between two experiments, and the next job runs."""
    name = lab("submit", "-", "-b", "singlequdit", stdin=job(1000)).stdout.strip()
    seen = until(lambda: lab("status", name, "--json").document["stage"])

    lab("cancel", name)
    ended = lab("watch", name, "--timeout", "20")
    following = lab("submit", "-", "-b", "singlequdit", "--wait", "--timeout", "20", stdin=job())

    assert seen.endswith("of 1000")
    assert ended.stdout.splitlines()[-1] == f"{name}  CANCELLED"
    assert following.exit_code == ExitCode.OK
