"""StorageAdmin: translates, calls, translates."""

from typing import Any

import grpc

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway.v1 import storage_admin_pb2_grpc
from spoolway_providers.registry import ProviderTypeError, provider_class, provider_types
from spoolway_server.auth import Authenticator
from spoolway_server.backends import Backends
from spoolway_server.errors import ServiceError
from spoolway_server.guard import Context
from spoolway_server.jobs import Jobs
from spoolway_server.names import backend_name, session_id, storage_name
from spoolway_server.policies import Policies
from spoolway_server.purges import Purges
from spoolway_server.roster import Listed, Roster
from spoolway_server.services.job_service import page_size
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import duration, job_to_proto, policy_changes, time_from, timestamp

__all__ = ["StorageAdmin"]


class StorageAdmin(storage_admin_pb2_grpc.StorageAdminServicer):
    """The calls of operators; the proto's comments say what each does."""

    def __init__(
        self,
        *,
        storages: Storages,
        jobs: Jobs,
        backends: Backends,
        policies: Policies,
        purges: Purges,
        roster: Roster,
        authenticator: Authenticator,
    ) -> None:
        """Translate for these."""
        self._storages = storages
        self._jobs = jobs
        self._backends = backends
        self._policies = policies
        self._purges = purges
        self._roster = roster
        self._caller = authenticator.authenticate

    async def ListStorages(
        self, request: pb.ListStoragesRequest, context: Context
    ) -> pb.ListStoragesResponse:
        self._caller(context)
        after = _after(request.page_token)
        size = page_size(request.page_size)
        names = sorted(name for name in self._storages.by_name if name > after)
        page = names[:size]
        return pb.ListStoragesResponse(
            storages=[self._show(self._storages.by_name[name]) for name in page],
            next_page_token=encode_token({"after": page[-1]}) if len(names) > size else "",
        )

    async def GetStorage(self, request: pb.GetStorageRequest, context: Context) -> pb.GetStorageResponse:
        self._caller(context)
        return pb.GetStorageResponse(storage=self._show(self._storages.get(storage_name(request.name))))

    async def TestStorage(self, request: pb.TestStorageRequest, context: Context) -> pb.TestStorageResponse:
        self._caller(context)
        storage = self._storages.get(storage_name(request.name))
        if not storage.opened.is_set():
            step = pb.TestStep(name="open", passed=False, advice=storage.trouble)
            return pb.TestStorageResponse(steps=[step], passed=False)
        steps = [
            pb.TestStep(name=step.name, passed=step.ok, duration=duration(step.elapsed), advice=step.advice)
            for step in await storage.provider.probe()
        ]
        return pb.TestStorageResponse(steps=steps, passed=all(step.passed for step in steps))

    async def ListProviderTypes(
        self, request: pb.ListProviderTypesRequest, context: Context
    ) -> pb.ListProviderTypesResponse:
        self._caller(context)
        return pb.ListProviderTypesResponse(types=[_provider_type(name) for name in provider_types()])

    async def SetBackendPolicy(
        self, request: pb.SetBackendPolicyRequest, context: Context
    ) -> pb.SetBackendPolicyResponse:
        self._caller(context)
        name = backend_name(request.name, field="name")
        changes = _policy_changes(request)
        backend = await self._backends.show(*await self._policies.change(name, changes, etag=request.etag))
        return pb.SetBackendPolicyResponse(backend=backend)

    async def PauseBackend(
        self, request: pb.PauseBackendRequest, context: Context
    ) -> pb.PauseBackendResponse:
        self._caller(context)
        changed = await self._policies.change(backend_name(request.name, field="name"), {"paused": True})
        return pb.PauseBackendResponse(backend=await self._backends.show(*changed))

    async def ResumeBackend(
        self, request: pb.ResumeBackendRequest, context: Context
    ) -> pb.ResumeBackendResponse:
        self._caller(context)
        changed = await self._policies.change(backend_name(request.name, field="name"), {"paused": False})
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
        step = await self._purges.step(
            backend_name(request.name, field="name"),
            caller.name,
            before=before,
            cancel_queued=request.cancel_queued,
            page_token=request.page_token,
        )
        return pb.PurgeBackendResponse(
            deleted=step.deleted, cancelled=step.cancelled, next_page_token=step.next_page_token
        )

    async def ListSpoolers(
        self, request: pb.ListSpoolersRequest, context: Context
    ) -> pb.ListSpoolersResponse:
        self._caller(context)
        backend = backend_name(request.backend) if request.backend else ""
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
        listed, taken_back = await self._roster.revoke(session, caller.name)
        return pb.RevokeSpoolerResponse(spooler=_spooler(listed), jobs_taken_back=taken_back)

    def _show(self, storage: Storage) -> pb.Storage:
        return pb.Storage(
            name=f"storages/{storage.name}",
            type=storage.type_name,
            description=storage.description,
            active=storage.active,
            is_default=storage is self._storages.default,
            read_only=True,
            health=pb.StorageHealth(serving=not storage.trouble, message=storage.trouble),
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
    return pb.ProviderType(name=name, description=found.description, login_fields=fields)


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
