"""Apps that misbehave: the deploy fails with a sentence that names the cause, and what served serves on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import Platform

PLAIN = Path(__file__).parent / "apps" / "plain"
SHORT = "[processes.web.health]\nstart_timeout = 2\n[rollout]\nstart_timeout = 8\n"

BAD = {
    "never listens": ({"Procfile": "web: sleep 600\n", "seaway.toml": SHORT}, "listen"),
    "release fails": ({"Procfile": "release: exit 7\nweb: sleep 600\n"}, "release command"),
    "unknown key": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout]\nkep = 3\n"}, "kep"),
    "wrong type": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout]\nkeep = true\n"}, "keep"),
    "wrong TOML": ({"Procfile": "web: sleep 600\n", "seaway.toml": "[rollout\n"}, "seaway.toml"),
    "nothing recognisable": ({"notes.txt": "hello\n"}, "Procfile"),
}


@pytest.mark.timeout(300)
def test_bad_apps_fail_with_their_cause_and_the_old_release_serves_on(platform: Platform) -> None:
    source = platform.home / "source"
    shutil.copytree(PLAIN, source)
    platform.run("apps", "create", "shop")
    platform.run("deploy", str(source), "-a", "shop")
    for name, (files, word) in BAD.items():
        folder = platform.home / name.replace(" ", "-")
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        done = platform.run("deploy", str(folder), "-a", "shop", check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 1, f"{name}: {done.returncode}\n{said}"
        assert word in said, f"{name}: {said}"
        assert platform.get("shop.localhost")[0] == 200, name
    assert platform.run("deploy", str(source), "-a", "nobody", check=False).returncode == 3
