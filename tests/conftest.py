"""What holds for every test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from seaway.sandbox.cgroups import BUILDS, Cgroups
from tests.told import LINES, LOGS


@pytest.fixture(scope="session", autouse=True)
def no_sockets_left() -> Iterator[None]:
    """Remove the folders of sockets that homes with long paths made, unless somebody still listens there."""
    before = set(list_socket_folders())
    yield
    for folder in set(list_socket_folders()) - before:
        if not any(is_listened_to(path) for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def list_socket_folders() -> list[Path]:
    """Return the folders of this user's platforms in /tmp."""
    return list(Path(tempfile.gettempdir()).glob(f"seaway-{os.getuid()}-*"))


def is_listened_to(path: Path) -> bool:
    """Return whether a process still accepts connections at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(os.fsencode(path)) == 0


@pytest.fixture(scope="session", autouse=True)
def no_groups_left() -> Iterator[None]:
    """Remove the control groups that this process made for homes without a platform, unless something runs in them."""
    made: list[Cgroups] = []
    create = Cgroups.create

    def note(cgroups: Cgroups) -> Path:
        made.append(cgroups)
        return create(cgroups)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cgroups, "create", note)
        yield
    for cgroups in made:
        cgroups.remove(BUILDS)
        cgroups.close()


@pytest.fixture(scope="session", autouse=True)
def logs_below_tmp_path(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the logs of every home and server in a temporary folder of pytest's shown when a test fails."""
    LOGS.folders[tmp_path_factory.getbasetemp()] = LINES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lose no test: of several with the same name (schemathesis makes such), pytest-xdist runs one and says nothing."""
    same = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if same and hasattr(config, "workerinput"):
        raise pytest.UsageError(f"several tests have this name, so they can't be spread over workers: {same}")


def pytest_runtest_logstart() -> None:
    """Note when a test begins: older logs are none of its business."""
    LOGS.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of the logs to the report of a failure, so that it need not happen again to be understood."""
    report = yield
    if report.failed and (told := LOGS.read()):
        report.sections.append(("Logs", told))
    return report


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: shells start background jobs (`nohup make test &`) with SIGINT ignored.

    Children inherit that, and a command line that ignores SIGINT as it was told to would hang the tests that send
    one. A handler of Python's own, as here, is the default again in a child.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
