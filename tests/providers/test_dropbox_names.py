"""Ids that are an order, and paths that nobody can leave."""

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dropbox_emulator.scene import names

START = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
LAYOUT = names.Layout()

clocks = st.lists(st.timedeltas(timedelta(seconds=-3), timedelta(seconds=3)), min_size=1, max_size=60)


@settings(max_examples=50)
@given(clocks)
def test_ids_sort_in_order_of_submission(steps: list[timedelta]) -> None:
    """However the clock jumps, ids never repeat and sort as they were given, and so do ranks."""
    numbering, now = names.Numbering(), START
    seqs = []
    for step in steps:
        now += step
        seqs.append(numbering.next(now))
    ids = [names.id_of(seq, "singlequdit", "user-1") for seq in seqs]

    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    assert sorted(seqs) == seqs
    ranks = [names.rank_of(seq) for seq in seqs]
    assert sorted(ranks) == ranks
    assert [names.seq_of_id(one, START) for one in ids] == seqs


def test_one_moment_has_room_for_all() -> None:
    """A clock that stands still gives ids that go on, over the second's end too."""
    numbering = names.Numbering(names.Numbering().next(START) + 850_000)
    seqs = [numbering.next(START) for _ in range(100_000)]

    assert all(one < later for one, later in itertools.pairwise(seqs))
    for seq in (seqs[0], seqs[-1]):
        assert names.seq_of_id(names.id_of(seq, "b", "u"), START) == seq


def test_rank_is_that_of_the_rules() -> None:
    """The rank that a name stands for is the one that `rules.admit` makes of its time."""
    numbering = names.Numbering()
    for ms in range(0, 5000, 7):
        seq = numbering.next(START + timedelta(milliseconds=ms))
        assert int(names.time_of(seq).timestamp() * 1000) == names.rank_of(seq)


@pytest.mark.parametrize(
    "job_id",
    ["20210906_203730-singlequdit-user_1-1088f", "20210906_203730-singlequdit-a-b-c-00000"],
)
def test_todays_ids_tell_their_user(job_id: str) -> None:
    """A user's name may hold dashes."""
    assert names.user_of_id(job_id) == job_id.split("-", 2)[2].rsplit("-", 1)[0]


@pytest.mark.parametrize("job_id", ["20219999_999999-b-u-1088f", "60b8d7f2e4a5c3d1f0a9b8c7", "x"])
def test_other_ids_go_by_their_files_time(job_id: str) -> None:
    """An id that names no moment has the place that its file's time gives it."""
    assert names.seq_of_id(job_id, START) >> 20 == int(START.timestamp())


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_no_owner_leaves_the_folders(owner: str) -> None:
    """Whatever an owner is called, the name of the folder is one name, and safe."""
    folder = names.user_folder(owner)

    assert folder
    assert not set(folder) & set("/\\\0\n")
    assert folder.strip(". ") == folder
    assert folder == owner or folder.startswith("user-")


@pytest.mark.parametrize(
    "path",
    [
        "/Backend_files/Queued_Jobs/singlequdit/job-../../x.json",
        "/Backend_files/Queued_Jobs/single qudit/job-x.json",
        "/Backend_files/Queued_Jobs/singlequdit/job-x.txt",
        "/Backend_files/Queued_Jobs/singlequdit/x.json",
        "/Backend_files/Queued_Jobs/job-x.json",
        "/Backend_files/Config/singlequdit/other.json",
        "/Elsewhere/Queued_Jobs/singlequdit/job-x.json",
        "/Backend_files",
    ],
)
def test_other_files_are_none_of_ours(path: str) -> None:
    """What is not named as today's systems name it is left alone."""
    assert LAYOUT.parse(path) is None


def test_folders_ignore_case_and_ids_keep_theirs() -> None:
    """Dropbox may tell a folder in another case; an id is as its file's name has it."""
    job_id = "20210906_203730-singlequdit-Bob-1088f"
    found = LAYOUT.parse(f"/backend_files/QUEUED_jobs/SingleQudit/job-{job_id}.json")

    assert found is not None
    assert (found.backend, found.id) == ("singlequdit", job_id)
    assert found.place is names.Place.QUEUED
