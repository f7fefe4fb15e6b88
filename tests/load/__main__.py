"""`python -m tests.load --url http://127.0.0.1:8080 --host APP.localhost`: load until --seconds or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from typing import Any

import uvloop

from tests.load.load import Load
from tests.load.mix import Mix
from tests.load.traffic import Shape


def read_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--url", required=True, help="where to connect, for example http://127.0.0.1:8080")
    parser.add_argument("--host", help="Host header, for example shop.localhost (default: that of the URL)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (default 100)")
    parser.add_argument("--mix", type=Mix.parse, default=Mix(), help=f"shares of kinds (default {Mix()})")
    parser.add_argument("--seconds", type=float, help="how long (default: until Ctrl-C)")
    parser.add_argument("--shape", type=json.loads, default={}, help="JSON of paths, sizes and times to override")
    parser.add_argument("--json", action="store_true", help="speak JSON lines on standard input and output")
    return parser.parse_args(arguments)


async def run(options: argparse.Namespace) -> int:
    """Make load until told to stop; print progress and the report; return 1 if a request failed."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    say = say_json if options.json else say_plain
    shape = Shape(**options.shape)
    async with Load(options.url, host=options.host, rate=options.rate, mix=options.mix, shape=shape) as load:
        say("started", True)
        tasks = [asyncio.create_task(tell_progress(load, say))]
        if options.json:
            tasks.append(asyncio.create_task(obey(load, stop)))
        with contextlib.suppress(TimeoutError):  # the time given is over
            await asyncio.wait_for(stop.wait(), options.seconds)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()  # a message that could not be read ends the run with its error
    report = load.report()
    if options.json:
        say("report", json.loads(report.to_json()))
    else:
        print(report.describe())
    return 1 if report.total.failed else 0


async def tell_progress(load: Load, say: Any) -> None:
    """Say every second how it goes."""
    while True:
        await asyncio.sleep(1)
        say("progress", load.progress())


async def obey(load: Load, stop: asyncio.Event) -> None:
    """Do what comes on standard input; its end means stop."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async for line in reader:
            message = json.loads(line)
            if "mark" in message:
                load.mark(message["mark"])
                say_json("marked", message["mark"])
            elif "stop" in message:
                break
        stop.set()
    finally:
        transport.close()


def say_json(key: str, value: Any) -> None:
    """Write one message for the parent."""
    print(json.dumps({key: value}), flush=True)


def say_plain(key: str, value: Any) -> None:
    """Write progress for people."""
    if key == "progress":
        print(f"{value['ended']} answered, {value['failed']} failed, {value['in_flight']} in flight", flush=True)


if __name__ == "__main__":
    sys.exit(uvloop.run(run(read_arguments())))
