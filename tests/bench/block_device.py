"""An ext4 file system on a loop device: what reaches the card can be counted, and cut off at an instant.

Needs root. Everything that is mounted or attached is undone by the context managers, also after a fault.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conftest import may_mount

SECTOR_BYTES = 512
"""The unit of /sys/block/*/stat, whatever the device's own sectors are."""
_COPY_ATTEMPTS = 200
"""A copy during which something was written is thrown away; the kernel's own writes come seconds apart."""


class Traffic(NamedTuple):
    """What has been written to a block device since it was attached."""

    writes: int
    sectors: int
    in_flight: int

    @property
    def written_bytes(self) -> int:
        return self.sectors * SECTOR_BYTES


class Card(NamedTuple):
    """A mounted ext4 image, standing in for an SD card."""

    image: Path
    device: str
    mount: Path

    def traffic(self) -> Traffic:
        """Counters of the block layer (Documentation/block/stat.rst: fields 5, 7 and 9)."""
        fields = Path(f"/sys/block/{Path(self.device).name}/stat").read_text(encoding="ascii").split()
        return Traffic(writes=int(fields[4]), sectors=int(fields[6]), in_flight=int(fields[8]))

    def written_bytes(self) -> int:
        """Bytes written so far, with everything that still waited in the page cache."""
        _run("sync", "--file-system", str(self.mount))
        return self.traffic().written_bytes

    def freeze_copy(self, target: Path) -> int:
        """Copy what the device holds at one instant; returns how many attempts it took.

        A copy takes milliseconds and is therefore no instant: blocks read early could be older than
        blocks read late, a mixture no card ever holds (a log already overwritten beside a file that
        its checkpoint had not reached yet). So a copy counts only if the device took no write while
        it was made. Whoever writes must be stopped (SIGSTOP) for that; the kernel's own writes
        (journal, write-back) go on, and make the copy be repeated. Nothing is flushed for it: what
        still is in the file system's page cache is lost in the copy, as in a power cut. What
        fdatasync() has returned for is in the image file's page cache at least, which cp reads.
        """
        for attempt in range(1, _COPY_ATTEMPTS + 1):
            before = self.traffic()
            _run("cp", "--sparse=always", str(self.image), str(target))
            if self.traffic() == before and before.in_flight == 0:
                return attempt
        raise AssertionError(f"{self.device} was written to during each of {_COPY_ATTEMPTS} copies")


def why_not() -> str | None:
    """Why no loop device can be mounted here; None where it can."""
    if not may_mount():
        return "mounting a loop device needs root with the right to mount"
    if not Path("/dev/loop-control").exists():
        return "this kernel or container has no loop devices"
    return None


def format_card(image: Path, size_bytes: int) -> None:
    """An empty ext4 in a sparse image file, with the options of a Raspberry Pi's root partition."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))


@contextmanager
def mounted(image: Path, at: Path, options: str = "noatime") -> Iterator[Card]:
    """Attach and mount an image; a journal left by a power cut is replayed by the mount.

    Raises:
        RuntimeError: with the command's own words, if it cannot be attached or mounted.
    """
    at.mkdir(parents=True, exist_ok=True)
    device = _run("losetup", "--find", "--show", str(image)).strip()
    try:
        _run("mount", "-t", "ext4", "-o", options, device, str(at))
        try:
            yield Card(image, device, at)
        finally:
            _run("umount", str(at))
    finally:
        _run("losetup", "--detach", device)


def _run(*command: str) -> str:
    """Run a system command; its standard error is the fault's text."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # mkfs and losetup are not on everybody's path
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
