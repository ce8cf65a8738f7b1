"""The section `notify`: what it takes, what it refuses, and that its secrets are not shown."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest

from gateway.config import read
from gateway.config.schema import NotifyChannel


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_channel_is_a_url_with_its_secret_from_the_environment(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'notify:\n  channels:\n    email: {url: "mailtos://barn:${SMTP_PASSWORD}@example.org?to={to}"}\n'
        "    modem: {url: 'json://modem.local/{to}', form: short}\n  daily_summary: null\n",
        0o644,
    )
    loaded = read(path, {"SMTP_PASSWORD": "hunter2"})
    assert (loaded.faults, loaded.notes) == ((), ())
    notify = loaded.config.notify
    assert notify.channels == {
        "email": NotifyChannel(url="mailtos://barn:hunter2@example.org?to={to}"),
        "modem": NotifyChannel(url="json://modem.local/{to}", form="short"),
    }
    assert notify.daily_summary_local is None


def test_the_defaults(tmp_path: Path) -> None:
    notify = read(written(tmp_path, "")).config.notify
    assert (notify.channels, notify.daily_summary_local, notify.stale_min) == ({}, time(7, 0), 60)


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("daily_summary: '7:00'", "notify", 'write it like "07:00"'),
        ("link_base: barn.local", "notify.link_base", "http://barn.local:8080"),
        ("stale_min: 0", "notify.stale_min", "1 to 1440"),
        ("channels: {email: {}}", "notify.channels.email.url", "is missing"),
        ("channels: {E-Mail: {url: 'json://x/{to}'}}", "notify.channels.E-Mail", "no name of a channel"),
        ("channels: {x: {url: 'json://x', form: long}}", "notify.channels.x.form", "full, short"),
        ("chanels: {}", "notify.chanels", "did you mean channels?"),
    ],
)
def test_a_fault_names_its_place_and_the_remedy(tmp_path: Path, text: str, path: str, says: str) -> None:
    (fault,) = read(written(tmp_path, f"notify:\n  {text}\n")).faults
    assert fault.path == path
    assert says in fault.text


def test_a_url_that_is_none_is_a_note_and_no_fault_and_is_not_quoted(tmp_path: Path) -> None:
    loaded = read(written(tmp_path, "notify:\n  channels: {email: {url: 'hunter2@example.org'}}\n"))
    assert loaded.faults == ()
    (note,) = loaded.notes
    assert note.path == "notify.channels.email.url"
    assert "nobody will be told by it" in note.text
    assert "hunter2" not in str(note)


def test_a_password_everyone_may_read_is_a_note(tmp_path: Path) -> None:
    text = "notify:\n  channels: {email: {url: 'mailtos://barn:hunter2@example.org?to={to}'}}\n"
    (note,) = read(written(tmp_path, text, 0o644)).notes
    assert "chmod 640" in note.text
    assert read(written(tmp_path, text, 0o640)).notes == ()
