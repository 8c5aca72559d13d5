"""Text of the protocol: addresses, digest fields, Retry-After. Bad text is no error but no value.

docs/upload-protocol.md is the description; this is its other half.
"""

import base64
import binascii
import datetime as dt
import email.utils
import math
import re
import urllib.parse
from collections.abc import Iterable
from typing import Final

from agent.errors import ConfigError
from agent.settings import Uplink
from agent.uplink.policy import Digest

CONTENT_TYPE: Final = "application/vnd.vehicle-edge-agent.batch"
RESEND: Final = "Edge-Agent-Resend"

_PATH: Final = "/v1/vehicles/{vehicle}/batches/{batch_id}"
_DETAIL_CHARACTERS: Final = 200
_RESEND_CHARACTERS: Final = 4096
_RESEND_RANGES: Final = 8
_BATCH_ID: Final = re.compile(r"([0-9a-f]{4,64}-[0-9]{1,15}-[a-z]{1,16})-([0-9]{1,15})")

# A member of an RFC 8941 dictionary whose value is a byte sequence; its parameters do not matter.
_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?(?=,|$)")


def template(settings: Uplink) -> str:
    """The address of a batch, with `{vehicle}` and `{batch_id}` still in it.

    Raises:
        ConfigError: a template without `{batch_id}` would send all batches to one address.
    """
    url = settings.url
    if "{vehicle}" not in url and "{batch_id}" not in url:
        parts = urllib.parse.urlsplit(url)
        return parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()
    if "{batch_id}" not in url:
        raise ConfigError(
            f'uplink "{settings.name}": the url {shown(url)} is a template, because it contains '
            "{vehicle}, and needs {batch_id} too; otherwise all batches would have one address"
        )
    return url


def address(of_batches: str, vehicle: str, batch_id: str) -> str:
    """Fill a template; what is filled in cannot leave its place in the path."""
    filled = of_batches.replace("{vehicle}", urllib.parse.quote(vehicle, safe=""))
    return filled.replace("{batch_id}", urllib.parse.quote(batch_id, safe=""))


def shown(url: str) -> str:
    """An address fit for a log: credentials may stand before the host or behind `?`."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="…" if parts.query else "", fragment="").geturl()


def digest_field(sha256: bytes) -> str:
    """The value of `Content-Digest` (RFC 9530, section 2)."""
    return f"sha-256=:{base64.b64encode(sha256).decode('ascii')}:"


def compare(fields: Iterable[str], sha256: bytes) -> Digest:
    """What the digest fields of an answer say about our digest; one that matches is enough.

    An answer may repeat the digest in `Repr-Digest` and have in `Content-Digest` that of its own
    content, so both are looked at.
    """
    found = Digest.ABSENT
    for field in fields:
        for encoded in _SHA256.findall(field):
            try:
                value = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                continue
            if value == sha256:
                return Digest.MATCHED
            found = Digest.WRONG
    return found


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110, section 10.2.3).

    A date is compared with the `Date` of the same answer: our own wall clock may be wrong.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        # A number of a thousand digits is one for float(), and infinite.
        return min(float(value), 1e9) if len(value) < 300 else 1e9
    then, now = _date(value), _date(date or "")
    if then is None or now is None:
        return None
    return max(0.0, math.ceil((then - now).total_seconds()))


def _date(text: str) -> dt.datetime | None:
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)


def resend(fields: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The ranges of batch ids that an answer asks for once more: `FIRST..LAST, FIRST..LAST`.

    Both ends are of one install, run and lane, and the first is not behind the last. What is
    anything else is left out, and so is what comes after the eighth range.
    """
    ranges: list[tuple[str, str]] = []
    for field in fields:
        for member in field[:_RESEND_CHARACTERS].split(","):
            first, _, last = member.strip().partition("..")
            a, b = _BATCH_ID.fullmatch(first), _BATCH_ID.fullmatch(last)
            if a and b and a[1] == b[1] and int(a[2]) <= int(b[2]):
                ranges.append((first, last))
    return tuple(dict.fromkeys(ranges))[:_RESEND_RANGES]


def detail(body: bytes, *secrets: str) -> str:
    """The beginning of what the receiver says, fit for a log; an echo of a credential is not."""
    text = body.decode("utf-8", "replace")
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    printable = "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(printable.split())
    return words if len(words) <= _DETAIL_CHARACTERS else words[:_DETAIL_CHARACTERS] + "…"
