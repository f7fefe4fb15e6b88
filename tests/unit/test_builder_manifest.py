"""Procfile and seaway.toml: what is read, and the sentence each wrong entry gets."""

from __future__ import annotations

import json

import pytest

from seaway.builder.base import BuildError
from seaway.builder.manifest import check_mounts, read_app_files, read_build_table, read_procfile
from seaway.builder.schema import DESCRIPTIONS, _find, make_schema
from seaway.model import Mount, Route, Strategy

FULL = """
routes = ["Shop.example.com", "example.com/shop", { host = "b.example.com", path = "/x" }]

[processes.web]
stop_grace = "20s"

[processes.web.health.readiness]
http = "/healthz"
interval = 0.5

[processes.mailer]
command = "./mail"

[scale]
web = 2

[rollout]
strategy = "recreate"
keep = "1m"

[router]
keepalive = "500ms"

[build]
python = "3.12"
base = "python:3.12-slim"
"""


def test_procfile_and_toml_are_merged() -> None:
    """Commands come from either file, settings from seaway.toml."""
    read = read_app_files("# mine\nweb: ./serve --port $PORT\n\nrelease: ./migrate\n", FULL)
    manifest = read.manifest
    assert list(manifest.processes) == ["web", "mailer"]
    assert manifest.processes["web"].command == "./serve --port $PORT"
    assert manifest.processes["web"].stop_grace == 20
    readiness = manifest.processes["web"].health.readiness
    assert readiness is not None
    assert (readiness.http, readiness.interval) == ("/healthz", 0.5)
    assert manifest.release_command == "./migrate"
    assert manifest.scale == {"web": 2}
    assert manifest.routes[0] == Route(host="shop.example.com")
    assert manifest.routes[2] == Route(host="b.example.com", path="/x")
    assert (manifest.rollout.strategy, manifest.rollout.keep) == (Strategy.RECREATE, 60)
    assert manifest.router.keepalive == 0.5
    assert (read.build.python, read.build.base) == ("3.12", "python:3.12-slim")


def test_toml_alone_suffices_and_wins() -> None:
    """Without a Procfile [processes] names everything, and its command replaces the Procfile's."""
    toml = '[processes.web]\ncommand = "new"\n[processes.release]\ncommand = "migrate"\n'
    assert read_app_files(None, toml).manifest.processes["web"].command == "new"
    read = read_app_files("web: old", toml)
    assert read.manifest.processes["web"].command == "new"
    assert read.manifest.release_command == "migrate"


def start(process: float | None, rollout: float | None) -> float:
    """Return how long rollouts wait for instances to start, where seaway.toml says so much of process and rollout."""
    tables = f"[processes.web.health]\nstart_timeout = {process}\n" if process is not None else ""
    tables += f"[rollout]\nstart_timeout = {rollout}\n" if rollout is not None else ""
    return read_app_files("web: x\nworker: y\n", tables).manifest.rollout.start_timeout


@pytest.mark.parametrize(
    ("process", "rollout", "waits"),
    [
        (None, None, 120), (5, None, 120), (60, None, 120), (300, None, 360), (604_800, None, 604_800),
        (None, 45, 45), (300, 300, 300), (300, 900, 900), (2, 8, 8),
    ],
)  # fmt: skip
def test_rollouts_wait_as_long_as_processes_may_take(process: float | None, rollout: float | None, waits: int) -> None:
    """The time that is given to a process counts, unless the file says how long rollouts wait."""
    assert start(process, rollout) == waits


def test_a_rollout_that_ends_before_its_processes_may_have_started_is_refused() -> None:
    with pytest.raises(
        BuildError, match=r"rollout.start_timeout: 120 s .* 300 s of processes.web.health.start_timeout"
    ):
        start(300, 120)


def test_worker_only() -> None:
    """An app without web is fine."""
    assert list(read_app_files("worker: ./work", None).manifest.processes) == ["worker"]


def test_procfile_keeps_colons_of_the_command() -> None:
    """Only the first colon splits; a byte order mark and Windows line ends do no harm."""
    assert read_procfile("\ufeffweb: run --bind :80\r\n").commands == {"web": "run --bind :80"}


BAD_PROCFILES = [
    ("web ./serve", "Procfile: line 1: 'web ./serve' has no colon: write `name: command`"),
    ("\nWeb: x", "Procfile: line 2: 'Web' is not a process name"),
    ("Web: x", "(did you mean 'web'?)"),
    ("Celery Beat: x", "(did you mean 'celery-beat'?)"),
    ("_a: x", "Procfile: line 1: '_a' is not a process name"),
    ("a__b: x", "'a__b' is not a process name"),
    ("a_b: x\na-b: y", "Procfile: line 2: a-b is the same as a_b: give"),
    ("web:", "Procfile: line 1: web has no command"),
    ("web: a\nweb: b", "Procfile: line 2: web is there twice"),
    ("web: " + "x" * 9000, "Procfile: line 1: the command of web is longer than 8192"),
    ("release: x", "has only a release command"),
    ("", "nothing recognisable in the source: Seaway looks for a Procfile"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_PROCFILES)
def test_bad_procfile(text: str, sentence: str) -> None:
    """A wrong line is named with its number."""
    with pytest.raises(BuildError) as caught:
        read_app_files(text, None)
    assert sentence in str(caught.value)


DB = '[[mounts]]\nname = "db"\npath = "a/b"'
BAD_TOMLS = [
    ("[rollout\n", "seaway.toml: is not valid TOML: ", "line 1, column 9"),
    ('rutes = ["a"]', "rutes: unknown key (did you mean 'routes'?)", "known here: routes, mounts, processes"),
    ('[rollout]\nstratgy = "x"', "rollout.stratgy: unknown key (did you mean 'strategy'?)", ""),
    ('[rollout]\nstrategy = "bluegreen"', "rollout.strategy: \"bluegreen\" is unknown: it is one of 'blue-green'", ""),
    ('[rollout]\nkeep = "5 parsecs"', "rollout.keep: '5 parsecs' is not a duration", "500ms"),
    ("[rollout]\ndrain = -1", "rollout.drain: -1 is out of range: it must be at least 0", ""),
    ("[rollout]\nkeep = inf", "rollout.keep: Infinity", ""),
    ("[processes.web]\nstop_grace = true", "processes.web.stop_grace: true is not a duration", ""),
    ("[processes.web]\nstop_grace = 1979-05-27", "'1979-05-27' is not a duration", ""),
    ("[processes.web]\nstop_grac = 3", "processes.web.stop_grac: unknown key (did you mean 'stop_grace'?)", ""),
    ('[processes.web]\ncommand = " "', "processes.web.command: the command is empty", ""),
    ("[processes.wbe]\nstop_grace = 3", "processes.wbe: has no command", "did you mean 'web'?"),
    ('[processes."A B"]\ncommand = "x"', "'A B' is not a process name", "did you mean 'a-b'?"),
    ("[processes.web.health.startup]\nhtpp = '/x'", "health.startup.htpp: unknown key (did you mean 'http'?)", ""),
    ("[processes.web.health.startup]\ninterval = 1", "a check has exactly one of http", ""),
    ("[processes.web.health.startup]\nhttp = 'x'", "health.startup.http: 'x' is not a path prefix", ""),
    ("[processes.release]\ncommand='m'\n[processes.release.health]\nstart_timeout=1", "release.health: a release", ""),
    ('[scale]\nweb = "3"', 'scale.web: "3" is not a whole number: write it without quotes', ""),
    ("[scale]\nweb = 1.5", "scale.web: 1.5 is not a whole number", ""),
    ("[processes.web]\n[processes.Web]\ncommand='x'", "processes.Web: 'Web' is not", "(did you mean 'web'?)"),
    ("[scale]\na_b = 2\na-b = 3", "scale.a_b: is the same as a-b: keep one of them", ""),
    ("[scale]\nwbe = 2", "scale.wbe: the app has no process 'wbe' (did you mean 'web'?)", ""),
    ("processes = 3", "processes: 3 is not a table", ""),
    ('routes = ["http://a.b"]', "routes[0]: 'http://a.b' is not a route: leave out the scheme", ""),
    ('routes = "a.b"', 'routes: "a.b" is not a list', ""),
    ('routes = [{ hots = "a.b" }]', "routes[0].hots: unknown key (did you mean 'host'?)", "routes[0].host: is missing"),
    (f"routes = {[f'{n}.b' for n in range(201)]}", "routes: 201 are too many: at most 200 are possible", ""),
    ("routes = [3]", 'routes[0]: a route is "host/path" or a table', ""),
    ('[build]\npython = "2.7"', 'build.python: "2.7" is not a Python version: write for example "3.12"', ""),
    ("[build]\npython = 3.12", "build.python: 3.12 is not text: put it in quotes", ""),
    ('[build]\nbase = "A B"', 'build.base: "A B" is not an image name', ""),
    ('[build]\ncommand = " "', "build.command: the command is empty: write the shell command to run", ""),
    ('[[mounts]]\npath = "data"', "mounts[0].name: is missing", ""),
    ('[[mounts]]\nname = "db"\npath = "/data"', "mounts[0].path: '/data' is not a folder of the app's: write", ""),
    ('[[mounts]]\nname = "db"\npath = "../data"', "'../data' is not a folder of the app's", ""),
    ('[[mounts]]\nname = "D b"\npath = "data"', "mounts[0].name: 'D b' is not", ""),
    (
        '[[mounts]]\nname = "db"\npaht = "data"',
        "mounts[0].paht: unknown key (did you mean 'path'?)",
        "path: is missing",
    ),
    (f"{DB}\n{DB}", "mounts[1].name: there is another 'db': rename one", "mounts[1].path: a/b and a/b are in each"),
    (
        "\n".join(f'[[mounts]]\nname = "m{n}"\npath = "p{n}"' for n in range(11)),
        "mounts: 11 are too many: at most 10",
        "",
    ),
    (f'{DB}\n[[mounts]]\nname = "up"\npath = "a"', "mounts[1].path: a and a/b are in each other's way: keep", ""),
]


@pytest.mark.parametrize(("text", "sentence", "also"), BAD_TOMLS)
def test_bad_toml(text: str, sentence: str, also: str) -> None:
    """Every error names the file, the key's path, what is wrong and what would be right."""
    with pytest.raises(BuildError) as caught:
        read_app_files("web: x", text)
    assert str(caught.value).startswith("seaway.toml: ")
    assert sentence in str(caught.value)
    assert also in str(caught.value)


def test_persistent_folders() -> None:
    """A note says what stays, and what keeps two releases apart; files of the source and clusters are in the way."""
    read = read_app_files("web: x", f'{DB}\n[[mounts]]\nname = "up"\npath = "ab"')
    mounts = (Mount(name="db", path="a/b"), Mount(name="up", path="ab"))
    assert read.manifest.mounts == mounts
    (note,) = read.notes
    assert note.startswith("kept over restarts and releases: a/b, ab; two releases have it while one takes over: ")
    assert note.endswith('`strategy = "recreate"` below [rollout] keeps them apart')
    assert read_app_files("web: x", f'{DB}\n[rollout]\nstrategy = "recreate"').notes == ()
    check_mounts(mounts, {"a/b/c", "abc", "Procfile"}, containers=False)
    check_mounts((), {"a"}, containers=True)
    for names, containers, sentence in [
        ({"a"}, False, "mounts[0].path: a is a file of the app's"),
        ({"ab"}, False, "mounts[1].path: ab is a file of the app's"),
        (set(), True, "mounts: persistent folders are there where Seaway runs on one machine"),
    ]:
        with pytest.raises(BuildError) as caught:
            check_mounts(mounts, names, containers=containers)
        assert sentence in str(caught.value)


def test_every_wrong_key_is_named_at_once() -> None:
    """Three mistakes give three lines."""
    with pytest.raises(BuildError) as caught:
        read_app_files("web: x", '[scale]\nweb = "3"\n[rollout]\nkeeep = 1\n[router]\nkeepalive = []')
    assert len(str(caught.value).splitlines()) == 3


def test_all_that_is_wrong_in_both_files_is_named_at_once() -> None:
    """Line by line and key by key; also where only [build] is looked for. Of endless errors the first are."""
    texts = ("web ./serve\nWeb: x\nworker:\nok: run", "[rollout]\nkeeep = 1\ndrain = -1")
    for read in (read_app_files, read_build_table):
        with pytest.raises(BuildError) as caught:
            read(*texts)
        lines = str(caught.value).splitlines()
        assert [line.split(":")[:2] for line in lines] == [
            ["Procfile", " line 1"], ["Procfile", " line 2"], ["Procfile", " line 3"],
            ["seaway.toml", " rollout.drain"], ["seaway.toml", " rollout.keeep"],
        ]  # fmt: skip
    with pytest.raises(BuildError) as caught:
        read_app_files("\n".join("x" * n for n in range(1, 101)), None)
    *_, twentieth, rest = str(caught.value).splitlines()
    assert (twentieth[:20], rest) == ("Procfile: line 20: '", "and 80 more errors")


def test_all_that_contradicts_another_file_is_named_at_once() -> None:
    """Tables without a command, settings that a release command has not, counts of what is not there."""
    toml = "[processes.a]\nport = 1\n[processes.b]\nport = 2\n[processes.release]\nmemory = '1G'\ncpu = 1"
    with pytest.raises(BuildError) as caught:
        read_app_files("web: x\nrelease: y", toml)
    keys = [line.split(":")[1].strip() for line in str(caught.value).splitlines()]
    assert sorted(keys) == ["processes.a", "processes.b", "processes.release.cpu", "processes.release.memory"]
    with pytest.raises(BuildError) as caught:
        read_app_files("worker: x", 'routes = ["a.b"]\n[scale]\nx = 1\ny = 2')
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    "table", ["", "[processes.celery_beat]\nstop_grace = 5", "[processes.celery-beat]\nstop_grace = 5"]
)
def test_a_process_with_an_underscore_is_called_with_a_hyphen_everywhere(table: str) -> None:
    """As its settings and its count are, however they are written; a note says so once."""
    read = read_app_files("web: x\ncelery_beat: celery beat", f"[scale]\ncelery_beat = 2\n{table}")
    assert list(read.manifest.processes) == ["web", "celery-beat"]
    assert read.manifest.processes["celery-beat"].stop_grace == (5 if table else 30)
    assert read.manifest.scale == {"celery-beat": 2}
    (note,) = read.notes
    assert note.startswith("celery_beat is called celery-beat: ")
    assert read_app_files("web: x", None).notes == ()


def test_routes_need_web() -> None:
    """Routes on an app without web are a mistake."""
    with pytest.raises(BuildError, match="only a web process gets traffic"):
        read_app_files("worker: x", 'routes = ["a.example.com"]')


def test_no_process_but_python_says_to_add_one() -> None:
    """Where something was recognised, the error says what is missing."""
    with pytest.raises(BuildError, match=r"found pyproject.toml, but neither a Procfile.*add a Procfile"):
        read_app_files(None, None, hint="pyproject.toml")


def test_every_description_has_its_key() -> None:
    """No sentence describes a key that is not there, and the schema uses standard words only."""
    schema = make_schema()
    inside_lists = {"routes[].host", "routes[].path", "mounts[].name", "mounts[].path"}
    assert [name for name in DESCRIPTIONS.keys() - inside_lists if _find(schema, name.split(".")) is None] == []
    assert not {'"ge"', '"le"', '"gt"', '"lt"'} & set(json.dumps(schema).replace(":", " ").split())
