"""The configuration file: document 0's text, our example, the environment, bad files."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
import yaml

from gateway.cli.check import check, run_check
from gateway.config import Config, load, read
from gateway.config.convert import _all_paths
from gateway.config.document import DEPTH_MAX, FILE_BYTES_MAX
from gateway.config.loader import VARIABLES
from gateway.errors import ConfigError

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "gateway.yaml"

DOCUMENT_0_MQTT = """
mqtt:
  broker_host: localhost         # Change to broker IP if remote
  broker_port: 1883              # Standard MQTT port
  topic_pattern: "artemis/sensors/+"  # Topic pattern (+ = cow_id wildcard)
  client_id: "artemis_subscriber"
  keepalive: 60
  qos: 1                         # Quality of Service (0, 1, or 2)

  # Optional authentication
  username: null                 # Set if broker requires auth
  password: null

  # Reconnection settings
  reconnect:
    initial_delay: 5             # Seconds to wait before first retry
    max_delay: 60                # Maximum delay between retries
    backoff_multiplier: 2        # Exponential backoff factor
"""
DOCUMENT_0_DATABASE = """
database:
  path: "data/alert_state.db"   # SQLite database path (shared with dashboard)
"""
DOCUMENT_0_SCHEDULES = """
detector_schedules:
  immediate_detection:
    interval_minutes: 2          # Fever, heat stress, sensor malfunction
    enabled: true

  inactivity_detection:
    interval_minutes: 30
    enabled: true

  health_scoring:
    interval_minutes: 15
    enabled: true

  estrus_detection:
    interval_hours: 6
    enabled: true
"""
DOCUMENT_0_LOGGING = """
logging:
  level: INFO                    # DEBUG, INFO, WARNING, ERROR, CRITICAL
  log_file: "logs/realtime_service.log"
  max_bytes: 10485760            # 10 MB
  backup_count: 5
  log_to_console: true
"""
DOCUMENT_0 = DOCUMENT_0_MQTT + DOCUMENT_0_DATABASE + DOCUMENT_0_SCHEDULES + DOCUMENT_0_LOGGING

DOCUMENT_0_HARDENED = (
    DOCUMENT_0_MQTT.replace("broker_port: 1883", "broker_port: 8883")
    .replace("username: null", "username: artemis_user")
    .replace("password: null", "password: your_secure_password")
    + """
  use_tls: true
  ca_certs: "/path/to/ca.crt"
"""
    + DOCUMENT_0_DATABASE
    + """
  timeout: 30
  enable_wal: true
"""
    + DOCUMENT_0_SCHEDULES
    + DOCUMENT_0_LOGGING
    + """
service:
  enable_health_check: true
  health_check_port: 8080
performance:
  max_queue_size: 1000
  cache_max_size: 100
"""
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_document_0_loads_unchanged_and_is_the_default(tmp_path: Path) -> None:
    """S0-024..046: its four blocks joined are our defaults too (decision 37)."""
    assert load(written(tmp_path, DOCUMENT_0), {}) == Config()


def test_document_0_hardened_loads_and_says_what_is_not_there_yet(tmp_path: Path) -> None:
    """S0-035, S0-036, S0-047..050."""
    path = written(tmp_path, DOCUMENT_0_HARDENED)
    loaded = read(path, {})
    assert loaded.faults == ()
    config = loaded.config
    assert (config.broker_port, config.mqtt.use_tls, config.mqtt.ca_certs) == (8883, True, "/path/to/ca.crt")
    assert (config.database.timeout_s, config.database.enable_wal) == (30.0, True)
    assert (config.performance.max_queue_size, config.performance.cache_max_size) == (1000, 100)
    notes = {note.path: note.text for note in loaded.notes}
    assert "TLS is broker.tls" in notes["mqtt.use_tls"]
    assert "barn-gateway device add" in notes["mqtt.username"]


def test_schedules_in_minutes_and_hours() -> None:
    """S0-037..040."""
    assert [(job, s.interval_s) for job, s in Config().detector_schedules.items()] == [
        ("immediate_detection", 120),
        ("inactivity_detection", 1800),
        ("health_scoring", 900),
        ("estrus_detection", 21600),
    ]


def test_a_schedule_may_change_its_unit_and_be_switched_off(tmp_path: Path) -> None:
    """S0-041; the default's minutes go when hours are written."""
    text = "detector_schedules:\n  immediate_detection:\n    interval_hours: 1\n    enabled: no\n"
    schedule = load(written(tmp_path, text), {}).detector_schedules.immediate_detection
    assert (schedule.interval_s, schedule.enabled, schedule.interval_minutes) == (3600.0, False, None)


def keys_of(tree: object, path: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return set()
    below = {f"{path}.{key}" if path else key: value for key, value in tree.items()}
    return set(below).union(*(keys_of(value, name) for name, value in below.items()))


def test_the_example_shows_every_key_with_its_default() -> None:
    assert load(EXAMPLE, {}) == Config()
    shown = keys_of(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    unset_alternatives = {
        f"detector_schedules.{job}.{key}"
        for job, schedule in Config().detector_schedules.items()
        for key in ("interval_minutes", "interval_hours")
        if getattr(schedule, key) is None
    }
    open_keys = {path for path in shown if path.startswith("alerts.clear_judgements_by_kind.")}
    assert shown - open_keys == set(_all_paths(Config)) - unset_alternatives


@pytest.mark.parametrize("text", ["", "\n", "---\n", "# nothing\n", "null\n", "\ufeff", "mqtt:\nuplink: ~\n"])
def test_an_empty_file_means_all_defaults(tmp_path: Path, text: str) -> None:
    assert load(written(tmp_path, text), {}) == Config()


def test_a_missing_file_names_itself_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "none.yaml", {})
    assert "config/gateway.yaml" in caught.value.hint
    assert caught.value.exit_code == 1
    faults, _ = check(tmp_path / "none.yaml")
    assert faults == list(caught.value.faults)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "line", "wanted"),
    [
        (b"mqtt:\n\tqos: 1\n", 2, "indent with spaces"),
        (b"mqtt: [1, 2\n", 2, "is not YAML"),
        (b"mqtt: {}\nsite: \xff\n", 2, "UTF-8"),
        (b"- a\n", 1, "must be sections"),
        (b"just text\n", 1, "must be sections"),
        (b"a: 1\n---\nb: 2\n", 2, "one document"),
        (b"a: \x00\n", 0, "#x0000"),
        (b"a: *nobody\n", 1, "undefined alias"),
        (b"a: " + b"[" * 50_000, 1, f"deeper than {DEPTH_MAX}"),
        (b"#" * (FILE_BYTES_MAX + 1), 0, "larger than"),
        (b"? [a]\n: 1\n", 1, "one plain word"),
    ],
)
def test_what_is_no_yaml_is_one_clear_fault(tmp_path: Path, content: bytes, line: int, wanted: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    (fault,) = read(path, {}).faults
    assert (fault.place.line, wanted in fault.text) == (line, True), str(fault)


def test_nothing_in_the_file_is_constructed(tmp_path: Path) -> None:
    """Tags that make PyYAML's other loaders run code are only odd values here."""
    text = 'site:\n  timezone: !!python/object/apply:os.system ["true"]\n'
    (fault,) = read(written(tmp_path, text), {}).faults
    assert fault.path == "site.timezone"


def test_aliases_cannot_blow_up_or_loop(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    faults = read(written(tmp_path, "\n".join(lines)), {}).faults
    assert len(faults) == 40
    faults = read(written(tmp_path, "mqtt: &m\n  reconnect: *m\n"), {}).faults
    assert all(fault.path.startswith("mqtt") for fault in faults)


def test_the_environment_of_document_2_stands_above_the_file(tmp_path: Path) -> None:
    """S2-004..011."""
    environ = {
        "MQTT_BROKER_HOST": "127.0.0.1",
        "MQTT_BROKER_PORT": "1999",
        "MQTT_USERNAME": "autocore",
        "MQTT_PASSWORD": "0123",
        "MQTT_KEEPALIVE": "30",
        "MQTT_MONITOR_ENABLED": "FALSE",
        "MQTT_MONITOR_LOG_LEVEL": "debug",
        "MQTT_MONITOR_RECONNECT_DELAY": "7",
    }
    assert set(environ) == set(VARIABLES)
    loaded = read(written(tmp_path, "mqtt:\n  broker_port: 1884\n"), environ)
    config = loaded.config
    assert loaded.faults == ()
    assert (config.mqtt.broker_host, config.mqtt.broker_port) == ("127.0.0.1", 1999)
    assert (config.mqtt.username, config.mqtt.password, config.mqtt.keepalive_s) == ("autocore", "0123", 30)
    assert (config.service.enable_mqtt_monitor, config.logging.level) == (False, "DEBUG")
    assert config.mqtt.reconnect.initial_delay_s == 7
    assert "environment variable MQTT_BROKER_PORT: mqtt.broker_port: comes from the environment" in map(
        str, loaded.notes
    )


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(written(tmp_path, ""), dict.fromkeys(VARIABLES, "")) == Config()


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    faults, _ = check(written(tmp_path, ""), {"MQTT_BROKER_PORT": "70000", "MQTT_KEEPALIVE": "often"})
    assert faults == [
        "environment variable MQTT_BROKER_PORT: mqtt.broker_port: 70000 is out of range; must be 1 to 65535",
        'environment variable MQTT_KEEPALIVE: mqtt.keepalive: must be a whole number, not "often"',
    ]


def test_variables_inside_the_file(tmp_path: Path) -> None:
    """S0-108."""
    text = (
        "mqtt:\n  username: ${WHO}\n  password: '${PW}'\n  broker_port: ${PORT:-1884}\n"
        "  client_id: a-${WHO}-$${x}\n  use_tls: ${TLS:-no}\n"
    )
    mqtt = load(written(tmp_path, text), {"WHO": "no", "PW": "12345"}).mqtt
    assert (mqtt.username, mqtt.password, mqtt.broker_port) == ("no", "12345", 1884)
    assert (mqtt.client_id, mqtt.use_tls) == ("a-no-${x}", False)


def test_a_missing_variable_is_a_fault_that_names_it(tmp_path: Path) -> None:
    path = written(tmp_path, "mqtt:\n  username: x\n  password: ${BARN_PW}\n  client_id: a${\n")
    faults, _ = check(path, {"BARN_PW": ""})
    assert faults[0].startswith(f"{path}:3: mqtt.password: environment variable BARN_PW is not set; set it")
    assert faults[1].startswith(f"{path}:4: mqtt.client_id: has a `${{`")
    assert len(faults) == 2


def test_no_fault_repeats_a_secret(tmp_path: Path) -> None:
    text = "mqtt:\n  username: a\n  password: 4711\nuplink:\n  password: [hunter2]\n  port: ${S}\n"
    faults, _ = check(written(tmp_path, text), {"S": "hunter2"})
    assert len(faults) == 3
    assert not any(secret in fault for fault in faults for secret in ("4711", "hunter2"))


def test_a_password_in_a_file_for_everyone_is_warned_about(tmp_path: Path) -> None:
    path = written(tmp_path, "mqtt:\n  username: a\n  password: secret\n")
    path.chmod(0o644)
    assert any("everyone may read" in line for line in check(path, {})[1])
    path.chmod(0o640)
    assert not any("everyone may read" in line for line in check(path, {})[1])


def test_load_raises_all_faults_and_check_prints_them(tmp_path: Path) -> None:
    path = written(tmp_path, "mqtt:\n  qos: 3\n  brokr_port: 1\n")
    with pytest.raises(ConfigError, match="2 faults in the configuration") as caught:
        load(path, {})
    out = io.StringIO()
    assert run_check(path, {}, out=out) == 1
    assert out.getvalue().splitlines() == [
        *(f"fault: {fault}" for fault in caught.value.faults),
        f"{path}: 2 faults; the gateway would not start",
    ]


def test_check_of_a_good_file_says_which_jobs_have_no_detectors(tmp_path: Path) -> None:
    text = DOCUMENT_0.replace(
        "interval_minutes: 30\n    enabled: true", "interval_minutes: 30\n    enabled: false"
    )
    path = written(tmp_path, text)
    out = io.StringIO()
    assert run_check(path, {}, ("inactivity_detection", "estrus_detection"), out) == 0
    line = text.splitlines().index("  estrus_detection:") + 1
    where = f"{path}:{line}: detector_schedules.estrus_detection"
    assert out.getvalue().splitlines() == [
        f"warning: {where}: accepted, but this version has no detector for it yet",
        f"{path}: ok, 1 warning",
    ]


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().mqtt.qos = 2  # type: ignore[misc]
    assert msgspec.structs.replace(Config().mqtt, qos=2).qos == 2
