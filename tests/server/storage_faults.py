"""Faults put into a provider while it works."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spoolway_providers.interface import Provider

__all__ = ["StorageFaults"]


class StorageFaults:
    """Makes chosen methods of a provider fail, before or after they have done their work, or wait."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.calls: list[str] = []
        """Names of the methods under watch that were called."""

    @contextmanager
    def failing(self, error: Exception, *methods: str, done: bool = False) -> Iterator[None]:
        """Let methods raise; with `done` only after they have done all their work."""

        async def fail(original: Any, *args: Any, **kwargs: Any) -> Any:
            if done:
                await original(*args, **kwargs)
            raise error

        with self._replaced(methods, fail):
            yield

    def fail_once(self, error: Exception, method: str, *, done: bool = False) -> None:
        """Let the next call of a method raise; with `done` only after it has done all its work."""
        original = getattr(self._provider, method)

        async def fail(*args: Any, **kwargs: Any) -> Any:
            setattr(self._provider, method, original)
            self.calls.append(method)
            if done:
                await original(*args, **kwargs)
            raise error

        setattr(self._provider, method, fail)

    @contextmanager
    def watched(self, *methods: str) -> Iterator[list[str]]:
        """Note the calls of methods in `calls`."""

        async def call(original: Any, *args: Any, **kwargs: Any) -> Any:
            return await original(*args, **kwargs)

        with self._replaced(methods, call):
            yield self.calls

    @contextmanager
    def held_up(self, method: str) -> Iterator["HeldUp"]:
        """Let calls of a method that have brought something wait with it, until they are let go."""
        gate = HeldUp()

        async def wait(original: Any, *args: Any, **kwargs: Any) -> Any:
            result = await original(*args, **kwargs)
            if result:
                gate.reached.set()
                await gate.open.wait()
            return result

        with self._replaced((method,), wait):
            try:
                yield gate
            finally:
                gate.open.set()

    @contextmanager
    def _replaced(self, methods: tuple[str, ...], behaviour: Any) -> Iterator[None]:
        originals = {name: getattr(self._provider, name) for name in methods}

        def stand_in(name: str) -> Any:
            async def call(*args: Any, **kwargs: Any) -> Any:
                self.calls.append(name)
                return await behaviour(originals[name], *args, **kwargs)

            return call

        for name in methods:
            setattr(self._provider, name, stand_in(name))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(self._provider, name, original)


class HeldUp:
    """A method that has done its work and waits to be let go."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
