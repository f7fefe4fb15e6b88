"""A node agent as a process of its own, for tests: images are plain folders. Also used in-process."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Set
from pathlib import Path

from seaway.engine.base import EngineError
from seaway.engine.local.agent import run_agent
from seaway.engine.local.base import RunRoot, Timings
from seaway.engine.local.kin import Kin
from seaway.home import Home
from seaway.logs.collector import FileLogCollector


class FolderUnpacker:
    """Images are the folders below `images`, named by what follows "sha256:"."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self.in_use: Set[str] = set()

    async def prepare(self, image: str) -> RunRoot:
        """Return the folder of the image."""
        folder = self.images / image.removeprefix("sha256:")
        if not folder.is_dir():
            raise EngineError(f"image {image} needs containers: this engine cannot run it")
        python = (Path(sys.prefix), Path(sys.base_prefix))
        return RunRoot(folder, {"PATH": f"{Path(sys.executable).parent}:{os.defpath}"}, python)

    def release(self, images_in_use: Set[str]) -> None:
        """Note what is in use."""
        self.in_use = images_in_use


async def main(home: Home, images: Path, timings: Timings, *, as_ordinary_user: bool) -> int:
    """Run an agent until a signal."""
    collector = FileLogCollector(home)
    kin, protect = (Kin(home.root), False) if as_ordinary_user else (None, True)
    return await run_agent(home, FolderUnpacker(images), collector, "node-1", timings, kin=kin, protect=protect)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--timings", type=json.loads, default={})
    parser.add_argument("--as-ordinary-user", action="store_true")
    options = parser.parse_args()
    timings = Timings(**options.timings)
    sys.exit(asyncio.run(main(Home(options.home), options.images, timings, as_ordinary_user=options.as_ordinary_user)))
