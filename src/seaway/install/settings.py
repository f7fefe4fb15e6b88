"""What `seaway install` is told, and what the parts in the cluster find in their environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from seaway.kube.names import NAMESPACE
from seaway.model import Host, Quotas, Seconds
from seaway.model.base import Networks

ENVIRONMENT_PREFIX = "SEAWAY_"
DATA_FOLDER = "/var/lib/seaway"
TLS_FOLDER = "/etc/seaway/tls"
LOGIN_FOLDER = f"{DATA_FOLDER}/registry"  # config.json there has the registry's credentials
API_PORT, XDS_PORT, HTTP_PORT, READY_PORT = 8700, 8701, 8080, 8081
PULL_SECRET = "seaway-registry"  # noqa: S105  # the name of the Secret that images are pulled with
XDS_SERVICE = "seaway-xds"
DRAIN_LIMIT = 60.0  # seconds for requests in flight when a router in a cluster stops
IDLE_LIMIT = 15.0  # seconds for connections without a request

Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Image = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]{0,500}$")]


class InstallSettings(Quotas):
    """How Seaway is put into a cluster."""

    namespace: Namespace = NAMESPACE
    image: Image  # of Seaway itself, by digest
    domain: Host = "localhost"
    control_replicas: int = Field(default=2, ge=1, le=9)
    routers: int = Field(default=2, ge=1, le=100)
    service_type: Literal["LoadBalancer", "NodePort"] = "LoadBalancer"
    node_port: int | None = Field(default=None, ge=1, le=65535)
    balancer_wait: Seconds = 10.0  # what the balancer needs to see that a router is not ready
    registry: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)?$")
    """host:port/path that images of apps are pushed to and pulled from."""
    base_image: Image | Literal[""] = ""  # what images of apps are built upon; in the registry
    build_image: Image | Literal[""] = ""  # what builds Dockerfiles: has buildah and a shell; "": none are built
    insecure_registry: bool = False  # plain HTTP
    trusted_proxies: Networks = ()  # balancers before the routers that are believed what they say of clients
    pull_secret: bool = False  # images are pulled with the Secret PULL_SECRET


class ClusterSettings(Quotas):
    """What one part in the cluster knows of where it is; from its environment."""

    namespace: str
    pod: str
    address: str
    domain: Host = "localhost"
    registry: str = ""
    base_image: str = ""
    image: str = ""  # Seaway's own
    build_image: str = ""
    insecure_registry: bool = False
    pull_secret: str = ""  # name of the Secret in its namespace, "" if there is none
    balancer_wait: Seconds = 10.0
    trusted_proxies: Networks = ()
    public_port: int = Field(default=80, ge=1, le=65535)  # where the world reaches apps
    control: str = ""  # HOST:PORT,... of the control plane, for routers that cannot ask the cluster
    tls_folder: str = TLS_FOLDER
    http_port: int = Field(default=HTTP_PORT, ge=1, le=65535)
    ready_port: int = Field(default=READY_PORT, ge=1, le=65535)
    api_port: int = Field(default=API_PORT, ge=1, le=65535)
    xds_port: int = Field(default=XDS_PORT, ge=1, le=65535)
    team_prefix: str = "seaway-"  # of teams' namespaces

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> ClusterSettings:
        """Read SEAWAY_NAMESPACE and so on; pydantic's error names what is missing."""
        given = {name: environment.get(f"{ENVIRONMENT_PREFIX}{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in given.items() if value is not None})

    @property
    def api_address(self) -> str:
        """Where the other replicas reach this one's API: host:port."""
        return f"[{self.address}]:{self.api_port}" if ":" in self.address else f"{self.address}:{self.api_port}"

    @property
    def bind(self) -> str:
        """All addresses of this pod, in the family of its own; outside of a pod (on loopback) its address alone."""
        if ipaddress.ip_address(self.address).is_loopback:
            return self.address
        return "::" if ":" in self.address else "0.0.0.0"  # noqa: S104  # the pod's network policy says who comes in


def is_in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this process is a part that `seaway install` put into a cluster."""
    return f"{ENVIRONMENT_PREFIX}NAMESPACE" in environment and f"{ENVIRONMENT_PREFIX}POD" in environment
