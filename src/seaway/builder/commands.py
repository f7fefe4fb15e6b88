"""Running other programs in a build: lines streamed and redacted, environment chosen, a deadline kept."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seaway.builder.base import BuildError

LONGEST_LINE = 4000
KEPT_LINES = 200  # of the output, for the error

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


@dataclass
class Commands:
    """Runs commands one after the other; `emit` gets each line, `deadline` is of time.monotonic()."""

    emit: Callable[[str], None]
    deadline: float
    env: Mapping[str, str] = field(default_factory=lambda: choose_environment(os.environ))
    secrets: tuple[str, ...] = field(default_factory=lambda: find_secrets(os.environ))

    def run(
        self, argv: Sequence[str], cwd: Path, *, quiet: bool = False, env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Run to the end; return the output's last lines; raise CommandFailed, or BuildError at the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise BuildError(self._explain_deadline())
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(left, end)
        timer.daemon = True
        timer.start()
        lines: list[str] = []
        assert process.stdout is not None
        with process, process.stdout:
            for raw in process.stdout:
                line = redact(raw.rstrip("\r\n"), self.secrets)[:LONGEST_LINE]
                lines.append(line)
                del lines[:-KEPT_LINES]
                if not quiet and line.strip():
                    self.emit(line)
        timer.cancel()
        if late.is_set():
            raise BuildError(self._explain_deadline())
        if process.returncode != 0:
            raise CommandFailed(process.returncode, lines)
        return lines

    @staticmethod
    def _explain_deadline() -> str:
        return (
            "the build took longer than its limit: raise build.timeout in seaway.toml, or see its log for what is slow"
        )
