"""Kubernetes' strict schemas, each read once: kubernetes-validate reads some megabytes for every object."""

from __future__ import annotations

from functools import cache
from typing import Any

from kubernetes_validate import utils

utils.schema_contents = cache(utils.schema_contents)


def validate(manifest: dict[str, Any], version: str) -> None:
    """Raise ValidationError unless the manifest is valid, with nothing unknown in it, in a version of Kubernetes."""
    utils.validate(manifest, version, strict=True)
