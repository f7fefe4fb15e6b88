"""A real registry (Debian's docker-registry) on a free port of this machine, and what tests put into it."""

from __future__ import annotations

import asyncio
import base64
import http.server
import ipaddress
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from seaway.registry.images import Registries
from seaway.registry.reference import Place
from seaway.registry.transport import Access
from tests.kube.lab.images import Image, ensure_base, make_busybox, push
from tests.packages import ensure_packages
from tests.ports import free_port

USER, PASSWORD = "bob", "hunter2-of-the-registry"


@dataclass
class Registry:
    """A registry that runs; `host` is 127.0.0.1:PORT."""

    host: str
    root: Path
    access: Access
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        self.place = Place(self.host, "apps")

    def registries(self, access: Access | None = None) -> Registries:
        """Return clients that reach it."""
        return Registries(self.place, access or self.access)

    def find_blob(self, digest: str) -> Path:
        """Return the file that holds a blob."""
        name = digest.removeprefix("sha256:")
        return self.root / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"


def write_credentials(file: Path, host: str, password: str = PASSWORD) -> Path:
    """Write what `docker login` would."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return file


@contextmanager
def run_registry(
    root: Path, *, auth: Mapping[str, Any] | None = None, tls: tuple[Path, Path] | None = None, access: Access
) -> Iterator[Registry]:
    """Run a registry until the block ends; `auth` as in its configuration, `tls` is certificate and key."""
    ensure_packages("images")
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    serving: dict[str, Any] = {"addr": f"127.0.0.1:{port}", "secret": "of-the-test"}
    if tls:
        serving["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "data")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": serving,
        **({"auth": dict(auth)} if auth else {}),
    }
    (root / "config.yml").write_text(json.dumps(config))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(root / "config.yml")],
            stdout=log,
            stderr=log,
            env=os.environ | {"OTEL_TRACES_EXPORTER": "none"},
        )
        try:
            _wait(port, process, root / "log", "https" if tls else "http")
            yield Registry(f"127.0.0.1:{port}", root, access)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path, scheme: str) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise RuntimeError(f"docker-registry ended: {log.read_text()[-2000:]}")
        try:
            httpx2.get(f"{scheme}://127.0.0.1:{port}/v2/", verify=False, trust_env=False, timeout=2)
        except httpx2.TransportError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"docker-registry does not answer: {log.read_text()[-2000:]}")


def make_htpasswd(file: Path) -> dict[str, Any]:
    """Write a password file; return the registry's `auth`."""
    ensure_packages("images")
    made = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], check=True, capture_output=True, text=True).stdout
    file.write_text(made)
    return {"htpasswd": {"realm": "test", "path": str(file)}}


def push_base(registry: Registry, name: str = "base", tag: str = "1", **config: Any) -> str:
    """Push the lab's Debian with Python 3.11; return HOST/NAME:TAG."""
    base = ensure_base()
    return push_one(registry, replace(base, config=base.config | config), name, tag)


def push_busybox(registry: Registry, folder: Path, name: str = "busybox", tag: str = "1", **config: Any) -> str:
    """Push an image of 2 MB with a shell; return HOST/NAME:TAG."""
    ensure_packages("processes")
    small = make_busybox(folder)
    return push_one(registry, replace(small, config=small.config | config), name, tag)


def push_one(registry: Registry, image: Image, name: str, tag: str) -> str:
    """Push an image; return HOST/NAME:TAG."""
    login = (USER, PASSWORD) if registry.access.credentials else None
    scheme = "http" if registry.access.insecure else "https"
    trust = ssl.create_default_context(cafile=registry.access.ca) if registry.access.ca else True
    with httpx2.Client(
        base_url=f"{scheme}://{registry.host}", timeout=60, trust_env=False, auth=login, verify=trust
    ) as client:
        push(client, image, name, tag)
    return f"{registry.host}/{name}:{tag}"


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write a CA's certificate, and a certificate with its key for 127.0.0.1; return the three files."""
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("test CA", "127.0.0.1")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    now = datetime.now(UTC)
    files = [folder / name for name in ("ca.pem", "cert.pem", "key.pem")]
    for number, file in enumerate(files[:2]):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=number == 0, path_length=None), critical=True)
        )
        if number:
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        file.write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files[2].write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *plain))
    return files[0], files[1], files[2]


@dataclass
class TokenServer:
    """Hands out tokens that the registry believes, for anything but repositories below forbidden/."""

    auth: dict[str, Any]
    scopes: list[str] = field(default_factory=list)


@contextmanager
def run_token_server(folder: Path) -> Iterator[TokenServer]:
    """Run the token server of the distribution's token authentication until the block ends."""
    _, certificate, key_file = make_certificates(folder)
    key = cast(ec.EllipticCurvePrivateKey, serialization.load_pem_private_key(key_file.read_bytes(), None))
    chain = [line for line in certificate.read_text().splitlines() if "CERTIFICATE" not in line]
    port = free_port()
    realm = {"realm": f"http://127.0.0.1:{port}/token", "service": "registry", "issuer": "test"}
    server = TokenServer({"token": realm | {"rootcertbundle": str(folder / "ca.pem")}})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers.get("Authorization") != wanted:
                self.send_error(401)
                return
            scopes = " ".join(asked.get("scope", [])).split()
            server.scopes.append(" ".join(scopes))
            body = json.dumps({"token": _sign(key, "".join(chain), scopes), "expires_in": 300}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def _sign(key: ec.EllipticCurvePrivateKey, certificate: str, scopes: list[str]) -> str:
    """Return a JWT that grants the scopes."""
    access = []
    for scope in scopes:
        kind, name, actions = scope.split(":")
        allowed = [] if name.startswith("forbidden/") else actions.split(",")
        access.append({"type": kind, "name": name, "actions": allowed})
    now = int(time.time())
    claims = {"iss": "test", "sub": USER, "aud": "registry", "exp": now + 300, "nbf": now - 10, "iat": now - 10}
    parts = [{"typ": "JWT", "alg": "ES256", "x5c": [certificate]}, {**claims, "jti": str(now), "access": access}]
    body = ".".join(_encode(json.dumps(part).encode()) for part in parts)
    r, s = decode_dss_signature(key.sign(body.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{body}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass
class BreakingProxy:
    """Passes bytes on to the registry, and breaks connections after so many bytes to it in all."""

    host: str
    broken: int = 0


@asynccontextmanager
async def run_breaking_proxy(target: str, breaks: list[int]) -> AsyncIterator[BreakingProxy]:
    """Run a proxy that breaks a connection each time the sum of bytes sent by clients passes one of `breaks`."""
    address, _, port = target.partition(":")
    waiting, sent = list(breaks), 0
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        nonlocal sent
        while block := await reader.read(64 * 1024):
            if counted:
                sent += len(block)
                if waiting and sent >= waiting[0]:
                    waiting.pop(0)
                    proxy.broken += 1
                    return
            writer.write(block)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection(address, int(port))
        pumps = [
            asyncio.create_task(pump(reader, back, counted=True)),
            asyncio.create_task(pump(there, writer, counted=False)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # the block ended
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.transport.abort()
            back.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = BreakingProxy("127.0.0.1:" + str(server.sockets[0].getsockname()[1]))
    async with server:
        try:
            yield proxy
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # aborted transports close in the loop's next round
