"""The control plane inside a Kubernetes cluster: the other half of the composition root.

Every replica follows the documents and the cluster, publishes routes and serves the API; the one that holds the
Lease acts. Nothing is lost with a replica: documents are custom resources, images and sources are in the registry.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx2
import structlog

from seaway.api import ApiDeps, create_api
from seaway.api.claims import judge_app
from seaway.api.deps import LeaderLink
from seaway.builder.base import Builder
from seaway.builder.cluster import RegistryBuilder
from seaway.builder.foreign import RegistryImages
from seaway.builder.job_manifest import JobSettings
from seaway.builder.jobs import BuildahJobs
from seaway.builder.registry_stores import RegistryLogs, RegistrySources
from seaway.control.attachments import Attachments
from seaway.control.nodes import NodeKeeper
from seaway.control.observer import JudgedEngine
from seaway.control.process import ControlParts, ControlPlane, utc_now
from seaway.control.routers import RouterKeeper, list_expected
from seaway.engine.base import EngineError
from seaway.engine.kubernetes import KubernetesEngine, KubernetesEngineSettings
from seaway.home import Home, Settings
from seaway.install.manifests import LEASE
from seaway.install.renewing import keep_certificates
from seaway.install.settings import LOGIN_FOLDER, ClusterSettings
from seaway.kube.client import KubeClient
from seaway.kube.errors import KubeError
from seaway.kube.lease import LeaseElection
from seaway.kube.names import API_SCHEME
from seaway.logs.kubernetes import KubernetesLogReader
from seaway.metrics.endpoint import add_metrics
from seaway.model import App, Build, EventSpec, Release, Rollout, Route
from seaway.registry.images import Registries
from seaway.registry.reference import parse_place
from seaway.registry.transport import Access
from seaway.router.plane import XdsPlane, read_secret
from seaway.router.tls import SERVER_NAME
from seaway.store.base import Unavailable
from seaway.store.cached import CachedStore
from seaway.store.events import record_event
from seaway.store.kubernetes.adoption import Adopter, Verdict
from seaway.store.kubernetes.store import KubernetesStore

log = structlog.get_logger()

FOLLOWED = (App, Build, Release, Rollout)
"""Kinds that the control loop reads from memory."""


async def run_control(home: Home, here: ClusterSettings) -> int:
    """Run one replica of the control plane until told to stop; return the exit code."""
    async with AsyncExitStack() as stack:
        client = KubeClient.open()
        stack.push_async_callback(client.close)
        await _Replica(home, here, client, stack).run()
    return 0


class _Replica:
    """The parts of one replica, wired together."""

    def __init__(self, home: Home, here: ClusterSettings, client: KubeClient, stack: AsyncExitStack) -> None:
        self._home, self._here, self._client, self._stack = home, here, client, stack
        self._store = KubernetesStore(client, here.namespace)
        self._documents = CachedStore(self._store, FOLLOWED)
        self._tls = Path(here.tls_folder)
        self._me = f"{here.pod}_{here.api_address}"
        self._election = LeaseElection(client, here.namespace, LEASE, self._me)
        self._plane = XdsPlane()
        self._attachments = Attachments()
        self._jobs: BuildahJobs | None = None
        self._engine = KubernetesEngine(
            client,
            KubernetesEngineSettings(
                namespace_prefix=here.team_prefix,
                own_namespace=here.namespace,
                registry=here.registry,
                pull_secret=f"{here.namespace}/{here.pull_secret}" if here.pull_secret else "",
            ),
            tell=self._tell,
            acts=lambda: self._election.leads,
        )
        self._nodes = NodeKeeper(
            self._engine,
            self._plane,
            self._documents,
            clock=utc_now,
            tell=self._tell_event,
            may_act=lambda: self._election.leads,
        )
        self._settings = Settings(
            http_port=here.public_port, api_port=here.api_port, domain=here.domain, bind=here.bind, **here.quotas()
        )  # fmt: skip

    async def run(self) -> None:
        """Run until told to stop."""
        stack = self._stack
        await self._engine.start()
        stack.push_async_callback(self._engine.close)
        following = asyncio.create_task(self._documents.run(), name="documents")
        stack.push_async_callback(_end, following)
        await self._plane.start(
            self._home.socket("xds"),
            read_secret(self._home.root),
            (f"{self._here.bind}:{self._here.xds_port}", self._tls),
        )
        stack.push_async_callback(self._plane.stop)
        registries = self._find_registries()
        builder, deps = await self._make_builder(registries), self._make_deps(registries)
        api = create_api(deps)
        add_metrics(api, self._store, self._engine, self._plane, self._home.root)
        adopter = Adopter(self._store, self._judge)
        await ControlPlane(
            ControlParts(
                home=self._home,
                settings=self._settings,
                store=self._documents,
                engine=self._engine,
                plane=self._plane,
                builder=builder,
                api=api,
                attachments=self._attachments,
                claiming=deps.claiming,
                builds_here=False,
                nodes=self._nodes,
                expected=await self._list_expected(),
                leadership=self._election,
                duties=(
                    adopter.run,
                    RouterKeeper(self._store, self._plane, utc_now).run,
                    partial(keep_certificates, self._client, self._here.namespace),
                ),
                refresh=self._refresh,
                silence=self._engine.silent,
                certificate=(self._tls / "tls.crt", self._tls / "tls.key"),
            )
        ).run()

    def _make_deps(self, registries: Registries) -> ApiDeps:
        """The API reads what is in the cluster now, not what this replica has seen of it."""
        trust = ssl.create_default_context(cafile=str(self._tls / "ca.crt"))
        http = httpx2.AsyncClient(verify=trust, trust_env=False, headers={"host": SERVER_NAME})
        self._stack.push_async_callback(http.aclose)
        return ApiDeps(
            store=self._store,
            engine=JudgedEngine(self._engine, self._nodes.overlay),
            routers=self._plane,
            logs=KubernetesLogReader(self._client, self._here.team_prefix),
            home=self._home,
            settings=self._settings,
            leader=LeaderLink(self._find_leader, http),
            attachments=self._attachments,
            source_store=RegistrySources(registries, self._home),
            build_logs=RegistryLogs(registries),
            images=RegistryImages(registries),
            teams=self._engine,
            task_streams=self._engine,
        )

    def _find_leader(self) -> str | None:
        leader = self._election.leader
        if not leader:
            return None
        return "" if leader == self._me else f"{API_SCHEME}://{leader.rpartition('_')[2]}"

    def _find_registries(self) -> Registries:
        registries = Registries(parse_place(self._here.registry), find_access(self._here))
        self._stack.push_async_callback(registries.close)
        return registries

    async def _make_builder(self, registries: Registries) -> Builder:
        sources, logs = RegistrySources(registries, self._home), RegistryLogs(registries)
        builder = RegistryBuilder(
            self._home, registries, sources, logs, self._here.base_image, dockerfiles=self._make_jobs(sources)
        )
        await asyncio.to_thread(builder.clean_leftovers)
        return builder

    def _make_jobs(self, sources: RegistrySources) -> BuildahJobs | None:
        """Return what builds Dockerfiles in the cluster; None if no image for that was named."""
        here = self._here
        if not here.build_image:
            return None
        settings = JobSettings(
            namespace=here.namespace,
            build_image=here.build_image,
            own_image=here.image,
            registry=here.registry,
            insecure=here.insecure_registry,
            secret=here.pull_secret,
        )
        self._jobs = BuildahJobs(self._client, settings, sources)
        return self._jobs

    async def _refresh(self) -> None:
        """Take over from a leader that may have died: read what it wrote last, end the Jobs it left."""
        await self._documents.refresh()
        if self._jobs is not None:
            try:
                await self._jobs.clean_leftovers()
            except KubeError as error:
                raise Unavailable(str(error)) from error

    async def _judge(self, app: App, routes: tuple[Route, ...]) -> Verdict:
        try:
            return Verdict(*await judge_app(self._store, self._here.domain, app, routes, self._engine))
        except EngineError as error:
            raise Unavailable(str(error)) from error

    async def _list_expected(self) -> list[str]:
        await self._documents.synced.wait()
        return await list_expected(self._store, utc_now())

    async def _tell_event(self, event: EventSpec, team: str) -> None:
        """Tell what every replica sees by itself: once is enough."""
        if self._election.leads:
            await record_event(
                self._store, about=event.about, reason=event.reason, message=event.message, app=event.app,
                team=team or None, by=event.by, at=event.at,
            )  # fmt: skip

    async def _tell(self, app: str, about: str, reason: str, message: str) -> None:
        document = await self._documents.get(App, app)
        await record_event(
            self._store, about=about, reason=reason, message=message, app=app, team=document.spec.team, by="seaway"
        )


def find_access(here: ClusterSettings) -> Access:
    """Return how the registry is reached. Its credentials may not be mounted yet: the file is read when asked for."""
    return Access(insecure=here.insecure_registry, credentials=Path(LOGIN_FOLDER, "config.json"))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
