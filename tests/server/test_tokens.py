"""Access tokens: who has a good one gets in, and nobody else (F14)."""

import asyncio
import hashlib
import re
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from spoolway.v1 import job_service_pb2 as pb
from spoolway.v1 import storage_admin_pb2 as admin_pb
from spoolway_server.auth import Role
from spoolway_server.catalog import AuditQuery, CatalogUnavailable, TokenRecord
from spoolway_server.clock import Clock
from tests.server.conftest import StartLab
from tests.server.fake_spooler import FakeSpooler
from tests.server.lab import PATIENCE_S, Caller, Lab, eventually
from tests.server.refusals import Refused, error_info, refusal

pytestmark = pytest.mark.parametrize("storage_type", ["memory"], indirect=True)

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
TOKENS = {"mode": "tokens"}


@pytest.fixture
async def lab(start_lab: StartLab) -> Lab:
    """A server that wants tokens: of ada, an admin, of robot, a spooler, and of alice, a user."""
    started = await start_lab(auth=TOKENS)
    await started.give_token("ada", Role.ADMIN)
    await started.give_token("robot", Role.SPOOLER)
    await started.give_token("alice")
    await started.caller("robot").register("sim")
    return started


@pytest.fixture
def ada(lab: Lab) -> Caller:
    return lab.caller("ada")


async def create(ada: Caller, user: str, **fields: Any) -> admin_pb.CreateTokenResponse:
    fields = {"role": admin_pb.ROLE_USER} | fields
    answer: admin_pb.CreateTokenResponse = await ada.CreateToken(
        admin_pb.CreateTokenRequest(user=user, **fields)
    )
    return answer


async def revoke(ada: Caller, name: str) -> admin_pb.Token:
    return (await ada.RevokeToken(admin_pb.RevokeTokenRequest(name=name))).token


async def how_ended(stream: Any) -> Refused:
    """The error that ends a stream of answers."""

    async def read_all() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    return await refusal(asyncio.wait_for(read_all(), PATIENCE_S))


async def test_a_secret_is_shown_once_and_stored_hashed(lab: Lab, ada: Caller) -> None:
    """The catalog has its SHA-256, a list has not even that; the trail has who made it."""
    made = await create(ada, "bob", description="Bob's notebook")
    listed = await ada.ListTokens(admin_pb.ListTokensRequest(user="bob"))
    stored = await lab.server.catalog.get(TokenRecord, made.token.name.removeprefix("tokens/"))
    [event] = (await lab.server.audit.events(AuditQuery(what="CreateToken"))).events

    assert re.fullmatch(r"spw_[0-9a-f]{64}", made.secret)
    assert stored is not None
    assert stored.hash == hashlib.sha256(made.secret.encode()).hexdigest()
    assert made.secret not in str(listed) + str(stored) + str(event)
    assert list(listed.tokens) == [made.token]
    assert (event.who, event.subject, event.detail) == ("ada", made.token.name, "user bob, role user")


async def test_a_bearer_is_who_the_token_says(lab: Lab, ada: Caller) -> None:
    """The name in `spoolway-user` counts for nothing beside a token."""
    lab.secrets["mallory"] = (await create(ada, "bob")).secret

    job = await lab.caller("mallory").submit()

    assert job.owner == "bob"


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (None, "TOKEN_MISSING"),
        ("Bearer spw_" + "0" * 64, "TOKEN_INVALID"),
        ("Bearer ", "TOKEN_INVALID"),
        ("Basic YWRhOmFkYQ==", "TOKEN_INVALID"),
        ("spw_" + "0" * 64, "TOKEN_INVALID"),
    ],
)
async def test_without_a_good_token_nobody_gets_in(lab: Lab, shown: str | None, reason: str) -> None:
    """No token, a wrong one, or something else in its place."""
    metadata = [("spoolway-user", "ada")] + ([("authorization", shown)] if shown is not None else [])
    call = lab.channel.unary_unary("/spoolway.v1.JobService/ListBackends")

    refused = await refusal(call(b"", metadata=metadata))

    assert (refused.code, refused.reason) == (UNAUTHENTICATED, reason)


async def test_f14_a_revoked_token_posts_no_jobs(lab: Lab, ada: Caller) -> None:
    """It is refused from the answer on, and shown as revoked; a repeat changes nothing."""
    bob = await create(ada, "bob")
    lab.secrets["bob"] = bob.secret
    await lab.caller("bob").submit()

    first = await revoke(ada, bob.token.name)
    again = await revoke(ada, bob.token.name.removeprefix("tokens/"))
    refused = await refusal(lab.caller("bob").submit())

    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "TOKEN_REVOKED")
    assert first.HasField("revoke_time")
    assert first.revoke_time == again.revoke_time


async def test_a_revocation_ends_what_is_open(lab: Lab, ada: Caller) -> None:
    """A watch and a wait of the token end with the reason; those of other tokens go on."""
    alice, bob = await create(ada, "alice"), await create(ada, "bob")
    lab.secrets |= {"alice": alice.secret, "bob": bob.secret}
    jobs = {user: (await lab.caller(user).submit()).name for user in ("alice", "bob")}
    watches = {user: lab.caller(user).WatchJobs(pb.WatchJobsRequest()) for user in jobs}
    for watch in watches.values():
        await watch.read()
    wait = lab.caller("bob").WaitJob(pb.WaitJobRequest(name=jobs["bob"], timeout=Duration(seconds=60)))
    await eventually(lambda: len(lab.server.tokens._held[bob.token.name.removeprefix("tokens/")]) == 2)

    await revoke(ada, bob.token.name)
    ended, answer = await how_ended(watches["bob"]), await refusal(wait)
    await lab.caller("alice").cancel(jobs["alice"])

    assert (ended.code, ended.reason) == (UNAUTHENTICATED, "TOKEN_REVOKED")
    assert (answer.code, answer.reason) == (UNAUTHENTICATED, "TOKEN_REVOKED")
    assert not lab.server.tokens._held.keys() & {bob.token.name.removeprefix("tokens/")}
    assert (await watches["alice"].read()) is not grpc.aio.EOF


async def test_who_reads_nothing_is_cut_off_too(
    lab: Lab, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that waits for its client to take a message ends after a grace, without a word."""
    monkeypatch.setattr("spoolway_server.guard.SEND_GRACE_S", 0.1)
    bob = await create(ada, "bob")
    lab.secrets["bob"] = bob.secret
    labels = {f"key-{number}": "x" * 250 for number in range(32)}
    one = pb.SubmitJobRequest(backend="sim", content=b"{}", labels=labels)
    for _ in range(4):
        await lab.caller("bob").SubmitJobs(pb.SubmitJobsRequest(requests=[one] * 250))
    watch = lab.caller("bob").WatchJobs(pb.WatchJobsRequest())
    await watch.read()
    held = lab.server.tokens._held
    [interrupt] = held[bob.token.name.removeprefix("tokens/")]
    await eventually(lambda: interrupt.sending)

    await revoke(ada, bob.token.name)

    await eventually(lambda: not held.keys() & {bob.token.name.removeprefix("tokens/")})
    watch.cancel()


async def test_a_spooler_is_cut_off_with_its_token(lab: Lab, ada: Caller) -> None:
    """Its stream ends with the reason; with another token of the same user it goes on with its job."""
    token = await lab.give_token("robot", Role.SPOOLER)
    spooler = FakeSpooler(lab)
    await spooler.connect()
    await spooler.credit(1)
    name = (await lab.caller("alice").submit()).name
    assignment = await spooler.assignment()
    await spooler.accept(assignment)

    await revoke(ada, token.id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await spooler.ended()
    await lab.give_token("robot", Role.SPOOLER)
    again = FakeSpooler(lab, instance_id=spooler.instance_id)
    welcome = await again.connect(held=[pb.HeldLease(job=assignment.job, lease_token=assignment.lease_token)])

    assert error_info(caught.value).reason == "TOKEN_REVOKED"
    assert list(welcome.kept) == [name]


async def test_a_revocation_reaches_other_processes(start_lab: StartLab, tmp_path: Any) -> None:
    """Within 5 s the other server refuses the token, and ends its stream there."""
    catalog = {"path": str(tmp_path / "catalog.sqlite")}
    here, there = [await start_lab(clock=Clock(), catalog=catalog, auth=TOKENS) for _ in range(2)]
    await here.give_token("ada", Role.ADMIN)
    token = await here.give_token("alice")
    there.secrets = here.secrets
    await there.server.tokens.refresh()
    watch = there.caller("alice").WatchJobs(pb.WatchJobsRequest())
    await watch.read()

    async with asyncio.timeout(5):
        await revoke(here.caller("ada"), token.id)
        ended = await how_ended(watch)
        refused = await refusal(there.caller("alice").ListBackends(pb.ListBackendsRequest()))

    assert (ended.code, ended.reason) == (UNAUTHENTICATED, "TOKEN_REVOKED")
    assert refused.reason == "TOKEN_REVOKED"


async def test_a_token_ends_by_itself(lab: Lab) -> None:
    """From its expire_time on it is refused, and what it has opened ends."""
    await lab.give_token("alice", expires_at=lab.clock.now() + timedelta(seconds=1))
    watch = lab.caller("alice").WatchJobs(pb.WatchJobsRequest())
    await watch.read()

    ended = await how_ended(watch)
    lab.jump(1)
    refused = await refusal(lab.caller("alice").ListBackends(pb.ListBackendsRequest()))

    assert (ended.code, ended.reason) == (UNAUTHENTICATED, "TOKEN_EXPIRED")
    assert (refused.code, refused.reason) == (UNAUTHENTICATED, "TOKEN_EXPIRED")


async def test_the_last_use_is_noted_once_a_minute(lab: Lab, ada: Caller) -> None:
    """The first use is seen at once, one within the same minute is not written, a later one is."""
    bob = await create(ada, "bob")
    lab.secrets["bob"] = bob.secret

    async def used() -> Any:
        await lab.caller("bob").ListBackends(pb.ListBackendsRequest())
        await lab.server.tokens.stop()
        [token] = (await ada.ListTokens(admin_pb.ListTokensRequest(user="bob"))).tokens
        return token.last_use_time

    first = await used()
    second = await used()
    lab.jump(61)
    third = await used()

    assert first == second
    assert third.ToDatetime() - first.ToDatetime() >= timedelta(seconds=60)


async def test_an_outage_of_the_catalog_shuts_nobody_out_for_a_minute(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known tokens are believed for 60 s, then all are UNAVAILABLE, until the catalog answers again."""

    async def fail(*_: Any) -> Any:
        raise CatalogUnavailable("the test has it so")

    monkeypatch.setattr("spoolway_server.following.RETRY_S", 0.01)
    with monkeypatch.context() as broken:
        for method in ("version", "wait", "all", "get"):
            broken.setattr(lab.server.catalog, method, fail)
        lab.server.catalog._changed.set()  # type: ignore[attr-defined]  # wakes the wait under way
        await eventually(lambda: lab.server.following.silence_s > 0)
        await lab.caller("alice").ListBackends(pb.ListBackendsRequest())
        lab.jump(61)
        refused = await refusal(lab.caller("alice").ListBackends(pb.ListBackendsRequest()))
        unknown = await refusal(lab.caller("nobody").ListBackends(pb.ListBackendsRequest()))
    await eventually(lambda: lab.server.following.silence_s == 0)
    await lab.caller("alice").ListBackends(pb.ListBackendsRequest())

    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "CATALOG_UNAVAILABLE")
    assert refused.retry_after
    assert unknown.reason == "TOKEN_MISSING"


async def test_a_spooler_is_bound_to_its_backends(lab: Lab) -> None:
    """With a token for one backend it registers and serves that one, and no other."""
    await lab.give_token("lamp", Role.SPOOLER, backends=["lamp"])
    lamp = lab.caller("lamp")
    await lamp.register("lamp")
    other = FakeSpooler(lab, user="lamp", backends=["sim"])
    other.open()
    await other.say_hello()

    refused = [
        await refusal(lamp.register("sim")),
        await refusal(
            lamp.NextJob(pb.NextJobRequest(spooler_id="s", instance_id="i", backends=["lamp", "sim"]))
        ),
        await refusal(lamp.FailJob(pb.FailJobRequest(job="backends/sim/jobs/x", lease_token="0" * 32))),
        await refusal(other.ended()),
    ]
    own = FakeSpooler(lab, user="lamp", backends=["lamp"])

    assert {(one.code, one.reason) for one in refused} == {(DENIED, "BACKEND_NOT_ALLOWED")}
    assert (await own.connect()).session


async def test_tokens_are_listed_in_pages(lab: Lab, ada: Caller) -> None:
    """Page by page all are listed, each once, by name."""
    names: list[str] = []
    token = ""
    while True:
        page = await ada.ListTokens(admin_pb.ListTokensRequest(page_size=2, page_token=token))
        names += [one.name for one in page.tokens]
        token = page.next_page_token
        if not token:
            break

    assert len(names) == 3
    assert names == sorted(names)


@pytest.mark.parametrize("token", ["e30=", "eyJ0b2tlbiI6IngifQ==", "x"])
async def test_a_page_token_of_something_else_is_refused(ada: Caller, token: str) -> None:
    """A token goes with its own call and filter."""
    refused = await refusal(ada.ListTokens(admin_pb.ListTokensRequest(page_token=token)))

    assert refused.reason == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"role": admin_pb.ROLE_UNSPECIFIED}, "ROLE_INVALID"),
        ({"role": 77}, "ROLE_INVALID"),
        ({"user": "../ada"}, "USER_NAME_INVALID"),
        ({"backends": ["sim"]}, "BACKENDS_INVALID"),
        ({"role": admin_pb.ROLE_SPOOLER, "backends": ["../sim"]}, "BACKEND_NAME_INVALID"),
        ({"role": admin_pb.ROLE_SPOOLER, "backends": ["sim"] * 257}, "BACKENDS_INVALID"),
        ({"description": "x" * 1001}, "DESCRIPTION_TOO_LONG"),
        ({"expire_time": {"seconds": 1}}, "EXPIRE_TIME_PAST"),
        ({"expire_time": {"seconds": 2**60}}, "TIME_INVALID"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    ada: Caller, fields: dict[str, Any], reason: str
) -> None:
    """Each mistake has a reason of its own, and nothing is made."""
    request = admin_pb.CreateTokenRequest(**({"user": "bob", "role": admin_pb.ROLE_USER} | fields))

    refused = await refusal(ada.CreateToken(request))

    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert not (await ada.ListTokens(admin_pb.ListTokensRequest(user="bob"))).tokens


@pytest.mark.parametrize(("name", "code"), [("0" * 16, "NOT_FOUND"), ("../x", "INVALID_ARGUMENT")])
async def test_a_token_that_is_not_there_is_not_revoked(ada: Caller, name: str, code: str) -> None:
    """Unknown is NOT_FOUND; what is no name of a token is refused before it is looked for."""
    assert (await refusal(revoke(ada, name))).code.name == code
