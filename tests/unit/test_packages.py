"""One list of system packages: every program that the code starts is in it, and every package in it has a reason."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packages import BARE, list_missing, list_packages, main, read_list

ROOT = Path(__file__).resolve().parents[2]
OURS = Path(sys.executable).parent
SURE = {"Popen", "check_call", "check_output", "create_subprocess_exec", "which", "find_program", "need"}
KUBERNETES = {"kubectl"}  # built by the lab from source
WORDS = {
    "expiry",
    "init",
    "install",
    "link",
    "login",
    "more",
    "node",
    "patch",
    "ps",
    "python",
    "python3.11",
    "route",
    "time",
    "users",
}
"""First words of lists that happen to be programs somewhere and are none there: Seaway's and ip's commands, names."""


def list_started(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield line, word and certainty of what may be a program: the first of a list, or what a starter is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple) and (word := first_word(node)):
            yield node.lineno, word, False
        elif isinstance(node, ast.Call) and node.args and name_of(node.func) in SURE | {"run"}:
            given = node.args[0]
            word = first_word(given) if isinstance(given, ast.List | ast.Tuple) else text_of(given)
            if word:
                yield node.lineno, word, name_of(node.func) in SURE or is_of_subprocess(node.func)


def first_word(node: ast.List | ast.Tuple) -> str:
    return text_of(node.elts[0]) if node.elts else ""


def text_of(node: ast.expr) -> str:
    """Return a constant that could be a program's name or path, or ""."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) and re.fullmatch(r"[a-z/][a-z0-9_.+/-]*", value) else ""


def is_of_subprocess(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and name_of(node.value) == "subprocess"


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def provided() -> set[str]:
    """Return the programs of the list."""
    return {program for found in read_list().values() for programs in found.values() for program in programs}


def find_unlisted(folder: Path) -> list[str]:
    """Return where programs are started that neither the list nor the virtual environment provides."""
    places: dict[tuple[str, bool], list[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for line, word, sure in list_started(ast.parse(path.read_text())):
            places.setdefault((word, sure), []).append(f"{path}:{line}: {word}")
    there = provided() | KUBERNETES
    unlisted = [
        (word, sure) for word, sure in places if (name := Path(word).name) not in there and not (OURS / name).exists()
    ]
    return [
        place for word, sure in unlisted if sure or (word not in WORDS and shutil.which(word))
        for place in places[word, sure]
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["src", "tests", "scripts"])
def test_every_program_that_is_started_is_in_the_list(folder: str) -> None:
    """Or comes with the virtual environment, or is the lab's own."""
    assert find_unlisted(ROOT / folder) == []


@pytest.mark.parametrize(
    "line",
    ['subprocess.run(["nosuch", "-x"])', 'Popen(("nosuch",))', 'shutil.which("nosuch")', 'words = ["/usr/bin/env2"]'],
)
def test_another_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """The check above can fail: by what is started, and by any list that begins with a program of this machine."""
    monkeypatch.setattr(shutil, "which", lambda word: word if word.endswith("env2") else None)
    (tmp_path / "code.py").write_text(f"import subprocess, shutil\n{line}\n")
    assert len(find_unlisted(tmp_path)) == 1


def test_the_set_up_installs_what_the_list_says() -> None:
    """`scripts/install` runs before there is a Python to read the list: it takes the section by its heading."""
    assert "scripts/packages.toml" in (ROOT / "scripts/install").read_text()
    assert list_packages(["set-up"]) == ["python3", "python3-venv"]


def test_no_package_is_listed_twice() -> None:
    """Each has one purpose."""
    names = [package for found in read_list().values() for package in found]
    assert len(names) == len(set(names))


def test_who_may_not_install_is_told_what_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line that can be pasted; nothing is tried."""
    monkeypatch.setattr("tests.packages.can_install", lambda: False)
    monkeypatch.setattr("tests.packages.list_missing", lambda names: ["nftables", "runc"])
    assert main([]) == 0
    assert capsys.readouterr().out.endswith("apt install nftables runc\n")


def test_what_a_bare_machine_has_is_not_installed() -> None:
    """Nor what only the build of Kubernetes takes, or `make soak`: they ask for it when they come to it."""
    assert not {*read_list()[BARE], "golang-go", "qemu-system-x86"} & set(list_packages())
    assert list_missing([]) == []
