"""cluster.toml: the machines of a cluster and what differs from Seaway's choices. Errors name the key."""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from seaway.model.base import Frozen

Role = Literal["etcd", "api", "controllers", "balancer"]
ALL_ROLES: tuple[Role, ...] = ("etcd", "api", "controllers", "balancer")
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
OLDEST_MINOR = 20

Port = Annotated[int, Field(ge=1, le=65535)]
MachineName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class ClusterError(Exception):
    """The cluster cannot be rendered or checked; the text names the key or file and what would be right."""


class Master(Frozen):
    """A machine of the control plane; it plays every part unless `roles` says otherwise."""

    name: MachineName
    address: IPv4Address
    roles: tuple[Role, ...] = ALL_ROLES


class Node(Frozen):
    """A machine that runs pods."""

    name: MachineName
    address: IPv4Address


class Api(Frozen):
    """Where the API is reached: the balancer's address and port, and the servers' own port behind it."""

    address: IPv4Address
    port: Port = 6443
    server_port: Port = 6444
    names: tuple[str, ...] = ()
    balancer: Literal["keepalived", "haproxy", "none"] = "keepalived"
    interface: str = "eth0"
    router_id: Annotated[int, Field(ge=1, le=255)] = 51


class Certificates(Frozen):
    """Days that certificates hold, and how long before their end a render replaces them."""

    ca_days: Annotated[int, Field(ge=30, le=7300)] = 3650
    days: Annotated[int, Field(ge=1, le=3650)] = 365
    renew_before: Annotated[int, Field(ge=0)] = 60

    @model_validator(mode="after")
    def _renewable(self) -> Certificates:
        if self.renew_before >= self.days:
            raise ValueError("renew_before has to be less than days, or every render would replace every certificate")
        return self


class Paths(Frozen):
    """Where things are on the machines; `{name}` stands for the machine's name."""

    root: str = ""
    programs: str = "/usr/local/bin"
    etcd: str = "/usr/bin/etcd"
    haproxy: str = "/usr/sbin/haproxy"


class Audit(Frozen):
    """How much of the audit log is kept, per API server."""

    max_age_days: Annotated[int, Field(ge=1)] = 30
    max_files: Annotated[int, Field(ge=1)] = 10
    max_megabytes: Annotated[int, Field(ge=1)] = 100


class Cluster(Frozen):
    """The whole file."""

    name: MachineName = "seaway"
    kubernetes: str
    domain: str = "cluster.local"
    pod_range: IPv4Network = IPv4Network("10.244.0.0/16")
    service_range: IPv4Network = IPv4Network("10.96.0.0/16")
    operators: Annotated[tuple[IPv4Network, ...], Field(min_length=1)]
    api: Api
    masters: Annotated[tuple[Master, ...], Field(min_length=1)]
    nodes: tuple[Node, ...] = ()
    certificates: Certificates = Certificates()
    paths: Paths = Paths()
    audit: Audit = Audit()
    flags: dict[str, dict[str, str | int | bool]] = {}
    kubelet: dict[str, Any] = {}
    proxy: dict[str, Any] = {}

    @field_validator("kubernetes")
    @classmethod
    def _version(cls, value: str) -> str:
        found = re.fullmatch(r"v?(1\.(\d+)\.\d+)", value)
        if not found or int(found[2]) < OLDEST_MINOR:
            raise ValueError(f"{value!r} is not a version from 1.{OLDEST_MINOR} on: write it in full, such as 1.20.2")
        return found[1]

    @field_validator("flags")
    @classmethod
    def _components(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in COMPONENTS:
                raise ValueError(f"there is no component {name!r}: it is one of {', '.join(COMPONENTS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Cluster:
        machines: list[Master | Node] = [*self.masters, *self.nodes]
        for kind, values in (("name", [m.name for m in machines]), ("address", [str(m.address) for m in machines])):
            doubled = next((value for value in values if values.count(value) > 1), None)
            if doubled:
                raise ValueError(f"masters and nodes: two machines have the {kind} {doubled}")
        for role in ("etcd", "api", "controllers"):
            if not self.with_role(role):
                raise ValueError(f"masters: none has the role {role!r}")
        if self.api.balancer != "none" and not self.with_role("balancer"):
            raise ValueError("masters: none has the role 'balancer'; give it to one, or set api.balancer = \"none\"")
        if len(self.with_role("etcd")) % 2 == 0:
            raise ValueError(
                f"masters: {len(self.with_role('etcd'))} members of etcd survive no more failures than "
                f"{len(self.with_role('etcd')) - 1}: use an odd number"
            )
        if self.api.balancer == "keepalived" and len(self.with_role("balancer")) < 2:
            raise ValueError(
                'api.balancer: keepalived needs two masters with the role "balancer"; use "haproxy" with one'
            )
        if self.pod_range.overlaps(self.service_range):
            raise ValueError(f"pod_range {self.pod_range} and service_range {self.service_range} overlap")
        return self._check_api_port()

    def _check_api_port(self) -> Cluster:
        beside = self.api.balancer != "none" and any("api" in m.roles for m in self.with_role("balancer"))
        if beside and self.api.port == self.api.server_port:
            raise ValueError(
                "api.server_port: balancer and API server share a machine, so it must differ from api.port"
            )
        return self

    @cached_property
    def minor(self) -> int:
        """The second number of the Kubernetes version."""
        return int(self.kubernetes.split(".")[1])

    @property
    def api_url(self) -> str:
        """Where everyone reaches the API."""
        return f"https://{self.api.address}:{self.api.port}"

    def with_role(self, role: Role) -> tuple[Master, ...]:
        """Return the masters that play a part, in the file's order."""
        return tuple(master for master in self.masters if role in master.roles)


def read_cluster(path: Path) -> Cluster:
    """Read cluster.toml; raises ClusterError naming the file or the key."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ClusterError(f"{path} cannot be read: {error.strerror}") from error
    return parse_cluster(text, str(path))


def parse_cluster(text: str, source: str = "cluster.toml") -> Cluster:
    """Read the text of a cluster.toml; raises ClusterError naming the key."""
    try:
        return Cluster.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"{source} is not TOML: {error}") from error
    except ValidationError as error:
        raise ClusterError("\n".join(f"{source}: {explain(problem)}" for problem in error.errors())) from error


def explain(problem: ErrorDetails) -> str:
    """Return one problem as `key: what is wrong`."""
    key = ""
    for part in problem["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "there is no such key"
    elif problem["type"] == "missing":
        message = "is missing"
    elif isinstance(problem["input"], str | int | float):
        message = f"{message} (it is {problem['input']!r})" if repr(problem["input"]) not in message else message
    return f"{key}: {message}" if key else message
