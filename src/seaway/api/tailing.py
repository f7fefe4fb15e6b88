"""Reading a build's output while it is being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

LOOK_EVERY = 0.2  # seconds between looks at a file that grows; files cannot be awaited
BLOCK = 64 * 1024  # bytes read at once
LONGEST_LINE = 64 * 1024  # bytes; a longer line is cut into several


async def tail_build(path: Path, ended: asyncio.Event | None) -> AsyncGenerator[str, None]:
    """Yield the file's lines, and new ones until `ended` is set and all is read (None: what is there now).

    The file may appear late. Bytes that are not UTF-8 are replaced.
    """
    position, rest = 0, b""
    while True:
        final = ended is None or ended.is_set()
        while block := await asyncio.to_thread(_read, path, position):
            position += len(block)
            *complete, rest = (rest + block).split(b"\n")
            if len(rest) > LONGEST_LINE:
                complete, rest = [*complete, rest], b""
            for line in complete:
                yield _text(line)
        if final:
            break
        assert ended is not None
        try:
            await asyncio.wait_for(ended.wait(), LOOK_EVERY)
        except TimeoutError:
            continue
    if rest:
        yield _text(rest)


def _read(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read(BLOCK)
    except FileNotFoundError:
        return b""


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")
