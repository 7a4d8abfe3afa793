"""What full-size models are made of; nothing is allocated or computed."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from timm.layers import DropPath
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

from .zoo import DISTINCT, MODELS, full_size, is_isotropic, on_meta, tiny

# A block of a stage, or of a part of one, by the beginning of its names.
BLOCK = re.compile(r"(stages\.\d+\.(\w+\.)?)?blocks\.\d+\.")

# What some authors exclude from weight decay on ImageNet, beyond biases, vectors, class tokens, position embeddings; by
# the beginning of the models' names.
TRANSNEXT = r"\.(temperature|query_embedding|relative_pos_bias_local|rel_pos\.fc[12]\.weight)$"
NOT_DECAYED = {
    "agent": r"\.relative_position_bias_table$",
    "inline": r"\.relative_position_bias_table$",
    "maxvit": r"\.relative_position_bias_table$",
    "soft": r"^stages\.3\.cls_token\.token$",
    "swinv2": r"\.logit_scale$|\.rel_pos\.fc[12]\.weight$",
    "vsa_swin": r"\.relative_position_bias_table$",
    "moh": TRANSNEXT,
    "transnext": TRANSNEXT,
}

# Models whose authors' rates of stochastic depth do not rise all the way; their families' tests have the rates.
OWN_RATES = ("vsa_vitaev2_",)


@pytest.mark.parametrize("name", MODELS)
def test_attributes(name):
    model = full_size(name)
    assert model.num_classes == model.pretrained_cfg["num_classes"] and model.in_chans == 3
    assert model.num_features == model.feature_info[-1]["num_chs"]
    parts = "blocks" if is_isotropic(model) else "stages"
    assert [info["module"] for info in model.feature_info] == [f"{parts}.{i}" for i in range(len(model.feature_info))]
    assert all(a["reduction"] <= b["reduction"] for a, b in pairwise(model.feature_info))
    assert isinstance(model.get_classifier(), nn.Linear)
    assert not hasattr(model, "output_fmt") or model.output_fmt == "NCHW"


@pytest.mark.parametrize("name", MODELS)
def test_layer_decay_groups(name):
    model = full_size(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    names = {id(p): n for n, p in model.named_parameters()}
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(names), "every parameter belongs to exactly one group"
    scale = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}

    count = len(set(scale.values()))
    assert count > len(model.feature_info)
    assert scale[f"{model.pretrained_cfg['classifier']}.weight"] == max(scale.values()) == 1
    assert min(scale.values()) == pytest.approx(0.7 ** (count - 1)), "groups must have no gaps"
    assert {s for n, s in scale.items() if n.startswith("stem.")} == {min(scale.values())}
    stages = [[s for n, s in scale.items() if n.startswith(f"{i['module']}.")] for i in model.feature_info]
    assert all(max(a) < max(b) and min(a) < min(b) for a, b in pairwise(stages)), "scales must rise with depth"
    # Parameters are listed in the order of computation: no later block may learn more slowly than an earlier one.
    blocks: dict[str, set[float]] = {}
    for n, s in scale.items():
        if match := BLOCK.match(n):
            blocks.setdefault(match[0], set()).add(s)
    assert len(blocks) >= len(model.feature_info)
    assert all(len(scales) == 1 for scales in blocks.values())
    assert all(min(a) < min(b) for a, b in pairwise(blocks.values()))

    skip = model.no_weight_decay()
    for n, p in model.named_parameters():
        assert decay[n] == (0 if p.ndim <= 1 or n in skip else 0.05)


@pytest.mark.parametrize("name", MODELS)
def test_coarse_groups(name):
    model = full_size(name)
    fine = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert set(fine) == set(coarse) == {n for n, _ in model.named_parameters()}
    assert 1 < len(set(coarse.values())) <= len(set(fine.values()))
    order = [{coarse[n] for n in coarse if n.startswith(f"{info['module']}.")} for info in model.feature_info]
    assert all(max(a) <= min(b) for a, b in pairwise(order))


@pytest.mark.parametrize("name", MODELS)
def test_no_weight_decay_names_parameters(name):
    model = full_size(name)
    shapes = {n: p.ndim for n, p in model.named_parameters()}
    entries = set(model.no_weight_decay())
    for entry in entries:
        assert shapes[entry] >= 2, f"{entry} is not decayed by timm anyway"
    patterns = [pattern for prefix, pattern in NOT_DECAYED.items() if name.startswith(f"{prefix}_")]
    own = {n for n in shapes if any(re.search(pattern, n) for pattern in patterns)}
    assert entries == own | (shapes.keys() & {"cls_token.token", "pos_embed.table"})


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(OWN_RATES)])
def test_stochastic_depth_rises_from_none_to_the_maximum(name):
    model = on_meta(name, drop_path_rate=0.3)
    rates: dict[str, set[float]] = {}
    for n, module in model.named_modules():
        if match := BLOCK.match(f"{n}."):
            rates.setdefault(match[0], set())
            if isinstance(module, DropPath):
                rates[match[0]].add(module.drop_prob)
            elif isinstance(module, nn.Dropout) and module.p:  # SOFT's blocks drop single values
                rates[match[0]].add(module.p)
    assert all(len(block) <= 1 for block in rates.values()), "the branches of a block share one rate"
    # Blocks without a shortcut (EMOv2's first of every stage) cannot be dropped.
    never = [i for i, block in enumerate(rates) if not getattr(model.get_submodule(block[:-1]), "has_skip", True)]
    rises = [block.pop() if block else 0.0 for block in rates.values()]
    assert not any(rises[i] for i in never)
    rises = [rate for i, rate in enumerate(rises) if i == 0 or i not in never]
    assert rises[0] == 0 and rises[-1] == pytest.approx(0.3)
    assert all(a < b for a, b in pairwise(rises))
    without = [module.drop_prob for module in full_size(name).modules() if isinstance(module, DropPath)]
    assert not any(without)


@pytest.mark.parametrize("name", DISTINCT)
def test_gradient_checkpointing_is_a_switch(name):
    model = tiny(name)
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        switches = {m.grad_checkpointing for m in model.modules() if hasattr(m, "grad_checkpointing")}
        assert switches == {enable}


@pytest.mark.parametrize("name", DISTINCT)
def test_no_buffers_but_batch_norm_statistics(name):
    """Other buffers are tolerated only where they are not saved and can be made again."""
    model = tiny(name)
    saved = set(model.state_dict())
    for owner_name, owner in model.named_modules():
        if isinstance(owner, nn.BatchNorm2d):
            continue
        for buffer_name, buffer in owner.named_buffers(prefix=owner_name, recurse=False):
            assert buffer_name not in saved
            value = buffer.clone()
            buffer.zero_().sub_(1)
            model.init_non_persistent_buffers()
            assert torch.equal(model.get_buffer(buffer_name), value)


@pytest.mark.parametrize("name", MODELS)
def test_full_size_models_are_made_on_the_device_asked_for(name):
    model = on_meta(name, dtype=torch.bfloat16)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [n for n, t in tensors if not t.is_meta]
    assert not [n for n, t in tensors if t.is_floating_point() and t.dtype != torch.bfloat16]
    with torch.device("meta"):
        model = on_meta(name)
    assert all(p.is_meta for p in model.parameters())
