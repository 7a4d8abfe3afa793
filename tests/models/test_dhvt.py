"""What is special about DHVT: its stem, heads' tokens, and a feed-forward on the map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.models.dhvt import AggregationFeedForward, HeadInteractedAttention
from backbones.models.dhvt.model import OverlappingStem

from .zoo import image, stir, tiny


@pytest.mark.parametrize("patch_size, widths", [(2, [16]), (4, [8, 16]), (16, [2, 4, 8, 16])])
def test_stem(patch_size, widths):
    """GELU follows all convolutions but the last, and a single one."""
    torch.manual_seed(0)
    stem = stir(OverlappingStem(3, 16, patch_size)).eval()
    assert [conv.conv.out_channels for conv in stem.convs] == widths
    x = image(37, 50)
    y = stem.pre_affine.alpha * x + stem.pre_affine.beta
    for i, conv in enumerate(stem.convs):
        y = conv.norm(F.conv2d(y, conv.conv.weight, stride=2, padding=1))
        y = F.gelu(y) if i < len(widths) - 1 or len(widths) == 1 else y
    expected = stem.post_affine.alpha * y + stem.post_affine.beta
    with torch.no_grad():
        torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patch_size", [0, 1, 6])
def test_patches_are_powers_of_two(patch_size):
    with pytest.raises(ValueError, match=f"patch_size must be 2, 4, 8, ..., not {patch_size}"):
        tiny("dhvt_t", patch_size=patch_size)


def test_heads_tokens():
    torch.manual_seed(0)
    layer = stir(HeadInteractedAttention(12, 3)).eval()
    x = torch.randn(2, 7, 12)
    means = x.mean(1).view(2, 3, 4)
    heads = F.linear(means, layer.ht_proj.weight, layer.ht_proj.bias).view(2, 3, 3, 4)
    heads = F.gelu(F.layer_norm(heads, (4,), layer.ht_norm.weight, layer.ht_norm.bias, 1e-5)).view(2, 3, 12)
    tokens = torch.cat([x, heads + layer.pos_embed], 1)
    q, k, v = (part.unflatten(2, (3, 4)).transpose(1, 2) for part in layer.qkv(tokens).split(12, dim=2))
    out = layer.proj(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
    expected = out[:, :7].clone()
    expected[:, 0] += out[:, 7:].mean(1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_feed_forward():
    torch.manual_seed(0)
    layer = stir(AggregationFeedForward(8, 16)).eval()
    x = torch.randn(2, 1 + 3 * 5, 8)
    patches = x[:, 1:].transpose(1, 2).view(2, 8, 3, 5)
    hidden = F.gelu(layer.bn1(layer.conv1(patches)))
    hidden = F.gelu(layer.bn2(layer.conv2(hidden))) + hidden
    patches = layer.bn3(layer.conv3(hidden))
    gate = layer.excitation(F.gelu(layer.compress(patches.mean((2, 3)))))
    expected = torch.cat([(x[:, 0] * gate)[:, None], patches.flatten(2).transpose(1, 2)], 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, (3, 5)), expected, rtol=1e-4, atol=1e-5)


def test_without_norm_and_head_nothing_weights_the_last_class_token():
    """No parameter is left without a gradient, in features-only and dense models."""
    model = stir(tiny("dhvt_s"))
    whole = set(model.state_dict())
    with torch.no_grad():
        before = model.forward_intermediates(image(), indices=[2], intermediates_only=True)
        model.prune_intermediate_layers([2], prune_norm=True)
        after = model.forward_intermediates(image(), indices=[2], intermediates_only=True)
    assert torch.equal(before[0], after[0])
    gone = {key for key in whole - set(model.state_dict()) if key.startswith("blocks.2.")}
    assert gone == {f"blocks.2.mlp.{part}.{kind}" for part in ("compress", "excitation") for kind in ("weight", "bias")}
    assert gone <= model.pruned
