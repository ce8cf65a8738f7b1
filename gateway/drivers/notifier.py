"""Letters to people over apprise: e-mail, SMS, push, chat, webhook.

apprise blocks, so each send has a thread of its own; the caller sends one letter at a time for each
channel. A thread that does not come back in time is left behind and counted: a few of them at most.
apprise is imported by the first thread that needs it, which `warm` starts before the first alert does.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from gateway.core.delivery import Delivered, Rejected, RetryLater
from gateway.core.letters import Letter
from gateway.drivers.notify_urls import Channel, sample_url, url_of, without_secrets

log = logging.getLogger(__name__)

T = TypeVar("T")

SEND_S_MAX = 30.0
"""A send that takes longer hangs: apprise itself waits 4 s for HTTP and 15 s for SMTP, each step."""
HUNG_MAX = 8
"""Threads left behind at a time, 8 MB of address space and about 100 KB of memory each. Above it
nothing is sent until one of them ends: the service, not the gateway, is what hangs."""
WHY_CHARS_MAX = 300
"""Of a service's complaint; it goes into the log."""
PICTURE = "chart.png"

_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}
"""Our severities in apprise's words."""


class NotifierCounts(msgspec.Struct):
    """Since start. `abandoned`: sends that were not waited for any longer."""

    sent: int = 0
    failed: int = 0
    abandoned: int = 0


class Notifier:
    """Hands letters to notification services.

    Args:
        channels: by name; `notify_urls.channels_of` gives them.
        png: draws a letter's chart; None as its answer = no picture.
        send_s_max: see `SEND_S_MAX`.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        png: Callable[[str], Awaitable[bytes | None]],
        *,
        send_s_max: float = SEND_S_MAX,
    ) -> None:
        self._channels = channels
        self._png = png
        self._send_s_max = send_s_max
        self._hung: set[threading.Thread] = set()
        self._complaints = _Complaints()
        self._asset: Any = None
        self.counts = NotifierCounts()

    @property
    def hung_n(self) -> int:
        """Threads left behind that still have not come back."""
        self._hung = {thread for thread in self._hung if thread.is_alive()}
        return len(self._hung)

    async def warm(self) -> dict[str, str]:
        """Import apprise and try every channel's URL; nothing is sent.

        Returns:
            channel → what is wrong with it and the remedy, one sentence without secrets, of those
            that can send nothing.
        """
        answer = await self._in_thread("warm", self._try_all)
        if isinstance(answer, RetryLater):
            return dict.fromkeys(self._channels, answer.why)
        return answer

    async def send(self, letter: Letter) -> Delivered | RetryLater | Rejected:
        """Hand over one letter; `Delivered` once the service has taken it.

        `Rejected` only for an address or URL that no attempt will ever get through. Nothing is
        raised: whatever a service's plug-in stumbles over is `RetryLater`.
        """
        url = self._url(letter)
        if url is None:
            return Rejected(f"the address of {letter.contact} is none that channel {letter.channel} can use")
        png = await self._png(letter.svg) if letter.svg is not None else None
        answer = await self._in_thread(letter.channel, lambda: self._hand_over(letter, url, png))
        if isinstance(answer, Delivered):
            self.counts.sent += 1
        else:
            self.counts.failed += 1
        return answer

    def _url(self, letter: Letter) -> str | None:
        channel = self._channels.get(letter.channel)
        return None if channel is None else url_of(channel, letter)

    async def _in_thread(self, name: str, work: Callable[[], T]) -> T | RetryLater:
        """Run it in a daemon thread of its own; gives up waiting after `send_s_max`."""
        if self.hung_n >= HUNG_MAX:
            return RetryLater(f"{HUNG_MAX} earlier sends still hang")
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - of any of 180 plug-ins; looked at below
                done.set_exception(error)

        done.set_running_or_notify_cancel()  # so that nobody can cancel what the thread will answer
        thread = threading.Thread(target=run, name=f"notify-{name}", daemon=True)
        thread.start()
        answer = asyncio.wrap_future(done)
        try:
            await asyncio.wait({answer}, timeout=self._send_s_max)
        finally:
            if not done.done():
                answer.cancel()  # or the thread would wake a loop that may be closed by then
                self._hung.add(thread)
        if not done.done():
            self.counts.abandoned += 1
            return RetryLater(f"no answer within {self._send_s_max:g} s")
        fault = done.exception()
        if fault is not None:  # its words may quote the URL: only its name is safe
            return RetryLater(f"the plug-in failed with {type(fault).__name__}")
        return done.result()

    # In the threads ----------------------------------------------------------------------------

    def _try_all(self) -> dict[str, str]:
        try:
            self._apprise()
        except ImportError as error:
            text = f"{error.name} is not installed: pip install 'artemis-barn-gateway[notify]'"
            return dict.fromkeys(self._channels, text)
        bad = {}
        for name, channel in self._channels.items():
            url = sample_url(channel)
            if url is not None and self._plugin(url) is None:
                bad[name] = (
                    f"apprise does not take its URL; correct notify.channels.{name}.url "
                    "(https://appriseit.com/services lists what each service needs)"
                )
        return bad

    def _apprise(self) -> Any:
        """The library; the first call takes half a second."""
        import apprise  # noqa: PLC0415 - 24 MB and half a second, only where somebody is told of something

        if self._asset is None:
            self._complaints.listen()
            asset = apprise.AppriseAsset(async_mode=False)
            asset.app_id, asset.app_desc = "Artemis Barn Gateway", "Alerts of the barn"
            asset.app_url = ""
            asset.default_service_retry = 0  # when to try again is decided elsewhere
            asset.pgp_autogen = asset.pem_autogen = False
            self._asset = asset
        return apprise

    def _plugin(self, url: str) -> Any:
        return self._apprise().Apprise.instantiate(url, asset=self._asset)

    def _hand_over(self, letter: Letter, url: str, png: bytes | None) -> Delivered | RetryLater | Rejected:
        plugin = self._plugin(url)
        if plugin is None:
            return Rejected(f"apprise does not take the URL of channel {letter.channel} for {letter.contact}")
        attach = None
        if png is not None and plugin.attachment_support:
            from apprise.attachment import memory  # noqa: PLC0415 - as apprise itself

            make: Any = memory.AttachMemory
            attach = [make(content=png, name=PICTURE, mimetype="image/png")]
        self._complaints.forget()
        good = plugin.notify(
            body=letter.body,
            title=letter.title,
            notify_type=_TYPES.get(letter.severity, "info"),
            body_format="text",
            attach=attach,
        )
        if good:
            return Delivered()
        why = without_secrets(self._complaints.newest(), url)
        return RetryLater(why[:WHY_CHARS_MAX] or "the service did not take it")


class _Complaints(logging.Handler):
    """Keeps apprise's own log out of ours; the newest line of each thread says why a send failed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def listen(self) -> None:
        """Take over the loggers of apprise and of what it sends with: their lines may hold URLs."""
        for name in ("apprise", "urllib3"):
            logger = logging.getLogger(name)
            logger.handlers = [self]
            logger.propagate = False
            logger.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        self._of_thread.text = record.getMessage()

    def forget(self) -> None:
        self._of_thread.text = ""

    def newest(self) -> str:
        return str(getattr(self._of_thread, "text", "")).strip()
