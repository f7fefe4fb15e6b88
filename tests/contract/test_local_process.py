"""One process group of the local engine, without an agent around it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from seaway.engine.local import process
from seaway.engine.local.process import STREAMS, Group, find_members, launch
from seaway.logs.intake import open_pipe

SLOW_START = ": >trapped; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\n"
"""Keeps the leader busy without a child, after its traps are set and before it starts the command."""


async def eventually_exists(path: Path) -> None:
    async with asyncio.timeout(20):
        while not path.exists():
            await asyncio.sleep(0.005)


def start(folder: Path, command: str) -> Group:
    for stream in STREAMS:
        os.close(open_pipe(folder, stream))
    return Group(folder, launch(folder, 1, command, folder, os.environ | {"SEAWAY_INSTANCE": folder.name}))


async def test_a_stop_right_after_the_start_reaches_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM waits for the command: the leader would swallow it, and the command live on to the end of its grace."""
    traps, rest = process.WRAPPER.split("\n", 1)
    monkeypatch.setattr(process, "WRAPPER", rest.replace("exec 3>", f"{traps}\n{SLOW_START}exec 3>"))
    group = start(tmp_path, "sleep 60")
    await eventually_exists(tmp_path / "trapped")
    began = time.monotonic()
    assert await group.stop(30.0, tmp_path.name)
    assert time.monotonic() - began < 20
    assert group.exit_code() == -15
    assert not find_members(group.pid, tmp_path.name)


async def test_a_command_that_left_its_session_is_stopped_too(tmp_path: Path) -> None:
    """It is still the leader's child, so there is nothing to wait for."""
    group = start(tmp_path, "setsid sleep 60")
    assert await group.stop(30.0, tmp_path.name)
    assert not find_members(group.pid, tmp_path.name)


async def test_without_a_grace_it_is_killed(tmp_path: Path) -> None:
    """No SIGTERM first: the exit code would depend on which of the two was faster."""
    for _ in range(10):
        group = start(tmp_path, "sleep 60")
        assert not await group.stop(0.0, tmp_path.name)
        assert group.exit_code() == -9
        (tmp_path / "exit.1").unlink(missing_ok=True)
