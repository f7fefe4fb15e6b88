"""The `cluster` fixture: a real Kubernetes, shared by the session's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.fixture import Cluster, given_cluster, own_cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster of SEAWAY_TEST_KUBECONFIG, or one that is started here and removed afterwards.

    Skips, saying why, where neither is possible.
    """
    given = given_cluster()
    if given is not None:
        yield given
        return
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with own_cluster() as made:
        yield made
