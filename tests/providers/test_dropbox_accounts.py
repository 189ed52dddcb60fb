"""Accounts that other programs use: taken over in place, and shared with today's clients and spoolers."""

import asyncio
import itertools
import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance import ManualClock, Scene
from spoolway_providers.conformance.scene import CONTENT, session, token_of
from spoolway_providers.errors import LoginRefused, Unavailable
from spoolway_providers.interface import Change, Query
from spoolway_providers.model import Job, JobKey, Policy, Reason, State
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    Fault,
    PathConflict,
    make_account,
    make_provider,
    opened,
    staged_scene,
    until,
)

FILES = "/Backend_files"
CONFIG = '{"display_name": "singlequdit", "num_wires": 1}'
JOB = '{"experiment_0": {"instructions": [["measure", [0], []]], "num_wires": 1, "shots": 4}}'
CONFIG_PATH = f"{FILES}/Config/singlequdit/config.json"
RESULT = '{"display_name": "singlequdit", "success": true, "results": []}'


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


def status(
    job_id: str, word: str = "INITIALIZING", detail: str = "Got your json.", error: str = "None"
) -> str:
    """A status as today's systems write it."""
    document = {"job_id": job_id, "status": word, "detail": detail, "error_message": error}
    return json.dumps(document)


def queued_files(job_id: str, user: str, *, status_user: str = "") -> dict[str, str]:
    """What a client of today's systems writes."""
    return {
        f"{FILES}/Status/singlequdit/{status_user or user}/status-{job_id}.json": status(job_id),
        f"{FILES}/Queued_Jobs/singlequdit/job-{job_id}.json": JOB,
    }


def many_queued(seconds: range) -> dict[str, str]:
    """One job a second."""
    return {path: text for n in seconds for path, text in queued_files(id_of(n, "aaaaa"), "x").items()}


def id_of(second: int, digits: str, user: str = "user_1") -> str:
    return f"20210906_2037{second:02}-singlequdit-{user}-{digits}"


def key(job_id: str) -> JobKey:
    return JobKey("singlequdit", job_id)


async def session_of(provider: DropboxProvider) -> Scene:
    """A session on a backend that is there already."""
    scene = Scene(provider)
    await provider.open_session(session(scene.session_id))
    return scene


async def test_existing_account_is_adopted_in_place(account: DropboxAccount) -> None:
    """Jobs of today's systems are jobs of ours: each in the state that its folder and status tell."""
    queued = [id_of(30, "1088f"), id_of(31, "0ffff", "a-b"), id_of(32, "00000")]
    running, finished, failed = id_of(10, "11111"), id_of(5, "22222"), id_of(6, "33333")
    account.put(
        {
            CONFIG_PATH: CONFIG,
            **queued_files(queued[1], "a-b"),
            **queued_files(queued[2], "user_1", status_user="None"),
            **queued_files(queued[0], "user_1"),
            f"{FILES}/Running_Jobs/job-{running}.json": JOB,
            f"{FILES}/Status/singlequdit/user_1/status-{running}.json": status(running),
            f"{FILES}/Finished_Jobs/singlequdit/user_1/job-{finished}.json": JOB,
            f"{FILES}/Status/singlequdit/user_1/status-{finished}.json": status(finished, "DONE"),
            f"{FILES}/Result/singlequdit/user_1/result-{finished}.json": RESULT,
            f"{FILES}/Deleted_Jobs/job-{failed}.json": JOB,
            f"{FILES}/Status/singlequdit/user_1/status-{failed}.json": status(failed, "ERROR", error="bad"),
            f"{FILES}/Queued_Jobs/singlequdit/readme.txt": "hello",
            f"{FILES}/public_keys/k.json": "{}",
        }
    )
    before = account.tree(FILES)
    async with opened(account) as provider:
        [backend] = await provider.backends()
        jobs = {job.key.id: job for job in (await provider.find(Query())).jobs}
        done, error, held = jobs[finished], jobs[failed], jobs[running]

        assert backend.config == CONFIG.encode()
        assert set(jobs) == {*queued, running, finished, failed}
        assert {jobs[one].state for one in queued} == {State.QUEUED}
        assert jobs[queued[1]].owner == "a-b"
        assert (held.state, held.reason) == (State.HELD, Reason.IMPORTED)
        assert (done.state, error.state) == (State.DONE, State.ERROR)
        assert error.error is not None
        assert error.error.message == "bad"
        assert done.result is not None
        assert await provider.read_blob(done.result) == RESULT.encode()
        assert done.content.sha256 == sha256(JOB.encode()).hexdigest()
        assert account.tree(FILES) == before

        scene = await session_of(provider)
        assert [job.key.id for job in await scene.claim(5)] == queued


async def test_adopted_job_goes_its_way_where_its_readers_look(account: DropboxAccount) -> None:
    """A job whose status lies under `None` keeps it there: its client reads DONE, and finds its result."""
    job_id = id_of(30, "1088f")
    path = f"{FILES}/Status/singlequdit/None/status-{job_id}.json"
    account.put(
        {
            CONFIG_PATH: CONFIG,
            **queued_files(job_id, "user_1", status_user="None"),
        }
    )
    async with opened(account) as provider:
        scene = await session_of(provider)
        running = await scene.claim_and_accept()
        while_running = json.loads(account.tree(path)[path])
        await scene.complete(running, RESULT.encode())
        await until(lambda: account.tree(f"{FILES}/Finished_Jobs"))
    tree = account.tree(FILES)

    assert (while_running["status"], while_running["state"]) == ("QUEUED", "RUNNING")
    assert json.loads(tree[path])["status"] == "DONE"
    assert tree[f"{FILES}/Result/singlequdit/user_1/result-{job_id}.json"] == RESULT
    assert tree[f"{FILES}/Finished_Jobs/singlequdit/user_1/job-{job_id}.json"] == JOB
    assert [path for path in tree if "/Status/" in path] == [path]


async def test_adopted_jobs_are_adopted_once(account: DropboxAccount) -> None:
    """What was adopted, and changed, is read back by the next owner as it was left."""
    account.put({CONFIG_PATH: CONFIG, **queued_files(id_of(30, "1088f"), "user_1")})
    async with opened(account) as provider:
        scene = await session_of(provider)
        running = await scene.claim_and_accept()
    async with opened(account) as provider:
        assert (await provider.find(Query())).jobs == [running]


async def test_dropped_job_is_found_and_claimed(account: DropboxAccount) -> None:
    """A file that a client of today drops while we run wakes, and is claimed in its turn."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await provider.wait(timedelta(0))
        waiting = asyncio.create_task(provider.wait(timedelta(seconds=10)))
        job_id = id_of(30, "1088f")
        account.put(queued_files(job_id, "user_1"))
        hints = await waiting
        [claimed] = await until(scene.claim)

        assert hints is not None
        assert (claimed.key, claimed.owner) == (key(job_id), "user_1")


async def test_dropped_job_is_found_after_a_reset_cursor(account: DropboxAccount) -> None:
    """A cursor that Dropbox has invalidated is replaced, and nothing is missed or lost."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        ours = await scene.submit()
        await asyncio.sleep(0.2)
        account.control(reset_cursors=True)
        account.put(queued_files(id_of(30, "1088f"), "user_1"))

        await until(lambda: provider.count(Query(owner="user_1")))
        assert (await provider.get(ours.key)) == ours
        assert len(await scene.claim(5)) == 2


async def test_spooler_of_today_takes_a_job(account: DropboxAccount) -> None:
    """A queued job that a spooler of today's systems moves is its: ended by its own result and status."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        await asyncio.sleep(0.2)
        name = f"job-{job.key.id}.json"
        running = f"{FILES}/Running_Jobs/{name}"
        account.move({f"{FILES}/Queued_Jobs/singlequdit/{name}": running})
        await until(lambda: provider.count(Query(states=(State.RUNNING,))))
        taken = await provider.get(job.key)
        nothing = await scene.claim()
        await asyncio.sleep(0.2)
        account.put({f"{FILES}/Result/singlequdit/alice/result-{job.key.id}.json": RESULT})
        account.put(
            {f"{FILES}/Status/singlequdit/alice/status-{job.key.id}.json": status(job.key.id, "DONE")}
        )
        account.move({running: f"{FILES}/Finished_Jobs/singlequdit/alice/{name}"})
        await until(lambda: provider.count(Query(states=(State.DONE,))))
        done = await provider.get(job.key)

        assert (taken.state, taken.reason, taken.holder) == (State.RUNNING, Reason.FOREIGN, None)
        assert nothing == []
        assert done.result is not None
        assert await provider.read_blob(done.result) == RESULT.encode()
        # Our record is back beside its words.
        await until(lambda: "spoolway" in "".join(account.tree(f"{FILES}/Status").values()))


async def test_policy_counts_for_what_other_programs_do(account: DropboxAccount) -> None:
    """A job of theirs is taken back after foreign_claim_timeout, and kept for the retention at its end."""
    hour, day = timedelta(hours=1), timedelta(days=1)
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await scene.set_policy(foreign_claim_timeout=hour, retention=day)
        first, second = await scene.submit(), await scene.submit()
        await asyncio.sleep(0.2)
        names = [f"job-{job.key.id}.json" for job in (first, second)]
        queue, running = f"{FILES}/Queued_Jobs/singlequdit", f"{FILES}/Running_Jobs"
        account.move({f"{queue}/{name}": f"{running}/{name}" for name in names})
        await until(lambda: both_are(provider, State.RUNNING))
        taken, ended = await provider.get(first.key), await provider.get(second.key)
        assert taken.due_at == taken.updated_at + hour

        due = rules.decide(taken, rules.Due(), taken.updated_at + hour, Policy(foreign_claim_timeout=hour))
        assert isinstance(due, Job)
        await provider.commit([Change(due, taken.revision)])
        await until(lambda: f"{queue}/{names[0]}" in account.tree(queue))
        assert [job.key for job in await scene.claim()] == [first.key]

        path = f"{FILES}/Status/singlequdit/alice/status-{ended.key.id}.json"
        account.put({path: status(ended.key.id, "ERROR", error="noise")})
        await until(lambda: provider.count(Query(states=(State.ERROR,))))
        ended = await provider.get(second.key)
        assert ended.due_at == ended.updated_at + day


async def both_are(provider: DropboxProvider, state: State) -> bool:
    return await provider.count(Query(states=(state,))) == 2


async def test_other_program_does_not_end_what_a_session_holds(account: DropboxAccount) -> None:
    """A status that says DONE of a job that our spooler runs ends nothing; our record is written again."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        running = await scene.claim_and_accept()
        path = next(iter(account.tree(f"{FILES}/Status")))
        account.put({f"{FILES}/Result/singlequdit/alice/result-{running.key.id}.json": RESULT})
        account.put({path: status(running.key.id, "DONE")})
        await until(lambda: "spoolway" in account.tree(path)[path])

        assert await provider.get(running.key) == running
        assert (await scene.complete(running)).state is State.DONE


async def test_status_that_another_program_overwrites_is_no_loss(account: DropboxAccount) -> None:
    """A running job whose status somebody overwrites goes on, and its record is written again."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        running = await scene.claim_and_accept()
        path = next(iter(account.tree(f"{FILES}/Status")))
        account.put({path: status(running.key.id, "QUEUED")})

        done = await scene.complete(running)

        assert done.state is State.DONE
        assert json.loads(account.tree(path)[path])["status"] == "DONE"


async def test_removed_file_ends_its_job_only(account: DropboxAccount) -> None:
    """A job whose file somebody removes from the queue is an error of its own; the next one is claimed."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        first, second = await scene.submit(), await scene.submit()
        account.delete([f"{FILES}/Queued_Jobs/singlequdit/job-{first.key.id}.json"])

        claimed = await scene.claim()
        gone = await provider.get(first.key)

        assert [job.key for job in claimed] == [second.key]
        assert gone.state is State.ERROR
        assert gone.error is not None
        assert gone.error.reason == "FILE_LOST"


async def test_changed_file_ends_its_job_only(account: DropboxAccount) -> None:
    """A job whose content is not what was submitted runs nowhere, and keeps nobody waiting."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        first, second = await scene.submit(), await scene.submit()
    account.put({f"{FILES}/Queued_Jobs/singlequdit/job-{first.key.id}.json": "[]"})
    async with opened(account) as provider:
        scene = await staged_scene(provider)

        assert [job.key for job in await scene.claim()] == [second.key]
        assert (await provider.get(first.key)).state is State.ERROR


async def test_config_of_another_program_is_followed(account: DropboxAccount) -> None:
    """A backend that a spooler of today registers while we run is a backend of ours, and keeps its policy."""
    async with opened(account) as provider:
        await staged_scene(provider)
        await provider.put_policy("singlequdit", Policy(max_queued=7), None)
        await asyncio.sleep(0.2)
        account.put({CONFIG_PATH: CONFIG, f"{FILES}/Config/other/config.json": "{}"})
        await until(lambda: _knows(provider, "other", "{}"))
        await until(lambda: _knows(provider, "singlequdit", CONFIG))
        by_name = {backend.name: backend for backend in await provider.backends()}

    assert by_name["singlequdit"].config == CONFIG.encode()
    assert by_name["singlequdit"].policy == Policy(max_queued=7)


async def _knows(provider: DropboxProvider, name: str, config: str) -> bool:
    return (name, config.encode()) in {(one.name, one.config) for one in await provider.backends()}


async def test_f10_nothing_that_is_there_is_replaced(account: DropboxAccount) -> None:
    """A job whose name another program has used meanwhile leaves that file alone, and is told so."""
    clock = ManualClock(datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))
    async with opened(account, clock=clock) as provider:
        scene = await staged_scene(provider)
        first = await scene.submit()
        stem, digits = first.key.id[:-5], int(first.key.id[-5:], 16)
        files = {f"{FILES}/Queued_Jobs/singlequdit/job-{stem}{digits + 1:05x}.json": '{"by": "another"}'}
        account.put(files)

        refused = await _outcome(scene)
        second = await scene.submit()
        tree = account.tree(FILES)

    assert isinstance(refused, Unavailable)
    assert {path: tree[path] for path in files} == files
    assert tree[f"{FILES}/Queued_Jobs/singlequdit/job-{second.key.id}.json"] == CONTENT.decode()


async def _outcome(scene: Scene) -> object:
    try:
        return await scene.answer()
    except Unavailable as error:
        return error


async def test_f10_same_content_is_no_excuse(account: DropboxAccount) -> None:
    """Two that write the same words to one name are two all the same, and a file that is gone stays gone."""
    async with opened(account) as provider:
        assert provider._office is not None
        writer = provider._office.tenure.writer
        first = await writer.put("/spoolway/x.json", b"1", "add")
        with pytest.raises(PathConflict):
            await writer.put("/spoolway/x.json", b"1", "add")
        account.delete(["/spoolway/x.json"])
        with pytest.raises(PathConflict):
            await writer.put("/spoolway/x.json", b"2", first.rev)

    assert "/spoolway/x.json" not in account.tree()


async def test_f10_two_results_of_one_job_are_one(account: DropboxAccount) -> None:
    """A result that a lost attempt left behind is replaced by its rev, and only together with its commit."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        await scene.submit()
        running = await scene.claim_and_accept()
        path = f"{FILES}/Result/singlequdit/alice/result-{running.key.id}.json"
        account.put({path: '{"of": "an earlier attempt"}'})

        done = await scene.complete(running, RESULT.encode())

        assert done.result is not None
        assert await provider.read_blob(done.result) == RESULT.encode()
        assert account.tree(path)[path] == RESULT


async def test_f19_every_page_is_read(account: DropboxAccount) -> None:
    """A listing of many pages, in no order, is read to its end: all jobs are there, in their order."""
    account.set(page_size=7)
    ids = [id_of(second, f"{second:05x}") for second in range(40)]
    files = {CONFIG_PATH: CONFIG}
    for job_id in ids:
        files |= queued_files(job_id, "user_1")
    account.put(files)
    async with opened(account) as provider:
        scene = await session_of(provider)
        claimed = [job.key.id for _ in range(5) for job in await scene.claim(8)]
        account.put(
            {path: text for n in range(40, 60) for path, text in queued_files(id_of(n, "aaaaa"), "x").items()}
        )
        await until(lambda: _has(provider, 60))

    assert claimed == ids


async def test_waiting_jobs_are_counted_by_their_names(account: DropboxAccount) -> None:
    """How many jobs wait is known from the listing, before any of a large account has been read."""
    account.put({CONFIG_PATH: CONFIG, **many_queued(range(30))})
    account.set(latency_s=0.1)
    async with opened(account) as provider:
        query = Query(backend="singlequdit", states=(State.QUEUED, State.HELD))
        account.calls(forget=True)
        assert await provider.count(query) == 30
        assert account.calls()["files/download"] < 30
        account.set(latency_s=0.0)
        await until(lambda: _has(provider, 30))
        assert await provider.count(query) == 30


async def _has(provider: DropboxProvider, number: int) -> bool:
    return await provider.count(Query()) == number


async def test_f19_error_is_no_empty_queue(account: DropboxAccount) -> None:
    """An account that can't be listed is an error, no empty queue; a page that fails is asked for again."""
    account.set(page_size=5)
    account.put(many_queued(range(9)))
    account.put({CONFIG_PATH: CONFIG})
    account.fail(Fault.SERVER_ERROR, "files/list_folder", times=-1)
    provider = make_provider(account, patience_s=0.05)
    with pytest.raises(Unavailable):
        await provider.open()
    with pytest.raises(Unavailable):
        await provider.claim("singlequdit", [])
    account.heal()
    account.fail(Fault.ANSWER_TORN, "files/list_folder/continue", skip=1)
    await provider.open()

    assert await provider.count(Query()) == 9
    await provider.close()


async def test_f19_bad_login_is_an_error_of_its_storage(account: DropboxAccount) -> None:
    """A login that Dropbox refuses raises LoginRefused, each time; put right, the account opens."""
    provider = make_provider(account)
    account.set(app_secret="another")
    for _ in range(2):
        with pytest.raises(LoginRefused):
            await provider.open()
    account.set(app_secret="secret")
    await provider.open()
    await provider.close()


async def test_status_keeps_the_words_of_its_readers(account: DropboxAccount) -> None:
    """All along a job's way its status has four strings that today's readers know, and grows."""
    words: list[dict[str, str]] = []
    async with opened(account) as provider:
        scene = await staged_scene(provider)

        def look() -> None:
            [text] = account.tree(f"{FILES}/Status").values()
            words.append(json.loads(text))

        await scene.submit()
        look()
        running = await scene.claim_and_accept()
        look()
        failed = await scene.do(running, rules.Fail(token_of(running), "no vacuum"))
        look()
        assert isinstance(failed, Job)

    assert [one["status"] for one in words] == ["INITIALIZING", "QUEUED", "ERROR"]
    assert [one["error_message"] for one in words] == ["None", "None", "no vacuum"]
    assert all(later["detail"].startswith(earlier["detail"]) for earlier, later in itertools.pairwise(words))
    assert list(account.tree(f"{FILES}/Deleted_Jobs")) == [f"{FILES}/Deleted_Jobs/job-{failed.key.id}.json"]
