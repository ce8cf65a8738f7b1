"""Logging in with a token: as a table of who comes in, and over real sockets what others notice of it."""

import asyncio
import logging
import os

import pytest

from gateway.core.credentials import Device, Roster, token_digest
from gateway.core.rates import Rate
from gateway.drivers.broker import Introduction
from gateway.drivers.broker.access import Principal, Refusal
from gateway.drivers.broker.tokens import Anonymous, TokenAccess, is_this_machine
from tests.conftest import need
from tests.drivers.broker.harness import SENSOR, barn, connect_bytes, connected, publish_bytes, raw

KEY = bytes(range(32))
HERE, THERE = "127.0.0.1", "192.0.2.9"
CREDENTIALS, CLIENT_ID, NOT_AUTHORIZED = Refusal.CREDENTIALS, Refusal.CLIENT_ID, Refusal.NOT_AUTHORIZED
COW = {"username": "COW_001", "password": b"right"}


def device(one="COW_001", token=b"right", **fields):
    digest = token_digest(KEY, one, token).hex()
    return Device(id=one, digest=digest, **{"role": "sensor"} | fields)


ROSTER = Roster(
    KEY,
    [
        device(),
        device("BASE", role="concentrator", speaks_for=("A", "B")),
        device("HUB", role="concentrator", speaks_for="all"),
        device("PHONE", role="operator"),
    ],
)


def answer(access, client_id, address=THERE, **given):
    who = access.authenticate(
        Introduction(
            client_id, given.get("username"), given.get("password"), address, given.get("certificate")
        )
    )
    return who.name if isinstance(who, Principal) else who


@pytest.mark.parametrize(
    ("one", "roles", "names"),
    [
        ("COW_001", {"sensor"}, {"COW_001"}),
        ("BASE", {"sensor", "concentrator"}, {"BASE", "A", "B"}),
        ("HUB", {"sensor", "concentrator"}, None),
        ("PHONE", {"operator"}, None),
    ],
)
def test_a_device_gets_the_rights_of_its_role(one, roles, names):
    who = TokenAccess(Anonymous.NOBODY, ROSTER).authenticate(Introduction(one, one, b"right", THERE))
    assert isinstance(who, Principal)
    assert (who.name, who.roles, who.speaks_for) == (one, roles, names)


@pytest.mark.parametrize(
    ("client_id", "given", "expected"),
    [
        ("COW_001", COW, "COW_001"),
        ("COW_001/pub", COW, "COW_001"),
        ("", COW, "COW_001"),  # left to the gateway
        ("COW_001", COW | {"password": b"wrong"}, CREDENTIALS),
        ("COW_001", COW | {"password": None}, CREDENTIALS),
        ("COW_001", COW | {"password": b""}, CREDENTIALS),
        ("COW_009", {"username": "COW_009", "password": b"right"}, CREDENTIALS),
        ("PHONE", COW, CLIENT_ID),
        ("COW_0010", COW, CLIENT_ID),
        ("anything", COW, CLIENT_ID),
        # Whoever has no credential learns nothing about client ids.
        ("PHONE", COW | {"password": b"wrong"}, CREDENTIALS),
        ("COW_001", {}, NOT_AUTHORIZED),
        ("COW_001", {"username": ""}, NOT_AUTHORIZED),
        # A verified certificate of a registered device stands in place of its password.
        ("COW_001", {"certificate": "COW_001"}, "COW_001"),
        ("COW_001", {"certificate": "COW_001", "username": "COW_001"}, "COW_001"),
        ("PHONE", {"certificate": "COW_001"}, CLIENT_ID),
        ("PHONE", {"certificate": "COW_001", "username": "PHONE"}, CREDENTIALS),
        ("PHONE", {"certificate": "COW_001", "username": "PHONE", "password": b"right"}, "PHONE"),
        ("x", {"certificate": "COW_009"}, NOT_AUTHORIZED),
        ("COW_001", {"certificate": "a site", **COW}, "COW_001"),
    ],
)
def test_a_credential_is_checked_and_binds_the_client_id(client_id, given, expected):
    assert answer(TokenAccess(Anonymous.NOBODY, ROSTER), client_id, **given) == expected


@pytest.mark.parametrize("roster", [Roster(), ROSTER], ids=["no devices", "devices"])
@pytest.mark.parametrize(
    ("anonymous", "here", "there"),
    [
        (Anonymous.NOBODY, NOT_AUTHORIZED, NOT_AUTHORIZED),
        (Anonymous.THIS_MACHINE, "anonymous", NOT_AUTHORIZED),
        (Anonymous.EVERYONE, "anonymous", "anonymous"),
    ],
)
def test_who_is_welcome_without_a_credential(anonymous, here, there, roster):
    access = TokenAccess(anonymous, roster)
    assert (answer(access, "tool", HERE), answer(access, "tool", THERE)) == (here, there)


@pytest.mark.parametrize(
    ("anonymous", "here", "there"),
    [
        (Anonymous.NOBODY, CREDENTIALS, CREDENTIALS),
        (Anonymous.THIS_MACHINE, "anonymous", CREDENTIALS),
        (Anonymous.EVERYONE, "anonymous", "anonymous"),
    ],
)
def test_a_user_name_is_checked_as_soon_as_there_is_something_to_check(anonymous, here, there):
    access = TokenAccess(anonymous)
    given = {"username": "artemis_user", "password": b"of old"}
    assert (answer(access, "tool", HERE, **given), answer(access, "tool", THERE, **given)) == (here, there)
    access.use(ROSTER)
    assert answer(access, "tool", HERE, **given) == answer(access, "tool", THERE, **given) == CREDENTIALS


def test_who_has_no_credential_cannot_take_a_registered_devices_session():
    access = TokenAccess(Anonymous.EVERYONE, ROSTER)
    for client_id, expected in (("COW_001", CLIENT_ID), ("COW_001/a", CLIENT_ID), ("COW_002", "anonymous")):
        assert answer(access, client_id) == expected


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_this_machine_is_told_by_its_loopback_addresses(address, here):
    assert is_this_machine(address) is here


def test_a_connection_stays_valid_until_its_own_device_changes():
    access = TokenAccess(Anonymous.THIS_MACHINE, ROSTER)
    who = access.authenticate(Introduction("BASE", "BASE", b"right", THERE))
    nobody = access.authenticate(Introduction("tool", None, None, HERE))
    base = {"one": "BASE", "role": "concentrator", "speaks_for": ("A", "B")}
    for changed, valid in (
        ([device(**base)], True),
        ([device(**base, label="moved to the north shed"), device("NEW")], True),
        ([device(**base | {"token": b"rotated"})], False),
        ([device(**base | {"speaks_for": ("A",)})], False),
        ([device("BASE", role="operator")], False),
        ([device("OTHER")], False),
    ):
        access.use(Roster(KEY, changed))
        assert access.still_valid(who, "BASE/1") is valid
        assert access.still_valid(nobody, "tool")
        assert access.still_valid(nobody, "NEW/1") is all(one.id != "NEW" for one in changed)


def test_a_refused_certificate_is_named_in_the_log(caplog):
    assert answer(TokenAccess(Anonymous.NOBODY, ROSTER), "x", certificate="COW_009") == NOT_AUTHORIZED
    assert "its certificate names 'COW_009', which is not registered" in caplog.text


def test_refused_logins_are_counted_all_and_told_seldom_without_the_password(caplog):
    times_s = iter((100.0, 101.0, 109.9, 110.0))
    access = TokenAccess(Anonymous.NOBODY, ROSTER, monotonic_s=lambda: next(times_s))
    caplog.set_level(logging.WARNING)
    for _ in range(4):
        answer(access, "COW_001", username="COW_001" + "x" * 500, password=b"hunter2")
    answer(access, "COW_001", **COW)
    assert access.counters == {"credentials": 4, "accepted": 1}
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Refused MQTT client 'COW_001', user 'COW_001x")
    assert len(first) < 300
    assert "at 192.0.2.9: user name and password do not fit" in first
    assert second.endswith("(2 more since the last such line)")
    assert "hunter2" not in caplog.text


# --- over real sockets --------------------------------------------------------------------


def run(scenario, access, **options):
    async def body():
        async with barn(access=access, **options) as place:
            await scenario(place)

    asyncio.run(body())


async def code_of(place, client_id, **given):
    async with raw(place) as client:
        client.send(connect_bytes(client_id, **given))
        first, body = await client.packet()
        assert first == 0x20
        if body[1]:
            assert await client.closed() == b""
        return body[1]


def test_each_refusal_has_its_return_code_and_closes_the_socket():
    """[MQTT-3.2.2-4], [MQTT-3.2.2-5]: 2 a foreign client id, 4 a wrong password, 5 none."""

    async def scenario(place):
        assert await code_of(place, "COW_001", **COW) == 0
        assert await code_of(place, "COW_001", **COW | {"password": b"wrong"}) == 4
        assert await code_of(place, "COW_001", username="COW_001") == 4
        assert await code_of(place, "COW_001") == 5
        assert await code_of(place, "PHONE", **COW) == 2
        assert await code_of(place, "", **COW) == 0  # the gateway chooses

    run(scenario, TokenAccess(Anonymous.NOBODY, ROSTER))


@pytest.mark.parametrize(
    "intruder",
    [COW | {"password": b"wrong"}, {}, {"username": "PHONE", "password": b"right"}],
    ids=["wrong password", "no password", "another device"],
)
def test_a_login_that_fails_is_never_noticed_by_the_live_client_of_that_id(intruder):
    async def scenario(place):
        async with connected(place, "COW_001", clean=False, **COW) as cow:
            assert await cow.subscribe(("artemis/alerts/COW_001/+", 1)) == [1]
            for clean in (True, False):
                assert await code_of(place, "COW_001", clean=clean, **intruder) != 0
            assert place.counters["takeovers"] == 0
            await cow.ping()
            cow.send(publish_bytes(SENSOR, qos=1, packet_id=7))
            assert await cow.packet() == (0x40, b"\x00\x07")
            place.broker.publish("artemis/alerts/COW_001/fever", b"hot")
            assert (await cow.message())[:2] == ("artemis/alerts/COW_001/fever", b"hot")
        async with connected(place, "COW_001", clean=False, **COW) as again:
            assert again.present  # its session too is as it was

    run(scenario, TokenAccess(Anonymous.NOBODY, ROSTER))


def test_tools_of_one_device_live_side_by_side_and_the_same_id_takes_over():
    async def scenario(place):
        async with connected(place, "COW_001", **COW) as cow:
            async with connected(place, "COW_001/monitor", **COW) as tool:
                await tool.ping()
                await cow.ping()
            async with connected(place, "COW_001", **COW):
                assert await cow.closed() == b""

    run(scenario, TokenAccess(Anonymous.NOBODY, ROSTER))


def test_a_device_that_is_put_out_or_gets_a_new_token_is_disconnected_and_the_others_stay():
    access = TokenAccess(Anonymous.THIS_MACHINE, ROSTER)

    async def scenario(place):
        async with (
            connected(place, "COW_001", **COW) as cow,
            connected(place, "BASE", username="BASE", password=b"right") as base,
            connected(place, "PHONE", username="PHONE", password=b"right") as phone,
            connected(place, "tool") as tool,
        ):
            access.use(
                Roster(
                    KEY, [device(token=b"new"), device("BASE", role="concentrator", speaks_for=("A", "B"))]
                )
            )
            place.broker.recheck()
            assert await cow.closed() == b""
            assert await phone.closed() == b""
            await base.ping()
            await tool.ping()
            assert place.counters["revoked"] == 2
            assert await code_of(place, "COW_001", **COW) == 4
            assert await code_of(place, "PHONE", username="PHONE", password=b"right") == 4
            assert await code_of(place, "COW_001", **COW | {"password": b"new"}) == 0

    run(scenario, access)


def test_who_holds_the_id_of_a_device_without_a_credential_goes_when_the_device_is_registered():
    access = TokenAccess(Anonymous.THIS_MACHINE, ROSTER)

    async def scenario(place):
        async with (
            connected(place, "COW_9") as holder,
            connected(place, "COW_9/tool") as second,
            connected(place, "COW_90") as other,
        ):
            access.use(Roster(KEY, [device("COW_9")]))
            place.broker.recheck()
            assert await holder.closed() == b""
            assert await second.closed() == b""
            await other.ping()
            assert place.counters["revoked"] == 2
            assert await code_of(place, "COW_9") == 2

    run(scenario, access)


def test_a_device_that_is_put_out_has_no_last_word():
    access = TokenAccess(Anonymous.THIS_MACHINE, ROSTER)

    async def scenario(place):
        async with (
            connected(place, "watch") as watch,
            connected(place, "COW_001", will=("barn/will", b"gone", 1, True), **COW) as cow,
        ):
            assert await watch.subscribe(("barn/will", 0)) == [0]
            access.use(Roster())
            place.broker.recheck()
            assert await cow.closed() == b""
            await watch.ping()
            assert place.counters["wills_published"] == 0
            assert place.broker.gauges["retained"] == 0

    run(scenario, access)


def test_a_device_has_one_limit_for_all_its_connections_and_shares_it_with_nobody():
    access = TokenAccess(Anonymous.THIS_MACHINE, ROSTER)
    other = {"username": "BASE", "password": b"right"}

    async def scenario(place):
        for number in range(4):
            async with connected(place, f"COW_001/{number}", **COW) as cow:
                cow.send(publish_bytes(SENSOR) * 10)
                await cow.ping()
        assert len(place.messages) == 20
        assert place.counters["rate_drop"] == 20
        async with connected(place, "BASE", **other) as base, connected(place, "tool") as tool:
            for client, topic in ((base, "artemis/sensors/A"), (tool, SENSOR)):
                client.send(publish_bytes(topic))
                await client.ping()
        assert len(place.messages) == 22

    run(scenario, access, limited=True, rates={"sensors": Rate(per_min=1, burst=20)})


def test_a_device_that_is_put_out_while_it_takes_over_does_not_come_in():
    access = TokenAccess(Anonymous.NOBODY, ROSTER)

    class Late(TokenAccess):
        """The register changes between the answer and the end of the takeover."""

        def authenticate(self, who):
            found = super().authenticate(who)
            self.use(Roster())
            return found

    late = Late(Anonymous.NOBODY, ROSTER)
    assert isinstance(access.authenticate(Introduction("COW_001", "COW_001", b"right", THERE)), Principal)

    async def scenario(place):
        async with raw(place) as client:
            client.send(connect_bytes("COW_001", **COW))
            assert await client.packet() == (0x20, b"\x00\x05")
        assert place.counters["sessions_opened"] == 0

    run(scenario, late)


def test_mosquittos_tools_log_in_and_say_when_they_are_refused():
    pub = need("mosquitto_pub")

    async def publish(place, *words):
        process = await asyncio.create_subprocess_exec(
            *(pub, "-h", "127.0.0.1", "-p", str(place.port), "-q", "1", "-t", SENSOR, "-m", "x", *words),
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
        _, errors = await process.communicate()
        return process.returncode, errors.decode()

    async def scenario(place):
        assert await publish(place, "-i", "COW_001", "-u", "COW_001", "-P", "right") == (0, "")
        assert await publish(place, "-u", "COW_001", "-P", "right") == (
            0,
            "",
        )  # chooses no id, or one of its own
        assert len(place.messages) == 2
        for words in (("-i", "COW_001", "-u", "COW_001", "-P", "wrong"), ("-i", "COW_001")):
            code, errors = await publish(place, *words)
            assert code != 0, errors
            assert "Connection" in errors
        assert len(place.messages) == 2

    run(scenario, TokenAccess(Anonymous.NOBODY, ROSTER))
