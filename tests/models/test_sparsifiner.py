"""What is special about Sparsifiner: predictors of attention, dropped tokens, and the form of LV-ViT."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F

from backbones.layers.selection import Kept
from backbones.models import family_of
from backbones.train.loop.losses import TrainingLoss

from .zoo import image, stir, tiny

DEIT = {
    "conv_stem": False,
    "skip_lam": 1.0,
    "qkv_bias": True,
    "norm_eps": 1e-6,
    "mlp_ratio": 4.0,
    "global_pool": "token",
}
PRUNED = {"token_pruning_loc": (1, 3), "token_keep_rate": 0.5}


def _tiny(**args) -> torch.nn.Module:
    """The form of DeiT."""
    return tiny("sparsifiner_s", **{**DEIT, **args})


def _predicted(predictor, q: torch.Tensor, k: torch.Tensor, budget: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate and pairs of queries and keys `(B, heads, N, c)`, by the definition in evaluation."""
    q, k = predictor.proj_c_q(q), predictor.proj_c_k(k)
    coefficients = ((q @ (k.mT @ predictor.proj_n)) * q.shape[1] ** -0.5)[:, :, 1:].softmax(-1)
    smallest = coefficients.topk(predictor.coef_topk).values[..., -1:]
    coefficients = coefficients.where(coefficients >= smallest, 0)
    basis = predictor.proj_back_n.abs()
    estimate = coefficients @ basis.where(basis > predictor.basis_threshold, 0).T
    least = estimate.topk(budget).values[..., -1:]
    pairs = torch.cat([torch.ones_like(estimate[:, :, :1], dtype=torch.bool), estimate >= least], 2)
    return estimate, pairs


def test_attention_is_its_definition():
    model = stir(_tiny(dtype=torch.float64))
    attention = model.blocks[0].attn
    x = torch.randn(2, 17, 32, dtype=torch.float64)
    q, k, v = attention.qkv(x).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    expected, pairs = _predicted(attention.mask_predictor, q, k, 5)
    estimate, weights = attention.attention(x, (4, 4))
    torch.testing.assert_close(estimate.attention, expected)
    assert torch.equal(estimate.pairs, pairs)
    torch.testing.assert_close(weights, (q @ k.mT / 4).masked_fill(~pairs, float("-inf")).softmax(-1))
    out, _ = attention(x, (4, 4), Kept())
    torch.testing.assert_close(out, attention.proj((weights @ v).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("args", [{}, {"share_inout_proj": True}, {"prune_attn_matrix_row": True}])
def test_gathered_tokens_are_the_masked_ones(args):
    """At the class token, which sees dropped patches as keys of zero, too; dropped tokens are zero."""
    model = stir(_tiny(dtype=torch.float64, **PRUNED, **args))
    x = image(64, 96, batch=3).double()
    masked = [output.detach() for output in model.forward_intermediates(x, intermediates_only=True)]
    with torch.no_grad():
        gathered = model.forward_intermediates(x, intermediates_only=True)
        tokens, grid = model.embed(x)
        kept = model.begin()
        for i in range(4):
            tokens, kept = model.forward_block(i, tokens, grid, kept)
    assert tokens.shape == (1, 3 * (1 + 12), 32), "half of 24 patches are left"
    for a, b in zip(gathered, masked, strict=True):
        torch.testing.assert_close(a, b)
    found = model.selections(x)
    assert [selection.tokens.sum(1).tolist() for selection in found] == [[25] * 3] * 4, "the last block decides last"
    assert model.forward_kept(x)[1].sum(1).tolist() == [13] * 3
    assert (masked[3].abs().sum(1) > 0).sum((1, 2)).tolist() == [12] * 3


def test_what_is_looked_at():
    model = stir(_tiny(token_pruning_loc=(1,), token_keep_rate=0.5))
    model.blocks[1].attn.keep_tokens = 0.25
    found = model.selections(image())
    assert [selection.tokens.sum(1).tolist() for selection in found] == [[17, 17], [17, 17], [5, 5], [5, 5]]
    assert found[0].scores is None and found[2].scores.shape == (2, 17)
    pairs = found[0].pairs.sum(-1)
    assert (pairs[:, :, 0] == 17).all() and (pairs[:, :, 1:] == 5).all(), "a quarter of 17 tokens, rounded up"
    torch.testing.assert_close(found[0].pair_share, torch.full((2,), (17 + 16 * 5) / 17**2))
    assert found[3].map(found[3].pairs[:, 0, 3]).shape == (2, 4, 4)
    kept = found[2].tokens[:, 1:]
    best = found[2].scores[:, 1:].topk(4).indices
    assert torch.equal(kept, torch.zeros_like(kept).scatter(1, best, True))


def test_thresholds_may_leave_queries_without_keys():
    model = stir(_tiny(attn_keep_rate=0.0, attn_score_threshold=100.0))
    with torch.no_grad():
        found = model.selections(image())
        assert not found[0].pairs[:, :, 1:].any() and found[0].pairs[:, :, 0].all()
        assert model(image()).isfinite().all()
    model(image()).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_predictors_learn_by_reconstruction():
    """Only they do by it; the output is the dense model's, and the loss goes with that of the labels."""
    model = stir(_tiny(num_classes=3, reconstruct=True, recon_weight=0.5), std=0.1).train()
    dense = stir(_tiny(num_classes=3, attn_keep_rate=1.0), std=0.1)
    logits, loss = model(image())
    torch.testing.assert_close(logits, dense(image()))
    loss.backward(retain_graph=True)
    assert {".mask_predictor." in n for n, p in model.named_parameters() if p.grad is not None} == {True}
    total = 0
    pairs = dense.forward_intermediates(image(), return_prefix_tokens=True, intermediates_only=True)
    tokens = [dense.embed(image())[0], *(torch.cat([prefix, x.flatten(2).mT], 1) for x, prefix in pairs)]
    for block, x in zip(model.blocks, tokens):
        estimate, weights = block.attn.attention(block.norm1(x), (4, 4))
        total = total + (estimate.attention - weights[:, :, 1:]).square().sum()
    torch.testing.assert_close(loss, 0.5 * total / 4)
    labels = torch.tensor([0, 2])
    value, main = TrainingLoss(torch.nn.CrossEntropyLoss())((logits, loss), labels, None)
    assert torch.equal(main, logits)
    torch.testing.assert_close(value, F.cross_entropy(logits, labels) + loss)
    assert isinstance(model.eval()(image()), torch.Tensor)


def test_predictors_do_not_change_the_gradients_of_the_others():
    models = [stir(_tiny(num_classes=3, global_pool="avg")).train() for _ in range(2)]
    for name, parameter in models[1].named_parameters():
        parameter.requires_grad_(".mask_predictor." not in name)
    for model in models:
        model(image()).square().mean().backward()
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if b.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, msg=name)
        else:
            assert a.grad.any() and b.grad is None, name


def test_files_of_deit_load():
    """Where queries attend to all keys, the model is DeiT."""
    theirs = timm.create_model(
        "deit_small_patch16_224", img_size=64, embed_dim=32, depth=4, num_heads=2, num_classes=3
    ).eval()
    overlay = {"state_dict": stir(theirs).state_dict(), "num_classes": 3}
    ours = _tiny(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, attn_keep_rate=1.0)
    with torch.no_grad():
        torch.testing.assert_close(ours(image()), theirs(image()), rtol=1e-4, atol=1e-4)


def test_files_with_shared_projections_load():
    """They have the one table under both names."""
    shared = stir(_tiny(share_inout_proj=True))
    state = dict(shared.state_dict())
    state |= {key.replace("proj_n", "proj_back_n"): value for key, value in state.items() if key.endswith("proj_n")}
    other = _tiny(share_inout_proj=True)
    other.load_state_dict(family_of("sparsifiner_s").convert_checkpoint(state, other))
    with torch.no_grad():
        assert torch.equal(other(image()), shared(image()))


def test_weights_of_another_size_load():
    small = stir(_tiny(num_classes=3))
    overlay = {"state_dict": copy.deepcopy(small.state_dict()), "num_classes": 3}
    large = _tiny(img_size=(96, 128), pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    predictor = large.blocks[0].attn.mask_predictor
    assert predictor.proj_n.shape == predictor.proj_back_n.shape == (1 + 6 * 8, 6)
    torch.testing.assert_close(
        predictor.proj_n[1:].sum(), small.blocks[0].attn.mask_predictor.proj_n[1:].sum(), rtol=0.5, atol=0.1
    )
    x = image(96, 128)
    with torch.no_grad():
        torch.testing.assert_close(large(x), small(x))
        small.set_input_size(img_size=(96, 128))
        assert small.blocks[0].attn.mask_predictor.grid_size == (6, 8)
        torch.testing.assert_close(large(x), small(x))


def test_stem_of_lv_vit():
    stem = stir(tiny("sparsifiner_lvvit_s").stem).eval()
    x = image(64, 96)
    y = F.relu(stem.bn1(F.conv2d(x, stem.conv1.weight, stride=2, padding=3)))
    y = F.relu(stem.bn2(F.conv2d(y, stem.conv2.weight, padding=1)))
    y = F.relu(stem.bn3(F.conv2d(y, stem.conv3.weight, padding=1)))
    expected = F.conv2d(y, stem.proj.weight, stem.proj.bias, stride=8)
    with torch.no_grad():
        torch.testing.assert_close(stem(x), expected, rtol=1e-3, atol=1e-3)


def test_form_of_lv_vit():
    model = stir(tiny("sparsifiner_lvvit_s", aux_head=True, global_pool="token", num_classes=3), std=0.05)
    x = image(70, 100)
    with torch.no_grad():
        tokens = model.forward_features(x)
        assert tokens.shape == (2, 1 + 5 * 7, 32)
        votes = model.head.aux_fc(tokens[:, 1:]).amax(1)
        torch.testing.assert_close(model(x), model.head.fc(tokens[:, 0]) + 0.5 * votes)
        block, kept = model.blocks[0], Kept()
        before = torch.randn(1, 17, 32)
        y = before + block.attn(block.norm1(before), (4, 4), kept)[0] / 2
        torch.testing.assert_close(block(before, (4, 4), kept)[0], y + block.mlp(block.norm2(y)) / 2)
        model.reset_classifier(7)
        assert model.head.aux_fc.out_features == 7 and model(x).shape == (2, 7)
        model.reset_classifier(0)
        assert model.head.aux_fc is None and model(x).shape == (2, 32)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"attn_keep_rate": 0.0}, "give attn_keep_rate, above 0 and at most 1, or attn_score_threshold"),
        ({"attn_score_threshold": 0.1}, "give attn_keep_rate, above 0 and at most 1, or attn_score_threshold"),
        ({"basis_coef_topk": 7}, "basis_coef_topk 7 must be at most num_basis 6"),
        ({"token_keep_rate": 0.0}, "token_keep_rate must be above 0"),
    ],
)
def test_options_that_do_not_go_together(args, sentence):
    with pytest.raises(ValueError, match=sentence):
        _tiny(**args)
