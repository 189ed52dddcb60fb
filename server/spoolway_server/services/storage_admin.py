"""StorageAdmin: translates, calls, translates."""

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import grpc

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway.v1 import storage_admin_pb2_grpc
from spoolway_providers.interface import Query, Step
from spoolway_providers.model import SessionState, State
from spoolway_providers.registry import ProviderTypeError, provider_class, provider_types
from spoolway_server.access_tokens import AccessTokens
from spoolway_server.added import AddedStorages
from spoolway_server.audit import Audit
from spoolway_server.auth import caller_of
from spoolway_server.backends import Backends
from spoolway_server.clock import Clock
from spoolway_server.copying import Copying
from spoolway_server.errors import ServiceError
from spoolway_server.guard import Context
from spoolway_server.importing import Importing
from spoolway_server.jobs import Jobs
from spoolway_server.names import backend_name, parse_backend_name, session_id, storage_name, user_name
from spoolway_server.new_logins import LoginChange, checked_login, sign_in_page
from spoolway_server.operations import Operations
from spoolway_server.policies import Policies
from spoolway_server.purges import Purges
from spoolway_server.roster import Listed, Roster
from spoolway_server.services.job_service import page_size
from spoolway_server.services.logins import read_login
from spoolway_server.services.operations import OperationCalls
from spoolway_server.services.tokens import TokenCalls
from spoolway_server.services.trail import list_events
from spoolway_server.storage import COUNT_LIMIT, Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import duration, job_to_proto, policy_changes, time_from, timestamp
from spoolway_server.trials import try_login

__all__ = ["StorageAdmin"]

_UPDATABLE = ("description", "owner", "login")
_LOGIN_PATH = re.compile(r"login\.[A-Za-z0-9_]{1,64}")


class StorageAdmin(OperationCalls, storage_admin_pb2_grpc.StorageAdminServicer):
    """The calls of operators; the proto's comments say what each does."""

    def __init__(
        self,
        *,
        storages: Storages,
        added: AddedStorages,
        jobs: Jobs,
        backends: Backends,
        policies: Policies,
        purges: Purges,
        roster: Roster,
        operations: Operations,
        copying: Copying,
        importing: Importing,
        audit: Audit,
        tokens: AccessTokens,
        clock: Clock,
    ) -> None:
        """Translate for these."""
        super().__init__(
            storages=storages,
            operations=operations,
            copying=copying,
            importing=importing,
            audit=audit,
        )
        self._storages = storages
        self._added = added
        self._jobs = jobs
        self._backends = backends
        self._policies = policies
        self._purges = purges
        self._roster = roster
        self._audit = audit
        self._clock = clock
        self._tokens = TokenCalls(tokens, audit, clock)
        self._caller = caller_of

    # Storages: changes

    async def CreateStorage(
        self, request: pb.CreateStorageRequest, context: Context
    ) -> pb.CreateStorageResponse:
        caller = self._caller(context)
        name = storage_name(request.name)
        owner = user_name(request.owner, field="owner") if request.owner else caller.name
        async with self._audit.of(caller, "CreateStorage", f"storages/{name}") as deed:
            type_name, fields = read_login(request.login, request.type)
            login = await checked_login(type_name, fields)
            deed.detail = f"type {login.type}, owner {owner}" + (", inactive" if request.inactive else "")
            storage = await self._added.create(
                name, login, description=request.description, owner=owner, active=not request.inactive
            )
        return pb.CreateStorageResponse(storage=self._show(storage))

    async def UpdateStorage(
        self, request: pb.UpdateStorageRequest, context: Context
    ) -> pb.UpdateStorageResponse:
        caller = self._caller(context)
        name = storage_name(request.name)
        async with self._audit.of(caller, "UpdateStorage", f"storages/{name}") as deed:
            paths = _update_paths(request)
            deed.detail = f"fields {', '.join(paths)}"
            storage = await self._added.update(
                name,
                etag=request.etag,
                description=request.description if "description" in paths else None,
                owner=_owner(request) if "owner" in paths else None,
                login=self._login_change(request, paths, name),
            )
        return pb.UpdateStorageResponse(storage=self._show(storage))

    def _login_change(
        self, request: pb.UpdateStorageRequest, paths: Sequence[str], name: str
    ) -> LoginChange | None:
        only = [path.removeprefix("login.") for path in paths if path.startswith("login.")]
        if not only and "login" not in paths:
            return None
        _, fields = read_login(request.login, self._storages.get(name).type_name)
        return LoginChange(fields, only=None if "login" in paths else only)

    async def DeleteStorage(
        self, request: pb.DeleteStorageRequest, context: Context
    ) -> pb.DeleteStorageResponse:
        caller = self._caller(context)
        name = storage_name(request.name)
        async with self._audit.of(caller, "DeleteStorage", f"storages/{name}") as deed:
            deed.detail = "forced" if request.force else ""
            await self._added.delete(name, etag=request.etag, force=request.force)
        return pb.DeleteStorageResponse()

    async def ActivateStorage(
        self, request: pb.ActivateStorageRequest, context: Context
    ) -> pb.ActivateStorageResponse:
        storage = await self._set_active(context, request.name, "ActivateStorage", active=True)
        return pb.ActivateStorageResponse(storage=storage)

    async def DeactivateStorage(
        self, request: pb.DeactivateStorageRequest, context: Context
    ) -> pb.DeactivateStorageResponse:
        storage = await self._set_active(context, request.name, "DeactivateStorage", active=False)
        return pb.DeactivateStorageResponse(storage=storage)

    async def _set_active(self, context: Context, asked: str, call: str, *, active: bool) -> pb.Storage:
        caller = self._caller(context)
        name = storage_name(asked)
        async with self._audit.of(caller, call, f"storages/{name}"):
            return self._show(await self._added.update(name, active=active))

    # Storages: looking and trying

    async def ListStorages(
        self, request: pb.ListStoragesRequest, context: Context
    ) -> pb.ListStoragesResponse:
        after = _after(request.page_token)
        size = page_size(request.page_size)
        names = sorted(name for name in self._storages.by_name if name > after)
        page = names[:size]
        return pb.ListStoragesResponse(
            storages=[self._show(self._storages.by_name[name]) for name in page],
            next_page_token=encode_token({"after": page[-1]}) if len(names) > size else "",
        )

    async def GetStorage(self, request: pb.GetStorageRequest, context: Context) -> pb.GetStorageResponse:
        return pb.GetStorageResponse(storage=self._show(self._storages.get(storage_name(request.name))))

    async def GetStorageStats(
        self, request: pb.GetStorageStatsRequest, context: Context
    ) -> pb.GetStorageStatsResponse:
        storage = self._storages.get(storage_name(request.name))
        storage.require_usable()
        with storage.noting_trouble():
            jobs = {
                state.value: await storage.provider.count(Query(states=(state,), limit=COUNT_LIMIT))
                for state in State
            }
            # Without a principal: the janitor's.
            sessions = [one.session for one in await storage.provider.sessions() if one.session.principal]
        return pb.GetStorageStatsResponse(
            backends=len(await storage.backends()),
            jobs={state: number for state, number in jobs.items() if number},
            unfinished_jobs=await storage.unfinished(),
            sessions=sum(session.state is SessionState.LIVE for session in sessions),
        )

    async def TestStorage(self, request: pb.TestStorageRequest, context: Context) -> pb.TestStorageResponse:
        is_unsaved = not request.name and bool(request.type or request.HasField("login"))
        saved = None if is_unsaved else self._storages.get(storage_name(request.name))
        if saved is None or request.HasField("login"):
            known_type = saved.type_name if saved else request.type
            login = await checked_login(*read_login(request.login, known_type))
            return _tested(await try_login(login, self._clock))
        if not saved.opened.is_set():
            step = pb.TestStep(name="open", passed=False, advice=saved.trouble)
            return pb.TestStorageResponse(steps=[step], passed=False)
        return _tested(await saved.provider.probe())

    async def GetSignInPage(
        self, request: pb.GetSignInPageRequest, context: Context
    ) -> pb.GetSignInPageResponse:
        return pb.GetSignInPageResponse(url=sign_in_page(*read_login(request.login, "")))

    async def ListProviderTypes(
        self, request: pb.ListProviderTypesRequest, context: Context
    ) -> pb.ListProviderTypesResponse:
        return pb.ListProviderTypesResponse(types=[_provider_type(name) for name in provider_types()])

    async def SetBackendPolicy(
        self, request: pb.SetBackendPolicyRequest, context: Context
    ) -> pb.SetBackendPolicyResponse:
        caller = self._caller(context)
        name = backend_name(request.name, field="name")
        changes = _policy_changes(request)
        async with self._audit.of(caller, "SetBackendPolicy", f"backends/{name}") as deed:
            deed.detail = ", ".join(f"{field}={_in_words(value)}" for field, value in changes.items())
            changed = await self._policies.change(name, changes, etag=request.etag)
        return pb.SetBackendPolicyResponse(backend=await self._backends.show(*changed))

    async def PauseBackend(
        self, request: pb.PauseBackendRequest, context: Context
    ) -> pb.PauseBackendResponse:
        caller, name = self._caller(context), backend_name(request.name, field="name")
        async with self._audit.of(caller, "PauseBackend", f"backends/{name}"):
            changed = await self._policies.change(name, {"paused": True})
        return pb.PauseBackendResponse(backend=await self._backends.show(*changed))

    async def ResumeBackend(
        self, request: pb.ResumeBackendRequest, context: Context
    ) -> pb.ResumeBackendResponse:
        caller, name = self._caller(context), backend_name(request.name, field="name")
        async with self._audit.of(caller, "ResumeBackend", f"backends/{name}"):
            changed = await self._policies.change(name, {"paused": False})
        return pb.ResumeBackendResponse(backend=await self._backends.show(*changed))

    async def HoldJob(self, request: pb.HoldJobRequest, context: Context) -> pb.HoldJobResponse:
        job = await self._jobs.hold(self._caller(context), request.name)
        return pb.HoldJobResponse(job=job_to_proto(job))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> pb.ResumeJobResponse:
        job = await self._jobs.resume(self._caller(context), request.name)
        return pb.ResumeJobResponse(job=job_to_proto(job))

    async def FailHeldJob(self, request: pb.FailHeldJobRequest, context: Context) -> pb.FailHeldJobResponse:
        job = await self._jobs.fail_held(self._caller(context), request.name, request.message)
        return pb.FailHeldJobResponse(job=job_to_proto(job))

    async def PurgeBackend(
        self, request: pb.PurgeBackendRequest, context: Context
    ) -> pb.PurgeBackendResponse:
        caller = self._caller(context)
        before = None
        if request.HasField("end_time_before"):
            try:
                before = time_from(request.end_time_before)
            except (ValueError, OverflowError) as error:
                message = "end_time_before is no valid time"
                raise _invalid("TIME_INVALID", "end_time_before", message) from error
        name = backend_name(request.name, field="name")
        async with self._audit.of(caller, "PurgeBackend", f"backends/{name}") as deed:
            step = await self._purges.step(
                name,
                caller.name,
                before=before,
                cancel_queued=request.cancel_queued,
                page_token=request.page_token,
            )
            deed.detail = f"{step.deleted} deleted, {step.cancelled} cancelled"
        return pb.PurgeBackendResponse(
            deleted=step.deleted, cancelled=step.cancelled, next_page_token=step.next_page_token
        )

    async def ListSpoolers(
        self, request: pb.ListSpoolersRequest, context: Context
    ) -> pb.ListSpoolersResponse:
        backend = parse_backend_name(backend_name(request.backend)).backend if request.backend else ""
        asked = {"backend": backend, "closed": str(request.show_closed)}
        after = decode_token(request.page_token, "page_token")
        if after and not (after.keys() == {"spooler", "session", *asked} and after.items() >= asked.items()):
            raise bad_token("page_token", "it goes with the same call and filter only")
        listed, unreachable = await self._roster.list_all(closed=request.show_closed)
        place = (after["spooler"], after["session"]) if after else ("", "")
        rest = [
            one for one in listed if one.place > place and (not backend or backend in one.session.backends)
        ]
        page = rest[: page_size(request.page_size)]
        token = ""
        if len(page) < len(rest):
            token = encode_token({"spooler": page[-1].place[0], "session": page[-1].place[1], **asked})
        return pb.ListSpoolersResponse(
            spoolers=map(_spooler, page), next_page_token=token, unreachable_storages=unreachable
        )

    async def RevokeSpooler(
        self, request: pb.RevokeSpoolerRequest, context: Context
    ) -> pb.RevokeSpoolerResponse:
        caller = self._caller(context)
        session = session_id(request.session)
        async with self._audit.of(caller, "RevokeSpooler", f"sessions/{session}") as deed:
            listed, taken_back = await self._roster.revoke(session, caller.name)
            deed.detail = f"{listed.session.spooler_id}, {taken_back} jobs taken back"
        return pb.RevokeSpoolerResponse(spooler=_spooler(listed), jobs_taken_back=taken_back)

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        return await self._tokens.create(self._caller(context), request)

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        return await self._tokens.list_page(request)

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        return await self._tokens.revoke(self._caller(context), request)

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        return await list_events(self._audit, request)

    def _show(self, storage: Storage) -> pb.Storage:
        record = self._added.record(storage.name)
        return pb.Storage(
            name=f"storages/{storage.name}",
            type=storage.type_name,
            description=storage.description,
            active=storage.active,
            is_default=storage is self._storages.default,
            read_only=self._added.is_declared(storage.name),
            health=pb.StorageHealth(serving=storage.serving, message=storage.trouble),
            owner=storage.owner,
            etag=str(record.revision) if record else "",
            create_time=timestamp(record.created_at) if record else None,
            update_time=timestamp(record.updated_at) if record else None,
        )


def _spooler(listed: Listed) -> pb.Spooler:
    session = listed.session
    return pb.Spooler(
        session=session.id,
        spooler_id=session.spooler_id,
        instance_id=session.instance_id,
        principal=session.principal,
        backends=session.backends,
        storages=listed.storages,
        state=pb.SpoolerState.Value(f"SPOOLER_STATE_{session.state.name}"),
        reason=session.reason,
        has_stream=session.has_stream,
        disconnected=session.detached,
        connected_here=listed.here is not None,
        open_time=timestamp(session.opened_at),
        close_time=timestamp(listed.closed_at),
        last_beat_time=timestamp(listed.last_beat_at),
        jobs_in_hand=listed.leases,
        credit=listed.here.credit if listed.here else {},
    )


def _provider_type(name: str) -> pb.ProviderType:
    try:
        found = provider_class(name)
    except ProviderTypeError as error:
        return pb.ProviderType(name=name, unavailable=str(error))
    fields = [
        pb.LoginField(name=f.name, description=f.description, required=f.required, secret=f.secret)
        for f in found.login_fields
    ]
    return pb.ProviderType(
        name=name, description=found.description, login_fields=fields, sign_in_field=found.sign_in_field
    )


def _tested(steps: Iterable[Step]) -> pb.TestStorageResponse:
    shown = [
        pb.TestStep(name=step.name, passed=step.ok, duration=duration(step.elapsed), advice=step.advice)
        for step in steps
    ]
    return pb.TestStorageResponse(steps=shown, passed=all(step.passed for step in shown))


def _update_paths(request: pb.UpdateStorageRequest) -> list[str]:
    paths = list(dict.fromkeys(request.update_mask.paths))
    if not paths:
        paths = [field.name for field, _ in request.ListFields() if field.name in _UPDATABLE]
    wrong = [path for path in paths if path not in _UPDATABLE and not _LOGIN_PATH.fullmatch(path)]
    if wrong or not paths:
        problem = f"can't be changed: {', '.join(wrong)[:200]}" if wrong else "names nothing to change"
        raise ServiceError(
            grpc.StatusCode.INVALID_ARGUMENT,
            "UPDATE_MASK_INVALID",
            f"update_mask {problem}; there are description, owner, login and login.FIELD",
            field="update_mask",
        )
    return paths


def _owner(request: pb.UpdateStorageRequest) -> str:
    return user_name(request.owner, field="owner") if request.owner else ""


def _in_words(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return "default" if value is None else str(value)


def _policy_changes(request: pb.SetBackendPolicyRequest) -> dict[str, Any]:
    """The fields that the mask names, with their new values."""
    known = [field.name for field in request.policy.DESCRIPTOR.fields]
    named = list(dict.fromkeys(request.update_mask.paths))
    if not named:
        raise _invalid(
            "UPDATE_MASK_MISSING", "update_mask", f"name the fields to change: {', '.join(known)}, or *"
        )
    for path in named:
        if path not in known and named != ["*"]:
            message = f"{path[:100]} is no field of a policy; there are: {', '.join(known)}; * alone is all"
            raise _invalid("UPDATE_MASK_INVALID", "update_mask", message)
    try:
        return policy_changes(request.policy, known if named == ["*"] else named)
    except (ValueError, OverflowError) as error:
        raise _invalid("POLICY_INVALID", f"policy.{error}", f"{error} is no valid duration") from error


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)


def _after(page_token: str) -> str:
    token = decode_token(page_token, "page_token")
    if page_token and token.keys() != {"after"}:
        raise bad_token("page_token", "it is not one of this call's")
    return token.get("after", "")
