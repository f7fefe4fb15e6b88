"""Procfile and seaway.toml to a BuildManifest; every error names file, key, what is wrong and what would be right."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from seaway.builder.base import BuildError
from seaway.builder.schema import BuildTable, ProcessTable, SeawayToml, make_schema, resolve, values_of
from seaway.model import RELEASE_COMMAND, WEB, BuildManifest, Health, Limits, Mount, Process, RolloutPolicy, Strategy
from seaway.model.base import LONGEST_TIME, name_process
from seaway.model.problems import say_range

PROCFILE = "Procfile"
SEAWAY_TOML = "seaway.toml"
LONGEST_COMMAND = 8192
SHOWN = 20  # errors; of a file that is something else altogether, each line is one
NAMED = ("processes", "scale")  # tables whose keys are names of processes
UNDERSCORES = "names of processes are parts of DNS names, which hold no _"
ONE_MACHINE = (
    "persistent folders are there where Seaway runs on one machine: in a cluster keep what is to stay in a service (a "
    "database, an object store), and take them out"
)
ALONE = '`strategy = "recreate"` below [rollout] keeps them apart'
START_ROOM = RolloutPolicy().start_timeout - Health().start_timeout  # seconds until the last instance begins to start


@dataclass(frozen=True)
class AppFiles:
    """What the app's own files say: the manifest for the platform, and [build] for the builder."""

    manifest: BuildManifest
    build: BuildTable
    notes: tuple[str, ...] = ()  # sentences for the user


@dataclass(frozen=True)
class Procfile:
    """What a Procfile says: process type -> command; which names were written otherwise; what is wrong, by line."""

    commands: Mapping[str, str] = field(default_factory=dict)
    written: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What a seaway.toml says, likewise."""

    toml: SeawayToml = field(default_factory=SeawayToml)
    written: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def read_app_files(procfile: str | None, toml: str | None, hint: str = "", image_command: str = "") -> AppFiles:
    """Parse the texts of Procfile and seaway.toml (None: no such file); raise BuildError with all that is wrong.

    `hint` says what else was recognised in the source, for the error when no process is named at all. Without a
    Procfile `image_command`, what an image starts by itself, is the web process.
    """
    own = Procfile({WEB: image_command} if image_command else {})
    lines = read_procfile(procfile) if procfile is not None else own
    said = read_toml(toml) if toml is not None else Table()
    _refuse((*lines.errors, *said.errors))  # what contradicts each other shows only in files that can be read
    table = said.toml
    processes, release_command, errors = _merge(lines.commands, table.processes, procfile is not None)
    _refuse(errors)
    if not processes:
        raise BuildError(_explain_nothing(hint, release_command))
    errors = _check_names(table.scale, processes)
    if table.routes and WEB not in processes:
        errors.append(f"{SEAWAY_TOML}: routes: only a web process gets traffic and the app has none: add one")
    errors += _check_mounts(table.mounts)
    _refuse(errors)
    manifest = BuildManifest(
        processes=processes,
        release_command=release_command,
        scale=dict(table.scale),
        routes=tuple({(route.host, route.path): route for route in table.routes}.values()),
        mounts=table.mounts,
        rollout=_fit_rollout(table, processes),
        router=table.router,
    )
    written = dict.fromkeys((*lines.written, *said.written))
    notes = [f"{name} is called {name_process(name)}: {UNDERSCORES}" for name in written]
    if table.mounts and manifest.rollout.strategy is not Strategy.RECREATE:
        paths = ", ".join(mount.path for mount in table.mounts)
        notes.append(f"kept over restarts and releases: {paths}; two releases have it while one takes over: {ALONE}")
    return AppFiles(manifest=manifest, build=table.build, notes=tuple(notes))


def read_build_table(procfile: str | None, toml: str | None) -> BuildTable:
    """Return [build] of seaway.toml; raise BuildError with all that is wrong in one of the files."""
    said = read_toml(toml) if toml is not None else Table()
    if said.errors:
        _refuse((*(read_procfile(procfile) if procfile is not None else Procfile()).errors, *said.errors))
    return said.toml.build


def _refuse(errors: Sequence[str]) -> None:
    if errors:
        more = [f"and {len(errors) - SHOWN} more errors"] if len(errors) > SHOWN else []
        raise BuildError("\n".join([*errors[:SHOWN], *more]))


def set_port(manifest: BuildManifest, port: int | None) -> BuildManifest:
    """Return the manifest with the port that an image exposes, unless its web process has one from seaway.toml."""
    web = manifest.processes.get(WEB)
    if web is None or web.port is not None or port is None:
        return manifest
    return manifest.model_copy(update={"processes": {**manifest.processes, WEB: web.model_copy(update={"port": port})}})


def read_procfile(text: str) -> Procfile:
    """Return what each line says, and what is wrong with the others."""
    commands: dict[str, str] = {}
    written: dict[str, str] = {}
    errors = []
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            name, command = _read_line(line)
            as_written = line.partition(":")[0].strip()
            if name in commands:
                same = "is there twice" if written[name] == as_written else f"is the same as {written[name]}"
                raise ValueError(f"{as_written} {same}: give each process type one line")
        except ValueError as error:
            errors.append(f"{PROCFILE}: line {number}: {error}")
            continue
        commands[name], written[name] = command, as_written
    other = tuple(name for name in written.values() if name not in commands)
    return Procfile(commands, other, tuple(errors))


def _read_line(line: str) -> tuple[str, str]:
    """Return name and command; raise ValueError with what is wrong."""
    name, colon, command = (part.strip() for part in line.partition(":"))
    if not colon:
        raise ValueError(f"{_shorten(line)} has no colon: write `name: command`, for example web: ./serve")
    called = name_process(name)
    if not command:
        raise ValueError(f"{name} has no command: write `{name}: command`")
    if len(command) > LONGEST_COMMAND:
        raise ValueError(f"the command of {name} is longer than {LONGEST_COMMAND} characters: use a script")
    return called, command


def read_toml(text: str) -> Table:
    """Return the validated seaway.toml, or every key that is wrong."""
    try:
        data = tomllib.loads(text.lstrip("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        return Table(errors=(f"{SEAWAY_TOML}: is not valid TOML: {error}: correct it there",))
    names = {key: list(found) for key in NAMED if isinstance(found := data.get(key), dict)}
    errors = [line for key, found in names.items() for line in _find_twins(key, found)]
    try:
        # By way of JSON: there strict mode still takes text for an enum and a list for a tuple.
        toml = SeawayToml.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        errors += [f"{SEAWAY_TOML}: {_explain(details)}" for details in error.errors(include_url=False)]
        toml = SeawayToml()
    written = tuple(name for found in names.values() for name in found if "_" in name)
    return Table(toml, written, tuple(dict.fromkeys(errors)))


def _find_twins(table: str, names: Sequence[str]) -> list[str]:
    """Return an error for each name that is another's with `_` for `-`."""
    plain = {name.replace("_", "-"): name for name in names}
    return [
        f"{SEAWAY_TOML}: {table}.{name}: is the same as {other}: keep one of them"
        for name in names
        if (other := plain[name.replace("_", "-")]) != name
    ]


def _merge(
    commands: Mapping[str, str], tables: Mapping[str, ProcessTable], has_procfile: bool
) -> tuple[dict[str, Process], str | None, list[str]]:
    """Return the processes, the release command, and what is wrong with tables."""
    processes: dict[str, Process] = {}
    errors = []
    for name in [*commands, *(name for name in tables if name not in commands)]:
        table = tables.get(name, ProcessTable())
        command = table.command or commands.get(name)
        if command is None:
            others = f"{PROCFILE} has no {name!r}{_suggest(name, commands)}" if has_procfile else "there is no Procfile"
            errors.append(f'{SEAWAY_TOML}: processes.{name}: has no command and {others}: add command = "..."')
        elif name == RELEASE_COMMAND:
            errors += _check_release_command(table)
        else:
            given = {key: getattr(table, key) for key in table.model_fields_set - {"command"}}
            processes[name] = Process(command=command, **given)
    release = tables.get(RELEASE_COMMAND, ProcessTable()).command or commands.get(RELEASE_COMMAND)
    return processes, release, errors


def _check_release_command(table: ProcessTable) -> list[str]:
    where = f"{SEAWAY_TOML}: processes.release"
    health = [f"{where}.health: a release command ends by itself; remove it"] if table.health != Health() else []
    given = [key for key in Limits.model_fields if getattr(table, key) is not None]
    return health + [f"{where}.{key}: a release command has the limits of the web process; remove it" for key in given]


def _check_mounts(mounts: Sequence[Mount]) -> list[str]:
    """Return an error for each folder that is there twice, or inside another."""
    errors = []
    for number, mount in enumerate(mounts):
        for other in mounts[:number]:
            if mount.name == other.name:
                errors.append(f"{SEAWAY_TOML}: mounts[{number}].name: there is another {mount.name!r}: rename one")
            if _is_within(mount.path, other.path) or _is_within(other.path, mount.path):
                errors.append(
                    f"{SEAWAY_TOML}: mounts[{number}].path: {mount.path} and {other.path} are in each other's way: "
                    "keep them apart"
                )
    return errors


def check_mounts(mounts: Sequence[Mount], names: Set[str], *, containers: bool) -> None:
    """Raise BuildError if there are none in a cluster, or files of the app where folders are to be.

    `names` are paths from its top.
    """
    if mounts and containers:
        raise BuildError(f"{SEAWAY_TOML}: mounts: {ONE_MACHINE}")
    for number, mount in enumerate(mounts):
        parts = mount.path.split("/")
        blocking = next((way for end in range(1, len(parts) + 1) if (way := "/".join(parts[:end])) in names), None)
        if blocking is not None:
            raise BuildError(
                f"{SEAWAY_TOML}: mounts[{number}].path: {blocking} is a file of the app's: choose a folder, or none"
            )


def _is_within(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/")


def _check_names(scale: Mapping[str, int], processes: Mapping[str, Process]) -> list[str]:
    known = ", ".join(processes)
    return [
        f"{SEAWAY_TOML}: scale.{name}: the app has no process {name!r}{_suggest(name, processes)}: "
        f"its processes are {known}"
        for name in scale
        if name not in processes
    ]


def _fit_rollout(table: SeawayToml, processes: Mapping[str, Process]) -> RolloutPolicy:
    """Return how rollouts go: instances have the time to start that their processes are given.

    Unless the file says how long a rollout waits for them; then it must not be shorter than what it says of a process.
    """
    given = {name: one.health.start_timeout for name, one in processes.items() if _says_start_timeout(table, name)}
    slowest = max(given, key=lambda name: given[name], default=None)
    if slowest is None:
        return table.rollout
    longest, most = given[slowest], table.rollout.start_timeout
    if "start_timeout" in table.rollout.model_fields_set and most < longest:
        raise BuildError(
            f"{SEAWAY_TOML}: rollout.start_timeout: {most:g} s end before the {longest:g} s of processes.{slowest}."
            f"health.start_timeout are over: let it be longer, or leave it out"
        )
    if "start_timeout" in table.rollout.model_fields_set:
        return table.rollout
    longest = min(longest + START_ROOM, LONGEST_TIME)
    return table.rollout.model_copy(update={"start_timeout": max(most, longest)})


def _says_start_timeout(table: SeawayToml, process: str) -> bool:
    return process in table.processes and "start_timeout" in table.processes[process].health.model_fields_set


def _explain_nothing(hint: str, release_command: str | None) -> str:
    if release_command is not None:
        return f"{PROCFILE}: has only a release command: add a process that stays, for example web: python app.py"
    if hint:
        return (
            f"no process is named: found {hint}, but neither a {PROCFILE} nor [processes] in {SEAWAY_TOML}: "
            f"add a {PROCFILE} with a line such as web: python app.py"
        )
    return (
        f"nothing recognisable in the source: Seaway looks for a {PROCFILE} (for example web: ./serve) or a "
        f"{SEAWAY_TOML} with [processes.web], and for Python in uv.lock, pyproject.toml or requirements.txt"
    )


def _explain(details: ErrorDetails) -> str:
    """Turn one pydantic error into `key.path: what is wrong; what would be right`."""
    loc = details["loc"]
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    path = _join(loc)
    if kind == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return f"{path}: unknown key{_suggest(str(loc[-1]), known)}; known here: {', '.join(known)}"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "value_error":
        return f"{path}: {context['error']}"
    if kind == "too_long":
        return f"{path}: {context['actual_length']} are too many: at most {context['max_length']} are possible"
    wanted = _wanted(kind, context)
    return f"{path}: {_show(value)} {wanted}" if wanted else f"{path}: {details['msg']}"


def _wanted(kind: str, context: Mapping[str, Any]) -> str:
    fixed = {
        "float_type": 'is not a duration or number: write a number of seconds, or "500ms", "30s", "5m"',
        "int_type": "is not a whole number: write it without quotes or a point",
        "int_from_float": "is not a whole number: write it without a point",
        "string_type": "is not text: put it in quotes",
        "bool_type": "is not true or false: write it without quotes",
        "tuple_type": "is not a list: write [ ... ]",
        "dict_type": "is not a table",
        "model_type": "is not a table",
        "finite_number": "is not a finite number",
        "string_too_short": "is empty",
    }
    if kind in fixed:
        return fixed[kind]
    if wanted := say_range(kind, context):
        return wanted
    if kind == "enum":
        return f"is unknown: it is one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        if context["pattern"].startswith("^3"):
            return 'is not a Python version: write for example "3.12"'
        return 'is not an image name: write for example "python:3.11-slim"'
    return ""


def _join(loc: Sequence[int | str]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path or "top level"


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    """Return the keys that may stand in the table at `loc`."""
    schema = make_schema()
    node: dict[str, Any] = schema
    for part in loc:
        node = resolve(schema, node)
        if isinstance(part, int):
            node = resolve(schema, node["items"])
            node = next((side for side in node.get("anyOf", ()) if "properties" in side), node)
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = values_of(node) or {}
    return list(resolve(schema, node).get("properties", {}))


def _suggest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _show(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _shorten(text: str, limit: int = 60) -> str:
    return repr(text) if len(text) <= limit else repr(text[: limit - 3] + "...")
