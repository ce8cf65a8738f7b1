from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.alerts import CALLS
from gateway.core.emergency import STOP_TOPICS
from gateway.core.rates import Rate
from gateway.core.routes import COMMAND_RATE, COMMANDS_TOPIC, RESPONSES_TOPIC, default_routes
from gateway.core.topic_names import NAME_BYTES_MAX, NAME_LEVELS_MAX
from gateway.core.topics import (
    ANIMALS_UNLISTED,
    CLIENT_ROLES,
    REFUSED_RATE,
    ROLE_CONCENTRATOR,
    ROLE_GATEWAY,
    ROLE_OPERATOR,
    ROLE_SENSOR,
    SENSOR_RATE,
    Family,
    Route,
    RouteTable,
    animals_spoken_for,
    covers,
    filter_fault,
    has_wildcard,
    matches,
    overlaps,
    size_fault,
    topic_fault,
)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "answer"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("a/+/c", "a/b/d", False),
        ("A", "a", False),
    ],
)
def test_matches_follows_the_standard(topic_filter, topic, answer):
    assert matches(topic_filter, topic) is answer


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\x00b", "a" * 65_536, "\ud800"])
def test_bad_topics_have_a_fault(topic):
    assert topic_fault(topic)


@pytest.mark.parametrize("topic", ["a", "/", "artemis/sensors/COW_001", "Wiese/ä b", "$SYS/x", "a" * 65_535])
def test_good_topics_have_none(topic):
    assert topic_fault(topic) is None
    assert filter_fault(topic) is None


@pytest.mark.parametrize(
    "topic_filter", ["", "a#", "#/a", "a/b+", "+a/b", "a/#/b", "a\x00", "##", "\ud800/#"]
)
def test_bad_filters_have_a_fault(topic_filter):
    assert filter_fault(topic_filter)


@pytest.mark.parametrize("topic_filter", ["#", "+", "a/+/b/#", "/", "$SYS/#"])
def test_good_filters_have_none(topic_filter):
    assert filter_fault(topic_filter) is None


LEVEL = st.sampled_from(["a", "b", "", "$s"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@st.composite
def filters(draw, levels_max=4):
    levels = draw(st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=levels_max))
    if draw(st.booleans()):
        levels.append("#")
    return "/".join(levels) or "+"


def reference(topic_filter, topic):
    """The standard's rules, level by level and recursively."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False

    def walk(levels, names):
        if not levels:
            return not names
        if levels[0] == "#":
            return True
        return bool(names) and levels[0] in ("+", names[0]) and walk(levels[1:], names[1:])

    return walk(topic_filter.split("/"), topic.split("/"))


@given(filters(), TOPIC)
def test_matches_agrees_with_a_plain_reading_of_the_rules(topic_filter, topic):
    assert matches(topic_filter, topic) is reference(topic_filter, topic)


@given(filters(), filters(), TOPIC)
def test_covers_and_overlaps_agree_with_matches(one, other, topic):
    if covers(one, other) and matches(other, topic):
        assert matches(one, topic)
    if matches(one, topic) and matches(other, topic):
        assert overlaps(one, other)
        assert overlaps(other, one)


@pytest.mark.parametrize(
    ("wide", "narrow", "answer"),
    [
        ("#", "a/#", True),
        ("#", "$SYS/#", False),
        ("artemis/+", "artemis/#", False),
        ("artemis/#", "artemis/+", True),
        ("a/+", "a/b", True),
        ("a/b", "a/+", False),
        ("a/#", "a", True),
        ("+/+", "a", False),
        ("+/#", "#", False),
        ("a", "a/b", False),
    ],
)
def test_covers(wide, narrow, answer):
    assert covers(wide, narrow) is answer


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        ("a/+", "+/b", True),
        ("a/#", "a", True),
        ("a", "b", False),
        ("#", "$SYS/x", False),
        ("a/b", "a", False),
        ("a/+/c", "a/#", True),
    ],
)
def test_overlaps(one, other, answer):
    assert overlaps(one, other) is answer
    assert overlaps(other, one) is answer


def test_wildcards_are_recognised():
    assert has_wildcard("a/+")
    assert has_wildcard("#")
    assert not has_wildcard("a/b")


def test_the_first_row_that_matches_decides():
    table = RouteTable(default_routes())
    assert table.match("artemis/sensors/COW_001").name == "sensors"
    assert table.match("artemis/alerts/COW_001/fever").name == "alerts"
    assert table.match("test/topic") is None
    assert table.match("artemis/sensors/COW_001").name == "sensors"


def test_the_sensor_pattern_can_be_configured():
    table = RouteTable(default_routes("farm/+/neck"))
    assert table.match("farm/COW_7/neck").family is Family.READINGS
    assert table.match("artemis/sensors/COW_001") is None


SENSOR = frozenset({ROLE_SENSOR})
OPERATOR = frozenset({ROLE_OPERATOR})
COW_1 = frozenset({"COW_001"})


def row(
    name="row",
    pattern="a/+",
    *,
    publishers=CLIENT_ROLES,
    subscribers=CLIENT_ROLES,
    owner_level=None,
    rate=None,
):
    return Route(
        name,
        pattern,
        1,
        False,
        1024,
        None,
        publishers,
        subscribers,
        "a row",
        owner_level=owner_level,
        rate=rate,
    )


def test_only_the_gateway_publishes_alerts():
    table = RouteTable(default_routes())
    assert not table.publish_allowed("artemis/alerts/COW_001/fever")
    assert table.publish_refusal("artemis/alerts/COW_001/fever", frozenset({ROLE_GATEWAY})) is None
    assert table.subscribe_allowed("artemis/alerts/#")
    assert table.publish_allowed("artemis/sensors/COW_001")
    assert "sensor" in table.publish_refusal("artemis/sensors/COW_001", OPERATOR)


@pytest.mark.parametrize(
    "topic", ["artemis/alerts", "artemis/alerts/", "artemis/alerts/x", "artemis/alerts/a/b/c"]
)
@pytest.mark.parametrize(
    "sensor_pattern", ["artemis/sensors/+", "artemis/alerts/+", "artemis/+", "artemis/+/x"]
)
def test_the_alerts_namespace_is_closed_as_a_whole(topic, sensor_pattern):
    table = RouteTable(default_routes(sensor_pattern))
    assert table.publish_refusal(topic, CLIENT_ROLES) == "only gateway may publish here"


@pytest.mark.parametrize(
    ("topic", "names", "refusal"),
    [
        ("artemis/sensors/COW_001", None, None),
        ("artemis/sensors/COW_001", COW_1, None),
        (
            "artemis/sensors/COW_002",
            COW_1,
            "the client speaks for COW_001 and may not speak for 'COW_002'",
        ),
        (
            "artemis/sensors/COW_002",
            frozenset({"COW_001", "COW_003"}),
            "the client speaks for 2 others and may not speak for 'COW_002'",
        ),
        (
            "artemis/sensors/COW_002",
            frozenset(),
            "the client speaks for 0 others and may not speak for 'COW_002'",
        ),
        ("test/topic", COW_1, None),
        ("artemis/alerts/COW_001/fever", COW_1, "only gateway may publish here"),
    ],
)
def test_a_device_publishes_for_itself_only(topic, names, refusal):
    assert RouteTable(default_routes()).publish_refusal(topic, SENSOR, names) == refusal


@pytest.mark.parametrize(
    ("topic_filter", "allowed"),
    [
        ("artemis/sensors/COW_001", True),
        ("artemis/sensors/COW_002", False),
        ("artemis/sensors/+", False),
        ("artemis/+/COW_001", False),  # reaches beyond the rows
        ("artemis/alerts/COW_001/#", True),
        ("artemis/alerts/COW_001/+", True),
        ("artemis/alerts/COW_001/fever", True),
        ("artemis/alerts/+/fever", False),
        ("artemis/alerts/#", False),
        ("artemis/alerts", False),
        ("artemis/#", False),
        ("#", False),
        ("test/#", False),
    ],
)
def test_a_device_hears_of_itself_only(topic_filter, allowed):
    table = RouteTable(default_routes(), open_topics=())
    assert (table.subscribe_refusal(topic_filter, SENSOR, COW_1) is None) is allowed


def test_open_topics_do_not_open_the_rows_of_others():
    table = RouteTable(default_routes())
    assert "may not speak for '#'" in table.subscribe_refusal("artemis/alerts/#", SENSOR, COW_1)
    assert table.subscribe_refusal("#", SENSOR, COW_1)
    assert table.subscribe_refusal("test/#", SENSOR, COW_1) is None
    assert table.subscribe_refusal("#", OPERATOR) is None


def test_a_wildcard_is_no_name_even_if_somebody_is_called_so():
    table = RouteTable(default_routes())
    assert table.subscribe_refusal("artemis/sensors/+", SENSOR, frozenset({"+"}))
    assert table.subscribe_refusal("artemis/alerts/#", SENSOR, frozenset({"#"}))


@pytest.mark.parametrize(("pattern", "level"), [("a/+", 0), ("a/+", 2), ("a/b", 1), ("a/#", 2)])
def test_an_owner_level_that_names_nobody_is_refused(pattern, level):
    with pytest.raises(ValueError, match="names nobody"):
        RouteTable((row(pattern=pattern, owner_level=level),))


def test_a_grant_for_one_level_opens_no_more():
    table = RouteTable((row(pattern="artemis/+"),), open_topics=())
    assert table.subscribe_allowed("artemis/+")
    assert not table.subscribe_allowed("artemis/#")
    assert not table.subscribe_allowed("artemis/+/#")
    assert not table.subscribe_allowed("+/+")


ALL_TOPICS = [
    "/".join(levels) for depth in (1, 2, 3, 4) for levels in product(("a", "b", "$s"), repeat=depth)
]
"""Every topic of up to four levels: one more than any pattern below has."""


@st.composite
def rows(draw):
    pattern = draw(filters(levels_max=2))
    wildcards = [position for position, level in enumerate(pattern.split("/")) if level in ("+", "#")]
    return row(
        pattern=pattern,
        publishers=draw(st.sampled_from([SENSOR, OPERATOR, CLIENT_ROLES, frozenset()])),
        subscribers=draw(st.sampled_from([SENSOR, OPERATOR, CLIENT_ROLES, frozenset()])),
        owner_level=draw(st.sampled_from([None, *wildcards])),
    )


NAMES = st.sampled_from([None, frozenset(), frozenset({"a"}), frozenset({"a", "b"})])
ROLES = st.sampled_from([SENSOR, OPERATOR, CLIENT_ROLES])


def stranger(route, topic, names):
    """Whether the row says that the topic speaks for somebody else; spelled out."""
    if names is None or route.owner_level is None:
        return False
    levels = topic.split("/")
    return len(levels) <= route.owner_level or levels[route.owner_level] not in names


@settings(max_examples=150)
@given(
    st.lists(rows(), max_size=3),
    st.lists(filters(levels_max=2), max_size=2),
    filters(levels_max=3),
    ROLES,
    NAMES,
)
def test_no_filter_hears_what_is_closed_to_the_client(routes, opened, topic_filter, roles, names):
    table = RouteTable(routes, opened)
    heard = [topic for topic in ALL_TOPICS if matches(topic_filter, topic)]
    closed = [
        topic
        for topic in heard
        if any(
            matches(route.pattern, topic) and (not route.subscribers & roles or stranger(route, topic, names))
            for route in routes
        )
        or not any(matches(pattern, topic) for pattern in [*opened, *(route.pattern for route in routes)])
    ]
    allowed = table.subscribe_refusal(topic_filter, roles, names) is None
    assert not (allowed and closed)
    if heard == [topic_filter]:
        assert allowed is not bool(closed)  # and one topic that is open is not refused either


@settings(max_examples=150)
@given(
    st.lists(rows(), max_size=3),
    st.lists(filters(levels_max=2), max_size=2),
    st.sampled_from(ALL_TOPICS),
    ROLES,
    NAMES,
)
def test_the_first_row_decides_who_publishes(routes, opened, topic, roles, names):
    route = next((route for route in routes if matches(route.pattern, topic)), None)
    if topic.startswith("$"):
        allowed = False
    elif route is None:
        allowed = any(matches(pattern, topic) for pattern in opened)
    else:
        allowed = bool(route.publishers & roles) and not stranger(route, topic, names)
    assert (RouteTable(routes, opened).publish_refusal(topic, roles, names) is None) is allowed


LONGEST = "a" * NAME_BYTES_MAX
DEEPEST = "/".join(["a"] * NAME_LEVELS_MAX)


@pytest.mark.parametrize("name", [LONGEST, DEEPEST, "ä" * (NAME_BYTES_MAX // 2), "/" * (NAME_LEVELS_MAX - 1)])
def test_the_largest_names_pass(name):
    table = RouteTable(default_routes())
    assert table.publish_allowed(name)
    assert table.subscribe_allowed(name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (LONGEST + "a", "the topic has 513 bytes; 512 are allowed"),
        ("ä" * 257, "the topic has 514 bytes; 512 are allowed"),
        ("a" * 65_535, "the topic has 65535 bytes; 512 are allowed"),
        (DEEPEST + "/a", "the topic has 33 levels; 32 are allowed"),
        ("/" * 32, "the topic has 33 levels; 32 are allowed"),
    ],
)
def test_larger_names_are_good_mqtt_and_refused(name, fault):
    table = RouteTable(default_routes(), denied_topics=("test/nosubscribe",))
    assert topic_fault(name) is filter_fault(name) is None
    assert size_fault(name) == fault
    assert table.publish_refusal(name, CLIENT_ROLES) == fault
    assert table.publish_refusal(name, frozenset({ROLE_GATEWAY})) == fault
    assert table.subscribe_refusal(name, CLIENT_ROLES) == fault


def test_a_ruling_carries_what_the_row_says():
    table = RouteTable(default_routes())
    sensors = table.rule("artemis/sensors/COW_001", SENSOR)
    assert (sensors.row, sensors.family, sensors.rate, sensors.owner) == (
        "sensors",
        Family.READINGS,
        SENSOR_RATE,
        "COW_001",
    )
    opened = table.rule("test/topic", SENSOR)
    assert (opened.row, opened.family, opened.rate, opened.owner, opened.refusal) == (
        "",
        None,
        None,
        None,
        None,
    )
    assert opened.size_max > sensors.size_max
    assert table.rule("artemis/alerts/a/b", frozenset({ROLE_GATEWAY})).rate is None


def test_refused_publishes_have_a_rate_too():
    table = RouteTable(default_routes(), open_topics=())
    for topic in ("test/topic", "artemis/alerts/a/b", "$SYS/uptime", "a" * 600):
        assert (table.rule(topic, SENSOR).row, table.rule(topic, SENSOR).rate) == ("", REFUSED_RATE)
    assert table.rule("artemis/sensors/COW_001", OPERATOR).row == "sensors"


def test_no_rate_holds_where_the_table_is_not_limited():
    table = RouteTable(default_routes(), open_topics=(), limited=False)
    for topic in ("artemis/sensors/COW_001", "test/topic", "artemis/alerts/a/b", "a" * 600):
        assert table.rule(topic, SENSOR).rate is None


@pytest.mark.parametrize(
    ("roles", "names", "animals"),
    [
        (SENSOR, COW_1, 1),
        (SENSOR, None, 1),
        (frozenset({ROLE_CONCENTRATOR}), None, ANIMALS_UNLISTED),
        (frozenset({ROLE_CONCENTRATOR}), frozenset(), 1),
        (frozenset({ROLE_CONCENTRATOR, ROLE_SENSOR}), frozenset({"a", "b", "c"}), 3),
    ],
)
def test_a_concentrator_has_the_limits_of_all_its_animals(roles, names, animals):
    assert animals_spoken_for(roles, names) == animals


def test_a_concentrator_publishes_readings():
    assert (
        RouteTable(default_routes()).publish_refusal("artemis/sensors/a", frozenset({ROLE_CONCENTRATOR}))
        is None
    )


def test_rows_say_how_much_each_client_may_send():
    rates = {route.name: route.rate for route in default_routes() if route.rate is not None}
    assert rates == {"sensors": Rate(100, 2000), "alert_commands": Rate(60, 60)}
    assert Rate(60, 60) == COMMAND_RATE


CALL_TOPICS = [f"alert/{kind}/guard-789" for kind in sorted(CALLS)]


@pytest.mark.parametrize("topic", [*CALL_TOPICS, *STOP_TOPICS])
@pytest.mark.parametrize("role", sorted(CLIENT_ROLES))
def test_whoever_calls_for_help_is_served_as_often_as_they_call(topic, role):
    table = RouteTable(default_routes(), open_topics=())
    for names in (None, frozenset(), COW_1):
        assert table.publish_refusal(topic, frozenset({role}), names) is None
        assert table.subscribe_refusal(topic, frozenset({role}), names) is None
    ruling = table.rule(topic, frozenset({role}))
    assert (ruling.rate, ruling.owner, ruling.size_max) == (None, None, 64 * 1024)
    assert not ruling.client_retains


def test_calls_and_stops_each_have_their_family():
    table = RouteTable(default_routes())
    assert {table.match(topic).family for topic in CALL_TOPICS} == {Family.CALLS}
    assert {table.match(topic).family for topic in STOP_TOPICS} == {Family.EMERGENCY_STOP}
    assert all(table.match(topic).qos == 2 for topic in (*CALL_TOPICS, *STOP_TOPICS))


def test_only_the_stop_refuses_an_empty_payload_and_says_how_it_ends():
    refusing = {route.pattern: route.empty_refusal for route in default_routes() if route.empty_refusal}
    assert set(refusing) == set(STOP_TOPICS)
    for why in refusing.values():
        assert why.endswith("is reset by a person: page, button or `barn-gateway alerts close`")


def test_commands_are_for_operators_and_the_answers_come_from_the_gateway():
    table = RouteTable(default_routes())
    assert table.match(COMMANDS_TOPIC).family is Family.COMMANDS
    assert table.publish_refusal(COMMANDS_TOPIC, OPERATOR) is None
    assert table.publish_refusal(COMMANDS_TOPIC, SENSOR) == "only operator may publish here"
    assert table.publish_refusal(RESPONSES_TOPIC, OPERATOR) == "only gateway may publish here"
    for topic in (COMMANDS_TOPIC, RESPONSES_TOPIC):
        assert table.subscribe_refusal(topic, OPERATOR) is None
        assert table.subscribe_refusal(topic, SENSOR)


@pytest.mark.parametrize("pattern", ["alert/panic/+", "safety/+", "artemis/commands/+"])
def test_no_sensor_pattern_takes_over_a_call(pattern):
    table = RouteTable(default_routes(pattern))
    for topic in (*CALL_TOPICS, *STOP_TOPICS, COMMANDS_TOPIC):
        assert table.match(topic).family is not Family.READINGS


def test_without_open_topics_only_rows_pass():
    table = RouteTable(default_routes(), open_topics=())
    assert not table.publish_allowed("test/topic")
    assert not table.subscribe_allowed("#")
    assert not table.subscribe_allowed("artemis/#")
    assert table.subscribe_allowed("artemis/sensors/+")
    assert table.subscribe_allowed("artemis/sensors/COW_001")


def test_with_open_topics_anything_passes_but_the_brokers_own():
    table = RouteTable(default_routes())
    assert table.publish_allowed("test/topic")
    assert table.subscribe_allowed("#")
    assert not table.publish_allowed("$SYS/uptime")
    assert not table.subscribe_allowed("$share/group/a")


def test_denied_topics_are_always_refused():
    table = RouteTable(default_routes(), denied_topics=("test/nosubscribe", "secret/#"))
    assert not table.publish_allowed("test/nosubscribe")
    assert not table.subscribe_allowed("test/nosubscribe")
    assert not table.subscribe_allowed("secret/+/a")
    assert table.subscribe_allowed("#")


def test_a_wide_filter_does_not_reach_into_a_closed_row():
    table = RouteTable((row(pattern="staff/+", subscribers=OPERATOR),))
    assert "only operator may subscribe to staff/+" in table.subscribe_refusal("#", SENSOR)
    assert table.subscribe_refusal("#", OPERATOR) is None


def test_a_row_for_nobody_names_nobody():
    off = row(pattern="off/+", publishers=frozenset())
    assert "nobody" in RouteTable((off,)).publish_refusal("off/a", CLIENT_ROLES)


def test_a_bad_pattern_is_named():
    with pytest.raises(ValueError, match="'a#' is no topic filter"):
        RouteTable((), open_topics=("a#",))
