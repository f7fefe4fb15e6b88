"""Looks at single servers from outside: what a handshake, a request with and one without credentials gets."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from seaway.cluster.facts import Kind, Server, Tls
from seaway.cluster.kubeconfig import Access

TIMEOUT = 3.0  # seconds for one answer
OLD = ((ssl.TLSVersion.TLSv1, "TLS 1.0"), (ssl.TLSVersion.TLSv1_1, "TLS 1.1"))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; status 0 means that there was none."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def document(self) -> Any:
        """Return the body as JSON, or {} if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}


def ask(
    url: str,
    context: ssl.SSLContext | None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    body: Any = None,
) -> Answer:
    """Make one request; no connection, handshake or answer is an Answer of status 0, never an error."""
    parts = urlsplit(url)
    assert parts.hostname
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=TIMEOUT, context=context)
    sent = dict(headers or {})
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body=data, headers=sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), dict(answer.headers.items()))
    except (OSError, http.client.HTTPException):
        return Answer(0)
    finally:
        connection.close()


def connects(host: str, port: int) -> bool:
    """Return whether anything accepts a connection."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT):
            return True
    except OSError:
        return False


def see_tls(host: str, port: int, access: Access) -> Tls | None:
    """Return the server's side of a handshake, or None if there is no TLS."""
    certificate = certificate_of(host, port, permissive(access.context(verify=False)))
    if certificate is None:
        return None
    problem = ""
    try:
        handshake(host, port, access.context())
    except ssl.SSLCertVerificationError as error:
        problem = error.verify_message
    except OSError as error:
        problem = str(error)
    old = tuple(old_protocols(host, port))
    if old and certificate_of(host, port, access.context(verify=False)) is None:
        # What it fails with then is a matter of the OpenSSL here: the protocol, its signatures, an alert.
        problem = f"it speaks {' and '.join(old)} and nothing newer"
    return Tls(certificate.not_valid_after_utc, problem, old)


def why_refused(host: str, port: int, access: Access) -> str:
    """Return why there is no answer from a server: its certificate, or what the connection met."""
    try:
        handshake(host, port, access.context())
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is refused ({error.verify_message})"
    except OSError as error:
        return f"{error.strerror or error}"
    return "it takes connections and says nothing"


def handshake(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """Shake hands and return the server's certificate, DER; raises OSError (SSLError)."""
    with (
        socket.create_connection((host, port), timeout=TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def certificate_of(host: str, port: int, context: ssl.SSLContext) -> x509.Certificate | None:
    """Return the certificate that a server shows, whether it is good or not."""
    try:
        return x509.load_der_x509_certificate(handshake(host, port, context))
    except (OSError, ValueError):
        return None


def permissive(context: ssl.SSLContext, only: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Let a context speak outdated protocols and ciphers too, or `only` one; for looking, never for telling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # outdated on purpose
        context.minimum_version = only or ssl.TLSVersion.TLSv1
        if only:
            context.maximum_version = only
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def old_protocols(host: str, port: int) -> list[str]:
    """Return the outdated protocols that a server still speaks."""
    spoken = []
    for version, name in OLD:
        context = permissive(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), version)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            handshake(host, port, context)
        except ssl.SSLError as error:
            if "CERTIFICATE_REQUIRED" in str(error.reason):
                spoken.append(name)  # the protocol was agreed; what it lacked was our certificate
        except OSError:
            continue
        else:
            spoken.append(name)
    return spoken


def see_server(
    kind: Kind, name: str, where: tuple[str, int], access: Access, *, healthy: str = "/healthz", closed: str = ""
) -> Server:
    """Return what a server shows to anybody, and what it says of its health to us.

    `closed` is a path that nobody without credentials may read (`healthy` if it is not given).
    """
    address = f"{where[0]}:{where[1]}"
    if not connects(*where):
        return Server(kind, name, address, reachable=False)
    tls = see_tls(*where, access)
    plain = tls is None and ask(f"http://{address}{healthy}", None).status != 0
    anonymous = ask(f"https://{address}{closed or healthy}", access.context(anonymous=True, verify=False)).status
    proof = access.headers() if tls and not tls.problem else {}  # no token for a server that may be anybody
    mine = ask(f"https://{address}{healthy}", access.context(verify=False), headers=proof)
    well = 200 <= mine.status < 300 if mine.status else None
    return Server(kind, name, address, True, tls, anonymous, well, plain)


def ends_of(access: Access) -> datetime | None:
    """Return when our own client certificate ends, if we have one."""
    if not access.certificate:
        return None
    return x509.load_pem_x509_certificate(access.certificate.encode()).not_valid_after_utc
