"""Refusing what takes room on a disk that is almost full: what is left of it is for documents."""

from __future__ import annotations

import asyncio
from pathlib import Path

from seaway.api.errors import disk_full
from seaway.disk import Level, judge, read_disk


async def check_room(home: Path) -> None:
    """Raise ApiError if the disk is too full for builds."""
    disk = await asyncio.to_thread(read_disk, home)
    if judge(disk) >= Level.TIGHT:
        raise disk_full(f"no build can begin: {disk}")
