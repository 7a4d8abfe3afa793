"""What is special to SG-Former: significance that one block finds and the next is guided by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.models import family_of, list_models
from backbones.models.sgformer.attention import HybridScaleAttention, SelfGuidedAttention, runs_of_ranks
from backbones.models.sgformer.model import sine_cosine

from .zoo import full_size, image, stir, tiny

MODELS = list_models("sgformer_*")


@pytest.mark.parametrize("name", MODELS)
def test_published_form(name):
    model = full_size(name)
    lengths = ((196, 56, 28), (49, 14, 7), (2, 1))
    for stage, reduction, runs in zip(model.stages, (8, 4, 2, 1), (*lengths, None), strict=True):
        assert stage.norm.eps == 1e-6
        for j, block in enumerate(stage.blocks):
            kind = GlobalAttention2d if reduction == 1 else SelfGuidedAttention if j % 2 else HybridScaleAttention
            assert type(block.attn) is kind and block.norm1.eps == block.norm2.eps == 1e-6
            if kind is HybridScaleAttention:
                assert (block.attn.reduction, block.attn.window_size, block.attn.norm.eps) == (reduction, 7, 1e-5)
            elif kind is SelfGuidedAttention:
                assert block.attn.run_lengths == runs


def _reference_hybrid(layer: HybridScaleAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One image `(H, W, C)`, head by head, position by position; the parameters in the authors' grouping."""
    height, width, dim = x.shape
    half, r, p = dim // 2, layer.reduction, layer.window_size
    heads, c = layer.num_heads // 2, half // (layer.num_heads // 2)
    q1, q2, k2, v2 = layer.qkv(x).split(half, -1)
    padded = F.pad(x, (0, 0, 0, -width % r, 0, -height % r)).permute(2, 0, 1)
    reduced = F.gelu(layer.norm(layer.reduce(padded[None])))[0].permute(1, 2, 0)
    k1, v1 = layer.kv(reduced).split(half, -1)
    out, significance = torch.zeros_like(x), x.new_zeros(height, width)
    for h in range(heads):
        part = slice(h * c, (h + 1) * c)
        weights = (q1[..., part].reshape(-1, c) @ k1[..., part].reshape(-1, c).T * c**-0.5).softmax(-1)
        out[..., part] = (weights @ v1[..., part].reshape(-1, c)).view(height, width, c)
        mean = weights.mean(0).view(k1.shape[:2]) / heads
        significance += mean.repeat_interleave(r, 0).repeat_interleave(r, 1)[:height, :width]
        for i in range(0, height, p):
            for j in range(0, width, p):
                window = (slice(i, i + p), slice(j, j + p))
                q, k, v = (t[window][..., part].reshape(-1, c) for t in (q2, k2, v2))
                weights = (q @ k.T * c**-0.5).softmax(-1)
                shape = x[window].shape[:2]
                out[window][..., half + h * c : half + (h + 1) * c] = (weights @ v).view(*shape, c)
                significance[window] += weights.sum(0).view(shape) / p**2 / heads
    return layer.proj(out + layer.lepe(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0)), significance


@pytest.mark.parametrize("size", [(4, 8), (5, 7), (2, 3)])
@torch.no_grad()
def test_hybrid_attention_matches_sums_over_windows(size):
    torch.manual_seed(0)
    layer = HybridScaleAttention(16, 4, 2, window_size=4).double()
    x = torch.randn(2, *size, 16, dtype=torch.float64)
    found = layer(x)
    expected = [torch.stack(parts) for parts in zip(*(_reference_hybrid(layer, one) for one in x))]
    torch.testing.assert_close(list(found), expected)


def _reference_guided(layer: SelfGuidedAttention, x: torch.Tensor, significance: torch.Tensor) -> torch.Tensor:
    """One image `(H, W, C)`, half of the heads sorted by rows and half by columns, as the paper has it."""
    height, width, dim = x.shape
    half, c, count = dim // 2, dim // layer.num_heads, height * width
    weights, biases = layer.kv.weight.split(half), layer.kv.bias.split(half)
    bounds = [0, count // 2, count] if len(layer.run_lengths) == 2 else [0, count // 4, count // 4 * 3, count]
    outs = []
    for part, (tokens, values) in enumerate([(x, significance), (x.transpose(0, 1), significance.T)]):
        tokens = tokens.reshape(count, dim)[values.reshape(count).argsort()]
        merged = []
        for layer_f, start, end in zip(layer.merge, bounds, bounds[1:]):
            runs = list(tokens[start:end].split(layer_f.in_features))
            for run in runs:
                missing = layer_f.in_features - len(run)
                run = torch.cat((run, run[-1:].expand(missing, -1)))
                merged.append((layer_f.weight[0, :, None] * run).sum(0) + layer_f.bias)
        merged = torch.stack(merged)
        k, v = (F.linear(merged, weights[i], biases[i]) for i in (part, 2 + part))
        q = layer.q(x).reshape(count, dim).split(half, -1)[part]
        for a, b, d in zip(q.split(c, -1), k.split(c, -1), v.split(c, -1)):
            outs.append((a @ b.T * c**-0.5).softmax(-1) @ d)
    out = torch.cat(outs, -1).view(height, width, dim)
    return layer.proj(out + layer.lepe(x.permute(2, 0, 1)[None])[0].permute(1, 2, 0))


@pytest.mark.parametrize(
    ("size", "lengths"), [((4, 8), (4, 2, 1)), ((5, 7), (4, 3, 2)), ((3, 5), (2, 1)), ((2, 2), (9, 4, 1))]
)
def test_guided_attention_and_gradients_match_the_paper(size, lengths):
    torch.manual_seed(0)
    layer = SelfGuidedAttention(8, 4, lengths).double()
    x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
    significance = torch.rand(2, *size, dtype=torch.float64)
    expected = torch.stack([_reference_guided(layer, *one) for one in zip(x, significance)])
    results = []
    for out in (layer(x, significance)[0], expected):
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_runs_at_the_published_size_take_every_position_once():
    for side, lengths, tokens in ((56, (196, 56, 28), 60), (28, (49, 14, 7), 60), (14, (2, 1), 147)):
        ranks = runs_of_ranks(side * side, lengths, torch.device("cpu"))
        assert torch.equal(torch.cat(ranks), torch.arange(side * side))
        assert sum(len(part) // length for part, length in zip(ranks, lengths)) == tokens


def test_significance_goes_to_the_next_block_alone():
    model = tiny("sgformer_s", depths=(4, 2, 2, 1))
    seen = []
    for block in model.stages[0].blocks:
        block.register_forward_hook(lambda module, args, out: seen.append((args[1], out[1])))
    model(image())
    (none, first), (guide, after), (again, second), (last_guide, last) = seen
    assert none is after is again is last is None
    assert guide is first and last_guide is second and first.shape == (2, 16, 16)


def test_position_table():
    table = sine_cosine(3, 5, 8)
    assert table.shape == (1, 3, 5, 8)
    for i, j in ((0, 0), (2, 4), (1, 3)):
        half = [torch.tensor([p, p / 100.0]) for p in (j, i)]
        expected = torch.cat([torch.cat((angle.sin(), angle.cos())) for angle in half])
        torch.testing.assert_close(table[0, i, j].float(), expected)
    model = tiny("sgformer_s", img_size=(64, 96))
    torch.testing.assert_close(model.stem.pos_embed, sine_cosine(16, 24, 16).float())


@torch.no_grad()
def test_position_table_is_resized_for_other_images_and_files():
    model = stir(tiny("sgformer_s"))
    table = model.stem.pos_embed.permute(0, 3, 1, 2)
    expected = F.interpolate(table, size=(24, 10), mode="bicubic").permute(0, 2, 3, 1)
    overlay = {"state_dict": model.state_dict()}
    other = tiny("sgformer_s", pretrained=True, pretrained_cfg_overlay=overlay, img_size=(96, 40))
    torch.testing.assert_close(other.stem.pos_embed, expected)
    x = image(96, 40)
    torch.testing.assert_close(other.stem(x), model.stem(x))


def test_own_keys_pass_the_conversion_unchanged():
    model = tiny("sgformer_s")
    own = model.state_dict()
    converted = family_of("sgformer_s").convert_checkpoint(own, model)
    assert converted.keys() == own.keys() and all(torch.equal(converted[key], own[key]) for key in own)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="reductions must be 8, 4, 2 or 1"):
        tiny("sgformer_s", reductions=(8, 4, 3, 1))
    with pytest.raises(ValueError, match="num_heads 1 must be even"):
        tiny("sgformer_s", num_heads=(1, 2, 2, 4))
