"""What Prometheus scrapes at /metrics: the platform, its routers and its apps, read at the time of the scrape.

Names follow the Prometheus conventions: a unit as suffix, `_total` for counters, labels for what varies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from seaway.disk import Disk
from seaway.model import App, InstanceState, Observation, Rollout
from seaway.router.base import RouterView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Snapshot(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def render(
    apps: Sequence[App],
    rollouts: Sequence[Rollout],
    observation: Observation | None,
    routers: Sequence[RouterView],
    disk: Disk,
    *,
    version: str,
) -> bytes:
    """Return the metrics in Prometheus' text format. `observation` None: the engine does not answer."""
    metrics = [
        _info("seaway_build_info", "Version of the control plane.", version),
        _single("seaway_engine_up", "Whether the engine answers.", float(observation is not None)),
        _single("seaway_disk_size_bytes", "Size of the file system of the control plane's home.", disk.size),
        _single("seaway_disk_free_bytes", "What is free of it.", disk.free),
        *_describe_apps(apps, rollouts),
        *_describe_routers(routers),
        *(_describe_instances(observation) if observation else ()),
    ]
    registry = CollectorRegistry()
    registry.register(_Snapshot(metrics))
    return generate_latest(registry)


def _info(name: str, text: str, version: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["version"])
    family.add_metric([version], 1)
    return family


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _describe_apps(apps: Sequence[App], rollouts: Sequence[Rollout]) -> list[Metric]:
    states = GaugeMetricFamily("seaway_app_state", "1 for the state an app is in.", labels=["app", "team", "state"])
    releases = GaugeMetricFamily("seaway_app_current_release", "Number of the release that serves.", labels=["app"])
    weights = GaugeMetricFamily("seaway_app_traffic_weight", "Share of traffic in percent.", labels=["app", "release"])
    for app in apps:
        states.add_metric([app.name, app.spec.team, app.status.state], 1)
        if app.status.current is not None:
            releases.add_metric([app.name], app.status.current)
        for number, weight in app.status.traffic.items():
            weights.add_metric([app.name, f"v{number}"], weight)
    phases = GaugeMetricFamily("seaway_rollouts", "Rollouts kept, by phase.", labels=["phase"])
    counts: dict[str, int] = {}
    for rollout in rollouts:
        counts[rollout.status.phase] = counts.get(rollout.status.phase, 0) + 1
    for phase, count in sorted(counts.items()):
        phases.add_metric([phase], count)
    return [states, releases, weights, phases]


def _describe_instances(observation: Observation) -> list[Metric]:
    labels = ["app", "release", "process", "instance"]
    ready = GaugeMetricFamily("seaway_instance_ready", "Whether the instance may take traffic.", labels=labels)
    restarts = CounterMetricFamily("seaway_instance_restarts", "Restarts of the instance.", labels=labels)
    cpu = GaugeMetricFamily("seaway_instance_cpu_cores", "Cores used lately, where that is measured.", labels=labels)
    memory = GaugeMetricFamily(
        "seaway_instance_memory_bytes", "Resident memory, where that is measured.", labels=labels
    )
    for instance in observation.instances:
        if instance.state is InstanceState.STOPPED:
            continue
        key = [instance.key.app, f"v{instance.key.release}", instance.key.process, instance.id]
        ready.add_metric(key, float(instance.serving))
        restarts.add_metric(key, instance.restarts)
        if instance.cpu is not None:
            cpu.add_metric(key, instance.cpu)
        if instance.memory is not None:
            memory.add_metric(key, instance.memory)
    nodes = GaugeMetricFamily("seaway_node_ready", "Whether the node is well.", labels=["node"])
    for node in observation.nodes:
        nodes.add_metric([node.name], float(node.ready))
    return [ready, restarts, cpu, memory, nodes]


def _describe_routers(routers: Sequence[RouterView]) -> list[Metric]:
    up = GaugeMetricFamily("seaway_router_up", "Whether the router is connected.", labels=["router"])
    seen = GaugeMetricFamily("seaway_router_seen_seconds", "Seconds since its last sign of life.", labels=["router"])
    refused = GaugeMetricFamily("seaway_router_refused_resources", "Resources Envoy refused.", labels=["router"])
    labels = ["router", "app", "release"]
    requests = CounterMetricFamily("seaway_router_requests", "Requests sent to instances.", labels=labels)
    errors = CounterMetricFamily("seaway_router_errors", "Requests that failed (5xx or broken).", labels=labels)
    active = GaugeMetricFamily("seaway_router_active_requests", "Requests in flight.", labels=labels)
    now = datetime.now(UTC)
    for view in routers:
        up.add_metric([view.name], float(view.connected))
        seen.add_metric([view.name], max(0.0, (now - view.seen_at).total_seconds()))
        refused.add_metric([view.name], len(view.rejected))
        for cluster, totals in view.totals.items():
            app, release = _split(cluster)
            requests.add_metric([view.name, app, release], totals.issued)
            errors.add_metric([view.name, app, release], totals.error)
        _add_active(active, view.name, view.active)
    return [up, seen, refused, requests, errors, active]


def _add_active(family: GaugeMetricFamily, router: str, active: Mapping[str, int]) -> None:
    for cluster, count in active.items():
        app, release = _split(cluster)
        family.add_metric([router, app, release], count)


def _split(cluster: str) -> tuple[str, str]:
    """Split an Envoy cluster's name (app:vN)."""
    app, _, release = cluster.rpartition(":")
    return app, release
