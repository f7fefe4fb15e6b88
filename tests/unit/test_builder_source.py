"""Packing folders, ignoring files, and refusing archives and addresses that would do harm."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from seaway.builder.archive import unpack_archive
from seaway.builder.base import BuildError
from seaway.builder.commands import choose_environment, redact
from seaway.builder.git import check_ref, check_url
from seaway.builder.source import Limits, list_files, pack
from tests.builder_kit import write_app


def names(folder: Path) -> list[str]:
    return [file.name for file in list_files(folder)]


def test_same_files_same_archive(tmp_path: Path) -> None:
    """Place, times, modes beyond the execute bit and the order of creation don't show in the archive."""
    one = write_app(tmp_path / "one", {"b.txt": "b", "a/x.py": "x", "run": "#!"})
    two = write_app(tmp_path / "deep" / "two", {"run": "#!", "a/x.py": "x", "b.txt": "b"})
    (one / "run").chmod(0o755)
    (two / "run").chmod(0o700)
    os.utime(two / "b.txt", (1, 1))
    (two / "b.txt").chmod(0o600)
    (two / "empty").mkdir()
    first, second = pack(one, tmp_path / "1.tgz"), pack(two, tmp_path / "2.tgz")
    assert first == second
    assert (tmp_path / "1.tgz").read_bytes() == (tmp_path / "2.tgz").read_bytes()
    assert first.files == 3
    (two / "run").chmod(0o600)
    assert pack(two, tmp_path / "3.tgz").sha256 != first.sha256


def test_ignore_rules(tmp_path: Path) -> None:
    """.gitignore at each level, .seawayignore with the last word, and what never goes in."""
    app = write_app(
        tmp_path,
        {
            ".gitignore": "*.log\nbuild/\n/top.txt\n",
            ".seawayignore": "docs/\n!keep.log\nbuild/\n!build/ui.js\n",
            "sub/.gitignore": "!wanted.log\nlocal.txt\n",
            **dict.fromkeys(
                ("a.py", "a.log", "keep.log", "top.txt", "sub/top.txt", "sub/local.txt", "sub/wanted.log"), ""
            ),
            **dict.fromkeys(("docs/x.md", "build/ui.js", ".git/HEAD", "node_modules/m.js", "__pycache__/a.pyc"), ""),
            **dict.fromkeys((".venv/x", "myenv/pyvenv.cfg", "myenv/bin/python", "b.pyc"), ""),
        },
    )
    ignored = {".gitignore", ".seawayignore", "sub/.gitignore"}
    assert set(names(app)) - ignored == {"a.py", "keep.log", "sub/top.txt", "sub/wanted.log"}


def test_ignore_rules_of_the_repository_above(tmp_path: Path) -> None:
    """An app in a subfolder of a repository keeps to that repository's .gitignore."""
    write_app(tmp_path, {".git/HEAD": "", ".gitignore": "*.log\n/apps/shop/data/\n"})
    app = write_app(tmp_path / "apps" / "shop", {"a.py": "", "a.log": "", "data/x": "", "other/data/x": ""})
    assert names(app) == ["a.py", "other/data/x"]


def test_links(tmp_path: Path) -> None:
    """A link inside the source is kept as a link; one that leads out is refused by name."""
    app = write_app(tmp_path / "app", {"a/real.txt": "x"})
    (app / "a" / "link").symlink_to("real.txt")
    assert [file.link for file in list_files(app)] == ["real.txt" if n == "a/link" else None for n in names(app)]
    for target in ("../../secret", "/etc/passwd"):
        (app / "out").symlink_to(target)
        with pytest.raises(BuildError, match=r"out: links to .*, outside the app's folder"):
            list_files(app)
        (app / "out").unlink()


def test_what_is_no_file_is_left_out_and_said(tmp_path: Path) -> None:
    """A pipe cannot be packed."""
    app = write_app(tmp_path / "app", {"a": "x"})
    os.mkfifo(app / "pipe")
    assert pack(app, tmp_path / "x.tgz").skipped == ("pipe: is not a file, folder or link",)


def test_limits_and_nothing_to_pack(tmp_path: Path) -> None:
    """Too much, and nothing at all, say what to do."""
    app = write_app(tmp_path / "app", {"a": "xxxx", "b": "yyyy"})
    with pytest.raises(BuildError, match=r"more than 1 files: list what the app does not need in .seawayignore"):
        list_files(app, limits=Limits(entries=1))
    with pytest.raises(BuildError, match="list what the app does not need"):
        list_files(app, limits=Limits(bytes=7))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BuildError, match="holds no files to deploy"):
        pack(tmp_path / "empty", tmp_path / "x.tgz")
    with pytest.raises(BuildError, match="is not a folder"):
        pack(app / "a", tmp_path / "x.tgz")


def test_packed_folder_unpacks_to_the_same_files(tmp_path: Path) -> None:
    """Contents, execute bits and links survive the way."""
    app = write_app(tmp_path / "app", {"a/x.py": "x", "run": "#!", "naïve.txt": "é"})
    (app / "run").chmod(0o755)
    (app / "a" / "link").symlink_to("../run")
    pack(app, tmp_path / "x.tgz")
    target = tmp_path / "out"
    target.mkdir()
    unpack_archive(tmp_path / "x.tgz", target)
    assert [(f.name, f.executable, f.link) for f in list_files(target)] == [
        (f.name, f.executable, f.link) for f in list_files(app)
    ]
    assert (target / "naïve.txt").read_text() == "é"


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def write_tar(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return path


SYM, DIR = tarfile.SYMTYPE, tarfile.DIRTYPE

EVIL = [
    ([entry("../evil", data=b"x")], "'../evil', which leads out"),
    ([entry("a/../../evil", data=b"x")], "which leads out"),
    ([entry("/evil", data=b"x")], "which leads out"),
    ([entry("link", SYM, "/etc")], "links to /etc, outside the app's folder"),
    ([entry("a/link", SYM, "../../x")], "outside the app's folder"),
    # a chain of links, each of which stays inside by its text alone
    ([entry("d", DIR), entry("d/up", SYM, ".."), entry("d/out", SYM, "up/../evil")], "outside the app's folder"),
    ([entry("evil", SYM, "d"), entry("d", DIR), entry("evil/x", data=b"x")], "both as link and as folder"),
    ([entry("dev", tarfile.CHRTYPE)], "'dev', which is no file, folder or link"),
    ([entry("pipe", tarfile.FIFOTYPE)], "which is no file, folder or link"),
    ([entry("hard", tarfile.LNKTYPE, "../../etc/passwd")], "which leads out"),
    ([entry("hard", tarfile.LNKTYPE, "missing")], "a hard link to 'missing', which is not before it"),
    ([entry("a", data=b"x"), entry("a/b", data=b"x")], "both as file and as folder"),
    ([entry("big", data=b"x" * 2000)], "unpacks to more than"),
    ([entry(str(number)) for number in range(20)], "more than 10 entries"),
]


@pytest.mark.parametrize(("entries", "sentence"), EVIL)
def test_evil_archives(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], sentence: str) -> None:
    """Nothing lands outside the target, whatever the archive says."""
    target = tmp_path / "in" / "target"
    target.mkdir(parents=True)
    archive = write_tar(tmp_path / "evil.tgz", entries)
    with pytest.raises(BuildError) as caught:
        unpack_archive(archive, target, Limits(bytes=1000, entries=10))
    assert sentence in str(caught.value)
    outside = [path for path in tmp_path.rglob("*") if not path.is_relative_to(target)]
    assert sorted(outside) == [archive, tmp_path / "in"]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-40], lambda _: b"no archive", lambda data: data[:30] + b"x" * 30]
)
def test_broken_archives(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """A cut or garbled archive is an error of its own kind."""
    archive = write_tar(tmp_path / "x.tgz", [entry("a", data=os.urandom(5000))])
    archive.write_bytes(spoil(archive.read_bytes()))
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="the source archive is broken"):
        unpack_archive(archive, tmp_path / "out")


@pytest.mark.parametrize(
    "url",
    ["-oProxyCommand=x", "ext::sh -c x", "ftp://a/b", "relative/path", "https://a b", "", "a::b", "https://a/\nb"],
)
def test_git_addresses_refused(url: str) -> None:
    """What git would take for an option, a helper or another protocol is no address."""
    with pytest.raises(BuildError, match="is not a git address"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://a/b.git", "git@host:team/app.git", "ssh://git@h/x", "/srv/x.git", "file:///x"]
)
def test_git_addresses_taken(url: str) -> None:
    """The usual ways to write one."""
    check_url(url)


@pytest.mark.parametrize("ref", ["-x", "--upload-pack=x", "a..b", "a b", "", "../x", "a@{1}", "x" * 300])
def test_git_refs_refused(ref: str) -> None:
    """A ref is a branch, tag or commit and nothing more."""
    with pytest.raises(BuildError, match="is not the name of a branch"):
        check_ref(ref)


def test_secrets_are_not_printed() -> None:
    """Credentials in addresses and known secrets are blotted out."""
    line = "Failed to fetch https://bob:hunter2@example.com/simple/ with s3cret"
    assert redact(line, ("s3cret",)) == "Failed to fetch https://***@example.com/simple/ with ***"


def test_environment_of_builds() -> None:
    """Index settings pass, pip's under uv's names; everything else of the platform stays out."""
    env = choose_environment(
        {
            "PATH": "/bin",
            "PIP_INDEX_URL": "https://pip.example/simple",
            "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
            "UV_INDEX": "https://uv.example/simple",
            "HTTPS_PROXY": "http://proxy.example",
            "SEAWAY_TOKEN": "secret",
            "VIRTUAL_ENV": "/venv",
            "UV_PYTHON": "3.8",
        }
    )
    assert env["UV_DEFAULT_INDEX"] == "https://pip.example/simple"
    assert env["UV_INDEX"] == "https://uv.example/simple"
    assert env["HTTPS_PROXY"] == "http://proxy.example"
    assert not {"SEAWAY_TOKEN", "VIRTUAL_ENV", "UV_PYTHON"} & env.keys()
