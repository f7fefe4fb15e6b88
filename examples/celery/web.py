"""Takes texts, and says later which words are in them."""

from celery.result import AsyncResult
from flask import Flask, Response, jsonify, request
from tasks import app as celery
from tasks import count_words

app = Flask(__name__)


@app.get("/health")
def health() -> str:
    return "well\n"


@app.post("/")
def begin() -> Response:
    return jsonify(task=count_words.delay(request.get_data(as_text=True)).id)


@app.get("/<task>")
def show(task: str) -> Response:
    result = AsyncResult(task, app=celery)
    return jsonify(state=result.state, words=result.result if result.successful() else None)
