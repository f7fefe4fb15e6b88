"""`make test`: every tier, quickest first, stopping at the first broken one; says what was skipped and why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PYTEST = [sys.executable, "-m", "pytest", "-q", "-ra"]


@dataclass(frozen=True)
class Tier:
    """One step: commands that all have to succeed."""

    name: str
    commands: tuple[list[str], ...]
    env: dict[str, str] = field(default_factory=dict)


TIERS = (
    Tier(
        "lint, types, import contracts",
        (
            [str(BIN / "ruff"), "check", "."],
            [str(BIN / "ruff"), "format", "--check", "."],
            [str(BIN / "mypy")],
            [str(BIN / "lint-imports")],
        ),
    ),
    Tier("unit", ([*PYTEST, "tests/unit"],)),
    Tier("property", ([*PYTEST, "tests/property"],), {"SEAWAY_SCHEDULES": "1500"}),
    Tier("contract", ([*PYTEST, "tests/contract"],)),
    Tier("end to end", ([*PYTEST, "tests/e2e"],)),
    Tier(
        "kubernetes",  # first the test cluster itself, then what runs on one; each skips, saying why, where it cannot
        ([*PYTEST, "tests/kube/lab"], [*PYTEST, "tests/kube", "--ignore=tests/kube/lab"]),
    ),
)


def run_tier(tier: Tier) -> tuple[bool, dict[str, int]]:
    """Run one tier, its output passed through; return whether all went well and the tests counted."""
    counts = {"passed": 0, "failed": 0, "skipped": 0, "error": 0}
    for command in tier.commands:
        print(f"$ {' '.join(command).replace(str(ROOT) + '/', '')}", flush=True)
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | tier.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if re.search(r"\d+ (passed|failed|skipped|error)", line) else last
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last):
            counts[word] += int(number)
        if process.wait() != 0:
            return False, counts
    return True, counts


def main() -> int:
    """Run the tiers; the names given on the command line only, if any."""
    wanted = sys.argv[1:]
    total = {"passed": 0, "failed": 0, "skipped": 0, "error": 0}
    began = time.monotonic()
    good = True
    for tier in TIERS:
        if wanted and not any(word in tier.name for word in wanted):
            continue
        print(f"== {tier.name}", flush=True)
        tier_began = time.monotonic()
        good, counts = run_tier(tier)
        for word, count in counts.items():
            total[word] += count
        print(f"== {tier.name}: {'ok' if good else 'BROKEN'} in {time.monotonic() - tier_began:.0f} s\n", flush=True)
        if not good:
            break
    if not total["skipped"]:
        print("nothing was skipped")
    print(f"took {time.monotonic() - began:.0f} s")
    failed = total["failed"] + total["error"] + (0 if good or total["failed"] + total["error"] else 1)
    print(f"{total['passed']} passed, {failed} failed, {total['skipped']} skipped")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
