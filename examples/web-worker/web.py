"""Takes jobs over HTTP: POST / with any text; GET / tells how many are waiting or done. Standard library only."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jobs


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.answer(200, jobs.count())

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
        self.answer(202, {"job": jobs.add(text)})

    def answer(self, status, content):
        body = json.dumps(content | {"release": os.environ.get("SEAWAY_RELEASE")}).encode() + b"\n"
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass  # the routers write an access log


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8000"))), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
