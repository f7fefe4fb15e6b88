"""The app under test: HTTP/1.1 with keep-alive by the standard library alone; flags make it misbehave.

It answers what tests/load asks: /release, /echo, /slow, /stream; also /, /health, /config/NAME and POST /crash.
On SIGTERM it takes no new connection, finishes the requests in flight and exits 0.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

RELEASE = os.environ.get("SEAWAY_RELEASE", "none")
INSTANCE = os.environ.get("SEAWAY_INSTANCE", "none")
CLIENT_TIMEOUT = 60.0  # seconds for a client to send its body or take the response


class Server(ThreadingHTTPServer):
    """Counts the requests in flight so that stopping can wait for them."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.idle = threading.Condition()
        self.in_flight = 0
        self.stopping = False
        super().__init__((options.bind, options.port), Handler)

    def enter(self, by: int) -> None:
        with self.idle:
            self.in_flight += by
            self.idle.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):  # clients may go away
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.options.idle_close)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name http.server gives it)
        if self.server.options.verbose:
            print(json.dumps({"message": format % args, "level": "info"}), flush=True)

    def do_GET(self) -> None:
        self.respond({"/": self.greet, "/health": self.health, "/release": self.who, "/slow": self.slow,
                      "/stream": self.stream})  # fmt: skip

    def do_POST(self) -> None:
        self.respond({"/echo": self.echo, "/crash": self.crash})

    def respond(self, pages: dict) -> None:  # type: ignore[type-arg]
        self.connection.settimeout(CLIENT_TIMEOUT)
        self.server.enter(+1)
        try:
            url = urlsplit(self.path)
            self.query = dict(parse_qsl(url.query))
            self.body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if url.path.startswith("/config/"):
                self.send(200, os.environ.get(url.path.removeprefix("/config/"), "").encode())
            elif url.path in pages:
                pages[url.path]()
            else:
                self.send(404, b"no such page\n")
            self.wfile.flush()
        finally:
            self.server.enter(-1)
        self.connection.settimeout(self.server.options.idle_close)

    def send(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.begin(status, kind, ("content-length", str(len(body))))
        self.wfile.write(body)

    def begin(self, status: int, kind: str, framing: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header(*framing)
        self.send_header("x-release", RELEASE)
        self.send_header("x-instance", INSTANCE)
        if self.server.stopping:
            self.send_header("connection", "close")  # http.server closes when it sends this
        self.end_headers()

    def greet(self) -> None:
        self.send(200, f"Hello from {RELEASE}, instance {INSTANCE}\n".encode())

    def health(self) -> None:
        bad = self.server.options.unhealthy
        self.send(500 if bad else 200, b"unwell\n" if bad else b"well\n")

    def who(self) -> None:
        answer = {"release": RELEASE, "instance": INSTANCE, "pid": os.getpid(), "n": self.query.get("n")}
        self.send(200, json.dumps(answer).encode(), "application/json")

    def slow(self) -> None:
        time.sleep(float(self.query.get("s", 5)))
        self.who()

    def echo(self) -> None:
        self.send(200, self.body, self.headers.get("content-type", "application/octet-stream"))

    def stream(self) -> None:
        self.begin(200, "text/plain", ("transfer-encoding", "chunked"))
        for index in range(int(self.query.get("count", 10))):
            line = f"{self.query.get('n', 0)} {index}\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(float(self.query.get("interval", 0.1)))
        self.wfile.write(b"0\r\n\r\n")

    def crash(self) -> None:
        self.send(200, b"crashing\n")
        self.wfile.flush()
        print("crashing because somebody asked for it", file=sys.stderr, flush=True)
        os._exit(3)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8000")))
    parser.add_argument("--idle-close", type=float, default=75.0, help="seconds until an idle connection is closed")
    parser.add_argument("--unhealthy", action="store_true", help="/health answers 500")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--crash-after", type=float, help="exit 3 after so many seconds")
    parser.add_argument("--verbose", action="store_true", help="a line for each request")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    server = Server(options)
    # No thread that is started from here on takes the signal: the main one would not be woken, and Python's handlers
    # run in no other.
    told = set() if options.ignore_sigterm else {signal.SIGTERM}
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, told)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    print(json.dumps({"message": f"listening on {server.server_port}", "level": "info"}), flush=True)
    if options.crash_after is None:
        signal.sigwaitinfo(told)
    elif signal.sigtimedwait(told, options.crash_after) is None:
        print("crashing because its time is over", file=sys.stderr, flush=True)
        os._exit(3)
    server.stopping = True
    server.shutdown()
    server.server_close()
    with server.idle:
        server.idle.wait_for(lambda: server.in_flight == 0)
    print(json.dumps({"message": "stopped", "level": "info"}), flush=True)


if __name__ == "__main__":
    main()
