"""Digest fields of HTTP: `Content-Digest: sha-256=:...:` (RFC 9530, with RFC 8941's syntax)."""

import base64
import binascii
import re

_MEMBER = re.compile(
    r"[ \t]*(?P<key>[a-z*][a-z0-9_.*-]*)=:(?P<value>[A-Za-z0-9+/=]*):[ \t]*(?:,(?=.)|\Z)"
)
_MAX_FIELD = 1024


def field(digest: bytes) -> str:
    """The field value for a sha-256."""
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def parse(value: str) -> bytes:
    """The sha-256 in a field value, 32 bytes; other algorithms beside it are ignored.

    Raises:
        ValueError: the field is malformed, or has no sha-256; the message is a sentence.
    """
    found: bytes | None = None
    offset = 0
    if not value or len(value) > _MAX_FIELD:
        raise ValueError("Content-Digest is empty or too long")
    while offset < len(value):
        member = _MEMBER.match(value, offset)
        if member is None:
            raise ValueError("Content-Digest is malformed; write sha-256=:BASE64:")
        offset = member.end()
        if member["key"] == "sha-256":
            try:
                found = base64.b64decode(member["value"], validate=True)
            except binascii.Error as e:
                raise ValueError("Content-Digest has a sha-256 that is no base64") from e
    if found is None:
        raise ValueError("Content-Digest has no sha-256, and no other algorithm is taken")
    if len(found) != 32:
        raise ValueError("Content-Digest has a sha-256 that is not 32 bytes long")
    return found
