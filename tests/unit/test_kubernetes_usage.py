"""What the metrics API's answers mean."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from seaway.disk import Disk
from seaway.engine.kubernetes.objects import PodMetricsList
from seaway.engine.kubernetes.usage import Usage, read_usage
from seaway.metrics.collector import render
from seaway.model import Instance, InstanceState, Observation, WorkloadKey


def answer(**pods: list[dict[str, str]]) -> bytes:
    """Return the documented answer: of each pod, what its containers use."""
    items = [
        {
            "metadata": {
                "name": name, "namespace": "seaway-red", "creationTimestamp": "2026-01-01T00:00:30Z",
                "labels": {"app.kubernetes.io/managed-by": "seaway"},
            },
            "timestamp": "2026-01-01T00:00:15Z",
            "window": "15.024s",
            "containers": [{"name": f"c{n}", "usage": usage} for n, usage in enumerate(containers)],
        }
        for name, containers in pods.items()
    ]  # fmt: skip
    kind = {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}}
    return json.dumps(kind | {"items": items}).encode()


def read(body: bytes) -> dict[Any, Usage]:
    found = read_usage(msgspec.json.decode(body, type=PodMetricsList).items or ())
    return {name: usage for (_, name), usage in found.items()}


def test_quantities_in_every_unit_that_servers_write() -> None:
    """Cores to a thousandth, bytes; what a server leaves out is not known."""
    found = read(
        answer(
            nano=[{"cpu": "1234567n", "memory": "345Ki"}],
            micro=[{"cpu": "25600u", "memory": "12Mi"}],
            milli=[{"cpu": "12m", "memory": "1500k"}],
            whole=[{"cpu": "2", "memory": "1073741824"}],
            idle=[{"cpu": "0", "memory": "0"}],
            partly=[{"memory": "1Gi"}],
        )
    )
    assert found == {
        "nano": Usage(0.001, 353_280),
        "micro": Usage(0.026, 12_582_912),
        "milli": Usage(0.012, 1_500_000),
        "whole": Usage(2.0, 1_073_741_824),
        "idle": Usage(0.0, 0),
        "partly": Usage(None, 1_073_741_824),
    }


def test_containers_are_added_up() -> None:
    """A mesh may have put one of its own beside the app's; of a pod of which one is not measured nothing is known."""
    one, other = {"cpu": "100m", "memory": "10Mi"}, {"cpu": "20m", "memory": "5Mi"}
    found = read(answer(both=[one, other], half=[one, {"memory": "5Mi"}], none=[]))
    assert found == {"both": Usage(0.12, 15_728_640), "half": Usage(None, 15_728_640), "none": Usage(None, None)}


def test_nobody_is_measured() -> None:
    """Go writes null for an empty list."""
    assert read(b'{"kind":"PodMetricsList","metadata":{},"items":null}') == {}
    assert read(answer()) == {}


def test_prometheus_is_told_nothing_where_nothing_is_known() -> None:
    """A zero would be taken for an idle instance."""
    key = WorkloadKey(app="shop", release=1, process="web")
    plain = {"key": key, "node": "n", "state": InstanceState.RUNNING, "created_at": datetime(2026, 1, 1, tzinfo=UTC)}
    instances = (Instance(id="a", **plain), Instance(id="b", cpu=0.0, memory=7, **plain))
    text = render((), (), Observation(instances=instances), (), Disk(Path(), 1, 1), version="1").decode()
    lines = [line for line in text.splitlines() if line.startswith(("seaway_instance_cpu", "seaway_instance_memory"))]
    assert [line.partition("{")[0] for line in lines] == ["seaway_instance_cpu_cores", "seaway_instance_memory_bytes"]
    assert all('instance="b"' in line for line in lines)
