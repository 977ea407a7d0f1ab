"""Which values are secrets by their names, and texts in which these are not told."""

from __future__ import annotations

import itertools
import re

__all__ = ["is_secret_name", "redacted", "words"]

HIDDEN = "•••"
_SECRET = frozenset({
    "password", "passwd", "pwd", "passphrase", "passcode", "secret", "token", "apikey", "auth", "jwt",
    "authorization", "credential", "credentials", "otp", "totp", "pin", "cvv", "cvc", "ssn", "iban",
    "bearer", "session", "sessionid", "sid", "cookie", "signature", "csrftoken", "xsrftoken",
})  # fmt: skip
_SECRET_PAIRS = frozenset({
    ("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key"), ("card", "number"),
    ("account", "number"), ("credit", "card"), ("pass", "word"), ("session", "id"), ("csrf", "token"),
})  # fmt: skip
# A name and its value as JSON, Python, queries, forms and parts of a multipart body have them.
_NAMED = re.compile(
    r"""(?P<before>(?P<quote>["'])(?P<key>[^"'\\]{1,80})(?P=quote)\s*:\s*)"""
    r"""(?P<value>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[-+.\w]+)"""
    r"""|(?P<start>(?:^|[?&;\s])(?P<field>[\w.\-\[\]]{1,80})=)(?P<text>[^&;#\s"']+)"""
    r"""|(?P<head>\bname="(?P<part>[^"]{1,80})"\s+)(?P<body>(?:(?!--).)+)"""
)


def words(name: str) -> list[str]:
    """The words of a name, however it joins them: `newPassword1` is new, password."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return [part.lower() for part in parts]


def is_secret_name(parts: list[str]) -> bool:
    """Whether a name, by its words, is that of a secret."""
    return bool(_SECRET & set(parts)) or any(
        pair in _SECRET_PAIRS for pair in itertools.pairwise(parts)
    )


def redacted(text: str) -> str:
    """A text without the values whose names say that they are secrets."""
    return _NAMED.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    name = found["key"] or found["field"] or found["part"]
    if not is_secret_name(words(name)):
        return found[0]
    if found["key"]:
        quote = found["value"][0] if found["value"][0] in "\"'" else ""
        return f"{found['before']}{quote}{HIDDEN}{quote}"
    return f"{found['start'] or found['head']}{HIDDEN}{' ' if found['head'] else ''}"
