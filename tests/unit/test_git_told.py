"""What is said of a deploy from git: which ref of which repository, and never a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from seaway.control.builds import BuildRunner
from seaway.home import Home
from seaway.model import App, Build, BuildManifest, BuildSpec, BuildState, BuildStatus, Meta, Process, Release, Source
from seaway.store.memory import MemoryStore
from tests.unit.cli_recorded import Bench, bench, build, recorder
from tests.unit.test_forgetting import NOW, HangingBuilder, tell_nobody

__all__ = ["bench", "recorder"]

URL = "https://ann:hunter2@git.example/shop.git"
ODD = "https://ann:h@u/n't\"er2@git.example/shop.git"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(git=URL, ref="main"), "Deploy main of https://***@git.example/shop.git (ab12ab12ab12)"),
        (Source(git=URL), "Deploy HEAD of https://***@git.example/shop.git (ab12ab12ab12)"),
        (Source(git=ODD), "Deploy HEAD of https://***@git.example/shop.git (ab12ab12ab12)"),
        (Source(archive="0" * 64), "Deploy ab12ab12ab12"),
    ],
)
async def test_a_release_names_the_ref_it_was_built_from(tmp_path: Path, source: Source, said: str) -> None:
    """An upload has no name but its image's."""
    home, store = Home(tmp_path).create(), MemoryStore()
    runner = BuildRunner(store, HangingBuilder(home), home, clock=lambda: NOW, tell=tell_nobody)
    shop = await store.create(App(meta=Meta(name="shop")))
    status = BuildStatus(
        state=BuildState.SUCCEEDED,
        image="sha256:" + "ab12" * 16,
        manifest=BuildManifest(processes={"web": Process(command="run")}),
    )
    meta = Meta(name="shop.b1", labels={"app": "shop"})
    await store.create(Build(meta=meta, spec=BuildSpec(app="shop", number=1, source=source), status=status))
    await runner.reconcile(shop)
    await runner.close()
    assert (await store.get(Release, "shop.v1")).spec.description == said


def test_builds_list_and_deploy_show_the_ref(bench: Bench) -> None:
    """The ref that was asked for, HEAD if none was; of a folder only that it was uploaded."""
    masked, plain = "https://***@git.example/shop.git", build(1, BuildState.SUCCEEDED, made=0)
    named = [
        plain.model_copy(update={"spec": plain.spec.model_copy(update={"number": n, "source": source})})
        for n, source in ((2, Source(git=masked, ref="v1.2")), (3, Source(git=masked)))
    ]
    bench.api.on("GET", "/apps/shop", App(meta=Meta(name="shop")))
    bench.api.on("GET", "/apps/shop/builds", [plain, *named])
    bench.api.on("POST", "/apps/shop/builds", named[0])
    lines = bench.run("builds", "list", "-a", "shop").stdout.splitlines()[1:]
    assert [f"HEAD of {masked}" in lines[0], f"v1.2 of {masked}" in lines[1], " upload " in lines[2]] == [True] * 3
    result = bench.run("deploy", "-a", "shop", "--git", URL, "--ref", "v1.2", "--no-wait")
    assert f"build b2 of shop from v1.2 of {masked}" in result.stdout
