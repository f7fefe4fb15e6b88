"""Every limit that a user or an operator can hit, for docs/limits.md: each number is read from the code that holds it.

Nothing of Seaway imports this; `scripts/gen_limits_docs.py` writes it down, and a test walks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from seaway.api.callers import BURST_SECONDS, MOST_STREAMS
from seaway.api.changing import MOST_WAITING
from seaway.api.endpoints.routes import MOST_ROUTES
from seaway.api.endpoints.running import MOST_LINES
from seaway.api.endpoints.tokens import MOST_TOKENS
from seaway.api.endpoints.watching import MOST_EVENTS
from seaway.api.guard import JSON_LIMIT
from seaway.api.inputs import LONGEST_STDIN, NewRelease, Scale, TaskInput
from seaway.builder.commands import LONGEST_LINE, MOST_OUTPUT
from seaway.builder.manifest import LONGEST_COMMAND
from seaway.builder.quarters import LIMITS as BUILD_LIMITS
from seaway.builder.schema import SeawayToml
from seaway.builder.source import DEFAULT_LIMITS as SOURCE
from seaway.builder.source import LARGEST_ARCHIVE
from seaway.cli.commands.oneoff import TERMINAL_TIMEOUT
from seaway.control.builds import AT_ONCE, MAX_ATTEMPTS
from seaway.control.process import TEND_INTERVAL
from seaway.control.serving import HEAD_LIMIT
from seaway.disk import FULL_PART, TIGHT_MOST, TIGHT_SHARE
from seaway.disk import LOW as DISK_LOW
from seaway.engine.kubernetes.settings import KubernetesEngineSettings
from seaway.engine.local.base import Timings
from seaway.engine.local.footprint import LEAST as NAME_BYTES
from seaway.engine.local.machine import DISK, PIDS
from seaway.engine.local.room import RESERVE, RESERVE_LEAST, divide
from seaway.engine.local.shim import AHEAD
from seaway.engine.local.starts import BEGINNING, LEAST
from seaway.home import Settings
from seaway.install.settings import InstallSettings
from seaway.logs.segments import Limits as LogLimits
from seaway.logs.shape import LONGEST as LONGEST_LOG_LINE
from seaway.model import BuildSpec, Frozen, Health, Process, Quotas, RolloutPolicy, RouterPolicy
from seaway.model.base import say_bytes
from seaway.model.environment import LONGEST_VALUE
from seaway.rollout.history import MOST_BUILDS, MOST_RELEASES, SETTLED
from seaway.rollout.keeping import KEEP_BUILDS, KEEP_RELEASES, KEEP_SERVED
from seaway.rollout.progress import PAUSE_LIMIT
from seaway.rollout.releases import LARGEST_CONFIG, MOST_CONFIG
from seaway.router.bootstrap import ACCESS_LOG
from seaway.router.envoy import RETRIES
from seaway.router.limits import (
    CONNECTION_BUFFER,
    HEADER_LINES,
    HEADERS_KIB,
    HEADERS_TIMEOUT,
    MOST_CONNECTIONS,
    RETRY_AFTER,
    RETRY_BUFFER,
    STREAMS,
)
from seaway.router.process import ENVOY_LOG
from seaway.router.running import LOG_LIMITS
from seaway.sandbox.enter import SHARED_MEMORY
from seaway.store.database import KEEP_CHANGES
from seaway.store.events import KEEP_EVENTS, KEEP_EVENTS_OF_APP
from seaway.store.sqlite import RESERVE as STORE_RESERVE
from seaway.supervisor.processes import LOG_LIMIT


@dataclass(frozen=True)
class Limit:
    """One limit: `default` is what it is if nobody changed it, `at_it` what happens there and to whom.

    `test`: the pytest node id, without parameters, of the test that hits it.
    """

    name: str
    bounds: str
    default: str
    change: str
    at_it: str
    test: str


FIXED = "fixed"
QUOTA = "of `seaway up` and `seaway install`; 0: none"


def _bound(model: type[Frozen], name: str, word: str = "maximum") -> Any:
    """Return what a model's field may have at most; `word` as of pydantic's JSON schema ("le" of durations)."""
    schema = model.model_json_schema()["properties"][name]
    return next(side[word] for side in (schema, *schema.get("anyOf", ())) if word in side)


def _count(number: float) -> str:
    return f"{number:,g}" if number < 1_000_000 else f"{number:,.0f}"


def _quota(number: int) -> str:
    return _count(number) if number else "none"


def _seconds(model: type[Frozen], name: str) -> str:
    return f"{_count(model.model_fields[name].default)} s"


_QUOTAS, _LOGS, _CLUSTER = Quotas(), LogLimits(), KubernetesEngineSettings()
_MOST_OF_A_PROCESS = TypeAdapter(Scale).json_schema()["additionalProperties"]["maximum"]
_ACCESS, _ACCESS_KEPT = LOG_LIMITS[ACCESS_LOG]

_API = "tests/unit/test_api_limits.py::"
_SIZES = f"{_API}test_sizes_of_what_is_asked_for"

API = (
    Limit(
        "requests of a token",
        "requests to the API, a second",
        f"{_count(_QUOTAS.token_rate)} in the long run, {_count(BURST_SECONDS * _QUOTAS.token_rate)} at once",
        f"`--token-rate` {QUOTA}",
        "429 `too-many-requests` with `Retry-After`; nothing was done, and the command line sends it again as told. "
        "A stream counts once. `/healthz` and `/metrics` are always answered",
        f"{_API}test_a_token_that_asks_too_often_is_told_when_to_ask_again",
    ),
    Limit(
        "requests without a good token",
        "requests to the API, a second, from one address",
        "as those of a token",
        f"`--token-rate` {QUOTA}",
        "429 in place of 401; a good token from the same address is answered",
        f"{_API}test_who_shows_no_good_token_is_counted_by_address",
    ),
    Limit(
        "streams of a token",
        "followed logs and events, watches, waits for one-offs (`seaway run` has one; two by way of the logs) at once",
        _count(MOST_STREAMS),
        FIXED,
        "429 `too-many-streams` for the one more; those that are open go on",
        f"{_API}test_streams_at_once",
    ),
    Limit(
        "head of a request",
        "headers and query that are sent to the API",
        say_bytes(HEAD_LIMIT),
        FIXED,
        "431 `head-too-large`; the connection of who goes on sending is ended, before any token is looked at",
        "tests/unit/test_serving.py::test_a_head_without_end_is_refused",
    ),
    Limit(
        "body of a request",
        "JSON that is sent to the API",
        say_bytes(JSON_LIMIT),
        FIXED,
        "413 `too-large`, before more of it is read",
        "tests/unit/test_api_auth.py::test_large_bodies_are_refused",
    ),
    Limit(
        "uploaded source",
        "the packed archive of `seaway deploy`",
        say_bytes(LARGEST_ARCHIVE),
        FIXED,
        "413 `too-large`; `.seawayignore` leaves files out",
        "tests/unit/test_api_auth.py::test_large_bodies_are_refused",
    ),
    Limit("lines asked for", "`-n` of `seaway logs`", _count(MOST_LINES), FIXED, "422 `invalid`, names `n`", _SIZES),
    Limit(
        "events asked for", "`-n` of `seaway events`", _count(MOST_EVENTS), FIXED, "422 `invalid`, names `n`", _SIZES
    ),
)

APPS = (
    Limit(
        "apps of a team",
        "apps that are there, those being destroyed too",
        _quota(_QUOTAS.team_apps),
        f"`--team-apps` {QUOTA}",
        "422 `too-many-apps` for who creates one more; other teams create theirs. Apps that come by `kubectl apply` "
        "count and are not refused",
        f"{_API}test_apps_of_a_team",
    ),
    Limit(
        "tokens of a team",
        "tokens that are there, expired ones too; those of every team count by themselves",
        _count(MOST_TOKENS),
        FIXED,
        "422 `too-many-tokens` for the admin who makes one more",
        f"{_API}test_tokens_of_a_team",
    ),
    Limit(
        "routes of an app",
        "routes besides those of seaway.toml",
        _count(MOST_ROUTES),
        FIXED,
        "422 `too-many-routes`",
        f"{_API}test_routes_of_an_app",
    ),
    Limit(
        "routes of a release",
        "`routes` in seaway.toml",
        _count(_bound(SeawayToml, "routes", "maxItems")),
        FIXED,
        "the build fails and says so",
        "tests/unit/test_builder_manifest.py::test_bad_toml",
    ),
    Limit(
        "persistent folders of an app",
        "`[[mounts]]` in seaway.toml; what is in them is not limited",
        _count(_bound(SeawayToml, "mounts", "maxItems")),
        FIXED,
        "the build fails and says so",
        "tests/unit/test_builder_manifest.py::test_bad_toml",
    ),
    Limit(
        "instances of a process",
        "what `seaway ps scale` and `[scale]` may say",
        _count(_MOST_OF_A_PROCESS),
        FIXED,
        "422 `invalid`, names the process",
        _SIZES,
    ),
    Limit(
        "instances of an app",
        "instances of all its processes",
        _quota(_QUOTAS.app_instances),
        f"`--app-instances` {QUOTA}; `--force` (admins) for once",
        "422 `does-not-fit` with the number that does; what runs goes on",
        "tests/unit/test_capacity.py::test_limits_are_named",
    ),
    Limit(
        "instances of a team",
        "instances of all its apps",
        _quota(_QUOTAS.team_instances),
        f"`--team-instances` {QUOTA}; `--force` (admins) for once",
        "422 `does-not-fit` with the number that does; other teams' apps do not count",
        "tests/unit/test_capacity.py::test_limits_are_named",
    ),
    Limit(
        "memory of an app",
        "what its instances take, or are expected to",
        _quota(_QUOTAS.app_memory),
        f"`--app-memory` {QUOTA}; `--force` (admins) for once",
        "422 `does-not-fit` with the number that does",
        "tests/unit/test_capacity.py::test_limits_are_named",
    ),
    Limit(
        "memory of a team",
        "what the instances of all its apps take, or are expected to",
        _quota(_QUOTAS.team_memory),
        f"`--team-memory` {QUOTA}; `--force` (admins) for once",
        "422 `does-not-fit` with the number that does",
        "tests/unit/test_capacity.py::test_limits_are_named",
    ),
    Limit(
        "memory of a machine",
        "what more instances may take",
        "what is left of the room of all apps, see below",
        "more memory; `--force` (admins) for once",
        "422 `does-not-fit` with the number that does; a build then makes no release and says so",
        "tests/unit/test_api_capacity.py::test_scaling_to_more_than_fits_is_refused_with_the_number_that_does",
    ),
)

CONFIG = (
    Limit(
        "config values of an app",
        "keys of `seaway config`",
        _count(MOST_CONFIG),
        FIXED,
        "422 `config-too-large`, no release is made; a change that makes it smaller always is",
        f"{_API}test_config_of_an_app",
    ),
    Limit(
        "config of an app",
        "all its keys and values together",
        say_bytes(LARGEST_CONFIG),
        FIXED,
        "422 `config-too-large`, as above",
        f"{_API}test_config_of_an_app",
    ),
    Limit(
        "config value",
        "one value in UTF-8; with its key it is below what Linux takes of one variable",
        say_bytes(LONGEST_VALUE),
        FIXED,
        "422 `invalid`, names it",
        _SIZES,
    ),
    Limit(
        "command",
        "characters of a process's command, or a one-off's",
        _count(LONGEST_COMMAND),
        FIXED,
        "the build fails and says so; 422 `invalid` for a one-off",
        _SIZES,
    ),
    Limit(
        "app files given along",
        "characters of Procfile or seaway.toml with `seaway deploy --image`",
        _count(_bound(NewRelease, "procfile", "maxLength")),
        FIXED,
        "422 `invalid`, names the file",
        _SIZES,
    ),
    Limit(
        "input of a one-off",
        "what `seaway run -i` passes on with `-d` or `-o json`; else it has no bound",
        say_bytes(LONGEST_STDIN),
        FIXED,
        "exit code 2, or 422 `invalid`; nothing runs",
        _SIZES,
    ),
    Limit(
        "output of a one-off on its way",
        "what it wrote and whoever waits for it was not sent yet",
        f"{say_bytes(AHEAD)} of each stream",
        FIXED,
        "its next write waits",
        "tests/contract/test_local_streams.py::test_a_slow_reader_slows_the_command_down",
    ),
    Limit(
        "time of a one-off",
        "from its start to its end",
        f"{_seconds(TaskInput, 'timeout')}, at most {_count(_bound(TaskInput, 'timeout', 'le'))} s",
        f"`--timeout` of `seaway run`, which says {TERMINAL_TIMEOUT:,.0f} s for a command with a terminal",
        "it is killed, and says so",
        "tests/contract/test_local_instances.py::test_task_output_and_timeout",
    ),
    Limit(
        "one-offs remembered",
        "of a machine, that have ended; how many run at once is bounded by streams and by what instances may have",
        _count(Timings().kept_tasks),
        FIXED,
        "the oldest are forgotten; their logs stay",
        "tests/contract/test_local_instances.py::test_only_the_latest_tasks_are_remembered",
    ),
)

INSTANCES = (
    Limit(
        "memory of an instance",
        "all its processes, with swap; also of a release command and a one-off",
        f"none; in a cluster {_CLUSTER.memory_limit}",
        "`memory` of `[processes.NAME]`",
        "it is killed, started again, and told by its limit (`seaway ps`, event)",
        "tests/contract/test_limits.py::test_a_memory_kill_is_named_with_the_limit",
    ),
    Limit(
        "processors of an instance",
        "processor time of all its processes",
        "none; who wants more than there is shares in equal parts",
        "`cpu` of `[processes.NAME]`",
        "it waits",
        "tests/contract/test_limits.py::test_processor_time",
    ),
    Limit(
        "processes of an instance",
        "processes and threads",
        f"{_count(PIDS)}; in a cluster the kubelet's `podPidsLimit`",
        "`pids` of `[processes.NAME]`",
        "it can start no more (`EAGAIN`)",
        "tests/contract/test_limits.py::test_processes_without_end",
    ),
    Limit(
        "disk of an instance",
        f"its files, at least {say_bytes(NAME_BYTES)} for each name, deleted ones while they are open; not those that "
        "it was deployed with, nor its output; also of a release command and a one-off",
        f"{say_bytes(DISK)}; in a cluster {_CLUSTER.storage_limit}, with its output",
        "`disk` of `[processes.NAME]`",
        "it is ended, started again with new files, and told by its limit (`seaway ps`, event `InstanceOverDisk`)",
        "tests/contract/test_limits.py::test_files_without_end",
    ),
    Limit(
        "disk of an app's /tmp",
        "/tmp and /var/tmp, which all instances of an app on a machine share, where Seaway runs as root",  # noqa: S108
        "the largest `disk` of those that run there",
        "`disk` of `[processes.NAME]`",
        "all of them are ended, and begin again with an empty one",
        "tests/contract/test_limits.py::test_all_of_an_app_begin_again_where_its_tmp_is_too_full",
    ),
    Limit(
        "shared memory of an instance",
        "/dev/shm, where Seaway runs as root",  # noqa: S108
        SHARED_MEMORY.upper().replace("M", " MiB"),
        FIXED,
        "its write fails (`ENOSPC`)",
        "tests/contract/test_sandbox.py::test_shared_memory_is_bounded",
    ),
    Limit(
        "open files of an instance",
        "of each of its processes",
        "the one that `seaway up` had (`ulimit -n`)",
        "`ulimit -n` before `seaway up`",
        "it can open no more (`EMFILE`)",
        "tests/contract/test_local_output.py::test_instances_have_the_usual_number_of_files",
    ),
    Limit(
        "memory of all apps",
        "all instances and builds of a machine together",
        f"the machine's but 1/{RESERVE}, at least {say_bytes(RESERVE_LEAST)}, at most half",
        "more memory",
        "the largest in there are killed, told so and started again; Seaway's own parts and the system go on",
        "tests/unit/test_limits.py::test_apps_have_most_of_a_machine_and_never_all",
    ),
    Limit(
        "processes of all apps",
        "processes and threads of all instances and builds of a machine",
        f"{divide(1 << 40, 100).pids} % of the machine's",
        "`kernel.threads-max`, `kernel.pid_max`",
        "nobody in there can start one more; Seaway's own parts can",
        "tests/unit/test_limits.py::test_apps_have_most_of_a_machine_and_never_all",
    ),
    Limit(
        "starts at once",
        f"instances of an app that begin at the same time, for {_count(BEGINNING)} s each",
        f"as many as the machine has processors, at least {LEAST}",
        FIXED,
        "the next ones wait for their turn; other apps have their own",
        "tests/unit/test_starts.py::test_an_app_waits_for_its_own_instances_alone",
    ),
    Limit(
        "restarts",
        "time before an instance that failed is started again",
        f"{_count(Timings().first_delay)} s, twice as long each time, at most {_count(Timings().longest_delay)} s",
        FIXED,
        f"it waits; after {Timings().crashing_after} failures in a row it counts as crashing",
        "tests/unit/test_local_parts.py::test_delays_grow_to_a_limit",
    ),
    Limit(
        "start of an instance",
        "from its start until it is ready",
        _seconds(Health, "start_timeout"),
        "`start_timeout` of `[processes.NAME.health]`",
        "it is started again, and says what it lacked",
        "tests/contract/test_engine.py::test_never_ready",
    ),
    Limit(
        "stop of an instance",
        "from SIGTERM to its end",
        _seconds(Process, "stop_grace"),
        "`stop_grace` of `[processes.NAME]`",
        "it is killed",
        "tests/contract/test_local_agent.py::test_stop_goes_on",
    ),
    Limit(
        "a team in a cluster",
        "what its namespace may have",
        ", ".join(f"{kind} {amount}" for kind, amount in _CLUSTER.quota.items() if amount != "0"),
        "the ResourceQuota of its namespace",
        "no more instances are made; `seaway ps`, the app and its rollout say which quota lacks what",
        "tests/kube/test_engine_reasons.py::test_the_quota_is_used_up",
    ),
)

_LOST = "lines are given up and counted (flag `lost`), then its writer waits; others lose nothing"

_ROUTER = "tests/contract/test_router_limits.py::"
_HEADERS = f"{HEADERS_KIB} KiB, {HEADER_LINES} headers"

ROUTERS = (
    Limit(
        "requests in flight",
        "to a release through one router, open WebSockets included",
        _count(RouterPolicy.model_fields["max_requests"].default),
        f"`max_requests` of `[router]`, at most {_count(_bound(RouterPolicy, 'max_requests'))}",
        f"503 `overloaded` at once, with `Retry-After: {RETRY_AFTER}`; other apps' requests are served. Each of a "
        "router's threads (one for each processor, at most 4) may let one more through at the very same moment",
        f"{_ROUTER}test_requests_in_flight_of_one_app",
    ),
    Limit(
        "connections of clients",
        "to one router",
        f"3/8 of the files that it may open, at most {_count(MOST_CONNECTIONS)}",
        "`ulimit -Hn`, `LimitNOFILE`",
        "new ones are closed as soon as they are accepted, open ones go on; the router warns where it may open few",
        f"{_ROUTER}test_connections_of_one_client",
    ),
    Limit(
        "requests of an HTTP/2 connection",
        "in flight at once",
        _count(STREAMS),
        FIXED,
        "the client is told, and waits with more",
        f"{_ROUTER}test_streams_of_one_http2_connection",
    ),
    Limit(
        "headers of an app's request",
        "its first line and headers",
        _HEADERS,
        FIXED,
        "431 `headers-too-large`",
        f"{_ROUTER}test_headers_of_a_request",
    ),
    Limit(
        "headers of an app's answer",
        "what an instance answers before the body",
        _HEADERS,
        FIXED,
        "502 `bad-answer`",
        f"{_ROUTER}test_headers_of_an_answer",
    ),
    Limit(
        "bodies",
        "of requests and answers",
        "none: they are passed on as they come, and the app decides",
        FIXED,
        "nothing",
        f"{_ROUTER}test_a_body_of_any_size_passes_and_is_not_kept",
    ),
    Limit(
        "a body on its way",
        "what a router keeps of one",
        f"{say_bytes(CONNECTION_BUFFER)} each way, and {say_bytes(RETRY_BUFFER)} of a request's for another try",
        FIXED,
        "the sender has to wait for the receiver",
        f"{_ROUTER}test_a_body_of_any_size_passes_and_is_not_kept",
    ),
    Limit(
        "time for headers",
        "from the first byte of a request to the end of its headers",
        f"{_count(HEADERS_TIMEOUT)} s",
        FIXED,
        "408 `timed-out`",
        f"{_ROUTER}test_headers_that_come_too_slowly",
    ),
    Limit(
        "silence of a request",
        "a request or WebSocket without a byte, either way",
        _seconds(RouterPolicy, "idle_timeout"),
        "`idle_timeout` of `[router]`",
        "504 or 408 `timed-out`, or the connection breaks off if the answer had begun",
        f"{_ROUTER}test_a_body_that_does_not_come",
    ),
    Limit(
        "tries of a request",
        "at different instances, where it may be sent again",
        _count(RETRIES + 1),
        FIXED,
        "the last one's fault is the answer",
        "tests/contract/test_router_routing.py::test_only_what_changes_nothing_is_tried_again",
    ),
)

_DISK_FREE = f"{_count(100 * TIGHT_SHARE)} % or {say_bytes(TIGHT_MOST)} free, whichever is less"

PLATFORM_DISK = (
    Limit(
        "a disk that fills up",
        "the file system of SEAWAY_HOME",
        f"{_count(100 * DISK_LOW)} % in use",
        FIXED,
        "`seaway status` and the event `DiskLow` say so; images and caches that nothing needs are deleted at once",
        "tests/unit/test_disk.py::test_each_level_is_told_once_and_things_are_pruned_early",
    ),
    Limit(
        "a disk that is almost full",
        "the file system of SEAWAY_HOME",
        _DISK_FREE,
        FIXED,
        "507 `disk-full` for who deploys from source; builds that are queued wait; of each app's logs "
        f"{LogLimits().tight_segments} files stay; event `DiskAlmostFull`",
        "tests/e2e/test_full_disk.py::test_parts_are_killed_on_a_full_disk",
    ),
    Limit(
        "a disk that is full",
        "the file system of SEAWAY_HOME",
        f"{_count(100 * TIGHT_SHARE * FULL_PART)} % or {say_bytes(TIGHT_MOST * FULL_PART)} free, whichever is less",
        FIXED,
        "builds that run fail and say so, and what they took is free again; event `DiskFull`. Instances go on; one "
        "that ends says why it cannot be started, and is tried every 5 s",
        "tests/unit/test_builds_waiting.py::test_builds_give_way_where_the_disk_is_almost_full",
    ),
    Limit(
        "documents on a full disk",
        "what the store can write when nobody else can",
        say_bytes(STORE_RESERVE),
        FIXED,
        "507 `disk-full` for who would change something; what runs goes on, and nothing is lost",
        "tests/contract/test_full_disk.py::test_documents_have_a_reserve",
    ),
)

LOGS = (
    Limit(
        "logs of an app",
        "files below SEAWAY_HOME/logs/APP",
        f"{_LOGS.segments} files of {say_bytes(_LOGS.segment_bytes)}",
        FIXED,
        "its oldest lines go",
        "tests/unit/test_logs_files.py::test_disk_is_bounded",
    ),
    Limit(
        "log rate of an instance",
        "what it may add to the log of its app",
        f"{say_bytes(_LOGS.rate_bytes)} a second in the long run, {say_bytes(_LOGS.burst_bytes)} at once",
        FIXED,
        "what has to wait waits in a file, see the next one",
        "tests/unit/test_logs_files.py::test_a_flood_leaves_others_alone",
    ),
    Limit(
        "log that waits",
        "output of one stream (stdout, stderr) of an instance that is not copied yet, as log",
        say_bytes(_LOGS.backlog_bytes),
        FIXED,
        _LOST,
        "tests/unit/test_logs_files.py::test_lost_lines_are_counted",
    ),
    Limit(
        "line of a log",
        "one line of output",
        say_bytes(LONGEST_LOG_LINE),
        FIXED,
        "it is split, with the flag `partial`",
        "tests/unit/test_logs_shape.py::test_long_lines_are_split_with_a_flag",
    ),
    Limit(
        "logs of Seaway's parts",
        "each file in SEAWAY_HOME/logs/platform",
        f"{say_bytes(LOG_LIMIT)}, and one older file",
        FIXED,
        "the older file goes",
        "tests/unit/test_rotation.py::test_logs_of_parts",
    ),
    Limit(
        "logs of a router",
        "its access log, and Envoy's own",
        f"{say_bytes(_ACCESS)} and {_ACCESS_KEPT} older files; {say_bytes(LOG_LIMITS[ENVOY_LOG][0])} and "
        f"{LOG_LIMITS[ENVOY_LOG][1]}",
        FIXED,
        "the oldest file goes",
        "tests/unit/test_rotation.py::test_logs_of_routers",
    ),
)

BUILDS = (
    Limit(
        "builds at once",
        "of all apps, on the control plane that leads",
        _count(AT_ONCE),
        FIXED,
        "the next ones wait (`waiting for a builder`), in the order in which they came",
        "tests/unit/test_builds_waiting.py::test_so_many_builds_run_at_once",
    ),
    Limit(
        "builds of an app",
        "at once",
        "1",
        FIXED,
        "its next ones wait; other apps' builds do not wait for them",
        "tests/unit/test_builds_waiting.py::test_an_app_has_one_build_at_a_time",
    ),
    Limit(
        "builds that wait",
        "of an app, with the one that runs",
        _count(MOST_WAITING),
        FIXED,
        "409 `too-many-builds` for the one more; other apps have their own",
        f"{_API}test_builds_that_wait",
    ),
    Limit(
        "time of a build",
        "from its start to its end",
        _seconds(BuildSpec, "timeout"),
        "`timeout` of `[build]`, to less",
        "it is killed and fails, and says so",
        "tests/contract/test_builder_process.py::test_build_timeout_of_the_app",
    ),
    Limit(
        "tries of a build",
        "how often one is begun that the end of the control plane interrupts",
        _count(MAX_ATTEMPTS),
        FIXED,
        "it fails, and says so",
        "tests/unit/test_builds_waiting.py::test_a_build_that_was_interrupted_too_often_is_given_up",
    ),
    Limit(
        "source of a build",
        "files, unpacked",
        f"{_count(SOURCE.entries)} files, {say_bytes(SOURCE.bytes)}",
        FIXED,
        "the deploy, or the build, fails and says so",
        "tests/unit/test_builder_source.py::test_limits_and_nothing_to_pack",
    ),
    Limit(
        "output of a build",
        "its log",
        say_bytes(MOST_OUTPUT),
        FIXED,
        "more lines are counted, and their number is told",
        "tests/contract/test_builder_commands.py::test_more_lines_than_there_is_room_for_are_counted",
    ),
    Limit(
        "line of a build",
        "characters of one line of its output",
        _count(LONGEST_LINE),
        FIXED,
        "it is cut",
        "tests/contract/test_builder_commands.py::test_an_endless_line_is_cut",
    ),
    Limit(
        "processes of builds",
        "processes and threads of all builds together",
        _count(BUILD_LIMITS.pids or 0),
        FIXED,
        "builds can start no more; instances can",
        "tests/contract/test_build_protection.py::test_builds_give_way",
    ),
)

HISTORY = (
    Limit(
        "events",
        "of an app, of no app (nodes, the disk, tokens), of all apps that are gone; of everything together",
        f"{_count(KEEP_EVENTS_OF_APP)} each; {_count(KEEP_EVENTS)}",
        FIXED,
        "the oldest of that app go; of everything together, the oldest of the apps that have the most. It is looked "
        f"at every {_count(TEND_INTERVAL)} s, and there may be more between the looks",
        "tests/contract/test_store.py::test_an_app_takes_nobodys_events",
    ),
    Limit(
        "releases of an app",
        "with their rollouts",
        f"the newest {MOST_RELEASES}, and older ones that something refers to",
        FIXED,
        "the oldest go, at the latest after an hour. What serves, is on its way, has something running, is of a build "
        "that is kept, or is the only one with an image that can be rolled back to stays, and so does each for "
        f"{_count(SETTLED.total_seconds() / 60)} minutes. Numbers are never used again; 404 says that it is not kept",
        "tests/contract/test_pruning.py::test_old_documents_go",
    ),
    Limit(
        "builds of an app that are kept",
        "builds, with their logs",
        f"the newest {MOST_BUILDS}, and older ones that are not done, or of which the image is kept",
        FIXED,
        "the oldest go, as releases do",
        "tests/contract/test_pruning.py::test_old_documents_go",
    ),
    Limit(
        "images of an app",
        "what can be rolled back to",
        f"those of the newest {KEEP_RELEASES} releases, of the last {KEEP_SERVED} different ones that served, and of "
        f"the newest {KEEP_BUILDS} builds",
        FIXED,
        "older ones are deleted; a rollback to them is refused (409 `image-gone`)",
        "tests/unit/test_keeping.py::test_newest_releases_and_the_last_that_served",
    ),
    Limit(
        "changes kept for watches",
        "changes of documents that who follows may have missed",
        _count(KEEP_CHANGES),
        FIXED,
        "the stream ends with the error `expired`; who asks again without `since` gets what there is",
        "tests/contract/test_store.py::test_watch_from_before_the_kept_changes_expires",
    ),
    Limit(
        "a phase of a rollout",
        "release command; start; routers; drain",
        "; ".join(_seconds(RolloutPolicy, f"{name}_timeout") for name in ("release", "start", "router"))
        + f"; {_seconds(RolloutPolicy, 'drain')}",
        "`release_timeout`, `start_timeout`, `router_timeout`, `drain` of `[rollout]`",
        "the rollout is rolled back, and says why; after `drain` requests still in flight are cut off",
        "tests/unit/test_refused_instances.py::test_a_rollout_waits_then_gives_up_with_the_reason",
    ),
    Limit(
        "a paused rollout",
        "how long it holds",
        f"{_count(PAUSE_LIMIT.total_seconds() / 3600)} hours",
        FIXED,
        "it ends as if it had been cancelled",
        "tests/unit/test_pausing.py::test_a_pause_ends",
    ),
)

PLATFORM = (
    Limit(
        "routers",
        "of one machine; of a cluster",
        f"at most {_bound(Settings, 'routers')}; {_bound(InstallSettings, 'routers')}",
        "`--routers` of `seaway up` and `seaway install`",
        "the command says so and changes nothing",
        "tests/unit/test_cli_platform.py::test_up_names_the_option_that_is_wrong",
    ),
)

LIMITS: dict[str, tuple[Limit, ...]] = {
    "The API": API,
    "Teams and apps": APPS,
    "Config and one-offs": CONFIG,
    "Instances": INSTANCES,
    "Routers": ROUTERS,
    "The disk": PLATFORM_DISK,
    "Logs": LOGS,
    "Builds": BUILDS,
    "What is kept": HISTORY,
    "The platform": PLATFORM,
}
"""All of them, by heading."""
