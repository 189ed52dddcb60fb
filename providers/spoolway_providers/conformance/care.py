# ruff: noqa: S101 - these are tests
"""Backends, repair and probe."""

import asyncio

import pytest
from msgspec.structs import replace

from spoolway_providers import rules
from spoolway_providers.conformance.scene import BACKEND, Base, Scene
from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import Backend, Policy, State


class CareConformance(Base):
    """What the methods about backends promise, and those that care for the storage."""

    async def test_config_is_kept_byte_for_byte(self, scene: Scene) -> None:
        """A config is returned as it was given, and backends are listed by name."""
        config = b'{ "num_wires" : 5,\n "description": "\xc3\xa4" }'

        backend = await scene.provider.put_config("aaa", config, None)

        assert (backend.name, backend.config, backend.policy) == ("aaa", config, None)
        assert [one.name for one in await scene.provider.backends()] == ["aaa", BACKEND]
        assert backend in await scene.provider.backends()

    async def test_what_belongs_to_a_job_is_left_alone(self, scene: Scene) -> None:
        """A sound storage has nothing in the way: an inspection finds nothing, and takes nothing."""
        waiting = await scene.submit()
        done = await scene.complete(await scene.claim_and_accept())

        assert await scene.provider.inspect(repair=True) == []
        assert done.result is not None
        for ref in (waiting.content, done.content, done.result):
            assert len(await scene.provider.read_blob(ref)) == ref.size

    async def test_a_config_is_taken_away(self, scene: Scene) -> None:
        """Nothing is taken or given any more; jobs and policy stay, and a new config brings it all back."""
        job, ended = await scene.submit(), await scene.submit_and_cancel()
        await scene.set_policy(max_queued=7)
        [before] = await scene.provider.backends()

        gone = await scene.provider.remove_config(BACKEND, before.config_etag)

        assert (gone.config, gone.config_etag, gone.is_registered) == (b"", "", False)
        assert (gone.policy, gone.policy_etag) == (before.policy, before.policy_etag)
        assert await scene.provider.remove_config(BACKEND, "whatever") == gone
        assert await scene.provider.backends() == [gone]
        assert isinstance(await scene.answer(), NotFound)
        assert await scene.claim() == []
        assert await scene.provider.get(job.key) == job
        assert await scene.provider.get(ended.key) == ended
        back = await scene.provider.put_config(BACKEND, before.config, "")
        assert back == before
        assert [one.key for one in await scene.claim()] == [job.key]
        await scene.submit()

    async def test_another_config_is_not_taken_away(self, scene: Scene) -> None:
        """A stale etag is refused; so is a backend that is not there."""
        old = await scene.provider.put_config(BACKEND, b"[1]", None)
        new = await scene.provider.put_config(BACKEND, b"[2]", None)

        with pytest.raises(Conflict) as refused:
            await scene.provider.remove_config(BACKEND, old.config_etag)
        with pytest.raises(NotFound):
            await scene.provider.remove_config("nowhere", None)

        assert refused.value.current == new
        assert await scene.provider.backends() == [new]

    async def test_same_config_changes_nothing(self, scene: Scene) -> None:
        """The same bytes again are no change, even from who knows an older etag."""
        first = await scene.provider.put_config(BACKEND, b"[1]", None)

        assert await scene.provider.put_config(BACKEND, b"[1]", "old") == first

    async def test_config_needs_the_current_etag(self, scene: Scene) -> None:
        """Who has read an older config can't overwrite a newer one."""
        old = await scene.provider.put_config(BACKEND, b"[1]", None)
        new = await scene.provider.put_config(BACKEND, b"[2]", old.config_etag)

        with pytest.raises(Conflict) as caught:
            await scene.provider.put_config(BACKEND, b"[3]", old.config_etag)

        assert caught.value.current == new
        assert new.config_etag != old.config_etag
        assert await self._backend(scene) == new

    async def test_public_key_is_kept_for_ever(self, scene: Scene) -> None:
        """The first one of an id counts, also for who put it at the same time; others are others."""
        put = scene.provider.put_public_key
        assert await scene.provider.public_key("lab-1") is None

        kept = set(await asyncio.gather(*(put("lab-1", b'{"x":"%d"}' % n) for n in range(4))))
        await put("lab-2", b'{"x":"other"}')

        assert len(kept) == 1
        assert await put("lab-1", b'{"x":"late"}') in kept
        assert await scene.provider.public_key("lab-1") in kept
        assert await scene.provider.public_key("lab-2") == b'{"x":"other"}'

    async def test_f9_config_and_policy_leave_each_other_alone(self, scene: Scene) -> None:
        """A spooler that registers its config again does not reset what an operator has set."""
        await scene.set_policy(max_queued=7)
        await asyncio.gather(
            scene.provider.put_config(BACKEND, b"[1]", None),
            scene.set_policy(max_queued=8),
            scene.provider.put_config(BACKEND, b"[2]", None),
        )

        backend = await self._backend(scene)
        assert backend.policy == replace(Policy(), max_queued=8)
        assert backend.config in {b"[1]", b"[2]"}

    async def test_f9_concurrent_policies_lose_none(self, scene: Scene) -> None:
        """Of operators who change one policy at once, each change is there in the end."""
        await scene.set_policy(max_queued=0)

        await asyncio.gather(*(self._count_up(scene) for _ in range(8)))

        policy = (await self._backend(scene)).policy
        assert policy is not None
        assert policy.max_queued == 8

    async def _count_up(self, scene: Scene) -> None:
        """Add one by compare-and-set, as often as it takes."""
        while True:
            backend = await self._backend(scene)
            policy = backend.policy or Policy()
            try:
                await scene.provider.put_policy(
                    BACKEND, replace(policy, max_queued=policy.max_queued + 1), backend.policy_etag
                )
            except Conflict:
                continue
            return

    async def test_policy_needs_a_backend(self, scene: Scene) -> None:
        """There is no policy for a backend that nobody has registered."""
        with pytest.raises(NotFound):
            await scene.provider.put_policy("nowhere", Policy(), None)

    async def test_repair_finds_nothing_in_order(self, scene: Scene) -> None:
        """Repair beside traffic changes no job, and finds nothing where nothing is broken."""
        await scene.provider.stage("u", 0, b"0123")
        await scene.submit(request_id="r-1")

        results = await asyncio.gather(
            scene.provider.repair(), *(scene.submit() for _ in range(5)), scene.provider.repair()
        )

        assert results[0] == results[-1] == []
        assert await scene.provider.stage("u", 0, b"") == 4
        assert len(await scene.claim(10)) == 6

    async def test_probe_passes_and_leaves_nothing(self, scene: Scene) -> None:
        """A probe of a sound storage passes each step, and nothing of it can be seen afterwards."""
        job = await scene.submit()
        before = await self._all(scene)
        cursor = (await scene.provider.changes("")).cursor

        steps = await scene.provider.probe()

        assert steps
        assert [step for step in steps if not step.ok] == []
        assert await self._all(scene) == before
        changes = await scene.provider.changes(cursor)
        assert (changes.jobs, changes.deleted) == ([], [])
        assert [claimed.key for claimed in await scene.claim(5)] == [job.key]

    async def test_every_state_is_stored(self, scene: Scene) -> None:
        """A job's whole way, with a failure, a retry and a result, reads back as it was committed."""
        await scene.submit()
        [job] = await scene.claim()
        states = [job.state]
        job = await scene.do(job, rules.Accept(job.attempts[-1].token))
        job = await scene.do(job, rules.Fail(job.attempts[-1].token, "no vacuum"))
        states.append((await scene.provider.get(job.key)).state)
        job = await scene.do(job, rules.Retry("alice"))
        states.append((await scene.provider.get(job.key)).state)
        job = await scene.complete(await scene.claim_and_accept())
        states.append((await scene.provider.get(job.key)).state)

        assert states == [State.CLAIMED, State.ERROR, State.QUEUED, State.DONE]
        assert await scene.provider.get(job.key) == job

    async def test_close_can_be_repeated(self, scene: Scene) -> None:
        """A provider may be closed twice."""
        await scene.provider.close()
        await scene.provider.close()

    @staticmethod
    async def _backend(scene: Scene) -> Backend:
        [backend] = [one for one in await scene.provider.backends() if one.name == BACKEND]
        return backend

    @staticmethod
    async def _all(scene: Scene) -> tuple[object, ...]:
        provider = scene.provider
        return (await provider.backends(), await provider.sessions(), await scene.find_keys())
