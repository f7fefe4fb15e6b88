"""The app of the engine tests: one small program, its first argument says how it behaves."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200, or 503 as long as the file that FAULT names exists."""

    def do_GET(self) -> None:
        fault, host = os.environ.get("FAULT"), os.environ.get("ONLY_HOST", self.headers["Host"])
        good = (host, "https") == (self.headers["Host"], self.headers.get("X-Forwarded-Proto", "https"))
        self.send_response(503 if fault and os.path.exists(fault) else 200 if good else 400)
        self.end_headers()
        if not good:
            self.wfile.write(b"<h1>Bad Request</h1>\nno such host")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def serve(port: int) -> None:
    """Serve for ever."""
    os.write(1, b"serving\n")  # print writes the newline apart, and another thread may come between
    http.server.ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), port), Handler).serve_forever()


def count() -> None:
    """Print numbered lines quickly, for ever, while serving."""
    threading.Thread(target=serve, args=(int(os.environ["PORT"]),), daemon=True).start()
    number = 0
    while True:
        os.write(1 + number % 2, f"line {number}\n".encode())
        number += 1
        time.sleep(0.001)


def main() -> None:
    """Behave as told."""
    mode = sys.argv[1]
    if mode == "serve":
        serve(int(os.environ["PORT"]))
    elif mode == "crash":
        print("about to fail", file=sys.stderr)
        raise SystemExit("the database is not there")
    elif mode == "silent":
        time.sleep(3600)
    elif mode == "elsewhere":
        with socket.create_server(("127.0.0.1", int(os.environ["ELSEWHERE"]))):
            time.sleep(3600)
    elif mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve(int(os.environ["PORT"]))
    elif mode == "slow-end":

        def end(*_: object) -> None:
            time.sleep(0.5)
            print("finished in peace", flush=True)
            os._exit(0)

        signal.signal(signal.SIGTERM, end)
        serve(int(os.environ["PORT"]))
    elif mode == "family":
        subprocess.Popen(["sleep", "3601"])
        subprocess.Popen(["sleep", "3602"], start_new_session=True)
        serve(int(os.environ["PORT"]))
    elif mode == "count":
        count()
    elif mode == "env":
        print(json.dumps({"message": "env", "seen": dict(os.environ), "where": os.getcwd()}), flush=True)
        time.sleep(3600)


main()
