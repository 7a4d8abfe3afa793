"""What is special about IA-RED2: interpreters that drop patches, gathered tokens, and the reward."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F

from backbones.layers.selection import Kept
from backbones.models.iared2 import PolicyLoss

from .zoo import image, stir, tiny


def _choosy(**args) -> torch.nn.Module:
    """A model whose interpreters drop about half of the patches."""
    model = stir(tiny("iared2_s", **args))
    with torch.no_grad():
        for block in model.blocks:
            if block.interpreter is not None:
                block.interpreter.qk.bias.zero_()
    return model


def _by_definition(model, x: torch.Tensor) -> tuple[torch.Tensor, list, list]:
    """Tokens `(B, N, C)` after the last block, and scores and maps of the interpreters; nothing is gathered."""
    x, _ = model.embed(x)
    kept, scores, masks = torch.ones(x.shape[:2]), [], []
    for block in model.blocks:
        if block.interpreter is not None:
            heads, dim = block.interpreter.num_heads, x.shape[-1]
            z = F.layer_norm(x * kept[..., None], (dim,))
            q, k, _ = block.interpreter.qk(z).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            p = (q[:, :, :1] @ k.mT * (dim // heads) ** -0.5).sigmoid().mean(1)[:, 0] * kept
            kept = (p > 0.5).float()
            kept[:, 0] = 1
            scores.append(p)
            masks.append(kept.bool())
            x = x * kept[..., None]
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        pairs = (kept[:, :, None] * kept[:, None])[:, None] == 0
        weights = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(pairs, float("-inf")).softmax(-1)
        out = weights.masked_fill(pairs, 0) @ v
        x = x + block.attn.proj(out.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return x, scores, masks


@pytest.fixture
def gathered(monkeypatch):
    """How often tokens were gathered."""
    calls = []
    fewer = Kept.fewer

    def spy(self, mask, scores, gather, *args, **kwargs):
        calls.append(gather)
        return fewer(self, mask, scores, gather, *args, **kwargs)

    monkeypatch.setattr(Kept, "fewer", spy)
    return calls


def test_gathered_and_masked_tokens_are_the_definition(gathered):
    """Those of dropped patches too; the images keep different numbers."""
    model, x = _choosy(dtype=torch.float64), image(64, 96, batch=3).double()
    with torch.no_grad():
        expected, scores, masks = _by_definition(model, x)
        assert len({int(n) for n in masks[0].sum(1)}) > 1 and masks[1].sum() < masks[0].sum() < masks[0].numel()
        torch.testing.assert_close(model.forward_features(x), model.norm(expected))
        assert gathered == [True, True]
        found = model.selections(x)
    torch.testing.assert_close(model.forward_features(x), model.norm(expected))
    assert gathered[2:] == [False] * len(gathered[2:])
    for i, selection in enumerate(found):
        assert torch.equal(selection.tokens, masks[i // 2])
        torch.testing.assert_close(selection.scores, scores[i // 2])
        assert selection.map().shape == (3, 4, 6) and selection.pairs is None
    share = masks[1].double().mean(1)
    torch.testing.assert_close(found[-1].token_share.double(), share, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[-1].pair_share.double(), share**2, rtol=1e-6, atol=0)


def test_one_image_keeps_all_and_another_none():
    model, x = tiny("iared2_s"), image(64, 64, batch=2)
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[1, 1:] = False
    with torch.no_grad():
        model.blocks[0].interpreter.decide = lambda chosen, kept: mask
        model.blocks[2].interpreter.decide = lambda chosen, kept: mask
        features = model.forward_features(x)
    torch.testing.assert_close(model.forward_features(x), features)
    assert torch.equal(features[1, 1], features[1, 2]) and not torch.equal(features[0, 1], features[0, 2])


def test_curriculum():
    """Interpreters beyond the step score patches but drop none."""
    model = _choosy(cl_step=0)
    first, *_, last = model.selections(image())
    assert torch.equal(first.tokens, last.tokens) and not torch.equal(first.scores, last.scores)
    assert not first.tokens.all()
    with pytest.raises(ValueError, match="cl_step must be an interpreter from -1 to 1, not 2"):
        tiny("iared2_s", cl_step=2)
    with pytest.raises(ValueError, match="policy must be an interpreter from 0 to 1, not -1"):
        tiny("iared2_s", policy=-1)


@pytest.mark.parametrize("policy", [0, 1])
def test_reward_of_a_policy(policy):
    model = _choosy(num_classes=4, policy=policy, penalty=2.0).train()
    with torch.no_grad():
        greedy = copy.deepcopy(model).eval()
        greedy_logits, selections = greedy(image(batch=3)), greedy.selections(image(batch=3))
    logits, loss = model(image(batch=3))
    assert isinstance(loss, PolicyLoss)
    torch.testing.assert_close(loss.baseline_logits, greedy_logits)
    tokens = selections[2 * policy].tokens
    torch.testing.assert_close(loss.baseline_share, tokens[:, 1:].float().mean(1))
    labels = torch.tensor([int(logits[0].argmax()), int(greedy_logits[1].argmax()), 3])
    value = loss(logits, F.one_hot(labels, 4).float())
    assert torch.equal(value, loss(logits, labels))

    def reward(logits, share):
        right = logits.argmax(1) == labels
        return torch.stack([1 - s**2 if ok else torch.tensor(-2.0) for ok, s in zip(right, share)])

    advantage = reward(logits, loss.share) - reward(loss.baseline_logits, loss.baseline_share)
    torch.testing.assert_close(value, -(advantage * loss.log_prob).mean())
    if advantage.any():
        value.backward(retain_graph=True)
        grads = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert f"blocks.{2 * policy}.interpreter.qk.weight" in grads
        assert not any(n.startswith(("head.", f"blocks.{2 * policy + 1}.")) for n in grads)
    model.zero_grad()
    logits.sum().backward()
    policy_grad = model.blocks[2 * policy].interpreter.qk.weight.grad
    assert policy_grad is None or not policy_grad.any(), "what is drawn learns from its reward alone"


def test_files_of_deit_load():
    """The interpreters stay as they start; where they keep every patch, the model is DeiT."""
    theirs = timm.create_model(
        "deit_small_patch16_224", img_size=64, embed_dim=24, depth=4, num_heads=2, num_classes=3, mlp_ratio=2
    ).eval()
    overlay = {"state_dict": stir(theirs).state_dict(), "num_classes": 3}
    ours = tiny("iared2_s", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3)
    with torch.no_grad():
        for block in ours.blocks:
            if block.interpreter is not None:
                block.interpreter.qk.weight.zero_()
                block.interpreter.qk.bias.fill_(0.5)
        torch.testing.assert_close(ours(image()), theirs(image()), rtol=1e-4, atol=1e-4)
    assert all(selection.tokens.all() for selection in ours.selections(image()))
