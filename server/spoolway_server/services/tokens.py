"""The calls about access tokens: translate, call, translate."""

from datetime import datetime

import grpc

from spoolway.v1 import storage_admin_pb2 as pb
from spoolway_server.access_tokens import AccessTokens, new_token_id
from spoolway_server.audit import Audit
from spoolway_server.auth import Principal, Role
from spoolway_server.catalog import TokenRecord
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError
from spoolway_server.names import short_backend_name, token_name, user_name
from spoolway_server.services.job_service import page_size
from spoolway_server.tokens import bad_token, decode_token, encode_token
from spoolway_server.translate import time_from, timestamp

__all__ = ["TokenCalls"]

MAX_BACKENDS = 256
MAX_DESCRIPTION = 1000


class TokenCalls:
    """CreateToken, ListTokens and RevokeToken."""

    def __init__(self, tokens: AccessTokens, audit: Audit, clock: Clock) -> None:
        """Translate for these."""
        self._tokens = tokens
        self._audit = audit
        self._clock = clock

    async def create(self, caller: Principal, request: pb.CreateTokenRequest) -> pb.CreateTokenResponse:
        """Make a token; its secret is in the answer."""
        user = user_name(request.user, field="user")
        role = _role(request.role)
        backends = _backends(request, role)
        expires_at = self._expiry(request)
        if len(request.description) > MAX_DESCRIPTION:
            message = f"a description has at most {MAX_DESCRIPTION} characters"
            raise _invalid("DESCRIPTION_TOO_LONG", "description", message)
        token_id = new_token_id()
        async with self._audit.of(caller, "CreateToken", f"tokens/{token_id}") as deed:
            deed.detail = f"user {user}, role {role}"
            deed.detail += f", backends {' '.join(backends)}" if backends else ""
            deed.detail += f", until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
            record, secret = await self._tokens.create(
                token_id,
                user=user,
                role=role,
                created_by=caller.name,
                backends=backends,
                description=request.description,
                expires_at=expires_at,
            )
        return pb.CreateTokenResponse(token=_token(record), secret=secret)

    async def list_page(self, request: pb.ListTokensRequest) -> pb.ListTokensResponse:
        """A page of the tokens."""
        user = user_name(request.user, field="user") if request.user else ""
        size = page_size(request.page_size)
        after = decode_token(request.page_token, "page_token")
        if request.page_token and not (after.keys() == {"token", "user"} and after["user"] == user):
            raise bad_token("page_token", "it goes with the same call and filter only")
        found = [
            record
            for record in await self._tokens.all()
            if record.id > after.get("token", "") and (not user or record.user == user)
        ]
        page = found[:size]
        more = encode_token({"token": page[-1].id, "user": user}) if len(found) > size else ""
        return pb.ListTokensResponse(tokens=map(_token, page), next_page_token=more)

    async def revoke(self, caller: Principal, request: pb.RevokeTokenRequest) -> pb.RevokeTokenResponse:
        """End a token for good."""
        token_id = token_name(request.name)
        async with self._audit.of(caller, "RevokeToken", f"tokens/{token_id}") as deed:
            record = await self._tokens.revoke(token_id)
            deed.detail = f"user {record.user}, role {record.role}"
        return pb.RevokeTokenResponse(token=_token(record))

    def _expiry(self, request: pb.CreateTokenRequest) -> datetime | None:
        if not request.HasField("expire_time"):
            return None
        try:
            expires_at = time_from(request.expire_time)
        except (ValueError, OverflowError) as error:
            raise _invalid("TIME_INVALID", "expire_time", "expire_time is no valid time") from error
        if expires_at <= self._clock.now():
            raise _invalid("EXPIRE_TIME_PAST", "expire_time", "expire_time has passed; give a later one")
        return expires_at


def _role(number: int) -> Role:
    if number == pb.ROLE_UNSPECIFIED or number not in pb.Role.values():
        raise _invalid("ROLE_INVALID", "role", f"a token has a role: {', '.join(Role)}")
    return Role(pb.Role.Name(pb.Role.ValueType(number)).removeprefix("ROLE_").lower())


def _backends(request: pb.CreateTokenRequest, role: Role) -> list[str]:
    if request.backends and role is not Role.SPOOLER:
        message = f"only spoolers are bound to backends; a token of the role {role} has none"
        raise _invalid("BACKENDS_INVALID", "backends", message)
    if len(request.backends) > MAX_BACKENDS:
        raise _invalid("BACKENDS_INVALID", "backends", f"name at most {MAX_BACKENDS} backends, or none: any")
    return [short_backend_name(name, field="backends") for name in request.backends]


def _token(record: TokenRecord) -> pb.Token:
    return pb.Token(
        name=f"tokens/{record.id}",
        user=record.user,
        role=pb.Role.Value(f"ROLE_{record.role.upper()}"),
        backends=record.backends,
        description=record.name,
        create_time=timestamp(record.created_at),
        created_by=record.created_by,
        expire_time=timestamp(record.expires_at),
        last_use_time=timestamp(record.last_used_at),
        revoke_time=timestamp(record.revoked_at),
    )


def _invalid(reason: str, field: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, reason, message, field=field)
