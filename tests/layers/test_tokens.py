"""Patches, class token, position embedding and the head of tokens against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.global_attention import TokenAttention
from backbones.layers.head import TokenHead
from backbones.layers.patch import PatchEmbed
from backbones.layers.tokens import ClassToken, PositionEmbedding


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_incomplete_patches_are_zero_padded():
    embed = PatchEmbed(3, 8, 4, norm_eps=1e-6)
    x = torch.randn(2, 3, 9, 7)
    padded = torch.zeros(2, 3, 12, 8)
    padded[..., :9, :7] = x
    patches = padded.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    expected = F.linear(patches, embed.conv1.weight.flatten(1), embed.conv1.bias)
    expected = F.layer_norm(expected, (8,), embed.norm.weight, embed.norm.bias, 1e-6)
    torch.testing.assert_close(embed(x).permute(0, 2, 3, 1), expected)
    assert type(PatchEmbed(3, 8, 4).norm) is torch.nn.Identity


def test_class_token_comes_first():
    token = ClassToken(8)
    x = torch.randn(2, 5, 8)
    assert torch.equal(token(x), torch.stack([torch.cat([token.token[0], image]) for image in x]))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_position_embedding(prefix, interpolation):
    embed = PositionEmbedding(8, (3, 4), prefix, interpolation)
    assert embed.table.shape == (1, prefix + 12, 8)
    x = torch.randn(2, prefix + 12, 8)
    assert torch.equal(embed(x, (3, 4)), x + embed.table)
    grid = embed.table[0, prefix:].T.view(1, 8, 3, 4)
    grid = F.interpolate(grid, size=(5, 2), mode=interpolation).flatten(2)[0].T
    x = torch.randn(2, prefix + 10, 8)
    expected = x + torch.cat([embed.table[0, :prefix], grid])
    torch.testing.assert_close(embed(x, (5, 2)), expected)
    embed.set_grid_size((5, 2))
    assert embed.grid_size == (5, 2) and embed.table.shape == (1, prefix + 10, 8) and embed.table.requires_grad
    torch.testing.assert_close(embed(x, (5, 2)), expected)


def test_position_embedding_of_half_precision_is_resized_in_single():
    embed = PositionEmbedding(8, (4, 4), dtype=torch.bfloat16)
    single = PositionEmbedding(8, (4, 4))
    single.load_state_dict(embed.state_dict())
    x = torch.zeros(1, 9, 8, dtype=torch.bfloat16)
    assert torch.equal(embed(x, (3, 3)), single(x.float(), (3, 3)).bfloat16())


@pytest.mark.parametrize("prefix", [0, 1])
def test_token_head(prefix):
    x = torch.randn(2, prefix + 6, 8)
    tokens = x[:, prefix:]
    pooled = {"avg": tokens.mean(1), "max": tokens.amax(1), "avgmax": (tokens.mean(1) + tokens.amax(1)) / 2, "": x}
    if prefix:
        pooled["token"] = x[:, 0]
    for pool, expected in pooled.items():
        head = TokenHead(8, 3, pool, prefix)
        torch.testing.assert_close(head(x, pre_logits=True), expected)
        torch.testing.assert_close(head(x), F.linear(expected, head.fc.weight, head.fc.bias))
    with pytest.raises(ValueError, match='must be "token".* not "catavgmax"'.replace('"catavgmax"', "'catavgmax'")):
        TokenHead(8, 3, "catavgmax")
    with pytest.raises(ValueError, match="needs a class token"):
        TokenHead(8, 3, "token", 0)


def test_token_attention():
    attention = TokenAttention(8, 2)
    x = torch.randn(2, 5, 8)
    q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in attention.qkv(x).split(8, dim=2))
    weights = (q @ k.mT / 2).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, (1, 4)), expected)
