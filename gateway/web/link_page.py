"""The page behind the link of a notification. Runs on the event loop.

Opening it changes nothing, because mail scanners and previews open every link; its one button does.
The token is the permission: it says which alert and which person, so the request may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from gateway.core.links import contact_of, verify
from gateway.errors import StoreError
from gateway.ports import AlertDesk
from gateway.store.database import Database
from gateway.store.standing import Standing, standing
from gateway.web import alert_views
from gateway.web.actions import body_of
from gateway.web.answers import RefusedError, html

_PATH = "/a/{alert_id:[0-9]{1,18}}/{contact:[A-Za-z0-9_-]{1,400}}/{token:[A-Za-z0-9_-]{1,64}}"
_WRONG = "This link is not valid: it may have been cut off. Open the newest message, or the status page."


class LinkPage:
    """Handlers of `/a/…`.

    Args:
        secret: signs the links; b"" = there are none.
        desk: where alerts are acknowledged; None while the store cannot be opened.
        database: gives the store, or raises StoreError.
        now_ms: the gateway's clock.
    """

    def __init__(
        self,
        secret: bytes,
        desk: AlertDesk | None,
        database: Callable[[], Database],
        now_ms: Callable[[], int],
    ) -> None:
        self._secret = secret
        self._desk = desk
        self._database = database
        self._now_ms = now_ms

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register the path."""
        router.add_get(_PATH, self._show)
        router.add_post(_PATH, self._acknowledge)

    async def _show(self, request: web.Request) -> web.Response:
        found, contact = await self._checked(request)
        return html(alert_views.link_page(found, contact, self._now_ms(), request.path))

    async def _acknowledge(self, request: web.Request) -> web.Response:
        found, contact = await self._checked(request)
        await body_of(request)
        if self._desk is None:
            raise StoreError("the store cannot be opened; /health says why")
        done = await self._desk.acknowledge(alert_id=found.alert.id, who=contact, origin="link")
        again, _ = await self._checked(request)
        page = alert_views.link_page(again, contact, self._now_ms(), request.path)
        return html(page, 200 if done else 409)

    async def _checked(self, request: web.Request) -> tuple[Standing, str]:
        """The alert and the person of a link whose token is right."""
        alert_id = int(request.match_info["alert_id"])
        contact = contact_of(request.match_info["contact"])
        found = await self._database().read(lambda db: standing(db, alert_id))
        key = "" if found is None else found.alert.key
        # Also computed for an alert or a name that is not there: the answer is the same, and as quick.
        right = verify(self._secret, key, contact or "", request.match_info["token"])
        if not self._secret or found is None or contact is None or not right:
            raise RefusedError(403, _WRONG)
        return found, contact
