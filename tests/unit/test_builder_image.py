"""Layers, images and the store on disk; requirements, interpreters and what installing leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from seaway.builder.base import BuildError
from seaway.builder.dependencies import explain_failure, list_installed
from seaway.builder.facts import gather_requirements, read_facts
from seaway.builder.image import Layer, TextFile, write_image, write_layer
from seaway.builder.interpreter import NoInterpreter, find_interpreter, list_versions
from seaway.builder.layout import Blob, ImageError, ImageLayout
from seaway.builder.plan import Recipe, SourceFacts, make_plan
from seaway.builder.schema import BuildTable
from seaway.builder.source import list_files
from tests.builder_kit import write_app

SITE = "lib/python3.11/site-packages"


def make_layout(tmp_path: Path) -> ImageLayout:
    return ImageLayout(tmp_path / "images").create()


def test_layer_is_sorted_zeroed_and_named_by_its_content(tmp_path: Path) -> None:
    """Entries come in byte order with no time, owner or odd mode, and folders before what is in them."""
    layout = make_layout(tmp_path)
    files = [TextFile("app/z", b"z"), TextFile("app/a/b", b"b", executable=True), TextFile("app/Z", b"Z")]
    blob = write_layer(layout, files, tmp_path)
    content = layout.path(blob.digest).read_bytes()
    assert "sha256:" + hashlib.sha256(content).hexdigest() == blob.digest
    with tarfile.open(layout.path(blob.digest)) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["app", "app/Z", "app/a", "app/a/b", "app/z"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert [oct(member.mode) for member in members] == ["0o755", "0o644", "0o755", "0o755", "0o644"]
    assert write_layer(layout, reversed(files), tmp_path) == blob


def test_image_says_what_it_is(tmp_path: Path) -> None:
    """Config, manifest and index hold what the OCI specification asks for, and Seaway's labels."""
    layout = make_layout(tmp_path)
    plan = make_plan(SourceFacts(has_python_files=True), BuildTable(base="python:3.11-slim"))
    blob = write_layer(layout, [TextFile("app/a", b"a")], tmp_path)
    image = write_image(layout, plan, [Layer(blob, "app")])
    manifest = layout.read_json(image)
    config = layout.read_json(manifest["config"]["digest"])
    assert config["rootfs"] == {"type": "layers", "diff_ids": [blob.digest]}
    assert manifest["layers"][0]["size"] == layout.path(blob.digest).stat().st_size
    assert manifest["annotations"] == {"org.opencontainers.image.base.name": "python:3.11-slim"}
    assert config["config"]["Labels"]["io.seaway.runtime"] == "python3.11"
    assert "PYTHONPATH=/app" in config["config"]["Env"]
    assert layout.list_images() == [image]
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert write_image(layout, plan, [Layer(blob, "app")]) == image
    assert layout.list_images() == [image]


def test_index_loses_nothing_to_concurrent_writers(tmp_path: Path) -> None:
    """Every image that was added by any of several writers is in the index."""
    layout = make_layout(tmp_path)
    blobs = [layout.put_bytes(b"%d" % number) for number in range(24)]

    def add(part: list[Blob]) -> None:
        for blob in part:
            ImageLayout(layout.root).add_image(blob)

    threads = [threading.Thread(target=add, args=(blobs[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(layout.list_images()) == sorted(blob.digest for blob in blobs)
    assert not list(layout.root.rglob(".new-*"))


def test_prune_keeps_images_in_use_and_their_layers(tmp_path: Path) -> None:
    """A layer two images share stays while one of them does."""
    layout = make_layout(tmp_path)
    plan = make_plan(SourceFacts(), BuildTable())
    shared, one, two = (write_layer(layout, [TextFile(f"app/{n}", b"x")], tmp_path) for n in "abc")
    first = write_image(layout, plan, [Layer(shared, "dependencies"), Layer(one, "app")])
    second = write_image(layout, plan, [Layer(shared, "dependencies"), Layer(two, "app")])
    layout.write_cache("results", "one", {"image": first})
    layout.write_cache("results", "two", {"image": second})
    with layout.adding():
        assert layout.prune({second}, time.time() + 60) is None
    assert layout.complete(first)
    assert layout.prune({second}, time.time() - 60) == 0  # both are new
    os.utime(layout.path(first), (0, 0))
    assert layout.claim(first)
    assert layout.prune({second}, time.time() - 60) == 0  # used anew
    os.utime(layout.path(first), (0, 0))
    assert layout.prune({second}, time.time() - 60)
    assert layout.read_cache("results", "one") is None
    assert layout.read_cache("results", "two") is not None
    assert not layout.has(first)
    assert not layout.has(one.digest)
    assert layout.complete(second)


def test_damaged_and_missing_blobs(tmp_path: Path) -> None:
    """A blob that is not what its name says is never believed."""
    layout = make_layout(tmp_path)
    blob = layout.put_bytes(b"{}")
    layout.path(blob.digest).write_bytes(b"[]")
    with pytest.raises(ImageError, match="is damaged on disk"):
        layout.read_json(blob.digest)
    with pytest.raises(ImageError, match="is not in the store"):
        layout.read_json("sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="is not an image digest"):
        layout.path("../../etc/passwd")


def test_requirements_are_spelled_out(tmp_path: Path) -> None:
    """-r is inlined, -c becomes a file of its own, editable entries become ordinary ones."""
    write_app(
        tmp_path,
        {
            "requirements.txt": "-r reqs/base.txt\n-c limits.txt\n-e ./libs/mine\nflask==3.1 \\\n    --hash=sha256:a\n",
            "reqs/base.txt": "-rmore.txt\nclick\n",
            "reqs/more.txt": "jinja2\n",
            "limits.txt": "click<9\n",
        },
    )
    gathered = gather_requirements(tmp_path)
    lines = gathered["requirements.txt"].split("\n")
    assert [line for line in lines if line] == [
        "jinja2", "click", "-c constraints-0.txt", "./libs/mine", "flask==3.1 \\", "    --hash=sha256:a",
    ]  # fmt: skip
    assert gathered["constraints-0.txt"] == "click<9\n"
    assert read_facts(tmp_path, list_files(tmp_path)).local_requirements


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("-r missing.txt", "requirements.txt: line 1: there is no file missing.txt"),
        ("click\n-c ../up.txt", "requirements.txt: line 2: ../up.txt is outside the app's folder"),
        ("-r requirements.txt", "requirements.txt: includes itself"),
        (b"caf\xe9", "requirements.txt: is not UTF-8 text (byte 3)"),
    ],
)
def test_bad_requirements(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    """What cannot be followed is named with its line."""
    (tmp_path / "requirements.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BuildError) as caught:
        gather_requirements(tmp_path)
    assert sentence in str(caught.value)


def test_bad_pyproject(tmp_path: Path) -> None:
    """Wrong TOML is named with its place."""
    write_app(tmp_path, {"pyproject.toml": "[project\n"})
    with pytest.raises(BuildError, match=r"pyproject.toml: is not valid TOML: .*line 1"):
        read_facts(tmp_path, list_files(tmp_path))


def test_installed_files_name_no_folder_of_this_machine(tmp_path: Path) -> None:
    """Shebangs, RECORD and installer leftovers are made the same everywhere."""
    folder = write_app(
        tmp_path / "deps",
        {
            f"{SITE}/pkg/__init__.py": "x",
            f"{SITE}/pkg/__pycache__/x.pyc": "x",
            f"{SITE}/old.pth": "./more\n",
            f"{SITE}/_virtualenv.py": "",
            "bin/python3.11": "",
            "bin/activate.fish": "",
            "pyvenv.cfg": "",
            "share/man/x.1": "",
            "bin/tool": f"#!{tmp_path}/bin/python\nprint(1)\n",
            "bin/long": f"#!/bin/sh\n'''exec' '{tmp_path}/python' \"$0\" \"$@\"\n' '''\nprint(2)\n",
            "bin/shell": "#!/bin/sh\necho hi\n",
            f"{SITE}/p-1.dist-info/RECORD": "pkg/__init__.py,sha256=a,1\n../../../bin/tool,sha256=b,9\n"
            "p-1.dist-info/REQUESTED,,\np-1.dist-info/direct_url.json,,\np-1.dist-info/RECORD,,\n",
            f"{SITE}/p-1.dist-info/REQUESTED": "",
            f"{SITE}/p-1.dist-info/uv_cache.json": "{}",
            f"{SITE}/p-1.dist-info/direct_url.json": '{"url": "file:///tmp/x"}',
            f"{SITE}/q-1.dist-info/direct_url.json": '{"url": "https://example.com/q.whl"}',
            ".lock": "",
        },
    )
    (folder / "lib64").symlink_to("lib")
    files = {file.name: file for file in list_installed(folder, "d")}
    texts = {name: file.content.decode() for name, file in files.items() if isinstance(file, TextFile)}
    assert sorted(files) == [
        "d/bin/long", "d/bin/shell", "d/bin/tool", f"d/{SITE}/old.pth", f"d/{SITE}/p-1.dist-info/RECORD",
        f"d/{SITE}/pkg/__init__.py", f"d/{SITE}/q-1.dist-info/direct_url.json", "d/share/man/x.1",
    ]  # fmt: skip
    assert texts["d/bin/tool"] == "#!/usr/bin/env python3\nprint(1)\n"
    assert texts["d/bin/long"] == "#!/usr/bin/env python3\nprint(2)\n"
    record = texts[f"d/{SITE}/p-1.dist-info/RECORD"].splitlines()
    names = [line.partition(",")[0] for line in record]
    assert names == ["../../../bin/tool", "p-1.dist-info/RECORD", "pkg/__init__.py"]
    assert record[0].endswith(",32")
    assert not any(str(tmp_path) in text for text in texts.values())


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            [
                "Using CPython 3.11",
                "error: No solution found when resolving dependencies",
                "  cause: no version of x==9",
            ],
            "No solution found when resolving dependencies: no version of x==9; correct the name",
        ),
        (["error: Failed to fetch: `https://i/x`"], "see that the package index can be reached"),
        (["strange"], "strange; the build's log has it in full"),
        (
            [
                "error: Failed to build `foo==1`",
                *["many words of a compiler"] * 100,
                "fatal error: Python.h is missing",
            ],
            "fatal error: Python.h is missing; the build's log",
        ),
        (
            [
                *("error: Failed to build `foo==1`", "  [stderr]", "  Traceback (most recent call last):"),
                *("    File 'x', line 1", "      import p", "  ModuleNotFoundError: No module named 'p'"),
            ],
            "Failed to build `foo==1` [stderr] ModuleNotFoundError: No module named 'p'; the build's log",
        ),
    ],
)
def test_failures_of_uv_are_condensed(output: list[str], sentence: str) -> None:
    """One sentence with uv's reason and what to do."""
    assert sentence in explain_failure(Recipe.REQUIREMENTS, output, "/scratch")


def test_interpreters() -> None:
    """Ours is the base of the virtual environment; one that is not there is refused with what is."""
    found = find_interpreter(f"3.{sys.version_info.minor}")
    assert not found.executable.is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
    assert os.access(found.executable, os.X_OK)
    assert f"3.{sys.version_info.minor}" in list_versions()
    with pytest.raises(NoInterpreter, match=r"has no Python 3.99: install it, or ask for another"):
        find_interpreter("3.99")
