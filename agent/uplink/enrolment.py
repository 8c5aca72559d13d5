"""A client certificate for this vehicle, by a token that is good once.

The private key is made here and never leaves: what goes out is a request for a certificate (PKCS
#10) for the key, with the vehicle as its common name. What comes back is believed only if it is for
this key and this vehicle. Key first, certificate second, each replaced whole and durably: a power
cut between the two leaves a key with which the enrolment can simply be done again, and so does an
answer that is lost, because an authority gives the same key its certificate again.

Renewal shows the present certificate in place of a token, and keeps the key: one file changes, so
there is no moment at which key and certificate do not fit.
"""

import contextlib
import dataclasses
import datetime as dt
import http.client
import itertools
import ssl
import urllib.parse
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import ConfigError, PermanentError, TransientError, UnauthorisedError, UplinkError
from agent.uplink import trust
from agent.uplink.durable import replace_durably

REQUEST_TYPE: Final = "application/x-pem-file"
CHAIN_TYPE: Final = "application/pem-certificate-chain"

_PEM: Final = serialization.Encoding.PEM
_ANSWER_BYTES: Final = 64 * 1024
_TIMEOUT_S: Final = 30.0
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Where things are, or are to be."""

    certificate: Path
    key: Path
    ca: str = ""
    """What to trust; empty: what the system trusts."""


def enrol(url: str, vehicle: str, files: Files, token: str) -> dt.datetime:
    """Get a certificate for a token; gives its end. The key that is there is used, or one is made.

    Raises:
        ConfigError: the address or a file cannot be used.
        UplinkError: the authority does not give one; the kind of it says whether to try again.
    """
    key = _key(files.key)
    tls = _context(url, files, shown=False)
    headers = {"Authorization": f"Bearer {token}"}
    return _exchange(url, vehicle, files, key, tls, headers=headers)


def renew(url: str, vehicle: str, files: Files) -> dt.datetime:
    """Get a new certificate for the present one and its key; gives its end.

    Raises:
        ConfigError: the address or a file cannot be used, or there is no certificate yet.
        UplinkError: the authority does not give one; the kind of it says whether to try again.
    """
    if present(vehicle, files) is None:
        raise ConfigError(
            f"{files.certificate}: there is no certificate for {vehicle} and the key "
            f"{files.key} to renew; enrol with a token"
        )
    tls = _context(url, files, shown=True)
    return _exchange(url, vehicle, files, _key(files.key), tls, headers={})


def present(vehicle: str, files: Files) -> dt.datetime | None:
    """The end of the certificate that is here, if it is one for this vehicle and key."""
    if not files.key.exists():
        return None
    with contextlib.suppress(OSError, UplinkError):
        leaf = _checked(files.certificate.read_bytes(), vehicle, _key(files.key))[0]
        return leaf.not_valid_after_utc
    return None


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in a file, made if there is none.

    Raises:
        ConfigError: it cannot be read or written, or is another kind of key.
    """
    try:
        pem = path.read_bytes()
    except FileNotFoundError:
        return _make_key(path)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise ConfigError(f"{path}: is no private key without a pass phrase") from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path}: is no key of an elliptic curve; remove it to get a new one")
    return key


def _make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, pem, 0o600)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written: {e.strerror}") from e
    return key


def _context(url: str, files: Files, *, shown: bool) -> ssl.SSLContext | None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return None
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(f"{url}: enrolment needs an address that begins with https://")
    ours = (str(files.certificate), str(files.key)) if shown else ("", "")
    try:
        return trust.tls(files.ca, *ours)
    except trust.Unusable as e:
        raise ConfigError(str(e)) from e


def _exchange(
    url: str,
    vehicle: str,
    files: Files,
    key: ec.EllipticCurvePrivateKey,
    tls: ssl.SSLContext | None,
    *,
    headers: dict[str, str],
) -> dt.datetime:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, vehicle)])
    request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    chain = _post(url, vehicle, tls, headers, request.public_bytes(_PEM))
    leaf, *others = _checked(chain, vehicle, key)
    pem = b"".join(c.public_bytes(_PEM) for c in (leaf, *others))
    try:
        files.certificate.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(files.certificate, pem, 0o644)
    except OSError as e:
        raise ConfigError(f"{files.certificate}: cannot be written: {e.strerror}") from e
    return leaf.not_valid_after_utc


def _post(
    url: str, vehicle: str, tls: ssl.SSLContext | None, headers: dict[str, str], body: bytes
) -> bytes:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    try:
        if tls is None:
            connection = http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=_TIMEOUT_S, context=tls
            )
    except (ValueError, http.client.InvalidURL) as e:
        raise ConfigError(f"{url}: is no address") from e
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    path = f"{parts.path.rstrip('/')}/v1/vehicles/{urllib.parse.quote(vehicle, safe='')}/enrol"
    try:
        connection.request("POST", path, body, {"Content-Type": REQUEST_TYPE, **headers})
        response = connection.getresponse()
        said = response.read(_ANSWER_BYTES)
        status = response.status
    except ssl.SSLCertVerificationError as e:
        answer = trust.certificate(e)
        raise TransientError(f"{where}: {answer.fault.value}: {answer.detail}") from e
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise TransientError(f"{where}: cannot be reached: {trust.reason(e)}") from e
    finally:
        connection.close()
    if status in (200, 201):
        return said
    words = " ".join(said[:200].decode("utf-8", "replace").split())
    sentence = f"{where} answered {status}: {words}" if words else f"{where} answered {status}"
    if status in (401, 403):
        raise UnauthorisedError(f"{sentence}; get a new token for {vehicle}")
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(f"{sentence}; try again later")
    raise PermanentError(sentence)


def _checked(pem: bytes, vehicle: str, key: ec.EllipticCurvePrivateKey) -> list[x509.Certificate]:
    """A chain of certificates of which the first is ours.

    Raises:
        UplinkError: it is not.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem)
    except ValueError as e:
        raise PermanentError("what was given is no certificate in PEM form") from e
    leaf = chain[0]
    if leaf.public_key() != key.public_key():
        raise PermanentError("the certificate that was given is for another key")
    names = [str(n.value) for n in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if names != [vehicle]:
        raise PermanentError(
            f"the certificate that was given is for {', '.join(names) or 'nobody'}, not {vehicle}"
        )
    try:
        for below, above in itertools.pairwise(chain):
            below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature) as e:
        raise PermanentError("the certificates that were given are no chain") from e
    return chain
