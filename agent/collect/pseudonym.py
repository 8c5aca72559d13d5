"""A name for a vehicle that tells nobody which one it is, and the secret that makes it."""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from agent.errors import ConfigError

FILE: Final = "pseudonyms.key"

_SECRET_BYTES: Final = 32
_CHARACTERS: Final = 20  # of 5 bits each


def pseudonym(secret: bytes, purpose: str, vehicle: str) -> str:
    """`p-` and 20 letters and digits.

    Raises:
        ValueError: the secret is too short to be one.
    """
    if len(secret) < _SECRET_BYTES:
        raise ValueError(f"a pseudonym needs a secret of {_SECRET_BYTES} bytes")
    # Between the two, so that neither can take a character from the other.
    text = f"{purpose}\0{vehicle}".encode()
    digest = hmac.new(secret, text, hashlib.sha256).digest()
    return "p-" + base64.b32encode(digest)[:_CHARACTERS].decode("ascii").lower()


def secret_of(folder: Path) -> bytes:
    """The secret of this installation, 32 bytes, made when it is first asked for.

    It appears whole and durable, or not at all, and is never replaced: whoever comes second reads
    what the first one made.

    Raises:
        ConfigError: it cannot be read or written, or is no such secret.
    """
    path = folder / FILE
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"{path}: the secret of pseudonyms: {e.strerror}") from e
    if len(secret) != _SECRET_BYTES:
        raise ConfigError(f"{path} is damaged: put back a copy, or remove it to get new pseudonyms")
    return secret


def _make(path: Path) -> None:
    """A link to a file that is whole already: unlike a rename, it leaves one that is there."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            if os.geteuid() == 0:  # the agent runs as a user of its own
                owner = folder.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(secrets.token_bytes(_SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
