"""Makes and renews keys and certificates, and keeps them in a folder that only its owner can read."""

from __future__ import annotations

import base64
import secrets as randomness
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from seaway.cluster.certificates import AUTHORITIES, Certificate, Pair, Secrets
from seaway.cluster.config import Certificates, ClusterError
from seaway.cluster.writing import write_file

BACKDATED = timedelta(minutes=5)  # for machines whose clocks are a little behind


class Issuer:
    """Reads what is in the store, makes what is missing, replaces what ends soon or no longer fits."""

    def __init__(self, store: Path, days: Certificates, now: datetime | None = None) -> None:
        self._store = store
        self._days = days
        self._now = now or datetime.now(UTC)
        self._log: list[str] = []

    def ensure(self, wanted: Iterable[Certificate]) -> Secrets:
        """Return the cluster's secrets, every wanted certificate among them; raises ClusterError on a broken file."""
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        authorities = {name: self._ensure_authority(name, common) for name, common in AUTHORITIES.items()}
        made = {spec.name: self._ensure_certificate(spec, authorities[spec.authority]) for spec in wanted}
        key, public = self._ensure_account_key()
        return Secrets(authorities, made, key, public, self._ensure_encryption_key(), tuple(self._log))

    def _ensure_authority(self, name: str, common_name: str) -> Pair:
        found = self._read(name)
        if found is not None:
            ends = load(found).not_valid_after_utc
            if ends - self._now < timedelta(days=self._days.days):
                self._log.append(
                    f"authority {name} ends on {ends:%Y-%m-%d}, before a new certificate would: "
                    f"make a new one by moving {self._store / name}.* away, and distribute it everywhere first"
                )
            return found
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        ends = self._now + timedelta(days=self._days.ca_days)
        builder = self._begin(subject, subject, key.public_key(), ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage(authority=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        return self._write(name, Pair(pem(builder.sign(key, hashes.SHA256())), private_pem(key)), "made authority")

    def _ensure_certificate(self, spec: Certificate, authority: Pair) -> Pair:
        found = self._read(spec.name)
        why = "is missing" if found is None else self._why_replace(load(found), spec, authority)
        if found is not None and not why:
            return found
        key = ec.generate_private_key(ec.SECP256R1())
        signer = load(authority)
        ends = min(self._now + timedelta(days=self._days.days), signer.not_valid_after_utc)
        builder = self._begin(subject_of(spec), signer.subject, key.public_key(), ends)
        for extension, critical in extensions_of(spec, signer):
            builder = builder.add_extension(extension, critical=critical)
        signing_key = load_key(authority)
        made = Pair(pem(builder.sign(signing_key, hashes.SHA256())), private_pem(key))
        return self._write(spec.name, made, "made" if found is None else f"renewed ({why})")

    def _why_replace(self, there: x509.Certificate, spec: Certificate, authority: Pair) -> str:
        """Return why a certificate has to be made anew, or ""."""
        signer = load(authority)
        left = there.not_valid_after_utc - self._now
        try:
            there.verify_directly_issued_by(signer)
        except Exception:  # whatever is wrong with it, it is not ours
            return "another authority signed it"
        if left < timedelta(days=self._days.renew_before):
            return f"{max(left.days, 0)} days were left"
        if there.subject != subject_of(spec):
            return "its subject changed"
        for extension, _ in extensions_of(spec, signer):
            try:
                held = there.extensions.get_extension_for_class(type(extension)).value
            except x509.ExtensionNotFound:
                held = None
            if held != extension:
                return f"its {type(extension).__name__} changed"
        return ""

    def _begin(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime
    ) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=self._now - BACKDATED,
            not_valid_after=ends,
        )

    def _ensure_account_key(self) -> tuple[str, str]:
        path = self._store / "sa.key"
        if not path.exists():
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            write_file(path, private_pem(key), 0o600)
            self._log.append("made sa.key, which signs service account tokens")
        try:
            held = serialization.load_pem_private_key(path.read_bytes(), None)
        except ValueError as error:
            raise ClusterError(f"{path} is no private key: restore it, or move it away and all tokens end") from error
        path.chmod(0o600)
        public = held.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return path.read_text(), public.decode()

    def _ensure_encryption_key(self) -> str:
        path = self._store / "encryption.key"
        if not path.exists():
            write_file(path, base64.b64encode(randomness.token_bytes(32)).decode() + "\n", 0o600)
            self._log.append("made encryption.key, without which the cluster's secrets cannot be read: back it up")
        path.chmod(0o600)
        return path.read_text().strip()

    def _read(self, name: str) -> Pair | None:
        certificate, key = self._store / f"{name}.crt", self._store / f"{name}.key"
        if not certificate.exists() and not key.exists():
            return None
        try:
            pair = Pair(certificate.read_text(), key.read_text())
            if load(pair).public_key() != load_key(pair).public_key():
                raise ValueError("the two do not belong together")
        except (OSError, ValueError) as error:
            raise ClusterError(f"{certificate} and {key.name}: {error}: restore them, or move both away") from error
        key.chmod(0o600)
        return pair

    def _write(self, name: str, pair: Pair, what: str) -> Pair:
        write_file(self._store / f"{name}.key", pair.key, 0o600)
        write_file(self._store / f"{name}.crt", pair.certificate, 0o644)
        self._log.append(f"{what} {name}")
        return pair


def subject_of(spec: Certificate) -> x509.Name:
    """Return the certificate's subject: Kubernetes reads the group from O and the user from CN."""
    group = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, spec.organization)] if spec.organization else []
    return x509.Name([*group, x509.NameAttribute(NameOID.COMMON_NAME, spec.common_name)])


def extensions_of(spec: Certificate, signer: x509.Certificate) -> list[tuple[x509.ExtensionType, bool]]:
    """Return the extensions that a certificate has to have, each with whether it is critical."""
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * spec.server + [ExtendedKeyUsageOID.CLIENT_AUTH] * spec.client
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(spec.dns)]
    names += [x509.IPAddress(address) for address in dict.fromkeys(spec.addresses)]
    identifier = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    found: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(authority=False), True),
        (x509.ExtendedKeyUsage(purposes), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    ]
    return [*found, (x509.SubjectAlternativeName(names), False)] if names else found


def usage(*, authority: bool) -> x509.KeyUsage:
    """Return what a key may do: sign certificates, or sign handshakes."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def load(pair: Pair) -> x509.Certificate:
    """Read the certificate of a pair; raises ValueError."""
    return x509.load_pem_x509_certificate(pair.certificate.encode())


def load_key(pair: Pair) -> ec.EllipticCurvePrivateKey:
    """Read the key of a pair; raises ValueError."""
    key = serialization.load_pem_private_key(pair.key.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not of the kind that Seaway makes (ECDSA P-256)")
    return key


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """Return a private key as text."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
