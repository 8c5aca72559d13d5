"""Credentials and TLS files of an uplink, and what is wrong when a peer is not trusted."""

import ssl
from pathlib import Path
from typing import Final

from agent.uplink.policy import Answer, Fault

_TOKEN_BYTES: Final = 64 * 1024

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h).
_NOT_YET_VALID: Final = 9
_HAS_EXPIRED: Final = 10


class Unusable(Exception):  # noqa: N818  (never leaves a transport: it carries the answer)
    """A token or a certificate file with which no request can be made."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.answer = Answer(fault=fault, detail=detail)


def read_token(name: str) -> str:
    """The token in a file; empty where no file is named.

    Raises:
        Unusable: it cannot be read, or holds something else than one token.
    """
    if not name:
        return ""
    try:
        with Path(name).open("rb") as file:
            token = file.read(_TOKEN_BYTES).decode("ascii").strip()
    except OSError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: {reason(e)}") from e
    except UnicodeDecodeError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: is not ASCII text") from e
    if not token.isprintable() or " " in token or not token:
        raise Unusable(Fault.CREDENTIAL, f"{name}: does not contain one token and nothing else")
    return token


def tls(ca_file: str, cert_file: str = "", key_file: str = "") -> ssl.SSLContext:
    """A context that trusts these certificates, or the system's, and shows this one.

    Raises:
        Unusable: a file cannot be read, or is none of that kind.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as e:  # an ssl.SSLError is an OSError
        raise Unusable(Fault.TLS, f"{ca_file}: {reason(e)}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file:
        try:
            # A key with a pass phrase would ask for it on the terminal.
            context.load_cert_chain(cert_file, key_file or None, password="")
        except (OSError, ValueError) as e:
            raise Unusable(Fault.CREDENTIAL, f"{cert_file}: {reason(e)}") from e
    return context


def certificate(error: Exception) -> Answer:
    """What is wrong with the peer's certificate; one of another time is a fault of our clock."""
    code = getattr(error, "verify_code", None)
    words = getattr(error, "verify_message", "") or "the certificate does not fit"
    if code == _NOT_YET_VALID:
        return Answer(fault=Fault.CLOCK, detail="the receiver's certificate is not yet valid")
    if code == _HAS_EXPIRED:
        words = "the receiver's certificate has expired, or this clock is ahead"
        return Answer(fault=Fault.CLOCK, detail=words)
    return Answer(fault=Fault.TLS, detail=words)


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or "no reason given"
