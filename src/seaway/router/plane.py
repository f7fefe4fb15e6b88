"""The control plane's end of xDS: serves routers over a unix socket and knows what each of them has."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import structlog

from seaway.router.base import RequestTotals, ResourceKey, RouterView
from seaway.router.catalog import Resource
from seaway.router.draining import RouteCatalog
from seaway.router.envoy import CLUSTER, ENDPOINTS, SCOPE, find_blind_time, translate_app, translate_host
from seaway.router.links import ROUTER_HEADER
from seaway.router.serving import GRPC_OPTIONS, Context, SessionStream, ads_handler, report_handler
from seaway.router.table import AppTable, build_hosts
from seaway.router.tls import is_router, make_server_credentials
from seaway.router.xds import Session

log = structlog.get_logger("seaway.router")

SECRET_FILE = "router.secret"  # noqa: S105  # the name of the file
_HOST_OWNER = "host "


def read_secret(root: Path) -> str:
    """Return the secret that routers show to the control plane; make it (mode 0600) if there is none."""
    path = root / SECRET_FILE
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        temporary = root / f".{SECRET_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_urlsafe(32))
        try:
            os.link(temporary, path)  # unlike a rename, never replaces one made meanwhile
        except FileExistsError:
            log.debug("somebody else made the router secret meanwhile")
        finally:
            temporary.unlink()
        return path.read_text().strip()


@dataclass
class _Router:
    """What is known of one router; the mappings are handed out as live read-only views."""

    seen_at: datetime
    reports: object | None = None  # its report stream
    ready: bool = False
    rejected: dict[ResourceKey, str] = field(default_factory=dict)
    healthy: dict[str, frozenset[str]] = field(default_factory=dict)
    active: dict[str, int] = field(default_factory=dict)
    busy: dict[str, dict[str, int]] = field(default_factory=dict)
    totals: dict[str, RequestTotals] = field(default_factory=dict)
    active_at: datetime | None = None
    acked: dict[ResourceKey, str] = field(default_factory=dict)

    def view(self, name: str) -> RouterView:
        return RouterView(
            name=name,
            connected=self.reports is not None and self.ready,
            seen_at=self.seen_at,
            acked=MappingProxyType(self.acked),
            rejected=MappingProxyType(self.rejected),
            healthy=MappingProxyType(self.healthy),
            active=MappingProxyType(self.active),
            active_at=self.active_at,
            busy=MappingProxyType(self.busy),
            totals=MappingProxyType(self.totals),
        )


class XdsPlane:
    """Implements `RouterPlane`.

    Publish every app (`set_app`) before `open`: until then routers are told nothing and go on with their last
    good resources; from then on what is not published is gone, but for apps that are held (`hold`). All methods
    belong to one event loop.
    """

    def __init__(self) -> None:
        self._catalog = RouteCatalog(is_open=False, holds=self._holds)
        self._held: set[str] = set()  # apps that are there, but could not be published yet
        self._gone: set[ResourceKey] = set()  # hosts taken back while something is held: these are to go
        self._owned: dict[str, dict[ResourceKey, str]] = {}  # owner -> its keys and their versions
        self._owners: dict[ResourceKey, str] = {}
        self._former: dict[ResourceKey, str] = {}  # removed keys that some router still has, and who had them
        self._tables: dict[str, AppTable] = {}
        self._hosts: dict[str, dict[str, None]] = {}  # host -> apps with rules there
        self._draining: set[str] = set()  # apps whose in-flight counts somebody waits for
        self._routers: dict[str, _Router] = {}
        self._watchers: set[_Watcher] = set()
        self._server: grpc.aio.Server | None = None
        self._secret = ""
        self._turned = asyncio.Event()
        self._leads = False

    async def start(self, socket: Path, secret: str, tls: tuple[str, Path] | None = None) -> None:
        """Listen on a unix socket; only routers that show `secret` are served.

        With `tls`, an address ("ip:port") and a folder of certificates (see `seaway.router.tls`), listen there too
        for routers of other machines; those show a certificate instead.
        """
        self._secret = secret
        self._server = grpc.aio.server(options=GRPC_OPTIONS)
        self._server.add_generic_rpc_handlers((ads_handler(self._serve_ads), report_handler(self._serve_reports)))
        self._server.add_insecure_port(f"unix:{socket}")
        if tls:
            self._server.add_secure_port(tls[0], make_server_credentials(tls[1]))
        await self._server.start()
        socket.chmod(0o600)

    def open(self) -> None:
        """Begin to serve: everything is published."""
        self._catalog.open()
        self._turn()

    def lead(self, leads: bool) -> None:
        """Say whether this replica of the control plane acts: routers take their resources from the one that does."""
        self._leads = leads
        self._turn()

    def hold(self, apps: Iterable[str]) -> None:
        """Name the apps that are there but cannot be published: routers keep what they have of them meanwhile."""
        self._held = set(apps) - self._tables.keys()
        self._catalog.poke()

    def _holds(self, key: ResourceKey) -> bool:
        if not self._held:
            return False
        if key[0] == SCOPE:  # nobody knows which hosts those apps have
            return key not in self._gone
        return key[1].rpartition(":")[0] in self._held

    def _let_go(self, app: str) -> None:
        if app in self._held:
            self._held.discard(app)
            if not self._held:
                self._gone.clear()
            self._catalog.poke()

    def close(self) -> None:
        """Serve nothing: what is published may be out of date. Routers go to another replica if there is one."""
        self._catalog.is_open = False
        self._turn()

    async def stop(self) -> None:
        """Close all streams; routers go on by themselves."""
        if self._server:
            await self._server.stop(grace=None)
            self._server = None

    def set_app(self, table: AppTable) -> None:
        """Publish an app: its clusters and endpoints, and the hosts it has rules at; unchanged ones cost little."""
        before = self._tables.get(table.app)
        if before == table:
            return
        self._tables[table.app] = table
        self._note_draining(table)
        self._put(table.app, translate_app(table))
        rules = (table.routes, table.target)
        if before is None or (before.routes, before.target) != rules:
            for host in table.hosts:
                self._hosts.setdefault(host, {})[table.app] = None
            gone = (before.hosts if before else frozenset()) - table.hosts
            self._leave_hosts(table.app, gone)
            self._publish_hosts(table.hosts | gone, table.app)
        self._let_go(table.app)

    def remove_app(self, app: str) -> None:
        """Take back everything of an app."""
        table = self._tables.pop(app, None)
        self._draining.discard(app)
        if table:
            self._leave_hosts(app, table.hosts)
            self._publish_hosts(table.hosts, app)
        self._put(app, {})
        self._let_go(app)

    def app_versions(self, app: str) -> Mapping[ResourceKey, str]:
        """Return the version of every resource the app needs: its own and the hosts it shares."""
        versions = dict(self._owned.get(app, {}))
        table = self._tables.get(app)
        for host in table.hosts if table else ():
            versions.update(self._owned.get(_HOST_OWNER + host, {}))
        return versions

    def blind_time(self, cluster: str) -> float:
        """Return for how many seconds at most a dead endpoint of the cluster still looks healthy to routers."""
        table = self._tables.get(cluster.rpartition(":")[0])
        backends = table.backends if table else ()
        return max((find_blind_time(b.check) for b in backends if b.cluster == cluster), default=float("inf"))

    def apps(self) -> frozenset[str]:
        """Return the names of all apps published."""
        return frozenset(self._tables)

    def publish(self, owner: str, resources: Mapping[ResourceKey, bytes]) -> Mapping[ResourceKey, str]:
        """Make `resources` all that `owner` has; return the version of each. Unchanged ones are not sent again."""
        return self._put(owner, resources)

    def _put(self, owner: str, resources: Mapping[ResourceKey, bytes], cause: str = "") -> Mapping[ResourceKey, str]:
        packed = {key: Resource.pack(key, body) for key, body in resources.items()}
        for key in packed:
            if self._owners.get(key, owner) != owner:
                raise ValueError(f"{key[1]} of {key[0]} is published by {self._owners[key]}, not by {owner}")
        removals = self._owned.get(owner, {}).keys() - packed.keys()
        for key in removals:
            del self._owners[key]
            if self._held:
                self._gone.add(key)
            if any(key in router.acked for router in self._routers.values()):
                self._former[key] = cause or owner
        for key in packed:
            self._former.pop(key, None)
        self._owners.update(dict.fromkeys(packed, owner))
        versions = {key: resource.version for key, resource in packed.items()}
        if versions:
            self._owned[owner] = versions
        else:
            self._owned.pop(owner, None)
        self._catalog.apply(packed, removals)
        return versions

    def _leave_hosts(self, app: str, hosts: Iterable[str]) -> None:
        for host in hosts:
            apps = self._hosts[host]
            apps.pop(app, None)
            if not apps:
                del self._hosts[host]

    def _publish_hosts(self, hosts: Collection[str], cause: str) -> None:
        for host in hosts:
            rules = build_hosts((self._tables[app] for app in self._hosts.get(host, ())), (host,)).get(host)
            self._put(_HOST_OWNER + host, translate_host(host, rules) if rules else {}, cause)

    def _note_draining(self, table: AppTable) -> None:
        if any(endpoint.draining for backend in table.backends for endpoint in backend.endpoints):
            self._draining.add(table.app)
        else:
            self._draining.discard(table.app)

    def views(self) -> tuple[RouterView, ...]:
        """Return every router that is or was connected, by name."""
        return tuple(router.view(name) for name, router in sorted(self._routers.items()))

    def watch(self) -> AsyncIterator[str]:
        """Yield an owner whenever what routers know of it changed ("" for routers coming and going)."""
        watcher = _Watcher()
        self._watchers.add(watcher)
        return self._follow(watcher)

    async def _follow(self, watcher: _Watcher) -> AsyncIterator[str]:
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)

    def _tell(self, owners: Iterable[str]) -> None:
        if self._watchers:
            owners = tuple(owners)
            for watcher in self._watchers:
                watcher.add(owners)

    def _find_owners(self, keys: Iterable[ResourceKey]) -> Iterable[str]:
        for key in keys:
            owner = self._owners.get(key, "")
            if owner.startswith(_HOST_OWNER):
                yield from self._hosts.get(key[1], ())
            elif owner or (owner := self._former.get(key, "")):
                yield owner

    async def _authenticate(self, context: Context) -> str:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        shown, wanted = metadata.get("authorization", "").encode(), f"Bearer {self._secret}".encode()
        if not is_router(context.auth_context()) and not hmac.compare_digest(shown, wanted):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"wrong secret: read it from {SECRET_FILE}")
        name = metadata.get(ROUTER_HEADER, "")
        if not name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"metadata {ROUTER_HEADER} is missing")
        return name

    async def _serve_ads(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Send resources; what becomes of them comes with the router's reports, wherever it gets them from."""
        name = await self._authenticate(context)
        log.info("router takes its routes here", router=name)
        session = Session(self._catalog, may_send=self._catalog.allows)
        await SessionStream(session, self._catalog).run(requests, context)

    async def _serve_reports(self, requests: AsyncIterator[Any], context: Context) -> None:
        name = await self._authenticate(context)
        router = self._routers.setdefault(name, _Router(seen_at=datetime.now(UTC)))
        mine = router.reports = object()
        for known in (router.acked, router.rejected, router.healthy, router.totals):
            known.clear()  # the first message has everything
        log.info("router connected", router=name)
        self._tell(("",))
        speaking = asyncio.create_task(self._tell_open(context))
        try:
            async for data in requests:
                if router.reports is mine:
                    self._take_report(router, json.loads(data))
        finally:
            speaking.cancel()
            if router.reports is mine:  # else a newer stream of the same router took over
                router.reports, router.ready = None, False
                router.seen_at = datetime.now(UTC)
                log.info("router gone", router=name)
                self._tell(("",))

    async def _tell_open(self, context: Context) -> None:
        """Tell a router whether its resources can be had here, and had best be, now and whenever that changes."""
        said: dict[str, bool] = {}
        while True:
            turned = self._turned
            now = {"open": self._catalog.is_open, "leads": self._leads}
            if said != now:
                said = now
                await context.write(json.dumps(now).encode())
            await turned.wait()

    def _turn(self) -> None:
        self._turned.set()
        self._turned = asyncio.Event()

    def _take_report(self, router: _Router, report: dict[str, Any]) -> None:
        """Take in one report; its fields are described in `seaway.router.reports`."""
        router.seen_at = datetime.now(UTC)
        if "ready" in report and report["ready"] != router.ready:
            router.ready = report["ready"]
            self._tell(("",))
        keys = {*_update(router.acked, report.get("acked", {})), *_update(router.rejected, report.get("rejected", {}))}
        self._tell(self._find_owners(keys))
        for key in self._former.keys() & keys:
            if not any(key in other.acked for other in self._routers.values()):
                del self._former[key]
        clusters = report.get("healthy", {})
        for cluster, addresses in clusters.items():
            if addresses:
                router.healthy[cluster] = frozenset(addresses)
            else:
                router.healthy.pop(cluster, None)
        self._tell(self._find_owners((CLUSTER, cluster) for cluster in clusters))
        for cluster in report.get("forgotten", ()):
            router.totals.pop(cluster, None)
        for cluster, (issued, ok, error) in report.get("totals", {}).items():
            router.totals[cluster] = RequestTotals(issued, ok, error)
        if "busy" in report:
            router.busy = report["busy"]
            router.active = {cluster: sum(counts.values()) for cluster, counts in router.busy.items()}
            router.active_at = datetime.fromisoformat(report["at"])
            self._tell(self._draining)


def _update(known: dict[ResourceKey, str], news: Mapping[str, Mapping[str, str | None]]) -> Iterator[ResourceKey]:
    """Write news (type URL -> name -> value, None: gone) into what is known; yield the keys."""
    for kind, names in news.items():
        for name, value in names.items():
            if value is None:
                known.pop((kind, name), None)
            else:
                known[kind, name] = value
            yield kind, name


class _Watcher:
    """Collects owners until somebody takes them; each is yielded once however often it was added."""

    def __init__(self) -> None:
        self._owners: dict[str, None] = {}
        self._wake = asyncio.Event()

    def add(self, owners: Iterable[str]) -> None:
        self._owners.update(dict.fromkeys(owners))
        if self._owners:
            self._wake.set()

    async def next(self) -> str:
        while not self._owners:
            self._wake.clear()
            await self._wake.wait()
        owner = next(iter(self._owners))
        del self._owners[owner]
        return owner


__all__ = ["CLUSTER", "ENDPOINTS", "SCOPE", "XdsPlane", "read_secret"]
