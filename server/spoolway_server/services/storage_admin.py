"""StorageAdmin: translates, calls, translates."""

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway.v1 import storage_admin_pb2_grpc
from spoolway_providers.registry import ProviderTypeError, provider_class, provider_types
from spoolway_server.auth import Authenticator
from spoolway_server.guard import Context
from spoolway_server.names import storage_name
from spoolway_server.services.job_service import page_size
from spoolway_server.storage import Storage
from spoolway_server.storages import Storages
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import duration

__all__ = ["StorageAdmin"]


class StorageAdmin(storage_admin_pb2_grpc.StorageAdminServicer):
    """The calls of operators; the proto's comments say what each does."""

    def __init__(self, *, storages: Storages, authenticator: Authenticator) -> None:
        """Translate for these."""
        self._storages = storages
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


def _after(page_token: str) -> str:
    token = decode_token(page_token, "page_token")
    if page_token and token.keys() != {"after"}:
        raise bad_token("page_token", "it is not one of this call's")
    return token.get("after", "")
