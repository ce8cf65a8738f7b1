"""The gateway's own authority: what it makes, what it leaves alone, what it says."""

from __future__ import annotations

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.drivers.broker.tls import server_context, valid_until
from gateway.drivers.certificates import NOT_BEFORE, SERVER_DAYS, Authority, machine_names
from gateway.errors import ConfigError
from tests.conftest import need

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def made(
    folder: Path, names: tuple[str, ...] = ("barn.local", "192.0.2.7"), now: datetime = NOW
) -> Authority:
    authority = Authority(folder, now)
    authority.ensure(names)
    return authority


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(
        [need("openssl"), *map(str, arguments)], check=False, capture_output=True, text=True, timeout=20
    )
    return done.stdout + done.stderr


def test_another_program_accepts_the_chain(tmp_path: Path) -> None:
    made(tmp_path).issue("COW_001", tmp_path)
    server, device, ca = tmp_path / "server.crt", tmp_path / "COW_001.crt", tmp_path / "ca.crt"
    verify = ("verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-CAfile", ca)
    assert "server.crt: OK" in openssl(
        *verify, "-purpose", "sslserver", "-verify_hostname", "barn.local", server
    )
    assert "server.crt: OK" in openssl(*verify, "-purpose", "sslserver", "-verify_ip", "192.0.2.7", server)
    assert "COW_001.crt: OK" in openssl(*verify, "-purpose", "sslclient", device)
    assert "error" in openssl(*verify, "-verify_hostname", "other.local", server)
    assert "error" in openssl(*verify, "-purpose", "sslclient", server), "the server's is no client's"


def test_the_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    made(tmp_path / "deep" / "folder").issue("COW_001", tmp_path)
    for key in (*tmp_path.rglob("*.key"),):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(list(tmp_path.rglob("*.key"))) == 3
    assert list(tmp_path.rglob("*.new")) == []


def test_a_wrong_clock_makes_no_certificate_of_the_future_or_the_past(tmp_path: Path) -> None:
    """Decision 34: a Pi without a network starts in any year."""
    result = Authority(tmp_path, datetime(1970, 1, 1, tzinfo=UTC)).ensure(["barn.local"])
    assert result.until == NOT_BEFORE + timedelta(days=SERVER_DAYS)
    assert "notBefore=Jan  1 00:00:00 2026" in openssl("x509", "-noout", "-dates", "-in", result.certificate)


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = Authority(tmp_path, NOW + timedelta(days=SERVER_DAYS - 100)).ensure(["barn.local"])
    assert again.written == ()
    assert again.names == ("barn.local", "192.0.2.7")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("names", "later_days", "renew", "expected"),
    [
        (("barn.local", "10.0.0.5"), 1, False, ("barn.local", "10.0.0.5", "192.0.2.7")),
        (("barn.local",), SERVER_DAYS - 80, False, ("barn.local", "192.0.2.7")),
        (("stall.local",), 1, True, ("stall.local",)),
    ],
    ids=["a new address", "close to its end", "asked for"],
)
def test_the_server_certificate_is_renewed_and_its_key_stays(
    tmp_path: Path, names: tuple[str, ...], later_days: int, renew: bool, expected: tuple[str, ...]
) -> None:
    made(tmp_path)
    (tmp_path / "server.key").chmod(0o640)
    kept = {name: (tmp_path / name).read_bytes() for name in ("ca.crt", "ca.key", "server.key")}
    now = NOW + timedelta(days=later_days)
    result = Authority(tmp_path, now).ensure(names, renew=renew)
    assert result.written == (tmp_path / "server.crt",)
    assert result.names == expected
    assert result.until == now + timedelta(days=SERVER_DAYS)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o640, "the service must read it"


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "a")
    made(tmp_path / "b")
    (tmp_path / "a" / "server.crt").write_bytes((tmp_path / "b" / "server.crt").read_bytes())
    before = (tmp_path / "a" / "server.crt").read_bytes()
    with pytest.raises(ConfigError, match="was not made by the authority"):
        Authority(tmp_path / "a", NOW).ensure(["barn.local"])
    assert (tmp_path / "a" / "server.crt").read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (lambda folder: (folder / "ca.key").unlink(), "ca.crt is there and .*ca.key is not"),
        (lambda folder: (folder / "ca.crt").unlink(), "ca.key is there and .*ca.crt is not"),
        (
            lambda folder: [(folder / name).unlink() for name in ("ca.crt", "ca.key")],
            "no authority that made it",
        ),
        (lambda folder: (folder / "ca.key").write_bytes(b"junk"), "ca.key holds no unencrypted key"),
        (lambda folder: (folder / "server.crt").write_bytes(b"junk"), "server.crt holds no certificate"),
        (
            lambda folder: (folder / "ca.key").write_bytes((folder / "server.key").read_bytes()),
            "is not the key of",
        ),
    ],
)
def test_a_damaged_folder_is_named_with_a_remedy(tmp_path: Path, spoil: object, wanted: str) -> None:
    made(tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=wanted) as caught:
        Authority(tmp_path, NOW).ensure(["barn.local"])
    assert caught.value.hint
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("device", ["", "a/b", "../x", "x" * 65, "kuh ä"])
def test_a_device_without_a_proper_id_gets_no_certificate(tmp_path: Path, device: str) -> None:
    authority = made(tmp_path)
    with pytest.raises(ConfigError, match="is no device id"):
        authority.issue(device, tmp_path)


def test_a_devices_files_are_never_overwritten(tmp_path: Path) -> None:
    authority = made(tmp_path)
    issued = authority.issue("COW_001", tmp_path)
    before = issued.key.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        authority.issue("COW_001", tmp_path)
    assert issued.key.read_bytes() == before


def test_a_device_gets_no_authority_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no authority to sign with"):
        Authority(tmp_path, NOW).issue("COW_001", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a name nor an address"):
        Authority(tmp_path, NOW).ensure(["barn local"])


def test_this_machine_is_reached_by_loopback_and_by_name() -> None:
    names = machine_names()
    assert {"localhost", "127.0.0.1", "::1"} <= set(names)
    assert len(names) == len(set(names))


# What the listener needs of them.


def test_the_end_of_a_certificate_is_read_as_openssl_reads_it(tmp_path: Path) -> None:
    result = Authority(tmp_path, NOW).ensure(["barn.local"])
    assert valid_until(result.certificate) == result.until
    assert valid_until(result.ca).year == 2056, "beyond 2049 the time has four digits"
    with pytest.raises(ConfigError, match="no certificate in PEM form"):
        valid_until(result.key)


def test_a_certificate_cut_short_is_no_certificate(tmp_path: Path) -> None:
    result = Authority(tmp_path, NOW).ensure(["barn.local"])
    whole = ssl.PEM_cert_to_DER_cert(result.certificate.read_text())
    for length in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.crt").write_text(ssl.DER_cert_to_PEM_cert(whole[:length]))
        with pytest.raises(ConfigError, match=r"cut\.crt"):
            valid_until(tmp_path / "cut.crt")


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "wanted"),
    [
        ("none.crt", "server.key", None, r"broker\.tls\.certificate: .*none\.crt does not exist"),
        ("server.crt", "none.key", None, r"broker\.tls\.key: .*none\.key does not exist"),
        ("server.crt", "ca.key", None, r"broker\.tls\.key: .*ca\.key is not the key of .*server\.crt"),
        ("server.key", "server.key", None, r"broker\.tls\.certificate: .* are no certificate and key"),
        ("server.crt", "server.crt", None, r"broker\.tls\.certificate: .* are no certificate and key"),
        ("server.crt", "server.key", "none.crt", r"broker\.tls\.client_ca: .*none\.crt does not exist"),
        ("server.crt", "server.key", "ca.key", r"broker\.tls\.client_ca: .*ca\.key holds no certificate"),
        ("server.crt", "locked.key", None, r"broker\.tls\.key: the key is encrypted"),
        (".", "server.key", None, r"broker\.tls\.certificate: .* cannot be read: Is a directory"),
    ],
)
def test_files_that_do_not_fit_are_named(
    tmp_path: Path, certificate: str, key: str, client_ca: str | None, wanted: str
) -> None:
    made(tmp_path)
    openssl(
        "ec", "-aes128", "-passout", "pass:x", "-in", tmp_path / "server.key", "-out", tmp_path / "locked.key"
    )
    with pytest.raises(ConfigError, match=wanted) as caught:
        server_context(
            tmp_path / certificate,
            tmp_path / key,
            client_ca=tmp_path / client_ca if client_ca else None,
            client_certificates="required" if client_ca else "none",
        )
    assert caught.value.hint


def test_client_certificates_need_an_authority(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ConfigError, match=r"broker\.tls\.client_ca: is missing"):
        server_context(tmp_path / "server.crt", tmp_path / "server.key", client_certificates="optional")
