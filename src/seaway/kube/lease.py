"""Which replica leads: a Lease of coordination.k8s.io/v1 that the leader renews and others take when it grows old.

Who leads stops believing so DEADLINE seconds after it last *sent* a renewal that was answered. Others take the lease
DURATION seconds after they *saw* it change last, which is later than it was sent; so there are never two, as long as
clocks run at the same rate (they need not agree). Released on a stop, the next one leads at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from seaway.kube.client import KubeClient
from seaway.kube.errors import AlreadyExists, Conflict, KubeError, NotFound

DURATION = 4.0  # seconds since the last change after which anybody may take the lease
DEADLINE = 3.0  # seconds since the last renewal was sent after which the leader gives up
RENEW_INTERVAL = 1.0
LOOK_INTERVAL = 0.5

log = structlog.get_logger(__name__)


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_transitions: int | None = 0


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decoder = msgspec.json.Decoder(_Lease)


class LeaseElection:
    """One replica's part in the election. `identity` is its own, the same for none of the others."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.leader = ""  # identity of who leads as far as is known; "" for nobody
        self._client = client
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._until = float("-inf")  # until when this one leads, by its own clock
        self._seen: tuple[str, float] = ("", float("-inf"))  # version of the lease, and when it was first seen
        self._led = False

    @property
    def leads(self) -> bool:
        """Whether this replica may act, now; ask before every act."""
        return self._clock() < self._until

    async def run(self, turned: Callable[[bool], None]) -> None:
        """Take part until cancelled, then release the lease; `turned` hears of each beginning and end of leading."""
        try:
            while True:
                sent = self._clock()
                try:
                    async with asyncio.timeout(max(0.1, self._until - sent) if self.leads else DEADLINE):
                        await self._step(sent)
                except (KubeError, TimeoutError) as error:
                    log.warning("the lease cannot be looked at", error=str(error))
                self._note(turned)
                await asyncio.sleep(RENEW_INTERVAL if self.leads else LOOK_INTERVAL)
                self._note(turned)
        finally:
            led, self._until = self.leads, float("-inf")
            self._note(turned)
            if led:
                with suppress(KubeError, TimeoutError):
                    async with asyncio.timeout(DEADLINE):
                        await self._release()

    def _note(self, turned: Callable[[bool], None]) -> None:
        if self.leads is not self._led:
            self._led = self.leads
            log.info("leads" if self._led else "leads no longer", replica=self._identity, leader=self.leader)
            turned(self._led)

    async def _step(self, sent: float) -> None:
        """Look at the lease; renew it if it is ours, take it if it is free or old."""
        try:
            lease = _decoder.decode(await self._client.request("GET", f"{self._path}/{self._name}"))
        except NotFound:
            await self._write(sent, None)
            return
        now, version = self._clock(), lease.metadata.resource_version
        if version != self._seen[0]:
            self._seen = (version, now)
        holder = lease.spec.holder_identity or ""
        self.leader = holder
        if holder in ("", self._identity) or now - self._seen[1] >= DURATION:
            await self._write(sent, lease)

    async def _write(self, sent: float, lease: _Lease | None) -> None:
        """Make the lease ours as of now, if nobody else wrote it meanwhile."""
        mine = lease is not None and lease.spec.holder_identity == self._identity
        turns = (lease.spec.lease_transitions or 0) + (not mine) if lease else 0
        try:
            written = await self._put(lease.metadata.resource_version if lease else None, self._identity, turns)
        except (Conflict, AlreadyExists):
            return  # another one was faster: see next time
        self._seen = (written.metadata.resource_version, self._clock())
        self._until = sent + DEADLINE
        self.leader = self._identity

    async def _release(self) -> None:
        lease = _decoder.decode(await self._client.request("GET", f"{self._path}/{self._name}"))
        if lease.spec.holder_identity == self._identity:
            await self._put(lease.metadata.resource_version, "", lease.spec.lease_transitions or 0)

    async def _put(self, version: str | None, holder: str, turns: int) -> _Lease:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": int(DURATION),
                "renewTime": now,
                "leaseTransitions": turns,
            },
        }
        if version is None:
            return _decoder.decode(await self._client.request("POST", self._path, body=body))
        body["metadata"]["resourceVersion"] = version
        return _decoder.decode(await self._client.request("PUT", f"{self._path}/{self._name}", body=body))
