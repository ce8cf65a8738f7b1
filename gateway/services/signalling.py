"""What the panel shows and sounds, from everything that has a say in it.

Runs on the event loop; nothing here waits but `test`. It needs neither store, network nor a clock that
is set, so that it can tell of their failure. The decision what is shown is `core/signals`; this keeps
what it is made from and plays the result once per change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from gateway.core.alerts import Alert, State
from gateway.core.findings import Finding
from gateway.core.signals import CHIRP, TEST, Signal, call_signal, signal_for
from gateway.ports import Clock

CALLS_MAX = 64
"""Calls for help that wait for the disk, by sender and kind; a farm has a handful of panic buttons. The
panel shows the newest one; the oldest beyond this are forgotten here, not by who stores them."""

STORE_FAILING = "gateway cannot store"


class _Call(msgspec.Struct):
    """A call for help that is not yet on disk, and whether somebody has pressed the button for it."""

    finding: Finding
    heard: bool = False


class Signalling:
    """Keeps light and sound up to date.

    Args:
        show: plays a signal until the next one; called once per change, must not block.
        clock: times the panel test.
    """

    def __init__(self, show: Callable[[Signal], None], clock: Clock) -> None:
        self._show = show
        self._clock = clock
        self._alerts: Sequence[Alert] = ()
        self._muted: frozenset[int] = frozenset()
        self._seen: set[int] = set()
        self._calls: dict[tuple[str, str], _Call] = {}
        self._store_failing = False
        self._degraded: str | None = None
        self._uplink_down = False
        self._clock_untrusted = False
        self._hushed = False
        self._true: Signal | None = None
        self._test: object | None = None
        self.signal: Signal | None = None
        """What the panel shows now; None before it was told anything."""

    def alerts(self, open_alerts: Sequence[Alert], muted: frozenset[int]) -> None:
        """Tell which alerts are open, as they are on disk.

        Args:
            open_alerts: all of them.
            muted: ids of those a silence covers; their light stays.
        """
        self._alerts, self._muted = open_alerts, muted
        self._refresh()

    def call(self, finding: Finding) -> None:
        """Somebody calls for help: light and sound now, until it is on disk and its alert takes over."""
        key = (finding.subject, finding.kind)
        self._calls.pop(key, None)  # the newest is last
        self._calls[key] = _Call(finding)
        if len(self._calls) > CALLS_MAX:
            del self._calls[next(iter(self._calls))]
        self._refresh()

    def stored(self, findings: Iterable[Finding]) -> None:
        """These are on disk: of the calls among them, `alerts` tells from now on."""
        for finding in findings:
            call = self._calls.get((finding.subject, finding.kind))
            if call is not None and call.finding == finding:
                del self._calls[finding.subject, finding.kind]
        self._refresh()

    def store_failing(self, failing: bool) -> None:  # noqa: FBT001 - a setter with one meaning
        """Tell whether the last attempt to store alerts failed."""
        self._store_failing = failing
        if not failing:
            self._seen.clear()
        self._refresh()

    def health(self, degraded: str | None, uplink_down: bool, clock_untrusted: bool) -> None:  # noqa: FBT001
        """Tell how the gateway itself is.

        Args:
            degraded: what the gateway cannot do, in a few words; None while it does its work.
            uplink_down: an upstream is configured and cannot be reached.
            clock_untrusted: the wall clock has not been set by anything trustworthy.
        """
        self._degraded = degraded
        self._uplink_down = uplink_down
        self._clock_untrusted = clock_untrusted
        self._refresh()

    def hush(self) -> bool:
        """The button silences what sounds and stands on no disk: calls on their way, and the chirp.

        Their light stays. The chirp is back with the next trouble.

        Returns:
            whether it was one of these that sounded; the button has done its work then.
        """
        calling = [call for call in self._calls.values() if not call.heard]
        chirping = self._true is not None and self._true.sound == CHIRP
        for call in calling:
            call.heard = True
        self._hushed = True
        self._refresh()
        return bool(calling) or chirping

    def seen(self, alert_id: int) -> None:
        """Somebody has pressed the button and the store could not keep it: quiet here until it can write."""
        self._seen.add(alert_id)
        self._refresh()

    async def test(self) -> bool:
        """Play every colour and sound, unless something sounds; whatever changes meanwhile ends it.

        Returns:
            whether it was played to its end.
        """
        self._refresh()
        if self._test is not None or (self._true is not None and self._true.sound is not None):
            return False
        this = self._test = object()
        try:
            for signal, seconds in TEST:
                self._play(signal)
                await self._clock.sleep(seconds)
                if self._test is not this:
                    return False
            return True
        finally:
            if self._test is this:
                self._test = None
                if self._true is not None:
                    self._play(self._true)

    def _refresh(self) -> None:
        self._hushed = self._hushed and (self._degraded is not None or self._store_failing)
        true = self._now()
        if true != self._true:
            self._true, self._test = true, None
            self._play(true)

    def _play(self, signal: Signal) -> None:
        if signal != self.signal:
            self.signal = signal
            self._show(signal)

    def _now(self) -> Signal:
        shown = [
            msgspec.structs.replace(alert, state=State.ACKNOWLEDGED) if alert.id in self._seen else alert
            for alert in self._alerts
        ]
        degraded = self._degraded or (STORE_FAILING if self._store_failing else False)
        signal = signal_for(shown, degraded, self._uplink_down, self._clock_untrusted, self._muted)
        if self._hushed and signal.sound == CHIRP:
            signal = msgspec.structs.replace(signal, sound=None)
        for call in reversed(self._calls.values()):
            if not call.heard:
                return call_signal(call.finding.kind, call.finding.subject)
        if self._calls and signal.sound in (None, CHIRP):
            newest = next(reversed(self._calls.values())).finding
            lit = call_signal(newest.kind, newest.subject)
            return msgspec.structs.replace(lit, sound=signal.sound)
        return signal
