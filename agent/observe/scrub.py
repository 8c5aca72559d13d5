"""Takes secrets out of text that a person hands to somebody else.

A value is taken out by the name of its key (`password`, `token`, ...), by where it stands (before
the host of an address or behind its `?`, after `Bearer`), or by what it looks like (a private key,
a signed token). What was found so is then looked for literally in everything else, as a library's
message may repeat it. The contents of credential files are no matter of this module: nobody reads
them. In doubt more goes than has to: a word too few in a log is no harm.

Texts are long and may be hostile, so no expression begins anew at each letter of a long word.
"""

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Final

REMOVED: Final = "(removed)"

_IN_NAME: Final = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey")
_WORDS_OF_NAME: Final = frozenset({"pass", "auth", "authorization", "key", "keys", "pwd", "pw"})
_NO_SECRETS: Final = frozenset({"PWD", "SSH_AUTH_SOCK"})
"""Variables that only sound like one."""
_SHORTEST: Final = 4
"""Shorter words are not looked for elsewhere: they would be found everywhere."""
_SURE: Final = 8
_MOST_OF_ADDRESSES: Final = 500
"""Secrets in addresses that are looked for elsewhere too; what stands in one always goes."""

_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)([^\s\"'<>]+)", re.IGNORECASE)
_USER: Final = re.compile(r"^.*@", re.DOTALL)
_OPAQUE: Final = re.compile(r"(?=[^/]*\d)(?=[^/]*[A-Za-z])[A-Za-z0-9_~.%+=-]{24,}")
_BATCH: Final = re.compile(r"[0-9a-f]{16}-\d+-[a-z]+-\d+(\.[a-z]+)?")
_ASSIGNED: Final = (
    r"(?i)(?<![\w-])([\"']?[\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key)[\"']?"
    r"(?:\s*=\s*|[\"']\s*:\s*(?=[\"']))"
)
_PATTERNS: Final = (
    re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*-----|\Z)", re.DOTALL),
    re.compile(r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?)[^\n\"']+()"),
    re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{6,}()"),
    re.compile(r"()(?<![\w-])eyJ[\w-]{8,}+\.[\w-]{8,}(?:\.[\w-]*)?()"),
    re.compile(rf"{_ASSIGNED}\")[^\"\n]*(\")"),
    re.compile(rf"{_ASSIGNED}')[^'\n]*(')"),
    re.compile(rf"{_ASSIGNED})[^\s\"',;(\[{{]+()"),
    re.compile(r"(?i)(?<![\w-])(--[\w-]*(?:password|passphrase|secret|token)[ ]+)[^\s-]\S*()"),
)


def is_secret(name: str) -> bool:
    """Whether a key or a variable of this name holds a secret, by its name."""
    if name in _NO_SECRETS:
        return False
    lower = name.lower()
    words = re.split(r"[^a-z0-9]+", lower)
    return any(part in lower for part in _IN_NAME) or not _WORDS_OF_NAME.isdisjoint(words)


def _names_a_file(name: str) -> bool:
    return name.lower().rpartition("_")[2] in ("file", "path", "directory")


class Scrubber:
    """Knows the secrets that it has met; each text may teach it more, so `text` comes last.

    Args:
        environment: the variables of a process: what is secret by name is known from the start.
        exists: whether a value of a key such as `token_file`, as it was written, is a file; where
            somebody wrote the token itself there, it goes.
    """

    def __init__(
        self, environment: Mapping[str, str], exists: Callable[[str], bool] | None = None
    ) -> None:
        self._known: set[str] = set()
        self._exists = exists or (lambda _value: False)
        for name, value in environment.items():
            if is_secret(name) and not self._is_path(name, value):
                self._learn(value)

    # -- by the names of keys ----------------------------------------------------------------

    def toml(self, text: str) -> str:
        """A TOML text, also a broken one: without comments and secrets, its lines in place."""
        return "".join(self._toml(text))

    def variables(self, environment: Mapping[str, str]) -> str:
        """Variables, a line each; their names are told, the values of secret ones not."""
        return "".join(
            f"{name}={self._variable(name, value)}\n" for name, value in sorted(environment.items())
        )

    def unit(self, text: str) -> str:
        """Unit files as `systemctl cat` prints them."""
        lines = re.sub(r"\\\n\s*", " ", text).splitlines(keepends=True)
        return "".join(map(self._unit_line, lines))

    # -- anywhere ----------------------------------------------------------------------------

    def learn(self, text: str) -> None:
        """Meet the secrets in the addresses of a text, before others are scrubbed."""
        _URL.sub(self._address, text)

    def text(self, text: str) -> str:
        """Any text."""
        text = _URL.sub(self._address, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{REMOVED}\2", text)
        for secret in sorted(self._known, key=lambda word: (-len(word), word)):
            literal = re.escape(secret)
            sure = len(secret) >= _SURE
            text = re.sub(literal if sure else rf"(?<!\w){literal}(?!\w)", REMOVED, text)
        return text

    # ----------------------------------------------------------------------------------------

    def _learn(self, secret: str) -> None:
        for form in (secret, urllib.parse.unquote(secret), json.dumps(secret)[1:-1]):
            word = form.strip()
            if len(word) >= _SHORTEST and word not in REMOVED:
                self._known.add(word)

    def _is_path(self, name: str, value: str) -> bool:
        if not _names_a_file(name) or "\n" in value:
            return False
        return value.startswith(("/", "~/", "credential:")) or not value or self._exists(value)

    def _address(self, match: re.Match[str]) -> str:
        """Without user and password, without a query, without long opaque parts of the path."""
        rest, mark, query = match[2].partition("?")
        for value in self._in_address(rest, query):
            if len(self._known) < _MOST_OF_ADDRESSES:
                self._learn(value)
        if user := _USER.match(rest):
            rest = f"{REMOVED}@{rest[user.end() :]}"
        host, slash, path = rest.partition("/")
        parts = [
            REMOVED if _OPAQUE.fullmatch(part) and not _BATCH.fullmatch(part) else part
            for part in path.split("/")
        ]
        return f"{match[1]}{host}{slash}{'/'.join(parts)}{mark}{REMOVED * bool(mark)}"

    @staticmethod
    def _in_address(rest: str, query: str) -> Iterator[str]:
        yield from (part.partition("=")[2] for part in query.split("&"))
        if user := _USER.match(rest):
            yield user[0][:-1].rpartition(":")[2]

    def _variable(self, name: str, value: str) -> str:
        if is_secret(name) and not self._is_path(name, value):
            self._learn(value)
            return REMOVED
        if value.lstrip().startswith(("{", "[")):  # a table or a list for the device file
            return self.toml(f"v = {value}").removeprefix("v = ")
        return value

    def _unit_line(self, line: str) -> str:
        key, equals, value = line.partition("=")
        match key.strip():
            case "SetCredential" | "SetCredentialEncrypted":
                name, _, content = value.partition(":")
                self._learn(content)
                return f"{key}={name.strip()}:{REMOVED}\n"
            case "Environment":
                return f"{key}={' '.join(self._assignments(value))}\n"
        return f"{key}{equals}{value}"

    def _assignments(self, value: str) -> Iterator[str]:
        for match in _ASSIGNMENT.finditer(value):
            name, _, content = (match[1] or match[2] or match[3]).partition("=")
            known = name.startswith(("EDGE_AGENT_", "OPENBLAS_")) or name.lower().endswith("_proxy")
            if not known:
                self._learn(content.strip("\"'"))
            content = self._variable(name, content) if known else REMOVED
            yield f"{name}={content}"

    # A scanner and no parser: what is broken must be shown too.

    def _toml(self, text: str) -> Iterator[str]:
        at, depth, key, table, value = 0, 0, "", "", False
        while at < len(text):
            if not value and (match := _HEADER.match(text, at)):
                table = match[0]
                yield match[0]
            elif (match := _KEY.match(text, at)) and not (value and depth == 0):
                key = match[1]
                value = True
                yield match[0]
            elif match := _COMMENT.match(text, at):
                yield "#" if len(match[0]) > 1 else match[0]
            elif (match := _STRING.match(text, at)) or (match := _WORD.match(text, at)):
                yield self._value(table, key, match[0]) if value else match[0]
            else:
                letter = text[at]
                at += 1
                depth += (letter in "[{") - (letter in "]}")
                if letter == "\n" and depth <= 0:
                    depth, value = 0, False
                yield letter
                continue
            at = match.end()

    def _value(self, table: str, key: str, literal: str) -> str:
        plain = literal.strip("\"'\r\n")
        if not (is_secret(key) or is_secret(table)) or self._is_path(key.strip("\"'"), plain):
            return literal
        self._learn(plain)
        return f'"{REMOVED}"' + "\n" * literal.count("\n")


_QUOTED: Final = r"\"(?:\\.|[^\"\\\n])*(?:\"|(?=\n)|\Z)|'[^'\n]*(?:'|(?=\n)|\Z)"
_STRING: Final = re.compile(
    rf"\"\"\"(?:\\.|[^\\])*?(?:\"{{3,5}}|\Z)|'''.*?(?:'{{3,5}}|\Z)|{_QUOTED}", re.DOTALL
)
_PART: Final = rf"(?:[A-Za-z0-9_-]+|{_QUOTED})"
_KEY: Final = re.compile(rf"({_PART}(?:[ \t]*\.[ \t]*{_PART})*)[ \t]*=")
_HEADER: Final = re.compile(r"[ \t]*\[[^=\n]{0,200}\][ \t]*")
_COMMENT: Final = re.compile(r"#[^\n]*")
_WORD: Final = re.compile(r"[^\s\"'#=\[\]{},]+")
_ASSIGNMENT: Final = re.compile(
    r"\"([A-Za-z_]\w*=[^\"]*)\"|'([A-Za-z_]\w*=[^']*)'|([A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|\S*))"
)
