"""Decisions: what a message is, what a window shows, what an alert does next. Pure."""
