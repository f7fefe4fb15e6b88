"""Does the jobs, one after the other, and writes a JSON line for each. On SIGTERM it finishes the one it has."""

import json
import os
import signal
import threading

import jobs

stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())


def say(message, **fields):
    print(json.dumps({"level": "info", "message": message, **fields}), flush=True)


say("worker started", pid=os.getpid())
while not stopping.is_set():
    job = jobs.take()
    if job is None:
        stopping.wait(0.2)
        continue
    number, text = job
    say("job done", job=number, words=len(text.split()))
    jobs.finish(number)
say("worker stopped")
