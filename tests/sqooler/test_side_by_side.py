"""A stock sqooler spooler with its own local provider, on the folder that our server serves."""

from pathlib import Path
from typing import Any

from sqooler.security import create_jwk_pair

from spoolway import JobState, NotFoundError, SyncJobClient
from spoolway.sqooler import SpoolwayStorageProvider
from tests.sqooler.jobs import job, submit, until, wait_for_backends


def is_known(client: SyncJobClient, backend: str) -> bool:
    try:
        client.backend(backend)
    except NotFoundError:
        return False
    return True


def test_a_stock_spooler_finishes_200_jobs(serving: Any, lab: Any, tmp_path: Path) -> None:
    """Jobs submitted over gRPC are run by it, and what became of them is seen in GetStatus and GetResult."""
    folder = tmp_path / "lab"
    server = serving(type="local", base_path=str(folder), stock_spoolers="alpha")
    with SyncJobClient(server.address, user="ada") as client:
        stock = lab("--folder", str(folder), "alpha")
        until(lambda: is_known(client, "alpha"), "the stock spooler's config is not taken up")
        contents = [
            job(tag, boom=2 if tag % 10 == 3 else -1, wire=7 if tag % 10 == 6 else 0) for tag in range(200)
        ]

        jobs = submit(client, "alpha", contents)
        snapshots = [handle.wait(120) for handle in jobs]

        provider = SpoolwayStorageProvider(server.address, user="ada")
        for tag, (handle, snapshot) in enumerate(zip(jobs, snapshots, strict=True)):
            status = provider.get_status("alpha", "ada", handle.id)
            assert status.job_id == handle.id
            if tag % 10 in {3, 6}:
                assert (snapshot.state, status.status) == (JobState.ERROR, "ERROR")
            else:
                assert (snapshot.state, status.status) == (JobState.DONE, "DONE")
                assert handle.result()["results"][0]["data"]["memory"] == [str(tag)] * 2
        assert stock.starts >= 1


def test_what_a_stock_spooler_signs_is_verified(serving: Any, lab: Any, tmp_path: Path) -> None:
    """By the key that it left in the folder."""
    folder = tmp_path / "lab"
    private, _ = create_jwk_pair("lab-7")
    server = serving(type="local", base_path=str(folder), stock_spoolers="alpha")
    with SyncJobClient(server.address, user="ada") as client:
        lab("--folder", str(folder), "alpha", "--sign", PRIVATE_JWK_STR=private.to_config_str())
        until(lambda: is_known(client, "alpha"), "the stock spooler's config is not taken up")

        handle = submit(client, "alpha", [job(5)])[0]

        assert handle.result(60, verify=True)["results"][0]["data"]["memory"] == ["5", "5"]


def test_old_and_new_spooler_share_a_backend(serving: Any, lab: Any, tmp_path: Path) -> None:
    """A stock spooler on the folder and one over the bridge: each job is run by one of them."""
    folder = tmp_path / "lab"
    server = serving(type="local", base_path=str(folder), stock_spoolers="alpha")
    with SyncJobClient(server.address, user="ada") as client:
        lab("--folder", str(folder), "alpha", wait_s=0.02)
        until(lambda: is_known(client, "alpha"), "the stock spooler's config is not taken up")
        lab(server.address, "alpha", wait_s=0.02)
        wait_for_backends(client, "alpha")

        jobs = submit(client, "alpha", [job(tag, seconds=0.02) for tag in range(100)])
        snapshots = [handle.wait(120) for handle in jobs]

        for tag, (handle, snapshot) in enumerate(zip(jobs, snapshots, strict=True)):
            assert snapshot.state is JobState.DONE, snapshot.error
            assert handle.result()["results"][0]["data"]["memory"] == [str(tag)] * 2
        spoolers = [snapshot.attempts[-1].spooler for snapshot in snapshots if snapshot.attempts]
        assert 0 < sum("alpha@" in spooler for spooler in spoolers) < 100


def test_a_stock_spooler_on_a_dropbox_account_finishes_what_it_takes(
    serving: Any, lab: Any, dropbox_account: Any
) -> None:
    """Jobs submitted over gRPC are run by it, and what became of them is seen in GetStatus and GetResult."""
    server = serving(type="dropbox", **dropbox_account.login)
    with SyncJobClient(server.address, user="ada") as client:
        lab("--dropbox", dropbox_account.refresh_token, "alpha")
        until(lambda: is_known(client, "alpha"), "the stock spooler's config is not taken up")

        # One that goes well comes first: sqooler's loop dies, job in hand, if its very first one raises.
        jobs = submit(client, "alpha", [job(0)])
        jobs[0].wait(60)
        jobs += submit(client, "alpha", [job(tag, boom=2 if tag == 7 else -1) for tag in range(1, 10)])
        states = [handle.wait(60).state for handle in jobs]

        assert states == [JobState.ERROR if tag == 7 else JobState.DONE for tag in range(10)]
        assert jobs[3].result()["results"][0]["data"]["memory"] == ["3", "3"]


def test_a_stock_spooler_on_a_dropbox_account_works_while_no_server_does(
    serving: Any, lab: Any, dropbox_account: Any
) -> None:
    """What it took and ended after the server was killed is taken up, with its text, when one is started."""
    server = serving(type="dropbox", stock_spoolers="alpha", **dropbox_account.login)
    with SyncJobClient(server.address, user="ada") as client:
        lab("--dropbox", dropbox_account.refresh_token, "alpha")
        until(lambda: is_known(client, "alpha"), "the stock spooler's config is not taken up")
        # One that goes well comes first, as above.
        jobs = submit(client, "alpha", [job(0)])
        jobs[0].wait(60)
        jobs += submit(client, "alpha", [job(tag, boom=2 if tag == 2 else -1) for tag in range(1, 5)])
        server.kill()

        def is_idle() -> bool:
            folders = ("Queued_Jobs", "Running_Jobs")
            return not any(dropbox_account.tree(f"/Backend_files/{folder}/") for folder in folders)

        until(is_idle, "the stock spooler does not go on")
        server.start()
        snapshots = [handle.wait(90) for handle in jobs]

        assert [one.state for one in snapshots] == [
            JobState.ERROR if tag == 2 else JobState.DONE for tag in range(5)
        ]
        assert "Traceback" in str(snapshots[2].error)
        assert jobs[3].result()["results"][0]["data"]["memory"] == ["3", "3"]
