"""Apps that misbehave: the deploy fails with a sentence that names the cause, and what served serves on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import Platform, wait_until

PLAIN = Path(__file__).parent / "apps" / "plain"
SHORT = "[processes.web.health]\nstart_timeout = 2\n[rollout]\nstart_timeout = 8\n"

CHECKED = SHORT + '[processes.web.health.startup]\nhttp = "/health"\n'
OTHER_PORT = "python3 -m http.server --bind 127.0.0.1 0"
OTHER_PAGE = "python3 -m http.server --bind 127.0.0.1 $PORT"

BAD = {
    "never listens": ({"Procfile": "web: sleep 600\n", "seaway.toml": SHORT}, "listen"),
    "release fails": (
        {"Procfile": "release: echo no database; exit 7\nweb: sleep 600\n"}, "code 7; last output: no database",
    ),
    "unknown key": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout]\nkep = 3\n"}, "kep"),
    "wrong type": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout]\nkeep = true\n"}, "keep"),
    "wrong TOML": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout\n"}, "seaway.toml"),
    "nothing recognisable": ({"notes.txt": "hello\n"}, "Procfile"),
    "another port": ({"Procfile": f"web: {OTHER_PORT}\n", "seaway.toml": SHORT}, "did not listen on PORT"),
    "exits at once": ({"Procfile": "web: echo cannot go on >&2; exit 3\n", "seaway.toml": SHORT}, "cannot go on"),
    "command not found": ({"Procfile": "web: nosuchcommand\n", "seaway.toml": SHORT}, "127"),
    "fails its health check": ({"Procfile": f"web: {OTHER_PAGE}\n", "seaway.toml": CHECKED}, "404"),
    "ends as one-offs do": (
        {"Procfile": f"web: {OTHER_PAGE}\nmigrate: true\n", "seaway.toml": "[scale]\nmigrate = 1\n"},
        "to deploy without migrate: `seaway ps scale migrate=0 -a spoilt` first",
    ),
    "no such dependency": (
        {"Procfile": "web: python app.py\n", "requirements.txt": "flask==0.0.0.999\n"}, "flask==0.0.0.999",
    ),
    "wrong requirements": (
        {"Procfile": "web: python app.py\n", "requirements.txt": "this is ] not a requirement\n"}, "requirements.txt",
    ),
}  # fmt: skip


@pytest.mark.timeout(300)
def test_bad_apps_fail_with_their_cause_and_the_old_release_serves_on(shared: Platform) -> None:
    source = shared.home / "sources-of-the-test" / "spoilt"
    shutil.copytree(PLAIN, source)
    shared.run("apps", "create", "spoilt")
    shared.run("deploy", str(source), "-a", "spoilt")
    for name, (files, word) in BAD.items():
        folder = shared.home / name.replace(" ", "-")
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        done = shared.run("deploy", str(folder), "-a", "spoilt", check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 1, f"{name}: {done.returncode}\n{said}"
        assert word in said, f"{name}: {said}"
        assert shared.get("spoilt.localhost")[0] == 200, name
    assert shared.run("deploy", str(source), "-a", "nobody", check=False).returncode == 3


PICKY = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host, scheme = self.headers["Host"].partition(":")[0], self.headers["X-Forwarded-Proto"]
        health = self.path == "/health"
        self.send_response(400 if host != "picky.localhost" else 503 if health and scheme != "https" else 200)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.mark.timeout(120)
def test_an_app_that_answers_only_to_its_own_name_is_deployed(shared: Platform, tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: python3 app.py\n")
    (tmp_path / "app.py").write_text(PICKY)
    (tmp_path / "seaway.toml").write_text('[processes.web.health.readiness]\nhttp = "/health"\n')
    shared.run("apps", "create", "picky")
    shared.run("deploy", str(tmp_path), "-a", "picky")
    assert shared.get("picky.localhost")[0] == 200


@pytest.mark.timeout(300)
def test_an_app_that_ignores_sigterm_is_killed_after_its_grace(shared: Platform) -> None:
    """The update succeeds, the old instance is gone when its grace is over, and the reason says so."""
    source = shared.home / "sources-of-the-test" / "stubborn"
    shutil.copytree(PLAIN, source)
    (source / "Procfile").write_text("web: exec python3 app.py --ignore-sigterm\n")
    (source / "seaway.toml").write_text('[processes.web]\nstop_grace = "1s"\n[rollout]\nkeep = "0s"\n')
    shared.run("apps", "create", "stubborn")
    shared.run("deploy", str(source), "-a", "stubborn")
    old = shared.read("ps", "-a", "stubborn")[0]["id"]
    shared.run("ps", "restart", "-a", "stubborn")

    def ended() -> str:
        found = [i for i in shared.read("ps", "-a", "stubborn") if i["id"] == old and i["state"] == "stopped"]
        return found[0]["reason"] if found else ""

    assert "killed: it ignored SIGTERM for 1 s" in wait_until(ended, "the old instance is killed")
    assert shared.get("stubborn.localhost")[0] == 200


def test_a_port_that_is_taken_is_named_with_its_owner_and_the_option(shared: Platform) -> None:
    """`seaway up` of another home on the same ports starts nothing."""
    other = Platform(routers=1)
    try:
        other.http_port = shared.http_port
        done = other.run(
            "up", "-d", "--http-port", str(other.http_port), "--api-port", str(other.api_port), check=False
        )
        assert done.returncode == 1
        assert f"port {other.http_port} is taken" in done.stderr
        assert "--http-port" in done.stderr
        assert not other.processes()
    finally:
        shutil.rmtree(other.home)


def test_a_second_up_says_who_holds_the_home(shared: Platform) -> None:
    done = shared.run("up", "-d", check=False)
    assert done.returncode == 1
    assert f"pid {shared.find('supervisor')}" in done.stderr
