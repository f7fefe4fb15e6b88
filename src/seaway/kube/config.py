"""Which cluster, and as whom: a kubeconfig file, or the service account of the pod this runs in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import yaml
from lightkube import KubeConfig, SingleConfig
from lightkube.config.models import NameValue
from lightkube.core.exceptions import ConfigError

from seaway.kube.errors import Misconfigured

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
HOME_CONFIG = Path("~/.kube/config")

_PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_EXEC = "client.authentication.k8s.io/"


def load_config(kubeconfig: Path | None = None, context: str | None = None) -> SingleConfig:
    """Return the cluster and user to talk as; raise Misconfigured.

    Taken in this order: `kubeconfig`; the files of $KUBECONFIG, merged as kubectl does; the service account of
    this pod; ~/.kube/config. `context` chooses one by name, otherwise current-context holds.
    """
    try:
        if kubeconfig is not None:
            found = _from_files([kubeconfig])
        elif named := [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]:
            found = _from_files(named)
        elif (SERVICE_ACCOUNT / "token").is_file():
            found = KubeConfig.from_service_account(SERVICE_ACCOUNT)
        else:
            found = _from_files([HOME_CONFIG])
        single = found.get(context)
    except (ConfigError, KeyError, TypeError, OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        detail = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise Misconfigured(
            f"cannot tell which cluster to use ({detail}): set KUBECONFIG or pass a kubeconfig"
        ) from error
    if single is None:
        raise Misconfigured("the kubeconfig names no current-context: kubectl config use-context NAME")
    return _with_exec_info(single)


def _from_files(paths: list[Path]) -> KubeConfig:
    """Merge kubeconfig files: of entries with one name the first counts; relative paths are made absolute."""
    merged: dict[str, Any] = {"clusters": [], "users": [], "contexts": []}
    there = [path.expanduser() for path in paths if path.expanduser().is_file()]
    if not there:
        raise ConfigError(f"there is no file {' or '.join(map(str, paths))}")
    for path in there:
        content = yaml.safe_load(path.read_text()) or {}
        merged.setdefault("current-context", content.get("current-context") or None)
        merged["current-context"] = merged["current-context"] or content.get("current-context")
        for kind, key in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            known = {entry["name"] for entry in merged[kind]}
            for entry in content.get(kind) or []:
                if entry["name"] not in known:
                    merged[kind].append({"name": entry["name"], key: _absolute(entry.get(key) or {}, path.parent)})
    return KubeConfig.from_dict(merged, fname=there[0])


def _absolute(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    return entry | {key: str(folder.absolute() / entry[key]) for key in _PATHS if entry.get(key)}


def _with_exec_info(config: SingleConfig) -> SingleConfig:
    """Tell credential plugins which version is spoken; lightkube knows v1beta1, and v1 answers in the same form."""
    plugin = config.user.exec if config.user else None
    if plugin is not None and plugin.apiVersion.startswith(_EXEC):
        info = {"apiVersion": plugin.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
        told = NameValue("KUBERNETES_EXEC_INFO", msgspec.json.encode(info).decode())
        plugin.env = [*(plugin.env or []), told]
        plugin.apiVersion = f"{_EXEC}v1beta1"
    return config
