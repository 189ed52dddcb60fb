"""Long names of backends, storage_backend_kind, beside the short ones."""

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Lab
from tests.server.refusals import refusal

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)


@pytest.fixture
async def lab(start_lab: StartLab) -> Lab:
    """`sim`, a simulator in the default storage, and `laser`, hardware in another."""
    started = await start_lab("main", "attic", default_storage="main")
    robot = started.caller("robot")
    await robot.register("sim", b'{"simulator": true}')
    await robot.register("laser", b'{"simulator": false}', storage="attic")
    return started


@pytest.mark.parametrize(
    ("long", "short"), [("main_sim_simulator", "sim"), ("attic_laser_hardware", "laser")]
)
async def test_a_long_name_means_the_backend(lab: Lab, long: str, short: str) -> None:
    """Every call that takes a backend takes its long name too, and answers in short ones."""
    caller = lab.caller()

    backend = (await caller.GetBackend(pb.GetBackendRequest(name=f"backends/{long}"))).backend
    job = await caller.submit(long)
    listed = await caller.ListJobs(pb.ListJobsRequest(backend=long))
    watch = caller.WatchJobs(pb.WatchJobsRequest(backend=long))
    watched = await watch.read()
    watch.cancel()
    spooler = FakeSpooler(lab, backends=[long])
    await spooler.connect()
    await spooler.credit(1)

    assert backend.name == f"backends/{short}"
    assert job.backend == short
    assert [one.name for one in listed.jobs] == [job.name]
    assert [one.name for one in watched.jobs] == [job.name]
    assert (await spooler.assignment()).job == job.name


async def test_an_operator_may_use_long_names(lab: Lab) -> None:
    """A backend is paused by its long name."""
    request = admin_pb.PauseBackendRequest(name="attic_laser_hardware")

    paused = (await lab.caller().PauseBackend(request)).backend

    assert (paused.name, paused.policy.paused) == ("backends/laser", True)


async def test_a_unary_spooler_may_use_long_names(lab: Lab) -> None:
    """NextJob finds jobs by the long name."""
    job = await lab.caller().submit("sim")
    request = pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["main_sim_simulator"])

    answer = await lab.caller("robot").NextJob(request, timeout=PATIENCE_S)

    assert answer.assignment.job == job.name


@pytest.mark.parametrize("name", ["main_sim_hardware", "attic_laser_simulator"])
async def test_a_wrong_kind_is_an_error(lab: Lab, name: str) -> None:
    """The error tells the right name."""
    refused = await refusal(lab.caller().submit(name))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BACKEND_KIND_WRONG")
    assert {"sim": "main_sim_simulator", "laser": "attic_laser_hardware"}[
        name.split("_")[1]
    ] in refused.message


async def test_a_wrong_storage_is_not_found(lab: Lab) -> None:
    """A backend of another storage is not there, and the error tells the right name."""
    refused = await refusal(lab.caller().submit("attic_sim_simulator"))

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "BACKEND_NOT_FOUND")
    assert "main_sim_simulator" in refused.message


@pytest.mark.parametrize(
    "name", ["main_sim_robot", "main_sim", "main__simulator", "a_main_sim_simulator", "_"]
)
async def test_a_wrong_third_word_is_an_error(lab: Lab, name: str) -> None:
    """What has not the form of a long name is no name."""
    refused = await refusal(lab.caller().submit(name))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BACKEND_NAME_INVALID")
    assert refused.fields == ("backend",)


async def test_a_backend_is_registered_by_its_short_name(lab: Lab) -> None:
    """The long name follows from storage and config; it can't be chosen."""
    refused = await refusal(lab.caller("robot").register("main_new_simulator"))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BACKEND_NAME_INVALID")
