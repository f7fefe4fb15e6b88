"""What every runner shares: state on disk, images, ports, probes, output, and who wants to hear of changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from seaway.engine.base import EngineError
from seaway.engine.local.base import OutputCollector, RunRoot, Timings, Unpacker
from seaway.engine.local.files import list_own, put_in_place
from seaway.engine.local.guard import PortGuard
from seaway.engine.local.kin import Kin
from seaway.engine.local.ports import PortPool
from seaway.engine.local.probe import HOST, Prober
from seaway.engine.local.process import LeaderIndex
from seaway.engine.local.room import Room, find_room
from seaway.engine.local.starts import Starts
from seaway.engine.local.state import NodeState
from seaway.model import Limits, Mount
from seaway.sandbox.removing import remove_tree
from seaway.sandbox.sandbox import Sandbox
from seaway.sandbox.view import NAME, View, make_place

APPS = "app/"  # before the names of those who have user ids
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


PIDS = 1024  # processes and threads of an instance that says nothing itself
DISK = 2 << 30  # bytes that such an instance may write


def with_defaults(limits: Limits) -> Limits:
    """Return the limits of an instance with the platform's own where it has none."""
    pids = limits.pids if limits.pids is not None else PIDS
    return limits.model_copy(update={"pids": pids, "disk": find_disk(limits)})


def find_disk(limits: Limits) -> int:
    """Return the bytes that an instance may write to its files."""
    return limits.disk if limits.disk is not None else DISK


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class Images:
    """The unpacker behind a lock: nothing is released while something is prepared.

    `has_views`: commands have a view of their own, so that folders can be seen where their images have them.
    """

    def __init__(self, unpacker: Unpacker, *, has_views: bool = False) -> None:
        self._unpacker = unpacker
        self._has_views = has_views
        self._lock = asyncio.Lock()

    async def prepare(self, image: str) -> RunRoot:
        """Return the root to run the image in, or raise EngineError."""
        async with self._lock:
            root = await self._unpacker.prepare(image)
        if self._has_views and all(make_place(place) for _, place in root.places):
            return put_in_place(root)
        return replace(root, places=())

    async def release(self, in_use: Callable[[], Set[str]]) -> None:
        """Free the roots of images that `in_use` does not name."""
        async with self._lock:
            await asyncio.to_thread(self._unpacker.release, in_use())


@dataclass(frozen=True)
class Machine:
    """The surroundings of instances and tasks on this node."""

    node: str
    state: NodeState
    images: Images
    collector: OutputCollector
    timings: Timings
    ports: PortPool
    kin: Kin
    leaders: LeaderIndex
    mounts: Path  # below which each app's persistent folders are
    notify: Callable[[str], None]  # called with the app's name at each change
    sandbox: Sandbox | None = None  # None: apps run as this process's user, for the reason `unprotected`
    unprotected: str = ""
    room: Room = field(default_factory=lambda: find_room(None))
    guard: PortGuard | None = None  # None: others may take a port whose instance is gone
    prober: Prober = field(default_factory=Prober)
    starts: Starts = field(default_factory=Starts)

    def make_view(self, app: str, folder: Path, root: RunRoot) -> View | None:
        """Return what commands of the app see in this instance's folder; None: everything. May raise EngineError."""
        if self.sandbox is None:
            return None
        try:
            own = (*list_own(folder), *(path for path, _ in root.mounts))
            view = self.sandbox.make_view(f"{APPS}{app}", folder, own, root.folders)
            return replace(view, files=(*view.files, *((str(path), place) for path, place in root.places)))
        except ValueError as error:
            raise EngineError(str(error)) from None

    def add_mounts(self, root: RunRoot, app: str, mounts: Iterable[Mount]) -> RunRoot:
        """Return the root with an app's persistent folders."""
        return replace(root, mounts=tuple((self.mounts / app / mount.name, mount.path) for mount in mounts))

    def guard_port(self, port: int | None, view: View | None) -> None:
        """Keep an instance's port for it; without a view, for nobody any more."""
        if self.guard is None or port is None:
            return
        if view is not None:
            self.guard.keep(port, view.user)
        else:
            self.guard.release(port)

    def find_shared(self, app: str) -> Path | None:
        """Return the folder that all commands of an app see as /tmp; None: it is the machine's own."""
        return self.sandbox.find_shared(f"{APPS}{app}") if self.sandbox is not None else None

    def renew_shared(self, app: str) -> None:
        """Give the app an empty /tmp; `keep_users` removes the old one. Raises OSError."""
        if self.sandbox is not None:
            self.sandbox.renew_shared(f"{APPS}{app}")

    async def keep_users(self, apps: Set[str]) -> None:
        """Let go of the user ids of all other apps, of which nothing runs here, and remove what they left."""
        if self.sandbox is not None:
            for folder in self.sandbox.keep({f"{APPS}{app}" for app in apps}, APPS):
                await asyncio.to_thread(remove_tree, folder)

    def make_env(
        self,
        root: RunRoot,
        folder: Path,
        config: Mapping[str, str],
        *,
        app: str,
        release: int,
        process: str,
        instance: str,
        port: int | None = None,
    ) -> dict[str, str]:
        """Return an instance's whole environment: base, image, config, and what only the platform may set."""
        env = {
            "PATH": DEFAULT_PATH,
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "HOST": HOST,
            "PYTHONUNBUFFERED": "1",
            **({} if self.sandbox is None else {"USER": NAME, "LOGNAME": NAME}),
            **root.env,
            **config,
            "SEAWAY_APP": app,
            "SEAWAY_RELEASE": f"v{release}",
            "SEAWAY_PROCESS": process,
            "SEAWAY_INSTANCE": instance,
            "SEAWAY_NODE": self.node,
        }
        if port is not None:
            env["PORT"] = str(port)
        return env
