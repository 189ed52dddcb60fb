"""The seam to Dropbox's SDK: blocking calls in our words."""

import contextlib
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dropbox  # type: ignore[import-untyped]  # the SDK ships no types
import msgspec
from dropbox import content_hash as hashing
from dropbox import files

from spoolway_providers.dropbox_storage.faults import (
    CallFailed,
    LostAnswer,
    PathConflict,
    PathMissing,
    SessionSpent,
    call,
    route_error,
)

__all__ = [
    "ADD",
    "OVERWRITE",
    "Client",
    "Commit",
    "ContentHasher",
    "FileInfo",
    "Login",
    "Page",
    "content_hash",
]

ADD = "add"
OVERWRITE = "overwrite"


class Login(msgspec.Struct, frozen=True):
    """What signs an app in to an account; never shown."""

    app_key: str
    app_secret: str
    refresh_token: str

    def __repr__(self) -> str:
        return "Login(...)"


class FileInfo(msgspec.Struct, frozen=True):
    """What Dropbox says of a file."""

    path: str
    rev: str
    size: int
    content_hash: str
    client_modified: datetime
    server_modified: datetime


class Page(msgspec.Struct, frozen=True):
    """A part of a listing, in no order."""

    files: list[FileInfo]
    deleted: list[str]
    """Paths at which there is nothing any more; where it was a folder, nor below."""
    cursor: str
    more: bool


class Commit(msgspec.Struct, frozen=True):
    """Where an upload goes, and what may be there."""

    path: str
    mode: str
    """`add`: nothing; `overwrite`: anything; else the rev that must be there."""
    client_modified: datetime | None = None


class _Sdk(dropbox.Dropbox):  # type: ignore[misc]
    """The SDK's client, which refreshes its token once where many threads want to."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._refreshing = threading.RLock()
        self._seen = threading.local()
        super().__init__(*arguments, **options)

    def check_and_refresh_access_token(self) -> None:
        with self._refreshing:
            super().check_and_refresh_access_token()
            self._seen.token = self._oauth2_access_token

    def refresh_access_token(self, *args: Any, **options: Any) -> None:
        with self._refreshing:
            seen = getattr(self._seen, "token", None)
            if seen is None or seen == self._oauth2_access_token:
                super().refresh_access_token(*args, **options)
            self._seen.token = self._oauth2_access_token


class Client:
    """Blocking calls to one account; each one is one call, and raises CallFailed or LoginRefused."""

    def __init__(self, login: Login, *, connections: int, timeout_s: float) -> None:
        # It tells of each call, at a level at which nobody wants to know.
        logging.getLogger("dropbox").setLevel(logging.WARNING)
        self._session = dropbox.create_session(max_connections=connections)
        self._sdk = _Sdk(
            app_key=login.app_key,
            app_secret=login.app_secret,
            oauth2_refresh_token=login.refresh_token,
            max_retries_on_error=0,
            max_retries_on_rate_limit=0,
            session=self._session,
            timeout=timeout_s,
            user_agent="spoolway",
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def check_user(self) -> None:
        """Sign in; needs no scope."""
        call(self._sdk.check_user, "spoolway")

    # Reading

    def metadata(self, path: str) -> FileInfo | None:
        """What is at a path; None: no file."""
        try:
            found = call(self._sdk.files_get_metadata, path)
        except PathMissing:
            return None
        return _info(found) if isinstance(found, files.FileMetadata) else None

    def download(self, path: str, start: int = 0, end: int | None = None) -> tuple[FileInfo, bytes]:
        """A file, or its bytes from `start` up to `end`."""
        sdk = self._sdk
        if start or end is not None:
            last = "" if end is None else end - 1
            sdk.check_and_refresh_access_token()
            sdk = sdk.clone(headers={"Range": f"bytes={start}-{last}"})
        found, response = call(sdk.files_download, path)
        with contextlib.closing(response):
            return _info(found), call(lambda: response.content)

    def list_folder(self, path: str) -> Page:
        """The first page of all below a folder."""
        return _page(call(self._sdk.files_list_folder, path, recursive=True))

    def list_continue(self, cursor: str) -> Page:
        """The next page, or what has changed since the cursor."""
        return _page(call(self._sdk.files_list_folder_continue, cursor))

    def longpoll(self, cursor: str, timeout_s: int) -> tuple[bool, float]:
        """Wait for a change after the cursor; with the seconds to wait before the next such call."""
        answer = call(self._sdk.files_list_folder_longpoll, cursor, timeout_s)
        return bool(answer.changes), float(answer.backoff or 0)

    # Writing

    def upload(self, data: bytes, commit: Commit) -> FileInfo:
        """Store one file."""
        return _info(call(self._sdk.files_upload, data, **_options(commit), path=commit.path))

    def move(self, source: str, target: str) -> FileInfo:
        """Move one file; what is at the target is a conflict."""
        return _info(call(self._sdk.files_move_v2, source, target).metadata)

    def make_folder(self, path: str) -> None:
        """Make a folder, if there is none."""
        with contextlib.suppress(PathConflict):
            call(self._sdk.files_create_folder_v2, path)

    def delete(self, path: str, rev: str | None) -> None:
        """Remove a file, if it has `rev`; or a folder."""
        call(self._sdk.files_delete_v2, path, rev)

    def move_batch(self, moves: Sequence[tuple[str, str]]) -> str | list[FileInfo | CallFailed]:
        """Move files; the outcome of each, or the id of a job to ask about."""
        entries = [files.RelocationPath(source, target) for source, target in moves]
        launched: str | list[FileInfo | CallFailed] = _launched(
            call(self._sdk.files_move_batch_v2, entries), _moved
        )
        return launched

    def move_check(self, job: str) -> list[FileInfo | CallFailed] | None:
        """The outcome of `move_batch`; None: not yet."""
        outcomes: list[FileInfo | CallFailed] | None = _checked(
            call(self._sdk.files_move_batch_check_v2, job), _moved
        )
        return outcomes

    def delete_batch(self, paths: Sequence[tuple[str, str | None]]) -> str | list[CallFailed | None]:
        """Remove files that have their revs; the outcome of each, or the id of a job to ask about."""
        entries = [files.DeleteArg(path, rev) for path, rev in paths]
        launched: str | list[CallFailed | None] = _launched(
            call(self._sdk.files_delete_batch, entries), _deleted
        )
        return launched

    def delete_check(self, job: str) -> list[CallFailed | None] | None:
        """The outcome of `delete_batch`; None: not yet."""
        outcomes: list[CallFailed | None] | None = _checked(
            call(self._sdk.files_delete_batch_check, job), _deleted
        )
        return outcomes

    # Upload sessions

    def start_sessions(self, number: int) -> list[str]:
        """New upload sessions, good for seven days."""
        return list(call(self._sdk.files_upload_session_start_batch, number).session_ids)

    def append_batch(self, pieces: Sequence[tuple[str, bytes]]) -> None:
        """Fill new sessions with all their data, and close them."""
        entries = [
            files.UploadSessionAppendBatchArgEntry(files.UploadSessionCursor(session, 0), len(data), True)
            for session, data in pieces
        ]
        data = b"".join(data for _, data in pieces)
        answer = call(self._sdk.files_upload_session_append_batch, data, entries)
        if not all(entry.is_success() for entry in answer.entries):
            raise SessionSpent("an upload session can't be filled")

    def append(self, session: str, offset: int, data: bytes, close: bool) -> None:
        """Add data to a session."""
        cursor = files.UploadSessionCursor(session, offset)
        call(self._sdk.files_upload_session_append_v2, data, cursor, close)

    def finish_batch(self, uploads: Sequence[tuple[str, int, Commit]]) -> list[FileInfo | CallFailed]:
        """Store closed sessions of these sizes; the outcome of each."""
        entries = [
            files.UploadSessionFinishArg(
                files.UploadSessionCursor(session, size),
                files.CommitInfo(path=commit.path, **_options(commit)),
            )
            for session, size, commit in uploads
        ]
        answer = call(self._sdk.files_upload_session_finish_batch_v2, entries)
        return [
            _info(entry.get_success()) if entry.is_success() else route_error(entry.get_failure())
            for entry in answer.entries
        ]


class ContentHasher:
    """The hash by which Dropbox tells what is in a file, piece by piece."""

    def __init__(self) -> None:
        self._hasher = hashing.DropboxContentHasher()

    def update(self, piece: bytes) -> None:
        """The file goes on with this."""
        self._hasher.update(piece)

    def hexdigest(self) -> str:
        """The hash of all so far; the end."""
        return str(self._hasher.hexdigest())


def content_hash(data: bytes) -> str:
    """The hash of a whole file."""
    hasher = ContentHasher()
    hasher.update(data)
    return hasher.hexdigest()


def _options(commit: Commit) -> dict[str, Any]:
    modes = {ADD: files.WriteMode.add, OVERWRITE: files.WriteMode.overwrite}
    modified = commit.client_modified
    return {
        "mode": modes.get(commit.mode) or files.WriteMode.update(commit.mode),
        "autorename": False,
        "strict_conflict": commit.mode != OVERWRITE,
        "mute": True,
        "client_modified": None if modified is None else modified.replace(tzinfo=None, microsecond=0),
    }


def _info(found: Any) -> FileInfo:
    return FileInfo(
        found.path_display,
        found.rev,
        found.size,
        found.content_hash,
        found.client_modified.replace(tzinfo=UTC),
        found.server_modified.replace(tzinfo=UTC),
    )


def _page(answer: Any) -> Page:
    return Page(
        [_info(entry) for entry in answer.entries if isinstance(entry, files.FileMetadata)],
        [entry.path_lower for entry in answer.entries if isinstance(entry, files.DeletedMetadata)],
        answer.cursor,
        answer.has_more,
    )


def _launched(launch: Any, outcome: Any) -> Any:
    if launch.is_async_job_id():
        return launch.get_async_job_id()
    return [outcome(entry) for entry in launch.get_complete().entries]


def _checked(status: Any, outcome: Any) -> Any:
    if status.is_in_progress():
        return None
    if status.is_complete():
        return [outcome(entry) for entry in status.get_complete().entries]
    raise LostAnswer(f"a batch failed: {status}")


def _moved(entry: Any) -> FileInfo | CallFailed:
    if entry.is_success():
        return _info(entry.get_success())
    return route_error(entry.get_failure()) if entry.is_failure() else LostAnswer("a move went unanswered")


def _deleted(entry: Any) -> CallFailed | None:
    return None if entry.is_success() else route_error(entry.get_failure())
