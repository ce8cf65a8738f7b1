import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import topics
from gateway.core.topics import (
    CLIENT_ROLES,
    ROLE_GATEWAY,
    ROLE_OPERATOR,
    ROLE_SENSOR,
    Route,
    RouteTable,
    covers,
    default_routes,
    filter_fault,
    has_wildcard,
    matches,
    overlaps,
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
def filters(draw):
    levels = draw(st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4))
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
    assert table.match("farm/COW_7/neck").ingest
    assert table.match("artemis/sensors/COW_001") is None


def test_only_the_gateway_publishes_alerts():
    table = RouteTable(default_routes())
    assert not table.publish_allowed("artemis/alerts/COW_001/fever")
    assert table.publish_refusal("artemis/alerts/COW_001/fever", frozenset({ROLE_GATEWAY})) is None
    assert table.subscribe_allowed("artemis/alerts/#")
    assert table.publish_allowed("artemis/sensors/COW_001")
    assert "sensor" in table.publish_refusal("artemis/sensors/COW_001", frozenset({ROLE_OPERATOR}))


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
    closed = Route("staff", "staff/+", 1, False, 1024, False, CLIENT_ROLES, frozenset({ROLE_OPERATOR}), "who")
    table = RouteTable((closed,))
    assert table.subscribe_refusal("#", frozenset({ROLE_SENSOR}))
    assert table.subscribe_refusal("#", frozenset({ROLE_OPERATOR})) is None


def test_a_row_for_nobody_names_nobody():
    row = Route("off", "off/+", 0, False, 1, False, frozenset(), frozenset(), "switched off")
    assert "nobody" in RouteTable((row,)).publish_refusal("off/a", CLIENT_ROLES)


def test_a_bad_pattern_is_named():
    with pytest.raises(ValueError, match="'a#' is no topic filter"):
        RouteTable((), open_topics=("a#",))


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(topics, "MATCH_CACHE_MAX", 10)
    table = RouteTable(default_routes())
    for number in range(25):
        assert table.match(f"artemis/sensors/{number}").ingest
        assert len(table._cache) <= 10
