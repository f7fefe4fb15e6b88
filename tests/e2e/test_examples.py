"""Every example deploys and answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import httpx2
import pytest

from seaway.builder.image import VENV
from seaway.sandbox.view import make_place
from tests.e2e.harness import Platform, wait_until
from tests.ports import free_port
from tests.shared_place import find_shared

EXAMPLES = Path(__file__).parents[2] / "examples"


def check_environment(platform: Platform, app: str) -> None:
    """Commands have the image's virtual environment where the image says, if this machine can show it there."""
    said = platform.run("run", "-a", app, "--", "echo $VIRTUAL_ENV; python -c 'import flask, sys; print(sys.prefix)'")
    named, used = said.stdout.split()
    assert named == used
    in_place = os.geteuid() == 0 and make_place(VENV)
    assert used == VENV if in_place else used.startswith(str(platform.home))


def check_job(platform: Platform, app: str) -> None:
    """A job that the web process takes is done by the worker, whose JSON lines are merged into the logs."""
    request = Request(f"http://127.0.0.1:{platform.http_port}/", b"two words", {"Host": f"{app}.localhost"})
    with urlopen(request, timeout=10) as answer:
        job = json.loads(answer.read())["job"]

    def lines() -> list[dict[str, Any]]:
        said = platform.run("logs", "-p", "worker", "-a", app, "-o", "json").stdout
        return [line for line in map(json.loads, said.splitlines()) if line.get("job") == job]

    (line, *_) = wait_until(lines, "the worker does it")
    assert line["log.level"] == "info"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """A Redis of the test's own, with a password; its URL."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([*words, "--requirepass", "open-sesame"], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: can_connect(port), "Redis listens")
            yield f"redis://:open-sesame@127.0.0.1:{port}/0"
        finally:
            process.terminate()


def can_connect(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        found: int = probe.connect_ex(("127.0.0.1", port))
        return found == 0


def check_celery(platform: Platform, app: str) -> None:
    """A worker does what the web process sends, and, once somebody has said that it runs, celery-beat."""
    url, host = f"http://127.0.0.1:{platform.http_port}", {"Host": f"{app}.localhost"}
    with httpx2.Client(base_url=url, headers=host, timeout=10) as http:
        task = http.post("/", content="to be or not to be").json()["task"]
        words = wait_until(lambda: http.get(f"/{task}").json()["words"], "the words are counted")
    assert words == {"to": 2, "be": 2, "or": 1, "not": 1}
    platform.run("ps", "scale", "celery_beat=1", "-a", app)
    logs = ("logs", "-p", "worker", "-a", app)
    wait_until(lambda: "tasks.note_beat" in platform.run(*logs).stdout, "a task that is due by the clock is done")
    platform.run("apps", "destroy", app, "--confirm", app)  # without its Redis, a worker takes all of its grace to end


def echo(platform: Platform, app: str, text: str) -> Any:
    """Send a text over a WebSocket, through the router, as the example's page says; return the answer."""
    client = [sys.executable, str(EXAMPLES / "websocket" / "client.py"), f"{app}.localhost", text]
    done = subprocess.run([*client, str(platform.http_port)], capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout)["echo"]


def check_guest_book(platform: Platform, app: str) -> None:
    """What a visitor wrote is there after the next release; the static file has the name that the build gave it."""
    host, url = f"{app}.localhost", f"http://127.0.0.1:{platform.http_port}"
    with httpx2.Client(base_url=url, headers={"Host": host}, cookies={}, timeout=10) as browser:
        page = browser.get("/").text
        (sheet,) = re.findall(r'href="(/static/book\.[0-9a-f]{12}\.css)"', page)
        assert "font:" in browser.get(sheet).text
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
        sent = {"text": "Hello <you>", "csrfmiddlewaretoken": token}
        cookie = f"csrftoken={browser.cookies['csrftoken']}"
        assert browser.post("/", data=sent, headers={"Cookie": cookie}).status_code == 302
        platform.run("config", "set", "SECRET_KEY=another", "-a", app)
        assert "Hello &lt;you&gt;" in browser.get("/").text
    count = "from guestbook.models import Entry; print('entries:', Entry.objects.count())"
    said = platform.run("run", "-a", app, "--", f"python manage.py shell -c {shlex.quote(count)}")
    assert "entries: 1" in said.stdout
    assert (platform.home / "mounts" / app / "data").is_dir()
    platform.run("apps", "destroy", app, "--confirm", app)
    wait_until(lambda: not (platform.home / "mounts" / app).exists(), "its folder is put away")


@pytest.mark.timeout(300)
def test_every_example_deploys_and_answers(shared: Platform, redis: str) -> None:
    """And does what it is there to show: a release command, a worker that does jobs, a WebSocket."""
    names = ("python-web", "django", "celery", "web-worker", "websocket")
    apps = {name: f"{name}-{shared.http_port}" for name in names}
    for name, app in apps.items():
        shared.run("apps", "create", app)
        jobs = find_shared(shared.home, app)[0] / "jobs.db"
        config = [f"JOBS_FILE={jobs}"]  # for an ordinary user /tmp is everybody's
        config += ["SECRET_KEY=long-and-random", f"REDIS_URL={redis}", "BEAT_EVERY=1"]
        shared.run("config", "set", *config, "-a", app)
        shared.run("deploy", str(EXAMPLES / name), "-a", app)
        assert shared.get(f"{app}.localhost", "/health" if name == "celery" else "/")[0] == 200, name
    assert "nothing to migrate" in shared.run("logs", "-p", "release", "-a", apps["python-web"]).stdout
    check_environment(shared, apps["python-web"])
    check_guest_book(shared, apps["django"])
    check_celery(shared, apps["celery"])
    check_job(shared, apps["web-worker"])
    assert echo(shared, apps["websocket"], "two words") == "two words"
    assert shared.get("nobody.localhost")[0] == 404
