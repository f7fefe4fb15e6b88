"""`make kube-up` and `make kube-down`: `python -m tests.kube.lab up | down | build | prepare`."""

from __future__ import annotations

import sys

from tests.kube.fixture import why_not
from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.cluster import describe, down, up
from tests.kube.lab.errors import LabError
from tests.kube.lab.images import ensure_base
from tests.packages import PackagesError, ensure_packages


def main(words: list[str]) -> int:
    """Do what the one word says."""
    try:
        match words:
            case ["up"]:
                up()
                print(describe())
            case ["down"]:
                print("the test cluster is gone" if down() else "there is no test cluster")
            case ["build"]:
                print(ensure_binaries())
            case ["prepare"]:  # what takes minutes the first time, so that tests side by side find it done
                if reason := why_not():
                    print(reason)
                else:
                    ensure_packages()
                    ensure_binaries()
                    ensure_base()
            case _:
                print("usage: python -m tests.kube.lab up | down | build | prepare", file=sys.stderr)
                return 2
    except (LabError, PackagesError) as error:
        print(f"\nkube: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
