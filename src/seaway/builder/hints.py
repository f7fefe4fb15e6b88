"""Files of other tools and names that are nearly right: what the builder does not read, and what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

REQUIREMENTS = "requirements.txt"
NEAR = 0.9  # of difflib's ratio: one letter more, less or other, or two exchanged

OTHERS = {
    "Pipfile": "run `pipenv requirements > requirements.txt`",
    "Pipfile.lock": "run `pipenv requirements > requirements.txt`",
    "poetry.lock": "it needs a pyproject.toml with [tool.poetry] beside it, and no requirements.txt",
    "pdm.lock": "run `pdm export --prod --output requirements.txt`",
    "environment.yml": "write what it names of PyPI into requirements.txt",
    "setup.py": "write its install_requires into requirements.txt, or the one word `.` to install the project",
    "setup.cfg": "write its install_requires into requirements.txt, or the one word `.` to install the project",
    "Dockerfile": "the image is made from the Procfile; in a cluster, [build] dockerfile in seaway.toml names it",
    "package.json": "no npm is run by itself: build its files before and deploy them with the app, or where npm is "
    "installed, have [build] command in seaway.toml run it",
    "app.json": "set its env with `seaway config set`, its formation with `seaway ps scale`",
    "heroku.yml": "write its run table into a Procfile",
    "Aptfile": "have its packages installed on the machine, or in the base image that [build] base names",
    "bin/pre_compile": "no hook is run by itself: [build] command in seaway.toml can run it",
    "bin/post_compile": "no hook is run by itself: [build] command in seaway.toml can run it",
}
"""Files that are not read, and what to do instead."""

BY_COMMAND = ("package.json", "bin/pre_compile", "bin/post_compile")
"""Those of them that [build] command may read; where there is one, nothing is said."""

COLLECT = '`command = "python manage.py collectstatic --noinput"`'

HOLD_DEPENDENCIES = ("Pipfile", "Pipfile.lock", "poetry.lock", "pdm.lock", "environment.yml", "setup.py", "setup.cfg")
"""Those of them for whose sake an app without other dependencies is refused."""

_FOR_WORK = re.compile(r"(?:^|[^a-z])(?:dev|develop|development|tests?|testing|lint|docs?|ci|build|tools?)(?:[^a-z]|$)")


def find_near_requirements(names: Iterable[str]) -> list[str]:
    """Return files that look as if they were meant to be requirements.txt, the likeliest first.

    `names` are paths inside the source. Those for development and tests alone are not among them.
    """
    found = [name for name in names if _may_be_requirements(name) and not _FOR_WORK.search(name.lower())]
    return sorted(found, key=lambda name: (-_likeness(name), name))


def explain_near(name: str) -> str:
    """Return what to do about a file that looks like requirements.txt and is not called so."""
    added = f"add a {REQUIREMENTS} with the line `-r {name}`, or an empty one if there are none"
    todo = f"rename it to {REQUIREMENTS}" if is_misspelled(name) else added
    return f"{name}: is not read, dependencies are looked for in {REQUIREMENTS}: {todo}"


def is_misspelled(name: str) -> bool:
    """Tell whether a name is requirements.txt but for case, a letter, or the ending."""
    return "/" not in name and _likeness(name) >= NEAR


def _may_be_requirements(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    if name == REQUIREMENTS or folder not in {"", "requirements"}:
        return False
    if folder:
        return last.endswith(".txt")
    return is_misspelled(name) or bool(re.fullmatch(r"requirements(?:[-_.][\w.-]+)?", name.lower()))


def _likeness(name: str) -> float:
    return SequenceMatcher(None, name.lower(), REQUIREMENTS).ratio()
