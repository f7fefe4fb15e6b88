"""seaway up, down, status and Seaway's own processes, as the composition root is called; and the written page."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer import Context
from typer.core import TyperGroup

from seaway.cli import Part
from seaway.cli.reference import write_reference
from seaway.home import Home, Settings
from seaway.supervisor import running
from seaway.supervisor.locks import acquire
from seaway.supervisor.running import PlatformError, wait_started
from tests.unit.cli_recorded import COMMAND, Bench, bench, recorder

__all__ = ["bench", "recorder"]

VERBS = {
    "apps": "create destroy info list", "builds": "cancel list log", "cluster": "check render",
    "config": "get list set unset", "ps": "list restart scale stop", "releases": "diff info list",
    "rollouts": "cancel list pause promote resume show", "routes": "add list remove", "tokens": "create list revoke",
}  # fmt: skip

STATUS = {
    "version": "0.1.0", "now": "2026-11-23T10:00:00Z", "domain": "localhost", "http_port": 8080, "apps": 2,
    "app_states": {"serving": 2}, "routers": [{"name": "router-0", "connected": True}],
    "engine": {"available": True, "reason": "", "instances": 3, "nodes": [{"name": "here", "ready": True}]},
}  # fmt: skip


def test_up_takes_the_last_settings_for_what_is_not_given(bench: Bench) -> None:
    """And hands the composition root whole settings."""
    Home(bench.home).create().write_settings(Settings(api_port=9700, routers=2))
    assert bench.run("up", "-d", "--http-port", "9080").exit_code == 0
    assert bench.run("up").exit_code == 0
    assert bench.calls == [
        ("up", Settings(api_port=9700, routers=2, http_port=9080), True),
        ("up", Settings(api_port=9700, routers=2), False),
    ]


def test_up_takes_limits(bench: Bench) -> None:
    """Sizes as people write them."""
    assert bench.run("up", "--app-instances", "500", "--team-memory", "4GiB").exit_code == 0
    assert bench.run("up", "--team-apps", "9", "--token-rate", "0").exit_code == 0
    assert bench.calls == [
        ("up", Settings(app_instances=500, team_memory=4 << 30), False),
        ("up", Settings(team_apps=9, token_rate=0), False),
    ]


def test_up_takes_trusted_proxies_until_it_is_told_otherwise(bench: Bench) -> None:
    """Addresses and networks of both families, in one spelling; none of them by default."""
    assert Settings().trusted_proxies == ()
    assert bench.run("up", "--trusted-proxies", "10.0.0.7, 192.168.0.0/16,2001:DB8::/32,::1").exit_code == 0
    trusted = ("10.0.0.7/32", "192.168.0.0/16", "2001:db8::/32", "::1/128")
    assert bench.calls == [("up", Settings(trusted_proxies=trusted), False)]
    Home(bench.home).create().write_settings(Settings(trusted_proxies=trusted))
    assert bench.run("up").exit_code == 0
    assert bench.run("up", "--trusted-proxies", "none").exit_code == 0
    assert bench.calls[1:] == [("up", Settings(trusted_proxies=trusted), False), ("up", Settings(), False)]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--app-instances", "-3"], "--app-instances: -3 is out of range: it must be at least 0"),
        (["--team-instances", "-1"], "--team-instances: -1 is out of range: it must be at least 0"),
        (["--app-instances", "1.5"], "'1.5' is not a whole number"),
        (["--team-instances", "9" * 5000], f"{'9' * 80} has too many digits"),
        (["--app-memory", "much"], "--app-memory: 'much' is not an amount of memory or disk"),
        (["--team-memory", "-5GiB"], "--team-memory: '-5GiB' is not an amount of memory or disk"),
        (["--app-memory", "9999T"], "--app-memory: 9999T is out of range: it must be at most 1125899906842624"),
        (["--http-port", "0"], "--http-port: 0 is out of range: it must be at least 1"),
        (["--api-port", "65536"], "--api-port: 65536 is out of range: it must be at most 65535"),
        (["--api-port", "eighty"], "Invalid value for '--api-port': 'eighty' is not a whole number"),
        (["--routers", "99"], "--routers: 99 is out of range: it must be at most 16"),
        (["--domain", "http://x"], "--domain: 'http://x' is not a host name"),
        (["--trusted-proxies", "10.0.0.7,lb.example"], "--trusted-proxies: 'lb.example' is no address and no network"),
        (["--trusted-proxies", "10.0.0.7,"], "--trusted-proxies: '' is no address and no network"),
        (["--trusted-proxies", "10.1.0.0/8"], "--trusted-proxies: '10.1.0.0/8' is an address in 10.0.0.0/8"),
        (["--trusted-proxies", "10.0.0.0/33"], "--trusted-proxies: '10.0.0.0/33' is no address and no network"),
    ],
)
def test_up_names_the_option_that_is_wrong(bench: Bench, args: list[str], said: str) -> None:
    """Nothing is started."""
    result = bench.run("up", *args)
    assert (result.exit_code, bench.calls) == (2, [])
    assert said in result.stderr
    assert "Input should" not in result.stderr


def test_a_start_that_gives_up_says_what_runs_on_and_how_to_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name and pid, with the ends of the logs; and that nothing does if so."""
    monkeypatch.setattr(running, "START_LIMIT", 0.1)
    home = Home(tmp_path).create()
    home.write_settings(Settings())
    with pytest.raises(PlatformError, match="Nothing of it runs any more"):
        wait_started(home, lambda: "starting node", lambda _: None)
    lock = acquire(home, "supervisor")
    try:
        with pytest.raises(PlatformError) as caught:
            wait_started(home, lambda: "starting node", lambda _: None)
    finally:
        os.close(lock)
    said = str(caught.value)
    assert said.startswith("gave up after 0.1 s: starting node")
    assert f"Still running, and trying on: supervisor (pid {os.getpid()})" in said
    assert "`seaway down` stops them" in said


def test_up_with_broken_settings_says_which_file(bench: Bench) -> None:
    """Not a traceback."""
    Home(bench.home).create()
    (bench.home / "settings.json").write_text("{")
    result = bench.run("up")
    assert (result.exit_code, "settings.json" in result.stderr) == (1, True)
    assert bench.run("apps", env={"SEAWAY_URL": None}).exit_code == 1


def test_down_and_the_processes_reach_the_composition_root(bench: Bench) -> None:
    """The processes are hidden from the help."""
    for args in (["down", "--timeout", "5s"], ["control"], ["node"], ["router", "router-1"], ["supervise"]):
        assert bench.run(*args).exit_code == 0
    assert bench.calls == [("down", 5.0), ("control",), ("node",), ("router", "router-1"), ("supervise",)]
    assert "supervise" not in bench.run("--help").stdout


@pytest.mark.parametrize("args", [["up", "-d"], ["down"]])
def test_up_and_down_give_json(bench: Bench, args: list[str]) -> None:
    """With the home that it is about; for people it is one line."""
    assert json.loads(bench.run(*args, "-o", "json").stdout)["home"] == str(bench.home)
    assert bench.run(*args).stdout.count("\n") == 1


def test_every_command_gives_json_and_has_its_colon_form() -> None:
    """The verbs that users of other platforms know, and no others."""
    assert isinstance(COMMAND, TyperGroup)
    groups = {name: group for name, group in COMMAND.commands.items() if isinstance(group, TyperGroup)}
    alone = {name for name, command in COMMAND.commands.items() if name not in groups and not command.hidden}
    assert {name: " ".join(sorted(group.commands)) for name, group in groups.items()} == VERBS
    assert alone == {
        "deploy",
        "down",
        "events",
        "install",
        "login",
        "logs",
        "rollback",
        "run",
        "status",
        "uninstall",
        "up",
    }
    leaves = [COMMAND.commands[name] for name in alone]
    for name, group in groups.items():
        for verb, command in group.commands.items():
            assert COMMAND.resolve_command(Context(COMMAND), [f"{name}:{verb}"])[1:] == (group, [verb])
            leaves.append(command)
    without = [leaf.name for leaf in leaves if not any("-o" in parameter.opts for parameter in leaf.params)]
    assert without == []


def test_status_shows_parts_and_what_the_api_says(bench: Bench) -> None:
    """Exit code 0 if everything runs."""
    bench.api.on("GET", "/status", STATUS)
    started = datetime.now(UTC) - timedelta(minutes=5)
    bench.parts = [
        Part("control", "running", 41, started, url="http://127.0.0.1:8700"),
        Part("router-0", "running", 42),
    ]
    result = bench.run("status")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["control", "running", "41", "5m", "http://127.0.0.1:8700"]
    for text in ("http://APP.localhost:8080/", "2 (2 serving)", "3 instances on here ready", "router-0 connected"):
        assert text in result.stdout
    answer = json.loads(bench.run("status", "-o", "json").stdout)
    assert [(part["name"], part["pid"], part["state"]) for part in answer["parts"]][1] == ("router-0", 42, "running")
    assert answer["api"]["reachable"] is True


def test_status_works_while_the_api_is_down(bench: Bench, unused_tcp_port: int) -> None:
    """Exit code 1, and what is known without it."""
    env: dict[str, str | None] = {"SEAWAY_URL": f"http://127.0.0.1:{unused_tcp_port}"}
    nothing = bench.run("status", env=env)
    assert (nothing.exit_code, "seaway up -d" in nothing.stdout) == (1, True)
    bench.parts = [Part("control", "restarting", None, reason="exited with -9")]
    result = bench.run("status", env=env)
    assert (result.exit_code, "exited with -9" in result.stdout) == (1, True)
    answer = json.loads(bench.run("status", "-o", "json", env=env).stdout)
    assert (answer["parts"][0]["state"], answer["api"]["reachable"]) == ("restarting", False)


def test_help_and_version(bench: Bench) -> None:
    """Both exit 0; no command at all shows the help."""
    assert bench.run("--version").stdout.startswith("seaway ")
    assert "config" in bench.run("-h").stdout
    assert "PROCESS=COUNT" in bench.run("ps", "scale", "--help").stdout
    assert bench.run().exit_code == 2


def test_the_page_of_commands_is_current() -> None:
    """docs/cli.md is what scripts/gen_cli_docs.py writes."""
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text() == write_reference(), "run `make docs`"
