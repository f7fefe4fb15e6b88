"""`make kube-up` and `make kube-down`: `python -m tests.kube.lab up | down | build`."""

from __future__ import annotations

import sys

from tests.kube.lab.binaries import ensure_binaries
from tests.kube.lab.cluster import describe, down, up
from tests.kube.lab.errors import LabError


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
            case _:
                print("usage: python -m tests.kube.lab up | down | build", file=sys.stderr)
                return 2
    except LabError as error:
        print(f"\nkube: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
