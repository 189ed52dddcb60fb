"""StorageAdmin: what operators see and test."""

import grpc
import pytest

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.errors import LoginRefused, Unavailable
from spoolway_providers.interface import Query
from spoolway_server.app import SpoolwayServer
from tests.server.conftest import StartLab
from tests.server.lab import Lab
from tests.server.refusals import refusal
from tests.server.storage_faults import StorageFaults

SECRET = "correct-horse"


async def test_all_storages_are_listed(start_lab: StartLab, storage_type: str) -> None:
    """ListStorages has every storage by name, with type, description, default and health."""
    lab = await start_lab(
        "main",
        "attic",
        default_storage="main",
        storages={"attic": {"description": "old jobs", "active": False}},
    )

    answer = await lab.caller().ListStorages(admin_pb.ListStoragesRequest())

    attic, main = answer.storages
    assert (attic.name, main.name) == ("storages/attic", "storages/main")
    assert {attic.type, main.type} == {storage_type}
    assert (attic.description, attic.active, attic.is_default) == ("old jobs", False, False)
    assert (main.description, main.active, main.is_default) == ("", True, True)
    assert all(storage.read_only for storage in answer.storages)
    assert all(storage.health.serving and not storage.health.message for storage in answer.storages)
    assert answer.next_page_token == ""


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_storages_come_in_pages(start_lab: StartLab) -> None:
    """All pages together have every storage once."""
    names = ["a", "b", "c", "d", "e"]
    lab = await start_lab(*names)
    caller = lab.caller()

    for size in (1, 2, 3, 5, 6):
        found: list[str] = []
        token = ""
        while True:
            answer = await caller.ListStorages(admin_pb.ListStoragesRequest(page_size=size, page_token=token))
            assert len(answer.storages) <= size
            found += [storage.name for storage in answer.storages]
            token = answer.next_page_token
            if not token:
                break
        assert found == [f"storages/{name}" for name in names]


async def test_a_storage_is_found_by_both_its_names(lab: Lab) -> None:
    """GetStorage takes the short name and the resource name."""
    caller = lab.caller()

    short = await caller.GetStorage(admin_pb.GetStorageRequest(name="main"))
    full = await caller.GetStorage(admin_pb.GetStorageRequest(name="storages/main"))

    assert short == full
    assert short.storage.name == "storages/main"


async def test_a_storage_passes_its_test_and_is_left_as_it_was(lab: Lab) -> None:
    """TestStorage goes through the steps and leaves nothing: no backend, job or session."""
    caller = lab.caller()
    job = await caller.submit()

    answer = await caller.TestStorage(admin_pb.TestStorageRequest(name="main"))

    assert answer.passed
    assert answer.steps
    assert all(step.passed and step.name and not step.advice for step in answer.steps)
    assert all(step.HasField("duration") for step in answer.steps)
    provider = lab.storage().provider
    assert [backend.name for backend in await provider.backends()] == ["sim"]
    assert [str(found.key) for found in (await provider.find(Query())).jobs] == [job.name]
    assert await provider.sessions() == []


async def test_the_test_of_a_storage_in_trouble_says_what_to_do(start_lab: StartLab) -> None:
    """A storage that can't be opened fails its test with advice; that is no error of the call."""

    def refuse(server: SpoolwayServer) -> None:
        provider = server.storages.by_name["main"].provider
        StorageFaults(provider).fail_once(LoginRefused("renew the key"), "open")

    lab = await start_lab(before_start=refuse)

    answer = await lab.caller().TestStorage(admin_pb.TestStorageRequest(name="main"))

    (step,) = answer.steps
    assert (answer.passed, step.passed, step.name) == (False, False, "open")
    assert "renew the key" in step.advice


async def test_the_test_of_a_storage_that_breaks_down_meanwhile_is_answered(lab: Lab) -> None:
    """A storage that breaks down during its test is UNAVAILABLE, with the time to wait."""
    with lab.faults().failing(Unavailable("down"), "probe"):
        refused = await refusal(lab.caller().TestStorage(admin_pb.TestStorageRequest(name="main")))

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")


@pytest.mark.parametrize("storage_type", ["memory"], indirect=True)
async def test_all_types_of_storages_are_told(lab: Lab) -> None:
    """ListProviderTypes has every installed type with its description and the fields of its login."""
    answer = await lab.caller().ListProviderTypes(admin_pb.ListProviderTypesRequest())

    types = {kind.name: kind for kind in answer.types}
    assert {"memory", "sqlite"} <= set(types)
    assert [kind.name for kind in answer.types] == sorted(types)
    for kind in answer.types:
        assert bool(kind.description) != bool(kind.unavailable)
    (path,) = [field for field in types["sqlite"].login_fields if field.name == "path"]
    assert path.description
    assert path.required
    assert not types["memory"].login_fields


@pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)
async def test_f18_no_answer_has_a_login(start_lab: StartLab, tmp_path: str) -> None:
    """Nothing of a storage's login is in any answer, healthy or in trouble."""
    lab = await start_lab(storages={"main": {"login": {"path": f"{tmp_path}/{SECRET}.sqlite"}}})
    await lab.caller("robot").register()
    caller = lab.caller()

    async def answers() -> list[object]:
        return [
            await caller.ListStorages(admin_pb.ListStoragesRequest()),
            await caller.GetStorage(admin_pb.GetStorageRequest(name="main")),
            await caller.TestStorage(admin_pb.TestStorageRequest(name="main")),
            await caller.ListProviderTypes(admin_pb.ListProviderTypesRequest()),
            await caller.ListBackends(pb.ListBackendsRequest()),
            await caller.GetBackend(pb.GetBackendRequest(name="sim")),
        ]

    healthy = await answers()
    lab.storage().report(Unavailable("it does not answer"))
    in_trouble = await answers()

    assert SECRET not in str(healthy)
    assert SECRET not in str(in_trouble)
