"""BaseFacts: what was found in a base image, and whether a plan's layers can stand on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from seaway.builder.base import BuildError
from seaway.builder.plan import BuildPlan

PLATFORMS = {(2, 28): "manylinux_2_28", (2, 31): "manylinux_2_31"}
"""Kinds of wheels by the glibc they need: the newest that the base image has is chosen."""
ANOTHER = "name another one with [build] base in seaway.toml, or in the platform's settings"


@dataclass(frozen=True)
class BaseFacts:
    """What a base image holds. `pythons`: version ("3.11") to path; `glibc` () where it could not be told."""

    name: str
    digest: str
    pythons: Mapping[str, str]
    default: str | None = None  # what python3 is, or the newest there is
    libc: str = ""  # glibc, musl or ""
    glibc: tuple[int, ...] = ()
    has_shell: bool = True
    has_env: bool = True

    def write(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> BaseFacts:
        """Return what `write` wrote."""
        return cls(**{**values, "glibc": tuple(values["glibc"])})


def choose_platform(base: BaseFacts, here: str) -> str:
    """Return the platform to choose wheels for; `here` is that of this machine, for example x86_64-manylinux_2_28."""
    machine, _, kind = here.partition("-")
    fitting = [name for needed, name in PLATFORMS.items() if base.glibc >= needed]
    return f"{machine}-{fitting[-1]}" if fitting and kind in PLATFORMS.values() else here


def check_base(base: BaseFacts, plan: BuildPlan) -> None:
    """Refuse a base image that the plan's layers cannot run on. Raises BuildError."""
    where = f"the base image {base.name}"
    if not base.has_shell:
        raise BuildError(f"{where} has no /bin/sh, which starts the commands of processes: {ANOTHER}")
    if plan.python is None:
        return
    if not base.pythons:
        raise BuildError(f"{where} has no Python, which the app needs: {ANOTHER}")
    if plan.dependency_key is None and not plan.install_project:
        return
    if base.libc == "musl" and "manylinux" in plan.platform:
        raise BuildError(f"{where} is built on musl (Alpine?), dependencies are chosen for glibc: {ANOTHER}")
    if base.glibc and base.glibc < min(PLATFORMS) and "manylinux" in plan.platform:
        version = ".".join(map(str, base.glibc))
        raise BuildError(f"{where} has glibc {version}, dependencies need 2.28 or newer: {ANOTHER}")
