"""A tree of YAML nodes → any frozen msgspec struct, field by field, all faults at once.

Generic: it knows types, not sections. Defaults come from the struct; a struct inside a
struct starts from its parent's default. Bounds come from `msgspec.Meta`. A struct may say
that keys exclude each other (`ALTERNATIVES`), and may raise ValueError in `__post_init__`.
Runs at start, in the main thread.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from gateway.config import scalars
from gateway.config.document import entries, expand, join, line_of
from gateway.config.faults import Fault, Place
from gateway.config.scalars import NotThatError, Word

SECRET_KEYS = frozenset({"password", "token", "secret", "url"})
"""Keys whose values never appear in a fault."""
SIMILAR = 0.6
"""difflib's ratio from which a key counts as a misspelling; its own default."""


class Override(msgspec.Struct, frozen=True):
    """An environment variable that stands above the file."""

    variable: str
    text: str


class Converter:
    """One conversion: collects faults and where each value was written.

    Args:
        name: how faults name the file.
        environ: for `${NAME}`.
        overrides: path → variable.
    """

    def __init__(self, name: str, environ: Mapping[str, str], overrides: Mapping[str, Override]) -> None:
        self.faults: list[Fault] = []
        self.places: dict[str, Place] = {}
        self.from_environment: set[str] = set()
        self._name = name
        self._environ = environ
        self._overrides = overrides
        self._root: type[msgspec.Struct] | None = None

    def struct(
        self, cls: type[msgspec.Struct], node: yaml.Node | None, path: str = "", base: Any = None
    ) -> Any:
        """Convert one section; fields with faults keep their default.

        Args:
            cls: the struct to build.
            node: the section, None when it is absent.
            path: dotted path of the section.
            base: defaults for absent keys; those of `cls` if None.
        """
        self._root = self._root or cls
        info = _struct_info(cls)
        known = {field.encode_name: field for field in info.fields}
        given = self._entries(node, path, known)
        before = len(self.faults)
        values: dict[str, Any] = {}
        cleared = self._alternatives(cls, given, path)
        for key, field in known.items():
            below = join(path, key)
            default = None if key in cleared else _default(field, base)
            values[field.name] = self._field(field, given.get(key), below, default)
        if not _whole(values):
            return base
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            if len(self.faults) == before:  # else it may only repeat what a field said
                self._fault(path, str(error))
            return base

    def _field(self, field: inspect.Field, node: yaml.Node | None, path: str, default: Any) -> Any:
        inner = _struct_of(field.type)
        if path in self._overrides:
            override = self._overrides[path]
            self.places[path] = Place(f"environment variable {override.variable}")
            self.from_environment.add(path)
            word = Word(override.text, variable=True, secret=_secret(path))
            return self._guarded(self._scalar, field.type, word, path, default)
        if inner is not None and (node is None or _empty(node)):
            if _optional(field.type):
                return default
            return self.struct(inner, None, path, None if default is msgspec.NODEFAULT else default)
        if node is None:
            if default is msgspec.NODEFAULT:
                self._fault(path, "is missing; it has no default")
            return default
        return self._guarded(self._value, field.type, node, path, default)

    def _guarded(
        self,
        make: Callable[[inspect.Type, Any, str, Any], Any],
        kind: inspect.Type,
        written: yaml.Node | Word,
        path: str,
        default: Any = None,
    ) -> Any:
        """What was written, converted; a fault and the default if it does not fit."""
        try:
            value = make(kind, written, path, default)
        except NotThatError as error:
            self._fault(path, str(error))
            return default
        if isinstance(default, int | float) and default >= 0 and isinstance(value, int | float) and value < 0:
            # A policy of core names no bounds; what is a count or a span by default stays one.
            self._fault(path, f"{value} is out of range; must be at least 0")
            return default
        return value

    def _value(self, kind: inspect.Type, node: yaml.Node, path: str, default: Any) -> Any:
        """A node of any type. Raises NotThatError."""
        kind = _plain(kind)
        self.places.setdefault(path, Place(self._name, line_of(node)))
        if isinstance(kind, inspect.UnionType):
            if isinstance(node, yaml.ScalarNode) and scalars.is_null(self._word(node, path)):
                return None
            kind = _plain(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
        if isinstance(kind, inspect.StructType):
            base = default if isinstance(default, msgspec.Struct) else None
            return self.struct(kind.cls, node, path, base)
        if isinstance(kind, inspect.DictType):
            if not isinstance(node, yaml.MappingNode):
                raise NotThatError("must be keys with values, one below the other")
            return {
                key: self._guarded(self._value, kind.value_type, value, join(path, key))
                for key, (_, value) in entries(node).items()
            }
        if isinstance(kind, inspect.CollectionType | inspect.TupleType):
            return self._sequence(kind, node, path)
        if not isinstance(node, yaml.ScalarNode):
            raise NotThatError("must be one value, not a list or a section")
        return self._scalar(kind, self._word(node, path), path)

    def _sequence(self, kind: inspect.CollectionType | inspect.TupleType, node: yaml.Node, path: str) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            raise NotThatError('must be a list, like ["a", "b"] or [] for none')
        if isinstance(kind, inspect.TupleType):
            if len(node.value) != len(kind.item_types):
                raise NotThatError(f"must have {len(kind.item_types)} values, not {len(node.value)}")
            kinds: tuple[inspect.Type, ...] = kind.item_types
        else:
            kinds = (kind.item_type,) * len(node.value)
            _check_bounds(len(node.value), kind.min_length, kind.max_length, "its length")
        items = [
            self._guarded(self._value, one, item, f"{path}[{number}]")
            for number, (item, one) in enumerate(zip(node.value, kinds, strict=True))
        ]
        if isinstance(kind, inspect.SetType):
            return set(items)
        if isinstance(kind, inspect.FrozenSetType):
            return frozenset(items)
        return items if isinstance(kind, inspect.ListType) else tuple(items)

    def _scalar(self, kind: inspect.Type, word: Word, path: str, _default: Any = None) -> Any:
        """A word of a scalar type. Raises NotThatError."""
        kind = _plain(kind)
        if isinstance(kind, inspect.UnionType):
            if scalars.is_null(word):
                return None
            kind = _plain(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
        if word.tag == "null" and isinstance(kind, inspect.BoolType | inspect.IntType | inspect.FloatType):
            raise NotThatError("has no value; write one, or remove the key for its default")
        if isinstance(kind, inspect.BoolType):
            return scalars.boolean(word)
        if isinstance(kind, inspect.IntType):
            return _bounded(scalars.integer(word), kind)
        if isinstance(kind, inspect.FloatType):
            return _bounded(scalars.number(word), kind)
        if isinstance(kind, inspect.StrType):
            found = scalars.text(word)
            if len(found) < (kind.min_length or 0):
                raise NotThatError("must not be empty")
            if kind.max_length is not None and len(found) > kind.max_length:
                raise NotThatError(f"is longer than {kind.max_length} characters")
            if kind.pattern is not None and not re.search(kind.pattern, found):
                raise NotThatError(f"must match {kind.pattern}")
            return found
        if isinstance(kind, inspect.LiteralType):
            values = {str(value): value for value in kind.values}
            return values[scalars.choice(word, tuple(values))]
        if isinstance(kind, inspect.EnumType):
            return _member(kind.cls, word)
        if isinstance(kind, inspect.CustomType) and issubclass(kind.cls, Path):
            return kind.cls(scalars.text(word))
        raise TypeError(f"{path}: the schema uses {type(kind).__name__}, which convert does not know")

    def _word(self, node: yaml.ScalarNode, path: str) -> Word:
        found, wrong = expand(node.value, self._environ)
        if wrong:
            raise NotThatError("; ".join(wrong))
        variable = "${" in node.value
        if variable:
            self.from_environment.add(path)
        return scalars.word_of(node, found, variable=variable, secret=variable or _secret(path))

    def _entries(
        self, node: yaml.Node | None, path: str, known: Mapping[str, inspect.Field]
    ) -> dict[str, yaml.Node]:
        """The section's known keys; the others are faults."""
        if node is None or _empty(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._fault(path, "must be a section with keys, not a value or a list")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, (line, value) in entries(node).items():
            place = Place(self._name, line)
            if key in known:
                found[key] = value
                self.places[join(path, key)] = place
            else:
                text = f"unknown key; {self._nearest(key, tuple(known))}"
                self.faults.append(Fault(place, join(path, key), text))
        return found

    def _nearest(self, key: str, siblings: tuple[str, ...]) -> str:
        """The remedy for an unknown key: the same word elsewhere, a sibling, or the nearest of all."""
        for path in _all_paths(self._root) if self._root else ():
            if path.rsplit(".", 1)[-1] == key:
                return f"did you mean {path}?"
        close = difflib.get_close_matches(key, siblings, 1, SIMILAR)
        if close:
            return f"did you mean {close[0]}?"
        return f"nearest known key: {difflib.get_close_matches(key, siblings, 1, 0.0)[0]}"

    def _alternatives(self, cls: type, given: Mapping[str, object], path: str) -> set[str]:
        """Keys whose default must go because an alternative to them was written."""
        cleared: set[str] = set()
        for group in getattr(cls, "ALTERNATIVES", ()):
            written = [key for key in group if key in given]
            if len(written) > 1:
                self._fault(join(path, written[1]), f"{' and '.join(written)} exclude each other; keep one")
            if written:
                cleared.update(key for key in group if key not in written)
        return cleared

    def _fault(self, path: str, text: str) -> None:
        self.faults.append(Fault(self.place_of(path), path, text))

    def place_of(self, path: str) -> Place:
        """Where a key was written, or else the section around it, or else the file."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return Place(self._name)


def _struct_info(cls: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - narrows for the type checker
    return info


def _all_paths(cls: type[msgspec.Struct], path: str = "") -> tuple[str, ...]:
    """Every key of a schema, dotted."""
    found: list[str] = []
    for field in _struct_info(cls).fields:
        below = join(path, field.encode_name)
        found.append(below)
        inner = _struct_of(field.type)
        if inner is not None:
            found += _all_paths(inner, below)
    return tuple(found)


def _plain(kind: inspect.Type) -> inspect.Type:
    return _plain(kind.type) if isinstance(kind, inspect.Metadata) else kind


def _optional(kind: inspect.Type) -> bool:
    return isinstance(_plain(kind), inspect.UnionType)


def _struct_of(kind: inspect.Type) -> type[msgspec.Struct] | None:
    """The struct a field holds, also an optional one."""
    kind = _plain(kind)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return next((one.cls for one in map(_plain, kinds) if isinstance(one, inspect.StructType)), None)


def _default(field: inspect.Field, base: Any) -> Any:
    if base is not None:
        return getattr(base, field.name)
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return msgspec.NODEFAULT


def _empty(node: yaml.Node) -> bool:
    """A section whose keys are all commented out."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.tag.endswith(":null")


def _whole(values: Mapping[str, Any]) -> bool:
    return all(value is not msgspec.NODEFAULT for value in values.values())


def _secret(path: str) -> bool:
    return path.rsplit(".", 1)[-1] in SECRET_KEYS


def _bounded(value: Any, kind: inspect.IntType | inspect.FloatType) -> Any:
    low, high = kind.ge, kind.le
    fits = (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (kind.gt is None or value > kind.gt)
        and (kind.lt is None or value < kind.lt)
    )
    if fits:
        return value
    wanted = [f"more than {kind.gt:g}"] if kind.gt is not None else []
    if low is not None and high is not None:
        wanted = [f"{low:g} to {high:g}" if high < 1e6 else f"{low:g} to {high}"]
    elif low is not None:
        wanted.append(f"at least {low:g}")
    elif high is not None:
        wanted.append(f"at most {high:g}" if high < 1e6 else f"at most {high}")
    if kind.lt is not None:
        wanted.append(f"less than {kind.lt:g}")
    raise NotThatError(f"{value} is out of range; must be {' and '.join(wanted)}")


def _check_bounds(size: int, low: int | None, high: int | None, what: str) -> None:
    if size < (low or 0) or (high is not None and size > high):
        raise NotThatError(f"{what} must be {low or 0} to {high if high is not None else 'any'}")


def _member(cls: type[Enum], word: Word) -> Enum:
    """An enum member: by value if values are words, by name if they are numbers."""
    if issubclass(cls, IntEnum):
        return cls[scalars.choice(word, tuple(cls.__members__))]
    return cls(scalars.choice(word, tuple(str(member.value) for member in cls)))
