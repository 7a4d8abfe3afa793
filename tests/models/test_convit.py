"""What is special about ConViT: gated positional attention, and a class token that joins late."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from backbones.layers.attention.gated_positional import GatedPositionalAttention
from backbones.models import family_of

from .zoo import image, stir, tiny


def _by_definition(layer: GatedPositionalAttention, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Attention weights `(B, heads, N, N)`, of all pairs of positions at once."""
    heads = layer.num_heads
    y, x_ = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x_ = y.flatten().to(x.dtype), x_.flatten().to(x.dtype)
    dx, dy = x_[None, :] - x_[:, None], y[None, :] - y[:, None]
    offsets = torch.stack([dx, dy, dx**2 + dy**2], dim=-1)
    position = (offsets @ layer.pos_proj.weight.T + layer.pos_proj.bias).permute(2, 0, 1).softmax(-1)
    q, k = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in layer.qk(x).chunk(2, dim=2))
    content = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    gate = layer.gating_param.sigmoid()[:, None, None]
    weights = (1 - gate) * content + gate * position
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (6, 2)])
def test_gated_positional_attention_is_its_definition(grid):
    """Forward and gradients; the positions' softmax is computed axis by axis."""
    torch.manual_seed(0)
    layer = stir(GatedPositionalAttention(12, 4, dtype=torch.float64), std=0.3)
    x = torch.randn(2, grid[0] * grid[1], 12, dtype=torch.float64, requires_grad=True)
    weights = _by_definition(layer, x, *grid)
    torch.testing.assert_close(layer.attention(x, grid), weights)
    v = layer.v(x).unflatten(2, (4, -1)).transpose(1, 2)
    expected = layer.proj((weights @ v).transpose(1, 2).flatten(2))
    out = layer(x, grid)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    inputs = (x, *layer.parameters())
    for a, b in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("heads", "offsets"), [(4, [-0.5, 0.5]), (9, [-1, 0, 1]), (16, [-1.5, -0.5, 0.5, 1.5]), (5, [-0.5, 0.5])]
)
def test_heads_start_as_the_taps_of_a_convolution(heads, offsets):
    """Head `h1 + k * h2` looks at `dx = h2 - centre`, `dy = h1 - centre`; values go through as they are."""
    model = tiny("convit_s", dim=heads * 4, num_heads=heads, locality_strength=3.0)
    layer = model.blocks[0].attn
    side = len(offsets)
    for head in range(side * side):
        dx, dy = offsets[head // side], offsets[head % side]
        expected = 3.0 * torch.tensor([2 * dx, 2 * dy, -1])
        torch.testing.assert_close(layer.pos_proj.weight[head], expected)
    rest = layer.pos_proj.weight[side * side :]
    assert rest.abs().max() < 0.1 if len(rest) else True, "heads beyond the square keep their random start"
    assert torch.equal(layer.v.weight, torch.eye(heads * 4))
    assert torch.equal(layer.gating_param, torch.ones(heads))


def test_positions_stay_in_single_precision_under_autocast():
    torch.manual_seed(0)
    layer = stir(GatedPositionalAttention(12, 4), std=0.01)
    x = torch.randn(1, 40 * 40, 12)
    with torch.no_grad():
        expected = layer._position_weights(40, 40, x.device)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layer._position_weights(40, 40, x.device)
            assert layer(x, (40, 40)).dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_class_token_joins_after_the_gated_blocks():
    model = stir(tiny("convit_s"))
    x = image(64, 96)
    with torch.no_grad():
        _, pairs = model.forward_intermediates(x, return_prefix_tokens=True)
        assert [prefix.shape[1] for _, prefix in pairs] == [0, 0, 1, 1]
        before = [output for output, _ in pairs]
        model.cls_token.token.add_(1)
        after = model.forward_intermediates(x, intermediates_only=True)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False, False]


def test_pruned_below_the_class_token():
    model = stir(tiny("convit_s", num_classes=3))
    model.prune_intermediate_layers([1], prune_head=False)
    assert model.cls_token is None and model.num_prefix_tokens == 0
    with torch.no_grad():
        tokens = model.forward_features(image())
        assert torch.equal(model(image()), tokens), "a head of the class token goes with it"
        model.reset_classifier(0, "avg")
        torch.testing.assert_close(model(image()), tokens.mean(1))
    with pytest.raises(ValueError, match="class token"):
        model.reset_classifier(3, "token")


def test_weights_of_another_size_load():
    """At the model's size the table is the file's, bicubic; so it is in a model that runs at that size."""
    small, large = stir(tiny("convit_s", num_classes=3)), tiny("convit_s", seed=1, num_classes=3, img_size=(96, 128))
    state = family_of("convit_s").convert_checkpoint(copy.deepcopy(small.state_dict()), large)
    large.load_state_dict(state)
    assert large.pos_embed.table.shape[1] == 6 * 8
    x = image(96, 128)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x))
        small.set_input_size(img_size=(96, 128))
        assert small.pos_embed.grid_size == (6, 8) and small._model_args["img_size"] == (96, 128)
        torch.testing.assert_close(large(x), small(x))


def test_files_of_timm_load():
    """timm's names are the authors'."""
    args = {"depth": 4, "local_up_to_layer": 2, "img_size": 64, "num_classes": 3, "num_heads": 4, "embed_dim": 8}
    theirs = stir(timm.create_model("convit_small", **args).eval())
    overlay = {"state_dict": theirs.state_dict(), "num_classes": 3}
    ours = tiny("convit_s", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    with torch.no_grad():
        torch.testing.assert_close(ours(image()), theirs(image()), rtol=1e-4, atol=1e-4)
