"""What people may do over HTTP: acknowledge, end, silence; as JSON for programs and as forms for pages.

Runs on the event loop. Whatever changes something must come from a page of this gateway or from a
program, never from a stranger's page (`core/origins`). The first one wins: whoever comes second is
told who was first and when.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web

from gateway.core.alert_commands import WHO_CHARS_MAX, AskFault, SilenceWish, Word, convert, decode
from gateway.core.alerts import State
from gateway.core.instants import HOUR_MS, iso_utc
from gateway.core.origins import change_refusal
from gateway.core.silences import Silence
from gateway.errors import StoreError
from gateway.ports import AlertDesk
from gateway.store.alerts import Transition
from gateway.store.database import Database
from gateway.store.standing import Standing, standing
from gateway.web import alert_views, api
from gateway.web.answers import FORM_TYPE, RefusedError, html, json

BODY_S_MAX: Final = 10.0
"""A body of at most 16 KB that takes longer is not worth its connection."""
FIELDS_MAX: Final = 16
"""Of a form; ours have at most five."""
NAME_COOKIE: Final = "by"
NAME_COOKIE_S: Final = 365 * 86_400
"""A browser remembers who uses it for a year."""

_ALERT = "/api/alerts/{alert_id:[0-9]{1,18}}"
_SILENCE = "/api/silences/{silence_id:[0-9]{1,18}}"

Asked = TypeVar("Asked", Word, SilenceWish)


class Actions:
    """The handlers that change something, and those that show one alert.

    Args:
        desk: where it is done; None while the store cannot be opened.
        database: gives the store, or raises StoreError.
        now_ms: the gateway's clock.
        names: host names by which people reach this machine, besides its own.
    """

    def __init__(
        self,
        desk: AlertDesk | None,
        database: Callable[[], Database],
        now_ms: Callable[[], int],
        names: Collection[str] = (),
    ) -> None:
        self._alarm = desk
        self._database = database
        self._now_ms = now_ms
        self._names = tuple(names)
        self._machine = socket.gethostname()

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register every path."""
        router.add_get(_ALERT, self._show)
        router.add_post(_ALERT + "/acknowledge", self._acknowledge)
        router.add_post(_ALERT + "/resolve", self._resolve)
        router.add_post(_ALERT + "/false_positive", self._false_positive)
        router.add_get("/api/silences", self._silences)
        router.add_post("/api/silences", self._silence)
        router.add_delete(_SILENCE, self._unsilence)
        router.add_post(_SILENCE + "/end", self._unsilence)  # a form cannot say DELETE
        router.add_get("/alerts/{alert_id:[0-9]{1,18}}", self._alert_page)
        router.add_get("/silences", self._silences_page)

    @property
    def _desk(self) -> AlertDesk:
        if self._alarm is None:
            raise StoreError("the store cannot be opened; /health says why")
        return self._alarm

    # Alerts ------------------------------------------------------------------------------------

    async def _acknowledge(self, request: web.Request) -> web.Response:
        word = await self._asked(request, Word)
        alert_id = int(request.match_info["alert_id"])
        done = await self._desk.acknowledge(
            alert_id=alert_id, who=word.by, origin=word.origin, note=word.note
        )
        return await self._outcome(request, alert_id, done, word.by)

    async def _resolve(self, request: web.Request) -> web.Response:
        return await self._close(request, State.RESOLVED)

    async def _false_positive(self, request: web.Request) -> web.Response:
        return await self._close(request, State.FALSE_POSITIVE)

    async def _close(self, request: web.Request, state: State) -> web.Response:
        word = await self._asked(request, Word)
        alert_id = int(request.match_info["alert_id"])
        done = await self._desk.close(
            alert_id=alert_id, state=state, who=word.by, origin=word.origin, note=word.note
        )
        return await self._outcome(request, alert_id, done, word.by)

    async def _outcome(self, request: web.Request, alert_id: int, done: int, by: str) -> web.Response:
        found = await self._standing(alert_id)
        if not done:
            raise RefusedError(409, found.sentence)
        return _back(by) if _is_form(request) else json(_alert_object(found))

    async def _show(self, request: web.Request) -> web.Response:
        """One alert with its history."""
        return json(_alert_object(await self._standing(int(request.match_info["alert_id"]))))

    async def _alert_page(self, request: web.Request) -> web.Response:
        found = await self._standing(int(request.match_info["alert_id"]))
        name = None if self._alarm is None else name_of(request)
        return html(alert_views.alert_page(found, self._now_ms(), name))

    async def _standing(self, alert_id: int) -> Standing:
        found = await self._database().read(lambda db: standing(db, alert_id))
        if found is None:
            raise RefusedError(404, f"there is no alert {alert_id}")
        return found

    # Silences ----------------------------------------------------------------------------------

    async def _silences(self, _: web.Request) -> web.Response:
        return json([_silence_object(silence) for silence in self._desk.silences])

    async def _silences_page(self, request: web.Request) -> web.Response:
        held = self._desk.silences
        return html(alert_views.silences_page(held, self._now_ms(), name_of(request)))

    async def _silence(self, request: web.Request) -> web.Response:
        wish = await self._asked(request, SilenceWish)
        made = await self._desk.silence(
            subject=wish.subject,
            kind=wish.kind,
            until_ms=self._now_ms() + round(wish.hours * HOUR_MS),
            who=wish.by,
            origin=wish.origin,
            reason=wish.reason,
        )
        return _back(wish.by) if _is_form(request) else json(_silence_object(made), 201)

    async def _unsilence(self, request: web.Request) -> web.Response:
        word = await self._asked(request, Word)
        number = int(request.match_info["silence_id"])
        if not await self._desk.end_silence(silence_id=number, who=word.by, origin=word.origin):
            raise RefusedError(404, f"no silence {number} holds; it may have ended")
        return _back(word.by) if _is_form(request) else json({"id": number, "ended": True})

    async def _asked(self, request: web.Request, wanted: type[Asked]) -> Asked:
        """Who asks for what, once it is clear that no stranger's page does."""
        refusal = change_refusal(request.headers, self._machine, self._names)
        if refusal is not None:
            raise RefusedError(403, refusal)
        body = await body_of(request)
        if _is_form(request):
            asked = convert(_fields(body), wanted)
        elif request.content_type == "application/json":
            asked = decode(body, wanted)
        else:
            raise RefusedError(415, f"send application/json or {FORM_TYPE}")
        if isinstance(asked, AskFault):
            raise RefusedError(400, asked.text)
        return asked


async def body_of(request: web.Request) -> bytes:
    """The whole body, within its bounds.

    Raises:
        RefusedError: it takes too long.
        web.HTTPRequestEntityTooLarge: it is too long.
    """
    try:
        async with asyncio.timeout(BODY_S_MAX):
            return await request.read()
    except TimeoutError:
        raise RefusedError(408, f"the request took longer than {BODY_S_MAX:.0f} s") from None


def name_of(request: web.Request) -> str:
    """Who used this browser last; "" if nobody has said."""
    name = unquote(request.cookies.get(NAME_COOKIE, ""), errors="replace")[:WHO_CHARS_MAX]
    return name if name.isprintable() else ""


def _back(by: str) -> web.Response:
    """To the status page, which shows what has become of it; the browser remembers the name."""
    answer = web.Response(status=303, headers={"Location": "/"})
    answer.set_cookie(
        NAME_COOKIE, quote(by, safe=""), max_age=NAME_COOKIE_S, httponly=True, samesite="Strict"
    )
    return answer


def _is_form(request: web.Request) -> bool:
    return request.content_type == FORM_TYPE


def _fields(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise RefusedError(400, f"the form must be UTF-8 and have at most {FIELDS_MAX} fields") from None


def _alert_object(found: Standing) -> dict[str, Any]:
    step = found.decided
    return {
        **api.alert_object(found.alert),
        "decided_by": None if step is None else step.who,
        "decided_at": None if step is None else iso_utc(step.at_ms),
        "history": [_step_object(step) for step in found.history],
        "told": [
            {"at": iso_utc(one.at_ms), "contact": one.contact, "channel": one.channel, "outcome": one.outcome}
            for one in found.told
        ],
    }


def _step_object(step: Transition) -> dict[str, Any]:
    return {
        "at": iso_utc(step.at_ms),
        "from": step.from_state or None,
        "to": step.to_state,
        "severity": step.severity.label,
        "who": step.who,
        "origin": step.origin,
        "reason": step.reason,
    }


def _silence_object(silence: Silence) -> dict[str, Any]:
    return {
        "id": silence.id,
        "subject": silence.subject,
        "kind": silence.kind,
        "from": iso_utc(silence.from_ms),
        "until": iso_utc(silence.until_ms),
        "who": silence.who,
        "origin": silence.origin,
        "reason": silence.reason,
    }
