"""All that a build's worker started ends with it: when it is done, told to end (SIGTERM), or its parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
DYING_PAUSE, DYING_LIMIT = 0.005, 10.0  # seconds between looks at what was just killed, and for all of them
PATIENCE = 0.5  # seconds; what is not dead then may fork faster than it is looked at


@dataclass(frozen=True)
class Descendants:
    """What this process started. Some of it runs under the id `user`, which nobody else has (None: none)."""

    user: int | None = None

    def die_with_parent(self, parent: int) -> None:
        """Have the kernel signal this process when its parent ends; on the signal all that it started is killed.

        What a command leaves running becomes a child of this process, wherever it went.
        """

        def kill_all(*_: object) -> None:
            self.kill()
            os.killpg(os.getpgid(0), signal.SIGKILL)

        signal.signal(signal.SIGTERM, kill_all)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 or libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != parent:
            kill_all()

    def kill(self) -> bool:
        """Kill what is left of them; those of a killed parent become children of this process. Return whether all died.

        What does not (a disk waits, or it became somebody else's) is left after some seconds.
        """
        me, begun = psutil.Process(), time.monotonic()
        while (children := me.children(recursive=True)) and time.monotonic() < begun + DYING_LIMIT:
            for child in children:
                with suppress(psutil.Error):
                    child.kill()
            if self.user is not None and time.monotonic() > begun + PATIENCE:
                kill_user(self.user)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    continue
            time.sleep(DYING_PAUSE)
        return not children


def kill_user(user: int) -> None:
    """Kill all processes of a user id at once, which nothing outruns that forks. Root only."""
    if user <= 0:
        raise ValueError(f"all processes of user {user} are not to be killed")
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setresuid(user, user, user)
            os.kill(-1, signal.SIGKILL)  # whoever this user may signal, and not this process
        os._exit(0)
    with suppress(ChildProcessError):
        os.waitpid(child, 0)
