"""Which cluster: kubeconfig files, in the order and with the errors of kubectl."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from seaway.kube.client import KubeClient
from seaway.kube.config import load_config
from seaway.kube.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Gone,
    Invalid,
    Misconfigured,
    NotFound,
    Status,
    Unavailable,
    error_of,
    parse_status,
)


def write(path: Path, name: str, *, current: bool = True, **user: Any) -> Path:
    content = {
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443", "certificate-authority": "ca.crt"}}],
        "users": [{"name": name, "user": user or {"token": "t"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content | ({"current-context": name} if current else {})))
    return path


def test_one_file(tmp_path: Path) -> None:
    """Relative paths in it are relative to it."""
    config = load_config(write(tmp_path / "a", "one"))
    assert config.cluster.server == "https://one:6443"
    assert config.cluster.certificate_auth == str(tmp_path / "ca.crt")
    assert config.namespace == "ns-one"


def test_several_files_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first current-context counts; contexts of all files can be chosen; missing files are passed over."""
    files = [tmp_path / "missing", write(tmp_path / "a", "one"), write(tmp_path / "b", "two")]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
    assert load_config().context_name == "one"
    assert load_config(context="two").cluster.server == "https://two:6443"


def test_explicit_file_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write(tmp_path / "a", "one")))
    assert load_config(write(tmp_path / "b", "two")).context_name == "two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "current context"),
        ("clusters: [", "cannot tell which cluster"),
        ("current-context: x", "Context 'x' not found"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: y}}]", "no entry 'y'"),
        ("contexts: [{context: {}}]", "no entry 'name'"),
    ],
)
def test_bad_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """In one sentence, with what to do."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(Misconfigured, match=message) as caught:
        load_config(path)
    assert "KUBECONFIG" in str(caught.value) or "use-context" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there is no file"):
        load_config(tmp_path / "nothing")


def test_missing_certificate(tmp_path: Path) -> None:
    """Found when the client is made, not at the first call."""
    with pytest.raises(Misconfigured, match="certificates or user"):
        KubeClient(load_config(write(tmp_path / "a", "one")))


def test_credential_plugin_of_any_version(tmp_path: Path) -> None:
    """The plugin is told the version that the file names."""
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "plugin"}
    config = load_config(write(tmp_path / "a", "one", exec=plugin))
    assert config.user is not None
    assert config.user.exec is not None
    assert config.user.exec.apiVersion == "client.authentication.k8s.io/v1beta1"
    (told,) = config.user.exec.env or []
    assert told.name == "KUBERNETES_EXEC_INFO"
    assert '"client.authentication.k8s.io/v1"' in told.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status("x", "NotFound", 404), NotFound), (Status("x", "AlreadyExists", 409), AlreadyExists),
        (Status("x", "Conflict", 409), Conflict), (Status("x", "Expired", 410), Gone),
        (Status("x", "Forbidden", 403), Denied), (Status("x", "Invalid", 422), Invalid),
        (Status("x", "TooManyRequests", 429), Unavailable), (Status("x", "InternalError", 500), Unavailable),
        (Status("x", "Timeout", 504), Unavailable),
    ],
)  # fmt: skip
def test_errors_by_kind(status: Status, kind: type[Exception]) -> None:
    error = error_of(status, "GET /x")
    assert type(error) is kind
    assert str(error) == "GET /x: x"


def test_a_balancers_page_is_an_error_too() -> None:
    """Not everything between here and the API server speaks Status."""
    status = parse_status(503, b"<html>\nno server is available")
    assert error_of(status, "GET /x").args[0] == "GET /x: HTTP 503 <html>"
    assert isinstance(error_of(parse_status(502, b""), "GET /x"), Unavailable)
