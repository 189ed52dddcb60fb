"""Imports of existing installations: a MongoDB database, and a folder."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from bson.objectid import ObjectId
from pymongo import AsyncMongoClient

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_providers.interface import Provider, Query
from spoolway_providers.registry import make_provider
from spoolway_server.clock import Clock
from spoolway_server.vault import new_key
from tests.providers.mongodb_server import DRIVERS_LEFTOVERS, StandIn, leftovers
from tests.server.conftest import StartLab
from tests.server.lab import Caller, Lab, state_of
from tests.server.refusals import refusal
from tests.server.test_copy_storage import ended, state, with_provider

__all__ = ["leftovers"]

DOCUMENTS = int(os.environ.get("SPOOLWAY_TEST_IMPORT_JOBS", "2000"))
IMPORT_S = 60.0 + DOCUMENTS / 20
PLACES = ("queued", "running", "finished", "deleted")
BACKENDS = ("rabi", "singlequdit")
JOB = {"experiment_0": {"instructions": [["rlx", [0], [0.7]]], "num_wires": 1, "shots": 4, "seed": 1}}


@pytest.fixture
def storage_type() -> str:
    """What is imported into."""
    return "sqlite"


@pytest.fixture
def mongo(tmp_path: Path) -> Any:
    """A server of its own: an installation's databases have fixed names."""
    folder = tmp_path / "mongo"
    folder.mkdir()
    server = StandIn(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def lab(start_lab: StartLab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Two storages; the server has a key for logins."""
    monkeypatch.setenv("SPOOLWAY_KEY", new_key())
    return await start_lab("main", "other", clock=Clock())


def job_id(number: int) -> ObjectId:
    """Ids that sort in another order than they were made in."""
    return ObjectId(f"{number * 7919 % 100_003:024x}")


def place_of(number: int) -> str:
    return PLACES[number % 4]


async def fill_installation(mongo: StandIn, count: int) -> None:
    """Write what today's systems write: jobs in all places, with statuses, results and keys."""
    async with AsyncMongoClient[dict[str, Any]](mongo.uri) as client:
        signed = {
            "header": {"alg": "EdDSA", "kid": "k1", "typ": "JWS", "version": "0.1"},
            "signature": "c2ln",
        }
        await client["backends"]["configs"].insert_many(
            [
                {"display_name": "rabi", "version": "0.1.0"},
                {**signed, "payload": {"display_name": "singlequdit", "version": "0.2.0"}},
            ]
        )
        await client["backends"]["public_keys"].insert_one({"kid": "k1", "x": "abc"})
        documents: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in range(count):
            backend, place, one = BACKENDS[number % 3 == 0], place_of(number), job_id(number)
            collection = place if place in {"running", "deleted"} else f"{place}.{backend}"
            documents.setdefault(("jobs", collection), []).append({"_id": one, **JOB, "number": number})
            words = {"finished": "DONE", "deleted": "ERROR"}.get(place, "QUEUED")
            said = {"job_id": str(one), "status": words, "detail": "Got your json.", "error_message": "None"}
            if place == "deleted":
                said["error_message"] = "it broke"
            documents.setdefault(("status", backend), []).append({"_id": one, **said})
            if place == "finished":
                result = {"job_id": str(one), "results": [{"shots": number}]}
                documents.setdefault(("results", backend), []).append({"_id": one, **result})
        for (database, collection), found in documents.items():
            await client[database][collection].insert_many(found)


def expected(count: int) -> dict[str, tuple[str, str, Any, Any]]:
    """What each job must be: its backend, its state, its content, its result."""
    states = {"queued": "QUEUED", "running": "HELD(IMPORTED)", "finished": "DONE", "deleted": "ERROR(FAILED)"}
    found: dict[str, tuple[str, str, Any, Any]] = {}
    for number in range(count):
        one = str(job_id(number))
        is_done = place_of(number) == "finished"
        result = {"job_id": one, "results": [{"shots": number}]} if is_done else None
        content = {**JOB, "number": number}
        found[one] = (BACKENDS[number % 3 == 0], states[place_of(number)], content, result)
    return found


async def found_in(provider: Provider) -> dict[str, tuple[str, str, Any, Any]]:
    """The same of a storage."""
    found: dict[str, tuple[str, str, Any, Any]] = {}
    cursor = ""
    while True:
        page = await provider.find(Query(limit=500, cursor=cursor))
        for job in page.jobs:
            content = json.loads(await provider.read_blob(job.content))
            result = json.loads(await provider.read_blob(job.result)) if job.result else None
            words = f"{job.state}({job.reason})" if job.reason else str(job.state)
            assert job.key.id not in found
            found[job.key.id] = (job.key.backend, words, content, result)
        cursor = page.cursor
        if not cursor:
            return found


async def begin(caller: Caller, login: admin_pb.StorageLogin, target: str = "main") -> admin_pb.Operation:
    request = admin_pb.ImportStorageRequest(target=target, login=login, owner="ada")
    return (await caller.ImportStorage(request)).operation


def login_of(mongo: StandIn) -> admin_pb.StorageLogin:
    return admin_pb.StorageLogin(mongodb=admin_pb.MongodbLogin(uri=mongo.uri))


async def test_an_installation_is_imported(lab: Lab, mongo: StandIn) -> None:
    """Jobs, results and keys are there, under the old ids; what ran waits for an operator's word."""
    await fill_installation(mongo, 40)
    olga = lab.caller("olga")

    operation = await ended(olga, await begin(olga, login_of(mongo)))

    assert (state(operation), operation.message, operation.done_jobs) == ("DONE", "", 40)
    assert (operation.source, operation.target) == ("mongodb installation", "storages/main")
    assert list(operation.backends) == sorted(BACKENDS)
    provider = lab.storage("main").provider
    assert await found_in(provider) == expected(40)
    assert list(await provider.public_keys()) == ["k1"]
    running = f"backends/{expected(2)[str(job_id(1))][0]}/jobs/{job_id(1)}"
    assert state_of(await lab.caller("ada").job(running)) == "HELD(IMPORTED)"
    resumed = (await olga.ResumeJob(admin_pb.ResumeJobRequest(name=running))).job
    assert state_of(resumed) == "QUEUED"
    result = await lab.caller("ada").GetResult(pb.GetResultRequest(name=str(job_id(2))))
    assert json.loads(result.content)["results"] == [{"shots": 2}]


async def test_imported_again_only_what_is_new_comes(lab: Lab, mongo: StandIn) -> None:
    """What has ended there since ends here; what our operators decided stays."""
    await fill_installation(mongo, 8)
    olga = lab.caller("olga")
    await ended(olga, await begin(olga, login_of(mongo)))
    await olga.FailHeldJob(admin_pb.FailHeldJobRequest(name=str(job_id(1))))
    async with AsyncMongoClient[dict[str, Any]](mongo.uri) as client:
        moved = await client["jobs"]["running"].find_one_and_delete({"_id": job_id(5)})
        assert moved is not None
        await client["jobs"]["finished.rabi"].insert_one(moved)
        await client["results"]["rabi"].insert_one({"_id": job_id(5), "late": True})

    again = await ended(olga, await begin(olga, login_of(mongo)))

    assert state(again) == "DONE"
    found = await found_in(lab.storage("main").provider)
    wanted = expected(8)
    wanted[str(job_id(5))] = ("rabi", "DONE", {**JOB, "number": 5}, {"late": True})
    assert found[str(job_id(1))][1].startswith("ERROR")
    wanted[str(job_id(1))] = found[str(job_id(1))]
    assert found == wanted


async def test_a_job_of_no_backend_is_left_out_and_told(lab: Lab, mongo: StandIn) -> None:
    """A running job whose status lies nowhere; the end of the operation counts such jobs."""
    await fill_installation(mongo, 4)
    async with AsyncMongoClient[dict[str, Any]](mongo.uri) as client:
        await client["jobs"]["running"].insert_one({"_id": ObjectId("f" * 24), **JOB})
    olga = lab.caller("olga")

    operation = await ended(olga, await begin(olga, login_of(mongo)))

    assert (state(operation), operation.done_jobs) == ("DONE", 4)
    assert operation.message.startswith("1 jobs belong to no backend")


@DRIVERS_LEFTOVERS
@pytest.mark.usefixtures("leftovers")
async def test_what_can_not_be_imported_is_refused(lab: Lab, mongo: StandIn) -> None:
    """A backend that lies in another storage, a login that leads nowhere; no secret is in the answers."""
    await fill_installation(mongo, 4)
    olga = lab.caller("olga")
    await lab.caller("robot").register("rabi", storage="other")
    elsewhere = await refusal(begin(olga, login_of(mongo)))
    uri = "mongodb://user:topsecret@127.0.0.1:1/"
    nobody = await refusal(begin(olga, admin_pb.StorageLogin(mongodb=admin_pb.MongodbLogin(uri=uri))))

    assert (elsewhere.code, elsewhere.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_EXISTS")
    assert nobody.code is grpc.StatusCode.UNAVAILABLE
    assert "topsecret" not in nobody.message
    assert not (await olga.ListOperations(admin_pb.ListOperationsRequest())).operations


async def test_a_folder_is_imported_into_another_storage(lab: Lab, tmp_path: Path) -> None:
    """What an existing installation has in a folder: waiting, running and ended jobs, under their ids."""
    base = tmp_path / "old"
    files: dict[str, Any] = {"backends/configs/rabi": {"display_name": "rabi"}}
    for number, place in enumerate(("queued/rabi", "running", "finished/rabi")):
        one = str(job_id(number))
        files[f"jobs/{place}/{one}"] = {**JOB, "number": number}
        words = "DONE" if place.startswith("finished") else "QUEUED"
        said = {"job_id": one, "status": words, "detail": "Got your json.", "error_message": "None"}
        files[f"status/rabi/{one}"] = said
    files[f"results/rabi/{job_id(2)}"] = {"shots": 4}
    for name, document in files.items():
        path = base / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    olga = lab.caller("olga")
    login = admin_pb.StorageLogin(local=admin_pb.LocalLogin(base_path=str(base), owner="ada"))

    operation = await ended(olga, await begin(olga, login))

    assert (state(operation), operation.message, operation.done_jobs) == ("DONE", "", 3)
    found = await found_in(lab.storage("main").provider)
    assert {one: (job[1], job[3]) for one, job in found.items()} == {
        str(job_id(0)): ("QUEUED", None),
        str(job_id(1)): ("HELD(IMPORTED)", None),
        str(job_id(2)): ("DONE", {"shots": 4}),
    }


@asynccontextmanager
async def hasty_server(
    folder: Path, key: str, kill_at: int = 0
) -> AsyncIterator[tuple[Caller, asyncio.subprocess.Process]]:
    config = folder / "spoolway.toml"
    config.write_text(f'[storages.main]\ntype = "sqlite"\npath = "{folder / "main.sqlite"}"\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.server.hasty_server", "serve", "--port", "0", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TEST_KILL_AT": str(kill_at), "SPOOLWAY_KEY": key},
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            address = (await process.stdout.readline()).decode().strip()
        async with grpc.aio.insecure_channel(address) as channel:
            yield Caller(channel, "olga"), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.timeout(60 + 3 * int(IMPORT_S))
async def test_an_import_is_killed_in_the_middle_and_ends_equal(mongo: StandIn, tmp_path: Path) -> None:
    """Of 2,000 documents each is there once, as it must be; the login is nowhere in the clear."""
    await fill_installation(mongo, DOCUMENTS)
    key = new_key()

    async with hasty_server(tmp_path, key, kill_at=DOCUMENTS // 2) as (olga, process):
        operation = await begin(olga, login_of(mongo))
        async with asyncio.timeout(IMPORT_S):
            assert await process.wait() == -9
    left = b"".join(path.read_bytes() for path in tmp_path.glob("*.sqlite*"))
    async with hasty_server(tmp_path, key) as (olga, _):
        half = (await olga.GetOperation(admin_pb.GetOperationRequest(name=operation.name))).operation
        operation = await ended(olga, operation)

    assert DOCUMENTS // 2 <= half.done_jobs < DOCUMENTS
    assert (state(operation), operation.message, operation.done_jobs) == ("DONE", "", DOCUMENTS)
    provider = make_provider("sqlite", {"path": str(tmp_path / "main.sqlite")})
    assert await with_provider(provider, found_in) == expected(DOCUMENTS)
    assert mongo.uri.encode() not in left
