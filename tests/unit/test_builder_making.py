"""What [build] command leaves: which files are part of the image, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.builder.commands import CommandFailed
from seaway.builder.making import copy_source, describe_changes, explain_failure, make_env
from seaway.builder.source import list_built, list_files
from tests.builder_kit import write_app


def test_differences_are_counted(tmp_path: Path) -> None:
    """By content, mode and target; of the same length, too."""
    write_app(tmp_path / "a", dict.fromkeys(("same", "other", "gone", "run"), "text"))
    (tmp_path / "a" / "link").symlink_to("same")
    before = list_files(tmp_path / "a")
    copy_source(before, tmp_path / "b")
    assert describe_changes(before, list_built(tmp_path / "b")) == "Files after it: as before"
    write_app(tmp_path / "b", {"other": "texT", "new": "", "newer": ""})
    (tmp_path / "b" / "gone").unlink()
    (tmp_path / "b" / "run").chmod(0o755)
    (tmp_path / "b" / "link").unlink()
    (tmp_path / "b" / "link").symlink_to("run")
    said = describe_changes(before, list_built(tmp_path / "b"))
    assert said == "Files after it: 2 new, 3 changed, 1 removed"


def test_what_is_made_counts_whatever_ignore_files_say(tmp_path: Path) -> None:
    """Also node_modules; but no caches, repositories and environments, which are of use nowhere else."""
    names = (".gitignore", "out/x", "node_modules/m.js", "__pycache__/x.pyc", ".git/HEAD", "env/pyvenv.cfg", "x.pyc")
    write_app(tmp_path, dict.fromkeys(names, "out\n"))
    write_app(tmp_path, {".seawayignore": "out\n"})
    assert [file.name for file in list_built(tmp_path)] == [
        ".gitignore", ".seawayignore", "node_modules/m.js", "out/x",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([], "exited with 2 and said nothing; the build's log has it in full"),
        (["a", "b", "c", "", "d"], "exited with 2: b c d; the build's log has it in full"),
        (
            ["Traceback (most recent call last):", '  File "x", line 1', "KeyError: 'SECRET_KEY'"],
            "exited with 2: KeyError: 'SECRET_KEY'; the build's log has it in full",
        ),
    ],
)
def test_reason(output: list[str], reason: str) -> None:
    """The last that it said, without the way there."""
    assert explain_failure(CommandFailed(2, output)) == f"seaway.toml: build.command: {reason}"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's; without a language only PATH. The machine's programs come last."""
    monkeypatch.setenv("PATH", "/opt/node/bin:/usr/bin")
    assert make_env(None, Path("/src"))["PATH"].startswith("/opt/node/bin:/usr/bin:")
    env = make_env(Path("/venv"), Path("/src"))
    assert env["PATH"].startswith("/venv/bin:/opt/node/bin:/usr/bin:")
    assert (env["VIRTUAL_ENV"], env["PYTHONPATH"], env["PYTHONUNBUFFERED"]) == ("/venv", "/src", "1")
