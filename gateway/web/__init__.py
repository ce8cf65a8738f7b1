"""HTTP: health, status page, read-only API."""
