"""The rendered HAProxy before servers in network namespaces: one vanishes, one dies, one only waits."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from seaway.cluster.certificates import list_certificates
from seaway.cluster.issuing import Issuer
from seaway.cluster.render import render
from seaway.cluster.writing import write_files
from tests.cluster_kit import make_cluster
from tests.namespace_kit import connect_inside, enter, inside, namespace, running
from tests.packages import find_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
API = ("10.0.0.10", 6443)
SERVERS = {"m1": "10.0.0.11", "m2": "10.0.0.12"}
SERVE = """
import contextlib, socket, ssl, sys, threading, time
name, address, pki = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(f"{pki}/apiserver.crt", f"{pki}/apiserver.key")

def serve(caller):
    with caller, contextlib.suppress(OSError):
        if caller.recv(1, socket.MSG_PEEK) == b"\\x16":  # TLS: a check
            with context.wrap_socket(caller, server_side=True) as check:
                check.recv(4096)
                check.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
            return
        while told := caller.recv(65536):
            if told.startswith(b"wait"):
                time.sleep(13)
            elif b"?" in told:
                caller.sendall(name.encode())

listener = socket.create_server((address, 6444), backlog=1024)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"""


@dataclass
class Lab:
    """A balancer and two servers, each in a namespace of its own."""

    balancer: int  # whose namespace it is
    servers: dict[str, int]
    haproxy: subprocess.Popen[bytes]
    programs: dict[str, subprocess.Popen[str]]

    def connect(self) -> socket.socket:
        return connect_inside(self.balancer, API)

    def connect_to(self, name: str) -> socket.socket:
        """Return a session that the balancer has given to this server."""
        while True:
            made = self.connect()
            if ask(made) == name:
                return made
            made.close()


def ask(session: socket.socket) -> str:
    """Return the name of the server that answers, "" where none does."""
    try:
        session.sendall(b"?")
        return session.recv(64).decode()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference cluster with real keys; each machine's files lie below its own root."""
    folder = tmp_path_factory.mktemp("cluster")
    cluster = make_cluster(root=f"{folder}/machines/{{name}}")
    secrets = Issuer(folder / "pki", cluster.certificates).ensure(list_certificates(cluster))
    write_files(folder, render(cluster, secrets))
    return folder


@pytest.fixture
def lab(rendered: Path) -> Iterator[Lab]:
    """The balancer on m1, from its file as it is: everything has the address that is written there."""
    program = find_program("haproxy")
    if not program:
        pytest.skip("haproxy is not installed")
    with ExitStack() as stack:
        balancer = stack.enter_context(namespace()).pid
        servers = {name: stack.enter_context(namespace()).pid for name in SERVERS}
        inside(balancer, "ip", "link", "set", "lo", "up")
        inside(balancer, "ip", "addr", "add", f"{API[0]}/32", "dev", "lo")
        for name, pid in servers.items():
            lay_cable(balancer, pid, name)
        programs = {name: stack.enter_context(running(serving(name, pid, rendered))) for name, pid in servers.items()}
        config = rendered / "machines/m1/etc/haproxy/haproxy.cfg"
        haproxy = stack.enter_context(subprocess.Popen(enter(balancer, program, "-db", "-f", str(config))))
        stack.callback(haproxy.kill)
        while f"{API[0]}:{API[1]}" not in inside(balancer, "ss", "-Hltn"):
            assert haproxy.poll() is None
            time.sleep(0.05)
        yield Lab(balancer, servers, haproxy, programs)


def lay_cable(balancer: int, server: int, name: str) -> None:
    """Connect the balancer with a server."""
    there = ["peer", "name", "eth0", "netns", str(server)]
    inside(balancer, "ip", "link", "add", name, "type", "veth", *there)
    inside(server, "ip", "addr", "add", f"{SERVERS[name]}/32", "dev", "eth0")
    for pid, device, other in ((balancer, name, SERVERS[name]), (server, "eth0", API[0])):
        inside(pid, "ip", "link", "set", device, "up")
        inside(pid, "ip", "route", "add", f"{other}/32", "dev", device)


def serving(name: str, pid: int, folder: Path) -> list[str]:
    """Return the command of a server that tells its name to whoever asks, and HAProxy that it is ready."""
    pki = f"{folder}/machines/{name}/etc/kubernetes/pki"
    return enter(pid, "python3", "-c", SERVE, name, SERVERS[name], pki)


def fill(session: socket.socket) -> None:
    """Send until nothing more is taken."""
    session.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            session.send(b"." * 65536)
    session.settimeout(20)


def has_ended(session: socket.socket, within: float = 0.5) -> bool:
    """Return whether the balancer ends a session on which nobody answers."""
    if not select.select([session], [], [], within)[0]:
        return False
    with suppress(ConnectionError):
        assert session.recv(1) == b""
    return True


def test_sessions_to_a_server_that_vanished_end(lab: Lab) -> None:
    """A neighbour's go on, also one whose server does not read for longer than that takes (a long import, say)."""
    with ExitStack() as stack:
        idle = stack.enter_context(lab.connect_to("m1"))
        lively, waiting = (stack.enter_context(lab.connect_to("m2")) for _ in range(2))
        waiting.sendall(b"wait")
        fill(waiting)
        inside(lab.servers["m1"], "ip", "link", "set", "eth0", "down")
        began = time.monotonic()
        while not has_ended(idle):
            assert time.monotonic() - began < 20
            assert ask(lively) == "m2"
        assert ask(waiting) == "m2"


def test_a_request_that_a_dead_server_refuses_is_sent_on(lab: Lab) -> None:
    """Also while the checks that take the server out fail at the same moment, as on a machine that stood still."""
    lab.programs["m1"].kill()
    lab.programs["m1"].wait()
    for _ in range(6):  # the third failed check takes it out
        with ExitStack() as stack:
            lab.haproxy.send_signal(signal.SIGSTOP)
            sessions = [stack.enter_context(lab.connect()) for _ in range(300)]
            for session in sessions:
                session.sendall(b"?")
            time.sleep(0.55)  # longer than between two checks: one is due when HAProxy goes on
            lab.haproxy.send_signal(signal.SIGCONT)
            assert {session.recv(64) for session in sessions} == {b"m2"}
