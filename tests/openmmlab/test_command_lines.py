"""The command lines of the documents: their programs, files, flags, recipes and make targets are there."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from backbones.export import cli as export
from backbones.train.cli import predict, validate
from backbones.train.options.flags import read_options
from backbones.train.options.recipe import list_recipes, parse_command_line
from backbones.visualize import cli as visualize

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "guides").glob("*.md"))
DOCUMENTS = ("README.md", "BENCHMARKS.md", "configs/detection/README.md", "configs/segmentation/README.md", *GUIDES)
PROGRAMS = ("python", "torchrun", "make", "pip")


def _code(text: str) -> list[str]:
    """Lines of blocks of shell code and of indented ones, continued lines joined."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.M | re.S)
    blocks += ["\n".join(re.findall(r"^    (\S.*)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M))]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def _commands(document: str) -> list[list[str]]:
    """Every command of a document as words, with the variables that it sets filled in."""
    commands, variables = [], {}
    for line in _code((ROOT / document).read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)
        words = [re.sub(r"\$(\w+)", lambda m: variables.get(m[1], m[0]), word) for word in words]
        if len(words) == 1 and re.fullmatch(r"\w+=\S+", words[0]):
            name, _, variables[name] = words[0].partition("=")
        elif words and words[0] in PROGRAMS:
            commands.append(words)
        else:
            assert not words or words[0].startswith("data/"), f"{document}: {line}"
    return commands


COMMANDS = {f"{document}: {shlex.join(words)}": words for document in DOCUMENTS for words in _commands(document)}


class Parsed(BaseException):
    """Ends a program when its parser is done; none of its errors, so that it goes through."""


def _options(script: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser of a program of tools/, after the program has read and checked `argv` as its options."""
    used = []
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        used.append(self)
        raise Parsed

    def read(kind, parser, args):
        read_options(kind, parser, args)
        used.append(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for module in (predict, validate, export, visualize):
        monkeypatch.setattr(module, "read_options", read)
    monkeypatch.setattr(sys, "argv", [script, *argv])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return used[0]


def _check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script, *argv = words
    if script == "tools/classification/train.py":
        recipe, _ = parse_command_line(argv)
        assert recipe is None or recipe.partition(":")[0] in list_recipes()
    else:
        _options(script, argv, monkeypatch)


def test_documents_show_what_matters():
    shown = {word for words in COMMANDS.values() for word in words if word.startswith("tools/")}
    parts = ("train", "validate", "predict")
    assert {f"tools/classification/{part}.py" for part in parts} <= shown
    assert {f"tools/dense/{part}.py" for part in ("train", "test", "predict", "analyze", "browse", "flops")} <= shown
    assert {words[0] for words in COMMANDS.values()} == set(PROGRAMS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line(command, monkeypatch):
    program, *words = COMMANDS[command]
    for word in words:
        assert not word.startswith(("configs/", "tools/")) or (ROOT / word).is_file(), word
    if program == "python":
        _check_python(words, monkeypatch)
    elif program == "torchrun":
        launched = get_args_parser().parse_args(words)
        _check_python([launched.training_script, *launched.training_script_args], monkeypatch)
    elif program == "make":
        subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
    else:
        assert words[:2] == ["install", "-e"]
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        folder, _, extras = words[2].partition("[")
        assert folder == "."
        assert set(filter(None, extras.rstrip("]").split(","))) <= set(setup["options.extras_require"])


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if document.startswith("configs/")])
def test_flags_that_the_text_names(document, monkeypatch):
    text = (ROOT / document).read_text(encoding="utf-8").split("<!--")[0]
    named = set(re.findall(r"`(--[\w-]+)", text))
    assert named
    known = set()
    for tool in ("train", "test"):
        argv = ["CONFIG", "CHECKPOINT"][: 1 + (tool == "test")]
        with monkeypatch.context() as context:
            known |= set(_options(f"tools/dense/{tool}.py", argv, context)._option_string_actions)
    assert named <= known
