"""Access tokens: made, listed, revoked, and known to this process as the catalog has them.

A token's secret is shown once; the catalog keeps its SHA-256. 256 random bits need no slower hash: there is
nothing to guess. What a call needs lies in memory, so no call waits for the catalog, and an outage of the
catalog shuts nobody out for the first minute.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import grpc
import msgspec
import structlog

from spoolway_server.auth import Principal, Role
from spoolway_server.catalog import Catalog, CatalogConflict, TokenRecord
from spoolway_server.clock import Clock
from spoolway_server.errors import ServiceError
from spoolway_server.following import Following
from spoolway_server.guard import Context, Interrupt

__all__ = ["SECRET_PREFIX", "AccessTokens", "TokenAuthenticator", "new_token_id", "store_new_token"]

_log = structlog.get_logger(__name__)

SECRET_PREFIX = "spw_"  # noqa: S105  # no secret: what a scanner knows one by
"""Secrets are this and 64 hex digits."""
SECRET_BITS = 256
CATALOG_PATIENCE_S = 60.0
"""How long tokens are believed while the catalog does not answer: a revocation would not be heard of."""
USE_NOTED_EVERY = timedelta(minutes=1)
MAX_TRIES = 5


def new_token_id() -> str:
    """Names a token; no secret."""
    return secrets.token_hex(8)


async def store_new_token(
    catalog: Catalog,
    token_id: str,
    *,
    user: str,
    role: Role,
    created_by: str,
    now: datetime,
    backends: Sequence[str] = (),
    description: str = "",
    expires_at: datetime | None = None,
) -> tuple[TokenRecord, str]:
    """Make a token and store it; fields are checked.

    Returns:
        Its record, and its secret, which nobody ever sees again.
    """
    secret = SECRET_PREFIX + secrets.token_hex(SECRET_BITS // 8)
    record = TokenRecord(
        id=token_id,
        hash=_hash(secret),
        name=description,
        user=user,
        role=role,
        backends=tuple(dict.fromkeys(backends)),
        created_at=now,
        created_by=created_by,
        expires_at=expires_at,
    )
    return await catalog.put(record), secret


class AccessTokens:
    """The tokens of the catalog, as this process knows them."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        """None are known before `refresh`."""
        self._catalog = catalog
        self._clock = clock
        self._by_hash: dict[str, tuple[TokenRecord, Principal]] = {}
        self._by_id: dict[str, TokenRecord] = {}
        self._refreshing = asyncio.Lock()
        self._held: dict[str, set[Interrupt]] = {}
        """Lasting calls under way, by the token that opened them."""
        self._expiries: dict[Interrupt, asyncio.TimerHandle] = {}
        self._noted: dict[str, datetime] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def refresh(self) -> None:
        """Know what the catalog says now, and end the calls of tokens that are revoked by now."""
        # One after another: an older answer that comes late must not bring a revoked token back.
        async with self._refreshing:
            records = await self._catalog.all(TokenRecord)
            self._by_hash = {record.hash: (record, _principal(record)) for record in records}
            self._by_id = {record.id: record for record in records}
        for token_id in self._held:
            record = self._by_id.get(token_id)
            if record is None or record.revoked_at is not None:
                self._end_calls(token_id, _revoked())

    async def stop(self) -> None:
        """Finish what is being noted."""
        await asyncio.gather(*self._noting, return_exceptions=True)

    # Calls

    def principal(self, secret: str) -> Principal:
        """Who calls with a secret; ServiceError UNAUTHENTICATED if it is not good (any more)."""
        digest = _hash(secret)
        record, principal = self._by_hash.get(digest, (None, None))
        if record is None or principal is None or not hmac.compare_digest(record.hash, digest):
            raise _unauthenticated("TOKEN_INVALID", "there is no such access token; ask an admin for one")
        if record.revoked_at is not None:
            raise _revoked()
        if record.expires_at is not None and record.expires_at <= self._clock.now():
            raise _expired()
        self._note_use(record)
        return principal

    def hold(self, token_id: str, interrupt: Interrupt) -> None:
        """End a call once its token is revoked or expires."""
        self._held.setdefault(token_id, set()).add(interrupt)
        record = self._by_id.get(token_id)
        if record is not None and record.expires_at is not None:
            left_s = (record.expires_at - self._clock.now()).total_seconds()
            self._expiries[interrupt] = asyncio.get_running_loop().call_later(
                left_s, interrupt.end, _expired()
            )

    def let_go(self, token_id: str, interrupt: Interrupt) -> None:
        """A call is over."""
        held = self._held.get(token_id, set())
        held.discard(interrupt)
        if not held:
            self._held.pop(token_id, None)
        if timer := self._expiries.pop(interrupt, None):
            timer.cancel()

    def _end_calls(self, token_id: str, error: ServiceError) -> None:
        for interrupt in self._held.get(token_id, ()):
            interrupt.end(error)

    def _note_use(self, record: TokenRecord) -> None:
        now = self._clock.now()
        last = max(filter(None, (record.last_used_at, self._noted.get(record.id))), default=None)
        if last is None or now - last >= USE_NOTED_EVERY:
            self._noted[record.id] = now
            task = asyncio.create_task(self._write_use(record.id, now))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def _write_use(self, token_id: str, now: datetime) -> None:
        try:
            record = await self._catalog.get(TokenRecord, token_id)
            if record is not None and (record.last_used_at is None or record.last_used_at < now):
                await self._catalog.put(msgspec.structs.replace(record, last_used_at=now))
        except CatalogConflict:
            # Another process has noted it, or the token was revoked: that matters more.
            return
        except ServiceError as error:
            _log.warning("last use of a token not stored", token_id=token_id, error=error.message)

    # Changes

    async def create(
        self,
        token_id: str,
        *,
        user: str,
        role: Role,
        created_by: str,
        backends: Sequence[str],
        description: str,
        expires_at: datetime | None,
    ) -> tuple[TokenRecord, str]:
        """Make a token, good at once; see `store_new_token`."""
        made = await store_new_token(
            self._catalog,
            token_id,
            user=user,
            role=role,
            created_by=created_by,
            now=self._clock.now(),
            backends=backends,
            description=description,
            expires_at=expires_at,
        )
        await self.refresh()
        return made

    async def all(self) -> list[TokenRecord]:
        """All tokens by id, as the catalog has them now."""
        return await self._catalog.all(TokenRecord)

    async def revoke(self, token_id: str) -> TokenRecord:
        """End a token for good, here at once."""
        for attempt in range(MAX_TRIES):
            record = await self._catalog.get(TokenRecord, token_id)
            if record is None:
                raise ServiceError(
                    grpc.StatusCode.NOT_FOUND,
                    "TOKEN_NOT_FOUND",
                    f"there is no token {token_id}; ListTokens tells which there are",
                    field="name",
                )
            try:
                if record.revoked_at is None:
                    now = self._clock.now()
                    record = await self._catalog.put(msgspec.structs.replace(record, revoked_at=now))
                await self.refresh()
                return record
            except CatalogConflict:
                # Its last use was noted meanwhile.
                if attempt + 1 == MAX_TRIES:
                    raise
        raise AssertionError("unreachable")


class TokenAuthenticator:
    """Believes who shows an access token, and nobody else."""

    def __init__(self, tokens: AccessTokens, following: Following) -> None:
        """Believe `tokens` as long as `following` hears of the catalog."""
        self._tokens = tokens
        self._following = following

    def authenticate(self, context: Context) -> Principal:
        """The bearer of a token."""
        text = next(
            (value for key, value in context.invocation_metadata() or () if key == "authorization"), None
        )
        if text is None:
            raise _unauthenticated(
                "TOKEN_MISSING",
                "this server wants an access token in the metadata `authorization`: Bearer spw_...; clients "
                "take it from the variable SPOOLWAY_TOKEN",
            )
        if not self._following.is_read or self._following.silence_s > CATALOG_PATIENCE_S:
            raise ServiceError(
                grpc.StatusCode.UNAVAILABLE,
                "CATALOG_UNAVAILABLE",
                "access tokens can't be checked: the server's catalog does not answer; try again",
            )
        scheme, _, secret = (text if isinstance(text, str) else text.decode("latin-1")).partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthenticated(
                "TOKEN_INVALID", "the metadata `authorization` is the word Bearer, a space, and the token"
            )
        return self._tokens.principal(secret.strip())

    def hold(self, caller: Principal, interrupt: Interrupt) -> None:
        """See the protocol."""
        self._tokens.hold(caller.token, interrupt)

    def let_go(self, caller: Principal, interrupt: Interrupt) -> None:
        """See the protocol."""
        self._tokens.let_go(caller.token, interrupt)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _principal(record: TokenRecord) -> Principal:
    role = Role(record.role)
    return Principal(
        record.user,
        sees_all=role in (Role.OPERATOR, Role.ADMIN),
        role=role,
        backends=frozenset(record.backends),
        token=record.id,
    )


def _unauthenticated(reason: str, message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAUTHENTICATED, reason, message)


def _revoked() -> ServiceError:
    return _unauthenticated("TOKEN_REVOKED", "this access token was revoked; ask an admin for another one")


def _expired() -> ServiceError:
    return _unauthenticated("TOKEN_EXPIRED", "this access token has expired; ask an admin for another one")
