"""Names that are nearly requirements.txt, and files that are read in other encodings, as pip does."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from seaway.builder.base import BuildError
from seaway.builder.facts import decode_text, read_facts
from seaway.builder.hints import find_near_requirements, is_misspelled
from seaway.builder.source import list_files
from tests.builder_kit import write_app


@pytest.mark.parametrize(
    "name", ["Requirements.txt", "requierements.txt", "requirement.txt", "requirments.txt", "requirements.text"]
)
def test_misspelled(name: str) -> None:
    """Case, a letter, the ending."""
    assert is_misspelled(name)
    assert find_near_requirements(["app.py", name]) == [name]


def test_others_that_may_hold_dependencies() -> None:
    """The likeliest comes first; those for development are not meant, nor are other texts."""
    names = ["requirements/prod.txt", "requirements-prod.txt", "requirements.in", "requirements", "requierments.txt"]
    assert find_near_requirements(names)[0] == "requierments.txt"
    assert sorted(find_near_requirements(names)) == sorted(names)
    work = ["requirements-dev.txt", "requirements_test.txt", "requirements/tests.txt", "requirements/docs.txt"]
    assert (
        find_near_requirements([*work, "readme.txt", "docs/requirements.txt", "requirements.txt", "reqs/a.txt"]) == []
    )


def test_facts_name_what_is_not_read(tmp_path: Path) -> None:
    """A setup.cfg counts if it says what to install; hooks lie in a folder."""
    write_app(tmp_path, {"setup.cfg": "[flake8]\n", "bin/post_compile": "", "app.py": "", "requirements/prod.txt": ""})
    facts = read_facts(tmp_path, list_files(tmp_path))
    assert (facts.others, facts.near) == (("bin/post_compile",), ("requirements/prod.txt",))
    write_app(tmp_path, {"setup.cfg": "[options]\ninstall_requires = click\n"})
    assert read_facts(tmp_path, list_files(tmp_path)).others == ("setup.cfg", "bin/post_compile")


def test_who_collects_static_files(tmp_path: Path) -> None:
    """Django's settings, wherever they lie, say where to; and something says that whitenoise serves them."""
    settings = "import os\nSTATIC_ROOT = os.path.join(BASE, 'static')\n"
    write_app(tmp_path, {"manage.py": "", "shop/settings/base.py": settings})
    assert not read_facts(tmp_path, list_files(tmp_path)).has_static_files
    write_app(tmp_path, {"shop/settings/live.py": "MIDDLEWARE = ['whitenoise.middleware.WhiteNoiseMiddleware']\n"})
    assert read_facts(tmp_path, list_files(tmp_path)).has_static_files
    (tmp_path / "manage.py").unlink()
    assert not read_facts(tmp_path, list_files(tmp_path)).has_static_files


def test_who_needs_setuptools(tmp_path: Path) -> None:
    """Who imports its module and cannot do without, or names it."""
    write_app(tmp_path, {"a.py": "try:\n    import pkg_resources\nexcept ImportError:\n    pass\n"})
    facts = read_facts(tmp_path, list_files(tmp_path))
    assert (facts.imports_pkg_resources, facts.asks_for_setuptools) == (False, False)
    write_app(tmp_path, {"b/c.py": "import os\nfrom pkg_resources import parse_version\n"})
    write_app(tmp_path, {"requirements.txt": "setuptools-scm\n"})
    facts = read_facts(tmp_path, list_files(tmp_path))
    assert (facts.imports_pkg_resources, facts.asks_for_setuptools) == (True, False)
    write_app(tmp_path, {"requirements.txt": "Setuptools>=82\n"})
    assert read_facts(tmp_path, list_files(tmp_path)).asks_for_setuptools


@pytest.mark.parametrize(
    "content",
    [
        "click # ü\r\n".encode(),
        codecs.BOM_UTF8 + "click # ü\n".encode(),
        codecs.BOM_UTF16_LE + "click # ü\r\n".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "click # ü\n".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + "click # ü\n".encode("utf-32-le"),
    ],
)
def test_encodings(content: bytes) -> None:
    """What PowerShell and old editors write."""
    assert decode_text("requirements.txt", content) == "click # ü\n"


def test_coding_comment() -> None:
    """PEP 263, as pip reads it."""
    assert decode_text("requirements.txt", "# -*- coding: latin-1 -*-\nclick # ü\n".encode("latin-1")).endswith("ü\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("click # ü".encode("latin-1"), "is not UTF-8 text (byte 8): save it as UTF-8"),
        ("click\n".encode("utf-16-le"), "character 1 is NUL; it seems to be UTF-16 without a mark: save it as UTF-8"),
        (b"click\n" * 9 + b"\0", "character 54 is NUL: save it as UTF-8"),
        (b"# coding: klingon\nclick", "says that its encoding is 'klingon', which is none"),
    ],
)
def test_no_text(content: bytes, sentence: str) -> None:
    """It is named, with what to do."""
    with pytest.raises(BuildError) as caught:
        decode_text("requirements.txt", content)
    assert str(caught.value).startswith("requirements.txt: ")
    assert sentence in str(caught.value)
