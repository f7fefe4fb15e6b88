"""What the metrics API says that pods use. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seaway.engine.kubernetes.objects import PodMetrics
from seaway.engine.kubernetes.reasons import parse_quantity
from seaway.kube.cache import Key


@dataclass(frozen=True)
class Usage:
    """What an instance uses: cores, averaged over the last interval, and bytes of its working set; None: unknown."""

    cpu: float | None = None
    memory: int | None = None


UNKNOWN = Usage()


def read_usage(items: Iterable[PodMetrics]) -> dict[Key, Usage]:
    """Return what each pod uses: the sum of its containers, as `kubectl top pods` has it."""
    return {(item.metadata.namespace, item.metadata.name): _measure(item) for item in items}


def _measure(item: PodMetrics) -> Usage:
    cpu, memory = _add(item, "cpu"), _add(item, "memory")
    return Usage(None if cpu is None else round(cpu, 3), None if memory is None else round(memory))


def _add(item: PodMetrics, resource: str) -> float | None:
    """Return the sum of a resource; None if a container lacks it: a part would be mistaken for the whole."""
    amounts = [container.usage.get(resource) for container in item.containers]
    known = [parse_quantity(amount) for amount in amounts if amount is not None]
    return sum(known) if amounts and len(known) == len(amounts) else None
