"""`make test`: every tier, quickest first, stopping at the first broken one; says what was skipped and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-ra"]
WORDS = ("passed", "failed", "skipped", "error")
QUICK = [*PYTEST, "-p", "no:schemathesis"]  # its plugin takes a second to load, and only the contract tests need it


INSTALLATION = "tests/kube/test_install.py"
"""Builds Seaway's image and replaces all its parts under load: minutes of its own, so it has `make test-install`."""


@dataclass(frozen=True)
class Tier:
    """One step: lanes that run side by side (a core each, more or less), each a row of commands that must succeed.

    `first` comes before all of them.
    """

    name: str
    lanes: tuple[tuple[list[str], ...], ...]
    first: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)


UNIT = sorted(str(path.relative_to(ROOT)) for path in Path(ROOT, "tests/unit").glob("test_*.py"))
STATIC = (
    [str(BIN / "mypy")],
    [str(BIN / "lint-imports")],
    [str(BIN / "ruff"), "check", "."],
    [str(BIN / "ruff"), "format", "--check", "."],
)
PROPERTY = [*QUICK, "tests/property"]
QUICKEST = tuple((command,) for command in ([*QUICK, *UNIT[::2]], [*QUICK, *UNIT[1::2]], PROPERTY, *STATIC))
"""Units in two halves: as one they would take longer than all the rest."""

CHECK = Tier("check", QUICKEST)
"""What `make check` runs: a few schedules of the property tests (SEAWAY_SCHEDULES), and nothing that starts Envoy."""

KUBE = sorted(str(path.relative_to(ROOT)) for path in Path(ROOT, "tests/kube").glob("test_*.py"))
ALONE = [f"tests/kube/test_{name}.py" for name in (
    "cluster_check", "engine_nodes", "platform", "nodes_die", "masters_die",
)]  # fmt: skip
"""Tests that kill what others need or count each of their requests; they come last, one after another."""
API_ONLY = [f"tests/kube/test_{name}.py" for name in (
    "applying", "engine_writes", "install_objects", "kubeadm", "lease", "outages", "store_kubernetes", "store_more",
)]  # fmt: skip
"""Tests that need an API server of their own and no cluster."""
ON_CLUSTER = [path for path in KUBE if path not in {*ALONE, *API_ONLY, INSTALLATION}]

TIERS = (
    Tier("lint, types, import contracts, unit, property", QUICKEST),
    Tier("contract", (([*PYTEST, "tests/contract"],),)),
    Tier("end to end", (([*PYTEST, "tests/e2e"],),)),
    Tier(
        "test cluster",  # alone, as it looks for what is left on this machine; skips, saying why, where it cannot be
        (([*PYTEST, "tests/kube/lab"],),),
        first=[sys.executable, "-m", "tests.kube.lab", "prepare"],
    ),
    Tier(
        "kubernetes, property in depth",
        # What runs on a cluster beside what needs a processor and none; that gives way, as the first has times to keep.
        (([*PYTEST, *ON_CLUSTER, *ALONE],), (["nice", *PYTEST, *API_ONLY], ["nice", *PROPERTY])),
        env={"SEAWAY_SCHEDULES": "1500"},
    ),
)


def run_tier(tier: Tier) -> tuple[bool, Counter[str]]:
    """Run one tier, its output passed through; return whether all went well and the tests counted."""
    if tier.first and not run(tier, tier.first, at_once=True)[0]:
        return False, Counter()
    several = len(tier.lanes) > 1
    with ThreadPoolExecutor(1 + (os.cpu_count() or 1)) as pool:  # one more than cores, as tests wait at times
        results = list(pool.map(lambda lane: run_lane(tier, lane, at_once=not several), tier.lanes))
    return all(good for good, _ in results), sum((found for _, found in results), Counter[str]())


def run_lane(tier: Tier, lane: tuple[list[str], ...], *, at_once: bool) -> tuple[bool, Counter[str]]:
    """Run one command after another, to the first that fails."""
    counts: Counter[str] = Counter()
    for command in lane:
        good, found = run(tier, command, at_once=at_once)
        counts += found
        if not good:
            return False, counts
    return True, counts


def run(tier: Tier, command: list[str], *, at_once: bool) -> tuple[bool, Counter[str]]:
    """Run a command; its output comes at once, or all together when it is done."""
    lines = [f"$ {' '.join(command).replace(str(ROOT) + '/', '')}\n"]
    if at_once:
        print(lines[0], end="", flush=True)
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | tier.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if at_once:
            print(line, end="", flush=True)
    if not at_once:
        print("".join(lines), end="", flush=True)
    last = next((line for line in reversed(lines[1:]) if re.search(rf"\d+ ({'|'.join(WORDS)})", line)), "")
    counts = Counter({word: int(number) for number, word in re.findall(rf"(\d+) ({'|'.join(WORDS)})", last)})
    return process.wait() == 0, counts


def main() -> int:
    """Run the tiers; the names given on the command line only, if any; `check` is `make check`."""
    wanted = sys.argv[1:]
    tiers = (CHECK,) if wanted == [CHECK.name] else TIERS
    total: Counter[str] = Counter()
    began = time.monotonic()
    good = True
    for tier in tiers:
        if wanted and not any(word in tier.name for word in wanted):
            continue
        print(f"== {tier.name}", flush=True)
        tier_began = time.monotonic()
        good, counts = run_tier(tier)
        total += counts
        print(f"== {tier.name}: {'ok' if good else 'BROKEN'} in {time.monotonic() - tier_began:.0f} s\n", flush=True)
        if not good:
            break
    if not total["skipped"] and tiers is TIERS:
        print(f"nothing was skipped; {INSTALLATION} is `make test-install`")
    print(f"took {time.monotonic() - began:.0f} s")
    failed = total["failed"] + total["error"] + (0 if good or total["failed"] + total["error"] else 1)
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
