"""SEAWAY_HOME: where everything of one platform lives on this machine, and its settings."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from seaway.model import Host, Quotas
from seaway.model.base import Networks

SETTINGS_FILE = "settings.json"
UNIX_PATH_LIMIT = 100  # bytes; the kernel's limit for a socket's path is 107


class Settings(Quotas):
    """What `seaway up` was told; kept so that every part and the CLI agree."""

    http_port: int = Field(default=8080, ge=1, le=65535)
    api_port: int = Field(default=8700, ge=1, le=65535)
    domain: Host = "localhost"
    routers: int = Field(default=1, ge=1, le=16)
    bind: str = "127.0.0.1"
    trusted_proxies: Networks = ()
    """Who is believed what it says of a request's client: balancers in front of the routers."""


@dataclass(frozen=True)
class Home:
    """Paths below one SEAWAY_HOME (mode 0700)."""

    root: Path

    @classmethod
    def find(cls) -> Home:
        """Return $SEAWAY_HOME, or seaway below XDG_DATA_HOME (default ~/.local/share)."""
        explicit = os.environ.get("SEAWAY_HOME")
        if explicit:
            return cls(Path(explicit).expanduser().absolute())
        data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return cls(Path(data).expanduser().absolute() / "seaway")

    def create(self) -> Home:
        """Make the folders that every part expects; return self."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.run, self.logs, self.images, self.sources, self.builds, self.node):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    @property
    def database(self) -> Path:
        """The SQLite file of all documents."""
        return self.root / "seaway.db"

    @property
    def admin_token(self) -> Path:
        """The admin token made at first start, mode 0600."""
        return self.root / "admin.token"

    @property
    def run(self) -> Path:
        """Locks and pid files of running parts."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        """logs/APP/ per app, logs/platform/ for Seaway's own parts."""
        return self.root / "logs"

    @property
    def images(self) -> Path:
        """The content-addressed image store (an OCI image layout)."""
        return self.root / "images"

    @property
    def sources(self) -> Path:
        """Uploaded source archives by sha256."""
        return self.root / "sources"

    @property
    def builds(self) -> Path:
        """Build logs, and scratch folders of running builds."""
        return self.root / "builds"

    @property
    def node(self) -> Path:
        """State of the node agent: specs, unpacked images, raw output of instances."""
        return self.root / "node"

    @property
    def mounts(self) -> Path:
        """Persistent folders of apps; made when an app wants one."""
        return self.root / "mounts"

    def build_log(self, build: str, uid: str) -> Path:
        """Output of one build; its uid keeps it from whoever has the app's name after this app is destroyed."""
        return self.builds / f"{build}.{uid}.log"

    @property
    def routers(self) -> Path:
        """A folder per router."""
        return self.root / "routers"

    def router(self, name: str) -> Path:
        """State of one router: last good resources, access log."""
        return self.routers / name

    def socket(self, name: str) -> Path:
        """Path of a unix socket; below the home, or (if that is too long for a socket) a private folder in /tmp."""
        path = self.run / f"{name}.sock"
        if len(os.fsencode(path)) <= UNIX_PATH_LIMIT:
            return path
        folder = self._socket_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        stat = folder.lstat()
        if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
            raise PermissionError(f"{folder} belongs to somebody else or is open to others: remove it or set TMPDIR")
        return folder / f"{name}.sock"

    @property
    def _socket_folder(self) -> Path:
        short = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"seaway-{os.getuid()}-{short}"

    def remove_sockets(self) -> None:
        """Remove what `socket` made outside of the home; for when nothing runs any more."""
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def read_settings(self) -> Settings:
        """Return the settings of the last `seaway up`, or the defaults."""
        try:
            return Settings.model_validate_json((self.root / SETTINGS_FILE).read_bytes())
        except FileNotFoundError:
            return Settings()

    def write_settings(self, settings: Settings) -> None:
        """Keep the settings (atomically)."""
        temporary = self.root / f".{SETTINGS_FILE}.{os.getpid()}"
        temporary.write_text(settings.model_dump_json(indent=2) + "\n")
        temporary.replace(self.root / SETTINGS_FILE)
