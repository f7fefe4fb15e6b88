"""The stopwatch that takes off what others took."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.pace import Stopwatch

BURN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
print("on", flush=True)
sys.stdin.readline()
while time.process_time() < 0.4:
    pass
print("done", flush=True)
sys.stdin.readline()
"""


def test_waiting_of_one_s_own_accord_counts() -> None:
    """A sleep is time that passed."""
    watch = Stopwatch()
    time.sleep(0.2)
    assert watch.took() > 0.15


def test_time_without_a_processor_does_not() -> None:
    """Three at once on one processor, a third of it each: what one alone takes is much less than what passed."""
    command = [sys.executable, "-c", BURN, str(min(os.sched_getaffinity(0)))]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(3)]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "on\n"
        watch, began = Stopwatch(workers[0].pid), time.monotonic()
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
        assert workers[0].stdout
        assert workers[0].stdout.readline() == "done\n"
        took, passed = watch.took(), time.monotonic() - began
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert took < passed * 0.8
