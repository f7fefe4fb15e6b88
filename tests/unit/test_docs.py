"""Pages: those made from the code are current, links lead somewhere, and what is named exists."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from seaway.disk import Disk
from seaway.metrics.collector import render
from seaway.model import Observation
from seaway.router.bootstrap import ACCESS_FIELDS, LOCAL_REPLIES

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md"), *ROOT.glob("bench/*.md")]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"(?<![\w./-])(?:docs|tests|scripts|bench|examples)/[\w./-]+\.\w+")


@pytest.mark.parametrize("script", ["gen_api_docs", "gen_limits_docs", "gen_rollout_docs", "gen_toml_docs"])
def test_generated_pages_are_current(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run here and not as a process of its own: everything is imported already."""
    path = ROOT / "scripts" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """To files of this repository; addresses elsewhere are not asked for."""
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def test_files_that_the_code_names_are_there() -> None:
    """In docstrings, comments and messages."""
    sources = ROOT.glob("src/**/*.py")
    assert [(s.name, n) for s in sources for n in NAMED.findall(s.read_text()) if not (ROOT / n).exists()] == []


def test_the_functions_that_a_deploy_goes_through_are_there() -> None:
    """Each file of the page, and each function beside its file."""
    page, source = (ROOT / "docs/life-of-a-deploy.md").read_text(), ROOT / "src/seaway"
    files = re.findall(r"`([a-z]+/[\w/]*\.py)`", page)
    assert [file for file in files if not (source / file).exists() and not (ROOT / file).exists()] == []
    places = [place for row in re.findall(r"^\| \d+ \|.*\| (.*) \|$", page, re.MULTILINE) for place in row.split(";")]
    assert len(places) > 20
    for place in places:
        file, *names = re.findall(r"`([^`]+)`", place)
        text = (source / file).read_text()
        assert [name for name in names if f"def {name}(" not in text] == [], place


def test_the_page_of_routers_names_every_field_reason_and_metric() -> None:
    """In its tables, each in its own words."""
    page = (ROOT / "docs/router.md").read_text()
    metrics = re.findall(
        r"^# TYPE (\w+)", render((), (), Observation(), (), Disk(ROOT, 1, 1), version="1").decode(), re.MULTILINE
    )
    names = {*ACCESS_FIELDS, *(reply.reason for reply in LOCAL_REPLIES), *metrics}
    assert len(metrics) > 10
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    documented = set(re.findall(r"`(seaway_\w+)`", page))
    assert documented == set(metrics), "no metric that is gone"
