"""The model of a run: which parameters are trained."""

from __future__ import annotations

import pytest

from backbones.train.evaluation.models import ModelError
from backbones.train.loop.components import build_model
from backbones.train.loop.optimizer import build_optimizer
from backbones.train.options.option import OptionError
from backbones.train.options.recipe import parse_command_line, resolve


def options_of(*words: str):
    return resolve(*parse_command_line(["--data", "x", "--model", "test_vit", *words]))


@pytest.mark.parametrize("load", [True, False])
def test_frozen_parameters_are_not_trained(load):
    """On resuming too."""
    options = options_of("--freeze", r"^(?!blocks\.1\.|head\.)")
    model, _ = build_model(options, 4, load)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "head"}
    assert all(
        p.requires_grad == name.startswith("blocks.1.") for name, p in model.named_parameters() if "blocks" in name
    )
    members = [p for group in build_optimizer(model, options, 1e-3).param_groups for p in group["params"]]
    assert {id(p) for p in members} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("pattern, which", [("blokcs", "none"), (".", "all")])
def test_freezing_none_or_all_is_a_mistake(pattern, which):
    with pytest.raises(ModelError, match=rf"matches {which} of the parameters of test_vit, whose names are such as"):
        build_model(options_of("--freeze", pattern), 4)


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(OptionError, match=r"freeze.* must be a regular expression, not '\(' \(missing \)"):
        options_of("--freeze", "(")
