"""Spoolers of today's systems on the account: what they take is theirs, and what they have ended is taken up.

Such a spooler moves a job's file to the running ones. At the end it uploads the result, moves the file to
the finished or deleted ones, and then writes the status: sqooler 0.9.0 under the user `None`.
"""

import json

import pytest

from spoolway_providers import rules
from spoolway_providers.conformance.scene import token_of
from spoolway_providers.interface import Query
from spoolway_providers.model import Job, Reason, State
from tests.dropbox_emulator.scene import (
    DropboxAccount,
    DropboxProvider,
    kill,
    make_account,
    make_provider,
    opened,
    opened_after_crash,
    staged_scene,
    until,
)

FILES = "/Backend_files"
RESULT = '{"display_name": "singlequdit", "success": true, "results": []}'
TEXT = "; no vacuum"
PLACES = {"DONE": "Finished_Jobs/singlequdit/alice", "ERROR": "Deleted_Jobs"}


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


class StockSpooler:
    """Does to the files of one job what a spooler of today's systems does."""

    def __init__(self, account: DropboxAccount, job: Job) -> None:
        self._account = account
        self._id = job.key.id
        self._name = f"job-{job.key.id}.json"

    @property
    def running(self) -> str:
        return f"{FILES}/Running_Jobs/{self._name}"

    @property
    def none_status(self) -> str:
        return f"{FILES}/Status/singlequdit/None/status-{self._id}.json"

    def take(self) -> None:
        self._account.move({f"{FILES}/Queued_Jobs/singlequdit/{self._name}": self.running})

    def move_away(self, word: str, *, result: bool = True) -> None:
        if word == "DONE" and result:
            self._account.put({f"{FILES}/Result/singlequdit/alice/result-{self._id}.json": RESULT})
        self._account.move({self.running: f"{FILES}/{PLACES[word]}/{self._name}"})

    def tell(self, word: str, user: str = "None") -> None:
        error = TEXT if word == "ERROR" else "None"
        document = {"job_id": self._id, "status": word, "detail": "Got your json.", "error_message": error}
        self._account.put({self.none_status.replace("/None/", f"/{user}/"): json.dumps(document)})

    def run(self, word: str) -> None:
        self.take()
        self.move_away(word)
        self.tell(word)


async def check_end(provider: DropboxProvider, job: Job, word: str) -> None:
    """The job has ended as the spooler said, and is still the job that was submitted."""
    ended = await provider.get(job.key)
    assert ended.state is State(word)
    assert (ended.request_id, ended.owner, ended.content) == (job.request_id, job.owner, job.content)
    if word == "DONE":
        assert ended.result is not None
        assert await provider.read_blob(ended.result) == RESULT.encode()
    else:
        assert ended.error is not None
        assert ended.error.message == TEXT


async def is_in(provider: DropboxProvider, state: State) -> bool:
    return await provider.count(Query(states=(state,))) == 1


@pytest.mark.parametrize("word", ["DONE", "ERROR"])
@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
async def test_a_job_that_ran_while_no_server_did(account: DropboxAccount, word: str, crash: bool) -> None:
    """Taken and ended between two servers, it is taken up with its text or result, and its request id."""
    first = make_provider(account)
    await first.open()
    job = await (await staged_scene(first)).submit(request_id="r-1")
    await (kill(first) if crash else first.close())
    StockSpooler(account, job).run(word)
    async with opened_after_crash(account) as second:
        scene = await staged_scene(second)
        assert await scene.claim() == []
        await second.repair()
        await check_end(second, job, word)
        assert (await scene.submit(request_id="r-1")).key == job.key
    # Our own record says so by now, where its client looks.
    path = f"{FILES}/Status/singlequdit/alice/status-{job.key.id}.json"
    assert json.loads(account.tree(path)[path])["status"] == word
    async with opened(account) as third:
        await check_end(third, job, word)


@pytest.mark.parametrize("word", ["DONE", "ERROR"])
async def test_an_end_that_is_written_over_our_record(account: DropboxAccount, word: str) -> None:
    """Other spoolers write where the job's client looks: of the job itself the index document still knows."""
    async with opened(account) as first:
        job = await (await staged_scene(first)).submit(request_id="r-1")
    spooler = StockSpooler(account, job)
    spooler.take()
    spooler.move_away(word)
    spooler.tell(word, "alice")
    async with opened(account) as second:
        await check_end(second, job, word)
    async with opened(account) as third:
        scene = await staged_scene(third)
        await check_end(third, job, word)
        assert (await scene.submit(request_id="r-1")).key == job.key


@pytest.mark.parametrize("word", ["DONE", "ERROR"])
async def test_a_job_that_was_taken_ends_while_no_server_runs(account: DropboxAccount, word: str) -> None:
    """A job known to be another's is left to it across a restart, and its end is taken up."""
    async with opened(account) as first:
        job = await (await staged_scene(first)).submit(request_id="r-1")
        spooler = StockSpooler(account, job)
        spooler.take()
        await until(lambda: is_in(first, State.RUNNING))
    spooler.move_away(word)
    spooler.tell(word)
    async with opened(account) as second:
        await check_end(second, job, word)


async def test_a_job_that_was_taken_while_no_server_ran(account: DropboxAccount) -> None:
    """After an orderly stop nothing of ours is half done: the job is the other's, and is not given away."""
    async with opened(account) as first:
        job = await (await staged_scene(first)).submit()
    spooler = StockSpooler(account, job)
    spooler.take()
    async with opened(account) as second:
        scene = await staged_scene(second)
        taken = await second.get(job.key)
        assert await second.repair() == []
        assert await scene.claim() == []
        assert spooler.running in account.tree(FILES)
        spooler.move_away("DONE")
        spooler.tell("DONE")
        await until(lambda: is_in(second, State.DONE))
        await check_end(second, job, "DONE")

    assert (taken.state, taken.reason, taken.holder) == (State.RUNNING, Reason.FOREIGN, None)


@pytest.mark.parametrize("is_stock", [True, False])
async def test_after_a_crash_the_setting_decides(account: DropboxAccount, is_stock: bool) -> None:
    """A killed server may have moved the file itself: on a backend with stock spoolers it is left to them."""
    first = make_provider(account)
    await first.open()
    job = await (await staged_scene(first)).submit()
    await kill(first)
    StockSpooler(account, job).take()
    stock = frozenset({"singlequdit"}) if is_stock else frozenset[str]()
    async with opened_after_crash(account, stock_spoolers=stock) as second:
        scene = await staged_scene(second)
        state = (await second.get(job.key)).state
        claimed = await scene.claim()

    assert state is (State.RUNNING if is_stock else State.QUEUED)
    assert len(claimed) == (0 if is_stock else 1)


async def test_with_the_setting_a_takeover_is_seen_at_once(account: DropboxAccount) -> None:
    """Without it a file that moves right after a crash may have been moved by the dead server's last call."""
    first = make_provider(account)
    await first.open()
    job = await (await staged_scene(first)).submit()
    await kill(first)
    stock = frozenset({"singlequdit"})
    async with opened_after_crash(account, stock_spoolers=stock, amnesty_s=600.0) as second:
        StockSpooler(account, job).take()
        await until(lambda: is_in(second, State.RUNNING))
        assert (await second.get(job.key)).reason is Reason.FOREIGN


async def test_an_error_comes_with_its_text(account: DropboxAccount) -> None:
    """The file moves before the status is written: the word is waited for, and nothing is moved meanwhile."""
    async with opened(account, word_after_s=600.0) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        spooler = StockSpooler(account, job)
        spooler.take()
        await until(lambda: is_in(provider, State.RUNNING))
        spooler.move_away("ERROR")
        await until(lambda: _waits_for_word(provider))
        meanwhile = await provider.get(job.key)
        spooler.tell("ERROR")
        await until(lambda: is_in(provider, State.ERROR))
        await check_end(provider, job, "ERROR")

    assert meanwhile.state is State.RUNNING
    assert len(account.tree(f"{FILES}/Deleted_Jobs")) == 1


def _waits_for_word(provider: DropboxProvider) -> bool:
    assert provider._office is not None
    return bool(provider._office.tenure.unsaid)


async def test_a_job_that_is_gone_before_anybody_looked(account: DropboxAccount) -> None:
    """Taken and moved on between two looks, a job is neither claimed nor queued again."""
    async with opened(account, word_after_s=600.0, sync_every_s=600.0) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        spooler = StockSpooler(account, job)
        spooler.take()
        spooler.move_away("ERROR")
        assert await scene.claim() == []
        assert provider._office is not None
        spooler.tell("ERROR")
        await provider._office.tree.sync()
        await check_end(provider, job, "ERROR")

    assert len(account.tree(f"{FILES}/Deleted_Jobs")) == 1


@pytest.mark.parametrize(
    ("word", "result", "state", "reason"),
    [
        ("ERROR", False, State.ERROR, "FAILED"),
        ("DONE", True, State.DONE, ""),
        ("DONE", False, State.ERROR, "RESULT_MISSING"),
    ],
)
async def test_who_never_says_a_word(
    account: DropboxAccount, word: str, result: bool, state: State, reason: str
) -> None:
    """A spooler that dies between the move and the status leaves a job that ends all the same."""
    async with opened(account, word_after_s=0.1) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        spooler = StockSpooler(account, job)
        spooler.take()
        spooler.move_away(word, result=result)
        await until(lambda: is_in(provider, state))
        ended = await provider.get(job.key)

    assert (ended.error.reason if ended.error else "") == reason


async def test_an_old_end_is_not_that_of_a_new_run(account: DropboxAccount) -> None:
    """A job that was sent to run again is not ended by what its first run left, across restarts either."""
    async with opened(account) as first:
        scene = await staged_scene(first)
        job = await scene.submit()
        StockSpooler(account, job).run("ERROR")
        await until(lambda: is_in(first, State.ERROR))
        await scene.do(await first.get(job.key), rules.Retry("alice"))
    async with opened(account) as second:
        scene = await staged_scene(second)
        running = await scene.claim_and_accept()
    async with opened(account) as third:
        scene = await staged_scene(third)
        again = await third.get(job.key)
        done = await scene.complete(again)

    assert again == running
    assert token_of(done) == token_of(running)
    assert done.state is State.DONE


async def test_a_removed_job_takes_both_statuses_along(account: DropboxAccount) -> None:
    """What a stock spooler wrote of a job goes with it."""
    async with opened(account) as provider:
        scene = await staged_scene(provider)
        job = await scene.submit()
        StockSpooler(account, job).run("DONE")
        await until(lambda: is_in(provider, State.DONE))
        ended = await provider.get(job.key)
        await provider.delete(job.key, ended.revision)

    assert account.tree(f"{FILES}/Status") == {}
    assert account.tree(f"{FILES}/Result") == {}
