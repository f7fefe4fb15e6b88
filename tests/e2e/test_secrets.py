"""A config value and tokens on a real platform: nowhere but where they belong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import psutil

from tests.e2e.harness import SEAWAY, Platform

PLAIN = Path(__file__).parent / "apps" / "plain"
VALUE = "a-value-that-nobody-may-see-9f8e7d6c"


def read_api(platform: Platform, path: str) -> str:
    token = (platform.home / "admin.token").read_text().strip()
    url = f"http://127.0.0.1:{platform.api_port}{path}"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {token}"}), timeout=10) as answer:
        return str(answer.read().decode())


def list_paths(platform: Platform) -> list[str]:
    """Return every GET of the API about the app discreet with a build b1 and the releases v1 (config only) and v2."""
    spec = json.loads(read_api(platform, "/openapi.json"))
    paths = [path for path, methods in spec["paths"].items() if "get" in methods and "{task}" not in path]
    names = {"rollouts/{number}": "rollouts/2", "{app}": "discreet", "{number}": "1", "{other}": "2"}
    for placeholder, name in names.items():
        paths = [path.replace(placeholder, name) for path in paths]
    return [path for path in paths if not path.endswith("/watch")] + ["/metrics"]  # a watch has no end


def test_values_and_tokens_are_in_no_log_event_process_list_or_answer(shared: Platform) -> None:
    """Only the app's own processes, the store and the node agent's own files have the value; a token nobody."""
    source = shared.home / "sources-of-the-test" / "discreet"
    shutil.copytree(PLAIN, source)
    shared.run("apps", "create", "discreet")
    shared.run("config", "set", "-", "-a", "discreet", stdin=f"PASSWORD={VALUE}\n")
    shared.run("deploy", str(source), "-a", "discreet")
    shared.run("run", "-a", "discreet", "--", 'test -n "$PASSWORD"')
    shared.run("config", "set", "OTHER=1", "-a", "discreet")
    token = shared.run("tokens", "create", "secrecy", "--team", "default").stdout.strip()
    env = os.environ | {"SEAWAY_HOME": str(shared.home), "SEAWAY_TOKEN": token}
    subprocess.run([SEAWAY, "apps"], env=env, check=True, capture_output=True, timeout=60)
    admin = (shared.home / "admin.token").read_text().strip()
    secrets = (VALUE, token, admin)
    answers = {path: read_api(shared, path) for path in list_paths(shared)}
    assert len(answers) > 12
    leaks = [path for path, text in answers.items() if any(secret in text for secret in secrets)]
    kept = ("seaway.db", "seaway.db-wal", "admin.token", "node")
    for file in shared.home.rglob("*"):
        if file.is_file() and file.relative_to(shared.home).parts[0] not in kept:
            leaks += [str(file) for secret in secrets if secret.encode() in file.read_bytes()]
    for process in shared.processes():
        with suppress(psutil.Error):  # it may end meanwhile
            said = process.cmdline()
            said += [] if "SEAWAY_INSTANCE" in process.environ() else [str(process.environ())]
            leaks += [str(process) for secret in secrets if secret in " ".join(said)]
    assert leaks == []
    assert VALUE in read_api(shared, "/v1/apps/discreet/config?reveal=1"), "it was there to be found"
