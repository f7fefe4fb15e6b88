"""A small web app. Seaway gives each instance its PORT, SEAWAY_RELEASE and SEAWAY_INSTANCE in the environment."""

import os
import time

from flask import Flask, Response, jsonify, request

app = Flask(__name__)
RELEASE = os.environ.get("SEAWAY_RELEASE", "no release")
INSTANCE = os.environ.get("SEAWAY_INSTANCE", "no instance")


@app.after_request
def name_release(response: Response) -> Response:
    response.headers["x-release"] = RELEASE
    return response


@app.get("/")
def greet() -> str:
    return f"{os.environ.get('GREETING', 'Hello')} from {RELEASE}, instance {INSTANCE}\n"


@app.get("/health")
def health() -> str:
    return "well\n"


@app.get("/release")
def release() -> Response:
    return jsonify(release=RELEASE, instance=INSTANCE, pid=os.getpid(), n=request.args.get("n"))


@app.get("/config/GREETING")
def greeting() -> str:
    return os.environ.get("GREETING", "")


@app.post("/echo")
def echo() -> Response:
    return Response(request.get_data(), content_type=request.content_type or "application/octet-stream")


@app.get("/slow")
def slow() -> Response:
    time.sleep(min(request.args.get("s", 5.0, float), 60.0))
    return release()


@app.get("/stream")
def stream() -> Response:
    n = request.args.get("n", 0, int)
    count, interval = request.args.get("count", 10, int), request.args.get("interval", 0.1, float)

    def lines():
        for index in range(count):
            yield f"{n} {index}\n"
            time.sleep(interval)

    return Response(lines(), content_type="text/plain")
