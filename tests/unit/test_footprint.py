"""What files take on disk: as du(1) has it, in pieces, whatever happens to them meanwhile."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import subprocess
from pathlib import Path

import pytest

from seaway.engine.local.footprint import LEAST, STEP, Footprint
from seaway.engine.local.kin import Kin
from seaway.engine.local.overdisk import DiskWatch, Place
from seaway.sandbox.removing import remove_tree

MIB = 1 << 20
PIECE = 64 << 10


def write(path: Path, size: int = PIECE) -> Path:
    """Write a file of real blocks."""
    path.write_bytes(os.urandom(size))
    return path


def measure(*folders: Path) -> int:
    """Return the bytes of folders."""
    return Footprint(folders, math.inf).finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    path = tmp_path / "app"
    path.mkdir()
    return path


def test_files_and_folders_count_by_their_blocks(folder: Path) -> None:
    """In all folders given; one that is not there is none."""
    (folder / "below").mkdir()
    write(folder / "below" / "file", 3 * PIECE)
    assert measure(folder) == 3 * PIECE + 2 * LEAST
    assert measure(folder / "below", folder / "none", folder / "below" / "file") == 3 * PIECE + LEAST


def test_a_file_with_several_names_takes_its_blocks_once(folder: Path) -> None:
    """Each more of its names counts as one that holds nothing does."""
    file = write(folder / "file")
    for number in range(3):
        (folder / f"name{number}").hardlink_to(file)
    assert measure(folder) == PIECE + 4 * LEAST


def test_holes_take_nothing(folder: Path) -> None:
    """A file of a terabyte may be empty."""
    with (folder / "file").open("wb") as file:
        file.truncate(1 << 40)
    assert measure(folder) == 2 * LEAST


def test_links_are_not_followed(folder: Path) -> None:
    """Neither out of the folder, nor where the folder itself is one."""
    write(folder.parent / "file", MIB)
    (folder / "link").symlink_to(folder.parent)
    (folder.parent / "other").symlink_to(folder.parent)
    assert measure(folder, folder.parent / "other") == 2 * LEAST


def test_a_tree_deeper_than_paths_can_be(folder: Path) -> None:
    """And than descriptors there are."""
    depth, here = 3000, os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert measure(folder) == (depth + 2) * LEAST
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        remove_tree(folder)  # others look for logs in here, by Python's means


def test_it_ends_where_there_is_too_much(folder: Path) -> None:
    """So that nobody can make a tree that it does not come to the end of: empty files count, too."""
    for number in range(100):
        (folder / str(number)).touch()
    found = Footprint((folder,), 50 * LEAST)
    assert found.finish() == 51 * LEAST
    assert found.is_over
    found.close()


def test_a_step_is_so_many_names(folder: Path) -> None:
    """What is written between two steps may count or not."""
    for number in range(10):
        (folder / str(number)).touch()
    found = Footprint((folder,), math.inf)
    assert not found.go_on(4)
    assert found.total == 4 * LEAST
    assert not found.go_on(4)
    assert found.go_on(4)
    assert found.total == 11 * LEAST


def test_what_vanishes_is_left_out(folder: Path) -> None:
    """Files that are listed already, and folders that are still to be entered."""
    for name in "abc":
        (folder / name).mkdir()
        write(folder / name / "file")
    found = Footprint((folder,), math.inf)
    assert not found.go_on(5)  # the folder, those in it, and one of those is entered
    left = PIECE + 4 * LEAST
    for name in "abc":
        (folder / name / "file").unlink()
        (folder / name).rmdir()
    folder.rmdir()
    assert found.finish() <= left


def test_a_folder_that_is_moved_takes_nobody_along(folder: Path) -> None:
    """Whoever leaves it by ".." would be elsewhere, even outside of the instance's own; what is beside it counts."""
    outside = folder.parent / "outside"
    (outside / "more").mkdir(parents=True)
    write(outside / "more" / "file", MIB)
    for name in ("one/in", "two/in"):
        (folder / name).mkdir(parents=True)
        write(folder / name / "file")
    found = Footprint((folder,), math.inf)
    assert not found.go_on(5)  # the folder, one and two, and what is in the first of them, and in that
    (first,) = (n for n in ("one", "two") if _is_entered(folder / n))
    (folder / first / "in").rename(outside / "in")
    assert found.finish() <= 2 * PIECE + 5 * LEAST
    assert found.total >= 2 * PIECE + 4 * LEAST


def test_a_large_file_that_is_moved_counts_once(folder: Path) -> None:
    """As many programs write: beside its place, then under its name."""
    for name in ("one", "two"):
        (folder / name).mkdir()
        write(folder / name / "large", 2 * MIB)
    found = Footprint((folder,), math.inf)
    assert not found.go_on(4)  # the folder, one and two, and the file in the first of them
    (first,) = (name for name in ("one", "two") if _is_entered(folder / name))
    (second,) = {"one", "two"} - {first}
    (folder / first / "large").rename(folder / second / "large")
    assert found.finish() == 2 * MIB + 4 * LEAST


def _is_entered(path: Path) -> bool:
    """Whether this process has the folder, or one in it, open."""
    links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return any(link.startswith(str(path)) for link in links)


def test_deleted_files_count_while_they_are_open(folder: Path) -> None:
    """Once, however often they are open; those of other file systems (memory) do not."""
    device = write(folder / "file").stat().st_dev
    memory = os.memfd_create("seaway-test")
    os.write(memory, b"x" * PIECE)
    one, other = (os.open(folder / "file", os.O_RDONLY) for _ in range(2))
    quiet, held = subprocess.DEVNULL, (one, other, memory)
    with subprocess.Popen(["sleep", "3600"], stdout=quiet, stderr=quiet, pass_fds=held) as process:
        for fd in held:
            os.close(fd)
        (folder / "file").unlink()
        found = Footprint((folder,), math.inf, lambda: [process.pid, 1 << 30], device)
        assert found.finish() == LEAST + PIECE
        process.kill()
    assert Footprint((folder,), math.inf, lambda: [process.pid], device).finish() == LEAST


async def test_a_large_tree_delays_its_own_measurement_alone(folder: Path) -> None:
    """What has little is looked at in between; who is over is told each time, and what vanishes is no fault."""
    for number in range(3 * STEP):
        (folder / str(number)).touch()
    small = folder.parent / "small"
    small.mkdir()
    write(small / "file", MIB)
    told: asyncio.Queue[str] = asyncio.Queue()
    places = [
        Place("large", (folder,), 3 * STEP * LEAST, lambda: told.put_nowait("large")),
        Place("gone", (folder / "none",), MIB, lambda: told.put_nowait("gone"), holder="x"),
        Place("small", (small,), MIB, lambda: told.put_nowait("small")),
    ]
    watch = asyncio.create_task(DiskWatch(folder, Kin(folder), 0.05, lambda: places).run())
    try:
        async with asyncio.timeout(20):
            found = [await told.get()]
            while "large" not in found:
                found.append(await told.get())
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    assert (found[0], found[-1]) == ("small", "large")
    assert "gone" not in found
