"""`python3 -m seaway.builder.fetching DIGEST FOLDER`: a source from the registry, unpacked. For build Jobs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from seaway.builder.archive import unpack_archive
from seaway.builder.base import BuildError
from seaway.builder.registry_stores import RegistrySources
from seaway.home import Home
from seaway.registry.errors import RegistryError
from seaway.registry.images import connect


async def fetch(digest: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Fetch and unpack into the folder, which is made. Raises BuildError, RegistryError."""
    credentials, ca = environment.get("SEAWAY_REGISTRY_CREDENTIALS"), environment.get("SEAWAY_REGISTRY_CA")
    registries = connect(
        environment.get("SEAWAY_REGISTRY", ""),
        insecure=environment.get("SEAWAY_INSECURE_REGISTRY") == "true",
        ca=Path(ca) if ca else None,
        credentials=Path(credentials) if credentials else None,
    )
    try:
        with TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
            archive = Path(scratch, "source.tar.gz")
            sources = RegistrySources(registries, Home(Path(scratch, "home")).create())
            if not await sources.fetch(digest, archive):
                raise BuildError(f"the source archive {digest[:12]} is gone from the server: deploy again")
            folder.mkdir(exist_ok=True)
            unpack_archive(archive, folder)
    finally:
        await registries.close()


def main() -> int:
    """Run; the reason of a failure is the last line of output."""
    try:
        asyncio.run(fetch(sys.argv[1], Path(sys.argv[2]), os.environ))
    except (BuildError, RegistryError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
