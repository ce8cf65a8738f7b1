"""The configuration: one YAML file → frozen structs, every fault at once (decision 37)."""

from __future__ import annotations

from gateway.config.faults import Fault
from gateway.config.loader import Loaded, load, load_noted, read
from gateway.config.schema import Config, is_local, is_loopback

__all__ = ["Config", "Fault", "Loaded", "is_local", "is_loopback", "load", "load_noted", "read"]
