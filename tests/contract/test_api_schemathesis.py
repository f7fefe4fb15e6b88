"""Whatever the OpenAPI allows, and what it does not: never a 5xx.

Endless streams (watch, events, logs) and the upload, whose body is no JSON, are asked by hand-made requests: of a
stream only its beginning is read.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.harness import Platform, wait_until

SPEC = Path(__file__).parents[2] / "docs" / "openapi.json"
schema = schemathesis.openapi.from_path(SPEC)


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    platform = Platform(routers=1)
    try:
        platform.up("--token-rate", "0")  # what is asked here is asked as fast as it goes
        platform.run("apps", "create", "shop")
        yield platform
    finally:
        platform.run("down", check=False)
        shutil.rmtree(platform.home)


@schema.exclude(path_regex="watch|events|/log|sources").parametrize()
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_api_fail(case: Any, running: Platform) -> None:
    """No answer is a 5xx."""
    token = (running.home / "admin.token").read_text().strip()
    answer = case.call(base_url=f"http://127.0.0.1:{running.api_port}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code < 500, f"{case.method} {case.path}: {answer.status_code} {answer.text[:300]}"


JSON = {"Content-Type": "application/json"}
WORDS = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["", "shop", "web", "true", "1", "v1", "../../etc/passwd", "\x00", "%00", "9" * 400, "nan", "-0", "*"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
STREAMS = (
    "/v1/events", "/v1/apps/{app}/logs", "/v1/apps/{app}/watch", "/v1/apps/{app}/builds/{number}/log",
    "/v1/apps/{app}/run/{task}/attach",
)  # fmt: skip
NAMES = ("n", "follow", "app", "process", "release", "instance", "since", "revision", "x")


def ask(
    running: Platform, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Send one request; return the status and what comes first of the body (an endless one is left there)."""
    token = (running.home / "admin.token").read_text().strip()
    connection = http.client.HTTPConnection("127.0.0.1", running.api_port, timeout=10)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read1(4096)
    finally:
        connection.close()


@given(path=st.sampled_from(STREAMS), app=WORDS, number=WORDS, query=st.dictionaries(st.sampled_from(NAMES), WORDS))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_question_makes_a_stream_fail(
    running: Platform, path: str, app: str, number: str, query: dict[str, str]
) -> None:
    """Whatever stands in path and query: no 5xx, and an error in the one shape."""
    name = quote(number or "1", safe="")
    place = path.format(app=quote(app or "shop", safe=""), number=name, task=name)
    status, body = ask(running, "GET", f"{place}?{urlencode(query)}")
    assert status < 500, (place, query, body)
    assert status < 400 or set(json.loads(body)) == {"error"}, body


@given(body=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"\x1f\x8b" + b)))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_upload_makes_the_api_fail(running: Platform, body: bytes) -> None:
    """What does not begin like gzip is refused; what does is kept under its digest, and leaves nothing half-made."""
    status, answer = ask(running, "PUT", "/v1/sources", body)
    assert status == (200 if body.startswith(b"\x1f\x8b") else 400), answer
    assert all(path.name.endswith(".tar.gz") for path in (running.home / "sources").iterdir())


NO_ARCHIVES = {
    "magic only": b"\x1f\x8b",
    "garbage": b"\x1f\x8bgarbage",
    "no tar": gzip.compress(b"no tar"),
    "empty tar": gzip.compress(bytes(10240)),
}


@pytest.mark.parametrize("case", NO_ARCHIVES)
def test_an_upload_that_is_no_archive_fails_its_build_and_nothing_else(running: Platform, case: str) -> None:
    """The build says so; the API and the builder go on."""
    digest = json.loads(ask(running, "PUT", "/v1/sources", NO_ARCHIVES[case])[1])["digest"]
    body = json.dumps({"source": {"archive": digest}}).encode()
    status, answer = ask(running, "POST", "/v1/apps/shop/builds", body, JSON)
    assert status == 201, answer
    number = json.loads(answer)["spec"]["number"]
    state = wait_until(lambda: ended(running, number), "the build ends")
    assert state["state"] == "failed"
    assert state["reason"]


def ended(running: Platform, number: int) -> dict[str, Any] | None:
    """Return the build's status once it is over."""
    status: dict[str, Any] = json.loads(ask(running, "GET", f"/v1/apps/shop/builds/{number}")[1])["status"]
    return None if status["state"] in ("queued", "running") else status


BODIES = {
    "deep arrays": (b'{"name":' + b"[" * 200_000 + b"]" * 200_000 + b"}", JSON, 400),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON, 400),
    "unclosed": (b"[" * 500_000, JSON, 400),
    "long number": (b'{"name": ' + b"9" * 10_000 + b"}", JSON, 400),
    "huge number": (b'{"name": 1e999}', JSON, 422),
    "not a number": (b'{"name": NaN}', JSON, 422),
    "cut off": (b'{"name": "sh', JSON, 400),
    "no UTF-8": (b"\xff\xfe\x00", JSON, 400),
    "NULs": (bytes(1000), JSON, 400),
    "empty": (b"", JSON, 422),
    "a list": (b"[]", JSON, 422),
    "half a surrogate pair": (b'{"name": "\\ud800"}', JSON, 422),
    "a form": (b"name=shop", {"Content-Type": "application/x-www-form-urlencoded"}, 422),
    "random bytes": (os.urandom(1000), {}, 422),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_no_object_of_json_is_told_so(running: Platform, case: str) -> None:
    """400 if it is not JSON that can be read, 422 if it is not what is asked for; the one shape; never a 5xx."""
    body, headers, expected = BODIES[case]
    status, answer = ask(running, "POST", "/v1/apps", body, headers)
    assert status == expected, answer
    assert json.loads(answer)["error"]["message"] != "There was an error parsing the body"


@pytest.mark.parametrize(("method", "path", "size"), [("POST", "/v1/apps", 2 << 20), ("PUT", "/v1/sources", 1 << 40)])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    running: Platform, method: str, path: str, size: int
) -> None:
    """413 by what is announced, so that nobody waits for a terabyte."""
    status, answer = ask(running, method, path, b"x", {"Content-Length": str(size)})
    assert status == 413, answer
    assert json.loads(answer)["error"]["hint"]
