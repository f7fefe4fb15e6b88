"""An open-loop load generator that counts every request and retries none. Also: `python -m tests.load --help`."""

from tests.load.load import Load
from tests.load.mix import Mix
from tests.load.process import LoadProcess
from tests.load.report import Cause, Connection, Failure, Interval, Kill, Outcome, Report, Span, Stats
from tests.load.traffic import Shape

__all__ = [
    "Cause", "Connection", "Failure", "Interval", "Kill", "Load", "LoadProcess", "Mix", "Outcome", "Report", "Shape",
    "Span", "Stats",
]  # fmt: skip
