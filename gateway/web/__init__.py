"""HTTP: health, status page, API, live stream, what people do about alerts."""
