"""Load from a process of its own, so that a busy test process cannot distort it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Self

from tests.load.mix import Mix
from tests.load.report import Report
from tests.load.traffic import Shape

CHECKOUT = Path(__file__).parents[2]
PATIENCE = 15.0  # seconds for the process to start or to answer a mark


class LoadProcess:
    """Runs `python -m tests.load --json`; use as a context manager, or start() and stop().

    The child reads {"mark": LABEL} and {"stop": true} on its standard input and stops by itself when that closes,
    so it does not outlive this process.
    """

    def __init__(
        self,
        url: str,
        *,
        host: str | None = None,
        rate: float = 100.0,
        mix: Mix | None = None,
        shape: Shape | None = None,
    ) -> None:
        self._arguments = ["--json", "--url", url, "--rate", str(rate), "--mix", str(mix or Mix())]
        self._arguments += ["--host", host] if host else []
        self._shape = shape or Shape()
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._report: Report | None = None
        self.progress: dict[str, float] = {"ended": 0, "failed": 0, "in_flight": 0}

    def start(self) -> Self:
        """Start the process; return once requests are being sent."""
        shape = json.dumps(self._shape.__dict__)
        command = [sys.executable, "-m", "tests.load", *self._arguments, "--shape", shape]
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self._await("started", PATIENCE)
        return self

    def mark(self, label: str) -> None:
        """Begin a span: requests due from now on are counted under the label too."""
        self._tell({"mark": label})
        self._await("marked", PATIENCE)

    def stop(self) -> Report:
        """Stop sending, await what is in flight, end the process and return the report (again, if called again)."""
        if self._report is None:
            self._tell({"stop": True})
            found = self._await("report", self._shape.timeout + PATIENCE)
            self._report = Report.from_json(json.dumps(found))
            self._end()
        return self._report

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._report is None:
            self._end(kill=True)

    def _tell(self, message: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the load is not started")
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            message = json.loads(line)
            if "progress" in message:
                self.progress = message["progress"]
            else:
                self._lines.put(message)
        self._lines.put(None)

    def _await(self, key: str, seconds: float) -> Any:
        try:
            message = self._lines.get(timeout=seconds)
        except queue.Empty:
            self._end(kill=True)
            raise TimeoutError(f"the load generator said nothing for {seconds:g} s; {key!r} was expected") from None
        if message is None or key not in message:
            self._end(kill=True)
            raise RuntimeError(f"the load generator ended or said {message}, {key!r} was expected; see its output")
        return message[key]

    def _end(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        process.stdout.close()
