"""What a written word means for a key of a known type: values, or why not. Pure.

YAML 1.1 guesses types from spelling. Here the key's type decides, and a spelling that
YAML would read as something else is refused with the remedy instead of taken silently.
"""

from __future__ import annotations

import math
import re

import msgspec
import yaml

from gateway.config.document import implicit_tag

_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9]*)?")
_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_NOT_NULL = frozenset({"none", "nil", "undefined"})
DIGITS_MAX = 18
"""Fits 64 bits; longer ones are refused before int() has to work on them."""
SHOWN_MAX = 60
"""Characters of a wrong value that a fault repeats."""


class NotThatError(Exception):
    """The value does not fit its key; the text says why and what to write."""


class Word(msgspec.Struct, frozen=True):
    """A scalar as it was written.

    Args:
        text: the characters, after `${…}` were replaced.
        quoted: whether it stood in quotes.
        variable: whether it came (in part) from the environment, where quotes do not exist.
        secret: whether faults must not repeat it.
    """

    text: str
    quoted: bool = False
    variable: bool = False
    secret: bool = False

    @property
    def tag(self) -> str:
        """What YAML 1.1 takes it for."""
        return "str" if self.quoted else implicit_tag(self.text)

    @property
    def shown(self) -> str:
        """How a fault repeats it."""
        if self.secret:
            return "the value"
        return f'"{self.text[:SHOWN_MAX]}…"' if len(self.text) > SHOWN_MAX else f'"{self.text}"'


def word_of(node: yaml.ScalarNode, text: str, *, variable: bool, secret: bool) -> Word:
    """A node's word; a block scalar (`|`, `>`) counts as quoted."""
    return Word(text, quoted=node.style is not None and not variable, variable=variable, secret=secret)


def is_null(word: Word) -> bool:
    """Whether it says "no value" (nothing, `~`, `null`)."""
    if not word.quoted and word.text.lower() in _NOT_NULL:
        raise NotThatError(f"{word.shown} is plain text in YAML; write null for no value")
    return word.tag == "null"


def boolean(word: Word) -> bool:
    """true/false, and YAML 1.1's yes/no/on/off."""
    low = word.text.lower()
    if word.quoted and low in _TRUE | _FALSE:
        raise NotThatError(f"{word.shown} in quotes is text; write {_spell(low)} without quotes")
    if low in _TRUE or (word.variable and low == "1"):
        return True
    if low in _FALSE or (word.variable and low == "0"):
        return False
    raise NotThatError(f"must be true or false, not {word.shown}")


def _spell(low: str) -> str:
    return "true" if low in _TRUE else "false"


def _refuse_odd_number(word: Word) -> None:
    """The spellings that YAML 1.1 reads as another number than a person does."""
    if word.quoted:
        raise NotThatError(f"{word.shown} in quotes is text; write the number without quotes")
    if _OCTAL.fullmatch(word.text):
        plain = word.text.lstrip("+-").lstrip("0_") or "0"
        raise NotThatError(f"{word.shown}: a leading zero makes it octal in YAML; write {plain}")
    if _SEXAGESIMAL.fullmatch(word.text):
        raise NotThatError(f"{word.shown}: YAML counts this in base 60; write one plain number")


def integer(word: Word) -> int:
    """A plain decimal whole number."""
    _refuse_odd_number(word)
    if not _DECIMAL.fullmatch(word.text) or len(word.text) > DIGITS_MAX:
        raise NotThatError(f"must be a whole number, not {word.shown}")
    return int(word.text)


def number(word: Word) -> float:
    """A plain decimal number, finite."""
    _refuse_odd_number(word)
    if not any(sign.isdigit() for sign in word.text) or not _FLOAT.fullmatch(word.text):
        raise NotThatError(f"must be a number, not {word.shown}")
    value = float(word.text)
    if not math.isfinite(value):
        raise NotThatError(f"{word.shown} is too large")
    return value


def text(word: Word) -> str:
    """Text. A time of day (`22:00`) and a date stay the text they are."""
    if "\0" in word.text:
        raise NotThatError("must not hold a NUL character")
    tag = word.tag
    if word.variable or tag in {"str", "timestamp", "merge", "value"} or _SEXAGESIMAL.fullmatch(word.text):
        return word.text
    if tag == "null":
        raise NotThatError("has no value; write one, or remove the key for its default")
    if tag == "bool":
        raise NotThatError(f"{word.text} would be read as {_spell(word.text.lower())}; put it in quotes")
    raise NotThatError(
        "must be text; put the number in quotes"
        if word.secret
        else f"must be text; write {word.shown} with the quotes"
    )


def choice(word: Word, words: tuple[str, ...]) -> str:
    """One of several words, in any case. `off` is a word here, not a false."""
    for known in words:
        if word.text.lower() == known.lower():
            return known
    raise NotThatError(f"must be one of {', '.join(words)}, not {word.shown}")
