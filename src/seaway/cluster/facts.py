"""What `seaway cluster check` has seen of a live cluster. Values only; the judgement is in rules.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Kind = Literal["api", "balancer", "etcd", "controller-manager", "scheduler", "kubelet"]


@dataclass(frozen=True)
class Tls:
    """A server's side of a handshake. `problem`: why a strict client refuses it, or ""."""

    ends: datetime
    problem: str = ""
    old_protocols: tuple[str, ...] = ()


@dataclass(frozen=True)
class Server:
    """One server of the cluster as seen from here.

    `anonymous`: HTTP status of a request without credentials (0: refused before HTTP). `healthy`: what it says of
    itself, None if it was not asked. `plain`: whether it answers HTTP without TLS on its port.
    """

    kind: Kind
    name: str
    address: str  # HOST:PORT
    reachable: bool
    tls: Tls | None = None
    anonymous: int = 0
    healthy: bool | None = None
    plain: bool = False
    version: str = ""


@dataclass(frozen=True)
class OpenPort:
    """A port that answers without TLS or credentials and should not."""

    machine: str
    address: str
    what: str


@dataclass(frozen=True)
class Etcd:
    """The members as they see themselves; `leaders` holds every leader that a member names."""

    members: tuple[str, ...]
    learners: tuple[str, ...] = ()
    leaders: frozenset[str] = frozenset()
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class SecretsAtRest:
    """How many secrets lie in etcd, and which of the looked at are plain text."""

    looked_at: int
    plain: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node as the API tells of it."""

    name: str
    version: str
    ready: bool


@dataclass(frozen=True)
class Binding:
    """A role given to someone: `subject` is "group system:masters" or "service account NAMESPACE/NAME"."""

    name: str
    role: str
    subject: str


@dataclass(frozen=True)
class Stored:
    """A certificate or key on this machine; `ends` is None for a key."""

    path: str
    mode: int
    ends: datetime | None = None


@dataclass(frozen=True)
class Impersonated:
    """HTTP statuses of what somebody without rights, and a node, were allowed to do (as a dry run)."""

    nobody_lists_secrets: int
    node_lists_secrets: int
    node_makes_other_node: int


@dataclass(frozen=True)
class Facts:
    """Everything seen. What is None or empty could not be looked at; `unknown` says why and how it could be."""

    now: datetime
    servers: tuple[Server, ...] = ()
    open_ports: tuple[OpenPort, ...] = ()
    etcd: Etcd | None = None
    secrets: SecretsAtRest | None = None
    nodes: tuple[Node, ...] = ()
    bindings: tuple[Binding, ...] = ()
    default_pods: tuple[str, ...] = ()
    impersonated: Impersonated | None = None
    leases: Mapping[str, float] | None = None  # leader election: seconds since the holder last renewed
    flags: Mapping[str, Mapping[str, str]] | None = None  # of components that run as pods: "POD": {flag: value}
    stored: tuple[Stored, ...] = ()
    own_certificate_ends: datetime | None = None
    unknown: tuple[str, ...] = ()
