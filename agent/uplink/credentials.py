"""What an uplink shows of itself and trusts, from files that may change at any time.

Tokens and certificates are replaced while the agent runs: by a person, by `edge-agent enrol
--renew`, by a tool for secrets. So the files are read before each request (they are small) and what
is in them is compared with what is in use. Anything new is tried whole: a token that is one, a
certificate that loads together with its key. If that fails (half written, a certificate whose key
has not come yet), what is in use stays in use, and `trouble` says so until the files are right.

A certificate of our own that ends soon is told long before: in the last 30 days or the last tenth
of its life, whichever is shorter. One that is not yet valid is a fault of this computer's clock.
"""

import dataclasses
import datetime as dt
import ssl
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from agent.clock import SECOND, WallNs
from agent.settings import Uplink
from agent.uplink import trust
from agent.uplink.policy import Fault
from agent.uplink.trust import Unusable

_FILE_BYTES: Final = 4 << 20
_SOON_MOST: Final = dt.timedelta(days=30)
_SOON_SHARE: Final = 10


@runtime_checkable
class HasCredentials(Protocol):
    """A transport that can tell how its credentials are."""

    def notice(self, wall: WallNs, *, synchronised: bool) -> str:
        """What a person should know of the credentials at this time; empty when all is well."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid, UTC."""

    begins: dt.datetime
    ends: dt.datetime

    def notice(self, wall: WallNs, *, synchronised: bool) -> str:
        """What is to be said of it at this time; empty in the middle of its life."""
        now = dt.datetime.fromtimestamp(wall / SECOND, dt.UTC)
        if now < self.begins:
            return (
                f"the client certificate is valid from {self.begins:%Y-%m-%d %H:%M} UTC on, so "
                "the clock of this computer is probably wrong"
            )
        if now >= self.ends:
            clock = "" if synchronised else ", or the clock of this computer is ahead"
            return (
                f"the client certificate has expired on {self.ends:%Y-%m-%d %H:%M} UTC{clock}; "
                "a new one is needed"
            )
        if self.ends - now <= min(_SOON_MOST, (self.ends - self.begins) / _SOON_SHARE):
            return f"the client certificate expires on {self.ends:%Y-%m-%d %H:%M} UTC: renew it"
        return ""


class Credentials:
    """The credentials of one uplink. Not thread-safe: one caller at a time, in any thread."""

    def __init__(self, settings: Uplink) -> None:
        self._settings = settings
        self._files = [
            name
            for name in (
                settings.token_file,
                settings.ca_file,
                settings.client_cert_file,
                settings.client_key_file,
                settings.proxy_auth_file,
            )
            if name
        ]
        self._secure = settings.url.startswith("https:")
        self._in_use: list[bytes | None] | None = None
        self._tried: list[bytes | None] | None = None
        self._life: Life | None = None
        self.token = ""
        self.proxy_auth = ""
        """`user:password`."""
        self.tls: ssl.SSLContext | None = None
        """None of an address without TLS."""
        self.trouble = ""
        """Why new files are not used; empty when they are."""

    def look(self) -> bool:
        """Read the files; gives whether what is to be used is another than before.

        Raises:
            Unusable: nothing can be used, and nothing was in use.
        """
        found = [_content(name) for name in self._files]
        if found == self._in_use:
            self._tried, self.trouble = found, ""
            return False
        if self._in_use is not None and found == self._tried:
            return False
        self._tried = found
        try:
            self._take()
        except Unusable as e:
            if self._in_use is None:
                raise
            self.trouble = f"the new credential is not used, the old one is: {e}"
            return False
        self._in_use = found
        self.trouble = ""
        return True

    def notice(self, wall: WallNs, *, synchronised: bool) -> str:
        """What a person should know of the credentials at this time; empty when all is well."""
        return self.trouble or (
            self._life.notice(wall, synchronised=synchronised) if self._life else ""
        )

    def _take(self) -> None:
        """Take all into use, or nothing."""
        settings = self._settings
        token = trust.read_token(settings.token_file)
        proxy_auth = _read_pair(settings.proxy_auth_file)
        tls: ssl.SSLContext | None = None
        life: Life | None = None
        if self._secure:
            tls = trust.tls(settings.ca_file, settings.client_cert_file, settings.client_key_file)
            if settings.client_cert_file:
                life = life_of(settings.client_cert_file)
        self.token, self.proxy_auth, self.tls, self._life = token, proxy_auth, tls, life


def life_of(name: str) -> Life:
    """Of the first certificate in a file.

    Raises:
        Unusable: there is none.
    """
    from cryptography import x509  # noqa: PLC0415  (slow to import, and few have a certificate)

    try:
        certificate = x509.load_pem_x509_certificates(Path(name).read_bytes())[0]
    except OSError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: {trust.reason(e)}") from e
    except ValueError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: is no certificate in PEM form") from e
    return Life(certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _content(name: str) -> bytes | None:
    try:
        with Path(name).open("rb") as file:
            return file.read(_FILE_BYTES)
    except OSError:
        return None


def _read_pair(name: str) -> str:
    if not name:
        return ""
    try:
        pair = Path(name).read_bytes()[:4096].decode("utf-8").strip()
    except OSError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: {trust.reason(e)}") from e
    except UnicodeDecodeError as e:
        raise Unusable(Fault.CREDENTIAL, f"{name}: is not UTF-8 text") from e
    if ":" not in pair or not pair.isprintable():
        raise Unusable(Fault.CREDENTIAL, f"{name}: does not contain user:password")
    return pair
