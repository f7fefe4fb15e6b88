"""Kubernetes' words as one sentence of ours. Pure."""

from __future__ import annotations

import re

from seaway.engine.kubernetes.objects import Amounts, Terminated
from seaway.engine.local.reasons import ERROR_LINES, LINES, describe_exit
from seaway.model.base import say_bytes
from seaway.model.quoting import MARK, quote_error, quote_text

SHOWN = 300  # letters of another program's message
LOG_END = 2048  # bytes that a kubelet takes at most of the end of a log (FallbackToLogsOnError)

_FACT = re.compile(r"(\d+) (?:node\(s\) )?(.+)")
_TAINT = re.compile(r"had (?:untolerated )?taint \{([^:}]+)")
_UNITS = {"Ki": "KiB", "Mi": "MiB", "Gi": "GiB", "Ti": "TiB", "k": "kB", "M": "MB", "G": "GB", "T": "TB"}
_BINARY = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30,
           "Ti": 2**40, "Pi": 2**50, "m": 1e-3, "u": 1e-6, "n": 1e-9}  # fmt: skip
_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (.*), used: (.*), limited: (.*)")
_QUANTITY = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]{0,2})")
_OVER_DISK = re.compile(
    r"(?:local storage usage exceeds the total limit of containers|local ephemeral storage limit) \"?([0-9.]+[a-zA-Z]*)"
)
_FOREVER = (
    "not found", "manifest unknown", "manifest_unknown", "name unknown", "name_unknown", "unauthorized",
    "pull access denied", "access denied", "forbidden", "invalid reference format", "no match for platform",
)  # fmt: skip


def parse_quantity(text: str) -> float:
    """Return an amount as a number: "500m" is 0.5, "1Gi" 1073741824; 0 for what is none."""
    match = _QUANTITY.fullmatch(text.strip())
    return float(match[1]) * _BINARY.get(match[2], 0) if match else 0.0


def describe_unscheduled(message: str, requests: Amounts) -> str:
    """Turn the scheduler's message into "no node has 2 CPUs free (0 of 3)" and what else keeps nodes out."""
    head, _, rest = message.partition("nodes are available:")
    total = head.rpartition("/")[2].strip()
    if not rest or not total.isdigit():
        return f"no node takes it: {message[:SHOWN]}" if message else "waits for a node"
    lacking, others = [], []
    for part in rest.partition(" preemption:")[0].rstrip(". ").split(", "):
        match = _FACT.fullmatch(part.strip().rstrip("."))
        if match is None:
            continue
        count, what = match[1], match[2]
        if what.startswith("Insufficient "):
            lacking.append(_describe_amount(what.removeprefix("Insufficient ").strip(), requests))
        elif what.startswith("Too many pods"):
            lacking.append("room for one more pod")
        elif not what.startswith("that the pod didn't tolerate"):
            others.append(_describe_refusal(int(count), what))
    also = f"; {', '.join(others)}" if others else ""
    if lacking:
        return f"no node has {' and '.join(lacking)} free (0 of {total}){also}"
    return f"no node takes it (0 of {total}){also}"


def _describe_refusal(count: int, what: str) -> str:
    taint = _TAINT.search(what)
    key = taint[1].strip() if taint else ""
    if key in ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"):
        return f"{count} {'does' if count == 1 else 'do'} not answer"
    if key == "node.kubernetes.io/unschedulable" or what.startswith("were unschedulable"):
        return f"{count} cordoned"
    if key.endswith("-pressure"):
        return f"{count} short of {key.partition('/')[2].removesuffix('-pressure')}"
    if key == "seaway.dev/held":
        return f"{count} held back by Seaway"
    return f"{count} kept out by taint {key}" if key else f"{count} {what}"


def _describe_amount(resource: str, requests: Amounts) -> str:
    amount = requests.get(resource, "")
    if resource == "cpu":
        cores = parse_quantity(amount)
        return f"{cores:g} CPU{'' if cores == 1 else 's'}" if cores else "CPU"
    name = {"memory": "memory", "ephemeral-storage": "disk space"}.get(resource, resource)
    match = _QUANTITY.fullmatch(amount)
    return f"{match[1]} {_UNITS.get(match[2], match[2])} of {name}".replace("  ", " ") if match else name


def describe_refused(message: str, pods: str = "its instances") -> str:
    """Say why no pod of a workload is made: which quota lacks what, else the API server's own words."""
    cause = message.partition(" is forbidden: ")[2] or message.removeprefix("Error creating: ")
    if (quota := _QUOTA.search(cause)) is None:
        return f"the cluster refuses {pods}: {_shorten(cause)}"
    asked, used, limits = (_read_amounts(part) for part in quota.group(2, 3, 4))
    lacking = [
        f"{_name_resource(name)}: {_say(name, amount)} asked for, {_say(name, used.get(name, '0'))} of "
        f"{_say(name, limits.get(name, '0'))} used"
        for name, amount in asked.items()
    ]
    return f"the cluster refuses {pods}: quota {quota[1]} lacks {'; '.join(lacking)}"


def _read_amounts(text: str) -> Amounts:
    """Read "pods=1,requests.cpu=100m"."""
    pairs = (part.strip().partition("=") for part in text.split(","))
    return {name: amount for name, _, amount in pairs if name}


def _name_resource(name: str) -> str:
    resource = name.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
    known = {"cpu": "CPU", "ephemeral-storage": "disk space"}.get(resource, resource)
    return f"{known} limits" if name.startswith("limits.") else known


def _say(name: str, amount: str) -> str:
    """Say an amount of a resource: "0.1" of CPU, "128 MiB" of memory, "3" of what is counted."""
    match = _QUANTITY.fullmatch(amount)
    if match is None or name.endswith("cpu"):
        return f"{parse_quantity(amount):g}" if match else amount
    return f"{match[1]} {_UNITS.get(match[2], match[2])}".rstrip()


def describe_pull(image: str, message: str) -> str:
    """Say why an image cannot be pulled."""
    cause = message.rpartition(image)[2] if image in message else message  # what wraps it only names the image again
    detail = _shorten(cause.lstrip('": ')) or _shorten(message)
    return f"image {image} cannot be pulled" + (f": {detail}" if detail else "")


def is_pulled_never(reason: str, message: str) -> bool:
    """Whether trying again will not help: there is no such image, or no right to it."""
    lowered = message.lower()
    return reason in ("InvalidImageName", "ErrImageNeverPull") or any(word in lowered for word in _FOREVER)


def describe_unstartable(reason: str, message: str) -> str:
    """Say why a container cannot be made or started."""
    if reason == "CreateContainerConfigError":
        return f"its configuration is not there: {_shorten(message)}"
    return f"could not be started: {_shorten(message) or reason}"


def read_exit_code(ended: Terminated) -> int:
    """Return the exit code; -N: ended by signal N."""
    return 128 - ended.exit_code if 128 < ended.exit_code <= 128 + 64 else ended.exit_code


def describe_end(ended: Terminated, lived: float | None, limit: str) -> str:
    """Say how a container ended, after how long, and what it wrote last; `limit`: its memory as a quantity, or ""."""
    return _describe_end(ended, lived, limit, quote_output(ended))


def describe_failure(ended: Terminated, limit: str) -> str:
    """Say how a one-off failed, and with which error; `limit` as above."""
    return _describe_end(ended, None, limit, quote_failure(ended))


def _describe_end(ended: Terminated, lived: float | None, limit: str, output: str) -> str:
    if ended.reason == "ContainerStatusUnknown":
        return "ended while its node did not answer"
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return describe_unstartable(ended.reason, ended.message)
    after = f" after {lived:.1f} s" if lived is not None else ""
    if ended.reason == "OOMKilled":
        most = f" of {say_bytes(parse_quantity(limit))}" if limit else ""
        return f"was killed{after}: it used more memory than its limit{most}{output}"
    return describe_exit(read_exit_code(ended)) + after + output


def quote_output(ended: Terminated) -> str:
    """Return "; last output: ..." with the last lines; nothing is known of what ended well."""
    if ended.exit_code == 0:
        return ""
    lines = [quote_text(line) for line in ended.message.splitlines() if line.strip()][-LINES:]
    return f"; {MARK}{' | '.join(lines)}" if lines else "; it wrote nothing"


def quote_failure(ended: Terminated) -> str:
    """Return "; last output: ..." with the error that a one-off ended with; nothing is known of what ended well."""
    if ended.exit_code == 0:
        return ""
    lines = ended.message.splitlines()
    if len(ended.message.encode()) >= LOG_END and len(lines) > 1:
        lines = lines[1:]  # it begins somewhere in a line, perhaps in the midst of a secret
    error = quote_error(lines, ERROR_LINES)
    return f"; {MARK}{' | '.join(error)}" if error else "; it wrote nothing"


def describe_fault(message: str, port: int) -> tuple[str, str]:
    """Split a kubelet's "Readiness probe failed: ..." into the probe ("readiness") and what went wrong."""
    probe, _, detail = message.partition(" probe ")
    detail = detail.removeprefix("failed: ").removeprefix("errored: ").strip()
    if "connection refused" in detail:
        detail = f"port {port} refused the connection"
    elif code := re.search(r"HTTP probe failed with statuscode: (\d+)", detail):
        detail = f"it answered {code[1]}"
    elif "Client.Timeout exceeded" in detail or "i/o timeout" in detail or "DeadlineExceeded" in detail:
        detail = "it got no answer in time"
    return probe.lower(), _shorten(detail)


def describe_eviction(reason: str, message: str) -> str:
    """Say why a pod was thrown out by its node."""
    detail = _shorten(message)
    if (most := _OVER_DISK.search(message)) is not None:
        limit = say_bytes(parse_quantity(most[1]))
        detail = f"it wrote more to its disk than the {limit} that it may (`disk` of its process)"
    what = {"Evicted": "evicted by its node", "NodeLost": "its node was lost", "Shutdown": "its node shuts down"}
    return what.get(reason, "ended by its node" + (f" ({reason})" if reason else "")) + (
        f": {detail}" if detail else ""
    )


def is_over_disk(message: str) -> bool:
    """Whether a kubelet says that a pod wrote more than it may."""
    return _OVER_DISK.search(message) is not None


def _shorten(text: str) -> str:
    return quote_text(text, SHOWN).rstrip(". ")
