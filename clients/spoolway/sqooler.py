"""A storage provider for spoolers written on sqooler: hand it to sqooler's own `update_backends` and `main`.

    provider = SpoolwayStorageProvider("lab.example:50061", token="...")
    update_backends(provider, backends)
    main(provider, backends)

Needs the packages sqooler and python-decouple, which spoolway-client does not bring.
"""

import atexit
import ctypes
import json
import logging
import os
import re
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection
from hashlib import sha256
from types import FrameType
from typing import Any, TypeVar

from google.protobuf.message import Message

from spoolway.backend import Backend
from spoolway.blocking import thread as loop_thread
from spoolway.client import Job, JobClient
from spoolway.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResultNotReadyError,
    SpoolwayError,
    is_transient,
)
from spoolway.handover import Handover
from spoolway.runner import RunFunction
from spoolway.running import RunningJob
from spoolway.settings import NAME_PATTERN, resolve_settings
from spoolway.snapshot import JobState
from spoolway.spooler import Spooler
from spoolway.timing import Backoff
from spoolway.v1 import job_service_pb2 as pb

try:
    import sqooler.utils
    from sqooler.schemes import (
        BackendConfigSchemaIn,
        BackendStatusSchemaOut,
        NextJobSchema,
        ResultDict,
        StatusMsgDict,
        get_init_status,
    )
    from sqooler.security import JWK, datetime_handler, sign_payload
    from sqooler.storage_providers.base import StorageProvider
except ModuleNotFoundError as error:
    if error.name not in {"sqooler", "decouple"}:
        raise
    raise ModuleNotFoundError(
        "spoolway.sqooler is a bridge for sqooler: `pip install sqooler python-decouple`", name=error.name
    ) from error

__all__ = ["SpoolwayStorageProvider"]

_NO_JOB = "None"
"""What sqooler's loop takes for an empty queue."""
_WAIT_S = 1.0
"""How long a look into empty queues waits for a job to come."""

_T = TypeVar("_T")

_log = logging.getLogger("spoolway.sqooler")


class _Config:
    """A backend's config as it is registered."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        config = json.loads(document)
        self.is_signing = bool(config.get("payload", config).get("sign"))
        """Whether results are to be signed."""


class SpoolwayStorageProvider(StorageProvider):  # type: ignore[misc] # sqooler is not installed where types are checked
    """Spoolway in place of sqooler's own storages.

    One stream brings the jobs of all backends, and heartbeats go on in the background while a circuit runs.
    One job is in hand at a time. What sqooler's loop calls never raises: the bridge reconnects and repeats by
    itself, and says "no job" when in doubt. Configs that the server refuses are raised, by `update_backends`.

    The server keeps the queue and knows who is alive, so what sqooler does about that is no business of this
    provider: files are neither moved nor deleted by it, and looking for a job stamps nothing.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        user: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        storage: str | None = None,
        spooler_id: str | None = None,
        name: str = "spoolway",
        is_active: bool = True,
    ) -> None:
        """Find the settings; nothing is sent yet.

        Args:
            address: host:port of the server; this and the following as in JobClient.
            token: Bearer token.
            user: Who spools.
            ca: File of the server's certificate authority, or `system`; turns TLS on.
            profile: Table of the profile file.
            storage: Where new backends are kept; None: the server's default.
            spooler_id: Name of this spooler, stable over restarts; one process runs it at a time. Default:
                the backends and the host, so give one where several processes of a host drive the same ones.
            name: Name of this provider within sqooler, part of its long backend names.
            is_active: As in sqooler.

        Raises:
            SettingsError: a setting is wrong.
        """
        super().__init__(name, is_active)
        self._settings = resolve_settings(address=address, token=token, user=user, ca=ca, profile=profile)
        self._storage = storage
        self._spooler_id = spooler_id
        self._configs: dict[str, _Config] = {}
        self._clients: dict[str, JobClient] = {}
        self._handover = Handover(self._open_spooler)
        self._last_text = ""
        atexit.register(self.close)

    def close(self) -> None:
        """Give back what is in hand, and wait a moment for the last confirm. Done at exit, too."""
        atexit.unregister(self.close)
        self._handover.close()

    # What sqooler's loop calls.

    def get_next_job_in_queue(self, display_name: str, private_jwk: JWK | None = None) -> NextJobSchema:
        """The next job of this backend; waits up to a second while there is none of any."""
        job = self._next_job(display_name)
        if job is None:
            return NextJobSchema(job_id=_NO_JOB, job_json_path=_NO_JOB)
        _lay_out_status(sys._getframe(1), job.id)
        return NextJobSchema(job_id=job.id, job_json_path=self.get_attribute_path("running", display_name))

    def get_job(self, storage_path: str, job_id: str) -> dict[str, Any]:
        """The content of the job in hand; empty if it is no longer in hand."""
        job = self._handover.job(job_id)
        content: dict[str, Any] = job.content if job is not None else {}
        return content

    def update_in_database(
        self,
        result_dict: ResultDict,
        status_msg_dict: StatusMsgDict,
        job_id: str,
        display_name: str,
        private_jwk: JWK | None = None,
    ) -> None:
        """Report the end of the job in hand. The report is repeated until the server has confirmed it."""
        try:
            text = self._own_text(status_msg_dict, job_id)
            if status_msg_dict.status == "DONE":
                self._handover.complete(job_id, self._result(result_dict, job_id, display_name, private_jwk))
            elif status_msg_dict.status == "ERROR":
                self._handover.fail(job_id, text or "the spooler said ERROR and nothing else")
            else:
                message = f"the spooler ended the job as {status_msg_dict.status}, neither DONE nor ERROR"
                self._handover.fail(job_id, message)
        except Exception as error:  # noqa: BLE001 - the loop would end
            _log.exception("%s: what became of it can't be reported", job_id)
            self._handover.fail(job_id, f"what became of the job can't be reported: {error}")

    # Backends.

    def update_config(
        self, config_dict: BackendConfigSchemaIn, display_name: str, private_jwk: JWK | None = None
    ) -> None:
        """Replace a backend's config. Waits for the server where it is away.

        Raises:
            FileNotFoundError: there is no such backend.
            ValueError: the config is to be signed by another key than the old one, or by none.
            SpoolwayError: the server refused it.
        """
        config = self._verify_config(config_dict, display_name)
        old = json.loads(self._backend(display_name).config_bytes)
        self._register(display_name, self._format_update_config(old, config, private_jwk))

    def upload_config(
        self, config_dict: BackendConfigSchemaIn, display_name: str, private_jwk: JWK | None = None
    ) -> None:
        """Create a backend; errors as `update_config`."""
        config = self._verify_config(config_dict, display_name)
        self._register(display_name, self._format_config_dict(config, private_jwk))

    def get_config(self, display_name: str) -> BackendConfigSchemaIn:
        """A backend's config. FileNotFoundError if there is none."""
        return self._adapt_get_config(json.loads(self._backend(display_name).config_bytes))

    def get_backends(self) -> list[str]:
        """The names of all backends."""
        response = self._ask("ListBackends", pb.ListBackendsRequest())
        return [backend.name.rpartition("/")[2] for backend in response.backends]

    def get_backend_status(self, display_name: str) -> BackendStatusSchemaOut:
        """How a backend stands, as the server sees it."""
        backend = self._backend(display_name)
        simulator = backend.config.get("simulator", True)
        return BackendStatusSchemaOut(
            backend_name=self.long_backend_name(display_name, simulator),
            backend_version=backend.status.backend_version,
            operational=backend.status.operational,
            pending_jobs=backend.status.pending_jobs,
            status_msg=backend.status.status_msg,
        )

    def timestamp_queue(self, display_name: str, private_jwk: JWK | None = None) -> None:
        """Nothing: an open stream says that the spooler is alive."""

    def upload_public_key(self, public_jwk: JWK, display_name: str) -> None:
        """Keep the public key that the backend's config names; after `update_config` or `upload_config`.

        Raises:
            ValueError: it is no public key, or not the one that the config names.
            AlreadyExistsError: there is another key of this id.
        """
        if public_jwk.key_ops != "verify" or public_jwk.d is not None:
            raise ValueError(
                "this key is not one to verify with: give the public one, without its private part"
            )
        backend = self._backend(display_name)
        if public_jwk.kid != backend.config.get("kid"):
            raise ValueError(f"the config of {display_name} names another key than {public_jwk.kid}")
        self._send_config(display_name, backend.config_bytes, public_jwk.model_dump_json().encode())

    def get_public_key(self, display_name: str) -> JWK:
        """The public key that the backend's config names. FileNotFoundError if there is none."""
        key = self._backend(display_name).public_key
        if key is None:
            raise FileNotFoundError(f"{display_name} has no public key")
        return JWK(**key)

    # Jobs, as clients see them.

    def create_job_id(self, display_name: str, username: str) -> str:
        """An id of the usual form. The server gives its own to what is submitted."""
        return uuid.uuid4().hex[:24]

    def upload_job(self, job_dict: dict[str, Any], display_name: str, username: str) -> str:
        """Submit a job; the id that the server gave it."""
        job: Job = loop_thread.run(self._client(username).submit(display_name, job_dict))
        return job.id

    def upload_status(
        self, display_name: str, username: str, job_id: str, private_jwk: JWK | None = None
    ) -> StatusMsgDict:
        """The job's status, which the server has made with the job."""
        return self.get_status(display_name, username, job_id)

    def get_status(self, display_name: str, username: str, job_id: str) -> StatusMsgDict:
        """A job's status; ERROR, saying so, if there is no such job."""
        request = pb.GetStatusRequest(name=_job_name(display_name, job_id))
        try:
            status = self._ask("GetStatus", request, user=username).status
        except NotFoundError as error:
            return StatusMsgDict(
                job_id=job_id, status="ERROR", detail="There is no such job.", error_message=error.message
            )
        return StatusMsgDict(
            job_id=status.job_id,
            status=status.status,
            detail=status.detail,
            error_message=status.error_message,
        )

    def upload_result(
        self, result_dict: ResultDict, display_name: str, job_id: str, private_jwk: JWK | None = None
    ) -> bool:
        """Complete the job in hand with its result."""
        self._handover.complete(job_id, self._result(result_dict, job_id, display_name, private_jwk))
        return True

    def get_result(self, display_name: str, username: str, job_id: str) -> ResultDict:
        """A job's result; one without data, whose status is ERROR or QUEUED, if there is none."""
        try:
            document = self._result_document(display_name, job_id, username)
        except (NotFoundError, FailedPreconditionError) as error:
            return ResultDict(
                display_name=display_name,
                backend_version="",
                job_id=job_id,
                success=False,
                status="QUEUED" if isinstance(error, ResultNotReadyError) else "ERROR",
            )
        return self._adapt_result_dict(document, self.get_backend_dict(display_name))

    def get_file_queue(self, storage_path: str) -> list[str]:
        """The backends, for the path of the configs; a backend's queued jobs, for that of a queue."""
        kind, _, backend = storage_path.partition("/")
        if kind == "configs":
            return self.get_backends()
        if kind != "queue":
            raise _not_here(f"listing {storage_path}")

        async def ids() -> list[str]:
            found = self._client(None).jobs(backend, [JobState.QUEUED], oldest_first=True)
            return [job.id async for job in found]

        return loop_thread.run(ids())

    # Documents by path, in the forms that sqooler asks for.

    def get_attribute_path(
        self,
        attribute_name: str,
        display_name: str | None = None,
        job_id: str | None = None,
        username: str | None = None,
    ) -> str:
        """Where a thing lies: its kind and, but for configs, its backend."""
        return attribute_name if attribute_name == "configs" else f"{attribute_name}/{display_name or ''}"

    def get_attribute_id(self, attribute_name: str, job_id: str, display_name: str | None = None) -> str:
        """The name of a thing where it lies."""
        return display_name or "" if attribute_name == "configs" else job_id

    def get(self, storage_path: str, job_id: str) -> dict[str, Any]:
        """A config, a status, a result, or the content of the job in hand; else FileNotFoundError."""
        kind, _, backend = storage_path.partition("/")
        try:
            if kind == "configs":
                document: dict[str, Any] = json.loads(self._backend(job_id).config_bytes)
                return document
            if kind == "results":
                return self._result_document(backend, job_id, None)
            if kind == "status":
                answer = self._ask("GetStatus", pb.GetStatusRequest(name=_job_name(backend, job_id)))
                names = ("job_id", "status", "detail", "error_message")
                return {name: getattr(answer.status, name) for name in names}
        except (NotFoundError, FailedPreconditionError) as error:
            raise FileNotFoundError(error.message) from error
        job = self._handover.job(job_id)
        if job is None:
            raise FileNotFoundError(f"{job_id} is not in hand")
        content: dict[str, Any] = job.content
        return content

    def upload(self, content_dict: Any, storage_path: str, job_id: str) -> None:
        """Not done here: use upload_config, upload_job and update_in_database."""
        raise _not_here("uploading a file")

    def update(self, content_dict: Any, storage_path: str, job_id: str) -> None:
        """Not done here: use update_config and update_in_database."""
        raise _not_here("updating a file")

    def move(self, start_path: str, final_path: str, job_id: str) -> None:
        """Not done here: the server moves jobs on by itself."""
        raise _not_here("moving a file")

    def delete(self, storage_path: str, job_id: str) -> None:
        """Not done here: the server keeps jobs for as long as its operator says."""
        raise _not_here("deleting a file")

    def _delete_status(self, display_name: str, username: str, job_id: str) -> bool:
        raise _not_here("deleting a status")

    def _delete_result(self, display_name: str, job_id: str) -> bool:
        raise _not_here("deleting a result")

    def _delete_config(self, display_name: str) -> bool:
        raise _not_here("deleting a config")

    def _delete_public_key(self, kid: str) -> bool:
        raise _not_here("deleting a public key")

    # Within.

    def _next_job(self, display_name: str) -> RunningJob | None:
        try:
            if display_name not in self._configs:
                # Registered by an earlier process: the loop was started without update_backends.
                self._configs[display_name] = _Config(self._read_backend(display_name).config_bytes)
            return self._handover.take(display_name, _WAIT_S, others=self._configs)
        except Exception as error:  # noqa: BLE001 - the loop would end
            _log.error("no job of %s: %s", display_name, error, exc_info=not isinstance(error, SpoolwayError))
            time.sleep(_WAIT_S)
            return None

    def _open_spooler(self, backends: Collection[str], run: RunFunction, is_restart: bool) -> Spooler:
        spooler = Spooler(
            self._spooler_id or _spooler_id(backends),
            address=self._settings.address,
            token=self._settings.token,
            user=self._settings.user,
            ca=self._settings.ca,
            predecessor_dead=is_restart,
            max_jobs=1,
        )
        for name in backends:
            spooler.add_backend(name, config=self._configs[name].document, run=run, storage=self._storage)
        return spooler

    def _own_text(self, status: StatusMsgDict, job_id: str) -> str:
        """What the status says about this job.

        A loop that does not make the status anew adds to the last job's, which may be another user's.
        """
        text: str = status.error_message
        said, self._last_text = self._last_text, text
        if status.job_id != job_id:
            text = text.removeprefix(said)
        return text.removeprefix("None").removeprefix("; ")

    def _result(
        self, result_dict: ResultDict, job_id: str, display_name: str, private_jwk: JWK | None
    ) -> bytes:
        """The document to store. sqooler leaves its status at INITIALIZING, for which some clients wait."""
        document = result_dict.model_copy(update={"job_id": job_id, "status": "DONE"}).model_dump()
        if self._configs[display_name].is_signing:
            if private_jwk is None:
                raise ValueError(
                    f"the config of {display_name} says that results are signed, and there is no key"
                )
            document = sign_payload(document, private_jwk).model_dump()
        return _encode(document)

    def _register(self, display_name: str, config: dict[str, Any]) -> None:
        self._send_config(display_name, _encode(config))

    def _send_config(self, display_name: str, document: bytes, public_key: bytes = b"") -> None:
        request = pb.RegisterBackendRequest(
            backend=display_name, config=document, storage=self._storage or "", public_key=public_key
        )
        _patiently(lambda: self._ask("RegisterBackend", request))
        known = self._configs.get(display_name)
        if known is None or known.document != document:
            self._configs[display_name] = _Config(document)
            self._handover.reopen()

    def _backend(self, display_name: str) -> Backend:
        try:
            return _patiently(lambda: self._read_backend(display_name))
        except NotFoundError as error:
            raise FileNotFoundError(error.message) from error

    def _read_backend(self, display_name: str) -> Backend:
        backend: Backend = loop_thread.run(self._client(None).backend(display_name))
        return backend

    def _result_document(self, display_name: str, job_id: str, user: str | None) -> dict[str, Any]:
        client, name = self._client(user), _job_name(display_name, job_id)

        async def fetch() -> Any:
            # Not waited for, as Job.result does.
            snapshot = await client.job(name).status()
            if not snapshot.is_terminal:
                raise ResultNotReadyError(f"{name} has no result yet", "RESULT_NOT_READY")
            return await client.job(name).result()

        document: dict[str, Any] = loop_thread.run(fetch())
        return document

    def _client(self, user: str | None) -> JobClient:
        """Calls in the name of a user; of this provider's own if None. With a token that one counts."""
        user = user or self._settings.user
        if user not in self._clients:
            settings = self._settings
            self._clients[user] = JobClient(settings.address, token=settings.token, user=user, ca=settings.ca)
        return self._clients[user]

    def _ask(self, rpc: str, request: Message, *, user: str | None = None) -> Any:
        client = self._client(user)

        async def call() -> Any:
            return await client._call(getattr(client._jobs, rpc), request)

        return loop_thread.run(call())


def _lay_out_status(frame: FrameType, job_id: str) -> None:
    """Give sqooler's loop the status that it does not make anew for each job.

    Its loop takes the status from the last job when a circuit raises anything but a ValueError: the error is
    added to that job's text, and where there was no job yet the loop ends. That is its local variable, so it
    can only be set from here, where the loop asks for the job.
    """
    if frame.f_code is not sqooler.utils.main.__code__:
        return
    status = get_init_status()
    status.job_id = job_id
    frame.f_locals["status_msg_dict"] = status
    if sys.version_info < (3, 13):  # from then on f_locals writes through
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _encode(document: dict[str, Any]) -> bytes:
    text = json.dumps(
        document, default=datetime_handler, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode()


def _job_name(backend: str, job_id: str) -> str:
    return f"backends/{backend}/jobs/{job_id}"


def _spooler_id(backends: Collection[str]) -> str:
    """The same after a restart, another for other backends and on another host."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
    name = f"{'.'.join(sorted(backends))}@{host}"
    if NAME_PATTERN.fullmatch(name):
        return name
    return f"sqooler-{sha256(name.encode()).hexdigest()[:16]}"


def _not_here(what: str) -> NotImplementedError:
    return NotImplementedError(f"{what} is the server's business, not this provider's; see its docstring")


def _patiently(call: "Callable[[], _T]") -> "_T":
    """Repeat a call until the server is there: a spooler that starts before its server waits for it."""
    backoff = Backoff(0.5, 15)
    while True:
        try:
            return call()
        except SpoolwayError as error:
            if not is_transient(error):
                raise
            wait_s = backoff.next_s()
            _log.warning("%s; next try in %.1f s", error, wait_s)
            time.sleep(wait_s)
