"""How Seaway's documents are called in a cluster: group, plural names, columns of `kubectl get`."""

from __future__ import annotations

from dataclasses import dataclass

from seaway.model import App, Build, Document, Event, Release, Rollout, RouterRecord, Token

GROUP = "seaway.dev"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/teardown"
"""On every App: `kubectl delete app` waits until the control loop has taken down what the app has."""


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`; with `wide` only of `kubectl get -o wide`."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False


@dataclass(frozen=True)
class KubeKind:
    """One kind of custom resource. `has_status`: status is a subresource, written by the control loop alone."""

    document: type[Document]
    kind: str
    plural: str
    short: tuple[str, ...]
    has_status: bool
    columns: tuple[Column, ...]
    everyday: bool = True  # listed by `kubectl get seaway`

    @property
    def singular(self) -> str:
        """The kind in lower case."""
        return self.kind.lower()

    def path(self, namespace: str) -> str:
        """Return the URL path of the collection in a namespace."""
        return f"/apis/{API_VERSION}/namespaces/{namespace}/{self.plural}"


AGE = Column("Age", ".metadata.creationTimestamp", "date")
APP = Column("App", ".spec.app")
REASON = Column("Reason", ".status.reason")

KUBE_KINDS: dict[type[Document], KubeKind] = {
    kind.document: kind
    for kind in (
        KubeKind(
            App, "App", "apps", ("swapp",), True,
            (
                Column("Team", ".spec.team"),
                Column("State", ".status.state"),
                Column("Release", ".status.current", "integer"),
                REASON,
                Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status', wide=True),
                Column("Hosts", ".spec.routes[*].host", wide=True),
                AGE,
            ),
        ),
        KubeKind(
            Build, "Build", "builds", ("swbuild",), True,
            (APP, Column("State", ".status.state"), Column("Release", ".status.release", "integer"), REASON,
             Column("Image", ".status.image", wide=True), AGE),
        ),
        KubeKind(
            Release, "Release", "releases", ("swrel",), False,
            (APP, Column("Number", ".spec.number", "integer"), Column("Description", ".spec.description"),
             Column("By", ".spec.by"), Column("Image", ".spec.image", wide=True), AGE),
        ),
        KubeKind(
            Rollout, "Rollout", "rollouts", ("swroll",), True,
            (APP, Column("Target", ".spec.target", "integer"), Column("Phase", ".status.phase"), REASON,
             Column("Strategy", ".spec.strategy", wide=True), AGE),
        ),
        # "events" would read as Kubernetes' own; what differs from the document's name is only this.
        KubeKind(
            Event, "SeawayEvent", "seawayevents", ("swev",), False,
            (Column("About", ".spec.about"), Column("Reason", ".spec.reason"), Column("Message", ".spec.message"),
             Column("By", ".spec.by", wide=True), AGE),
            everyday=False,
        ),
        KubeKind(
            Token, "Token", "tokens", ("swtoken",), False,
            (Column("Role", ".spec.role"), Column("Team", ".spec.team"), Column("Expires", ".spec.expires_at", "date"),
             AGE),
            everyday=False,
        ),
        KubeKind(RouterRecord, "Router", "routers", ("swrouter",), False,
                 (Column("Seen", ".status.seen_at", "date"), AGE)),
    )
}  # fmt: skip
"""Every stored kind by its document class."""
