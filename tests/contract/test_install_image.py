"""Where `seaway install` takes Seaway's own image from, against a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from seaway.install.errors import InstallError
from seaway.install.own_image import RegistryImages
from seaway.install.settings import InstallSettings
from seaway.registry.transport import Access
from tests.registry_kit import Registry, push_base, run_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry"), access=Access(insecure=True)) as running:
        push_base(running)
        yield running


def settings(registry: Registry, image: str, **given: Any) -> InstallSettings:
    place = {"registry": f"{registry.host}/apps", "insecure_registry": True}
    return InstallSettings.model_validate({"image": f"{registry.host}/{image}", **place, **given})


class Silence:
    def say(self, text: str) -> None: ...

    def phase(self, name: str, reason: str) -> None: ...


async def test_a_tag_becomes_the_digest_it_has_now(registry: Registry) -> None:
    """So that every node runs the same, now and later."""
    found = await RegistryImages().resolve(settings(registry, "base:1"), None)
    assert found.startswith(f"{registry.host}/base@sha256:")
    assert await RegistryImages().resolve(settings(registry, found.partition("/")[2]), None) == found


async def test_an_image_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(InstallError, match="none:2") as caught:
        await RegistryImages().resolve(settings(registry, "none:2"), None)
    assert (caught.value.exit_code, caught.value.field) == (2, "--image")


async def test_building_needs_a_base(registry: Registry) -> None:
    """None, or one that is not there: said before anything is built."""
    with pytest.raises(InstallError, match="built upon") as caught:
        await RegistryImages().build(settings(registry, "x:1"), None, Silence())
    assert caught.value.field == "--base-image"
    with pytest.raises(InstallError, match="none:1"):
        await RegistryImages().build(settings(registry, "x:1", base_image=f"{registry.host}/none:1"), None, Silence())
