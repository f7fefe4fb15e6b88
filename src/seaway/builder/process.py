"""SubprocessBuilder: builds images for this machine into the layout of its home."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Set
from pathlib import Path

from seaway.builder.base import BuildError, Built
from seaway.builder.facts import this_platform
from seaway.builder.interpreter import this_version
from seaway.builder.layout import ImageError, ImageLayout
from seaway.builder.plan import PLAN_VERSION
from seaway.builder.quarters import Quarters
from seaway.builder.running import SCRATCH_PREFIX, Journal, clean_leftovers, run_worker
from seaway.home import Home
from seaway.model import BuildManifest, Source
from seaway.sandbox.sandbox import TrialError


class SubprocessBuilder:
    """Builds with `python -m seaway.builder.worker` below `home`; implements builder.base.Builder."""

    def __init__(self, home: Home) -> None:
        self._home = Home(home.root.absolute())  # the worker starts in another folder
        self._layout = ImageLayout(self._home.images)
        self._quarters = Quarters(self._home)

    async def build(self, app: str, source: Source, log: Path, progress: Callable[[str], None]) -> Built:
        """Build; append output lines to `log` as they come; call `progress` with each step's one sentence.

        Raises BuildError. Cancelling kills the process group and removes the scratch folder before it returns.
        """
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as output:
            journal = Journal(output, progress)
            try:
                room = await asyncio.to_thread(self._quarters.open, app)
            except (OSError, TrialError, ValueError) as error:
                fault = f"the build got no place of its own: {error}"
                journal.fail(fault)
                raise BuildError(fault) from error
            reused = await asyncio.to_thread(self._find_result, source, room.word)
            if reused is not None:
                journal.step("The source is unchanged since it was last built: its image is reused")
                journal.step(f"Image {reused.image}")
                return reused
            if room.unprotected:
                journal.line(f"note: the build's code runs as root, and can read all of Seaway's: {room.unprotected}")
            try:
                made = await run_worker(self._home, app, source, journal, room=room)
            except BuildError as error:
                journal.fail(str(error))
                raise
            assert made.image is not None
            built = Built(image=made.image, manifest=made.manifest)
            await asyncio.to_thread(self._remember, source, room.word, built)
            return built

    def clean_leftovers(self) -> int:
        """Remove scratch folders of builds that died with the platform; return how many. Call at start."""
        return clean_leftovers(self._home)

    async def prune(self, images_in_use: Set[str], spare_after: float, caches_after: float) -> int | None:
        """See builder.base.Builder."""
        freed = await asyncio.to_thread(self._layout.create().prune, images_in_use, spare_after)
        if not list(self._home.builds.glob(f"{SCRATCH_PREFIX}*")):
            await asyncio.to_thread(self._quarters.prune, caches_after)
        return freed

    async def forget(self, app: str) -> None:
        """See builder.base.Builder."""
        await asyncio.to_thread(self._quarters.forget, app)

    def _find_result(self, source: Source, word: str) -> Built | None:
        key = make_result_key(source, word)
        found = self._layout.read_cache("results", key) if key else None
        try:
            if found is None or not self._layout.claim(found["image"]):
                return None
        except ImageError:
            return None
        return Built(image=found["image"], manifest=BuildManifest.model_validate(found["manifest"]))

    def _remember(self, source: Source, word: str, built: Built) -> None:
        key = make_result_key(source, word)
        if key:
            manifest = built.manifest.model_dump(mode="json")
            self._layout.write_cache("results", key, {"image": built.image, "manifest": manifest})


def make_result_key(source: Source, word: str = "") -> str | None:
    """Key of a finished build of an uploaded archive; git refs move, so they have none. `word`: see quarters.py."""
    if source.archive is None:
        return None
    parts = [str(PLAN_VERSION), source.archive.removeprefix("sha256:"), this_version(), this_platform()]
    parts += [word] if word else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
