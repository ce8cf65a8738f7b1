"""The language files: complete, of one form, in the package, and open to a site's own."""

from __future__ import annotations

import ast
import re
from importlib import resources
from pathlib import Path

import pytest

from gateway.config.languages import DIRECTORY, FILES_MAX, load_languages
from gateway.core.alerts import CALLS, EMERGENCY_STOP, AlertPolicy, Change
from gateway.core.phrases import DETAILS, KINDS, SECTIONS
from gateway.errors import ConfigError

ROOT = Path(__file__).parent.parent
GERMAN = (DIRECTORY / "de.yaml").read_text(encoding="utf-8")


def faults(directory: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_languages(directory)
    assert "en.yaml" in caught.value.hint
    return list(caught.value.faults)


def changed(directory: Path, old: str, new: str, name: str = "fr.yaml") -> list[str]:
    """The faults of a file that is the German one but for one change."""
    assert GERMAN.count(old) == 1, old
    (directory / name).write_text(GERMAN.replace(old, new), encoding="utf-8")
    return faults(directory)


def test_english_and_german_are_complete_and_in_the_package() -> None:
    languages = load_languages()
    assert {"en", "de"} <= set(languages)
    assert all((resources.files("gateway") / "languages" / f"{code}.yaml").is_file() for code in ("en", "de"))
    for phrases in languages.values():
        assert {section: set(words) for section, words in phrases.sections.items()} == {
            section: set(keys) for section, keys in SECTIONS.items()
        }


def test_german_is_no_copy_of_english() -> None:
    languages = load_languages()
    same = {
        f"{section}.{key}"
        for section, words in languages["en"].sections.items()
        for key, text in words.items()
        if languages["de"].sections[section][key] == text
    }
    plain = {
        "kinds.sos",
        "titles.raised",
        "titles.updated",
        "titles.folded",
        "titles.animal",
        "herd.compared",
    }
    assert same <= plain, "translate these"


def constants(tree: ast.AST) -> dict[str, str]:
    """Module constants that hold one text."""
    return {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def spoken(tree: ast.AST, names: dict[str, str], call: str, keyword: str, at: int | None) -> set[str]:
    """Texts given as `keyword` (or as argument `at`) where `call` is called."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == call:
            given = [word.value for word in node.keywords if word.arg == keyword]
            given += [node.args[at]] if at is not None and len(node.args) > at else []
            for value in given:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.add(value.value)
                elif isinstance(value, ast.Name) and value.id in names:
                    found.add(names[value.id])
    return found


def test_every_kind_the_product_raises_has_a_name() -> None:
    raised: set[str] = set()
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        raised |= spoken(tree, constants(tree), "Finding", "kind", None)
        raised |= spoken(tree, constants(tree), "told_of_gateway", "kind", 0)
    assert {"fever", "silence_herd", "store_budget", "backup_failed"} <= raised, "the search finds nothing"
    policy = AlertPolicy()
    raised |= {*CALLS, EMERGENCY_STOP, "estrus", *policy.sensor_kinds, *policy.gateway_kinds}
    assert raised <= set(KINDS), "name these in core/phrases and in every language"


def test_every_detail_that_a_detector_gives_has_words() -> None:
    given: set[str] = set()
    for path in sorted((ROOT / "gateway" / "core" / "detectors").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        given |= set(re.findall(r'detail ?= ?"([a-z_]+)"', text))
    assert {"single_reading", "above_own_baseline"} & given
    assert given - {"gateway_fault"} <= set(DETAILS)


def test_a_herd_event_is_named_after_its_kind_and_the_unknown_speaks_for_itself() -> None:
    english, german = load_languages()["en"], load_languages()["de"]
    assert english.kind("fever_herd") == "fever (several animals)"
    assert german.kind("sensor_malfunction_herd") == "Halsband gestört (mehrere Tiere)"
    assert german.kind("silence_herd") == "kein Signal von vielen Tieren"
    assert german.kind("loose_bolt") == "loose bolt"


def test_every_change_of_an_alert_has_a_title() -> None:
    assert {change.value for change in Change} <= set(SECTIONS["titles"])


def test_a_site_adds_a_language(tmp_path: Path) -> None:
    (tmp_path / "nl.yaml").write_text(GERMAN.replace("kein Signal\n", "geen signaal\n"), encoding="utf-8")
    (tmp_path / "readme.txt").write_text("not read")
    languages = load_languages(tmp_path)
    assert set(languages) == {"en", "de", "nl"}
    assert languages["nl"].kind("silence") == "geen signaal"


def test_a_site_changes_a_language_and_names_kinds_of_its_own(tmp_path: Path) -> None:
    text = GERMAN.replace("kinds:\n", "kinds:\n  loose_bolt: lose Schraube\n")
    (tmp_path / "de.yaml").write_text(text, encoding="utf-8")
    assert load_languages(tmp_path)["de"].kind("loose_bolt") == "lose Schraube"


FAULTS = [
    ("  fever: Fieber\n", "", "kinds.fever: is missing"),
    ("  late: ", "  lat: ", "titles.late: is missing"),
    ("  late: ", "  lat: ", "titles.lat: is no key of a language; did you mean late?"),
    ("severities:", "severity:", "severity: is no key of a language; did you mean severities?"),
    ("severities:", "severity:", "severities: is missing"),
    ("  fever: Fieber\n", "  fever: Fieber\n  fever: Hitze\n", "kinds.fever: is already set"),
    ("NACHGEMELDET {severity} {what}", "NACHGEMELDET {what}", "titles.late: lacks {severity}"),
    ("Karte: {link}", "Karte: {url}", "lines.map: has {url}, which is no placeholder; known: {link}"),
    ("Karte: {link}", "Karte: {link!r}", "lines.map: writes {link} with a form"),
    ("Karte: {link}", "Karte: {link:>9}", "lines.map: writes {link} with a form"),
    ("Karte: {link}", "Karte: {link.__class__}", "lines.map: has {link.__class__}"),
    ("Karte: {link}", "Karte: {link", "lines.map: has a single { or }"),
    ("  fever: Fieber\n", "  fever: Fieber {what}\n", "kinds.fever: has {what}, which is no placeholder"),
    ("  fever: Fieber\n", '  fever: ""\n', "kinds.fever: is empty"),
    ("  fever: Fieber\n", '  fever: "a\\nb"\n', "kinds.fever: holds a line break"),
    ("  fever: Fieber\n", f"  fever: {'x' * 301}\n", "kinds.fever: has 301 characters; at most 300"),
    ("  fever: Fieber\n", "  fever: [a, b]\n", "kinds.fever: must be one phrase"),
]


@pytest.mark.parametrize(("old", "new", "fault"), FAULTS, ids=[f[2][:40] for f in FAULTS])
def test_a_fault_names_file_line_key_and_remedy(tmp_path: Path, old: str, new: str, fault: str) -> None:
    found = changed(tmp_path, old, new)
    line = GERMAN[: GERMAN.index(old)].count("\n") + 1
    (one,) = [text for text in found if fault in text]
    assert one.startswith(f"{tmp_path / 'fr.yaml'}:")
    if "is missing" not in fault and "already" not in fault:
        assert one.startswith(f"{tmp_path / 'fr.yaml'}:{line}: ")


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("fr.yaml", b"", "is empty; copy en.yaml"),
        ("fr.yaml", b"- a\n", "must be sections with keys"),
        ("fr.yaml", b"a: b: c\n", "is not YAML"),
        ("fr.yaml", b"\xff\xfe\x00", "is not UTF-8"),
        ("French.yaml", b"", "name it like fr.yaml"),
        ("fr.yml", b"", "name it like fr.yaml"),
    ],
)
def test_a_file_that_is_none_is_said_to_be(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    (one,) = [text for text in faults(tmp_path) if fault in text]
    assert str(tmp_path / name) in one


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "fr.yaml").write_text(GERMAN.replace("  fever: Fieber\n", ""), encoding="utf-8")
    (tmp_path / "nl.yaml").write_text(GERMAN.replace("  fire: Feuer\n", ""), encoding="utf-8")
    found = faults(tmp_path)
    assert len(found) == 2
    assert "fr.yaml" in found[0]
    assert "nl.yaml" in found[1]


def test_a_directory_that_is_missing_or_wrong_is_a_fault(tmp_path: Path) -> None:
    assert "name a directory" in faults(tmp_path / "nowhere")[0]
    for number in range(FILES_MAX + 1):
        (tmp_path / f"a{chr(97 + number // 26)}{chr(97 + number % 26)}.yaml").touch()
    assert f"at most {FILES_MAX} languages" in faults(tmp_path)[0]
