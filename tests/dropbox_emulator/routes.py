"""The routes: argument in, result out, the scope that each needs, and which of them write."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from tests.dropbox_emulator.namespace import Json, Namespace, Refused, TooManyWrites, content_hash

WRITE = "files.content.write"
READ = "files.content.read"
METADATA = "files.metadata.read"
MAX_BATCH = 1000

Handler = Callable[["Routes", Json, bytes], Any]
SCOPES: dict[str, str] = {}
HANDLERS: dict[str, Handler] = {}


def route(name: str, scope: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS[name], SCOPES[name] = handler, scope
        return handler

    return register


class BadInput(Exception):
    """400: the call itself is malformed."""


class Routes:
    """The routes of one account."""

    def __init__(self, namespace: Namespace) -> None:
        self.files = namespace
        self.batches_are_async = False
        """Whether batches answer with the id of a job that must be asked about."""
        self.checks_until_done = 1
        self.longpoll_scale = 1.0
        """Seconds that a second of a longpoll's timeout takes."""
        self.longpoll_backoff: int | None = None
        self._jobs: dict[str, list[Any]] = {}
        self._numbers = count(1)
        self._jobs_lock = threading.Lock()

    def call(self, name: str, arg: Json, body: bytes) -> Any:
        if name not in HANDLERS:
            raise BadInput(f"Unknown API function: {name!r}")
        return HANDLERS[name](self, arg, body)

    @route("check/user", "")
    def check_user(self, arg: Json, body: bytes) -> Json:
        return {"result": arg.get("query", "")}

    @route("users/get_current_account", "")
    def get_current_account(self, arg: Json, body: bytes) -> Json:
        """Today's spoolers ask it before each call, and look at nothing of it."""
        words = ("given_name", "surname", "familiar_name", "display_name", "abbreviated_name")
        return {
            "account_id": "dbid:" + "a" * 35,
            "name": dict.fromkeys(words, "Ada"),
            "email": "ada@lab.example",
            "email_verified": True,
            "disabled": False,
            "locale": "en",
            "referral_link": "https://lab.example",
            "is_paired": False,
            "account_type": {".tag": "basic"},
            "root_info": {".tag": "user", "root_namespace_id": "1", "home_namespace_id": "1"},
        }

    # Reading

    @route("files/get_metadata", METADATA)
    def get_metadata(self, arg: Json, body: bytes) -> Json:
        return self.files.find(arg["path"]).metadata()

    @route("files/list_folder", METADATA)
    def list_folder(self, arg: Json, body: bytes) -> Json:
        # Today's spoolers end it by a slash, which Dropbox passes over here.
        return self.files.list_folder(
            arg["path"].rstrip("/"), recursive=arg.get("recursive", False), limit=arg.get("limit")
        )

    @route("files/list_folder/continue", METADATA)
    def list_continue(self, arg: Json, body: bytes) -> Json:
        return self.files.list_continue(arg["cursor"])

    @route("files/list_folder/longpoll", "")
    def longpoll(self, arg: Json, body: bytes) -> Json:
        timeout = arg.get("timeout", 30)
        if not 30 <= timeout <= 480:
            raise BadInput("timeout: must be between 30 and 480")
        changes = self.files.longpoll(arg["cursor"], timeout * self.longpoll_scale)
        result: Json = {"changes": changes}
        if self.longpoll_backoff is not None:
            result["backoff"] = self.longpoll_backoff
        return result

    # Writing

    @route("files/upload", WRITE)
    def upload(self, arg: Json, body: bytes) -> Json:
        if arg.get("content_hash") not in {None, content_hash(body)}:
            raise Refused("content_hash_mismatch")
        with self.files.writing():
            try:
                node = self.files.put(arg, body)
            except Refused as refused:
                session = self.files.start_upload(body, close=True)
                error = {"reason": refused.error, "upload_session_id": session}
                raise Refused("path", **error) from None
        return _without_tag(node.metadata())

    @route("files/move_v2", WRITE)
    def move(self, arg: Json, body: bytes) -> Json:
        with self.files.writing():
            return {"metadata": self.files.move(arg).metadata()}

    @route("files/create_folder_v2", WRITE)
    def create_folder(self, arg: Json, body: bytes) -> Json:
        with self.files.writing():
            metadata = self.files.make_folder(arg["path"]).metadata()
            return {"metadata": _without_tag(metadata)}

    @route("files/delete_v2", WRITE)
    def delete(self, arg: Json, body: bytes) -> Json:
        with self.files.writing():
            return {"metadata": self.files.delete(arg["path"], arg.get("parent_rev")).metadata()}

    @route("files/move_batch_v2", WRITE)
    def move_batch(self, arg: Json, body: bytes) -> Json:
        return self._batch(arg["entries"], self._move_one)

    @route("files/move_batch/check_v2", WRITE)
    def move_batch_check(self, arg: Json, body: bytes) -> Json:
        return self._check(arg)

    @route("files/delete_batch", WRITE)
    def delete_batch(self, arg: Json, body: bytes) -> Json:
        return self._batch(arg["entries"], self._delete_one)

    @route("files/delete_batch/check", WRITE)
    def delete_batch_check(self, arg: Json, body: bytes) -> Json:
        return self._check(arg)

    # Upload sessions

    @route("files/upload_session/start", WRITE)
    def session_start(self, arg: Json, body: bytes) -> Json:
        return {"session_id": self.files.start_upload(body, close=arg.get("close", False))}

    @route("files/upload_session/start_batch", WRITE)
    def session_start_batch(self, arg: Json, body: bytes) -> Json:
        if not 1 <= arg["num_sessions"] <= MAX_BATCH:
            raise BadInput("num_sessions: must be between 1 and 1000")
        return {"session_ids": [self.files.start_upload() for _ in range(arg["num_sessions"])]}

    @route("files/upload_session/append_v2", WRITE)
    def session_append(self, arg: Json, body: bytes) -> None:
        self.files.append(arg["cursor"], body, close=arg.get("close", False))

    @route("files/upload_session/append_batch", WRITE)
    def session_append_batch(self, arg: Json, body: bytes) -> Json:
        if sum(entry["length"] for entry in arg["entries"]) != len(body):
            raise Refused("length_mismatch")
        results: list[Json] = []
        at = 0
        for entry in arg["entries"]:
            data, at = body[at : at + entry["length"]], at + entry["length"]
            try:
                self.files.append(entry["cursor"], data, close=entry.get("close", False))
                results.append({".tag": "success"})
            except Refused as refused:
                results.append({".tag": "failure", "failure": refused.error})
        return {"entries": results}

    @route("files/upload_session/finish", WRITE)
    def session_finish(self, arg: Json, body: bytes) -> Json:
        with self.files.writing():
            return _without_tag(self.files.finish(arg, batch=False, data=body).metadata())

    @route("files/upload_session/finish_batch_v2", WRITE)
    def session_finish_batch(self, arg: Json, body: bytes) -> Json:
        return {"entries": self._each(arg["entries"], self._finish_one)}

    # Batches

    def _batch(self, entries: list[Json], do: Callable[[Json], Json]) -> Json:
        results = self._each(entries, do)
        if not self.batches_are_async:
            return {".tag": "complete", "entries": results}
        job = f"dbjid:{next(self._numbers)}"
        with self._jobs_lock:
            self._jobs[job] = [self.checks_until_done, results]
        return {".tag": "async_job_id", "async_job_id": job}

    def _check(self, arg: Json) -> Json:
        with self._jobs_lock:
            job = self._jobs.get(arg["async_job_id"])
            if job is None:
                raise Refused("invalid_async_job_id")
            job[0] -= 1
            if job[0] > 0:
                return {".tag": "in_progress"}
            return {".tag": "complete", "entries": job[1]}

    def _each(self, entries: list[Json], do: Callable[[Json], Json]) -> list[Json]:
        if len(entries) > MAX_BATCH:
            raise BadInput("entries: at most 1000")
        results: list[Json] = []
        with self.files.writing():
            for entry in entries:
                try:
                    results.append({".tag": "success", **do(entry)})
                except Refused as refused:
                    results.append({".tag": "failure", "failure": refused.error})
        return results

    def _finish_one(self, entry: Json) -> Json:
        return _without_tag(self.files.finish(entry, batch=True).metadata())

    def _move_one(self, entry: Json) -> Json:
        try:
            return {"success": self.files.move(entry).metadata()}
        except Refused as refused:
            refused.error = {".tag": "relocation_error", "relocation_error": refused.error}
            raise

    def _delete_one(self, entry: Json) -> Json:
        return {"metadata": self.files.delete(entry["path"], entry.get("parent_rev")).metadata()}


def too_many_writes(name: str) -> Refused | None:
    """How a route itself says that there are too many writes; None: only by 429."""
    match name:
        case "files/upload":
            reason = Refused("too_many_write_operations").error
            return Refused("path", reason=reason, upload_session_id="spent")
        case "files/delete_v2":
            return Refused("too_many_write_operations")
        case "files/move_v2":
            return Refused("to", "too_many_write_operations")
        case "files/upload_session/finish":
            return Refused("too_many_write_operations")
        case _:
            return None


def _without_tag(metadata: Json) -> Json:
    return {name: value for name, value in metadata.items() if name != ".tag"}


__all__ = ["HANDLERS", "SCOPES", "BadInput", "Routes", "TooManyWrites", "too_many_writes"]
