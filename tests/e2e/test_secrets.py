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
    """Return every GET of the API about the app shop with a build b1 and the releases v1 (config only) and v2."""
    spec = json.loads(read_api(platform, "/openapi.json"))
    paths = [path for path, methods in spec["paths"].items() if "get" in methods and "{task}" not in path]
    names = {"rollouts/{number}": "rollouts/2", "{app}": "shop", "{number}": "1", "{other}": "2"}
    for placeholder, name in names.items():
        paths = [path.replace(placeholder, name) for path in paths]
    return [path for path in paths if not path.endswith("/watch")] + ["/metrics"]  # a watch has no end


def test_values_and_tokens_are_in_no_log_event_process_list_or_answer(platform: Platform) -> None:
    """Only the app's own processes, the store and the node agent's own files have the value; a token nobody."""
    source = platform.home / "sources-of-the-test" / "shop"
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", "shop")
    platform.run("config", "set", "-", "-a", "shop", stdin=f"PASSWORD={VALUE}\n")
    platform.run("deploy", str(source), "-a", "shop")
    platform.run("run", "-a", "shop", "--", 'test -n "$PASSWORD"')
    platform.run("config", "set", "OTHER=1", "-a", "shop")
    token = platform.run("tokens", "create", "ci", "--team", "default").stdout.strip()
    env = os.environ | {"SEAWAY_HOME": str(platform.home), "SEAWAY_TOKEN": token}
    subprocess.run([SEAWAY, "apps"], env=env, check=True, capture_output=True, timeout=60)
    admin = (platform.home / "admin.token").read_text().strip()
    secrets = (VALUE, token, admin)
    answers = {path: read_api(platform, path) for path in list_paths(platform)}
    assert len(answers) > 12
    leaks = [path for path, text in answers.items() if any(secret in text for secret in secrets)]
    kept = ("seaway.db", "seaway.db-wal", "admin.token", "node")
    for file in platform.home.rglob("*"):
        if file.is_file() and file.relative_to(platform.home).parts[0] not in kept:
            leaks += [str(file) for secret in secrets if secret.encode() in file.read_bytes()]
    for process in platform.processes():
        with suppress(psutil.Error):  # it may end meanwhile
            said = process.cmdline()
            said += [] if "SEAWAY_INSTANCE" in process.environ() else [str(process.environ())]
            leaks += [str(process) for secret in secrets if secret in " ".join(said)]
    assert leaks == []
    assert VALUE in read_api(platform, "/v1/apps/shop/config?reveal=1"), "it was there to be found"
