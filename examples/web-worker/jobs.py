"""A queue in an SQLite file that all processes of the app on this machine share."""

import os
import sqlite3
from pathlib import Path

FOLDER = Path("/tmp") / f"seaway-jobs-{os.getuid()}"  # $TMPDIR is each instance's own, and this has to be shared
FILE = Path(os.environ.get("JOBS_FILE") or FOLDER / f"{os.environ.get('SEAWAY_APP', 'app')}.db")


def connect():
    if FILE.parent == FOLDER:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
    connection = sqlite3.connect(FILE, timeout=10, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY, text TEXT, state TEXT)")
    return connection


def run(statement, *values):
    connection = connect()
    try:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() or cursor.lastrowid
    finally:
        connection.close()


def add(text):
    return run("INSERT INTO jobs (text, state) VALUES (?, 'waiting')", text)


def take():
    found = run(
        "UPDATE jobs SET state = 'taken' WHERE number = (SELECT min(number) FROM jobs WHERE state = 'waiting') "
        "RETURNING number, text"
    )
    return found[0] if isinstance(found, list) else None


def finish(number):
    run("UPDATE jobs SET state = 'done' WHERE number = ?", number)


def count():
    found = run("SELECT state, count(*) FROM jobs GROUP BY state")
    return {"waiting": 0, "taken": 0, "done": 0} | (dict(found) if isinstance(found, list) else {})
