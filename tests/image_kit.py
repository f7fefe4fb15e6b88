"""Running an image of a registry as a cluster would, without a cluster: its own root, read-only, its numeric user."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from pathlib import Path

from seaway.builder.image import this_architecture
from seaway.registry.images import Image, Registries
from seaway.registry.reference import parse_reference

ENTER = """
mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp" && mount -o remount,bind,ro "$0"
root=$0; user=$1; workdir=$2; shift 2
exec chroot --userspec="$user" --groups= "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$workdir" "$@"
"""


async def unpack(registries: Registries, reference: str, target: Path) -> Image:
    """Unpack an image's layers over one another; return what it says of itself."""
    image = await registries.read(parse_reference(reference), this_architecture())
    client = registries.client(image.reference.host)
    target.mkdir()
    for layer in image.layers:
        file = target.parent / "layer"
        await client.download_blob(image.reference.path, layer.digest, file)
        await asyncio.to_thread(subprocess.run, ["tar", "-xf", str(file), "-C", str(target)], check=True)
        file.unlink()
    for name in ("proc", "dev", "tmp"):
        (target / name).mkdir(exist_ok=True)
    return image


def run(image: Image, root: Path, command: Sequence[str] = (), timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command (by default the image's own) in the unpacked image, as its user, in namespaces of its own."""
    settings = image.settings
    argv = list(command) or [*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ())]
    env = dict(entry.split("=", 1) for entry in settings["Env"])
    user = settings["User"] if ":" in settings["User"] else f"{settings['User']}:0"
    inside = [ENTER, str(root), user, settings.get("WorkingDir") or "/", *argv]
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", *inside],
        env=env | {"PATH": f"{env['PATH']}:/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def can_enter() -> bool:
    """Tell whether this machine lets us mount and change the root: root does, outside of strict sandboxes."""
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0
