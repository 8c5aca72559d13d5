"""An authority, and certificates by it, as real ones are made; keys are small and quick."""

import base64
import contextlib
import datetime as dt
import hashlib
import ipaddress
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, BinaryIO, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = dt.timedelta(days=1)
YEAR = 365 * DAY
_PEM = serialization.Encoding.PEM


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def name_of(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


class Authority:
    def __init__(self, common: str = "authority of the test") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = name_of(common)
        self.certificate = (
            x509.CertificateBuilder(
                self.name, self.name, self.key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now() - 10 * YEAR)
            .not_valid_after(now() + 10 * YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def write(self, path: Path) -> str:
        path.write_bytes(self.certificate.public_bytes(_PEM))
        return str(path)

    def issue(
        self,
        common: str,
        begins: dt.timedelta = -YEAR,
        ends: dt.timedelta = YEAR,
    ) -> tuple[bytes, bytes]:
        """Certificate and key, both PEM; good for 127.0.0.1, ::1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
            x509.DNSName("localhost"),
        ]
        certificate = (
            x509.CertificateBuilder(
                self.name, name_of(common), key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now() + begins)
            .not_valid_after(now() + ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(_PEM), private

    def put(
        self,
        path: Path,
        common: str = "van-7",
        begins: dt.timedelta = -YEAR,
        ends: dt.timedelta = YEAR,
    ) -> dict[str, Any]:
        """Write a client's certificate and key; the keys of an uplink that name them."""
        certificate, key = self.issue(common, begins, ends)
        files = path.with_suffix(".crt"), path.with_suffix(".key")
        files[0].write_bytes(certificate)
        files[1].write_bytes(key)
        return {"client_cert_file": str(files[0]), "client_key_file": str(files[1])}

    def server(
        self,
        folder: Path,
        begins: dt.timedelta = -YEAR,
        ends: dt.timedelta = YEAR,
        *,
        wants_client: bool = False,
    ) -> ssl.SSLContext:
        """TLS for a server. `replace` puts another certificate into it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.replace(context, folder, begins, ends)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.write(folder / "clients.pem"))
        return context

    def replace(
        self, context: ssl.SSLContext, folder: Path, begins: dt.timedelta, ends: dt.timedelta
    ) -> None:
        """From the next handshake on the server shows this one."""
        certificate, key = self.issue("receiver", begins, ends)
        (folder / "server.crt").write_bytes(certificate)
        (folder / "server.key").write_bytes(key)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")


class Doorman:
    """A receiver that does TLS by the book: a refused peer gets an alert and not a reset.

    (asyncio's server resets the connection when a handshake fails.) It takes every batch.
    """

    def __init__(self, context: ssl.SSLContext, stored: dict[str, bytes]) -> None:
        self._context = context
        self._stored = stored
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0
        self._told = threading.Condition()
        self._threads = [threading.Thread(target=self._listen)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def has_refused(self, n: int) -> bool:
        """Wait until it has refused so many; the one who is refused may know it first."""
        with self._told:
            return self._told.wait_for(lambda: self.refused >= n, 10) and self.refused == n

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        with connection:
            try:
                inside = self._context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                inside.do_handshake()
            except OSError:
                with self._told:
                    self.refused += 1
                    self._told.notify_all()
                with contextlib.suppress(OSError):
                    # What is unread at a close would turn the alert into a reset.
                    raw = socket.socket(fileno=inside.detach())
                    raw.settimeout(10)
                    raw.shutdown(socket.SHUT_WR)
                    while raw.recv(65536):
                        pass
                    raw.close()
                return
            with inside, inside.makefile("rb") as reader, contextlib.suppress(OSError):
                while (first := reader.readline()).strip():
                    fields = [*iter(lambda: reader.readline().strip(), b"")]
                    self._take(inside, first, fields, reader)

    def _take(
        self, inside: ssl.SSLSocket, first: bytes, lines: list[bytes], reader: BinaryIO
    ) -> None:
        fields = dict(line.decode().lower().split(": ", 1) for line in lines)
        content = reader.read(int(fields["content-length"]))
        self._stored[first.split(b" ")[1].rpartition(b"/")[2].decode()] = content
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        answer = (
            f"HTTP/1.1 201 X\r\nContent-Digest: sha-256=:{digest}:\r\nContent-Length: 0\r\n\r\n"
        )
        inside.sendall(answer.encode())
