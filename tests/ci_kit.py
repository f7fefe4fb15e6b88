"""Reading the pipelines of examples/ci: their steps, with what the CI would put into the environment."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.harness import SEAWAY

FOLDER = Path(__file__).parents[1] / "examples" / "ci"
PIPELINES = ("Jenkinsfile", "github-actions.yml", "gitlab-ci.yml")

_SH = re.compile(r"^\s*sh '(.+)'$")
_SET = re.compile(r"^\s*(\w+) = '([^']*)'$")
_CREDENTIALS = re.compile(r"^\s*(\w+) = credentials\('([^']+)'\)$")
_EXPRESSION = re.compile(r"\$\{\{\s*(?:vars|secrets)\.(\w+)\s*\}\}")


@dataclass(frozen=True)
class Step:
    """One command line of a pipeline, and what the pipeline says of its environment."""

    command: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class Secrets:
    """What an administrator would put into the CI."""

    registry: str
    user: str
    password: str
    url: str
    token: str
    commit: str = "0123abc"

    def variables(self) -> dict[str, str]:
        return {
            "REGISTRY": self.registry, "REGISTRY_USER": self.user, "REGISTRY_PASSWORD": self.password,
            "SEAWAY_URL": self.url, "SEAWAY_TOKEN": self.token,
        }  # fmt: skip


def read_pipeline(name: str, secrets: Secrets) -> list[Step]:
    """Return a pipeline's steps in order, but for the one that installs what is tested here."""
    return [step for step in _read_steps(name, secrets) if step.command != "pip install seaway"]


def _read_steps(name: str, secrets: Secrets) -> list[Step]:
    text = (FOLDER / name).read_text()
    if name == "Jenkinsfile":
        return _read_jenkins(text, secrets)
    document = yaml.safe_load(text)
    return _read_github(document, secrets) if name.startswith("github") else _read_gitlab(document, secrets)


def _read_jenkins(text: str, secrets: Secrets) -> list[Step]:
    """`credentials('x')` of a user and password gives NAME_USR and NAME_PSW, of a text NAME itself."""
    text = text.replace("registry.example.com:5000", secrets.registry).replace(
        "https://seaway.example.com", secrets.url
    )
    env, steps = {"GIT_COMMIT": secrets.commit}, []
    for line in text.splitlines():
        if found := _SET.match(line):
            env[found[1]] = found[2]
        elif found := _CREDENTIALS.match(line):
            login = {f"{found[1]}_USR": secrets.user, f"{found[1]}_PSW": secrets.password}
            env |= {"registry": login, "seaway-token": {found[1]: secrets.token}}[found[2]]
        elif found := _SH.match(line):
            steps.append(Step(found[1], dict(env)))
    return steps


def _read_github(document: Any, secrets: Secrets) -> list[Step]:
    values, steps = secrets.variables(), []

    def fill(env: Mapping[str, str]) -> dict[str, str]:
        return {key: _EXPRESSION.sub(lambda found: values[found[1]], value) for key, value in env.items()}

    job = document["jobs"]["deploy"]
    for step in job["steps"]:
        if "run" in step:
            env = {"GITHUB_SHA": secrets.commit} | fill(job.get("env", {})) | fill(step.get("env", {}))
            steps.append(Step(step["run"], env))
    return steps


def _read_gitlab(document: Any, secrets: Secrets) -> list[Step]:
    env = secrets.variables() | {"CI_COMMIT_SHA": secrets.commit}
    for key, value in document["variables"].items():
        env[key] = re.sub(r"\$(\w+)", lambda found: env[found[1]], value)
    jobs = [job for stage in document["stages"] for job in document.values() if _is_of(job, stage)]
    return [Step(line, env) for job in jobs for line in (*job.get("before_script", ()), *job["script"])]


def _is_of(job: object, stage: str) -> bool:
    return isinstance(job, dict) and job.get("stage") == stage


def make_runner(folder: Path, ca: Path) -> dict[str, str]:
    """Return the environment of a CI's runner: buildah's folders its own, the registry's CA trusted."""
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
    )
    return {
        "PATH": f"{SEAWAY.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SSL_CERT_FILE": str(ca),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
        "BUILDAH_ISOLATION": "chroot",
    }


def run_all(steps: Sequence[Step], runner: Mapping[str, str], folder: Path) -> None:
    """Run the steps in the checked-out folder; each has to succeed and to show no secret."""
    for step in steps:
        done = run_step(step, runner, folder)
        assert done.returncode == 0, done.stderr
        for name, value in step.env.items():
            secret = name.endswith(("_PSW", "_PASSWORD", "_TOKEN"))
            assert not (secret and value in done.stdout + done.stderr), f"{name} is shown"


def run_step(step: Step, runner: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one step as a CI's shell does."""
    command = ["unshare", "--mount", "/bin/bash", "-e", "-c", step.command]  # nothing of buildah stays mounted
    return subprocess.run(command, cwd=folder, env={**runner, **step.env}, capture_output=True, text=True)
