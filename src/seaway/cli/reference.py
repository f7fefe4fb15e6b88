"""docs/cli.md, written from the commands themselves (scripts/gen_cli_docs.py runs it)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from seaway.cli.app import build_cli
from seaway.cli.commands.install import InstallCommands
from seaway.cli.commands.platform import PlatformCommands

INTRODUCTION = """\
# The command line

Written from the code by `scripts/gen_cli_docs.py`; edit the commands, not this page.

Every command but `up`, `down`, `install`, `uninstall` and `cluster` speaks to Seaway's API. Two words may be joined by
a colon: `seaway config:set` is `seaway config set`. A group by itself lists: `seaway ps` is `seaway ps list`.

## Which platform, which app

| | |
| --- | --- |
| `SEAWAY_URL` | Where the API is. Default: `http://127.0.0.1` and the port that `seaway up` was told (8700). |
| `SEAWAY_TOKEN` | The token to use. Default: the admin token in `SEAWAY_HOME/admin.token`. |
| `SEAWAY_HOME` | Where the platform of this machine keeps everything. Default: `~/.local/share/seaway`. |
| `SEAWAY_DEBUG` | If set, a fault of the command line itself shows where it happened. |

After `seaway install` or `seaway login --cluster` the defaults are the cluster's, until `seaway login --local`.

`-a APP` names the app. Inside an app's folder it may be left out: the file `.seaway` there (or in a folder above)
holds the app's name. `seaway apps create NAME` writes it in a folder that looks like an app's (a `Procfile`,
`seaway.toml`, `pyproject.toml`, `requirements.txt`, `uv.lock` or `.git`), and so does the first `seaway deploy` of
the folder you are in. It is never part of what is deployed.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | usage: something on the command line or in the input is wrong |
| 3 | not found |
| 4 | not allowed: no token, a wrong one, or one whose role may not |
| 5 | timed out; what was begun goes on in the platform |
| 130 | ended by Ctrl-C |

`seaway run` exits with the command's own code (128 + N if signal N ended it); with 130 also when SIGTERM or the end of
its terminal ended it, with 141 when nobody reads its output any more, and with 1 when some of that was lost on the way.
However it ends, the command ends with it, unless it was started with `--detach`. On a terminal the command has that:
Ctrl-C, Ctrl-Z and Ctrl-D are its own, and only while the API does not answer Ctrl-C ends `seaway run`. With
`-o json` its output comes by way of the logs, and with that or `--detach` `-i` passes on at most 512 KiB.

## Output

With `-o json` standard output holds the API's documents and nothing else: one JSON value, or one object a line for
`logs`, `builds log`, `run` and `events -f`. Errors go to standard error, then as
`{"error": {"code", "message", "exit_code", "field"?, "hint"?}}`.

Commands that change what runs (`deploy`, `rollback`, `config set`, `config unset`, `ps scale`, `ps restart`,
`apps destroy`) wait until it is so, and show each phase with its reason. They are done when all traffic is on the
new release. With `-o json` they then print `{"app", "result", "release", "rollout"}`, where `result` is the
rollout's phase. New processes that a deploy does not start, as nobody has said how many (seaway-toml.md), are in its
output and in `release.spec.note`. Ctrl-C only detaches; a restart of the platform in the meantime does no harm.
`--no-wait` returns at once.
"""


def _nothing(*_: object) -> Any:
    raise NotImplementedError("this command line is only read")


def write_reference() -> str:
    """Return the page."""
    nothing = PlatformCommands(_nothing, _nothing, list, _nothing, _nothing, _nothing, _nothing)
    root = get_command(build_cli(nothing, InstallCommands(_nothing, _nothing)))
    parts = [INTRODUCTION, "## Commands\n"]
    parts += [_describe(path, command) for path, command in _walk("seaway", root)]
    return "\n".join(parts)


def _walk(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _walk(f"{path} {name}", command)
        else:
            yield f"{path} {name}", command


def _describe(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = [row for param in command.params if (row := _row(param, context))]
    table = ["| | |", "| --- | --- |", *rows, ""] if rows else []
    return "\n".join([f"### `{path}`\n", inspect.cleandoc(command.help or "") + "\n", f"    {usage}\n", *table])


def _row(param: Any, context: Any) -> str:
    record = param.get_help_record(context)
    if record is None or "--help" in record[0]:
        return ""
    names, text = (str(part).replace("|", "\\|") for part in record)
    return f"| `{names}` | {text} |"
