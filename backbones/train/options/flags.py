"""The command line of a table of options: what was given, told from what was not, each value checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from backbones.train.options.option import Option, OptionError, Options
from backbones.utils.text import did_you_mean

T = TypeVar("T", bound=Options)


class Parser(argparse.ArgumentParser):
    """argparse that raises :class:`OptionError` in place of printing its usage and leaving."""

    def error(self, message: str) -> Any:
        """One sentence about the mistake."""
        raise OptionError(f"{message[:1].upper()}{message[1:]}." + f" {self.prog} --help lists every flag.")


def build_parser(table: Mapping[str, Option], **about: Any) -> Parser:
    """A parser of the table's flags; it has no defaults and takes every value as text.

    Args:
        table: The options.
        **about: ``prog``, ``description`` and ``epilog``.
    """
    parser = Parser(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **about)
    groups: dict[str, Any] = {}
    for option in table.values():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        words: dict[str, Any] = {"default": argparse.SUPPRESS, "help": describe(option).replace("%", "%%")}
        if option.type is bool:
            plain = option.name.startswith("no_")
            words["action"] = "store_true" if plain else argparse.BooleanOptionalAction
        else:
            words["metavar"] = option.metavar or _metavar(option)
            if option.type is dict:
                words["nargs"] = "+"
            elif option.count is not None:
                words["nargs"] = "*" if option.positional else "+"
            if option.const is not None:
                words.update(nargs="?", const=option.const)
        if option.positional:
            groups[option.group].add_argument(option.name, **words)
        else:
            groups[option.group].add_argument(*option.short, option.flag, dest=option.name, **words)
    return parser


def describe(option: Option) -> str:
    """Help of an option: what it is, what values it takes, and its default."""
    text = option.help
    if option.default not in (None, "", (), {}, False):
        default = option.default
        shown = (
            " ".join(v if isinstance(v, str) else f"{v:.4g}" for v in default)
            if isinstance(default, tuple)
            else default
        )
        text += f" (default: {shown})"
    return text


def _metavar(option: Option) -> str:
    if option.choices is not None and not callable(option.choices) and option.count is None:
        return "{" + ",".join(map(str, option.choices)) + "}"
    return {int: "N", float: "X", dict: "key=value"}.get(option.type, option.name.upper())


def parse_flags(parser: Parser, table: Mapping[str, Option], argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What was given by flag, checked, and the words that are no flags and no flags' values.

    Raises:
        OptionError: For an unknown flag, naming the nearest, or a wrong value.
    """
    args, words = parser.parse_known_args(argv)
    given = vars(args)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for word in words:
        if word.startswith("-") and word != "-":
            flag = word.partition("=")[0]
            raise OptionError(f"Unknown flag {flag}.{did_you_mean(flag.replace('_', '-'), flags)}")
    for name, value in list(given.items()):
        if name in table:
            option = table[name]
            if option.count is not None and option.type is not str:  # a flag of several numbers ends at key=value
                words += [word for word in value if "=" in word]
                value = [word for word in value if "=" not in word]
            given[name] = option.check(key_values(value, option.flag) if option.type is dict else value)
    return given, words


def read_options(kind: type[T], parser: Parser, argv: Sequence[str] | None) -> T:
    """The options of a command line without recipes.

    Raises:
        OptionError: For an unknown flag, a wrong value, or options that exclude each other.
    """
    table = kind.table()
    given, words = parse_flags(parser, table, sys.argv[1:] if argv is None else argv)
    place = next((option.name for option in table.values() if option.positional), None)
    if words and place:  # words after a flag
        given[place] = (*given.get(place, ()), *words)
    for option in table.values():
        if option.required and option.name not in given:
            raise OptionError(f"{option.flag} is missing: {option.help}.")
    return kind(**{option.name: option.default for option in table.values()} | given)


def key_values(words: Sequence[str], where: str) -> dict[str, Any]:
    """``key=value`` words as a dict, with YAML values.

    Raises:
        OptionError: For a word without a sign, or an unreadable value.
    """
    result = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise OptionError(f"{where} takes key=value, not {word!r}.")
        result[key] = read_value(value)
    return result


def read_value(text: str) -> Any:
    """A value of the command line as YAML reads it; text that is no YAML stays as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
