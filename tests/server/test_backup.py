"""A storage backed up while its server works, and restored as docs/operations.md says."""

import sqlite3
from contextlib import closing
from pathlib import Path

from spoolway_server.app import SpoolwayServer
from spoolway_server.clock import Clock
from spoolway_server.config import Config
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import Lab, state_of


async def start(path: Path) -> Lab:
    settings = {
        "server": {"port": 0, "drain_pause_s": 0, "drain_grace_s": 1},
        "storages": {"main": {"type": "sqlite", "path": str(path)}},
    }
    clock = Clock()
    server = SpoolwayServer(Config.model_validate(settings), clock=clock)
    await server.start()
    return Lab(server, clock)


async def test_a_backup_beside_a_working_server_brings_its_jobs_back(tmp_path: Path) -> None:
    """Waiting, running and ended jobs are there; the running one is finished by the spooler that holds it."""
    path = tmp_path / "main.sqlite"
    lab = await start(path)
    await lab.caller("robot").register("sim")
    alice = lab.caller("alice")
    done, running, waiting = [(await alice.submit()).name for _ in range(3)]
    spooler = FakeSpooler(lab, "lab-1")
    await spooler.connect()
    await spooler.credit(1)
    await spooler.complete(await spooler.take(), b'{"r": 7}')
    one = await spooler.take()
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        source.backup(copy)
    await alice.submit()
    await lab.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    (tmp_path / "copy").replace(path)

    restored = await start(path)
    try:
        alice = restored.caller("alice")
        jobs = {job.name: state_of(job) for job in await alice.all_jobs()}
        again = FakeSpooler(restored, "lab-1")
        kept = (await again.connect(held=[{"job": one.job, "lease_token": one.lease_token}])).kept
        confirm = await again.complete(one)
        ended = await alice.job(running)
    finally:
        await restored.close()

    assert jobs == {done: "DONE", running: "RUNNING", waiting: "QUEUED"}
    assert list(kept) == [running]
    assert not confirm.HasField("error")
    assert state_of(ended) == "DONE"
