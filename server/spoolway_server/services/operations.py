"""The calls of StorageAdmin for work that takes long: it translates, calls, translates."""

from collections.abc import AsyncGenerator

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway_server.audit import Audit
from spoolway_server.auth import caller_of
from spoolway_server.catalog import OperationRecord
from spoolway_server.checking import check
from spoolway_server.copying import COPY, Copying
from spoolway_server.guard import Context
from spoolway_server.importing import Importing
from spoolway_server.names import operation_id, storage_name, user_name
from spoolway_server.new_logins import checked_login
from spoolway_server.operations import Operations
from spoolway_server.services.job_service import page_size
from spoolway_server.services.logins import read_login
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import timestamp

__all__ = ["OperationCalls"]


class OperationCalls:
    """A part of StorageAdmin."""

    def __init__(
        self,
        *,
        storages: Storages,
        operations: Operations,
        copying: Copying,
        importing: Importing,
        audit: Audit,
    ) -> None:
        """Translate for these."""
        self._storages = storages
        self._operations = operations
        self._copying = copying
        self._importing = importing
        self._audit = audit
        self._caller = caller_of

    async def CopyStorage(self, request: pb.CopyStorageRequest, context: Context) -> pb.CopyStorageResponse:
        caller = self._caller(context)
        source = storage_name(request.source, field="source")
        target = storage_name(request.target, field="target")
        async with self._audit.of(caller, "CopyStorage", f"storages/{source}") as deed:
            deed.detail = f"into {target}"
            record = await self._copying.plan(source, target, self._operations, caller.name)
            record = await self._operations.begin(record)
            deed.detail += f", operation {record.id}"
        return pb.CopyStorageResponse(operation=_operation(record))

    async def ImportStorage(
        self, request: pb.ImportStorageRequest, context: Context
    ) -> pb.ImportStorageResponse:
        caller = self._caller(context)
        target = storage_name(request.target, field="target")
        owner = user_name(request.owner, field="owner") if request.owner else caller.name
        async with self._audit.of(caller, "ImportStorage", f"storages/{target}") as deed:
            login = await checked_login(*read_login(request.login, request.type))
            deed.detail = f"type {login.type}"
            record = await self._importing.plan(target, login, self._operations, owner=owner, by=caller.name)
            record = await self._operations.begin(record)
            deed.detail += f", operation {record.id}"
        return pb.ImportStorageResponse(operation=_operation(record))

    async def CheckStorage(
        self, request: pb.CheckStorageRequest, context: Context
    ) -> AsyncGenerator[pb.CheckStorageResponse, None]:
        caller = self._caller(context)
        name = storage_name(request.name)
        storage = self._storages.get(name)
        found = 0
        async with self._audit.of(caller, "CheckStorage", f"storages/{name}") as deed:
            async for step in check(storage, repair=request.repair, checksums=request.verify_checksums):
                found += len(step.findings)
                deed.detail = f"{found} findings" + (", repaired on request" if request.repair else "")
                findings = [
                    pb.StorageFinding(
                        kind=one.kind, subject=one.subject, message=one.message, repaired=one.repaired
                    )
                    for one in step.findings
                ]
                yield pb.CheckStorageResponse(
                    findings=findings, checked_jobs=step.checked, total_jobs=step.total
                )

    async def GetOperation(
        self, request: pb.GetOperationRequest, context: Context
    ) -> pb.GetOperationResponse:
        self._caller(context)
        record = await self._operations.get(operation_id(request.name))
        return pb.GetOperationResponse(operation=_operation(record))

    async def ListOperations(
        self, request: pb.ListOperationsRequest, context: Context
    ) -> pb.ListOperationsResponse:
        self._caller(context)
        records = list(await self._operations.all())
        token = decode_token(request.page_token, "page_token")
        if token:
            if token.keys() != {"created", "id"}:
                raise bad_token("page_token", "it is not one of this call's")
            last = (token["created"], token["id"])
            records = [one for one in records if (one.created_at.isoformat(), one.id) < last]
        size = page_size(request.page_size)
        page, more = records[:size], len(records) > size
        place = {"created": page[-1].created_at.isoformat(), "id": page[-1].id} if more else {}
        return pb.ListOperationsResponse(
            operations=[_operation(record) for record in page],
            next_page_token=encode_token(place) if more else "",
        )

    async def WatchOperation(
        self, request: pb.WatchOperationRequest, context: Context
    ) -> AsyncGenerator[pb.WatchOperationResponse, None]:
        self._caller(context)
        async for record in self._operations.watch(operation_id(request.name)):
            yield pb.WatchOperationResponse(operation=_operation(record))

    async def CancelOperation(
        self, request: pb.CancelOperationRequest, context: Context
    ) -> pb.CancelOperationResponse:
        caller = self._caller(context)
        wanted = operation_id(request.name)
        async with self._audit.of(caller, "CancelOperation", f"operations/{wanted}"):
            record = await self._operations.cancel(wanted)
        return pb.CancelOperationResponse(operation=_operation(record))


def _operation(record: OperationRecord) -> pb.Operation:
    return pb.Operation(
        name=f"operations/{record.id}",
        type=pb.OperationType.Value(f"OPERATION_TYPE_{record.type}"),
        source=f"storages/{record.source}" if record.type == COPY else record.source,
        target=f"storages/{record.target}",
        backends=record.backends,
        state=pb.OperationState.Value(f"OPERATION_STATE_{record.state}"),
        cancel_requested=record.is_cancelled,
        phase=record.phase,
        done_jobs=record.done,
        total_jobs=record.total,
        reason=record.reason,
        message=record.message,
        create_time=timestamp(record.created_at),
        creator=record.created_by,
        update_time=timestamp(record.updated_at),
        end_time=timestamp(record.ended_at),
    )
