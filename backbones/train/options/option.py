"""One option of a command line: its type, bounds, choices and help, stated once as the field of a frozen dataclass.

From the fields come the flags, the keys that recipes know, the checks of both and ``docs/options.md``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from backbones.utils.text import did_you_mean

T = TypeVar("T", bound="Options")


class OptionError(ValueError):
    """An option is wrong; the message is one sentence that names it, its value and what is right."""


@dataclass(frozen=True)
class Interval:
    """Numbers between two bounds; ``text`` is the mathematical notation, e.g. ``(0, 1]`` or ``[1, inf)``."""

    text: str

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound."""
        low, high = self.text[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, value: float) -> bool:
        low, high = self.bounds
        above = value >= low if self.text[0] == "[" else value > low
        below = value <= high if self.text[-1] == "]" else value < high
        return above and below

    def __str__(self) -> str:
        low, high = self.bounds
        if high < math.inf:
            return f"in {self.text}"
        return f"of at least {low:g}" if self.text[0] == "[" else f"above {low:g}"


@dataclass(frozen=True)
class Option:
    """One option: flag ``--<name with hyphens>`` and recipe key ``<name>``.

    Attributes:
        name: The field's name.
        type: ``bool``, ``int``, ``float``, ``str``, or ``dict`` (key=value pairs); of each element of a list.
        count: None for a single value; for a list its length, or 0 for one or more.
        optional: Whether it may be left open (None).
        default: Its value when nobody says anything.
        help: A phrase for ``--help`` and the documentation.
        group: Heading in the help.
        within: Where numbers must lie, as :class:`Interval` writes it; None for anywhere.
        increasing: Whether the elements of a list must increase.
        choices: The allowed values, or a function that lists them (imported no earlier than needed).
        what: What a value names, for messages about one that is not among many choices.
        rule: Called with a value; raises ValueError with the rest of the sentence "<option> must …".
        short: Further flags.
        const: Value of the flag when it comes without one.
        positional: Given by position, not by flag.
        required: Must be given.
        metavar: Stands for the value in the help.
    """

    name: str
    type: type
    count: int | None
    optional: bool
    default: Any
    help: str
    group: str = ""
    within: Interval | None = None
    increasing: bool = False
    choices: Sequence[Any] | Callable[[], Sequence[Any]] | None = None
    what: str = ""
    rule: Callable[[Any], None] | None = None
    short: tuple[str, ...] = ()
    const: Any = None
    positional: bool = False
    required: bool = False
    metavar: str | None = None

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    def allowed(self) -> Sequence[Any] | None:
        """The choices, listed; None when anything goes."""
        return self.choices() if callable(self.choices) else self.choices

    def check(self, value: Any, where: str | None = None) -> Any:
        """The value in this option's type, immutable.

        Args:
            value: As YAML or the command line gives it; a number may come as text.
            where: What holds the value, e.g. a file's name; None for the command line.

        Raises:
            OptionError: For a value of another type, out of bounds or not among the choices.
        """
        name = f"{where}: {self.name}" if where else self.metavar if self.positional else self.flag
        if value is None or (value == "" and self.optional):
            if self.optional:
                return None
            raise OptionError(f"{name} must be {self.expected()}, not empty.")
        try:
            if self.count is None:
                return self._check_one(value)
            items = [value] if isinstance(value, (int, float)) else value
            if isinstance(items, str) or not isinstance(items, Sequence) or (not items and self.default != ()):
                raise ValueError(f"must be {self.expected()}, not {value!r}.")
            items = tuple(self._check_one(item) for item in items)
            if self.count and len(items) != self.count:
                raise ValueError(f"must be {self.expected()}, not {_show(items)}.")
            if self.increasing and any(a >= b for a, b in itertools.pairwise(items)):
                raise ValueError(f"must be {self.expected()}, not {_show(items)}.")
            return items
        except ValueError as error:
            raise OptionError(f"{name} {error}") from None

    def _check_one(self, value: Any) -> Any:
        try:
            result = _convert(self.type, value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"must be {self.expected()}, not {value!r}.") from None
        if self.within is not None and result not in self.within:
            raise ValueError(f"must be {self.expected()}, not {_show(result)}.")
        known = self.allowed()
        if known is not None and result not in known:
            hint = did_you_mean(result, map(str, known)) if self.type is str else ""
            raise ValueError(f"must be {self.expected()}, not {_show(result)}.{hint}")
        if self.rule is not None:
            self.rule(result)
        return result

    def expected(self) -> str:
        """What a value has to be, e.g. ``a number in (0, 1]``."""
        known = self.allowed()
        if known is not None:
            return self.what or "one of " + ", ".join(str(choice) for choice in known)
        if self.what:
            return self.what
        kinds = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "key=value pairs"}
        if self.count is None:
            return kinds[self.type] + (f" {self.within}" if self.within else "")
        number = {0: "one or more", 2: "two", 3: "three"}[self.count]
        several = {int: "integers", float: "numbers", str: "values"}[self.type]
        order = "increasing " if self.increasing else ""
        return f"{number} {order}{several}" + (f" {self.within}" if self.within else "")


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_show(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _convert(kind: type, value: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise TypeError
    if kind is dict:
        if isinstance(value, Mapping):
            return types.MappingProxyType(dict(value))
        raise TypeError
    if isinstance(value, (bool, list, tuple, Mapping)):
        raise TypeError
    if kind is str:
        return str(value)
    number = float(value)
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise ValueError
    return int(number) if kind is int else number


def option(default: Any, help: str, *, within: str | None = None, **metadata: Any) -> Any:
    """A dataclass field that is an option; see :class:`Option` for the keywords."""
    if within is not None:
        metadata["within"] = Interval(within)
    shared: dict[str, Any] = {"metadata": {"help": help, "default": default, **metadata}}
    if isinstance(default, dict):
        return field(default_factory=lambda: types.MappingProxyType(default), **shared)
    return field(default=default, **shared)


def _read_annotation(hint: Any) -> tuple[type, int | None, bool]:
    """Type, count and optionality of a field's annotation."""
    arguments = typing.get_args(hint)
    optional = type(None) in arguments
    if optional:
        (hint,) = (argument for argument in arguments if argument is not type(None))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        return items[0], (0 if items[-1] is Ellipsis else len(items)), optional
    return (dict if typing.get_origin(hint) is not None else hint), None, optional


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of a command line's options: an instance is complete, checked and immutable.

    A command line's class inherits from groups of options, in the order of the help. Each is given its heading:
    ``class DataOptions(Options, heading="data")``.
    """

    HEADING: typing.ClassVar[str | None] = None

    def __init_subclass__(cls, heading: str | None = None) -> None:
        cls.HEADING = heading

    @classmethod
    def table(cls) -> dict[str, Option]:
        """Name and :class:`Option` of each option, in the order of the help."""
        found: dict[str, Option] = {}
        for group in cls.__mro__:
            heading = vars(group).get("HEADING")
            hints = typing.get_type_hints(group) if heading else {}
            for item in fields(group) if heading else ():
                if item.metadata and item.name not in found:
                    kind, count, optional = _read_annotation(hints[item.name])
                    found[item.name] = Option(item.name, kind, count, optional, group=heading, **item.metadata)
        return found

    def values(self) -> dict[str, Any]:
        """All options as plain values, ready for YAML: lists in place of tuples, dicts of read-only mappings."""
        return {name: plain(getattr(self, name)) for name in self.table()}

    def replace(self: T, **changes: Any) -> T:
        """A copy with other values, which are checked again."""
        return dataclasses.replace(self, **changes)


def plain(value: Any) -> Any:
    """Lists in place of tuples and dicts of other mappings, at every depth."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
