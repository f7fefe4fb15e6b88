"""Seaway's own Secrets: the authority and certificates of its parts, the registry's credentials, the admin's token.

What is there and good stays as it is, to the byte. Nothing here is ever printed: `mask` is for that.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from lightkube.types import PatchType

from seaway.api.auth import ADMIN, hash_secret, is_platform_admin, make_secret, new_token
from seaway.install.applying import Change, apply, read
from seaway.install.errors import USAGE, InstallError
from seaway.install.manifests import CONTROL_TLS, ROUTER_TLS, Object, labels
from seaway.install.pki import Pair, ends_soon, issue, make_ca
from seaway.install.settings import PULL_SECRET, XDS_SERVICE
from seaway.kube.client import MANAGER, KubeClient
from seaway.kube.names import ADMIN_TOKEN, CONTROL
from seaway.model import Role, Token
from seaway.router.tls import ROUTER_NAME, SERVER_NAME
from seaway.store.kubernetes import KubernetesStore

CA = "seaway-ca"
TLS, DOCKER, OPAQUE = "kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "Opaque"
DOCKER_KEY = ".dockerconfigjson"
HIDDEN = "(hidden)"

Data = Mapping[str, bytes]


@dataclass(frozen=True)
class Part:
    """A part that shows a certificate: in which Secret, with which common name and names."""

    secret: str
    common: str
    names: tuple[str, ...] = ()


def list_parts(namespace: str) -> tuple[Part, ...]:
    """Return the parts of an installation."""
    hosts = tuple(f"{service}.{namespace}.svc" for service in (CONTROL, XDS_SERVICE))
    return (Part(CONTROL_TLS, SERVER_NAME, (SERVER_NAME, *hosts)), Part(ROUTER_TLS, ROUTER_NAME))


def make_secret_manifest(namespace: str, name: str, kind: str, data: Data) -> Object:
    """Return a Secret."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(name)},
        "type": kind,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def mask(secret: Object) -> Object:
    """Return a Secret as it may be shown."""
    shown = {key: value for key, value in secret.items() if key != "data"}
    return shown | {"stringData": dict.fromkeys(secret["data"], HIDDEN)}


def renew(found: Mapping[str, Data | None], namespace: str, now: datetime) -> dict[str, Data]:
    """Return what the authority's and the parts' Secrets are to hold: as found if that is good, else new.

    `found` has the Secrets by name, None for those that are not there.
    """
    old = found[CA]
    authority = _read_pair(old)
    if old is None or authority is None or ends_soon(authority.certificate, now):
        authority = make_ca(f"Seaway in {namespace}", now)
        # Certificates of the one before are taken until they end.
        bundle = authority.certificate + (old or {}).get("tls.crt", b"")
        old = {"tls.crt": bundle, "tls.key": authority.key}
    wanted: dict[str, Data] = {CA: old}
    for part in list_parts(namespace):
        data = found[part.secret]
        if data is None or data.get("ca.crt") != old["tls.crt"] or not _is_good(data, authority, part, now):
            pair = issue(authority, part.common, now, part.names)
            data = {"ca.crt": old["tls.crt"], "tls.crt": pair.certificate, "tls.key": pair.key}
        wanted[part.secret] = data
    return wanted


def _read_pair(data: Data | None) -> Pair | None:
    """Return certificate and key if they belong together."""
    if data is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(data["tls.crt"])
        key = serialization.load_pem_private_key(data["tls.key"], None)
    except (KeyError, ValueError, TypeError):
        return None
    return Pair(data["tls.crt"], data["tls.key"]) if key.public_key() == certificate.public_key() else None


def _is_good(data: Data, authority: Pair, part: Part, now: datetime) -> bool:
    if _read_pair(data) is None or ends_soon(data["tls.crt"], now):
        return False
    certificate = x509.load_pem_x509_certificate(data["tls.crt"])
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named = set(names.get_values_for_type(x509.DNSName))
    except (ValueError, TypeError, InvalidSignature):
        return False
    except x509.ExtensionNotFound:
        named = set()
    return set(part.names) <= named


async def read_secret_data(client: KubeClient, namespace: str, name: str) -> Data | None:
    """Return what a Secret holds, None if it is not there; what is no base64 counts as not there."""
    found = await read(client, f"/api/v1/namespaces/{namespace}/secrets/{name}")
    if found is None:
        return None
    try:
        return {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
    except binascii.Error:
        return None


async def plan_certificates(client: KubeClient, namespace: str, now: datetime) -> list[Object]:
    """Return the Secrets of authority and parts as they are to be."""
    wanted = renew(await _find_certificates(client, namespace), namespace, now)
    return [make_secret_manifest(namespace, name, TLS, data) for name, data in wanted.items()]


async def _find_certificates(client: KubeClient, namespace: str) -> dict[str, Data | None]:
    names = (CA, *(part.secret for part in list_parts(namespace)))
    return {name: await read_secret_data(client, namespace, name) for name in names}


async def renew_certificates(client: KubeClient, namespace: str, now: datetime) -> list[Change]:
    """Renew what ends soon or is not good; the parts take new files up by themselves. For the control plane.

    Only an installation makes an authority: where there is none nothing is done, and one that somebody deletes
    meanwhile does not come back.
    """
    found = await _find_certificates(client, namespace)
    if found[CA] is None:
        return []
    changes = []
    for name, data in renew(found, namespace, now).items():
        if data == found[name]:
            changes.append(Change("Secret", name, "unchanged", namespace=namespace))
        elif name == CA:
            changes.append(await _replace_authority(client, make_secret_manifest(namespace, CA, TLS, data)))
        else:
            changes.append(await apply(client, make_secret_manifest(namespace, name, TLS, data)))
    return changes


async def _replace_authority(client: KubeClient, manifest: Object) -> Change:
    """Change what is there; a merge, other than an apply, makes nothing. Raises NotFound."""
    body = {"data": manifest["data"]}
    await client.request(
        "PATCH", client.path_of(manifest), body=body, params={"fieldManager": MANAGER},
        content_type=PatchType.MERGE.value,
    )  # fmt: skip
    return Change("Secret", CA, "changed", namespace=manifest["metadata"]["namespace"])


def read_registry_login(file: Path, namespace: str) -> Object:
    """Return the Secret of a registry's credentials, from a file such as ~/.docker/config.json."""
    hint = "give a file as `docker login` writes it: ~/.docker/config.json"
    try:
        content = json.loads(file.read_bytes())
        hosts = content["auths"]
        usable = [host for host, entry in hosts.items() if entry.get("auth") or entry.get("username")]
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise InstallError(message, hint=hint, exit_code=USAGE, field="--pull-secret") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{file} holds no credentials of a registry"
        raise InstallError(message, hint=hint, exit_code=USAGE, field="--pull-secret") from error
    if not usable:
        message = f"{file} names no registry with credentials in it"
        hint = "a credential helper keeps them elsewhere: write a file with `auths` in it"
        raise InstallError(message, hint=hint, exit_code=USAGE, field="--pull-secret")
    kept = json.dumps({"auths": {host: hosts[host] for host in sorted(usable)}}, sort_keys=True).encode()
    return make_secret_manifest(namespace, PULL_SECRET, DOCKER, {DOCKER_KEY: kept})


async def ensure_admin_token(client: KubeClient, namespace: str, now: datetime) -> Change:
    """Make a token that may do everything, with its secret in a Secret, unless some admin's token is good.

    So a Secret that was deleted, or a token that was revoked, stays so. The Secret comes before the token: whoever
    is killed in between leaves one that the next run makes a token of.
    """
    store = KubernetesStore(client, namespace)
    tokens = (await store.list(Token)).documents
    secret = await read_admin_token(client, namespace)
    if any(is_platform_admin(token, now) for token in tokens):
        return Change(
            "Secret", ADMIN_TOKEN, "unchanged", "" if secret else "it was deleted, and an admin's token is good"
        )
    if not secret or any(token.spec.hash == hash_secret(secret) for token in tokens):  # the latter has expired
        secret = make_secret()
    data = {"token": secret.encode()}
    change = await apply(client, make_secret_manifest(namespace, ADMIN_TOKEN, OPAQUE, data))
    names = {token.name for token in tokens}
    name = next(name for name in (ADMIN, *(f"{ADMIN}-{n}" for n in range(2, len(names) + 3))) if name not in names)
    await store.create(new_token(name, secret, Role.ADMIN, team=None, created_by="seaway install"))
    return change


async def read_admin_token(client: KubeClient, namespace: str) -> str:
    """Return the admin token that was made here, or ""."""
    data = await read_secret_data(client, namespace, ADMIN_TOKEN)
    return (data or {}).get("token", b"").decode("ascii", "replace").strip()


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)
