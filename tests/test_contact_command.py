"""`barn-gateway contact …` as a person types it; the register it changes is the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.contact import CONFIG_FILES
from gateway.cli.main import app
from gateway.core.contacts import Address, Contact
from gateway.errors import GatewayError
from gateway.store.farm import FarmRegister
from gateway.store.farm_file import FarmFile

PUSH = "ntfy://anna:geheim@ntfy.sh/stall"
HOOK = "https://hooks.example/services/T0/B0/geheim"


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # of the terminal, so that a table breaks no address
    return tmp_path / "data" / "farm.json"


def contact(*words: str) -> Result:
    return CliRunner().invoke(app, ["contact", *words])


def done(*words: str) -> str:
    result = contact(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refusal(*words: str) -> str:
    result = contact(*words)
    assert isinstance(result.exception, GatewayError), (result.output, result.exception)
    assert result.exception.exit_code == 1
    return str(result.exception)


def known(register: Path) -> tuple[Contact, ...]:
    people = FarmFile(register, {"en", "de"}).look().people
    assert people is not None
    return people.contacts


def test_everything_that_can_be_said_of_a_person_is_what_the_gateway_sees(register: Path) -> None:
    done(
        *("add", "Anna", "--sms", "0049 151/1234-5678", "--email", "anna@example.org", "--push", PUSH),
        *("--webhook", HOOK, "--rung", "2", "--group", "dry", "--group", "heifers", "--kind", "fever"),
        *("--hours", "06:00-20:00", "--quiet", "22:00-06:00", "--language", "de", "--daily-summary"),
        *("--sms-severity", "critical", "--webhook-severity", "info"),
    )
    anna = Contact(
        name="Anna",
        addresses=(
            Address("sms", "+4915112345678", "critical"),
            Address("email", "anna@example.org"),
            Address("push", PUSH),
            Address("webhook", HOOK, "info"),
        ),
        rung=2,
        groups=("dry", "heifers"),
        kinds=("fever",),
        hours="06:00-20:00",
        quiet="22:00-06:00",
        language="de",
        daily_summary=True,
    )
    assert known(register) == (anna,)


def test_a_change_touches_what_is_named_and_an_empty_value_takes_away(register: Path) -> None:
    done("add", "Anna", "--sms", "+4915112345678", "--email", "a@example.org", "--quiet", "22:00-06:00")
    done("add", "Bert", "--email", "b@example.org")
    done("change", "Anna", "--sms-severity", "critical")
    done("change", "Anna", "--sms", "+4915187654321", "--sms", "+4915111111111", "--group", "dry")
    anna = Contact(
        "Anna",
        (
            Address("sms", "+4915187654321", "critical"),
            Address("sms", "+4915111111111", "critical"),
            Address("email", "a@example.org"),
        ),
        groups=("dry",),
        quiet="22:00-06:00",
    )
    bert = Contact("Bert", (Address("email", "b@example.org"),))
    assert known(register) == (anna, bert)
    done("change", "Anna", "--sms", "", "--group", "", "--quiet", "", "--daily-summary")
    assert known(register) == (
        Contact("Anna", (Address("email", "a@example.org"),), daily_summary=True),
        bert,
    )
    assert "Anna has no address left and is told nothing" in done("change", "Anna", "--email", "")


def test_the_gateway_forgets_who_was_removed(register: Path) -> None:
    done("add", "Anna", "--email", "a@example.org")
    done("add", "Bert", "--email", "b@example.org")
    assert "removed: Anna" in done("remove", "Anna")
    assert [one.name for one in known(register)] == ["Bert"]


def test_a_list_shows_everybody_and_no_secret(register: Path) -> None:
    assert done("list") == "no contacts registered\n"
    assert not register.parent.exists()  # looking makes nothing
    shown = done("add", "Anna", "--push", PUSH, "--webhook", HOOK, "--sms", "+4915112345678")
    table, text = done("list"), done("list", "--json")
    for output in (shown, table, text):
        assert "geheim" not in output
        assert "ntfy.sh" not in output  # of many services the host is the token
        assert "ntfy://…" in output
        assert "https://hooks.example/…" in output
        assert "+4915112345678" in output
    assert json.loads(text)["addresses"][1] == {"channel": "push", "to": "ntfy://…", "severity": "warning"}


def test_only_the_owner_of_the_register_may_read_it(register: Path) -> None:
    done("add", "Anna", "--push", PUSH)
    done("add", "Bert", "--push", PUSH + "2")
    files = sorted(register.parent.iterdir())
    assert [file.name for file in files] == ["farm.json", "farm.json.previous"]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]


def test_what_is_refused_changes_nothing(register: Path) -> None:
    done("add", "Anna", "--email", "a@example.org")
    before = register.read_bytes()
    mail = ("--email", "c@example.org")
    for words, sentence in (
        (("add", "Anna", *mail), "Anna: is a contact already; nothing was changed (`barn-gateway contact ch"),
        (("add", "Cleo"), "Cleo: without an address nobody can be told; nothing was changed"),
        (("add", "Cleo", "--sms", "0151 123"), '"0151123" is no phone number; write + and country code'),
        (("add", "Cleo", "--email", "cleo"), '"cleo" is no e-mail address'),
        (("add", "Cleo", *mail, "--hours", "6-20"), 'hours: "6-20" is no range of hours'),
        (("add", "Cleo", *mail, "--rung", "0"), "rung: 0 is none"),
        (("add", "Cleo", *mail, "--language", "tlh"), 'language: "tlh" is none of '),
        (("add", "Cleo", *mail, "--sms-severity", "info"), "--sms-severity: there is no sms address"),
        (("change", "Anna", "--quiet", "22-6"), 'quiet: "22-6" is no range of hours'),
        (
            ("change", "anna", "--rung", "2"),
            'anna: is no contact; nothing was changed (did you mean "Anna"?)',
        ),
        (("remove", "Anna", "Zoe"), "Zoe: is no contact; nothing was changed"),
    ):
        assert sentence in refusal(*words)
        assert register.read_bytes() == before, words
    assert contact("add", "Cleo", *mail, "--email-severity", "loud").exit_code != 0
    assert register.read_bytes() == before


def test_a_group_no_animal_is_in_is_pointed_out(register: Path) -> None:
    with FarmRegister.changing(register) as farm:
        farm.upsert_animal("COW_001", group="dry")
        farm.upsert_animal("COW_002", group=["heifers", "north"])
    shown = done("add", "Anna", "--email", "a@example.org", "--group", "dry", "--group", "north")
    assert "WARNING" not in shown
    assert 'is in the group "dyr" yet' in done("change", "Anna", "--group", "dyr")


def test_an_entry_spoilt_by_hand_is_named_and_can_be_removed_and_others_still_be_changed(
    register: Path,
) -> None:
    done("add", "Anna", "--email", "a@example.org")
    done("add", "Bert", "--email", "b@example.org")
    register.write_text(register.read_text().replace('"addresses"', '"adresses"', 1))
    listed = contact("list")
    assert listed.exit_code == 1
    assert (
        f'{register.relative_to(register.parent.parent)}: contacts.1 ("Anna"): adresses: is no'
        in listed.output
    )
    assert "Bert" in listed.output
    done("change", "Bert", "--rung", "2")
    assert "adresses" in register.read_text()  # untouched
    assert "adresses: is no field" in refusal("change", "Anna", "--rung", "2")
    assert "is a contact already" in refusal("add", "Anna", "--email", "a@example.org")
    done("remove", "Anna")
    assert [one.name for one in known(register)] == ["Bert"]
    done("list")


def test_beside_an_installed_gateway_the_built_in_configuration_is_never_used(
    register: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "etc" / "barn-gateway" / "gateway.yaml"
    monkeypatch.setattr("gateway.cli.contact.CONFIG_FILES", (*CONFIG_FILES[:-1], installed))
    installed.parent.mkdir(parents=True)
    assert "run it with sudo" in refusal("add", "Anna", "--email", "a@example.org")
    assert not register.parent.exists()
