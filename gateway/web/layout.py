"""What all pages share: the document around them, moments and durations in words. Pure."""

from __future__ import annotations

from html import escape

from gateway.core.instants import iso_utc

REFRESH_S = 5
"""How often the status page shows the newest figures; alerts come at once by the live stream."""


def document(title: str, main: str, *, header: str = "", footer: str = "", refreshed: bool = False) -> str:
    """A whole page; everything but `title` is HTML already.

    Args:
        title: of the browser's tab.
        main: what the page is about; renewed while it is open.
        header: beside the name of the program.
        footer: below everything.
        refreshed: the page shows figures that change by themselves.
    """
    again = f'<noscript><meta http-equiv="refresh" content="{REFRESH_S}"></noscript>\n' if refreshed else ""
    every = f' data-refresh-s="{REFRESH_S}"' if refreshed else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{again}<title>{escape(title)}</title>
<link rel="stylesheet" href="/style.css">
<script src="/page.js" defer></script>
</head>
<body>
<header><h1>Barn Gateway</h1>{header}</header>
<p id="stale" class="card unhealthy" hidden>The gateway does not answer; what is shown is old.</p>
<main{every}>
{main}
</main>
<footer class="quiet">{footer}</footer>
</body>
</html>
"""


def notice(title: str, sentence: str, *, back: bool = True) -> str:
    """A page with one sentence."""
    way = '\n<p><a href="/">Back to the status page</a></p>' if back else ""
    return document(
        title, f'<section class="card"><h2>{escape(title)}</h2><p>{escape(sentence)}</p>{way}</section>'
    )


def span(seconds: float) -> str:
    """A duration in the one unit people would use: `12 s`, `5 min`, `3 h`, `9 days`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def ago(then_ms: int, now_ms: int) -> str:
    """How long before now; an instant ahead of it says so (a collar's clock may be wrong)."""
    seconds = (now_ms - then_ms) / 1000
    return f"{span(seconds)} ago" if seconds > -1 else f"{span(-seconds)} ahead"


def words(name: str) -> str:
    """A key as people read it."""
    return name.replace("_", " ")


def moment(instant_ms: int) -> str:
    """`2025-11-25 14:30 UTC`."""
    return f"{iso_utc(instant_ms - instant_ms % 60_000)[:16].replace('T', ' ')} UTC"
