"""Where on earth something happened: coordinates in a detail, for people and for a map. Pure."""

from __future__ import annotations

import re

import msgspec

_PLACE = re.compile(r"\blat=(-?\d{1,2}(?:\.\d{1,15})?) lon=(-?\d{1,3}(?:\.\d{1,15})?)(?![\d.])", re.ASCII)


class Place(msgspec.Struct, frozen=True):
    """WGS 84, degrees; north and east are positive."""

    lat: float
    lon: float

    def __str__(self) -> str:
        """`12.97°N, 77.59°E`: to about a kilometre, enough to know where to drive first."""
        north, east = "N" if self.lat >= 0 else "S", "E" if self.lon >= 0 else "W"
        return f"{abs(self.lat):.2f}°{north}, {abs(self.lon):.2f}°{east}"


def place_in(detail: str) -> Place | None:
    """The place in an alert's detail ("lat=12.9716 lon=77.5946"); None if there is none on earth."""
    found = _PLACE.search(detail)
    if found is None:
        return None
    place = Place(float(found[1]), float(found[2]))
    return place if abs(place.lat) <= 90 and abs(place.lon) <= 180 else None


def map_link(place: Place) -> str:
    """A page that shows the place with a pin; 5 decimals are a metre."""
    lat, lon = f"{place.lat:.5f}", f"{place.lon:.5f}"
    return f"https://www.openstreetmap.org/?mlat={lat}&mlon={lon}#map=17/{lat}/{lon}"
