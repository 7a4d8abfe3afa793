"""What is special to TransNeXt and MoH-ViT: heads that tokens choose, and the loss that balances their use."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.attention.aggregated import AggregatedAttention, CosineAttention2d
from backbones.models import list_models
from backbones.models.moh import HeadRouter

from .zoo import full_size, image, stir, tiny


@pytest.mark.parametrize("name", list_models("*transnext_*"))
def test_published_form(name):
    model = full_size(name)
    for i, (stage, pooled) in enumerate(zip(model.stages, (7, 7, 7, None), strict=True)):
        side = 56 >> i
        assert stage.norm.eps == 1e-6
        for block in stage.blocks:
            attention = block.attn
            assert block.norm1.eps == block.norm2.eps == 1e-6
            assert attention.num_heads * 24 == stage.norm.normalized_shape[0]
            assert attention.rel_pos.trained_map == (side, side) and attention.bias_map is None
            if pooled is None:
                assert type(attention) is CosineAttention2d
            else:
                assert type(attention) is AggregatedAttention and attention.norm.eps == 1e-5
                assert attention.pooled_size((side, side)) == (pooled, pooled) and attention.window_size == 3


@pytest.mark.parametrize(
    "name, percent",
    [
        ("moh_transnext_small_75", 75),
        ("moh_transnext_small_80", 80),
        ("moh_transnext_base_75", 75),
        ("moh_transnext_base_50", 50),
    ],
)
def test_share_of_active_heads(name, percent):
    blocks = [block for stage in full_size(name).stages for block in stage.blocks]
    active = sum(block.router.num_shared + block.router.num_routed for block in blocks)
    assert 100 * active / sum(block.attn.num_heads for block in blocks) == pytest.approx(percent, abs=1)


@pytest.mark.parametrize("shared, routed", [(2, 3), (1, 2), (0, 2), (2, 4), (6, 0)])
def test_gates_by_their_definition(shared, routed):
    torch.manual_seed(0)
    router = stir(HeadRouter(8, 6, shared, routed)).double().train()
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    gates, loss = router(x)
    candidates, kept = 6 - shared, torch.zeros(6 - shared)
    probabilities = torch.zeros(6 - shared, dtype=torch.float64)
    for token, gate in zip(x.flatten(0, 2), gates.flatten(0, 2)):
        first = shared * (router.shared.weight @ token).softmax(0) if shared > 1 else torch.ones(shared).double()
        second = torch.zeros(0)
        if routed:
            p = (router.routed.weight @ token).softmax(0)
            mask = p >= p.sort(descending=True).values[routed - 1]
            second = routed * p * mask / (p * mask).sum()
            kept, probabilities = kept + mask, probabilities + p
        if shared and routed:
            weights = 2 * (router.balance.weight @ token).softmax(0)
            first, second = weights[0] * first, weights[1] * second
        torch.testing.assert_close(gate, torch.cat([first, second]))
        assert (gate > 0).sum() == shared + routed
    if not routed:
        assert loss is None
        return
    torch.testing.assert_close(loss, candidates**2 * (probabilities / 24 * kept / 24).mean())
    loss.backward()
    assert router.routed.weight.grad.abs().sum() > 0 or routed == candidates
    assert router.eval()(x)[1] is None


@pytest.mark.parametrize("shared, routed", [(3, 0), (1, 4), (5, -1), (5, 0)])
def test_heads_that_do_not_add_up_are_refused(shared, routed):
    with pytest.raises(ValueError, match=f"{shared} shared and {routed} routed"):
        HeadRouter(8, 4, shared, routed)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_load_balance_loss(checkpointing):
    """In training, and where it is asked for: the mean of the routers' losses, weighted, and its gradients."""
    name = "moh_transnext_base_50"
    plain, model = tiny(name).train(), tiny(name, balance_loss=0.5).train()
    model.load_state_dict(plain.state_dict())
    model.set_grad_checkpointing(checkpointing)
    losses = []
    for module in plain.modules():
        if isinstance(module, HeadRouter) and module.num_routed:
            module.register_forward_hook(lambda module, args, output: losses.append(output[1]))
    x = image()
    expected, (logits, loss) = plain(x), model(x)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(loss, 0.5 * torch.stack(losses).mean())
    (expected.square().sum() + 0.5 * torch.stack(losses).mean()).backward()
    (logits.square().sum() + loss).backward()
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, key=key: f"{key}: {text}")
    assert isinstance(model.eval()(x), torch.Tensor)


def test_position_biases_of_the_authors_detectors():
    """Of one image size, interpolated to others; at that size nothing changes."""
    model, dense = stir(tiny("transnext_tiny")), stir(tiny("transnext_tiny", bias_size=64))
    same, other = image(64, 64), image(96, 64)
    with torch.no_grad():
        torch.testing.assert_close(dense(same), model(same))
        assert not torch.allclose(dense(other), model(other), rtol=1e-3, atol=1e-3)


def test_pool_of_fixed_size():
    """Of a map of 24 x 24, 3 x 3 cells by ratio, 2 x 2 as asked; the last stage attends to all in both."""
    x = image(96, 96)
    with torch.no_grad():
        three, two = (stir(tiny("transnext_tiny", pool_size=size))(x) for size in (3, 2))
        torch.testing.assert_close(stir(tiny("transnext_tiny"))(x), three)
    assert not torch.allclose(two, three, rtol=1e-3, atol=1e-3)
