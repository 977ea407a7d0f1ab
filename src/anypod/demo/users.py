"""Who may log in to the shop: two people, whose passwords are their names followed by "-secret"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from werkzeug.security import check_password_hash

# A real shop keeps these in its database and spends far more work on each: n=1024 is for a demo that
# logs in hundreds of times.
_PASSWORDS: Final[Mapping[str, str]] = {
    "alice": "scrypt:1024:8:1$In5TpMU5pP6uEuT7$6e8219c452390c024464483e18a9caee5e1878754852afdb380f3c08fca42038c724ddb062e3f2f547d4e2ab7a425772e38260f3a7e70fadd4f79778c54cc8ea",
    "bob": "scrypt:1024:8:1$0nNIBpTPzpAaDlfN$086e2e7e6fb35958881a82d83490bf7d7ae982f43287a5b137dba67a8d1b6e4c07f3d53b0f4c0cf187a48304e137f4c13884c87be55657de8feaeee7a6bd8432",
}
_NOBODY: Final = "scrypt:1024:8:1$bnzz4pE69KLWDbEG$29f9cf8ca731164307fb58c712cda3b58920af98e5cdf460769f7f3d9c1c595741c1b3c96b04e9b3fc73fe32528d6b21ecb2a57d2820ae0d195b07c4211f67bd"


def authenticate(name: str, password: str) -> str | None:
    """The id of the user whose name and password these are, or None.

    An unknown name costs as much work as a wrong password, so that the time tells nothing.
    """
    known = check_password_hash(_PASSWORDS.get(name, _NOBODY), password)
    return name if known and name in _PASSWORDS else None
