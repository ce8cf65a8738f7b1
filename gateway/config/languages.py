"""The languages people are told in: those of the product, and those a site drops beside them.

Read once at start and by `barn-gateway check`, in the main thread; every fault at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

import yaml

from gateway.config.document import entries, line_of, read_document
from gateway.config.faults import Fault, Place
from gateway.core.phrases import OPEN_SECTIONS, SECTIONS, Phrases, phrase_fault
from gateway.errors import ConfigError

DIRECTORY = Path(__file__).resolve().parent.parent / "languages"
"""The product's own, inside the package."""
FILES_MAX = 64
"""More languages than any farm has; a directory with more files is a wrong directory."""

_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?", re.ASCII)
_HINT = "translate every line of en.yaml, and keep the words in {braces}"


def load_languages(extra: Path | None = None) -> dict[str, Phrases]:
    """Code → language; "en" and "de" are always there.

    Args:
        extra: a directory of the site's own files, `<code>.yaml`; one may stand in for the product's.

    Raises:
        ConfigError: with every fault, one line each: `file:line: key: what; remedy`.
    """
    faults: list[Fault] = []
    languages: dict[str, Phrases] = {}
    for path in [*_files(DIRECTORY, faults), *(_files(extra, faults) if extra is not None else [])]:
        languages[path.stem] = _language(path, faults)
    if faults:
        count = len(faults)
        text = f"{count} fault{'s' if count > 1 else ''} in the language files"
        raise ConfigError(text, tuple(map(str, faults)), _HINT)
    return languages


def _files(directory: Path, faults: list[Fault]) -> list[Path]:
    place = Place(str(directory))
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in {".yaml", ".yml"})
    except OSError as error:
        faults.append(Fault(place, "", f"cannot be read: {error.strerror}; name a directory of <code>.yaml"))
        return []
    if len(paths) > FILES_MAX:
        faults.append(Fault(place, "", f"holds {len(paths)} files; at most {FILES_MAX} languages"))
        return []
    good = []
    for path in paths:
        if path.suffix == ".yaml" and _CODE.fullmatch(path.stem):
            good.append(path)
        else:
            faults.append(Fault(Place(str(path)), "", "is named after no language; name it like fr.yaml"))
    return good


def _language(path: Path, faults: list[Fault]) -> Phrases:
    name = str(path)
    try:
        root, found = read_document(path, name)
    except OSError as error:
        faults.append(Fault(Place(name), "", f"cannot be read: {error.strerror}; check its permissions"))
        return Phrases(path.stem, {})
    faults += found
    if root is None:
        if not found:
            faults.append(Fault(Place(name), "", "is empty; copy en.yaml and translate it"))
        return Phrases(path.stem, {})
    nodes = entries(root)
    faults += _strangers(name, "", nodes, SECTIONS)
    sections = {section: MappingProxyType(_section(name, section, nodes, faults)) for section in SECTIONS}
    return Phrases(path.stem, MappingProxyType(sections))


def _section(
    name: str, section: str, nodes: dict[str, tuple[int, yaml.Node]], faults: list[Fault]
) -> dict[str, str]:
    line, node = nodes.get(section, (0, None))
    if not isinstance(node, yaml.MappingNode):
        faults.append(Fault(Place(name, line), section, "is missing; copy it from en.yaml and translate it"))
        return {}
    found = entries(node)
    if section not in OPEN_SECTIONS:
        faults += _strangers(name, section, found, SECTIONS[section])
    for key in SECTIONS[section]:
        if key not in found:
            text = "is missing; copy it from en.yaml and translate it"
            faults.append(Fault(Place(name, line), f"{section}.{key}", text))
    phrases: dict[str, str] = {}
    for key, (at, value) in found.items():
        place = Place(name, at)
        if not isinstance(value, yaml.ScalarNode):
            faults.append(Fault(Place(name, line_of(value)), f"{section}.{key}", "must be one phrase"))
        elif fault := phrase_fault(section, key, value.value):
            faults.append(Fault(place, f"{section}.{key}", fault))
        else:
            phrases[key] = value.value
    return phrases


def _strangers(
    name: str, section: str, found: dict[str, tuple[int, yaml.Node]], known: Iterable[str]
) -> list[Fault]:
    """Keys that are none, each with the nearest that is."""
    keys = list(known)
    faults = []
    for key, (line, _) in found.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            remedy = f"did you mean {near[0]}?" if near else "take it out"
            path = f"{section}.{key}" if section else key
            faults.append(Fault(Place(name, line), path, f"is no key of a language; {remedy}"))
    return faults
