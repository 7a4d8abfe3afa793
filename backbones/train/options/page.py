"""``docs/options.md``: every option of the three command lines, from their tables."""

from __future__ import annotations

from collections.abc import Mapping

from backbones.train.options.evaluation import PredictOptions, ValidateOptions
from backbones.train.options.option import Option
from backbones.train.options.training import OPTIONS

_HEAD = """# Options of training, validation and prediction

Written by `tools/options_page.py` from `backbones/train/options`. The flag `--weight-decay 0.1`, the word
`weight_decay=0.1` and the recipe's line `weight_decay: 0.1` mean the same; an option that is true or false has a flag
`--no-…` too. Flags are stronger than the recipe, and the recipe is stronger than the defaults below.
"""


def page() -> str:
    """The whole page."""
    programs = {
        "backbones-train": OPTIONS,
        "backbones-validate": ValidateOptions.table(),
        "backbones-predict": PredictOptions.table(),
    }
    return "\n".join([_HEAD, *(_program(name, table) for name, table in programs.items())])


def _program(name: str, table: Mapping[str, Option]) -> str:
    lines, group = [f"## {name}"], None
    for option in table.values():
        if option.group != group:
            group = option.group
            lines += [
                "",
                f"### {group[:1].upper()}{group[1:]}",
                "",
                "| option | value | default | |",
                "| --- | --- | --- | --- |",
            ]
        lines.append(f"| {_names(option)} | {_cell(_values(option))} | {_default(option)} | {_cell(option.help)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _names(option: Option) -> str:
    words = [f"`{option.metavar}`"] if option.positional else [f"`{flag}`" for flag in (option.flag, *option.short)]
    return ", ".join(words)


def _values(option: Option) -> str:
    if option.type is bool:
        return ""
    text = option.expected()
    return text if option.const is None else f"{text}; `{option.const}` if left out"


def _default(option: Option) -> str:
    default = option.default
    if default is None or default is False or default == () or default == {}:
        return ""
    if isinstance(default, tuple):
        return " ".join(f"{value:.4g}" for value in default)
    return "yes" if default is True else f"{default:g}" if isinstance(default, float) else f"`{default}`"
