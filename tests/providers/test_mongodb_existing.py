"""An existing installation's documents are found where today's systems write them.

On mongomock, under one lock (it is not thread-safe) and behind a thin async face (it has none): only what
is read is looked at here, and how it is read of a real server is pymongo's matter.
"""

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import mongomock
import pytest
from bson.objectid import ObjectId
from pymongo.errors import ServerSelectionTimeoutError

from spoolway_providers.errors import Corrupt, Unavailable
from spoolway_providers.model import JobKey
from spoolway_providers.mongodb import existing
from spoolway_providers.mongodb.existing import PLACES, ExistingInstallation, ExistingJob

LOCK = threading.Lock()

CONFIG = {"display_name": "singlequdit", "version": "0.1.0", "num_wires": 1}
JOB = {"experiment_0": {"instructions": [["rlx", [0], [0.7]]], "num_wires": 1, "shots": 4, "seed": 1}}


class AsyncFace:
    """Lets a blocking client be awaited."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getitem__(self, name: str) -> "AsyncFace":
        return AsyncFace(self._inner[name])

    def find(self, query: dict[str, Any]) -> "AsyncFace":
        return AsyncFace(self._inner.find(query))

    def sort(self, field: str) -> "AsyncFace":
        return AsyncFace(self._inner.sort(field))

    def limit(self, count: int) -> "AsyncFace":
        return AsyncFace(self._inner.limit(count))

    async def to_list(self) -> list[dict[str, Any]]:
        with LOCK:
            found = list(self._inner)
        await asyncio.sleep(0)
        return found

    async def list_collection_names(self) -> list[str]:
        with LOCK:
            names: list[str] = self._inner.list_collection_names()
        return names


@pytest.fixture
def old() -> Any:
    """The databases of an installation, to be filled."""
    return mongomock.MongoClient()


@pytest.fixture
def installation(old: Any) -> ExistingInstallation:
    return ExistingInstallation(AsyncFace(old))


def status(job_id: ObjectId, words: str) -> dict[str, Any]:
    return {
        "_id": job_id,
        "job_id": str(job_id),
        "status": words,
        "detail": "Got your json.",
        "error_message": "None",
    }


def signed(payload: dict[str, Any], signature: Any = "c2ln") -> dict[str, Any]:
    header = {"alg": "EdDSA", "kid": "k1", "typ": "JWS", "version": "0.1"}
    return {"header": header, "payload": payload, "signature": signature}


async def jobs_of(installation: ExistingInstallation, place: str, after: str = "") -> list[ExistingJob]:
    return [job async for job in installation.jobs(place, after)]


async def test_configs_are_found_plain_or_signed(old: Any, installation: ExistingInstallation) -> None:
    """A config has its backend's name at the top or in its payload; dates and bytes become text."""
    asked = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    old["backends"]["configs"].insert_one({**CONFIG, "last_queue_check": asked})
    old["backends"]["configs"].insert_one(signed({**CONFIG, "display_name": "multiqudit"}, b"sig"))

    multi, single = await installation.backends()

    assert (multi.name, single.name) == ("multiqudit", "singlequdit")
    assert b'"last_queue_check":"2024-05-06T07:08:09' in single.config
    assert single.config == single.document
    assert b'"num_wires":1' in multi.config
    assert b'"signature":"c2ln"' in multi.document


async def test_config_without_a_name_is_corrupt(old: Any, installation: ExistingInstallation) -> None:
    """A config that says not whose it is can't be imported."""
    old["backends"]["configs"].insert_one({"version": "0.1.0"})

    with pytest.raises(Corrupt, match="display_name"):
        await installation.backends()


async def test_public_keys_are_found(old: Any, installation: ExistingInstallation) -> None:
    """Public keys come by their id."""
    old["backends"]["public_keys"].insert_many([{"kid": "k2", "x": "b"}, {"kid": "k1", "x": "a"}])

    keys = await installation.public_keys()

    assert [(key.kid, key.document) for key in keys] == [
        ("k1", b'{"kid":"k1","x":"a"}'),
        ("k2", b'{"kid":"k2","x":"b"}'),
    ]


async def test_jobs_come_with_what_belongs_to_them(old: Any, installation: ExistingInstallation) -> None:
    """Each place's jobs come with id, backend, content, status and result; a content has no id in it."""
    ids = {place: ObjectId() for place in PLACES}
    old["jobs"]["queued.singlequdit"].insert_one({"_id": ids["queued"], **JOB})
    old["jobs"]["running"].insert_one({"_id": ids["running"], **JOB})
    old["jobs"]["finished.singlequdit"].insert_one({"_id": ids["finished"], **JOB})
    old["jobs"]["deleted"].insert_one({"_id": ids["deleted"], **JOB})
    words = {"queued": "INITIALIZING", "running": "INITIALIZING", "finished": "DONE", "deleted": "ERROR"}
    for place, job_id in ids.items():
        old["status"]["singlequdit"].insert_one(status(job_id, words[place]))
    result = {"job_id": str(ids["finished"]), "success": True}
    old["results"]["singlequdit"].insert_one({"_id": ids["finished"], **signed(result)})

    for place in PLACES:
        [job] = await jobs_of(installation, place)

        assert (job.key, job.place) == (JobKey("singlequdit", str(ids[place])), place)
        assert job.said == words[place]
        assert job.content.startswith(b'{"experiment_0":{"instructions":[["rlx",[0],[0.7]]]')
        assert job.status is not None
        assert (job.result is not None) == (place == "finished")


async def test_job_without_a_status_has_no_backend(old: Any, installation: ExistingInstallation) -> None:
    """A running job of which nothing tells the backend is returned all the same."""
    old["status"]["singlequdit"].insert_one(status(ObjectId(), "DONE"))
    old["jobs"]["running"].insert_one({"_id": ObjectId(), **JOB})

    [job] = await jobs_of(installation, "running")

    assert (job.key.backend, job.said, job.status) == ("", "", None)


async def test_reading_goes_on_after_the_last_id(
    old: Any, installation: ExistingInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs come by id in portions, and an interrupted reading goes on where it was."""
    monkeypatch.setattr(existing, "_PAGE", 3)
    ids = sorted(ObjectId() for _ in range(10))
    for job_id in reversed(ids):
        old["jobs"]["finished.singlequdit"].insert_one({"_id": job_id, **JOB})

    everything = [job.key.id for job in await jobs_of(installation, "finished")]
    rest = [job.key.id for job in await jobs_of(installation, "finished", str(ids[5]))]

    assert everything == [str(job_id) for job_id in ids]
    assert rest == everything[6:]


async def test_installation_that_does_not_answer_is_unavailable() -> None:
    """The driver's errors are ours."""

    class Dead:
        def __getitem__(self, name: str) -> "Dead":
            return self

        async def list_collection_names(self) -> list[str]:
            raise ServerSelectionTimeoutError("no")

    with pytest.raises(Unavailable):
        await jobs_of(ExistingInstallation(Dead()), "queued")
