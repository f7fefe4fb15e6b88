"""CustomResourceDefinitions, generated from the model: structural schemas for Kubernetes 1.20 and everything since.

JSON Schema as pydantic writes it becomes what the API server accepts: references are put in place, "or null" becomes
`nullable`, keywords that Kubernetes does not know are left out, and the rules of names, hosts and paths, which the
model checks in code, are said as patterns of RE2 (no look-ahead).
"""

from __future__ import annotations

from typing import Any

from seaway.kube.kinds import GROUP, KUBE_KINDS, VERSION, Column, KubeKind
from seaway.model import App

Schema = dict[str, Any]

LABELS = {"app.kubernetes.io/name": "seaway", "app.kubernetes.io/part-of": "seaway"}

NAME = {"pattern": "^[a-z]([a-z0-9]|-[a-z0-9])*$", "maxLength": 30}
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST = {"pattern": rf"^{_LABEL}(\.{_LABEL})*\.?$", "maxLength": 253}
PATH = {"pattern": r"^/$|^(/[^/?#* \t\r\n]+)+/?$", "maxLength": 1024}
RULES: dict[tuple[str, str], Schema] = {
    ("AppSpec", "team"): NAME, ("Route", "host"): HOST, ("Route", "path"): PATH, ("Check", "http"): PATH,
}  # fmt: skip
"""What the model checks in code, by class and field."""

KEPT = frozenset({"type", "description", "enum", "pattern", "format", "minLength", "maxLength", "minItems", "maxItems",
                  "minimum", "maximum", "required"})  # fmt: skip

CONDITIONS: Schema = {
    "type": "array",
    "description": "Accepted: whether Seaway can work with what spec says, and if not, why.",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string"},
            "message": {"type": "string"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        },
    },
}


def make_crds() -> list[Schema]:
    """Return the manifests of all kinds."""
    return [make_crd(kind) for kind in KUBE_KINDS.values()]


def make_crd(kind: KubeKind) -> Schema:
    """Return the manifest of one kind."""
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": make_schema(kind)},
        "additionalPrinterColumns": [_make_column(column) for column in kind.columns],
    }
    if kind.has_status:
        version["subresources"] = {"status": {}}
    names: Schema = {"kind": kind.kind, "listKind": f"{kind.kind}List", "plural": kind.plural,
                     "singular": kind.singular, "shortNames": list(kind.short)}  # fmt: skip
    if kind.everyday:
        names["categories"] = ["seaway"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": LABELS},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def make_schema(kind: KubeKind) -> Schema:
    """Return the structural schema of one kind: its spec and status, with defaults in the spec of what users write."""
    model = kind.document.model_json_schema()
    defs = model.get("$defs", {})
    properties: Schema = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    written = kind.document is App
    if written:
        properties["metadata"]["properties"] = {"name": {"type": "string", **NAME}}
    for part in ("spec", "status"):
        if part in model["properties"]:
            properties[part] = _convert(model["properties"][part], defs, defaults=written and part == "spec")
    if kind.kind == "Release":
        del properties["spec"]["properties"]["config"]
        properties["spec"]["properties"]["config_secret"] = {
            "type": "string", "description": "The Secret that holds the release's config.",
        }  # fmt: skip
    if written:
        properties["spec"]["default"] = {}
        properties["status"]["properties"]["conditions"] = CONDITIONS
    required = [part for part in ("spec",) if part in model.get("required", [])]
    schema: Schema = {"type": "object", "description": model.get("description", ""), "properties": properties}
    return schema | ({"required": required} if required else {})


def _convert(schema: Schema, defs: Schema, *, defaults: bool) -> Schema:
    """Return a schema as Kubernetes takes it; with `defaults` the API server fills them in."""
    found: Schema = {}
    owner = ""
    if reference := schema.get("$ref"):
        owner = reference.rpartition("/")[2]
        found = _convert_fields(defs[owner], defs, owner, defaults=defaults)
    elif either := schema.get("anyOf"):
        found = _convert_either(either, defs, defaults=defaults)
    else:
        found = _convert_fields(schema, defs, "", defaults=defaults)
    if "description" in schema:
        found["description"] = schema["description"]
    if defaults and schema.get("default") is not None:
        found["default"] = {} if isinstance(schema["default"], dict) else schema["default"]
    return found


def _convert_either(either: list[Schema], defs: Schema, *, defaults: bool) -> Schema:
    """Convert "X or null"; the model has no other choices."""
    (one,) = (option for option in either if option.get("type") != "null")
    return _convert(one, defs, defaults=defaults) | {"nullable": True}


def _convert_fields(schema: Schema, defs: Schema, owner: str, *, defaults: bool) -> Schema:
    found = {key: value for key, value in schema.items() if key in KEPT}
    if "ge" in schema or "gt" in schema:  # durations: pydantic leaves these bounds as they are
        found["minimum"] = schema.get("gt", schema.get("ge"))
        found |= {"exclusiveMinimum": True} if "gt" in schema else {}
    if "le" in schema:
        found["maximum"] = schema["le"]
    if schema.get("type") == "string" and not defaults:
        # Kubernetes 1.20 built with a Go later than its own takes "" for null (its validator compares with zero).
        found["nullable"] = True
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "properties" in schema:
        found["properties"] = {
            name: _convert(field, defs, defaults=defaults) | RULES.get((owner, name), {})
            for name, field in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        found["additionalProperties"] = _convert(schema["additionalProperties"], defs, defaults=defaults)
    if "items" in schema:
        found["items"] = _convert(schema["items"], defs, defaults=defaults)
    return found


def _make_column(column: Column) -> Schema:
    made: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return made | ({"priority": 1} if column.wide else {})
