"""Which replica leads, against a real API server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx2

from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.lease import DEADLINE, DURATION, LeaseElection
from tests.kube.api_server import ApiServer


class Replica:
    """One candidate; `dies` cuts it off without a word."""

    def __init__(self, kube: KubeClient, namespace: str, name: str) -> None:
        self.election = LeaseElection(kube, namespace, "seaway-control", name)
        self.turns: list[bool] = []
        self.task = asyncio.create_task(self.election.run(self.turns.append))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(condition: Callable[[], object], what: str, seconds: float = 20) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_one_leads_and_the_next_one_at_once_after_it_stopped(kube: KubeClient, namespace: str) -> None:
    """Of three, one; when it stops in order the next one does not wait for the lease to grow old."""
    replicas = [Replica(kube, namespace, name) for name in ("a", "b", "c")]
    try:
        for left in (3, 2, 1):
            await until(lambda: any(r.election.leads for r in replicas), "somebody leads")
            leading = [r for r in replicas if r.election.leads]
            assert len(leading) == 1
            await until(lambda name=leading[0]: len({r.election.leader for r in replicas}) == 1, "all know who")  # type: ignore[misc]
            await leading[0].stop()
            assert leading[0].turns == [True, False]
            replicas.remove(leading[0])
            assert len(replicas) == left - 1
            if replicas:
                waited = await until(lambda: any(r.election.leads for r in replicas), "the next one leads")
                assert waited < DURATION
    finally:
        for replica in replicas:
            await replica.stop()


async def test_a_leader_cut_off_gives_up_before_another_takes_over(
    kube: KubeClient, namespace: str, api_server: ApiServer
) -> None:
    """The leader loses the API server: it no longer leads by the time the other one does, some seconds later."""
    lonely = KubeClient(load_config(api_server.kubeconfig))
    first, second = Replica(lonely, namespace, "first"), Replica(kube, namespace, "second")
    try:
        await until(lambda: first.election.leads or second.election.leads, "one leads")
        if second.election.leads:
            await second.stop()
            await until(lambda: first.election.leads, "the first leads")
            second = Replica(kube, namespace, "second")
        await until(lambda: second.election.leader == "first", "the second knows")
        lonely.http.base_url = httpx2.URL("https://127.0.0.1:1")  # every call of the first fails from now on
        began = time.monotonic()
        while not second.election.leads:
            assert time.monotonic() - began < 20
            await asyncio.sleep(0.005)
        assert not first.election.leads
        assert time.monotonic() - began < DURATION + DEADLINE
        assert first.turns == [True, False], "told before anybody else leads"
    finally:
        await first.stop()
        await second.stop()
        await lonely.close()
