"""Reads a kubeconfig: where the API is, whom to trust, who we are."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from seaway.cluster.config import ClusterError


@dataclass(frozen=True)
class Access:
    """A way to a server: PEM texts, "" where there is none."""

    server: str
    authority: str
    certificate: str = ""
    key: str = ""
    token: str = ""

    def context(self, *, anonymous: bool = False, verify: bool = True) -> ssl.SSLContext:
        """Return a TLS context, with our certificate unless `anonymous`; raises ClusterError if it is no pair."""
        context = ssl.create_default_context(cadata=self.authority or None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate and not anonymous:
            load_pair(context, self.certificate, self.key)
        return context

    def headers(self) -> dict[str, str]:
        """Return what proves who we are beside the certificate."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Give a context a certificate and key; the ssl module takes them from a file only, which is gone at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # made 0600
        file.write(f"{certificate}\n{key}")
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise ClusterError(f"the client certificate and its key do not work: {error.reason}") from error


def find_kubeconfig(given: Path | None) -> Path:
    """Return the kubeconfig to use: the one given, KUBECONFIG's first, or ~/.kube/config."""
    named = os.environ.get("KUBECONFIG", "").split(":")[0]
    return given or (Path(named) if named else Path.home() / ".kube" / "config")


def read_kubeconfig(path: Path) -> Access:
    """Return the way of the current context; raises ClusterError naming the file and the key."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ClusterError(f"{path} cannot be read ({error.strerror}): name a kubeconfig by --kubeconfig") from error
    except yaml.YAMLError as error:
        raise ClusterError(f"{path} is not YAML") from error
    if not isinstance(document, dict):
        raise ClusterError(f"{path} is not a kubeconfig")
    context = pick(path, document, "contexts", "context", str(document.get("current-context", "")))
    cluster = pick(path, document, "clusters", "cluster", str(context.get("cluster", "")))
    user = pick(path, document, "users", "user", str(context.get("user", "")))
    if "exec" in user or "auth-provider" in user:
        raise ClusterError(f"{path}: its user logs in by another program; use a kubeconfig with a certificate or token")
    server = str(cluster.get("server", ""))
    if not server.startswith("https://"):
        raise ClusterError(f"{path}: clusters[].cluster.server is {server!r}, not an https:// address")
    token = str(user.get("token", "")) or read_if(path, user.get("tokenFile"))
    return Access(
        server.rstrip("/"),
        pem_of(path, cluster, "certificate-authority"),
        pem_of(path, user, "client-certificate"),
        pem_of(path, user, "client-key"),
        token.strip(),
    )


def pick(path: Path, document: dict[str, Any], items: str, item: str, name: str) -> dict[str, Any]:
    """Return the entry of a name; raises ClusterError if there is none."""
    for entry in document.get(items) or []:
        if entry.get("name") == name:
            return dict(entry.get(item) or {})
    raise ClusterError(f"{path}: {items} has no entry named {name!r}")


def pem_of(path: Path, entry: dict[str, Any], key: str) -> str:
    """Return a PEM text that is given as base64 or as a file's name relative to the kubeconfig."""
    data = entry.get(f"{key}-data")
    if not data:
        return read_if(path, entry.get(key))
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise ClusterError(f"{path}: {key}-data is not base64") from error


def read_if(path: Path, name: object) -> str:
    """Return a named file's text, or "" for no name."""
    if not name:
        return ""
    try:
        return (path.parent / str(name)).read_text()
    except OSError as error:
        raise ClusterError(f"{path}: {name} cannot be read: {error.strerror}") from error
