"""CacheCompiler: compiles the Python sources of unpacked layers into their __pycache__ folders, in the background.

home.node/rootfs/compiled/HEX-3.11   an empty file: layer HEX is compiled completely for Python 3.11
The caches are the node's own work: what one app wrote would be run by every other that has the same layer. The
compiler is the image's interpreter, since caches fit one version; nothing of the layer is executed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

KILL_LIMIT = 10.0  # seconds that a killed compile may take to vanish (disk waits)
MOST_CRASHES = 3  # of a layer's compile; a source that no compiler survives is not tried for ever

BEGIN = """import ctypes, fcntl, os, resource, signal, sys
parent, lock, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit(1)
os.nice(19)
for name, value in (("autogroup", "19"), ("oom_score_adj", "1000")):
    try:
        with open("/proc/self/" + name, "w") as file:
            file.write(value)
    except OSError:
        pass
for kind, most in ((resource.RLIMIT_AS, 2 << 30), (resource.RLIMIT_CPU, 600), (resource.RLIMIT_CORE, 0)):
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
fcntl.flock(int(lock), fcntl.LOCK_EX)
os.execv(argv[0], argv)
"""
"""Run by Seaway's own interpreter, which becomes the image's: the end of the parent kills it (PR_SET_PDEATHSIG; it may
have come before), no compile takes more than 2 GiB and 10 minutes of a processor, and where memory is short it is the
first to go. Between sessions some kernels count the niceness of the session alone. The lock is of the whole home, and
held until the end."""

COMPILE = """import errno, os, py_compile
def fail(error):
    raise error
for parent, folders, files in os.walk(".", onerror=fail):
    if "__pycache__" in folders:
        folders.remove("__pycache__")
        cache = os.path.join(parent, "__pycache__")
        for name in os.listdir(cache):
            if not name.endswith(".pyc"):
                os.unlink(os.path.join(cache, name))
    for name in files:
        path = os.path.join(parent, name)
        if name.endswith(".py") and not os.path.islink(path):
            try:
                mode = py_compile.PycInvalidationMode.TIMESTAMP
                py_compile.compile(path, doraise=True, invalidation_mode=mode)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
            except Exception:
                pass
"""
"""Run by the image's interpreter in the layer's folder. All paths are relative: a layer that is renamed does not come
back under its old name. What is no Python of this version (templates, Python 2) is passed over, which compileall would
not tell from a full disk. Links may lead out of the layer. A compile that was killed leaves halves, named .pyc.NUMBER.
"""


@dataclass(eq=False)
class _Job:
    layer: Path
    version: str
    python: Path
    process: subprocess.Popen[bytes] | None = None
    is_unwanted: bool = False

    @property
    def marker(self) -> str:
        return f"{self.layer.name}-{self.version}"


class CacheCompiler:
    """Compiles one layer after the other, with what is left of the processor. Its processes end with this one."""

    def __init__(self, root: Path) -> None:
        """`root`: home.node/rootfs."""
        self._root = root
        self._markers = root / "compiled"
        self._jobs: list[_Job] = []  # the first is being done
        self._is_working = False  # there is a thread that does them
        self._crashes = Counter[str]()  # by marker
        self._changed = threading.Condition()

    def compile(self, layers: Iterable[Path], version: str, python: Path) -> None:
        """Have these layers compiled by an interpreter of the version ("3.11"), unless they are; return at once.

        What fails (a full disk, a kill) is left to the next call.
        """
        with self._changed:
            known = {job.marker for job in self._jobs}
            for job in (_Job(layer, version, python) for layer in layers):
                is_hopeless = self._crashes[job.marker] >= MOST_CRASHES
                if job.marker not in known and not is_hopeless and not (self._markers / job.marker).exists():
                    self._jobs.append(job)
            if self._jobs and not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="compiling", daemon=True).start()

    def forget(self, concerns: Callable[[str], bool]) -> None:
        """Compile none of these layers (HEX) any more, and count them as not compiled.

        Call it before they are removed: for one that is compiled just now it returns when that has ended.
        """
        with self._changed:
            for job in [job for job in self._jobs if concerns(job.layer.name)]:
                self._drop(job)
            for marker in list(self._markers.iterdir()) if self._markers.is_dir() else []:
                if concerns(marker.name.partition("-")[0]):
                    marker.unlink(missing_ok=True)

    def _drop(self, job: _Job) -> None:
        if job.process is None:
            self._jobs.remove(job)
            return
        job.is_unwanted = True
        job.process.kill()
        if not self._changed.wait_for(lambda: job not in self._jobs, KILL_LIMIT):
            log.error("a compile does not die", layer=job.layer.name, pid=job.process.pid)

    def _work(self) -> None:
        while (job := self._take()) is not None:
            assert job.process is not None
            code = job.process.wait()
            with self._changed:
                self._end(job, code)

    def _take(self) -> _Job | None:
        """Begin the next job that can be begun; None: there is none, and the thread ends."""
        with self._changed:
            while self._jobs:
                job = self._jobs[0]
                try:
                    job.process = self._begin(job)
                    return job
                except OSError as error:
                    self._jobs.remove(job)
                    log.warning("cannot compile a layer", layer=job.layer.name, error=str(error))
            self._is_working = False
            return None

    def _begin(self, job: _Job) -> subprocess.Popen[bytes]:
        with self._open_lock() as lock:
            argv = [sys.executable, "-I", "-S", "-c", BEGIN, str(os.getpid()), str(lock)]
            return subprocess.Popen(
                [*argv, str(job.python), "-I", "-S", "-c", COMPILE],
                cwd=job.layer,
                umask=0o022,  # others are to read the caches
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    @contextmanager
    def _open_lock(self) -> Iterator[int]:
        handle = os.open(self._root / ".compiling", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield handle
        finally:
            os.close(handle)

    def _end(self, job: _Job, code: int) -> None:
        self._jobs.remove(job)
        self._changed.notify_all()
        if job.is_unwanted:
            return
        if code == 0:
            try:
                self._markers.mkdir(mode=0o700, exist_ok=True)
                (self._markers / job.marker).touch()
            except OSError as error:
                log.warning("cannot note that a layer is compiled", layer=job.layer.name, error=str(error))
            return
        self._crashes[job.marker] += code < 0
        log.warning("a layer is not compiled completely", layer=job.layer.name, version=job.version, code=code)
