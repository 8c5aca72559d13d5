"""The certificate authority of the reference cloud: who a vehicle is, by one-time tokens.

One folder, made at the first start with `--tls`:

    ca.key, ca.pem             the authority; its certificate is what vehicles trust (`ca_file`)
    server.key, server.pem     what this cloud shows, made anew when it ends or the name differs
    tokens                     a line for each token: vehicle, SHA-256 of the token, and of the
                               public key that used it

A token is good for one vehicle and one key: used again with the same key it gives another
certificate, so an answer that got lost costs nothing; with another key it gives nothing. Tokens
are kept as digests, so the file is no secret worth stealing; the key of the authority is.
"""

import contextlib
import datetime as dt
import fcntl
import hashlib
import hmac
import ipaddress
import os
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.bench.cloud.store import is_vehicle
from agent.errors import AgentError, ConfigError
from agent.uplink.durable import replace_durably

CA_LIFE: Final = dt.timedelta(days=3650)
SERVER_LIFE: Final = dt.timedelta(days=365)
CLIENT_LIFE: Final = dt.timedelta(days=90)
_BACKDATED: Final = dt.timedelta(hours=1)
"""A vehicle's clock may be behind ours."""
_PEM: Final = serialization.Encoding.PEM


class RefusedError(AgentError):
    """No certificate; the sentence says why. `unauthorised`: the token is bad, not the request."""

    def __init__(self, text: str, *, unauthorised: bool = False) -> None:
        super().__init__(text)
        self.unauthorised = unauthorised


class Authority:
    """Thread-safe as far as the files are: every method reads what it needs."""

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make the authority in it.

        Raises:
            ConfigError: it cannot be made, read or written.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                self._key, self._certificate = self._open()
        except OSError as e:
            raise ConfigError(f"{folder}: cannot keep keys here: {e.strerror}") from e
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise ConfigError(f"{folder}: what is in ca.key and ca.pem is no authority") from e

    @property
    def ca_file(self) -> Path:
        return self._folder / "ca.pem"

    def token(self, vehicle: str) -> str:
        """A new token with which this vehicle can enrol once.

        Raises:
            ConfigError: that is no name of a vehicle, or the file cannot be written.
        """
        if not is_vehicle(vehicle):
            raise ConfigError(f"{vehicle!r}: a vehicle's name has letters, digits, . _ -")
        token = secrets.token_urlsafe(24)
        try:
            with self._locked():
                self._write_tokens([*self._tokens(), (vehicle, _digest(token.encode()), "-")])
        except OSError as e:
            raise ConfigError(f"{self._folder}/tokens: cannot be written: {e.strerror}") from e
        return token

    def enrol(self, vehicle: str, token: str, request: bytes) -> bytes:
        """The certificate chain for a request with a token, PEM.

        Raises:
            RefusedError: the token or the request is not good.
            OSError: the disk is full or fails; the token is still good.
        """
        asked = _request(vehicle, request)
        wanted, used_by = _digest(token.encode()), _digest(_public(asked))
        with self._locked():
            tokens = self._tokens()
            for i, (whose, digest, key) in enumerate(tokens):
                if whose != vehicle or not hmac.compare_digest(digest, wanted):
                    continue
                if key not in ("-", used_by):
                    break
                tokens[i] = (whose, digest, used_by)
                self._write_tokens(tokens)
                return self._issue(vehicle, asked)
        raise RefusedError(f"the token is not one for {vehicle}, or was used", unauthorised=True)

    def renew(self, vehicle: str, request: bytes) -> bytes:
        """The same for a vehicle that has shown its certificate.

        Raises:
            RefusedError: the request is not good.
        """
        return self._issue(vehicle, _request(vehicle, request))

    def context(self, host: str) -> ssl.SSLContext:
        """TLS of the server: asks for a client's certificate, and takes ours alone.

        Raises:
            ConfigError: the files cannot be read or written.
        """
        key, pem = self._folder / "server.key", self._folder / "server.pem"
        try:
            with self._locked():
                if not _serves(pem, host):
                    self._make_server(host, key, pem)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(pem, key)
            context.load_verify_locations(self.ca_file)
        except OSError as e:
            raise ConfigError(f"{self._folder}: server.pem and server.key: {e.strerror}") from e
        # Optional, so that a vehicle without one can enrol, and is answered in words otherwise.
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def _open(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        path = self._folder / "ca.key"
        if not self.ca_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name("vehicle edge agent reference cloud")
            certificate = (
                _builder(name, name, key.public_key(), CA_LIFE)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(signs=True), critical=True)
                .sign(key, hashes.SHA256())
            )
            replace_durably(path, _private(key), 0o600)
            replace_durably(self.ca_file, certificate.public_bytes(_PEM), 0o644)
        loaded = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError
        return loaded, x509.load_pem_x509_certificate(self.ca_file.read_bytes())

    def _make_server(self, host: str, key_file: Path, pem_file: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(host), self._certificate.subject, key.public_key(), SERVER_LIFE)
            .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        replace_durably(key_file, _private(key), 0o600)
        replace_durably(pem_file, certificate.public_bytes(_PEM), 0o644)

    def _issue(self, vehicle: str, request: x509.CertificateSigningRequest) -> bytes:
        leaf = (
            _builder(_name(vehicle), self._certificate.subject, _public_key(request), CLIENT_LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return leaf.public_bytes(_PEM) + self._certificate.public_bytes(_PEM)

    def _tokens(self) -> list[tuple[str, str, str]]:
        path = self._folder / "tokens"
        if not path.exists():
            return []
        lines = [line.split() for line in path.read_text("ascii", "replace").splitlines()]
        return [(w[0], w[1], w[2]) for w in lines if len(w) == 3]

    def _write_tokens(self, tokens: list[tuple[str, str, str]]) -> None:
        text = "".join(f"{' '.join(words)}\n" for words in tokens)
        replace_durably(self._folder / "tokens", text.encode("ascii"), 0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _request(vehicle: str, pem: bytes) -> x509.CertificateSigningRequest:
    """A request that is signed by its own key and asks for this vehicle."""
    try:
        request = x509.load_pem_x509_csr(pem)
        good = request.is_signature_valid
        names = request.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        _public_key(request)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as e:
        raise RefusedError("this is no request for a certificate (PEM, elliptic curve)") from e
    if not good:
        raise RefusedError("the request is not signed by its own key")
    if [n.value for n in names] != [vehicle]:
        raise RefusedError(f"the request is not for {vehicle}")
    return request


def _public_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError
    return key


def _public(request: x509.CertificateSigningRequest) -> bytes:
    return _public_key(request).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: dt.timedelta
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - _BACKDATED, now + life
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common[:64])])


def _names(host: str) -> list[x509.GeneralName]:
    """The names by which a server on this address may be called."""
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        mine: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        mine = x509.DNSName(host)
    return [*names, *([] if mine in names else [mine])]


def _serves(pem: Path, host: str) -> bool:
    """Whether the server's certificate is one for this address, for a while yet."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return left > SERVER_LIFE / 10 and all(n in list(found.value) for n in _names(host))


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
