"""How keys, channels and mailboxes are called in the database.

Keys are kept as they are, for people who look into the table. Channels and mailboxes are hashed: what
PostgreSQL calls a channel is at most 63 bytes long.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import Final

_LONGEST_KEY: Final = 1000  # bytes; an index entry holds 2,700


def as_bytes(text: str) -> bytes:
    """Text that callers choose, as it travels: whatever Python can hold in a string."""
    return text.encode("utf-8", "surrogatepass")


def as_text(body: bytes) -> str:
    """What `as_bytes` made bytes of."""
    return bytes(body).decode("utf-8", "surrogatepass")


def place(key: str) -> str:
    """The key as the column holds it: itself, or a hash where it is too long or not printable ASCII.

    Keys as `Store` names them always stay what they are; only the ids of operations may be hashed.
    """
    if len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable() and key[:2] != "#h":
        return key
    return "#h" + blake2b(as_bytes(key), digest_size=32).hexdigest()


def channel_name(name: str) -> str:
    """What listeners to a channel LISTEN to."""
    return "anypod_" + blake2b(as_bytes(name), digest_size=16).hexdigest()


def mail_box(mailbox: str) -> str:
    """Under which name the notifications in a mailbox are kept."""
    return sha256(as_bytes(mailbox)).hexdigest()
