"""Weights of attention against their definitions, and what is told where there are none."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones.layers.attention import (
    AgentAttention,
    ChannelAttention,
    GatedRotaryAttention,
    GlobalAttention2d,
    HaloAttention,
    HybridWindowAttention,
    NeighborhoodAttention2d,
    SpatialReductionAttention,
)
from backbones.layers.attention.gated_positional import GatedPositionalAttention2d
from backbones.layers.attention.window import APART, ShiftedWindowAttention
from backbones.layers.conv.contmix import ContMix
from backbones.layers.mixers import MIXERS, Mixer
from backbones.layers.selection import Kept
from backbones.models.sgformer.attention import HybridScaleAttention
from backbones.ops.neighborhood import neighborhood_av
from backbones.visualize import capture_attention
from backbones.visualize.attention import fitted_grid
from backbones.visualize.page import attention_views
from tests.interop.families import FAMILIES
from tests.models.zoo import tiny

WITHOUT = {"channel", "spectral"}  # mixers that weigh no positions


class Around(nn.Module):
    """A layer in a model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.mixer = layer
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.eval()

    def forward(self, *args):
        return self.mixer(*args)


def captured(layer: nn.Module, *args: torch.Tensor):
    model = Around(layer)
    with capture_attention(model) as maps, torch.inference_mode():
        model(*args)
    (weights,) = maps.values()
    assert weights.name.startswith("mixer")
    return weights


def queries_keys(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(heads, H * W, c)` each, queries scaled, of the first image."""
    with torch.no_grad():
        q, k, _ = layer.qkv(x[0].flatten(0, 1)).unflatten(-1, (3, layer.num_heads, -1)).permute(1, 2, 0, 3)
    return q * q.shape[-1] ** -0.5, k


def test_global_attention_with_a_local_position_encoding():
    """The convolution of the values is no attention, and the second image has weights of its own."""
    torch.manual_seed(0)
    x, layer = torch.randn(2, 4, 6, 16), GlobalAttention2d(16, 2, True, lepe_kernel=3)
    weights = captured(layer, x)
    for image in range(2):
        q, k = queries_keys(layer, x[image : image + 1])
        expected = (q @ k.mT).softmax(-1)[:, 2 * 6 + 5].unflatten(1, (4, 6))
        torch.testing.assert_close(weights.at(2, 5, image), expected)
    assert weights.size == weights.query_size == (4, 6) and weights.num_heads == 2


def test_shifted_windows():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 8, 8, 16), ShiftedWindowAttention(16, 2, 4, 2)
    weights = captured(layer, x)
    q, k = queries_keys(layer, x)
    window = (torch.arange(8) - 2) % 8 // 4  # of a row or column
    band = ((torch.arange(8) - 2) % 8 >= 6).long()  # brought there by the roll
    ids = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    with torch.no_grad():
        bias = layer.rel_pos(4, 4)
    y, x = 7, 1
    place = (torch.arange(8) - 2) % 8 % 4  # in its window
    logits = (k @ q[:, y * 8 + x, :, None])[..., 0]
    same = (window[ids[:, 0]] == window[y]) & (window[ids[:, 1]] == window[x])
    apart = (band[ids[:, 0]] != band[y]) | (band[ids[:, 1]] != band[x])
    keys = place[ids[:, 0]] * 4 + place[ids[:, 1]]
    logits = logits + bias[:, place[y] * 4 + place[x]][:, keys] + apart * APART
    expected = logits.masked_fill(~same, -torch.inf).softmax(-1).unflatten(1, (8, 8))
    torch.testing.assert_close(weights.at(y, x), expected)


def test_dilated_neighborhoods_are_clamped_at_borders():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 7, 9, 8), NeighborhoodAttention2d(8, 2, 3, dilation=2, rel_pos_bias=False)
    weights = captured(layer, x)
    q, k = queries_keys(layer, x)
    inside = torch.zeros(7, 9, dtype=torch.bool)
    inside[torch.tensor([0, 2, 4])[:, None], torch.tensor([4, 6, 8])] = True  # of row 0, column 8
    logits = (k @ q[:, 8, :, None])[..., 0].masked_fill(~inside.flatten(), -torch.inf)
    torch.testing.assert_close(weights.at(0, 8), logits.softmax(-1).unflatten(1, (7, 9)))


def test_layers_that_say_their_weights_themselves():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 4, 3, 16), GatedPositionalAttention2d(16, 4)
    weights = captured(layer, x)
    with torch.no_grad():
        expected = layer.attention(x.flatten(1, 2), (4, 3))[0, :, 7]
    torch.testing.assert_close(weights.at(2, 1).flatten(1), expected)

    model = tiny("sparsifiner_lvvit_s")
    images = torch.randn(2, 3, 64, 64)
    with capture_attention(model) as maps, torch.no_grad():
        model(images)
    last = maps["blocks.3.attn"]
    with torch.no_grad():
        kept = next((a for a in last._args if isinstance(a, Kept)), None)
        expected = last.layer.attention(last._args[0], (4, 4), kept)[1][1]
    torch.testing.assert_close(last.of_token(0, 1).flatten(1), expected[:, 0, 1:])
    torch.testing.assert_close(last.at(3, 1, 1).flatten(1), expected[:, 1 + 13, 1:])


def test_agents_are_a_product_of_two_softmaxes():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 6, 6, 16), AgentAttention(16, 2, (6, 6), agent_size=3)
    weights = captured(layer, x)
    q, k = queries_keys(layer, x)
    q = q * q.shape[-1] ** 0.5
    agents = nn.functional.adaptive_avg_pool2d(q.mT.unflatten(2, (6, 6)), 3).flatten(2).mT
    with torch.no_grad():
        to_tokens, to_agents = layer.biases(6, 6)
    scale = q.shape[-1] ** -0.5
    gathered = (agents @ k.mT * scale + to_tokens).softmax(-1)
    expected = (q @ agents.mT * scale + to_agents).softmax(-1) @ gathered
    torch.testing.assert_close(weights.at(3, 4).flatten(1), expected[:, 22])


def test_cells_of_a_reduced_map_are_divided_among_their_positions():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 4, 6, 8), SpatialReductionAttention(8, 2, 2)
    heat = captured(layer, x).at(1, 1)
    with torch.no_grad():
        q = layer.q(x[0, 1, 1]).unflatten(0, (2, 1, 4)) * 0.5
        k = layer.kv(layer.reduced(x))[0].flatten(0, 1).unflatten(1, (2, 2, 4))[:, 0].transpose(0, 1)
    expected = (q @ k.mT).softmax(-1).view(2, 2, 1, 3, 1).expand(-1, -1, 2, -1, 2).reshape(2, 4, 6) / 4
    torch.testing.assert_close(heat, expected)


def test_dynamic_kernels():
    """Kernels of ContMix, put to their places by the operator that applies them."""
    torch.manual_seed(0)
    x, layer = torch.randn(1, 8, 9, 9), ContMix(8, num_heads=2, kernel_size=5, small_kernel_size=3, grid_size=3)
    weights = captured(layer, x)
    with torch.no_grad():
        small, large = layer._kernels(x, x)
        one_hot = torch.eye(81).view(1, 1, 9, 9, 81).expand(1, 2, -1, -1, -1)
        expected = [neighborhood_av(kernel, one_hot, side)[0, :, 0, 5] for kernel, side in ((small, 3), (large, 5))]
    torch.testing.assert_close(weights.at(0, 5), torch.cat(expected).unflatten(1, (9, 9)))


@pytest.mark.parametrize(
    "layer",
    [
        GatedRotaryAttention(16, 2),
        HybridWindowAttention(16, 32, 2, 4, close=False),
        HaloAttention(16, 16, 2, 8, block_size=4, halo_size=0),
        HybridScaleAttention(16, 2, reduction=2, window_size=4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_softmax_is_positive_and_sums_to_one(layer):
    """Gates of channels, activations of values and further outputs of a layer are no part of it."""
    torch.manual_seed(0)
    heat = captured(layer, torch.randn(1, 8, 4, 16)).at(6, 2)
    assert (heat >= -1e-6).all() and (heat.flatten(1).std(1) > 1e-4).all()
    torch.testing.assert_close(heat.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize("name", sorted(MIXERS))
def test_mixers(name):
    """All have weights, or mix no positions by them; weights move values as the mixer does."""
    torch.manual_seed(0)
    layer = Mixer.of(name)(16, 2, map_size=(6, 4), block=1)
    if name in WITHOUT:
        with pytest.raises(ValueError, match="has no layer that weighs positions"), capture_attention(Around(layer)):
            pass
        return
    weights = captured(layer, torch.randn(1, 6, 4, 16))
    heat = weights.at(3, 2)
    assert heat.shape == (2, 6, 4) and heat.isfinite().all() and heat.abs().sum() > 0
    if name in ("softmax", "window", "grid", "cross_shaped", "bi_level_routing", "agent", "super_token"):
        assert (heat >= -1e-6).all() and heat.sum((1, 2)).max() < 1 + 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    """Capturing changes nothing; names are those of modules."""
    model = tiny(name)
    if name.startswith("van"):
        with pytest.raises(ValueError, match="VAN has no layer"), capture_attention(model):
            pass
        return
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        with capture_attention(model) as maps:
            during = model(images)
    torch.testing.assert_close(during, before, rtol=1e-3, atol=1e-4)
    assert maps and not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    seen = {type(weights.layer): weights for weights in maps.values()}
    for weights in seen.values():
        assert model.get_submodule(weights.name) is weights.layer
        heat = weights.at(weights.size[0] // 2, 0)
        assert heat.shape == (weights.num_heads, *weights.size) and heat.isfinite().all() and heat.any()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_models_of_timm():
    images = torch.randn(1, 3, 32, 48)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), depth=1, embed_dim=24, patch_size=8).eval()
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=(32, 48), depths=(2,), num_heads=(2,), embed_dim=16, window_size=4
    ).eval()
    with capture_attention(vit) as of_vit, capture_attention(swin) as of_swin, torch.no_grad():
        vit(images), swin(images)
    (weights,) = of_vit.values()
    assert weights.size == (4, 6) and weights.num_prefix_tokens == 1
    assert 0.5 < weights.of_token(0).sum((1, 2)).max() < 1  # the class token has a part
    plain, shifted = (weights.at(0, 0) for weights in of_swin.values())
    for heat, seen in ((plain, 4), (shifted, 2)):
        assert heat.shape == (2, 8, 12)
        torch.testing.assert_close(heat[:, :seen, :seen].sum((1, 2)), torch.ones(2))


def test_views_of_a_page_are_the_weights_of_all_queries():
    torch.manual_seed(0)
    weights = captured(GlobalAttention2d(8, 2), torch.randn(1, 3, 4, 8))
    mean, head = attention_views("attn", weights, [1])
    assert (mean.name, head.name) == ("attn: mean of heads", "attn: head 1") and mean.queries == (3, 4)
    for y, x in ((0, 0), (1, 3), (2, 1)):
        for view, heat in ((mean, weights.at(y, x).mean(0)), (head, weights.at(y, x)[1])):
            torch.testing.assert_close(view.heats[y * 4 + x], heat / heat.max())


def test_layers_that_reduce_the_map():
    """A query is the position of the smaller map that covers the one that was asked for."""
    torch.manual_seed(0)
    weights = captured(HaloAttention(16, 16, 2, 8, block_size=4, halo_size=1, stride=2), torch.randn(1, 8, 12, 16))
    assert weights.size == (8, 12) and weights.query_size == (4, 6)
    torch.testing.assert_close(weights.at(5, 9), weights.at(4, 8))
    rows, columns = (weights.at(5, 9).sum(0) != 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 7, 11)  # a block, and a halo of 1


def test_one_sentence_where_there_is_nothing():
    layer = Around(GlobalAttention2d(8, 2))
    with pytest.raises(ValueError, match="captured in evaluation mode"), capture_attention(layer.train()):
        pass
    with pytest.raises(ValueError, match="Around has no layer"), capture_attention(Around(ChannelAttention(8, 2))):
        pass
    weights = captured(GlobalAttention2d(8, 2), torch.randn(1, 3, 4, 8))
    with pytest.raises(IndexError, match="outside of the map of 3 x 4"):
        weights.at(3, 0)


def test_grids_are_fitted_to_the_shape_of_the_image():
    assert fitted_grid(24, 1.4) == (6, 4) and fitted_grid(24, 0.7) == (4, 6) and fitted_grid(7, 1.0) in ((1, 7), (7, 1))
