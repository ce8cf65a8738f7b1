"""Loops: when something is decided, and in which order it is stored and sent. Never what."""
