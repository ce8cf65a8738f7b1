"""How the server answers: JSON or a page, headers, and one sentence for everything it refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.errors import StoreError
from gateway.web import api
from gateway.web.layout import notice

FORM_TYPE = "application/x-www-form-urlencoded"

_HEADERS = {
    # Scripts, styles and requests of this server only. A page's forms must say where they come from,
    # so the referrer policy is not "no-referrer": that would turn their Origin into "null".
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    """A request that is not granted.

    Args:
        status: of the answer: 400, 403, 404, 408, 409, 415, 503.
        sentence: why, and what would help.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def json(content: object, status: int = 200) -> web.Response:
    """JSON."""
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def html(text: str, status: int = 200) -> web.Response:
    """A page."""
    return web.Response(text=text, status=status, content_type="text/html")


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is one sentence; a bug is logged by aiohttp and answered with 500."""
    try:
        return await handler(request)
    except RefusedError as error:
        return _told(request, error.status, error.sentence)
    except api.BadParameterError as error:
        return _told(request, 400, str(error))
    except StoreError as error:
        return _told(request, 503, str(error))
    except web.HTTPMethodNotAllowed as error:
        answer = json({"error": f"{request.method} is not possible here"}, error.status)
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return answer
    except web.HTTPRequestEntityTooLarge as error:
        return _told(request, error.status, "the request has too many bytes")
    except web.HTTPException as error:
        return _told(request, error.status, error.reason)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """On every answer."""
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)  # nobody needs our library's version to attack it


def _told(request: web.Request, status: int, sentence: str) -> web.Response:
    """As a page to whoever sent a form or opened a page, else as JSON."""
    if request.content_type == FORM_TYPE or request.path.startswith(("/a/", "/alerts/", "/silences")):
        return html(
            notice("That was not possible", sentence, back=not request.path.startswith("/a/")), status
        )
    return json({"error": sentence}, status)
