"""What `seaway install` is told, and what the parts in the cluster find in their environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from seaway.model import Frozen, Host

ENVIRONMENT_PREFIX = "SEAWAY_"
DATA_FOLDER = "/var/lib/seaway"
TLS_FOLDER = "/etc/seaway/tls"
API_PORT, XDS_PORT, HTTP_PORT, READY_PORT = 8700, 8701, 8080, 8081


class InstallSettings(Frozen):
    """How Seaway is put into a cluster."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] = "seaway-system"
    image: str  # of Seaway itself, by digest
    domain: Host = "localhost"
    control_replicas: int = Field(default=2, ge=1, le=9)
    routers: int = Field(default=2, ge=1, le=100)
    service_type: Literal["LoadBalancer", "NodePort"] = "LoadBalancer"
    node_port: int | None = Field(default=None, ge=1, le=65535)
    registry: str = ""  # host:port/path that images of apps are pushed to and pulled from
    base_image: str = ""  # what images of apps are built upon; in the registry
    insecure_registry: bool = False  # plain HTTP


class ClusterSettings(Frozen):
    """What one part in the cluster knows of where it is; from its environment."""

    namespace: str
    pod: str
    address: str
    domain: Host = "localhost"
    registry: str = ""
    base_image: str = ""
    insecure_registry: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> ClusterSettings:
        """Read SEAWAY_NAMESPACE and so on; pydantic's error names what is missing."""
        given = {name: environment.get(f"{ENVIRONMENT_PREFIX}{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in given.items() if value is not None})
