"""What is special to OverLoCK: the context across stages, merged kernels, the auxiliary head and the dense form."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.layers.conv.reparam import DilatedReparamConv
from backbones.layers.norm import LayerNorm2d
from backbones.models import family_of
from tests.models.zoo import image, stir

NAME = "overlock_xt"


def tiny(seed: int = 0, **kwargs) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(NAME, **{**family_of(NAME).tiny, "num_classes": 7, **kwargs})


def trained(**kwargs) -> nn.Module:
    """With weights and BatchNorm statistics off their initial values."""
    model = stir(tiny(**kwargs), std=0.05).train()
    with torch.no_grad():
        for _ in range(3):
            model(image(96, 96, batch=4))
    return model.eval()


def load(state: dict, classes: int = 7, **kwargs) -> nn.Module:
    """A model of 7 classes with the weights of a file of `classes`."""
    overlay = {"state_dict": state, "num_classes": classes}
    return tiny(seed=1, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@torch.no_grad()
def test_merging_keeps_the_outputs():
    model = trained()
    x = image(96, 128)
    expected = model(x)
    for merged in (reparameterize_model(model), load(model.state_dict(), merged=True)):
        large = [m for m in merged.modules() if isinstance(m, DilatedReparamConv)]
        assert len(large) == 7 and all(m.merged for m in large)
        assert (merged(x) - expected).abs().max() < 1e-5 * expected.std()
    assert not any(m.merged for m in model.modules() if isinstance(m, DilatedReparamConv))
    model.reparameterize()
    assert model.state_dict().keys() == tiny(merged=True).state_dict().keys()
    assert torch.equal(load(model.state_dict(), merged=True)(x), model(x))


def test_merged_checkpoint_into_a_training_form_model_is_an_error():
    state = tiny(merged=True).state_dict()
    with pytest.raises(ValueError, match=r"merged .* create the model with merged=True"):
        family_of(NAME).convert_checkpoint(state, tiny())


@torch.no_grad()
def test_the_merged_tag_builds_the_merged_form_and_loads_the_authors_file():
    model = timm.create_model(f"{NAME}.in1k_reparam", device="meta")
    assert all(m.merged for m in model.modules() if isinstance(m, DilatedReparamConv))
    merged = trained()
    merged.reparameterize()
    authors = {}
    for key, value in merged.state_dict().items():  # the authors' name of the merged kernels
        key = key.replace(".lepe.conv.", ".lepe.lk_origin.")
        authors[key.replace(".mixer.conv.", ".mixer.lk_origin.")] = value
    assert any("lk_origin" in key for key in authors)
    loaded = load(authors, merged=True)
    assert torch.equal(loaded(image()), merged(image()))


def test_auxiliary_head_speaks_in_training_only():
    model = tiny(aux_head=True, num_classes=5).train()
    logits, aux_logits = model(image())
    assert logits.shape == aux_logits.shape == (2, 5) and not torch.equal(logits, aux_logits)
    (logits.sum() + 0.4 * aux_logits.square().sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(image()).shape == (2, 5)
    model.train().reset_classifier(3)
    assert [y.shape for y in model(image())] == [(2, 3), (2, 3)]
    model.reset_classifier(0)
    assert model.aux_head is None and model(image()).ndim == 2
    assert isinstance(tiny().train()(image()), torch.Tensor)


def test_auxiliary_head_of_a_checkpoint():
    model = trained(aux_head=True)
    state = model.state_dict()
    assert torch.equal(load(state)(image()), model(image()))  # dropped
    assert torch.equal(load(state, aux_head=True).aux_head.fc.weight, model.aux_head.fc.weight)
    without = {k: v for k, v in state.items() if not k.startswith("aux_head.")}
    with pytest.raises(RuntimeError, match="aux_head"):
        model.load_state_dict(family_of(NAME).convert_checkpoint(without, model))
    state = {**state, "head.fc.weight": torch.randn(1000, 128), "head.fc.bias": torch.randn(1000)}
    state |= {"aux_head.fc.weight": torch.randn(1000, 64, 1, 1), "aux_head.fc.bias": torch.randn(1000)}
    other = load(state, classes=1000, aux_head=True)  # 7 classes: both classifiers are new, the rest is loaded
    assert other.aux_head.fc.weight.shape == (7, 64)
    assert torch.equal(other.aux_head.norm.running_mean, model.aux_head.norm.running_mean)


def test_context_reaches_the_last_stage():
    """The last stage reads the context of the overview network, not only the stride-16 map."""
    model, x = trained(), image(96, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model.forward_features(x)
        x, (context, overview) = model.stages[2](model.stages[1](model.stages[0](model.stem(x))))
        final = model.stages[3](x, (context, overview))
        assert torch.equal(final, expected)
        assert not torch.allclose(model.stages[3](x, (context.flip(3), overview)), final)
        assert context.shape == (2, 16, 3, 3) and x.shape == (2, 80, 6, 6) and final.shape == (2, 80, 3, 3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_truncated_model_has_no_unused_parameters(count):
    model = tiny(features_only=True, out_indices=(count - 1,), overview_out=True, aux_head=True).train()
    model(image())[0].square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_layer_decay_follows_the_order_of_computation():
    model = tiny(depths=(2, 1, 1, 1))
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    order = [
        "stem.conv1.weight",
        "stages.0.blocks.0.mlp.fc1.weight",
        "stages.0.blocks.1.mlp.fc1.weight",
        "stages.1.downsample.conv.weight",
        "stages.2.base.downsample.conv.weight",
        "stages.2.overview.downsample.conv.weight",
        "stages.2.focus.blocks.0.fusion.0.weight",
        "stages.2.focus.blocks.1.mixer.mix.rpb2",
        "stages.3.downsample.context.conv.weight",
        "head.conv.weight",
    ]
    assert [scale[n] for n in order] == [0.5**k for k in range(len(order) - 1, -1, -1)]
    assert scale["stages.2.context_proj.weight"] == scale["stages.2.overview.blocks.0.norm1.weight"]
    assert scale["stages.3.blocks.0.norm1.weight"] == scale["stages.3.downsample.features.norm.bias"]


def test_gradient_checkpointing_reaches_every_block():
    model = trained().train()
    calls = []
    blocks = [b for n, b in model.named_modules() if n.rpartition(".")[0].endswith("blocks")]
    assert len(blocks) == 7
    for block in blocks:
        block.register_forward_pre_hook(lambda module, *_: calls.append(module))
    model.set_grad_checkpointing()
    model(image()).sum().backward()
    assert sorted(map(id, calls)) == sorted(map(id, blocks * 2))


@torch.no_grad()
def test_dense_stage_three_starts_from_the_normed_map():
    model = trained(overview_out=True)
    norms = [stir(LayerNorm2d(info["num_chs"], eps=1e-6), seed=i) for i, info in enumerate(model.feature_info)]
    x = image(96, 64).contiguous(memory_format=torch.channels_last)
    outputs = model.forward_dense(x, norms)
    first = model.stages[0](model.stem(x))
    second = norms[1](model.stages[1](first))
    joined, (context, overview) = model.stages[2](second)
    last = norms[3](model.stages[3](joined, (context, overview))) + model.overview_proj(model.overview_norm(overview))
    for got, expected in zip(outputs, (norms[0](first), second, norms[2](joined), last), strict=True):
        torch.testing.assert_close(got, expected)
    assert len(model.forward_dense(x, norms[:3])) == 3
    raw = model.forward_stages(x)
    assert torch.equal(raw[0], first) and not torch.allclose(raw[2], joined)
    assert model.overview_proj[1].weight.mean() == pytest.approx(0, abs=0.05)  # starts at 1e-5


def test_initial_values():
    model = tiny(aux_head=True, overview_out=True)
    for name, parameter in model.named_parameters():
        if name.endswith(("rpb1", "rpb2", "gamma", "beta", "bias")):
            assert not parameter.any(), name
    assert 0.01 < model.stem.conv2.weight.std() < 0.03 and 0.01 < model.aux_head.fc.weight.std() < 0.03
    assert 0.01 < model.overview_proj[0].weight.std() < 0.03
    assert (model.stages[2].base.blocks[0].ls.weight == 1).all() and isinstance(
        model.stages[0].blocks[0].ls, nn.Identity
    )
    assert torch.all(model.overview_proj[1].weight == torch.tensor(1e-5))


def test_context_is_added_in_all_focus_blocks_but_the_first():
    model = tiny()
    focus = [*model.stages[2].focus.blocks, *model.stages[3].blocks]
    assert [block.x_scale is not None for block in focus] == [False, True, True]
