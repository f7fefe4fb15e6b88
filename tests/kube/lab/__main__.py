"""`make kube-up` and `make kube-down`: `python -m tests.kube.lab up | down | begin | end | build | prepare`."""

from __future__ import annotations

import json
import sys

from tests.kube.fixture import ENVIRONMENT, given_cluster, why_not
from tests.kube.lab import trace
from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.cluster import describe, down, running, up
from tests.kube.lab.errors import LabError
from tests.kube.lab.images import ensure_base, ensure_builder
from tests.kube.lab.settings import STATE
from tests.packages import PackagesError, ensure_packages

OF_A_RUN = STATE / "of-a-test-run"


def begin() -> None:
    """Start the cluster for a run of tests, unless one is there or given, or there can be none."""
    reason = why_not() or (given_cluster() and f"{ENVIRONMENT} names a cluster")
    if reason:
        print(reason)
    elif not running():
        down()  # what one that was killed has left would be taken for what was there before
        before = json.dumps(trace.look())
        up()
        OF_A_RUN.write_text(before)


def end() -> None:
    """Remove the cluster that `begin` started; raises LabError if anything of it, or of the tests, is left."""
    if not OF_A_RUN.exists():
        return
    before = json.loads(OF_A_RUN.read_text())
    down()
    if left := trace.compare(before, trace.look()):
        raise LabError("not as it was before the cluster:\n" + "\n".join(left))


def main(words: list[str]) -> int:
    """Do what the one word says."""
    try:
        match words:
            case ["up"]:
                up()
                print(describe())
            case ["down"]:
                print("the test cluster is gone" if down() else "there is no test cluster")
            case ["begin" | "end" as word]:  # what `make test` does: a cluster that was there before is left alone
                begin() if word == "begin" else end()
            case ["build"]:
                print(ensure_binaries())
            case ["prepare"]:  # what takes minutes the first time, so that tests side by side find it done
                if reason := why_not():
                    print(reason)
                else:
                    ensure_packages()
                    ensure_binaries()
                    ensure_base()
                    ensure_builder()
            case _:
                print("usage: python -m tests.kube.lab up | down | begin | end | build | prepare", file=sys.stderr)
                return 2
    except (LabError, PackagesError) as error:
        print(f"\nkube: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
