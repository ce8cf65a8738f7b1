from __future__ import annotations

import asyncio
import logging
import os
import sys

import pytest

from gateway.drivers import rasteriser
from gateway.drivers.rasteriser import Rasteriser

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="32">'
    '<rect width="64" height="32" fill="white"/><path d="M0 30 L60 2" stroke="black"/></svg>'
)


def draw(maker: Rasteriser, *svgs: str) -> list[bytes | None]:
    async def all_of_them() -> list[bytes | None]:
        return [await maker.png(svg) for svg in svgs]

    return asyncio.run(all_of_them())


def test_an_svg_becomes_a_png_of_its_size() -> None:
    (png,) = draw(Rasteriser(), SVG)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (64, 32)


def test_the_same_picture_for_the_next_person_is_not_drawn_again() -> None:
    maker = Rasteriser()
    first, second = draw(maker, SVG, SVG)
    assert first is second
    assert maker.counts.drawn == 1


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "import sys; sys.stderr.write('out of paint'); sys.exit(3)"), "out of paint"),
        ((sys.executable, "-c", "print('no picture')"), "exit code 0"),
        ((sys.executable, "-c", "import os; os.abort()"), "exit code -6"),
    ],
)
def test_a_child_that_fails_means_no_picture_and_one_line(
    command: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    maker = Rasteriser(command)
    assert draw(maker, SVG, SVG + " ") == [None, None]
    assert maker.counts.failed == 2
    (line,) = caplog.messages
    assert why in line


def test_what_is_no_svg_means_no_picture(caplog: pytest.LogCaptureFixture) -> None:
    assert draw(Rasteriser(), "<svg") == [None]
    assert "root node" in caplog.text


def test_a_child_that_hangs_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    maker = Rasteriser((sys.executable, "-c", "import signal; signal.pause()"), time_s_max=0.1)
    assert draw(maker, SVG) == [None]
    assert "more than 0.1 s" in caplog.text
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nobody is left to wait for


def test_a_picture_beyond_all_measure_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rasteriser, "SVG_CHARS_MAX", len(SVG) - 1)
    with caplog.at_level(logging.WARNING):
        assert draw(Rasteriser(("/no/such/program",)), SVG) == [None]
    assert "characters" in caplog.text


def test_the_child_has_no_memory_to_waste_and_sees_no_passwords(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")
    seen = "import os, sys; sys.stderr.write(repr(dict(os.environ))); sys.exit(1)"
    maker = Rasteriser((sys.executable, "-c", seen))
    assert draw(maker, SVG) == [None]
    assert "drawn: {" in caplog.text
    assert "hunter2" not in caplog.text
    huge = SVG.replace('width="64" height="32"', 'width="60000" height="60000"', 1)
    assert draw(Rasteriser(), huge) == [None], "14 GB of pixels"
