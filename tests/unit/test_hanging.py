"""When a process counts as hanging: never while it goes on, nor because its watcher was late."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from seaway.sandbox.hanging import SILENT, STATES, STOPPED, Pulse, explain_state, read_state

LOOKS = st.lists(st.tuples(st.booleans(), st.sampled_from("RSDTt")), max_size=80)


@given(LOOKS)
def test_so_many_looks_in_a_row_and_not_one_less(looks: list[tuple[bool, str]]) -> None:
    """A beat or another state in between begins anew. A debugger's stop (t) is somebody's wish."""
    pulse, beat, same, stopped = Pulse(), 1, -1, 0
    for beats, state in looks:
        beat += beats
        same = 0 if beats or same < 0 else same + 1
        stopped = stopped + 1 if state == "T" else 0
        fault = pulse.look(beat, state)
        assert bool(fault) == (stopped >= STOPPED or same >= SILENT)
        assert fault in ("", STATES["T"], "it has not gone on for 15 s")


@given(st.integers(1, 100))
def test_one_that_never_says_anything_is_judged_by_its_state_alone(count: int) -> None:
    """An older Seaway's part."""
    pulse = Pulse()
    assert [pulse.look(0, "S") for _ in range(count)] == [""] * count
    assert [bool(pulse.look(0, "T")) for _ in range(STOPPED)] == [False] * (STOPPED - 1) + [True]


def test_a_stopped_process_is_seen(tmp_path: Path) -> None:
    """As the kernel has it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        assert explain_state(process.pid) == ""
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert explain_state(process.pid) == STATES["T"]
        process.kill()
    assert read_state(process.pid) == ""
