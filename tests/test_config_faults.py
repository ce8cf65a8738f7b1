"""Every kind of wrong value and wrong pair, with the exact line an operator reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from gateway.config import read
from gateway.config.convert import Converter
from gateway.config.document import read_document
from gateway.core.severity import Severity
from gateway.drivers.broker.tokens import Anonymous
from gateway.wiring import anonymous


def faults_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    path = tmp_path / "g.yaml"
    path.write_text(text, encoding="utf-8")
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in read(path, environ or {}).faults]


def test_all_faults_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
mqtt:
  brokr_port: 1884
  qos: 3
  keepalive: fast
  qos: 1
broker_port: 1
logging:
  level: LOUD
uplink:
  enabled: true
panel: 5
"""
    assert faults_of(tmp_path, text) == [
        "g.yaml:2: mqtt.brokr_port: unknown key; did you mean broker_port?",
        "g.yaml:3: mqtt.qos: 3 is out of range; must be 0 to 2",
        'g.yaml:4: mqtt.keepalive: must be a whole number, not "fast"',
        "g.yaml:5: mqtt.qos: is already set in line 3; keep one of the two",
        "g.yaml:6: broker_port: unknown key; did you mean mqtt.broker_port?",
        'g.yaml:8: logging.level: must be one of CRITICAL, DEBUG, ERROR, INFO, WARNING, not "LOUD"',
        "g.yaml:9: uplink.host: is missing, and uplink.enabled is true",
        "g.yaml:11: panel: must be a section with keys, not a value or a list",
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # the spellings YAML 1.1 reads as something else
        (
            "mqtt:\n  broker_port: 010",
            '2: mqtt.broker_port: "010": a leading zero makes it octal in YAML; write 10',
        ),
        (
            "mqtt:\n  keepalive: 22:00",
            '2: mqtt.keepalive: "22:00": YAML counts this in base 60; write one plain number',
        ),
        ("mqtt:\n  client_id: no", "2: mqtt.client_id: no would be read as false; put it in quotes"),
        ("mqtt:\n  client_id: On", "2: mqtt.client_id: On would be read as true; put it in quotes"),
        ("mqtt:\n  client_id: 007", '2: mqtt.client_id: must be text; write "007" with the quotes'),
        ("mqtt:\n  client_id: 1.5", '2: mqtt.client_id: must be text; write "1.5" with the quotes'),
        (
            "mqtt:\n  client_id: ~",
            "2: mqtt.client_id: has no value; write one, or remove the key for its default",
        ),
        ("mqtt:\n  qos:", "2: mqtt.qos: has no value; write one, or remove the key for its default"),
        (
            "mqtt:\n  username: None",
            '2: mqtt.username: "None" is plain text in YAML; write null for no value',
        ),
        ("mqtt:\n  qos: '1'", '2: mqtt.qos: "1" in quotes is text; write the number without quotes'),
        ("mqtt:\n  use_tls: 'yes'", '2: mqtt.use_tls: "yes" in quotes is text; write true without quotes'),
        ("mqtt:\n  use_tls: 1", '2: mqtt.use_tls: must be true or false, not "1"'),
        # wrong types
        ("mqtt:\n  qos: true", '2: mqtt.qos: must be a whole number, not "true"'),
        ("mqtt:\n  qos: 1.0", '2: mqtt.qos: must be a whole number, not "1.0"'),
        ("mqtt:\n  qos: 0x1", '2: mqtt.qos: must be a whole number, not "0x1"'),
        (f"mqtt:\n  qos: {'9' * 40}", f'2: mqtt.qos: must be a whole number, not "{"9" * 40}"'),
        ("mqtt:\n  qos: [1]", "2: mqtt.qos: must be one value, not a list or a section"),
        ("database:\n  timeout: .inf", '2: database.timeout: must be a number, not ".inf"'),
        ("database:\n  timeout: .nan", '2: database.timeout: must be a number, not ".nan"'),
        ("database:\n  timeout: 1e999", '2: database.timeout: "1e999" is too large'),
        ("database:\n  timeout: .", '2: database.timeout: must be a number, not "."'),
        (
            "broker:\n  open_topics: '#'",
            '2: broker.open_topics: must be a list, like ["a", "b"] or [] for none',
        ),
        (
            "broker:\n  open_topics: ['#', 5]",
            '2: broker.open_topics[1]: must be text; write "5" with the quotes',
        ),
        ('mqtt:\n  client_id: "a\\0b"', "2: mqtt.client_id: must not hold a NUL character"),
        ('mqtt:\n  client_id: ""', "2: mqtt.client_id: must not be empty"),
        (f"mqtt:\n  client_id: {'x' * 129}", "2: mqtt.client_id: is longer than 128 characters"),
        # ranges
        ("mqtt:\n  broker_port: 0", "2: mqtt.broker_port: 0 is out of range; must be 1 to 65535"),
        ("mqtt:\n  qos: -1", "2: mqtt.qos: -1 is out of range; must be 0 to 2"),
        (
            "database:\n  timeout: 0",
            "2: database.timeout: 0.0 is out of range; must be more than 0 and at most 86400",
        ),
        ("logging:\n  max_bytes: 0", "2: logging.max_bytes: 0 is out of range; must be more than 0"),
        # unknown keys and duplicates
        ("mqt:\n  qos: 1", "1: mqt: unknown key; did you mean mqtt?"),
        (
            "database:\n  broker_port: 1",
            "2: database.broker_port: unknown key; did you mean mqtt.broker_port?",
        ),
        ("panel:\n  zzz: 1", "2: panel.zzz: unknown key; nearest known key: "),
        ("mqtt:\n  on: 1", "2: mqtt.on: unknown key; nearest known key: "),
        ("mqtt:\n  qos: 1\nmqtt:\n  qos: 2", "3: mqtt: is already set in line 1; keep one of the two"),
        ("a: &a {qos: 1}\nmqtt:\n  <<: *a", "3: mqtt.<<: merge keys are not supported; write the keys out"),
        # pairs
        ("mqtt:\n  username: a", "2: mqtt.username: is set without password; set both or none"),
        ("mqtt:\n  password: a", "2: mqtt.password: is set without username; set both or none"),
        ("mqtt:\n  ca_certs: a", "2: mqtt.ca_certs: has no effect without use_tls: true"),
        ("uplink:\n  ca_certs: a", "2: uplink.ca_certs: has no effect without use_tls: true"),
        (
            "mqtt:\n  reconnect:\n    max_delay: 1",
            "3: mqtt.reconnect.max_delay: is shorter than initial_delay",
        ),
        ("mqtt:\n  broker_host: 192.0.2.7", '2: mqtt.broker_host: "192.0.2.7" is another machine'),
        ("mqtt:\n  broker_host: mosquitto", '2: mqtt.broker_host: "mosquitto" is another machine'),
        (
            "mqtt:\n  broker_port: 1884\nbroker:\n  port: 1885",
            "4: broker.port: differs from mqtt.broker_port (1884)",
        ),
        ("broker:\n  host: barn.local", '2: broker.host: "barn.local" is no address of this machine'),
        (
            "mqtt:\n  use_tls: true\nbroker:\n  host: 0.0.0.0\n  allow_anonymous: true",
            "2: mqtt.use_tls: the listener of broker.host is the unencrypted one",
        ),
        (
            "mqtt: {username: a, password: b}\nbroker: {host: 192.0.2.7, allow_anonymous: true}",
            "1: mqtt.username: asks for passwords, and broker.allow_anonymous lets everyone in",
        ),
        (
            (
                "mqtt: {username: a, password: b}\n"
                "broker: {tls: {enabled: true, host: '::'}, allow_anonymous: true}"
            ),
            "1: mqtt.username: asks for passwords, and broker.allow_anonymous lets everyone in",
        ),
        (
            "mode: production\nbroker:\n  allow_anonymous: true\n  tls: {enabled: true}",
            "3: broker.allow_anonymous: production lets nobody speak without a password",
        ),
        (
            "mode: production\nbroker:\n  host: 0.0.0.0\n  tls: {enabled: true}\n  open_topics: []",
            "3: broker.host: passwords and readings would reach 0.0.0.0 unencrypted",
        ),
        (
            (
                "mode: production\nbroker: {tls: {enabled: true}}\nservice:\n  health_check_host: '::'\n"
                "  allow_anonymous: true"
            ),
            "4: service.health_check_host: the pages have neither a login nor TLS",
        ),
        (
            (
                "mode: production\nbroker: {tls: {enabled: true}}\nuplink:\n  enabled: true\n"
                "  host: farm.example"
            ),
            "3: uplink.use_tls: production sends nothing unencrypted to farm.example",
        ),
        (
            "broker:\n  devices: data/farm.json",
            "2: broker.devices: names the same file as store.farm_register",
        ),
        ("site:\n  timezone: Barn/Yard", '2: site.timezone: "Barn/Yard" is no time zone'),
        ("site:\n  timezone: ../../etc/passwd", '2: site.timezone: "../../etc/passwd" is no time zone'),
        ("mqtt:\n  topic_pattern: a/#", '2: mqtt.topic_pattern: "a/#": it must end in /+'),
        ("mqtt:\n  topic_pattern: a/b+", "2: mqtt.topic_pattern: \"a/b+\": '+' must be a whole level"),
        ("mqtt:\n  topic_pattern: +/+", '2: mqtt.topic_pattern: "+/+": it must end in /+'),
        (
            "broker:\n  open_topics: [a/#/b]",
            "2: broker.open_topics[0]: \"a/#/b\": '#' must be the whole last level",
        ),
        (
            "mqtt:\n  topic_pattern: artemis/alerts/+",
            '2: mqtt.topic_pattern: "artemis/alerts/+": artemis/alerts/# is kept for what the gateway says',
        ),
        (
            f"broker:\n  open_topics: [{'a/' * 32}b]",
            f'2: broker.open_topics[0]: "{"a/" * 32}b": the topic has 33 levels; 32 are allowed',
        ),
        ("broker:\n  denied_topics: [a, '']", '2: broker.denied_topics[1]: "": the filter is empty'),
        ("database:\n  enable_wal: false", "2: database.enable_wal: the store always uses WAL mode"),
        (
            "store:\n  farm_register: data/alert_state.db",
            "2: store.farm_register: names the same file as database.path",
        ),
        (
            "service:\n  health_check_port: 1883",
            "2: service.health_check_port: 1883 is the broker's port too",
        ),
        ("service:\n  health_check_host: 0.0.0.0", "2: service.health_check_host: 0.0.0.0 is reachable"),
        ("service:\n  health_check_host: barn", '2: service.health_check_host: "barn" is no address'),
        ("uplink:\n  enabled: true", "1: uplink.host: is missing"),
        ("uplink:\n  enabled: true\n  host: localhost", "1: uplink.port: is this gateway's own broker"),
        ("uplink:\n  topic_prefix: a/#", '2: uplink.topic_prefix: "a/#" must be plain levels'),
        ("uplink:\n  username: a", "2: uplink.username: is set without password; set both or none"),
        ("panel:\n  red_pin: 27", "1: panel.green_pin: uses pin 27 like red_pin"),
        ("panel:\n  lamp: one\n  red_pin: 23", "1: panel.buzzer_pin: uses pin 23 like red_pin"),
        (
            "panel:\n  patterns:\n    buzzer:\n      call: 0.4 0.4",
            "3: panel.patterns.buzzer: alarm and call would sound the same",
        ),
        (
            "panel:\n  patterns:\n    lamp:\n      call: 0.1",
            '4: panel.patterns.lamp.call: must be text; write "0.1"',
        ),
        (
            "detector_schedules:\n  health_scoring:\n    interval_minutes: 1\n    interval_hours: 1",
            "4: detector_schedules.health_scoring.interval_hours: interval_minutes and interval_hours",
        ),
        (
            "detector_schedules:\n  health_scoring:\n    interval_minutes: null",
            "2: detector_schedules.health_scoring: needs interval_minutes or interval_hours",
        ),
        (
            "detector_schedules:\n  health_scoring:\n    interval_minutes: 0",
            "3: detector_schedules.health_scoring.interval_minutes: 0.0 is out of range",
        ),
        ("detector_schedules:\n  milking:\n    enabled: true", "2: detector_schedules.milking: unknown key"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, wanted: str) -> None:
    found = faults_of(tmp_path, text)
    assert any(fault.startswith(f"g.yaml:{wanted}") for fault in found), found
    assert len(found) <= (2 if text.startswith("a:") else 1), found


@pytest.mark.parametrize("written", ["readings_days: 3650", "rollups_days: 30", "rollups_days: 89.5"])
def test_figures_that_would_go_before_their_readings_are_refused_with_both_keys(
    tmp_path: Path, written: str
) -> None:
    (fault,) = faults_of(tmp_path, f"mode: standard\nretention:\n  {written}\n")
    assert fault.startswith("g.yaml:2: retention: rollups_days (")
    assert "is below readings_days (" in fault
    assert not faults_of(tmp_path, "retention:\n  readings_days: 30\n  rollups_days: 30\n")


def test_a_wrong_key_is_reported_once_and_its_pairs_are_not(tmp_path: Path) -> None:
    """A port that is no port cannot also be the broker's port."""
    assert faults_of(tmp_path, "uplink:\n  enabled: true\n  host: [a]\n") == [
        "g.yaml:3: uplink.host: must be one value, not a list or a section"
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [("22:00", "22:00"), ("2025-11-25", "2025-11-25"), ('"no"', "no"), ("|-\n    no", "no"), ("a:b", "a:b")],
)
def test_text_stays_text(tmp_path: Path, text: str, value: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"mqtt:\n  client_id: {text}\n", encoding="utf-8")
    loaded = read(path, {})
    assert (loaded.faults, loaded.config.mqtt.client_id) == ((), value)


def test_off_is_a_word_where_words_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("panel:\n  driver: off\nlogging:\n  level: debug\n", encoding="utf-8")
    loaded = read(path, {})
    assert loaded.faults == ()
    assert (loaded.config.panel.driver, loaded.config.logging.level) == ("off", "DEBUG")


def test_an_open_broker_is_allowed_when_written_out_and_warned_about(tmp_path: Path) -> None:
    """Decision 34."""
    path = tmp_path / "g.yaml"
    path.write_text(
        "mqtt: {broker_host: 0.0.0.0}\nbroker: {host: 192.0.2.7, allow_anonymous: true}\n"
        "service: {health_check_host: '::', allow_anonymous: true}\n"
        "uplink: {enabled: true, host: farm.example, username: a, password: b}\n",
        encoding="utf-8",
    )
    loaded = read(path, {})
    assert loaded.faults == ()
    warned = {note.path for note in loaded.notes}
    assert {
        "broker.allow_anonymous",
        "broker.open_topics",
        "service.allow_anonymous",
        "uplink.use_tls",
    } <= warned


LISTENERS = [
    ("tls: {enabled: true, host: 192.0.2.7}", "192.0.2.7"),
    ("host: 192.0.2.7, tls: {enabled: true, host: 127.0.0.1}", "192.0.2.7"),
    ("websocket: {enabled: true, tls: true, host: '::'}", "::"),
    ("tls: {enabled: true, host: 0.0.0.0}, websocket: {enabled: true, tls: true, host: '::'}", "0.0.0.0, ::"),
]


@pytest.mark.parametrize(("listeners", "hosts"), LISTENERS)
def test_an_open_broker_is_warned_about_whichever_listener_others_reach(
    tmp_path: Path, listeners: str, hosts: str
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(f"broker: {{allow_anonymous: true, {listeners}}}\n", encoding="utf-8")
    loaded = read(path, {})
    assert loaded.faults == ()
    told = {note.path: str(note) for note in loaded.notes}
    assert f"everyone who reaches {hosts} may publish" in told["broker.allow_anonymous"]
    assert f"lets those who reach {hosts} use topics" in told["broker.open_topics"]


def test_a_listener_that_is_off_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(
        "broker: {allow_anonymous: true, tls: {host: 0.0.0.0}, websocket: {host: 0.0.0.0}}\n",
        encoding="utf-8",
    )
    assert read(path, {}).notes == ()


@pytest.mark.parametrize(
    ("host", "opened", "faults"),
    [
        ("127.0.0.1", "['#']", set()),
        ("0.0.0.0", "[]", set()),
        ("0.0.0.0", "[barn/#, house/+/door]", set()),
        ("0.0.0.0", "[barn/#, '+/door', '#']", {"broker.open_topics[1]", "broker.open_topics[2]"}),
    ],
)
def test_production_on_the_network_passes_on_named_topics_only(
    tmp_path: Path, host: str, opened: str, faults: set[str]
) -> None:
    """S3-053: a whitelist."""
    path = tmp_path / "g.yaml"
    path.write_text(
        f"mode: production\nbroker: {{tls: {{enabled: true, host: {host}}}, open_topics: {opened}}}\n",
        encoding="utf-8",
    )
    assert {fault.path for fault in read(path, {}).faults} == faults


def test_a_network_address_is_safe_without_more_words_and_says_what_can_be_overheard(tmp_path: Path) -> None:
    """Decision 34: without `allow_anonymous` each device needs its password there."""
    path = tmp_path / "g.yaml"
    path.write_text("broker: {host: 0.0.0.0, open_topics: []}\n", encoding="utf-8")
    loaded = read(path, {})
    assert loaded.faults == ()
    assert [note.path for note in loaded.notes] == ["broker.host"]
    assert anonymous(loaded.config) is Anonymous.THIS_MACHINE


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("{}", Anonymous.THIS_MACHINE),
        ("broker: {allow_anonymous: true}", Anonymous.EVERYONE),
        ("mode: production\nbroker: {tls: {enabled: true}}", Anonymous.NOBODY),
    ],
)
def test_who_may_speak_without_a_password_follows_from_mode_and_allow_anonymous(
    tmp_path: Path, text: str, who: Anonymous
) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text, encoding="utf-8")
    loaded = read(path, {})
    assert loaded.faults == ()
    assert anonymous(loaded.config) is who


def test_production_names_every_unmet_demand_at_once(tmp_path: Path) -> None:
    """S3-049: one start, one list, each with its key."""
    path = tmp_path / "g.yaml"
    path.write_text(
        "mode: production\n"
        "broker: {host: 0.0.0.0, allow_anonymous: true, websocket: {enabled: true, tls: false}}\n"
        "service: {health_check_host: 0.0.0.0, allow_anonymous: true}\n"
        "uplink: {enabled: true, host: farm.example}\n",
        encoding="utf-8",
    )
    assert {fault.path for fault in read(path, {}).faults} == {
        "broker.host",
        "broker.allow_anonymous",
        "broker.open_topics[0]",
        "broker.tls.enabled",
        "broker.websocket.tls",
        "service.health_check_host",
        "uplink.use_tls",
    }


def test_a_local_broker_host_does_not_open_the_door(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("mqtt:\n  broker_host: 0.0.0.0\n", encoding="utf-8")
    loaded = read(path, {})
    assert loaded.faults == ()
    assert loaded.config.broker.host == "127.0.0.1"
    assert [note.path for note in loaded.notes] == ["mqtt.broker_host"]


# --- any frozen struct can be a section ------------------------------------------------


class Mood(StrEnum):
    CALM = "calm"
    OFF = "off"


class FeverLike(msgspec.Struct, frozen=True):
    """A policy as core builds it: no knowledge of YAML."""

    absolute_c: Annotated[float, Meta(ge=38, lt=44)] = 40.5
    normal_n: int = 3
    span: tuple[float, float] = (42.0, 44.0)
    kinds: frozenset[str] = frozenset({"fever"})
    weights: dict[str, int] = {}
    severity: Severity = Severity.WARNING
    mood: Mood = Mood.CALM
    home: Path | None = None
    code: Annotated[str, Meta(pattern="^[a-z]+$")] = "abc"

    def __post_init__(self) -> None:
        if self.span[0] >= self.span[1]:
            raise ValueError("span must rise")


class Needed(msgspec.Struct, frozen=True):
    name: str
    size: int = 1


class Detectors(msgspec.Struct, frozen=True):
    NOTE: ClassVar[str] = "class variables are no keys"
    fever: FeverLike = FeverLike()
    extra: Needed | None = None
    many: tuple[Needed, ...] = ()


def converted(tmp_path: Path, text: str) -> tuple[Detectors, list[str]]:
    path = tmp_path / "d.yaml"
    path.write_text(text, encoding="utf-8")
    node, faults = read_document(path, "d.yaml")
    converter = Converter("d.yaml", {}, {})
    value = converter.struct(Detectors, node, base=Detectors())
    return value, [str(fault) for fault in faults + converter.faults]


def test_a_policy_of_core_becomes_a_section(tmp_path: Path) -> None:
    text = """\
fever:
  absolute_c: 41
  span: [1, 2.5]
  kinds: [a, b]
  weights: {x: 1, y: 2}
  severity: critical
  mood: off
  home: /srv/barn
extra: {name: n}
many: [{name: a, size: 2}, {name: b}]
"""
    value, faults = converted(tmp_path, text)
    assert faults == []
    assert value.fever == FeverLike(
        absolute_c=41.0,
        span=(1.0, 2.5),
        kinds=frozenset({"a", "b"}),
        weights={"x": 1, "y": 2},
        severity=Severity.CRITICAL,
        mood=Mood.OFF,
        home=Path("/srv/barn"),
    )
    assert value.extra == Needed("n")
    assert value.many == (Needed("a", 2), Needed("b"))


def test_faults_inside_a_policy(tmp_path: Path) -> None:
    text = """\
fever:
  absolute_c: 44
  normal_n: -1
  span: [1]
  weights: {x: many}
  severity: mild
  code: A1
extra: {size: 2}
many: [{nam: a}]
"""
    _, faults = converted(tmp_path, text)
    assert faults == [
        "d.yaml:2: fever.absolute_c: 44.0 is out of range; must be at least 38 and less than 44",
        "d.yaml:3: fever.normal_n: -1 is out of range; must be at least 0",
        "d.yaml:4: fever.span: must have 2 values, not 1",
        'd.yaml:5: fever.weights.x: must be a whole number, not "many"',
        'd.yaml:6: fever.severity: must be one of INFO, WARNING, CRITICAL, not "mild"',
        "d.yaml:7: fever.code: must match ^[a-z]+$",
        "d.yaml:8: extra.name: is missing; it has no default",
        "d.yaml:9: many[0].nam: unknown key; did you mean name?",
        "d.yaml:9: many[0].name: is missing; it has no default",
    ]


def test_a_policy_judges_itself(tmp_path: Path) -> None:
    value, faults = converted(tmp_path, "fever:\n  span: [3, 2]\n")
    assert faults == ["d.yaml:1: fever: span must rise"]
    assert value.fever == FeverLike()


LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)).map(str)
KEYS = st.sampled_from(
    ["mqtt", "broker", "reconnect", "qos", "port", "panel", "host", "limits", "x", "enabled"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        LEAF, lambda inner: st.dictionaries(KEYS, inner) | st.lists(inner, max_size=3), max_leaves=12
    )
)
def test_any_tree_ends_in_faults_or_a_configuration(tmp_path: Path, tree: object) -> None:
    """No input, however odd, ends in a traceback."""

    def flow(node: object) -> str:
        if isinstance(node, dict):
            return "{" + ", ".join(f"{key}: {flow(value)}" for key, value in node.items()) + "}"
        if isinstance(node, list):
            return "[" + ", ".join(map(flow, node)) + "]"
        return str(node).replace("\r", " ")

    path = tmp_path / "any.yaml"
    path.write_text(flow(tree), encoding="utf-8", errors="replace")
    assert read(path, {}) is not None
