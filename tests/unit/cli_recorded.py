"""A real HTTP server that gives recorded answers of Seaway's API to the command line, and can be killed meanwhile."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from typer.main import get_command
from typer.testing import CliRunner, Result

from seaway.cli import (
    InstallAnswer,
    InstallCommands,
    InstallOptions,
    Part,
    PlatformCommands,
    UninstallOptions,
    build_cli,
)
from seaway.cli.progress import Progress
from seaway.model import (
    App,
    AppSpec,
    AppStatus,
    Build,
    BuildSpec,
    BuildState,
    BuildStatus,
    Document,
    Instance,
    InstanceState,
    Meta,
    Phase,
    Process,
    Release,
    ReleaseSpec,
    Rollout,
    RolloutSpec,
    RolloutStatus,
    Source,
    Step,
    WorkloadKey,
)

TOKEN = "swy_" + "t" * 43
NOW = datetime.now(UTC)
IMAGE = "sha256:" + "ab12" * 16
PROGRAM = (
    "import sys; from seaway.cli import InstallCommands, PlatformCommands, build_cli; n = lambda *a: 0; "
    "build_cli(PlatformCommands(n, n, list, n, n, n, n), InstallCommands(n, n))(sys.argv[1:])"
)
"""The command line as a process of its own."""


@dataclass(frozen=True)
class Failure:
    """An error answer."""

    status: int
    message: str
    code: str = "invalid"
    hint: str | None = None
    retry_after: str | None = None


@dataclass(frozen=True)
class Events:
    """Server-sent events: (event, data) pairs; `cut` ends the connection without the end of the answer."""

    items: Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class Lines:
    """One JSON value a line."""

    items: Sequence[Any]


@dataclass
class Recorder:
    """Answers per method and path, given in turn (the last one stays), and the requests that came."""

    answers: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    hooks: dict[tuple[str, str], Callable[[], None]] = field(default_factory=dict)
    port: int = 0
    tests: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    def forget(self) -> None:
        """Forget every answer, request and hook; what the test before sent and gave up is not answered any more."""
        self.tests += 1
        self.answers.clear()
        self.requests.clear()
        self.hooks.clear()

    @property
    def token(self) -> str:
        """The token that this test's commands show."""
        return f"swy_{self.tests:043d}"

    def on(self, method: str, path: str, *answers: Any) -> None:
        """Give these answers to requests for /v1 + path, in turn."""
        self.answers[(method, path)] = list(answers)

    def sent(self, method: str, path: str) -> list[Any]:
        """Return the bodies of the requests that came, parsed."""
        return [json.loads(body) if body else None for m, p, _, body in self.requests if (m, p) == (method, path)]

    def queries(self, method: str, path: str) -> list[dict[str, str]]:
        """Return the query parameters of the requests that came."""
        return [query for m, p, query, _ in self.requests if (m, p) == (method, path)]

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        authorization = request.headers.get("authorization")
        if authorization not in {f"Bearer {TOKEN}", f"Bearer {self.token}"}:
            return render(Failure(401, "the token is not known; it may have been revoked", "not-authenticated"))
        path = request.url.path.removeprefix("/v1")
        key = (request.method, path)
        self.requests.append((*key, dict(request.query_params), await request.body()))
        if hook := self.hooks.pop(key, None):
            hook()
        queue = self.answers.get(key)
        if not queue:
            return render(Failure(404, f"there is nothing at {path}", "not-found"))
        found = render(queue.pop(0) if len(queue) > 1 else queue[0])
        if request.method in {"POST", "PATCH"} and found.status_code == 200 and not isinstance(queue[0], Response):
            found.status_code = 201
        return found

    def start(self) -> None:
        """Listen (on the same port as before, if there was one)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()  # from now on: whoever comes before the server runs waits for it
        self.port = listener.getsockname()[1]
        api = FastAPI()
        api.add_api_route("/v1/{path:path}", self.answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        config = uvicorn.Config(api, log_level="critical", lifespan="off", timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        self._server = server
        self._thread = threading.Thread(target=lambda: _serve(server, listener))
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join()
            self._server = self._thread = None


def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    with listener:
        server.run([listener])


def render(answer: Any) -> Response:
    """Return the HTTP answer for a recorded one."""
    match answer:
        case Failure():
            error = {"code": answer.code, "message": answer.message, "hint": answer.hint}
            headers = {"Retry-After": answer.retry_after} if answer.retry_after else None
            return JSONResponse({"error": {k: v for k, v in error.items() if v}}, answer.status, headers)
        case Events():
            text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in answer.items)
            return StreamingResponse(iter([": still here\n\n", text]), media_type="text/event-stream")
        case Lines():
            text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in answer.items)
            return StreamingResponse(iter([text]), media_type="application/x-ndjson")
        case Response():
            return answer
        case Document() | Instance():
            return Response(answer.model_dump_json(), media_type="application/json")
        case list():
            return JSONResponse([json.loads(bytes(render(item).body)) for item in answer])
        case _:
            return JSONResponse(answer)


@dataclass
class Bench:
    """The command line against a recorder, in a folder of its own."""

    api: Recorder
    home: Path
    folder: Path
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def run(self, *args: str, stdin: str | bytes | None = None, env: dict[str, str | None] | None = None) -> Result:
        """Run `seaway ARGS`; no exception but SystemExit may leave it."""
        environment: dict[str, str | None] = {
            "SEAWAY_URL": f"http://127.0.0.1:{self.api.port}",
            "SEAWAY_TOKEN": self.api.token,
            "SEAWAY_HOME": str(self.home),
            "NO_COLOR": "1",
        }
        acting.append(self)
        result = CliRunner().invoke(CLI, list(args), input=stdin, env=environment | (env or {}), prog_name="seaway")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result


def _call(name: str) -> Callable[..., int]:
    """Return a platform command that records its call at the bench that acts."""

    def call(*args: Any) -> int:
        acting[-1].calls.append((name, *args))
        return 0

    return call


async def _install(options: InstallOptions, progress: Progress) -> InstallAnswer:
    acting[-1].calls.append(("install", options))
    progress.say("Deployment seaway-control: created")
    settings = {"namespace": options.settings["namespace"], "version": "0.1.0", "dry_run": options.dry_run}
    objects = [{"kind": "Deployment", "name": "seaway-control", "action": "created"}]
    manifests = ({"kind": "Deployment", "metadata": {"name": "seaway-control"}},) if options.dry_run else ()
    return InstallAnswer({**settings, "objects": objects}, manifests, "" if options.dry_run else TOKEN)


async def _uninstall(options: UninstallOptions, progress: Progress) -> list[dict[str, str]]:
    acting[-1].calls.append(("uninstall", options))
    return [{"kind": "Deployment", "name": "seaway-control", "action": "removed"}]


acting: list[Bench] = []
INSTALL = InstallCommands(install=_install, uninstall=_uninstall)
PLATFORM = PlatformCommands(
    up=_call("up"),
    down=_call("down"),
    status_local=lambda: acting[-1].parts,
    control=_call("control"),
    node=_call("node"),
    router=_call("router"),
    supervise=_call("supervise"),
)
CLI = build_cli(PLATFORM, INSTALL)
COMMAND = get_command(CLI)


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    """One server for all tests: starting one takes longer than most of them."""
    api = Recorder()
    api.start()
    yield api
    api.stop()


@pytest.fixture
def bench(recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A recorder with no answers and the command line, in an empty folder; waits look more often than usual."""
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)  # built once: it takes longer than a test
    monkeypatch.setattr("seaway.cli.waiting.POLL", 0.02)
    monkeypatch.setattr("seaway.cli.commands.oneoff.POLL", 0.02)
    recorder.forget()
    return Bench(recorder, home, folder)


# Documents


def app(name: str = "shop", current: int | None = 4, **status: Any) -> App:
    """An app that serves v4."""
    traffic = {current: 100} if current else {}
    given = {
        "current": current,
        "traffic": traffic,
        "state": "serving",
        "reason": "2 of 2 web instances serve",
        **status,
    }
    return App(meta=meta(name), spec=AppSpec(team="blue"), status=AppStatus.model_validate(given))


def meta(name: str, minutes: float = 3) -> Meta:
    """Metadata of something made a few minutes ago."""
    return Meta(name=name, uid="u", revision=1, created_at=NOW - timedelta(minutes=minutes), updated_at=NOW)


def release(number: int, *, image: str | None = IMAGE, **spec: Any) -> Release:
    """A release of shop."""
    processes = {"web": Process(command="serve")}
    given = {"description": f"Deploy of v{number}", "by": "ann", "processes": processes, **spec}
    return Release(meta=meta(f"shop.v{number}"), spec=ReleaseSpec(app="shop", number=number, image=image, **given))


def rollout(
    number: int, phase: Phase, reason: str, *, base: int | None = 4, paused: bool = False, prepared: bool = False
) -> Rollout:
    """A rollout of shop that has come to a phase; `prepared`: by a release command."""
    order = [
        *([Phase.PREPARING] if prepared else []),
        Phase.STARTING,
        Phase.VERIFYING,
        Phase.SHIFTING,
        Phase.KEEPING,
        Phase.SUCCEEDED,
    ]
    passed = order[: order.index(phase)] if phase in order else []
    steps = [Step(phase=p, at=NOW, reason=f"entered {p}") for p in passed] + [Step(phase=phase, at=NOW, reason=reason)]
    history = () if phase is Phase.QUEUED else tuple(steps)
    return Rollout(
        meta=meta(f"shop.v{number}"),
        spec=RolloutSpec(app="shop", target=number, paused=paused),
        status=RolloutStatus(phase=phase, base=base, reason=reason, entered_at=NOW, history=history),
    )


def build(number: int, state: BuildState, reason: str = "", made: int | None = None) -> Build:
    """A build of shop."""
    image = IMAGE if state is BuildState.SUCCEEDED else None
    return Build(
        meta=meta(f"shop.b{number}"),
        spec=BuildSpec(app="shop", number=number, source=Source(archive="sha256:1"), by="ann"),
        status=BuildStatus(state=state, reason=reason or str(state), image=image, release=made),
    )


def instance(
    number: int, *, state: InstanceState = InstanceState.RUNNING, ready: bool = True, **given: Any
) -> Instance:
    """A web instance of v4."""
    key = WorkloadKey(app="shop", release=4, process=given.pop("process", "web"))
    return Instance(
        id=f"shop-v4-web-{number:04x}", key=key, node="here", state=state, ready=ready, created_at=NOW,
        started_at=NOW - timedelta(hours=2), memory=34_100_000, cpu=0.25, **given,
    )  # fmt: skip
