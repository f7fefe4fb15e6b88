"""Putting Seaway's kinds into a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from seaway.kube.client import KubeClient
from seaway.kube.crds import make_crds
from seaway.kube.errors import KubeError, NotFound, Unavailable


async def install_crds(client: KubeClient, within: float = 30.0) -> None:
    """Apply all CustomResourceDefinitions and wait until their objects can be listed; Unavailable after `within` s."""
    for crd in make_crds():
        await client.apply(crd)
    try:
        async with asyncio.timeout(within):
            for crd in make_crds():
                await _wait_served(client, crd["spec"])
    except TimeoutError:
        raise Unavailable(f"the API server does not serve Seaway's kinds {within:.0f} s after they were made") from None


async def _wait_served(client: KubeClient, spec: dict[str, Any]) -> None:
    path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    while True:
        try:
            await client.request("GET", path, params={"limit": "1"})
        except (NotFound, Unavailable):
            await asyncio.sleep(0.1)
        except KubeError:
            raise
        else:
            return
