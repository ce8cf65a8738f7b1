"""`panel-off`: lamp and buzzer off, also after a kill; the unit's ExecStopPost (decision 19)."""

from __future__ import annotations

from gateway.cli.options import ConfigFile, load_config
from gateway.wiring import panel_off as drive_off


def panel_off(config: ConfigFile = None) -> None:
    """Drive lamp and buzzer to off and release their pins."""
    drive_off(load_config(config))
