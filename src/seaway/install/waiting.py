"""Waiting until a part of Seaway runs in the cluster, with a word of why not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from seaway.install.errors import TIMED_OUT, InstallError
from seaway.install.manifests import Object, selector
from seaway.install.reasons import count_ready, explain, is_rolled_out
from seaway.kube.client import KubeClient
from seaway.kube.errors import Unavailable

LOOK_EVERY = 0.5  # seconds; the reasons come from pods and Deployment alike
Tell = Callable[[str, str], None]
"""Takes what is waited for, and why it is not there yet."""


async def wait_rolled_out(client: KubeClient, namespace: str, name: str, within: float, tell: Tell) -> None:
    """Return when a Deployment is rolled out; InstallError with the reason after `within` seconds."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    why = "the API server does not answer"
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            deployment: Object = msgspec.json.decode(await client.request("GET", path))
            if is_rolled_out(deployment):
                tell(name, count_ready(deployment))
                return
            reason = explain(deployment, await list_pods(client, namespace, name))
            why = f"{count_ready(deployment)}: {reason}"
        except Unavailable as error:
            why = str(error)
        tell(name, why)
        if asyncio.get_running_loop().time() >= deadline:
            hint = "it goes on in the cluster; correct what is in the way and run it again"
            raise InstallError(f"{name} is not there after {within:.0f} s, {why}", hint=hint, exit_code=TIMED_OUT)
        await asyncio.sleep(LOOK_EVERY)


async def list_pods(client: KubeClient, namespace: str, component: str) -> list[Object]:
    """Return the pods of a part."""
    wanted = ",".join(f"{key}={value}" for key, value in selector(component).items())
    query = urlencode({"labelSelector": wanted})
    found = msgspec.json.decode(await client.request("GET", f"/api/v1/namespaces/{namespace}/pods?{query}"))
    items: list[Object] = found["items"]
    return items
