"""The fields of Kubernetes objects that Seaway reads, as msgspec structs: everything else is skipped while parsing.

All are frozen: caches share them. A struct for an object has `metadata: Metadata` (or a subclass with more fields)
and defaults for every other field: Kubernetes leaves out what is empty. `rename="camel"` gives the fields
their names on the wire. `gc=False` and tuples in place of lists: 10,000 pods are half a million objects through which
the garbage collector would go again and again, for 0.2 s at a time, and none of them can be part of a cycle.
"""

from __future__ import annotations

import msgspec


class Owner(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One entry of metadata.ownerReferences."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """The usual fields of metadata. `resource_version` is the version of this object in the cluster's history."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    owner_references: tuple[Owner, ...] = ()
    finalizers: tuple[str, ...] = ()


class Object(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """Any object, of which only the metadata matters; also the base of structs with more."""

    metadata: Metadata


class ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """metadata of a list: its resource version, and the token for the next page if there is one."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
