"""Private keys: PEM files (PKCS 8, Ed25519), each encrypted with a pass phrase.

The file of a key is `ROLE-ID.pem`, ID being the first 16 digits of its key id; so it can be said
which keys are there without opening one. Private keys are in these files and in memory, nowhere
else: nothing here can print or copy one.
"""

import contextlib
import getpass
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.exceptions import KeyMismatchError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from agent.errors import UpdateError
from agent.settings.reading import KEYS_VARIABLE
from agent.spool.filesystem import RealFileSystem, replace_durably

ROLES = ("root", "targets", "snapshot", "timestamp")
ONLINE = ("snapshot", "timestamp")
TRUSTED = "root.json"

_SHORT = 16
_FILE = re.compile(rf"(?:{'|'.join(ROLES)})-(?P<id>[0-9a-f]{{{_SHORT}}})\.pem")
_LARGEST = 64 << 10


def short(key_id: str) -> str:
    """A key id as people are shown it; files have it in their names."""
    return key_id[:_SHORT]


class PassPhrases:
    """What opens key files: of the environment, or asked for."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        ask: Callable[[str], str] | None = None,
    ) -> None:
        """`ask` takes the words to show; without it, a terminal is asked where there is one."""
        found = (os.environ if environment is None else environment).get(KEYS_VARIABLE)
        self._given = found.encode() if found else None
        self._known = [self._given] if self._given else []
        if ask is None and sys.stdin is not None and sys.stdin.isatty():
            ask = getpass.getpass
        self._ask = ask

    def for_new(self) -> bytes:
        """The one for new keys; asked for once, twice over.

        Raises:
            UpdateError: there is none.
        """
        if self._given is None:
            if self._ask is None:
                raise UpdateError(
                    f"new keys need a pass phrase: set {KEYS_VARIABLE}, or work at a terminal, "
                    "or ask for keys without one by --no-passphrase"
                )
            first = self._ask("Pass phrase for new keys: ")
            if not first or self._ask("Once more: ") != first:
                raise UpdateError("the pass phrase is empty, or was not the same twice")
            self._given = first.encode()
            self._known.append(self._given)
        return self._given

    def for_file(self, path: Path) -> Iterator[bytes]:
        """What may open a file, likely ones first; three are asked for."""
        yield from tuple(self._known)
        for _ in range(3 if self._ask else 0):
            phrase = self._ask(f"Pass phrase of {path.name}: ").encode() if self._ask else b""
            yield phrase

    def complaint(self) -> str:
        """Why a file could not be opened."""
        if self._ask is not None:
            return "none of these pass phrases opens it"
        if self._given is not None:
            return f"the pass phrase in {KEYS_VARIABLE} does not open it"
        return f"needs its pass phrase: set {KEYS_VARIABLE}, or work at a terminal"

    def works(self, phrase: bytes) -> None:
        """Try this one first from now on."""
        with contextlib.suppress(ValueError):
            self._known.remove(phrase)
        self._known.insert(0, phrase)


class KeyRing:
    """The private keys in some folders, and those that are being made."""

    def __init__(self, folders: Sequence[Path], phrases: PassPhrases | None = None) -> None:
        """Look which keys are there; nothing is opened yet.

        Raises:
            UpdateError: a folder cannot be read.
        """
        self.folders = tuple(folders)
        self._phrases = phrases
        self._files: dict[str, Path] = {}
        self._signers: dict[str, CryptoSigner] = {}
        self._new: list[tuple[str, str, bytes]] = []
        for folder in self.folders:
            try:
                names = sorted(entry.name for entry in folder.iterdir())
            except FileNotFoundError as e:
                raise UpdateError(f"{folder}: there is no such folder of keys") from e
            except OSError as e:
                raise UpdateError(f"{folder}: cannot be read: {e.strerror}") from e
            for name in names:
                if match := _FILE.fullmatch(name):
                    self._files.setdefault(match["id"], folder / name)

    @property
    def where(self) -> str:
        return ", ".join(str(folder) for folder in self.folders) or "no folder"

    def file(self, key_id: str) -> Path | None:
        """Where the private key lies, if it is here."""
        return self._files.get(short(key_id))

    def files(self) -> Mapping[str, Path]:
        """All of them, by the short key id."""
        return dict(self._files)

    def signer(self, key: Key) -> CryptoSigner | None:
        """What signs with a key; None where its private part is not here.

        Raises:
            UpdateError: its file cannot be used.
        """
        if (found := self._signers.get(key.keyid)) is not None:
            return found
        path = self.file(key.keyid)
        if path is None or not isinstance(key, SSlibKey):
            return None
        try:
            signer = CryptoSigner(self._open(path), key)
        except (KeyMismatchError, ValueError) as e:
            raise UpdateError(f"{path}: is not the key that its name says") from e
        self._signers[key.keyid] = signer
        return signer

    def make(self, role: str, *, encrypted: bool) -> SSlibKey:
        """A new key, in memory until `save`; gives its public part.

        Raises:
            UpdateError: there is no pass phrase for it.
        """
        cover: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if encrypted:
            cover = serialization.BestAvailableEncryption(self._words().for_new())
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        key = signer.public_key
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, cover
        )
        self._signers[key.keyid] = signer
        self._new.append((role, key.keyid, pem))
        return key

    def save(self) -> list[Path]:
        """Write the new keys into the first folder, durably; gives their files.

        Raises:
            UpdateError: they cannot be written.
        """
        written = []
        folder = self.folders[0]
        try:
            while self._new:
                role, key_id, pem = self._new[0]
                path = folder / f"{role}-{short(key_id)}.pem"
                _write_once(path, pem)
                self._files[short(key_id)] = path
                written.append(path)
                self._new.pop(0)
            _sync_folder(folder)
        except OSError as e:
            raise UpdateError(f"{e.filename or folder}: cannot be written: {e.strerror}") from e
        return written

    def anchors(self) -> Iterator[tuple[Path, bytes]]:
        """The root.json of each folder that has one."""
        for folder in self.folders:
            path = folder / TRUSTED
            try:
                yield path, path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as e:
                raise UpdateError(f"{path}: cannot be read: {e.strerror}") from e

    def anchor(self, root: bytes) -> None:
        """Note the newest root in each folder that can be written."""
        for folder in self.folders:
            path = folder / TRUSTED
            with contextlib.suppress(OSError):  # a stick may be write-protected
                if not path.exists() or path.read_bytes() != root:
                    replace_durably(RealFileSystem(), path, root)

    def _words(self) -> PassPhrases:
        if self._phrases is None:
            self._phrases = PassPhrases()
        return self._phrases

    def _open(self, path: Path) -> Ed25519PrivateKey:
        pem = _read(path)
        try:
            return _loaded(path, pem, None)
        except ValueError as e:
            raise UpdateError(f"{path}: is no key file, or is damaged") from e
        except TypeError:
            pass  # it is encrypted
        phrases = self._words()
        for phrase in phrases.for_file(path):
            with contextlib.suppress(ValueError):
                found = _loaded(path, pem, phrase)
                phrases.works(phrase)
                return found
        raise UpdateError(f"{path}: {phrases.complaint()}")


def _loaded(path: Path, pem: bytes, phrase: bytes | None) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, phrase)
    except UnsupportedAlgorithm as e:
        raise UpdateError(f"{path}: is encrypted in a way that is not known here") from e
    if not isinstance(key, Ed25519PrivateKey):
        raise UpdateError(f"{path}: is no Ed25519 key")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST)
    except OSError as e:
        raise UpdateError(f"{path}: cannot be read: {e.strerror}") from e


def _write_once(path: Path, pem: bytes) -> None:
    """Never over a file that is there; nobody else may read it, at no moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
