"""Artemis Barn Gateway: broker, store, detectors, light and sound, uplink in one process."""

__version__ = "0.1.0"
