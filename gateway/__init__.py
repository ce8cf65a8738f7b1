"""Artemis Barn Gateway: broker, store, detectors, light and sound, uplink in one process."""

__version__ = "1.0.0"
