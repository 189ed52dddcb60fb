# ruff: noqa: S101 - these are tests
"""Staged blobs."""

import pytest

from spoolway_providers.conformance.scene import Base, Scene, blob
from spoolway_providers.errors import Conflict, NotFound
from spoolway_providers.model import BlobRef

DATA = bytes(range(256)) * 4


class BlobConformance(Base):
    """What `stage` and `read_blob` promise."""

    async def test_upload_grows_piece_by_piece(self, scene: Scene) -> None:
        """Each piece at the end of the one before makes the blob longer; an empty one only asks."""
        sizes = [await scene.provider.stage("u", at, DATA[at : at + 300]) for at in range(0, 1024, 300)]

        assert sizes == [300, 600, 900, 1024]
        assert await scene.provider.stage("u", 0, b"") == 1024
        assert await scene.provider.stage("new", 0, b"") == 0
        assert await self._committed(scene, DATA) == DATA

    async def test_repeated_piece_changes_nothing(self, scene: Scene) -> None:
        """A piece that is sent again at its offset is taken once, wherever it lies."""
        for start, end in ((0, 400), (0, 400), (400, 800), (400, 800), (100, 700), (700, 1024), (0, 1024)):
            await scene.provider.stage("u", start, DATA[start:end])

        assert await scene.provider.stage("u", 0, b"") == 1024
        assert await self._committed(scene, DATA) == DATA

    async def test_later_bytes_replace_earlier(self, scene: Scene) -> None:
        """An upload that starts over with other bytes is what was sent last."""
        for at in range(0, 900, 300):
            await scene.provider.stage("u", at, b"x" * 300)
        await scene.provider.stage("u", 0, DATA)

        assert await self._committed(scene, DATA) == DATA

    async def test_gap_is_refused(self, scene: Scene) -> None:
        """A piece beyond the end is a conflict that tells where to go on."""
        await scene.provider.stage("u", 0, b"0123")

        with pytest.raises(Conflict) as caught:
            await scene.provider.stage("u", 5, b"56")

        assert caught.value.current == 4

    async def test_late_repeat_can_not_change_a_committed_blob(self, scene: Scene) -> None:
        """What is committed stays as it is, whatever is still being sent."""
        await scene.provider.stage("u", 0, DATA)
        await scene.submit(content=blob("u", DATA))

        assert await scene.provider.stage("u", 0, b"x" * 100) == 1024
        with pytest.raises(Conflict):
            await scene.provider.stage("u", 1024, b"more")
        assert await scene.provider.read_blob(blob("u", DATA)) == DATA

    async def test_blob_goes_to_one_job(self, scene: Scene) -> None:
        """A staged blob that a job has named can't be named by another."""
        await scene.provider.stage("u", 0, DATA)
        await scene.submit(content=blob("u", DATA))

        assert isinstance(await scene.answer(content=blob("u", DATA)), NotFound)

    @pytest.mark.parametrize("staged", [False, True], ids=["inline", "staged"])
    async def test_ranges_are_read(self, scene: Scene, staged: bool) -> None:
        """A read begins at its offset, ends at its limit, and is empty at the end."""
        ref = await self._stored(scene, staged)
        read = scene.provider.read_blob

        assert await read(ref, 0, 10) == DATA[:10]
        assert await read(ref, 299, 3) == DATA[299:302]
        assert await read(ref, 250, 500) == DATA[250:750]
        assert await read(ref, 1000) == DATA[1000:]
        assert await read(ref, 1024) == b""
        assert await read(ref, 5000) == b""

    async def test_staged_blob_is_read_until_it_is_named(self, scene: Scene) -> None:
        """What is staged can be read for its checksum, and no longer once a job names it."""
        for at in range(0, 1024, 300):
            await scene.provider.stage("u", at, DATA[at : at + 300])
        read = scene.provider.read_staged

        assert await read("u") == DATA
        assert await read("u", 250, 500) == DATA[250:750]
        assert await read("u", 1024) == b""
        await scene.submit(content=blob("u", DATA))
        with pytest.raises(NotFound):
            await read("u")
        with pytest.raises(NotFound):
            await read("never staged")

    async def test_unknown_blob_is_not_found(self, scene: Scene) -> None:
        """A blob that nobody stored can't be read."""
        with pytest.raises(NotFound):
            await scene.provider.read_blob(blob("../../secret", b""))

    @staticmethod
    async def _stored(scene: Scene, staged: bool) -> BlobRef:
        if not staged:
            return (await scene.submit(content=DATA)).content
        for at in range(0, 1024, 300):
            await scene.provider.stage("u", at, DATA[at : at + 300])
        return (await scene.submit(content=blob("u", DATA))).content

    @staticmethod
    async def _committed(scene: Scene, data: bytes) -> bytes:
        """What is read of upload `u` once a job names it."""
        job = await scene.submit(content=blob("u", data))
        return await scene.provider.read_blob(job.content)
