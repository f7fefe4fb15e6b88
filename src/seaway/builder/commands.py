"""Running other programs in a build: lines streamed and redacted, environment chosen, a deadline kept."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seaway.builder.base import BuildError
from seaway.sandbox.view import View, enter

LONGEST_LINE = 4000  # characters, or bytes where they are not characters yet
KEPT_LINES = 200  # of the output, for the error
MOST_OUTPUT = 16 * 1024 * 1024  # characters of a build's log
CHUNK = 64 * 1024  # bytes read at once: as many as a pipe holds
DROP_PAUSE = 0.001  # seconds between chunks that are only counted
LINE_END = re.compile(rb"\r?\n|\r(?=[^\n])")  # a carriage return alone: progress bars

PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "NETRC"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "CC", "CXX", "CFLAGS", "LDFLAGS", "PKG_CONFIG_PATH"),
    }
)
PASSED_PREFIXES = ("UV_", "PIP_", "LC_", "XDG_")
PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""What users set for pip, under the names uv reads; only where uv's own is not set."""

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")


def choose_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a build: locale, paths, proxies and index settings, and none of Seaway's secrets."""
    env = {
        name: value
        for name, value in environ.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES) or name.lower().endswith("_proxy")
    }
    for pip_name, uv_name in PIP_TO_UV.items():
        if pip_name in env and uv_name not in env and not (uv_name == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in env):
            env[uv_name] = env[pip_name]
    for name in (
        "UV_PROJECT",
        "UV_PROJECT_ENVIRONMENT",
        "UV_PYTHON",
        "UV_SYSTEM_PYTHON",
        "UV_TARGET",
        "UV_WORKING_DIR",
    ):
        env.pop(name, None)
    env.update(
        UV_PYTHON_DOWNLOADS="never",
        UV_NO_PROGRESS="1",
        UV_LINK_MODE="hardlink",  # not links to files outside of what was installed
        UV_NO_EDITABLE="1",  # an image cannot refer to the folder it was built in
        NO_COLOR="1",
        PYTHONDONTWRITEBYTECODE="1",
        SOURCE_DATE_EPOCH="315532800",
        LC_ALL="C.UTF-8",
    )
    return env


def find_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return values of the environment that must not be printed."""
    return tuple(
        value
        for name, value in environ.items()
        if name.endswith(("_PASSWORD", "_TOKEN", "_SECRET")) and len(value) >= 4
    )


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return the text without user:password@ in addresses and without the secrets."""
    text = _CREDENTIALS.sub("***@", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


class CommandFailed(Exception):
    """A command ended with `code`; `output` is its last lines, redacted."""

    def __init__(self, code: int, output: list[str]) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        self.output = output


class Lines:
    """Splits output into lines as terminals do; of one that is too long the rest is left out, however long it is."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""
        self._skips = False  # until the end of a line whose beginning was taken

    def feed(self, data: bytes) -> None:
        """Take in output as it comes."""
        whole = self._rest + data
        ends = b"\n" in whole or b"\r" in whole  # 50 times as fast as the pattern, for what has no end
        *complete, rest = LINE_END.split(whole) if ends else [whole]
        for line in complete:
            self._put(line)
            self._skips = False
        if len(rest) > LONGEST_LINE:
            self._put(rest)
            rest, self._skips = b"", True
        self._rest = rest

    def end(self) -> None:
        """There will be no more."""
        if last := self._rest.rstrip(b"\r"):
            self._put(last)
        self._rest = b""

    def _put(self, line: bytes) -> None:
        if not self._skips:
            self._take(line.decode(errors="replace"))


def start(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str], *, pass_fds: Sequence[int] = (), umask: int = -1
) -> subprocess.Popen[bytes]:
    """Start a command that reads nothing, and whose whole output is one pipe. `umask` -1: as here."""
    return subprocess.Popen(
        argv,
        cwd=cwd,
        env=env,
        pass_fds=pass_fds,
        umask=umask,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )


def start_in(view: View, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command as the view's user, who sees nothing else; `cwd` is a folder of the view."""
    sealed = view.seal(argv, cwd, env)
    try:
        return start(enter(sealed), Path("/"), {}, pass_fds=(sealed,), umask=0o022)
    finally:
        os.close(sealed)


@dataclass
class Commands:
    """Runs commands one after the other; `emit` gets each line, `deadline` is of time.monotonic().

    All together emit about `room` characters; what comes then is counted, and read no faster than 64 MB a second.
    """

    emit: Callable[[str], None]
    deadline: float
    env: Mapping[str, str] = field(default_factory=lambda: choose_environment(os.environ))
    secrets: tuple[str, ...] = field(default_factory=lambda: find_secrets(os.environ))
    room: int = MOST_OUTPUT

    def run(
        self,
        argv: Sequence[str],
        cwd: Path,
        *,
        quiet: bool = False,
        env: Mapping[str, str] | None = None,
        view: View | None = None,
    ) -> list[str]:
        """Run to the end; return the output's last lines; raise CommandFailed, or BuildError at the deadline.

        What it leaves running in the background is not waited for. With a view `env` is its whole environment.
        """
        if self.deadline <= time.monotonic():
            raise BuildError(self._explain_deadline())
        kept: deque[str] = deque(maxlen=KEPT_LINES)
        left_out = 0

        def take(raw: str) -> None:
            nonlocal left_out
            line = redact(raw, self.secrets)[:LONGEST_LINE]
            kept.append(line)
            if quiet or not line.strip():
                return
            if self.room <= 0:
                left_out += 1
                return
            self.room -= len(line)
            self.emit(line)

        process = (
            start(argv, cwd, {**self.env, **(env or {})}) if view is None else start_in(view, argv, cwd, env or {})
        )
        assert process.stdout is not None
        lines = Lines(take)
        with process, process.stdout:
            is_late = not self._read(process, process.stdout.fileno(), lines)
            if is_late:
                process.kill()
        lines.end()
        if left_out:
            self.emit(f"... {left_out} lines are left out: a build's output is kept up to {MOST_OUTPUT >> 20} MiB")
        if is_late:
            raise BuildError(self._explain_deadline())
        if process.returncode != 0:
            raise CommandFailed(process.returncode, list(kept))
        return list(kept)

    def _read(self, process: subprocess.Popen[bytes], output: int, lines: Lines) -> bool:
        """Read until the process has ended and nothing of its is left to read; return whether that was in time."""
        os.set_blocking(output, False)
        ended = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(output, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while (left := self.deadline - time.monotonic()) > 0:
                ready = {fd for fd, _ in poll.poll(left * 1000)}
                if output in ready:
                    if data := os.read(output, CHUNK):
                        lines.feed(data)
                        time.sleep(0 if self.room > 0 else DROP_PAUSE)
                    else:
                        poll.unregister(output)  # closed by all; the end follows
                if ended in ready:
                    with suppress(BlockingIOError):
                        lines.feed(os.read(output, CHUNK))  # all that it can have left; others may write for ever
                    return True
            return False
        finally:
            os.close(ended)

    @staticmethod
    def _explain_deadline() -> str:
        return (
            "the build took longer than its limit: raise build.timeout in seaway.toml, or see its log for what is slow"
        )
