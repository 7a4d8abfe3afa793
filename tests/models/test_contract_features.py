"""Intermediate maps: `forward_intermediates`, `prune_intermediate_layers`, `features_only`."""

from __future__ import annotations

import pytest
import torch

from .zoo import DISTINCT, ISOTROPIC, image, is_isotropic, stir, tiny


def _levels(model) -> range:
    return range(len(model.feature_info))


@pytest.mark.parametrize("name", DISTINCT)
def test_forward_intermediates(name):
    model = stir(tiny(name))
    x = image(64, 96)
    with torch.no_grad():
        expected = model.forward_features(x)
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, expected)
        assert len(maps) == len(model.feature_info)
        last = _levels(model)[-1]
        for indices, levels in {
            None: list(_levels(model)),
            1: [last],
            2: [last - 1, last],
            (0,): [0],
            (0, 2): [0, 2],
            (-1, 0): [last, 0],
            (-2,): [last - 1],
        }.items():
            asked = list(indices) if isinstance(indices, tuple) else indices
            final, chosen = model.forward_intermediates(x, indices=asked)
            assert torch.equal(final, expected)
            assert len(chosen) == len(levels) and all(torch.equal(m, maps[i]) for m, i in zip(chosen, levels))
            chosen = model.forward_intermediates(x, indices=asked, intermediates_only=True)
            assert isinstance(chosen, list)
            assert len(chosen) == len(levels) and all(torch.equal(m, maps[i]) for m, i in zip(chosen, levels))
        for wrong in (0, len(maps) + 1, [len(maps)], [-len(maps) - 1]):
            with pytest.raises((AssertionError, ValueError, IndexError)):
                model.forward_intermediates(x, indices=wrong)


@pytest.mark.parametrize("name", DISTINCT)
def test_intermediates_can_be_channels_last(name):
    model = stir(tiny(name))
    x = image(75, 50)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        known, unknown = ("NLC", "NHWC") if is_isotropic(model) else ("NHWC", "NLC")
        final_again, rows = model.forward_intermediates(x, output_fmt=known)
        assert torch.equal(final, final_again)
        for row, output in zip(rows, maps, strict=True):
            assert torch.equal(row, output.flatten(2).mT if known == "NLC" else output.permute(0, 2, 3, 1))
        with pytest.raises((AssertionError, ValueError), match="NCHW"):
            model.forward_intermediates(x, output_fmt=unknown)


@pytest.mark.parametrize("name", ISOTROPIC)
def test_prefix_tokens(name):
    """The final features are all tokens; those in front of the map are returned where they are asked for."""
    model = stir(tiny(name))
    prefix = model.num_prefix_tokens
    with torch.no_grad():
        final, plain = model.forward_intermediates(image(64, 96), norm=True)
        final_again, pairs = model.forward_intermediates(image(64, 96), norm=True, return_prefix_tokens=True)
    assert torch.equal(final, final_again)
    for output, (again, tokens) in zip(plain, pairs, strict=True):
        assert torch.equal(output, again)
        assert tokens.shape[1] in (0, prefix), "a class token may join late"
        assert tokens.shape[::2] == (2, model.num_features)
    assert torch.equal(torch.cat([tokens, output.flatten(2).mT], dim=1), final)


@pytest.mark.parametrize("name", DISTINCT)
def test_norm_touches_the_last_map_or_all(name):
    model = stir(tiny(name))
    x = image(64, 96)
    with torch.no_grad():
        final, plain = model.forward_intermediates(x)
        final_again, normed = model.forward_intermediates(x, norm=True)
        assert torch.equal(final, final_again)
        if is_isotropic(model):  # one norm fits all, as in timm
            channels_last = [output.permute(0, 2, 3, 1) for output in plain]
            normed_again = [model.norm(output).permute(0, 3, 1, 2) for output in channels_last]
            assert all(torch.equal(a, b) for a, b in zip(normed, normed_again, strict=True))
            return
        assert all(torch.equal(a, b) for a, b in zip(plain[:-1], normed[:-1], strict=True))
        if final.ndim == 3:  # tokens, those in front of the map first
            final = final[:, model.num_prefix_tokens :].unflatten(1, normed[-1].shape[2:]).permute(0, 3, 1, 2)
        assert torch.equal(normed[-1], final)
        # without a final norm (some models norm after pooling) both are the same
        norms = [*model.norm.parameters(), *model.stages[-1].norm.parameters()]
        assert torch.equal(plain[-1], final) == (not norms)


@pytest.mark.parametrize("name", DISTINCT)
def test_stopping_early_skips_later_stages(name):
    model = stir(tiny(name))
    ran: list[int] = []
    for i, info in enumerate(model.feature_info):
        model.get_submodule(info["module"]).register_forward_hook(lambda *_, i=i: ran.append(i))
    x = image()
    with torch.no_grad():
        _, maps = model.forward_intermediates(x)
        for level in _levels(model):
            ran.clear()
            final, (only,) = model.forward_intermediates(x, indices=[level], stop_early=True)
            assert max(ran) == level
            assert torch.equal(only, maps[level])
            if level < _levels(model)[-1] and not is_isotropic(model):
                assert torch.equal(final, only)
            ran.clear()
            model.forward_intermediates(x, indices=[level], intermediates_only=True, stop_early=True)
            assert max(ran) == level
        ran.clear()
        model.forward_intermediates(x, indices=[0])
        assert max(ran) == _levels(model)[-1], "without stop_early the final features are wanted"


@pytest.mark.parametrize("name", DISTINCT)
def test_pruned_models_keep_their_maps_and_no_idle_parameters(name):
    x = image()
    whole = stir(tiny(name))
    last = _levels(whole)[-1]
    with torch.no_grad():
        final, maps = whole.forward_intermediates(x)
    cases = [([i], prune_norm) for i in _levels(whole) for prune_norm in (False, True)]
    for indices, prune_norm in [*cases, ([0, 2], False), (2, True), ([-1], False)]:
        pruned = stir(tiny(name, drop_rate=0.5))
        levels = pruned.prune_intermediate_layers(indices, prune_norm=prune_norm)
        expected = list(range(last + 1 - indices, last + 1)) if isinstance(indices, int) else indices
        assert [level % (last + 1) for level in expected] == list(levels)
        with torch.no_grad():
            kept = pruned.forward_intermediates(x, indices=levels, intermediates_only=True)
            assert all(torch.equal(k, maps[i]) for k, i in zip(kept, levels, strict=True))
            if max(levels) == last and not prune_norm:
                assert torch.equal(pruned.forward_features(x), final)
            assert torch.equal(pruned(x), pruned(x)), "new parts must inherit evaluation mode"

        pruned.train()
        # Where the norm stays, so does what leads to the class token.
        prefix = {"return_prefix_tokens": True} if is_isotropic(pruned) and not prune_norm else {}
        outputs = pruned.forward_intermediates(
            x, indices=levels, norm=not prune_norm, intermediates_only=True, **prefix
        )
        outputs = [part for pair in outputs for part in pair] if prefix else outputs
        sum(output.square().sum() for output in outputs).backward()
        assert not [n for n, p in pruned.named_parameters() if p.grad is None]

        width = pruned.feature_info[max(levels)]["num_chs"]
        pruned.reset_classifier(7, "avg")
        assert pruned.num_features == width and pruned.get_classifier().in_features == pruned.head_hidden_size == width
        assert pruned.eval()(x).shape == (2, 7)


@pytest.mark.parametrize("name", DISTINCT)
def test_pruning_can_keep_the_head(name):
    model = stir(tiny(name, num_classes=5))
    with torch.no_grad():
        expected = model(image())
        model.prune_intermediate_layers([-1], prune_head=False)
        assert torch.equal(model(image()), expected)


@pytest.mark.parametrize("name", DISTINCT)
def test_features_only(name):
    whole = stir(tiny(name))
    channels = [info["num_chs"] for info in whole.feature_info]
    reductions = [info["reduction"] for info in whole.feature_info]
    for height, width in ((64, 96), (75, 50)):
        x = image(height, width)
        with torch.no_grad():
            maps = whole.forward_intermediates(x, intermediates_only=True)
        for out_indices in (None, (0,), (1, 3), (0, 1, 2), (-1,), (-2, -1), 2):
            chosen = {} if out_indices is None else {"out_indices": out_indices}
            net = stir(tiny(name, features_only=True, **chosen)).eval()
            levels = list(range(-out_indices, 0)) if isinstance(out_indices, int) else list(out_indices or range(4))
            assert net.feature_info.channels() == [channels[i] for i in levels]
            assert net.feature_info.reduction() == [reductions[i] for i in levels]
            with torch.no_grad():
                outputs = net(x)
            assert [o.shape for o in outputs] == [maps[i].shape for i in levels]


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 2), (0,)])
def test_features_only_has_the_weights_of_the_whole_and_trains_them_all(name, out_indices):
    whole = stir(tiny(name))
    net = tiny(name, features_only=True, out_indices=out_indices).train()
    missing, _ = net.model.load_state_dict(whole.state_dict(), strict=False)
    assert not missing, "a feature extractor has no parameters of its own"
    x = image(64, 96)
    with torch.no_grad():
        outputs = net.eval()(x)
        expected = whole.forward_intermediates(x, indices=list(out_indices), intermediates_only=True)
    assert all(torch.equal(o, e) for o, e in zip(outputs, expected, strict=True))
    sum(output.square().sum() for output in net.train()(x)).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", DISTINCT)
def test_features_only_with_gradient_checkpointing(name):
    gradients = []
    for enable in (False, True):
        net = stir(tiny(name, features_only=True)).train()
        net.model.set_grad_checkpointing(enable)
        sum(output.square().mean() for output in net(image())).backward()
        gradients.append({n: p.grad for n, p in net.named_parameters()})
    for n, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][n], gradient, msg=lambda text, n=n: f"{n}: {text}")
