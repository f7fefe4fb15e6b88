"""Writes docs/openapi.json and docs/api.md from the API itself. `--check` only says whether they are current."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from seaway.api import ApiDeps, create_api
from seaway.engine.local.client import LocalEngine
from seaway.home import Home, Settings
from seaway.logs.reader import FileLogReader
from seaway.router.plane import XdsPlane
from seaway.store.memory import MemoryStore

DOCS = Path(__file__).resolve().parent.parent / "docs"


async def describe() -> dict[str, Any]:
    """Return the OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        deps = ApiDeps(
            store=MemoryStore(),
            engine=LocalEngine(home),
            routers=XdsPlane(),
            logs=FileLogReader(home),
            home=home,
            settings=Settings(),
        )
        document: dict[str, Any] = create_api(deps).openapi()
        return document


def render(document: dict[str, Any]) -> str:
    """Return the reference page."""
    lines = [
        "# The HTTP API",
        "",
        "Made by `scripts/gen_api_docs.py` from the code; every detail is in [openapi.json](openapi.json). Send the",
        "token as `Authorization: Bearer swy_...`; the admin's is in `SEAWAY_HOME/admin.token`. 429 with",
        "`Retry-After`: the token sends too many requests; send this one again after so many seconds",
        "([limits.md](limits.md)).",
        "",
        "| method | path | what |",
        "| --- | --- | --- |",
    ]
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            lines.append(f"| {method.upper()} | `{path}` | {operation.get('summary', '')} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the files, or check them."""
    document = asyncio.run(describe())
    pages = {"openapi.json": json.dumps(document, indent=1, sort_keys=True) + "\n", "api.md": render(document)}
    if "--check" in sys.argv:
        return 0 if all((DOCS / name).read_text() == text for name, text in pages.items()) else 1
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
