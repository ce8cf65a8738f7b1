"""YAML text → a tree of nodes that know their lines. Nothing in the file is constructed.

PyYAML alone turns `22:00` into 1320, `no` into False, `010` into 8, and keeps the last of
two equal keys without a word. So only its composer is used: every scalar stays the text
that was written, and `convert` decides by the type of the key what that text means.
Runs at start, in the main thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from gateway.config.faults import Fault, Place

FILE_BYTES_MAX = 1024 * 1024
"""100 times the commented example; a larger file is a wrong file (a database, a log)."""
DEPTH_MAX = 16
"""The schema is 4 deep; beyond 16 the composer would recurse for nothing."""

_ENV = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")


class _Composer(yaml.SafeLoader):
    """SafeLoader that stops at the node tree and at a sane depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node; the depth is counted because PyYAML recurses without a bound."""
        self.depth += 1
        if self.depth > DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEPTH_MAX} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def line_of(node: yaml.Node) -> int:
    """Line of a node, from 1."""
    return int(node.start_mark.line) + 1


def read_document(path: Path, name: str) -> tuple[yaml.MappingNode | None, list[Fault]]:
    """The root mapping of a file; None when it is empty or cannot be used.

    Args:
        path: the file.
        name: how faults name it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        return None, [Fault(Place(name), "", f"larger than {FILE_BYTES_MAX} bytes; is this the right file?")]
    try:
        loader = _Composer(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, [Fault(Place(name, line), "", "is not UTF-8 text; save it as UTF-8")]
    except yaml.reader.ReaderError as error:
        return None, [Fault(Place(name), "", f"holds a character no YAML may hold (#x{error.character:04x})")]
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        problem = (error.problem or "cannot be read").replace("\n", " ")
        return None, [Fault(Place(name, line), "", f"is not YAML: {problem}{_remedy(problem)}")]
    finally:
        loader.dispose()
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag.endswith(":null")):
        return None, []
    if not isinstance(root, yaml.MappingNode):
        return None, [Fault(Place(name, line_of(root)), "", "must be sections with keys, like `mqtt:`")]
    return root, list(_odd_keys(root, name, "", set()))


def _remedy(problem: str) -> str:
    if "cannot start any token" in problem and "\\t" in problem:
        return "; indent with spaces, not with tabs"
    if "expected a single document" in problem or "another document" in problem:
        return "; leave one document, without a second `---`"
    return ""


def _odd_keys(node: yaml.Node, name: str, path: str, seen: set[int]) -> Iterator[Fault]:
    """Duplicate keys, merge keys and keys that are no plain words, in the whole tree."""
    if id(node) in seen:  # an alias; also ends a tree that holds itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _odd_keys(item, name, f"{path}[{number}]", seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        place = Place(name, line_of(key))
        if not isinstance(key, yaml.ScalarNode):
            yield Fault(place, path, "a key must be one plain word")
            continue
        below = join(path, key.value)
        if key.tag.endswith(":merge"):
            yield Fault(place, below, "merge keys are not supported; write the keys out")
        elif key.value in first:
            yield Fault(place, below, f"is already set in line {first[key.value]}; keep one of the two")
        else:
            first[key.value] = line_of(key)
        yield from _odd_keys(value, name, below, seen)


def join(path: str, key: str) -> str:
    """Dotted path of a key."""
    return f"{path}.{key}" if path else key


def entries(node: yaml.MappingNode) -> dict[str, tuple[int, yaml.Node]]:
    """The keys → (line, value); of two equal keys the first, which `read_document` has reported."""
    found: dict[str, tuple[int, yaml.Node]] = {}
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            found.setdefault(key.value, (line_of(key), value))
    return found


def implicit_tag(text: str) -> str:
    """What YAML 1.1 takes unquoted text for: str, int, float, bool, null, timestamp."""
    tag = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return str(tag).rsplit(":", 1)[-1]


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace `${NAME}` and `${NAME:-default}`; `$$` is a dollar sign.

    Returns:
        The text, and what is wrong with it. An empty variable counts as missing, because
        an empty password or port is never meant.
    """
    wrong: list[str] = []

    def value(found: re.Match[str]) -> str:
        name, default = found.group(1), found.group(2)
        if found.group() == "$$":
            return "$"
        if name is None:
            wrong.append("has a `${` that is no `${NAME}`; write `$${` if a dollar sign is meant")
            return ""
        if environ.get(name):
            return environ[name]
        if default is None:
            wrong.append(f"environment variable {name} is not set; set it or write ${{{name}:-default}}")
            return ""
        return str(default)

    return _ENV.sub(value, text), wrong
