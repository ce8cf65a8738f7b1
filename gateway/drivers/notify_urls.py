"""Addresses of notification services, as apprise reads them: from a channel and a letter to one URL.

Runs wherever it is called; reads nothing but its arguments. These URLs hold passwords: they are handed
to apprise and shown to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from gateway.core.letters import Letter

TO = "{to}"
"""Where a channel's URL takes the address, percent-encoded."""
WHOLE = "whole"
"""Stands for the URL of the built-in "push": the address itself is one."""
WEBHOOK = "webhook"
"""Stands for the URL of the built-in "webhook": the address is http(s)://…, and takes JSON."""
TWILIO_VARIABLES = ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_PHONE_NUMBER")
"""What the built-in "sms" is made of (S3-085)."""

_STRUCTURED = frozenset({"json", "jsons", "form", "forms"})
"""Services that take `:name=value` as fields of their own."""
_MAIL = frozenset({"mailto", "mailtos"})
_HEADER = "X-Artemis-Message-ID"
_SECRET_CHARS_MIN = 4


class Channel(msgspec.Struct, frozen=True):
    """A way to people: `url` with `{to}` in it, `short` for letters of at most 160 characters."""

    url: str
    short: bool = False


def channels_of(configured: Mapping[str, Channel], environ: Mapping[str, str]) -> dict[str, Channel]:
    """What is configured, and what is built in: push, webhook, and sms where Twilio's variables are set."""
    found = {"push": Channel(WHOLE), "webhook": Channel(WEBHOOK)}
    sid, token, phone = (environ.get(name, "").strip() for name in TWILIO_VARIABLES)
    if sid and token and phone:
        found["sms"] = Channel(f"twilio://{_safe(sid)}:{_safe(token)}@{_safe(phone)}/{TO}", short=True)
    return found | dict(configured)


def url_of(channel: Channel, letter: Letter) -> str | None:
    """The URL that sends this letter; None where the address is none this channel can use."""
    if channel.url == WHOLE:
        url = letter.to
    elif channel.url == WEBHOOK:
        made = _webhook(letter.to)
        if made is None:
            return None
        url = made
    else:
        url = channel.url.replace(TO, _safe(letter.to))
    scheme = url.partition("://")[0].lower()
    if scheme in _STRUCTURED:
        facts = {**letter.fields, "message_id": letter.message_id, "severity": letter.severity}
        return _with(url, {f":{name}": value for name, value in facts.items()})
    if scheme in _MAIL:
        return _with(url, {f"+{_HEADER}": letter.message_id, "format": "text"})
    return url


def sample_url(channel: Channel) -> str | None:
    """A URL of the channel to try whether apprise takes it; None where each address is a URL of its own."""
    if channel.url in {WHOLE, WEBHOOK}:
        return None
    sample = "+15550100000" if channel.short else "somebody@example.org"
    return channel.url.replace(TO, _safe(sample))


def without_secrets(text: str, url: str) -> str:
    """A service's complaint with everything struck out that the URL keeps to itself."""
    parts = urlsplit(url)
    queried = [
        value for name, value in parse_qsl(parts.query) if not name.startswith((":", "+", " ", "format"))
    ]
    place = f"{parts.netloc.rpartition('@')[0]}/{parts.path}"
    secret = [*re.split(r"[/:@]", place), *re.split(r"[/:@]", unquote(place)), *queried]
    for part in sorted({*secret, *map(unquote, secret)}, key=len, reverse=True):
        if len(part) >= _SECRET_CHARS_MIN:
            text = text.replace(part, "***")
    return text


def _webhook(address: str) -> str | None:
    """`https://user:pw@host/path?a=b` as apprise's jsons://; None for what is no http(s) URL."""
    try:
        parts = urlsplit(address)
        good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        return None
    if not good:
        return None
    url = f"json{'s' if parts.scheme == 'https' else ''}://{parts.netloc}{parts.path}"
    return _with(url, {f"-{name}": value for name, value in parse_qsl(parts.query, keep_blank_values=True)})


def _with(url: str, parameters: Mapping[str, str]) -> str:
    """The URL with more parameters, those it has kept."""
    if not parameters:
        return url
    text = "&".join(f"{_safe(name, ':+-')}={_safe(value)}" for name, value in parameters.items())
    return f"{url}{'&' if '?' in url else '?'}{text}"


def _safe(text: str, also: str = "") -> str:
    return quote(text, safe=also)
