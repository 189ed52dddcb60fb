"""What lies in a storage: made with jobs of every kind, and compared with another one."""

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from spoolway_providers import digests, rules
from spoolway_providers.conformance import Scene
from spoolway_providers.interface import Provider, Query
from spoolway_providers.model import BlobRef, Job, Policy, State, new_token

__all__ = ["contents_of", "fill"]

BACKENDS = ("sim", "dye")
KINDS = 7


async def fill(provider: Provider, count: int) -> None:
    """Make `count` jobs on two backends: in every state but those that a session holds, some of them long."""
    scene = Scene(provider, new_token())
    for name in BACKENDS:
        await provider.put_config(name, b'{"description": "%s"}' % name.encode(), None)
    await provider.put_policy("dye", Policy(max_queued=100_000, retention=timedelta(days=400)), None)
    await provider.put_public_key("kid-1", b'{"kid": "kid-1"}')
    await scene.set_up("sim")
    for first in range(0, count, 100):
        drafts = [_draft(scene, number) for number in range(first, min(first + 100, count))]
        for draft in drafts:
            if isinstance(draft.content, BlobRef):
                await provider.stage(draft.content.id, 0, _long(draft.content.id))
        for number, job in enumerate(await provider.submit(drafts), first):
            assert isinstance(job, Job), job
            if number % KINDS:
                await _treat(scene, job, number % KINDS)


def _draft(scene: Scene, number: int) -> Any:
    content: bytes | BlobRef = b'{"n": %d}' % number
    if number % 50 == 3:
        content = digests.blob_ref(f"upload-{number}", _long(f"upload-{number}"))
    return scene.draft(
        backend=BACKENDS[number % 3 == 1],
        owner=f"user{number % 5}",
        content=content,
        request_id=f"r-{number}" if number % 2 else "",
        labels={"run": str(number % 10)},
    )


def _long(name: str) -> bytes:
    return b'["%s", "%s"]' % (name.encode(), b"x" * 300_000)


async def _treat(scene: Scene, job: Job, kind: int) -> None:
    """Bring a job into one of the states, or leave it in the queue."""
    if kind in {1, 2}:
        # Held out of the queue for a moment, so that this one is claimed.
        [claimed] = await _claim(scene, job)
        accepted = await scene.do(claimed, rules.Accept(claimed.attempts[-1].token))
        if kind == 1:
            await scene.complete(accepted, b'{"result_of": "%s"}' % job.key.id.encode())
        else:
            failure = rules.Fail(claimed.attempts[-1].token, "it broke", retryable=False)
            await scene.do(accepted, failure)
    elif kind == 3:
        await scene.do(job, rules.Cancel(job.owner))
    elif kind == 4:
        await scene.do(job, rules.Hold("olga"))


async def _claim(scene: Scene, job: Job) -> list[Job]:
    order = scene.order()
    event = rules.Claim(order.token, order.session, order.spooler)
    return [await scene.do(job, event)]


async def contents_of(provider: Provider) -> dict[str, Any]:
    """All that a copy keeps: jobs in their order with their bytes, backends and keys."""
    jobs = []
    cursor = ""
    while True:
        page = await provider.find(Query(limit=500, cursor=cursor))
        for job in page.jobs:
            content = await provider.read_blob(job.content, 0, 1 << 20)
            result = await provider.read_blob(job.result, 0, 1 << 20) if job.result else None
            assert len(content) == job.content.size
            jobs.append((replace(job, seq=0), content, result))
        cursor = page.cursor
        if not cursor:
            break
    waiting = [await provider.count(Query(states=(state,), limit=1_000_000)) for state in State]
    return {
        "jobs": jobs,
        "backends": await provider.backends(),
        "keys": await provider.public_keys(),
        "states": waiting,
    }
