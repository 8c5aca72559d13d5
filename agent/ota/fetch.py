"""The repository's files over HTTP, from a server of which nothing is believed.

Whoever holds the network or the mirror may answer anything, at any speed. So everything is bounded:

- **time**: one deadline for all requests of a look. Each single receive waits no longer than what
  is left of it, so a byte a second does not carry beyond it; and no longer than a stall.
- **size**: of the head, of the body, and of what comes on the wire for both, which chunks of one
  byte or an endless run of `100 Continue` would make as large as they like. A length that signed
  metadata name is a bound, never more than our own: they may be signed with a stolen key.
- **place**: redirects are not followed, and proxies of the environment not asked. They would take
  the credential to an address that the device file does not name.
- **form**: compressed answers are refused, so nothing unfolds.

One connection serves a look, for the handshake is most of what a small file costs. A server that
has closed it meanwhile is asked once more. `http.client` is the parser of choice because it lets a
reader with these bounds be put below it.
"""

import http
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient.fetcher import FetcherInterface

from agent.ota.trusted import Unreachable, Untrusted
from agent.settings.ota import Ota
from agent.uplink import Fault, trust

CONNECT_S: Final = 30.0
STALL_S: Final = 60.0

# Of metadata, whatever length other metadata name for it.
_MOST_BYTES: Final = 4 * 2**20
# Of an answer that is only read to be thrown away.
_DISMISSED_BYTES: Final = 16 * 1024
_HEAD_BYTES: Final = 256 * 1024
_PIECE_BYTES: Final = 64 * 1024
_ETAG_CHARACTERS: Final = 256


class Deadline:
    """Until when something must be done.

    Args:
        seconds: from now.
        now: a clock that is never set, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self.seconds = seconds
        self._now = now
        self._at = now() + seconds

    @property
    def passed(self) -> bool:
        return self._now() >= self._at

    def wait(self, most_s: float) -> float:
        """How long to wait for one thing, at most so many seconds.

        Raises:
            TimeoutError: not at all any more.
        """
        left = self._at - self._now()
        if left <= 0:
            raise TimeoutError
        return min(left, most_s)


@dataclass(frozen=True)
class Answer:
    """`unchanged`: the server says that it is what the etag was of; the body is empty then."""

    body: bytes
    etag: str
    unchanged: bool


class Missing(Unreachable):
    """The server says that there is no such file, or none for us (403, 404).

    Of the next root this is the usual answer, and no fault.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Fetcher(FetcherInterface):
    """The requests of one look or one download, for python-tuf and for us. Used with `with`.

    Args:
        settings: where the repository is, and our credentials.
        user_agent: how we call ourselves.
        deadline: of all requests together.

    Attributes:
        asked: the last file that was asked for, such as `metadata/timestamp.json`.
        what: the same with its address, for a message.
        etags: by name, what the server called the file.

    Raises:
        Unreachable: the address, the token or a certificate file cannot be used.
    """

    def __init__(self, settings: Ota, user_agent: str, deadline: Deadline) -> None:
        self._deadline = deadline
        self._base = settings.url.rstrip("/")
        self.asked = ""
        self.what = ""
        self.etags: dict[str, str] = {}
        try:
            address = urlsplit(self._base)
            port = address.port
        except ValueError as e:
            raise Unreachable(f"[ota] url is no address that can be asked: {e}") from e
        self._place = _place(address)
        try:
            token = trust.read_token(settings.token_file)
            tls = None
            if address.scheme == "https":
                tls = trust.tls(
                    settings.ca_file, settings.client_cert_file, settings.client_key_file
                )
        except trust.Unusable as e:
            raise Unreachable(f"The repository is not asked: {e.answer.fault.value}: {e}") from e
        self._headers = {"User-Agent": user_agent, "Accept": "*/*"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._path = address.path
        self._connection = _Connection(address.hostname or "", port, tls, deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, name: str, most_bytes: int, etag: str = "") -> Answer:
        """Fetch a file that has at most so many bytes.

        Args:
            name: its path below the repository, quoted as in a URL.
            most_bytes: what is more is not even read.
            etag: of what we have; the server may answer that this is what it has.

        Raises:
            Missing: there is no such file.
            Unreachable: there is no answer, none in time, or one that no repository gives.
            Untrusted: there are more bytes.
        """
        self.asked = name
        self.what = what = f"{self._place}/{name}"
        try:
            return self._get(name, most_bytes, etag)
        except _Odd as e:
            self._connection.close()
            raise Unreachable(f"{what} {e}.") from e
        except _Huge as e:
            self._connection.close()
            raise Untrusted(
                f"{what} has more than the {most_bytes} bytes that it may have, and was not read "
                "to its end: endless data, or another file than the signed one."
            ) from e
        except ssl.SSLCertVerificationError as e:
            self._connection.close()
            answer = trust.certificate(e)
            detail = answer.detail.replace("the receiver's certificate", "its certificate")
            who = "the repository's server is not trusted"
            why = answer.fault.value if answer.fault is Fault.CLOCK else who
            raise Unreachable(f"{what} was not asked for: {why}: {detail}.") from e
        except TimeoutError as e:
            self._connection.close()
            raise Unreachable(f"{what} {self._late()}.") from e
        except (OSError, http.client.HTTPException, ValueError) as e:
            self._connection.close()
            raise Unreachable(f"{what} cannot be fetched: {_why(e)}.") from e

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """As FetcherInterface has it, in memory and within our own bounds."""
        name = url.removeprefix(f"{self._base}/")
        try:
            answer = self.get(name, min(max_length, _MOST_BYTES))
        except Missing as e:
            raise DownloadHTTPError(str(e), e.status) from e
        self.etags[name] = answer.etag
        return answer.body

    def _fetch(self, url: str) -> Iterator[bytes]:
        """As FetcherInterface has it."""
        return iter([self.download_bytes(url, _MOST_BYTES)])

    def _get(self, name: str, most_bytes: int, etag: str) -> Answer:
        headers = self._headers | ({"If-None-Match": etag} if etag else {})
        with self._request(f"{self._path}/{name}", headers, most_bytes) as response:
            status = response.status
            if status == http.HTTPStatus.OK:
                return Answer(_body(response, most_bytes), _etag(response), unchanged=False)
            if status == http.HTTPStatus.NOT_MODIFIED and etag:
                return Answer(b"", etag, unchanged=True)
            if status in (http.HTTPStatus.FORBIDDEN, http.HTTPStatus.NOT_FOUND):
                if len(response.read(_DISMISSED_BYTES + 1)) > _DISMISSED_BYTES:
                    self._connection.close()
                raise Missing(f"{self._place}/{name} {_said(status)}.", status)
            raise _Odd(_said(status))

    def _request(
        self, path: str, headers: dict[str, str], most_bytes: int
    ) -> http.client.HTTPResponse:
        """Ask, and read the head of the answer."""
        self._connection.most_bytes = _HEAD_BYTES + most_bytes + most_bytes // 8
        used_before = self._connection.sock is not None
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._deadline.wait(STALL_S))
        try:
            self._connection.request("GET", path, headers=headers)
            return self._connection.getresponse()
        except ConnectionError:
            self._connection.close()
            if not used_before:
                raise
        # The server has closed a connection that was idle, as it may at any time.
        self._connection.request("GET", path, headers=headers)
        return self._connection.getresponse()

    def _late(self) -> str:
        if self._deadline.passed:
            return (
                f"had not come whole within the {self._deadline.seconds:g} s of deadline_s: "
                "the link is too slow, or someone keeps it slow"
            )
        return "does not come: the server is silent"


class Shelf(FetcherInterface):
    """A repository that has this timestamp.json, and nothing else that is new."""

    what = asked = "metadata/timestamp.json"

    def __init__(self, timestamp: bytes) -> None:
        self._timestamp = timestamp

    def _fetch(self, url: str) -> Iterator[bytes]:
        if not url.endswith(f"/{self.asked}"):
            raise DownloadHTTPError("it is not on the shelf", http.HTTPStatus.NOT_FOUND)
        return iter([self._timestamp])


class _Odd(Exception):  # noqa: N818  (never leaves this module: it carries half a sentence)
    """An answer that no repository gives."""


class _Huge(Exception):  # noqa: N818  (as above)
    """More bytes than there may be."""


class _Connection(http.client.HTTPConnection):
    """A connection to the server, with our bounds below the parser.

    `most_bytes` bounds what one answer may take on the wire.
    """

    def __init__(
        self, host: str, port: int | None, tls: ssl.SSLContext | None, deadline: Deadline
    ) -> None:
        self.default_port = http.client.HTTPS_PORT if tls else http.client.HTTP_PORT
        super().__init__(host, port or self.default_port)
        self.most_bytes = 0
        self._tls = tls
        self._deadline = deadline
        self.response_class: Any = self._response

    def connect(self) -> None:
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                self.sock = self._opened(sock, address)
                return
            except ssl.SSLError:
                # Another address of this host would show the same certificate.
                raise
            except OSError as e:
                failure = e
                if self._deadline.passed:
                    break
        raise failure or OSError

    def _opened(self, sock: socket.socket, address: Any) -> socket.socket:
        try:
            sock.settimeout(self._deadline.wait(CONNECT_S))
            sock.connect(address)
            sock.settimeout(self._deadline.wait(CONNECT_S))
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self.host)
            sock.settimeout(self._deadline.wait(STALL_S))
        except OSError:
            sock.close()
            raise
        return sock

    def _response(
        self, sock: socket.socket, *, method: str | None = None
    ) -> http.client.HTTPResponse:
        wire: Any = _Wire(sock, self._deadline, self.most_bytes)
        return http.client.HTTPResponse(wire, method=method)


class _Wire(io.RawIOBase):
    """What comes on a socket: no more bytes than these, and none after the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline, most_bytes: int) -> None:
        super().__init__()
        self._sock = sock
        # A file of the socket's own keeps it open until the answer is read.
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline
        self._left = most_bytes

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What HTTPResponse wants of a socket."""
        return io.BufferedReader(self, _PIECE_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise _Huge
        self._sock.settimeout(self._deadline.wait(STALL_S))
        count = self._file.readinto(buffer)
        # A receive that ended in time may have begun long ago.
        self._deadline.wait(0)
        self._left -= count or 0
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _body(response: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """The body of a good answer, whole."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise _Odd("came compressed, which was not asked for and is not unfolded")
    lengths = response.headers.get_all("Content-Length", [])
    if not all(length.isascii() and length.isdigit() for length in lengths):
        raise _Odd("came with a Content-Length that is no length")
    declared = response.length
    if declared is None and not response.chunked:
        # Its end would be the end of the connection, which may as well have been cut.
        raise _Odd("came without its length, so that nobody can tell whether it is whole")
    body = bytearray()
    while piece := response.read(min(_PIECE_BYTES, most_bytes + 1 - len(body))):
        body += piece
        if _is_page(body):
            raise _Odd(
                "came as a web page: the url is wrong, or the network wants a login in a browser"
            )
        if max(len(body), declared or 0) > most_bytes:
            raise _Huge
    if declared is not None and len(body) != declared:
        raise _Odd(f"was cut off after {len(body)} of {declared} bytes")
    return bytes(body)


def _is_page(body: bytearray) -> bool:
    return bytes(body[:64]).lstrip().lower().startswith((b"<!doctype", b"<html"))


def _etag(response: http.client.HTTPResponse) -> str:
    """What the server calls this answer, where that can be sent back to it."""
    etag = response.headers.get("ETag", "").strip()
    return etag if etag.isascii() and etag.isprintable() and len(etag) <= _ETAG_CHARACTERS else ""


def _said(status: int) -> str:
    """What a status other than 200 means; half a sentence."""
    try:
        words = f"was answered with {status} ({http.HTTPStatus(status).phrase})"
    except ValueError:
        words = f"was answered with {status}"
    if 300 <= status < 400 and status != http.HTTPStatus.NOT_MODIFIED:
        return f"{words}: redirects are not followed, so [ota] url must be the final address"
    if status in (401, 403, 407):
        return f"{words}: the server wants a credential that we have not shown"
    if status in (404, 410):
        return f"{words}: [ota] url is wrong, or the file is not there yet or any more"
    if status in (408, 429) or status >= 500:
        return f"{words}: the server cannot just now"
    return f"{words}, which a repository does not"


def _place(address: SplitResult) -> str:
    """The repository's address for a message: without what may be a password."""
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"


def _why(error: Exception) -> str:
    """Why there is no answer. Nothing that the server said is repeated."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').lower().replace('_', ' ')}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server hung up without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    if isinstance(error, socket.gaierror):
        return f"the server's name is not known here: {error.strerror or 'no reason given'}"
    if isinstance(error, OSError):
        return f"the server cannot be reached: {error.strerror or 'the connection broke'}"
    return "what came is no answer of a web server"
