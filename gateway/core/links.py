"""Signed links in notifications: whoever holds one may acknowledge that one alert as that person. Pure.

`{base}/a/{alert id}/{person}/{token}`. The token is bound to the episode's key as well as to the
person, so that it is worth nothing for another alert, another person, or the same number in a store
that was set up anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

SECRET_BYTES: Final = 32
"""As long as the hash, as RFC 2104 recommends."""
TOKEN_BYTES: Final = 12
"""Of HMAC-SHA256's 32: 96 bits. At 10,000 guesses a second a forgery takes 10^17 years, and the token
costs a text message of 160 characters only 16."""
CONTACT_CHARS_MAX: Final = 64
"""As a name in the audit."""
_PURPOSE: Final = b"artemis acknowledge link\0"


def sign(secret: bytes, alert_key: str, contact: str) -> str:
    """The token: 16 characters of A-Z a-z 0-9 - _.

    Args:
        secret: `SECRET_BYTES` random bytes that never leave the gateway.
        alert_key: `Alert.key`.
        contact: the person's name.
    """
    # Nothing in a key is NUL: where the key ends and the name begins cannot be moved.
    said = _PURPOSE + alert_key.encode() + b"\0" + contact.encode()
    return _text(hmac.new(secret, said, hashlib.sha256).digest()[:TOKEN_BYTES])


def verify(secret: bytes, alert_key: str, contact: str, token: str) -> bool:
    """Whether `token` is the one of this alert and person; takes the same time for every wrong one."""
    # Bytes, because a token may be any text, and compare_digest refuses text beyond ASCII.
    return hmac.compare_digest(sign(secret, alert_key, contact).encode(), token.encode(errors="replace"))


def address(base: str, secret: bytes, alert_id: int, alert_key: str, contact: str) -> str:
    """The whole link; "" without a base.

    Args:
        base: where people reach the gateway's pages, e.g. `http://192.168.1.10:8080`.
        secret: as for `sign`.
        alert_id: row number of the alert.
        alert_key: `Alert.key`.
        contact: the person's name.
    """
    if not base:
        return ""
    token = sign(secret, alert_key, contact)
    return f"{base.rstrip('/')}/a/{alert_id}/{_text(contact.encode())}/{token}"


def contact_of(encoded: str) -> str | None:
    """The person a link is for; None if it is no name."""
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        name = raw.decode()
    except (binascii.Error, ValueError):
        return None
    return name if 0 < len(name) <= CONTACT_CHARS_MAX and name.isprintable() else None


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
