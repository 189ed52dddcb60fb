"""Storages that are added, changed and removed while the service runs, in every process of one catalog."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_server.catalog import AuditQuery, Routes, StorageRecord
from spoolway_server.clock import Clock
from spoolway_server.vault import new_key
from tests.server import locked_file
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually, state_of
from tests.server.refusals import refusal
from tests.server.test_storage_trouble import NOT_SERVING, SERVING, Health

pytestmark = pytest.mark.parametrize("storage_type", ["sqlite"], indirect=True)

SERVED_WITHIN_S = 2.0
"""What is promised; a loaded machine gets some more."""


@pytest.fixture(autouse=True)
def _key_and_types(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The servers have a key, and a type of storage with a secret."""
    monkeypatch.setenv("SPOOLWAY_KEY", new_key())
    with locked_file.installed(monkeypatch):
        yield


@pytest.fixture
async def lab(start_lab: StartLab) -> Lab:
    """One process."""
    return await start_lab(clock=Clock())


@pytest.fixture
async def other(lab: Lab, start_lab: StartLab) -> Lab:
    """Another process on the same files."""
    return await start_lab(clock=Clock())


@pytest.fixture
def operator(lab: Lab) -> Caller:
    return lab.caller("olga")


def sqlite_login(path: Path) -> admin_pb.StorageLogin:
    return admin_pb.StorageLogin(sqlite=admin_pb.SqliteLogin(path=str(path)))


def locked_login(path: Path, password: str, **more: Any) -> admin_pb.StorageLogin:
    fields = Struct()
    fields.update({"path": str(path), "password": password, **more})
    return admin_pb.StorageLogin(plugin=fields)


async def create(caller: Caller, name: str, login: admin_pb.StorageLogin, **fields: Any) -> admin_pb.Storage:
    request = admin_pb.CreateStorageRequest(name=name, login=login, **fields)
    return (await caller.CreateStorage(request)).storage


async def update(caller: Caller, name: str, *paths: str, **fields: Any) -> admin_pb.Storage:
    request = admin_pb.UpdateStorageRequest(name=name, update_mask=FieldMask(paths=paths), **fields)
    return (await caller.UpdateStorage(request)).storage


async def listed(caller: Caller) -> dict[str, admin_pb.Storage]:
    answer = await caller.ListStorages(admin_pb.ListStoragesRequest())
    return {storage.name.rpartition("/")[2]: storage for storage in answer.storages}


async def register(caller: Caller, backend: str, storage: str) -> None:
    await caller.register(backend, storage=storage)


async def trail(lab: Lab) -> list[tuple[str, str, str, str]]:
    page = await lab.server.audit.events(AuditQuery())
    return [(one.who, one.what, one.subject, one.outcome) for one in reversed(page.events)]


# Adding


async def test_an_added_storage_serves_at_once_and_tells_what_it_is(
    lab: Lab, operator: Caller, tmp_path: Path
) -> None:
    """A job goes through a storage that was added a moment ago; all but the login is shown."""
    storage = await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"), description="new")
    await register(lab.caller("robot"), "laser", "lab")
    spooler = FakeSpooler(lab, backends=["laser"])
    await spooler.connect()
    await spooler.credit(1)

    job = await lab.caller().submit("laser")
    assignment = await spooler.assignment()

    assert (storage.name, storage.type, storage.description) == ("storages/lab", "sqlite", "new")
    assert (storage.owner, storage.active, storage.read_only) == ("olga", True, False)
    assert storage.health.serving
    assert storage.etag
    assert storage.create_time == storage.update_time
    assert assignment.job == job.name
    assert await trail(lab) == [("olga", "CreateStorage", "storages/lab", "OK")]


async def test_an_added_storage_serves_in_the_other_process_within_2_s(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """Added by a call to one process, it takes a job in the other one, and shows its changes there."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    begun = asyncio.get_running_loop().time()
    await eventually(lambda: "lab" in other.server.storages.by_name and not other.storage("lab").trouble)
    took_s = asyncio.get_running_loop().time() - begun
    await register(lab.caller("robot"), "laser", "lab")
    job = await other.caller().submit("laser")
    await update(operator, "lab", "description", description="changed")
    await eventually(lambda: other.storage("lab").description == "changed")

    assert took_s < SERVED_WITHIN_S * 3
    assert (await lab.caller().job(job.name)).name == job.name
    assert (await listed(other.caller()))["lab"] == (await listed(operator))["lab"]


async def test_added_storages_are_there_after_a_restart(
    start_lab: StartLab, lab: Lab, operator: Caller, tmp_path: Path
) -> None:
    """A server that is started later knows them, and can open a login that was encrypted."""
    locked_file.lock(tmp_path / "safe.sqlite", "one")
    await create(operator, "safe", locked_login(tmp_path / "safe.sqlite", "one", tries=3), type="locked")
    await lab.server.stop(0)

    again = await start_lab(clock=Clock())

    assert (await listed(again.caller()))["safe"].health.serving


async def test_a_name_is_taken_once(lab: Lab, other: Lab, operator: Caller, tmp_path: Path) -> None:
    """Neither a second storage of that name, in whichever process, nor one of the configuration's name."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))

    for caller, name in ((operator, "lab"), (other.caller(), "lab"), (operator, "main")):
        refused = await refusal(create(caller, name, sqlite_login(tmp_path / "x.sqlite")))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "STORAGE_EXISTS")
        assert refused.fields == ("name",)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"login": locked_login(Path("x"), "p"), "type": "lokced"}, "TYPE_UNKNOWN", "type"),
        ({"login": locked_login(Path("x"), "p")}, "TYPE_MISSING", "type"),
        ({"login": locked_login(Path("x"), "p"), "type": "sqlite"}, "LOGIN_OF_OTHER_TYPE", "login"),
        ({"login": sqlite_login(Path("x")), "type": "memory"}, "LOGIN_OF_OTHER_TYPE", "login"),
        ({"login": admin_pb.StorageLogin(sqlite=admin_pb.SqliteLogin())}, "LOGIN_INVALID", "login.path"),
        ({"login": sqlite_login(Path("x")), "owner": "no name"}, "USER_NAME_INVALID", "owner"),
        ({"type": "memory", "description": "x" * 1001}, "DESCRIPTION_TOO_LONG", "description"),
        (
            {
                "login": admin_pb.StorageLogin(
                    dropbox=admin_pb.DropboxLogin(app_key="k", authorization_code="c")
                )
            },
            "LOGIN_INVALID",
            "login",
        ),
    ],
)
async def test_what_is_wrong_with_a_new_storage_is_said(
    operator: Caller, fields: dict[str, Any], reason: str, field: str
) -> None:
    """Each mistake has a reason of its own and names the field."""
    refused = await refusal(operator.CreateStorage(admin_pb.CreateStorageRequest(name="lab", **fields)))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refused.fields == (field,)


async def test_without_a_key_a_secret_is_refused_and_a_path_is_not(
    start_lab: StartLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error says how to make a key; a login without a secret needs none."""
    monkeypatch.delenv("SPOOLWAY_KEY")
    operator = (await start_lab()).caller()

    refused = await refusal(create(operator, "safe", locked_login(tmp_path / "x", "secret"), type="locked"))
    stored = await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_MISSING")
    assert "spoolway admin new-key" in refused.message
    assert stored.health.serving


# Changing


async def test_a_login_is_changed_while_a_job_runs(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """With the new login both processes open the storage anew, without a restart, and the job goes on."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")
    await create(operator, "safe", locked_login(path, "one"), type="locked")
    await register(lab.caller("robot"), "laser", "safe")
    spooler = FakeSpooler(lab, backends=["laser"])
    await spooler.connect()
    await spooler.credit(1)
    job = await lab.caller().submit("laser")
    assignment = await spooler.assignment()
    await spooler.accept(assignment)
    await eventually(lambda: "safe" in other.server.storages.by_name)
    providers = [one.storage("safe").provider for one in (lab, other)]

    locked_file.lock(path, "two")
    changed = await update(operator, "safe", "login.password", login=locked_login(path, "two"))
    await eventually(lambda: other.storage("safe").provider is not providers[1])
    await eventually(lambda: not other.storage("safe").trouble)
    await spooler.complete(assignment, b'{"a": 2}')

    assert changed.health.serving
    assert lab.storage("safe").provider is not providers[0]
    assert state_of(await other.caller().job(job.name)) == "DONE"
    assert [one.number for one in (await other.caller().job(job.name)).attempts] == [1]


async def test_a_watch_goes_on_over_a_change_of_the_login(lab: Lab, operator: Caller, tmp_path: Path) -> None:
    """Who watches before the change hears what happens after it."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")
    await create(operator, "safe", locked_login(path, "one"), type="locked")
    await register(lab.caller("robot"), "laser", "safe")
    job = await lab.caller().submit("laser")
    watch = lab.caller().WatchJobs(pb.WatchJobsRequest(names=[job.name]))
    await watch.read()

    locked_file.lock(path, "two")
    await update(operator, "safe", "login", login=locked_login(path, "two"))
    await lab.caller().cancel(job.name)

    async with asyncio.timeout(PATIENCE_S):
        while True:
            event = await watch.read()
            if any(state_of(one) == "CANCELLED" for one in event.jobs):
                break
    watch.cancel()


async def test_a_wrong_login_shows_and_the_right_one_mends_it(operator: Caller, tmp_path: Path) -> None:
    """A storage that does not open is kept, with its trouble, until its login is changed."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")

    broken = await create(operator, "safe", locked_login(path, "wrong"), type="locked")
    mended = await update(operator, "safe", "login.password", login=locked_login(path, "one"))

    assert not broken.health.serving
    assert "give the new one" in broken.health.message
    assert mended.health.serving


async def test_a_new_key_alone_opens_nothing_anew(lab: Lab, operator: Caller, tmp_path: Path) -> None:
    """A login that is only sealed anew, or a new description, leaves the provider as it is."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")
    await create(operator, "safe", locked_login(path, "one"), type="locked")
    provider = lab.storage("safe").provider

    await update(operator, "safe", "login", "description", login=locked_login(path, "one"), description="x")

    assert lab.storage("safe").provider is provider
    assert lab.storage("safe").description == "x"


async def test_f9_two_operators_change_two_fields_at_once(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """Neither change is lost, whichever process they go to."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))

    await asyncio.gather(
        update(operator, "lab", "description", description="new"),
        update(other.caller(), "lab", "owner", owner="bob"),
    )

    stored = await lab.server.catalog.get(StorageRecord, "lab")
    assert stored is not None
    assert (stored.description, stored.owner) == ("new", "bob")


async def test_f9_a_stale_etag_is_refused(operator: Caller, tmp_path: Path) -> None:
    """Who decided from an older state is told so, and changes nothing."""
    old = await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    new = await update(operator, "lab", "description", description="theirs", etag=old.etag)

    refused = await refusal(update(operator, "lab", "description", description="ours", etag=old.etag))
    refused_too = await refusal(
        operator.DeleteStorage(admin_pb.DeleteStorageRequest(name="lab", etag=old.etag))
    )

    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (refused_too.code, refused_too.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert (await listed(operator))["lab"].description == "theirs"
    assert new.etag != old.etag


@pytest.mark.parametrize("paths", [["name"], ["login."], ["description", "type"], ["login.a.b"], []])
async def test_a_mask_names_what_can_be_changed(operator: Caller, tmp_path: Path, paths: list[str]) -> None:
    """Anything else, and nothing at all, is refused."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))

    refused = await refusal(update(operator, "lab", *paths))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UPDATE_MASK_INVALID")


async def test_without_a_mask_what_is_given_is_changed(operator: Caller, tmp_path: Path) -> None:
    """An empty mask means the fields that are set."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"), description="kept")

    changed = await update(operator, "lab", owner="bob")

    assert (changed.owner, changed.description) == ("bob", "kept")


async def test_storages_of_the_configuration_are_read_only(lab: Lab, operator: Caller) -> None:
    """Every call that would change one says where to change it, and is in the trail."""
    changes = {
        "UpdateStorage": admin_pb.UpdateStorageRequest(name="main", description="x"),
        "DeleteStorage": admin_pb.DeleteStorageRequest(name="main", force=True),
        "ActivateStorage": admin_pb.ActivateStorageRequest(name="main"),
        "DeactivateStorage": admin_pb.DeactivateStorageRequest(name="main"),
    }
    for rpc, request in changes.items():
        refused = await refusal(getattr(operator, rpc)(request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_READ_ONLY")
        assert "configuration file" in refused.message

    assert await trail(lab) == [("olga", rpc, "storages/main", "STORAGE_READ_ONLY") for rpc in changes]
    assert (await listed(operator))["main"].read_only


# Inactive


async def test_an_inactive_storage_takes_and_gives_nothing_and_says_so(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """No submits and no jobs in either process until it is activated; the job that runs ends as always."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    await register(lab.caller("robot"), "laser", "lab")
    spooler = FakeSpooler(lab, backends=["laser"])
    await spooler.connect()
    await spooler.credit(1)
    running = await lab.caller().submit("laser")
    waiting = await lab.caller().submit("laser")
    assignment = await spooler.assignment()
    await spooler.accept(assignment)

    shown = (await operator.DeactivateStorage(admin_pb.DeactivateStorageRequest(name="lab"))).storage
    await eventually(lambda: "lab" in other.server.storages.by_name and not other.storage("lab").active)
    await spooler.complete(assignment, b"{}")
    for one in (lab, other):
        refused = await refusal(one.caller().submit("laser"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_INACTIVE")
    status = (await operator.GetBackend(pb.GetBackendRequest(name="laser"))).backend.status
    still_waiting = state_of(await lab.caller().job(waiting.name))
    await operator.ActivateStorage(admin_pb.ActivateStorageRequest(name="lab"))

    assert not shown.active
    assert state_of(await lab.caller().job(running.name)) == "DONE"
    assert still_waiting == "QUEUED"
    assert (status.operational, status.status_msg) == (False, "storage lab is inactive")
    assert (await spooler.assignment()).job == waiting.name
    await lab.caller().submit("laser")


async def test_a_storage_may_be_added_inactive(operator: Caller, tmp_path: Path) -> None:
    """It opens and can be tried, and takes no jobs yet."""
    storage = await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"), inactive=True)

    assert (storage.active, storage.health.serving) == (False, True)


# Removing


async def test_a_storage_with_unfinished_jobs_is_not_forgotten_unless_forced(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """The refusal says how many; forced it goes in both processes, and added again it has its jobs still."""
    login = sqlite_login(tmp_path / "lab.sqlite")
    await create(operator, "lab", login)
    await register(lab.caller("robot"), "laser", "lab")
    job = await lab.caller().submit("laser")
    delete = admin_pb.DeleteStorageRequest(name="lab")

    refused = await refusal(operator.DeleteStorage(delete))
    await operator.DeleteStorage(admin_pb.DeleteStorageRequest(name="lab", force=True))
    await eventually(lambda: "lab" not in other.server.storages.by_name)
    gone = [await refusal(one.caller().submit("laser")) for one in (lab, other)]
    await create(operator, "lab", login)
    found = await lab.caller().job(job.name)
    await lab.caller().cancel(job.name)
    await operator.DeleteStorage(delete)

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_IN_USE")
    assert "1 job that has not ended" in refused.message
    assert refused.metadata["jobs"] == "1"
    assert {one.reason for one in gone} == {"BACKEND_NOT_FOUND"}
    assert state_of(found) == "QUEUED"
    assert "lab" not in await listed(operator)
    refused = await refusal(operator.DeleteStorage(delete))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "STORAGE_NOT_FOUND")


async def test_spoolers_of_a_storage_that_goes_are_told_to_leave(
    lab: Lab, operator: Caller, tmp_path: Path
) -> None:
    """Their stream ends with goaway and the reason."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    await register(lab.caller("robot"), "laser", "lab")
    spooler = FakeSpooler(lab, backends=["laser"])
    await spooler.connect()

    await operator.DeleteStorage(admin_pb.DeleteStorageRequest(name="lab"))

    assert (await spooler.next_of("goaway")).goaway.reason == "STORAGE_REMOVED"


async def test_a_storage_that_does_not_answer_is_forgotten_by_force_only(
    operator: Caller, tmp_path: Path
) -> None:
    """Whether it holds jobs can't be told: the refusal says so."""
    locked_file.lock(tmp_path / "safe.sqlite", "one")
    await create(operator, "safe", locked_login(tmp_path / "safe.sqlite", "wrong"), type="locked")

    refused = await refusal(operator.DeleteStorage(admin_pb.DeleteStorageRequest(name="safe")))
    await operator.DeleteStorage(admin_pb.DeleteStorageRequest(name="safe", force=True))

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STORAGE_IN_USE")
    assert "can't tell" in refused.message
    assert "safe" not in await listed(operator)


# Trouble


async def test_f13_a_broken_storage_beside_three_good_ones(
    lab: Lab, operator: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed with its trouble; the others list, register, take and give jobs as ever."""
    locked_file.lock(tmp_path / "safe.sqlite", "one")
    for name in ("one", "two"):
        await create(operator, name, sqlite_login(tmp_path / f"{name}.sqlite"))
    await create(operator, "broken", locked_login(tmp_path / "safe.sqlite", "wrong"), type="locked")
    robot = lab.caller("robot")

    storages = await listed(operator)
    refused = await refusal(robot.register("laser", storage="one"))
    await operator.DeactivateStorage(admin_pb.DeactivateStorageRequest(name="broken"))
    for backend, storage in (("laser", "one"), ("atoms", "two"), ("sim", "main")):
        await register(robot, backend, storage)
    backends = await operator.ListBackends(pb.ListBackendsRequest())
    jobs = [await lab.caller().submit(backend) for backend in ("laser", "atoms", "sim")]

    assert {name for name, one in storages.items() if one.health.serving} == {"main", "one", "two"}
    assert "the password is wrong" in storages["broken"].health.message
    # A backend of that name may lie in the broken one, until that is given up.
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert "storage broken can't be reached" in refused.message
    assert [one.name.rpartition("/")[2] for one in backends.backends] == ["atoms", "laser", "sim"]
    assert list(backends.unreachable_storages) == ["broken"]
    assert {one.name for one in await lab.caller().all_jobs()} == {job.name for job in jobs}


async def test_f13_a_storage_whose_key_is_missing_is_listed_with_its_trouble(
    lab: Lab, start_lab: StartLab, operator: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with another key says which one it lacks, and serves the rest; a new login mends it."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")
    await create(operator, "safe", locked_login(path, "one"), type="locked")
    monkeypatch.setenv("SPOOLWAY_KEY", new_key())

    other = await start_lab(clock=Clock())
    storages = await listed(other.caller())
    mended = await update(other.caller(), "safe", "login", login=locked_login(path, "one"))

    assert storages["main"].health.serving
    assert "SPOOLWAY_KEY" in storages["safe"].health.message
    assert mended.health.serving


async def test_a_server_without_its_catalog_serves_the_configurations_storages(
    start_lab: StartLab, tmp_path: Path
) -> None:
    """Changes are UNAVAILABLE and balancers are told; jobs go on, and with the catalog all is well."""
    blocked = tmp_path / "folder"
    blocked.write_text("in the way")
    lab = await start_lab(clock=Clock(), catalog={"path": str(blocked / "catalog.sqlite")})
    operator = lab.caller("olga")
    health = Health(lab, "")

    blind = await health.now()
    refused = await refusal(create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite")))
    await lab.caller("robot").register("sim")
    job = await lab.caller().submit("sim")
    blocked.unlink()
    storage = await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    await health.until(SERVING)

    assert blind == NOT_SERVING
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "CATALOG_UNAVAILABLE")
    assert job.name
    assert storage.health.serving


# Looking and trying


async def test_a_login_is_tried_before_it_is_saved(lab: Lab, operator: Caller, tmp_path: Path) -> None:
    """The steps tell; nothing is saved, and the storage at work is left alone."""
    path = tmp_path / "safe.sqlite"
    locked_file.lock(path, "one")
    await create(operator, "safe", locked_login(path, "one"), type="locked")

    async def steps(**fields: Any) -> dict[str, tuple[bool, str]]:
        answer = await operator.TestStorage(admin_pb.TestStorageRequest(**fields))
        assert answer.passed == all(step.passed for step in answer.steps)
        return {step.name: (step.passed, step.advice) for step in answer.steps}

    good = await steps(login=sqlite_login(tmp_path / "new.sqlite"))
    wrong = await steps(name="safe", login=locked_login(path, "wrong"))
    right = await steps(type="locked", login=locked_login(path, "one"))

    assert good["open"] == (True, "")
    assert len(good) > 3
    assert wrong == {"open": (False, "the password is wrong; give the new one")}
    assert right["open"] == (True, "")
    assert set(await listed(operator)) == {"main", "safe"}
    assert not lab.storage("safe").trouble


async def test_the_figures_of_a_storage(lab: Lab, operator: Caller, tmp_path: Path) -> None:
    """Backends, sessions and jobs by state."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    await register(lab.caller("robot"), "laser", "lab")
    spooler = FakeSpooler(lab, backends=["laser"])
    await spooler.connect()
    first = await lab.caller().submit("laser")
    await lab.caller().submit("laser")
    await lab.caller().cancel(first.name)

    stats = await operator.GetStorageStats(admin_pb.GetStorageStatsRequest(name="lab"))

    assert (stats.backends, stats.sessions, stats.unfinished_jobs) == (1, 1, 1)
    assert dict(stats.jobs) == {"QUEUED": 1, "CANCELLED": 1}


async def test_a_route_decides_where_two_storages_have_a_backend(
    lab: Lab, other: Lab, operator: Caller, tmp_path: Path
) -> None:
    """Both processes go where the catalog's route says, and go elsewhere once it is turned."""
    await create(operator, "lab", sqlite_login(tmp_path / "lab.sqlite"))
    for name in ("main", "lab"):
        await lab.storage(name).provider.put_config("laser", b"{}", None)

    async def homes() -> set[str]:
        answers = [await one.caller().GetBackend(pb.GetBackendRequest(name="laser")) for one in (lab, other)]
        lists = [await one.caller().ListBackends(pb.ListBackendsRequest()) for one in (lab, other)]
        return {answer.backend.storage for answer in answers} | {
            one.storage for answer in lists for one in answer.backends
        }

    await eventually(lambda: "lab" in other.server.storages.by_name and not other.storage("lab").trouble)
    before = await homes()
    routes = await lab.server.catalog.put(Routes(backends={"laser": "lab"}))
    await eventually(lambda: all(one.server.storages._routes for one in (lab, other)))
    after = await homes()

    assert before == {"main"}
    assert after == {"lab"}
    assert routes.revision


async def test_pages_for_signing_in_are_for_types_that_have_one(operator: Caller) -> None:
    """A type without says so."""
    refused = await refusal(
        operator.GetSignInPage(admin_pb.GetSignInPageRequest(login=sqlite_login(Path("x"))))
    )

    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SIGN_IN_UNSUPPORTED")
