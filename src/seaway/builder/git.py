"""Fetching a source from git: no prompt, no hook, no option injection, no password in argv or output."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from seaway.builder.base import BuildError
from seaway.builder.commands import CommandFailed, Commands
from seaway.model import Source

SCHEMES = ("https", "http", "ssh", "git", "file")

_CREDENTIALS = re.compile(r"(?<=://).*(?=@)", re.S)  # up to the last @: one in a password was not escaped
_SCP_LIKE = re.compile(r"^[\w.-]+@[\w.-]+:[^:]")
_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$SEAWAY_GIT_USER" "$SEAWAY_GIT_PASSWORD"; }; f'
)


def check_url(url: str) -> None:
    """Refuse what is no git address; raise BuildError."""
    scheme = url.partition("://")[0] if "://" in url else ""
    usable = scheme in SCHEMES or url.startswith("/") or (not scheme and bool(_SCP_LIKE.match(url)))
    if url.startswith("-") or "::" in url or any(ord(c) < 33 for c in url) or not usable:
        raise BuildError(
            f"git: {mask_url(url)!r} is not a git address: write {', '.join(SCHEMES)}://..., user@host:path, "
            "or an absolute path on the server"
        )


def check_ref(ref: str) -> None:
    """Refuse what is no branch, tag or commit; raise BuildError."""
    if not re.fullmatch(r"[\w./@+#=-]{1,250}", ref) or ref.startswith(("-", ".", "/")) or ".." in ref or "@{" in ref:
        raise BuildError(f"git: ref {ref!r} is not the name of a branch, tag or commit")


def mask_url(url: str, mask: str = "***") -> str:
    """Return a git address with what may be credentials masked, whatever characters a password has in it."""
    return _CREDENTIALS.sub(mask, url)


def describe_git(source: Source) -> str:
    """Return "main of https://..." for people, without credentials; "" for a source that is not git's."""
    return "" if source.git is None else f"{source.ref or 'HEAD'} of {mask_url(source.git)}"


def clone(url: str, ref: str | None, target: Path, commands: Commands) -> str:
    """Check the ref (default: the remote's HEAD) out into `target`, without history; return the commit's id."""
    check_url(url)
    ref = ref or "HEAD"
    check_ref(ref)
    git = shutil.which("git", path=commands.env.get("PATH"))
    if git is None:
        raise BuildError("git: this machine has no git: install it, or deploy from a folder")
    address, env = _take_credentials(url)
    env |= _safe_environment(commands)
    target.mkdir()

    def run(*arguments: str, quiet: bool = True) -> list[str]:
        return commands.run([git, *arguments], target, quiet=quiet, env=env)

    try:
        run("init", "--quiet", "--template=")
        commit = _fetch(run, address, ref)
        run("checkout", "--quiet", "--detach", commit)
        if (target / ".gitmodules").is_file():
            run("submodule", "update", "--quiet", "--init", "--recursive", "--depth", "1")
        return commit
    except CommandFailed as failed:
        reason = "; ".join(line.strip() for line in failed.output[-4:] if line.strip())
        raise BuildError(f"git: cannot fetch {ref} of {mask_url(url)}: {reason or failed}") from None


def _fetch(run: Callable[..., list[str]], address: str, ref: str) -> str:
    """Fetch one commit and return its id; servers that give no bare commit ids are asked for everything."""
    try:
        run("fetch", "--quiet", "--no-tags", "--depth", "1", "--", address, ref)
    except CommandFailed:
        if not re.fullmatch(r"[0-9a-f]{7,64}", ref):
            raise
        run("fetch", "--quiet", "--", address, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        return run("rev-parse", "--verify", f"{ref}^{{commit}}")[-1]
    return run("rev-parse", "--verify", "FETCH_HEAD^{commit}")[-1]


def _take_credentials(url: str) -> tuple[str, dict[str, str]]:
    """Move user:password out of an http address into the environment of a credential helper."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.username is None:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    env = {
        "SEAWAY_GIT_USER": unquote(parts.username),
        "SEAWAY_GIT_PASSWORD": unquote(parts.password or ""),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": _HELPER,
    }
    return urlunsplit(parts._replace(netloc=host)), env


def _safe_environment(commands: Commands) -> dict[str, str]:
    env = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),
        "GIT_LFS_SKIP_SMUDGE": os.environ.get("GIT_LFS_SKIP_SMUDGE", "0"),
    }
    if "GIT_SSH_COMMAND" not in commands.env:
        env["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes"
    return env
