"""`make test`, `make check` and `make soak`: every tier, and all that is to be told of it in one run.

A broken tier hides none after it, lint and types aside. A failed test is run once more, alone, at the end of its tier:
if it passes then, it is named as flaky in the last lines and breaks nothing; what both runs said lies in `.test-logs`.
When all of `make test` is green, the tree that was tested is written to `.test-passed`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the list of packages is the tests' own

from tests.packages import main as provide_packages  # noqa: E402

BIN = Path(sys.executable).parent
OUTPUTS, PASSED = ROOT / ".test-logs", ROOT / ".test-passed"
WORDS = ("passed", "failed", "skipped", "error")
MOST_AGAIN = 6  # failed tests of a tier that are run again: more are no accident
PYTEST = [sys.executable, "-m", "pytest", "-q", "-ra", "--durations=5", "--durations-min=20"]
QUICK = [*PYTEST, "-p", "no:schemathesis"]  # its plugin takes a second to load, and only the contract tests need it


def spread(by: str, workers: int) -> list[str]:
    """Return pytest's options to run files ("loadfile", as they are named) or tests ("worksteal") side by side."""
    return ["--dist", by, "-n", str(workers), "--no-loadscope-reorder"]


@dataclass(frozen=True)
class Tier:
    """One step: lanes that run side by side, each a row of commands, between what comes first and what comes last.

    `needed`: what comes after it is not worth running if it is broken.
    """

    name: str
    lanes: tuple[tuple[list[str], ...], ...]
    first: list[str] = field(default_factory=list)
    last: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    needed: bool = False


def list_tests(folder: str) -> list[str]:
    """Return the test files of a folder, in order."""
    return sorted(str(path.relative_to(ROOT)) for path in Path(ROOT, folder).glob("test_*.py"))


def begin_with(longest: list[str], tests: list[str]) -> list[str]:
    """Return tests with the longest in front: last, it would have the processor for itself."""
    return [*longest, *(path for path in tests if path not in longest)]


UNIT = list_tests("tests/unit")
STATIC = (
    [str(BIN / "mypy")],
    [str(BIN / "lint-imports")],
    [str(BIN / "ruff"), "check", "."],
    [str(BIN / "ruff"), "format", "--check", "."],
)
PROPERTY = [*QUICK, "tests/property"]
UNITS = tuple([*QUICK, *UNIT[begin::3]] for begin in range(3))
"""Units in three parts: as one they would take longer than all the rest, and a third of their time they wait."""

CHECK = Tier("check", tuple((command,) for command in (*UNITS, PROPERTY, *STATIC)))
"""What `make check` runs: a few schedules of the property tests, and nothing that starts Envoy."""
PACKAGES_OF_CHECK = ("processes",)

INSTALLATION = "tests/kube/test_install.py"
"""Builds Seaway's image and replaces all its parts under load: minutes of its own, so it has `make test-install`."""
SCHEMATHESIS = "tests/contract/test_api_schemathesis.py"
"""Its tests share one name, of which pytest-xdist would run one."""
LONG_CONTRACT = [f"tests/contract/test_{name}.py" for name in ("router_nodes", "node_keeper", "own_image")]
CONTRACT = begin_with(LONG_CONTRACT, [path for path in list_tests("tests/contract") if path != SCHEMATHESIS])
ZERO_DROP = "tests/e2e/test_zero_drop.py"
DEEP = (ZERO_DROP, "tests/e2e/test_floods.py", "tests/e2e/test_full_disk.py", "tests/contract/test_local_output.py")
E2E = begin_with([ZERO_DROP], list_tests("tests/e2e"))
ALONE = [f"tests/kube/test_{name}.py" for name in (
    "cluster_check", "engine_nodes", "nodes_die", "masters_die",
)]  # fmt: skip
"""Tests that kill or look at what others need, so they come last, one after another; mostly they wait."""
API_ONLY = [f"tests/kube/test_{name}.py" for name in (
    "applying", "engine_writes", "install_objects", "kubeadm", "lease", "outages", "store_kubernetes", "store_more",
)]  # fmt: skip
"""Tests that need an API server of their own and no cluster."""
LONG_ON_CLUSTER = [
    f"tests/kube/test_{name}.py" for name in ("platform", "engine_contract", "engine_reasons", "build_job")
]
ON_CLUSTER = begin_with(
    LONG_ON_CLUSTER, [path for path in list_tests("tests/kube") if path not in {*ALONE, *API_ONLY, INSTALLATION}]
)
GIVE_WAY = ["nice", "-n", "3"]
"""Half the share of what is beside it; by nice's own 10 it would starve on a machine that has more to do."""
KUBE_LAB = [sys.executable, "-m", "tests.kube.lab"]
"""Where no cluster can be, it says so and does nothing, and the tests are skipped."""

TIERS = (
    Tier("lint, types, import contracts", tuple((command,) for command in STATIC), needed=True),
    Tier("unit, property", tuple((command,) for command in (*UNITS, PROPERTY))),
    Tier("contract", (([*PYTEST, *spread("loadfile", 3), *CONTRACT],), ([*PYTEST, SCHEMATHESIS],))),
    Tier("end to end", (([*PYTEST, *spread("worksteal", 3), *E2E],),)),
    Tier(  # as it looks for what is left on this machine, beside what leaves nothing
        "test cluster, property in depth",
        (([*PYTEST, "tests/kube/lab"],), ([*GIVE_WAY, *PROPERTY],)),
        first=[*KUBE_LAB, "prepare"],
        env={"SEAWAY_SCHEDULES": "300"},
    ),
    Tier(
        "kubernetes, side by side",
        (([*PYTEST, *spread("loadfile", 3), *ON_CLUSTER],),),
        first=[*KUBE_LAB, "begin"],
        last=[*KUBE_LAB, "end"],
    ),
    Tier(  # what waits and keeps times beside what needs a processor; that gives way
        "kubernetes, alone",
        (([*PYTEST, *ALONE],), ([*GIVE_WAY, *PYTEST, *spread("loadfile", 2), *API_ONLY],)),
        first=[*KUBE_LAB, "begin"],
        last=[*KUBE_LAB, "end"],
    ),
)

LONG = {"SEAWAY_SOAK": "1"}
SOAK = (
    Tier("property in depth", ((PROPERTY,),), env=LONG),
    Tier("version 2 of control groups, in a guest", (([*PYTEST, "tests/guest"],),), env=LONG),
    Tier("output, traffic and disks, long", (([*PYTEST, *DEEP],),), env=LONG),
    Tier("test cluster, long", (([*PYTEST, "tests/kube/lab"],),), first=[*KUBE_LAB, "prepare"], env=LONG),
    Tier(
        "kubernetes, long",
        (([*PYTEST, "tests/kube/test_platform.py", *ALONE, INSTALLATION],),),
        first=[*KUBE_LAB, "begin"],
        last=[*KUBE_LAB, "end"],
        env=LONG,
    ),
)


@dataclass
class Outcome:
    """What commands came to: tests that failed, with where their output lies, and whether anything else is wrong."""

    broken: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Path] = field(default_factory=dict)
    flaky: list[str] = field(default_factory=list)  # tests that passed when run again; a line each

    @property
    def good(self) -> bool:
        """Whether nothing is wrong; what is flaky is told, and breaks nothing."""
        return not (self.broken or self.failed)

    def add(self, other: Outcome) -> None:
        """Take in what something else came to."""
        self.broken = self.broken or other.broken
        self.counts += other.counts
        self.failed |= other.failed
        self.flaky += other.flaky


class Runner:
    """Runs tiers; everything that is said lies in files below `outputs`, too."""

    def __init__(self, outputs: Path = OUTPUTS, root: Path = ROOT) -> None:
        self._outputs, self._root = outputs, root
        self._numbers = itertools.count(1)
        self._speaking = threading.Lock()
        shutil.rmtree(outputs, ignore_errors=True)
        outputs.mkdir()

    @contextmanager
    def beside(self, command: list[str]) -> Iterator[None]:
        """Have a command run meanwhile; what it does is somebody else's to wait for, and it ends with the block."""
        with (
            (self._outputs / "beside.txt").open("w") as file,
            subprocess.Popen(
                command, cwd=self._root, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
            ) as process,
        ):
            try:
                yield
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def run_tier(self, tier: Tier) -> Outcome:
        """Run what comes first, then the lanes side by side, then once more what failed."""
        total = Outcome()
        if tier.first:
            total.add(self._run(tier, tier.first, at_once=True))
            if not total.good:
                return total
        at_once = len(tier.lanes) == 1
        with ThreadPoolExecutor(len(tier.lanes)) as pool:
            for outcomes in pool.map(lambda lane: [self._run(tier, c, at_once=at_once) for c in lane], tier.lanes):
                for outcome in outcomes:
                    total.add(outcome)
        if 0 < len(total.failed) <= MOST_AGAIN:
            self._run_failed_again(tier, total)
        if tier.last:
            total.add(self._run(tier, tier.last, at_once=True))
        return total

    def _run_failed_again(self, tier: Tier, total: Outcome) -> None:
        """Run each test that failed, alone; it is flaky if it passes now."""
        print(f"== {tier.name}: what failed is run once more, alone", flush=True)
        for test, first in list(total.failed.items()):
            output = self._choose_output()
            again = self._run(tier, [*PYTEST, test], at_once=True, output=output)
            if again.good and again.counts["passed"]:
                del total.failed[test]
                total.counts["failed" if total.counts["failed"] else "error"] -= 1
                total.counts["passed"] += 1
                total.flaky.append(f"{test} (failed: {shorten(first)}, passed: {shorten(output)})")

    def _choose_output(self) -> Path:
        return self._outputs / f"{next(self._numbers):02d}.txt"

    def _run(self, tier: Tier, command: list[str], *, at_once: bool, output: Path | None = None) -> Outcome:
        """Run a command; its output comes at once, or all together when it is done."""
        output = output or self._choose_output()
        cache = output.with_suffix(".cache")
        words = [*command, "-o", f"cache_dir={cache}"] if "pytest" in command else command
        said = [f"$ {' '.join(command).replace(f'{ROOT}/', '')}\n"]
        if at_once:
            print(said[0], end="", flush=True)
        with (
            output.open("w", buffering=1) as file,
            subprocess.Popen(
                words, cwd=self._root, env=os.environ | tier.env,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as process,
        ):  # fmt: skip
            file.write(said[0])
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                file.write(line)
                if at_once:
                    print(line, end="", flush=True)
        if not at_once:
            with self._speaking:
                print("".join(said), end="", flush=True)
        code, failed = process.returncode, dict.fromkeys(read_failed(cache), output)
        broken = code != 0 and not (code == 1 and failed)  # pytest's 1: tests failed, and nothing else is wrong
        return Outcome(broken, count_tests(said), failed)


def read_failed(cache: Path) -> list[str]:
    """Return the tests that failed, as pytest keeps them for its --last-failed."""
    file = cache / "v/cache/lastfailed"
    return list(json.loads(file.read_text())) if file.exists() else []


def count_tests(lines: list[str]) -> Counter[str]:
    """Return what pytest's closing line counts."""
    found = rf"(\d+) ({'|'.join(WORDS)})"
    last = next((line for line in reversed(lines[1:]) if re.search(found, line)), "")
    return Counter({word: int(number) for number, word in re.findall(found, last)})


def shorten(path: Path) -> str:
    """Return a path as it is seen from the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run_tiers(tiers: Sequence[Tier], runner: Runner) -> Outcome:
    """Run tiers one after another; a broken one hides only what is not worth running without it."""
    total = Outcome()
    for tier, following in zip(tiers, [*tiers[1:], None], strict=True):
        stays = following is not None and (following.first, following.last) == (tier.first, tier.last)
        print(f"== {tier.name}", flush=True)
        began = time.monotonic()
        outcome = runner.run_tier(replace(tier, last=[]) if stays else tier)
        total.add(outcome)
        word = "ok" if outcome.good else "BROKEN"
        print(f"== {tier.name}: {word} in {time.monotonic() - began:.0f} s\n", flush=True)
        if not outcome.good and tier.needed:
            print("the tiers after it were not run")
            break
    return total


def tell(total: Outcome, seconds: float, *, whole: bool) -> None:
    """Print the last lines: what is flaky, what failed, how much there was."""
    if whole and total.good and not total.counts["skipped"]:
        print(f"nothing was skipped; {INSTALLATION} is `make test-install`")
    for line in total.flaky:
        print(f"flaky: {line}")
    for test, output in total.failed.items():
        print(f"failed: {test} ({shorten(output)})")
    print(f"took {seconds:.0f} s")
    failed = max(total.counts["failed"] + total.counts["error"], 0 if total.good else 1)
    print(f"{total.counts['passed']} passed, {failed} failed, {total.counts['skipped']} skipped")


def note_passed() -> None:
    """Write down which tree passed, if it is one that is committed."""
    ask = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    if ask(["git", "status", "--porcelain"]).stdout:
        print("not noted in .test-passed, as what was tested is not committed: git status")
        return
    PASSED.write_text(ask(["git", "rev-parse", "HEAD^{tree}"]).stdout)


def main() -> int:
    """Run all tiers, those with one of the words given in their name, or what `check` or `soak` stands for."""
    wanted = sys.argv[1:]
    tiers: Sequence[Tier] = {"check": (CHECK,), "soak": SOAK}.get(" ".join(wanted), TIERS)
    if tiers is TIERS:
        tiers = [tier for tier in TIERS if not wanted or any(word in tier.name for word in wanted)]
    if provide_packages(list(PACKAGES_OF_CHECK) if wanted == ["check"] else []):
        return 1
    whole, began, runner = not wanted, time.monotonic(), Runner()
    if whole:
        PASSED.unlink(missing_ok=True)
    # Minutes, the first time, for which the tier that needs it waits; by then most of it is done.
    with runner.beside(["nice", "-n", "19", *KUBE_LAB, "prepare"]) if whole else nullcontext():
        total = run_tiers(tiers, runner)
    tell(total, time.monotonic() - began, whole=whole)
    if whole and total.good:
        note_passed()
    return 0 if total.good else 1


if __name__ == "__main__":
    sys.exit(main())
