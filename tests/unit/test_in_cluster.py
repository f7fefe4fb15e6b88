"""What the composition root of a cluster makes of its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seaway import in_cluster
from seaway.install.settings import ClusterSettings
from seaway.registry.credentials import NOBODY, CredentialsFile


def test_credentials_count_from_when_they_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret may come to the pod after the process has started, and change."""
    monkeypatch.setattr(in_cluster, "LOGIN_FOLDER", str(tmp_path / "registry"))
    access = in_cluster.find_access(ClusterSettings(namespace="seaway-system", pod="control-0", address="10.0.0.1"))
    credentials = CredentialsFile(access.credentials)
    assert credentials.find("registry:5000") == NOBODY
    (tmp_path / "registry").mkdir()
    for user in ("ann", "bob"):
        login = {"auths": {"registry:5000": {"username": user, "password": "secret"}}}
        (tmp_path / "registry" / "config.json").write_text(json.dumps(login))
        assert credentials.find("registry:5000").user == user
