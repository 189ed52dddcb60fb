"""The emulator behaves as Dropbox documents it, seen through the unmodified SDK.

Each test names where the behaviour is documented: "HTTP" is the reference of the routes
(dropbox.com/developers/documentation/http/documentation), whose words are the SDK's docstrings too;
"ingress" the data ingress guide, "performance" the performance guide, "changes" the guide to detecting
changes, "errors" the error handling guide, "OAuth" the OAuth guide, "paths" the path formats of HTTP.
"""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from tests.dropbox_emulator import DropboxAccount, Fault, make_account
from tests.dropbox_emulator.sdk import content_hash, dropbox, exceptions, files


@pytest.fixture
def account() -> DropboxAccount:
    return make_account()


@pytest.fixture
def sdk(account: DropboxAccount) -> Iterator[Any]:
    with dropbox.Dropbox(
        oauth2_refresh_token=account.refresh_token,
        app_key=account.app_key,
        app_secret=account.app_secret,
        max_retries_on_error=0,
        max_retries_on_rate_limit=0,
    ) as sdk:
        yield sdk


def put(sdk: Any, path: str, data: bytes = b"1", **options: Any) -> Any:
    return sdk.files_upload(data, path, **options)


def refusal(call: Any, *args: Any, **options: Any) -> Any:
    """The route's own error."""
    with pytest.raises(exceptions.ApiError) as caught:
        call(*args, **options)
    return caught.value.error


def names(page: Any) -> set[str]:
    return {entry.name for entry in page.entries}


class TestSigningIn:
    def test_access_token_is_refreshed_when_it_has_run_out(self, account: DropboxAccount, sdk: Any) -> None:
        """OAuth, refresh tokens: access tokens are short-lived; HTTP, errors by status: 401."""
        sdk.check_user("a")
        account.control(expire_tokens=True)

        assert sdk.check_user("b").result == "b"
        assert account.calls()["oauth2/token"] == 2

    def test_unknown_refresh_token_is_an_invalid_grant(self, sdk: Any) -> None:
        """OAuth, /oauth2/token: errors are 400 with `error`."""
        with (
            dropbox.Dropbox(oauth2_refresh_token="no", app_key="key", app_secret="secret") as other,
            pytest.raises(exceptions.AuthError),
        ):
            other.check_user("a")

    def test_wrong_app_is_an_invalid_client(self, account: DropboxAccount) -> None:
        """OAuth, /oauth2/token: `client_id` and `client_secret` are the app's."""
        with (
            dropbox.Dropbox(
                oauth2_refresh_token=account.refresh_token, app_key="key", app_secret="other"
            ) as other,
            pytest.raises(exceptions.BadInputError, match="invalid_client"),
        ):
            other.check_user("a")

    @pytest.mark.parametrize(
        ("scope", "call"),
        [
            ("files.content.write", lambda sdk: put(sdk, "/b")),
            ("files.content.write", lambda sdk: sdk.files_move_v2("/a", "/b")),
            ("files.content.write", lambda sdk: sdk.files_delete_v2("/a")),
            ("files.content.read", lambda sdk: sdk.files_download("/a")),
            ("files.metadata.read", lambda sdk: sdk.files_get_metadata("/a")),
            ("files.metadata.read", lambda sdk: sdk.files_list_folder("")),
        ],
    )
    def test_each_route_needs_its_scope(
        self, account: DropboxAccount, sdk: Any, scope: str, call: Any
    ) -> None:
        """HTTP, each route's scope; 401 names the missing one. `check/user` needs none."""
        put(sdk, "/a")
        others = {"files.content.write", "files.content.read", "files.metadata.read"} - {scope}
        account.set(scopes=sorted(others))

        sdk.check_user("a")
        with pytest.raises(exceptions.AuthError) as caught:
            call(sdk)
        assert caught.value.error.get_missing_scope().required_scope == scope


class TestUploads:
    def test_add_never_replaces(self, sdk: Any) -> None:
        """HTTP, WriteMode.add: does not overwrite; the same content again is no conflict, unless strict."""
        first = put(sdk, "/a", b"1")

        assert put(sdk, "/a", b"1").rev == first.rev
        assert refusal(put, sdk, "/a", b"2").get_path().reason.get_conflict().is_file()
        strict = refusal(put, sdk, "/a", b"1", strict_conflict=True)
        assert strict.get_path().reason.is_conflict()

    def test_overwrite_replaces(self, sdk: Any) -> None:
        """HTTP, WriteMode.overwrite."""
        first = put(sdk, "/a", b"1")
        second = put(sdk, "/a", b"2", mode=files.WriteMode.overwrite)

        assert (second.id, second.rev != first.rev) == (first.id, True)
        assert sdk.files_download("/a")[1].content == b"2"

    def test_update_needs_the_rev(self, sdk: Any) -> None:
        """HTTP, WriteMode.update and CommitInfo.strict_conflict: also if the file is gone."""
        old = put(sdk, "/a", b"1")
        new = put(sdk, "/a", b"2", mode=files.WriteMode.update(old.rev), strict_conflict=True)
        stale = files.WriteMode.update(old.rev)

        assert refusal(put, sdk, "/a", b"3", mode=stale, strict_conflict=True).get_path().reason.is_conflict()
        sdk.files_delete_v2("/a")
        gone = files.WriteMode.update(new.rev)
        assert refusal(put, sdk, "/a", b"3", mode=gone, strict_conflict=True).get_path().reason.is_conflict()

    def test_autorename_finds_a_free_name(self, sdk: Any) -> None:
        """HTTP, CommitInfo.autorename; WriteMode tells the names."""
        old = put(sdk, "/a.txt", b"1")
        put(sdk, "/a.txt", b"2", mode=files.WriteMode.update(old.rev))

        assert put(sdk, "/a.txt", b"3", autorename=True).name == "a (1).txt"
        stale = files.WriteMode.update(old.rev)
        assert put(sdk, "/a.txt", b"4", mode=stale, autorename=True).name == "a (conflicted copy).txt"

    def test_paths_ignore_case_and_make_their_folders(self, sdk: Any) -> None:
        """HTTP, paths: case-insensitive, case-preserving; parent folders are made."""
        put(sdk, "/Folder/File.json", b"1")

        assert sdk.files_get_metadata("/fOLDER/fILE.JSON").path_display == "/Folder/File.json"
        assert refusal(put, sdk, "/folder", b"1").get_path().reason.get_conflict().is_folder()
        assert (
            refusal(put, sdk, "/Folder/file.json/x", b"1").get_path().reason.get_conflict().is_file_ancestor()
        )

    def test_metadata_tell_hash_and_times(self, sdk: Any) -> None:
        """HTTP, FileMetadata; the content hash page."""
        data = bytes(range(256)) * (5 << 12)
        info = put(sdk, "/a", data, client_modified=datetime(2020, 1, 2, 3, 4, 5))

        assert info.content_hash == content_hash.content_hash(data)
        assert (info.size, info.client_modified) == (len(data), datetime(2020, 1, 2, 3, 4, 5))
        wrong = refusal(put, sdk, "/b", b"1", content_hash="0" * 64)
        assert wrong.is_content_hash_mismatch()

    def test_parts_are_downloaded(self, sdk: Any) -> None:
        """HTTP, content-download endpoints: HTTP range requests."""
        put(sdk, "/a", b"0123456789")
        _, response = sdk.clone(headers={"Range": "bytes=2-4"}).files_download("/a")

        assert (response.status_code, response.content) == (206, b"234")
        assert refusal(sdk.files_download, "/b").get_path().is_not_found()


class TestSessions:
    def test_many_files_in_few_calls(self, account: DropboxAccount, sdk: Any) -> None:
        """HTTP, upload_session/start_batch, append_batch, finish_batch_v2: an answer for each, in order."""
        put(sdk, "/b", b"old")
        sessions = sdk.files_upload_session_start_batch(3).session_ids
        entries = [
            files.UploadSessionAppendBatchArgEntry(files.UploadSessionCursor(session, 0), 2, True)
            for session in sessions
        ]
        appended = sdk.files_upload_session_append_batch(b"aabbcc", entries)
        finished = sdk.files_upload_session_finish_batch_v2(
            [
                files.UploadSessionFinishArg(
                    files.UploadSessionCursor(session, 2), files.CommitInfo(f"/{name}")
                )
                for session, name in zip(sessions, "abc", strict=True)
            ]
        )

        assert all(entry.is_success() for entry in appended.entries)
        assert [entry.is_success() for entry in finished.entries] == [True, False, True]
        assert finished.entries[1].get_failure().get_path().is_conflict()
        assert account.tree() == {"/a": "aa", "/b": "old", "/c": "cc"}

    def test_append_tells_the_right_offset(self, sdk: Any) -> None:
        """HTTP, UploadSessionLookupError: incorrect_offset, closed, not_closed, not_found."""
        session = sdk.files_upload_session_start(b"01").session_id
        cursor = files.UploadSessionCursor(session, 0)
        append = sdk.files_upload_session_append_v2
        commit = files.CommitInfo("/a")

        assert refusal(append, b"2", cursor).get_incorrect_offset().correct_offset == 2
        unfinished = files.UploadSessionFinishArg(files.UploadSessionCursor(session, 2), commit)
        [entry] = sdk.files_upload_session_finish_batch_v2([unfinished]).entries
        assert entry.get_failure().get_lookup_failed().is_not_closed()
        append(b"2", files.UploadSessionCursor(session, 2), close=True)
        assert refusal(append, b"3", files.UploadSessionCursor(session, 3)).is_closed()
        assert refusal(append, b"", files.UploadSessionCursor("no", 0)).is_not_found()
        assert sdk.files_upload_session_finish(b"", files.UploadSessionCursor(session, 3), commit).size == 3

    def test_finish_batch_takes_closed_sessions_once(self, sdk: Any) -> None:
        """HTTP, upload_session/finish_batch_v2: close must be set by the last append."""
        session = sdk.files_upload_session_start(b"01", close=True).session_id
        commit = files.CommitInfo("/a")
        argument = files.UploadSessionFinishArg(files.UploadSessionCursor(session, 2), commit)

        [first] = sdk.files_upload_session_finish_batch_v2([argument]).entries
        [second] = sdk.files_upload_session_finish_batch_v2([argument]).entries

        assert first.get_success().size == 2
        assert second.get_failure().get_lookup_failed().is_not_found()


class TestMovingAndRemoving:
    def test_move_has_one_winner(self, sdk: Any) -> None:
        """HTTP, move_v2, RelocationError: from_lookup/not_found for who comes second, to/conflict."""
        put(sdk, "/a", b"1")
        moved = sdk.files_move_v2("/a", "/sub/b").metadata
        put(sdk, "/c", b"2")

        assert moved.path_display == "/sub/b"
        assert refusal(sdk.files_move_v2, "/a", "/d").get_from_lookup().is_not_found()
        assert refusal(sdk.files_move_v2, "/c", "/sub/b").get_to().get_conflict().is_file()

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_batches_answer_for_each(self, account: DropboxAccount, sdk: Any, asynchronous: bool) -> None:
        """HTTP, move_batch_v2 and delete_batch: at once, or by a job to ask about."""
        account.set(batches_are_async=asynchronous, checks_until_done=2)
        put(sdk, "/a", b"1")
        put(sdk, "/b", b"1")
        pairs = [("/a", "/x/a"), ("/no", "/x/no"), ("/b", "/x/b")]
        moves = sdk.files_move_batch_v2([files.RelocationPath(*pair) for pair in pairs])
        moved = self._complete(sdk.files_move_batch_check_v2, moves, asynchronous)
        deletes = sdk.files_delete_batch([files.DeleteArg("/x/a"), files.DeleteArg("/x/a")])
        deleted = self._complete(sdk.files_delete_batch_check, deletes, asynchronous)

        assert [entry.is_success() for entry in moved] == [True, False, True]
        error = moved[1].get_failure().get_relocation_error()
        assert error.get_from_lookup().is_not_found()
        assert [entry.is_success() for entry in deleted] == [True, False]
        assert list(account.tree()) == ["/x/b"]

    @staticmethod
    def _complete(check: Any, launch: Any, asynchronous: bool) -> Any:
        assert launch.is_async_job_id() is asynchronous
        if not asynchronous:
            return launch.get_complete().entries
        job = launch.get_async_job_id()
        assert check(job).is_in_progress()
        return check(job).get_complete().entries

    def test_delete_can_need_a_rev(self, sdk: Any) -> None:
        """HTTP, delete_v2: parent_rev; a folder goes with all in it."""
        info = put(sdk, "/f/a", b"1")
        put(sdk, "/f/b", b"1")

        wrong = refusal(sdk.files_delete_v2, "/f/a", parent_rev="0" * 15)
        assert wrong.get_path_write().is_conflict()
        sdk.files_delete_v2("/f/a", parent_rev=info.rev)
        assert refusal(sdk.files_delete_v2, "/f/a").get_path_lookup().is_not_found()
        sdk.files_delete_v2("/f")
        assert refusal(sdk.files_get_metadata, "/f/b").get_path().is_not_found()


class TestListing:
    def test_pages_come_in_no_order_and_hold_all(self, account: DropboxAccount, sdk: Any) -> None:
        """HTTP, list_folder: has_more and cursor; no order is promised."""
        account.put({f"/f/{n:03}": "" for n in range(50)})
        page = sdk.files_list_folder("/f", limit=20)
        found = [entry.name for entry in page.entries]
        sizes = [len(found)]
        while page.has_more:
            page = sdk.files_list_folder_continue(page.cursor)
            found += [entry.name for entry in page.entries]
            sizes.append(len(page.entries))

        assert sizes == [20, 20, 10]
        assert sorted(found) == [f"{n:03}" for n in range(50)]
        assert found != sorted(found)

    def test_recursion_is_asked_for(self, account: DropboxAccount, sdk: Any) -> None:
        """HTTP, ListFolderArg.recursive."""
        account.put({"/f/a": "", "/f/g/b": "", "/h/c": ""})

        assert names(sdk.files_list_folder("/f")) == {"a", "g"}
        assert names(sdk.files_list_folder("/f", recursive=True)) == {"a", "g", "b"}
        assert refusal(sdk.files_list_folder, "/no").get_path().is_not_found()

    def test_cursor_tells_what_changed(self, account: DropboxAccount, sdk: Any) -> None:
        """Changes: a cursor returns what came after; a move shows as removed and added."""
        account.put({"/f/a": "1", "/f/b": "1"})
        cursor = sdk.files_list_folder("/f", recursive=True).cursor
        account.move({"/f/a": "/f/c"})
        account.put({"/f/b": "2", "/elsewhere": ""})
        page = sdk.files_list_folder_continue(cursor)

        kinds = {entry.name: type(entry) for entry in page.entries}
        assert kinds == {"a": files.DeletedMetadata, "b": files.FileMetadata, "c": files.FileMetadata}
        assert sdk.files_list_folder_continue(page.cursor).entries == []

    def test_cursor_can_be_reset(self, account: DropboxAccount, sdk: Any) -> None:
        """Changes: an expired cursor is answered with 409 reset; so is its longpoll."""
        account.put({"/f/a": ""})
        cursor = sdk.files_list_folder("/f").cursor
        account.control(reset_cursors=True)

        assert refusal(sdk.files_list_folder_continue, cursor).is_reset()
        assert refusal(sdk.files_list_folder_longpoll, cursor).is_reset()

    def test_longpoll_ends_with_a_change_or_its_time(self, account: DropboxAccount, sdk: Any) -> None:
        """Changes and HTTP, list_folder/longpoll: 30 to 480 s, no authentication, `backoff`."""
        account.put({"/f/a": ""})
        account.set(longpoll_scale=0.002, longpoll_backoff=7)
        cursor = sdk.files_list_folder("/f").cursor
        nothing = sdk.files_list_folder_longpoll(cursor, 30)
        account.set(longpoll_scale=1.0, longpoll_backoff=None)
        later = threading.Timer(0.05, account.put, [{"/f/b": ""}])
        later.start()
        started_at = time.monotonic()
        something = sdk.files_list_folder_longpoll(cursor, 30)
        later.join()

        assert (nothing.changes, nothing.backoff) == (False, 7)
        assert something.changes
        assert time.monotonic() - started_at < 10


class TestLimits:
    def test_rate_limit_tells_when_to_come_back(self, account: DropboxAccount, sdk: Any) -> None:
        """Errors and performance: 429 with Retry-After, as JSON or as plain text (ingress)."""
        for fault in (Fault.TOO_MANY_REQUESTS, Fault.TOO_MANY_REQUESTS_TEXT):
            account.fail(fault, seconds=17)
            with pytest.raises(exceptions.RateLimitError) as caught:
                put(sdk, "/a")
            assert caught.value.backoff == 17

    def test_lock_contention_is_another_429(self, account: DropboxAccount, sdk: Any) -> None:
        """Ingress, namespace locks: the reason is too_many_write_operations."""
        account.set(write_hold_s=0.2, write_patience_s=0.02)
        first = threading.Thread(target=put, args=(sdk, "/a"))
        first.start()
        time.sleep(0.1)
        with pytest.raises(exceptions.RateLimitError) as caught:
            put(sdk, "/b")
        first.join()

        assert caught.value.error.reason.is_too_many_write_operations()
        assert list(account.tree()) == ["/a"]

    @pytest.mark.parametrize(
        ("route", "call", "is_meant"),
        [
            (
                "files/upload",
                lambda s: put(s, "/b"),
                lambda e: e.get_path().reason.is_too_many_write_operations(),
            ),
            (
                "files/move_v2",
                lambda s: s.files_move_v2("/a", "/b"),
                lambda e: e.get_to().is_too_many_write_operations(),
            ),
            (
                "files/delete_v2",
                lambda s: s.files_delete_v2("/a"),
                lambda e: e.is_too_many_write_operations(),
            ),
        ],
        ids=["upload", "move", "delete"],
    )
    def test_too_many_writes_may_be_the_routes_own_error(
        self, account: DropboxAccount, sdk: Any, route: str, call: Any, is_meant: Any
    ) -> None:
        """HTTP, WriteError and DeleteError: too_many_write_operations with 409, which no SDK retries."""
        put(sdk, "/a")
        account.fail(Fault.TOO_MANY_WRITES_409, route)

        assert is_meant(refusal(call, sdk))

    def test_header_has_its_limit(self, sdk: Any) -> None:
        """HTTP, request formats: an upload's argument travels in a header, and those are limited."""
        entries = [
            files.UploadSessionAppendBatchArgEntry(files.UploadSessionCursor("x" * 100, 0), 0, True)
        ] * 200
        with pytest.raises(exceptions.HttpError) as caught:
            sdk.files_upload_session_append_batch(b"", entries)
        assert caught.value.status_code == 431


class TestFaults:
    """What no documentation promises against: connections break, before and after all was done."""

    @pytest.mark.parametrize(
        ("fault", "error", "is_done"),
        [
            (Fault.RESET, requests.ConnectionError, False),
            (Fault.ANSWER_LOST, requests.ConnectionError, True),
            (Fault.ANSWER_TORN, requests.exceptions.ChunkedEncodingError, True),
            (Fault.SERVER_ERROR, exceptions.InternalServerError, False),
            (Fault.DONE_SERVER_ERROR, exceptions.InternalServerError, True),
        ],
    )
    def test_call_breaks(
        self, account: DropboxAccount, sdk: Any, fault: Fault, error: type[Exception], is_done: bool
    ) -> None:
        sdk.check_user("a")
        account.fail(fault, "files/upload")
        with pytest.raises(error):
            put(sdk, "/a")

        assert bool(account.tree()) is is_done
        put(sdk, "/b")

    def test_latency_holds_no_lock(self, account: DropboxAccount, sdk: Any) -> None:
        """Calls that are under way on the wire don't keep others from the namespace."""
        sdk.check_user("a")
        account.set(latency_s=0.2)
        threads = [threading.Thread(target=put, args=(sdk, f"/{n}")) for n in range(5)]
        started_at = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert time.monotonic() - started_at < 0.9
        assert len(account.tree()) == 5
