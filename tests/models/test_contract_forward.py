"""What goes in and what comes out: sizes, channels, heads, memory formats, dtypes, batches."""

from __future__ import annotations

import pytest
import torch
from timm.utils.model import reparameterize_model
from torch import nn

from backbones.models import family_of

from .zoo import DISTINCT, SIZES, image, stir, tiny


@pytest.mark.parametrize("name", DISTINCT)
def test_runs_at_any_size(name):
    model = stir(tiny(name, num_classes=7))
    with torch.no_grad():
        for height, width in SIZES:
            final, maps = model.forward_intermediates(image(height, width, batch=1))
            logits = model.forward_head(final)
            assert logits.shape == (1, 7) and logits.isfinite().all()
            for info, output in zip(model.feature_info, maps, strict=True):
                assert output.shape[:2] == (1, info["num_chs"])
                # A stride-s layer gives floor(n / s) or ceil(n / s) positions, and so does a chain of them.
                for side, got in zip((height, width), output.shape[2:]):
                    assert side // info["reduction"] <= got <= -(-side // info["reduction"]), (height, width, info)


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("channels", [1, 4])
def test_other_image_channels(name, channels):
    model = tiny(name, in_chans=channels)
    assert model.in_chans == channels
    for conv in family_of(name).first_convs:
        assert model.get_submodule(conv).weight.shape[1] == channels
    assert model(image(channels=channels)).isfinite().all()


@pytest.mark.parametrize("name", DISTINCT)
def test_classifier_can_be_left_out_replaced_and_removed(name):
    x = image(64, 96)
    model = tiny(name)
    width = model.head_hidden_size
    features = model.forward_features(x)
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (2, width)
    torch.testing.assert_close(model.get_classifier()(pre_logits), model(x))
    torch.testing.assert_close(model.forward_head(features), model(x))

    without = tiny(name, num_classes=0)
    assert without.num_classes == 0 and isinstance(without.get_classifier(), nn.Identity)
    assert without.head_hidden_size == width and without(x).shape == (2, width)
    unpooled = tiny(name, num_classes=0, global_pool="")
    shape = (2, width, *features.shape[2:]) if features.ndim == 4 else (*features.shape[:2], width)
    assert unpooled(x).shape == shape

    model.train().reset_classifier(7)
    assert model.num_classes == 7 and model.get_classifier().training
    model.eval()
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), pre_logits)
    model.reset_classifier(0)
    assert model.num_classes == 0 and isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(x), pre_logits)
    model.reset_classifier(0, "")
    assert model(x).shape == shape
    model.reset_classifier(5, "max")
    assert model(x).shape == (2, 5)


@pytest.mark.parametrize("name", DISTINCT)
def test_pooling(name):
    pooled = {}
    x = image(96, 64)
    for pool in ("avg", "max"):
        model = stir(tiny(name, global_pool=pool, num_classes=0))
        pooled[pool] = model(x)
        model.reset_classifier(3)
        assert model.head.global_pool.pool_type == pool, "the pooling stays unless another one is asked for"
        model.reset_classifier(0, "avg")
        torch.testing.assert_close(model(x), pooled["avg"])
    assert not torch.allclose(pooled["avg"], pooled["max"])


@pytest.mark.parametrize("name", DISTINCT)
def test_concatenated_pooling_works_or_is_refused(name):
    try:
        model = tiny(name, global_pool="catavgmax", num_classes=4)
    except (AssertionError, ValueError):
        with pytest.raises((AssertionError, ValueError)):
            tiny(name).reset_classifier(4, "catavgmax")
        return
    assert model(image()).shape == (2, 4)
    assert model.forward_head(model.forward_features(image()), pre_logits=True).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("regulariser", ["drop_rate", "drop_path_rate"])
def test_dropout_and_stochastic_depth_act_in_training_only(name, regulariser):
    x = image(batch=8)
    with torch.no_grad():
        plain = stir(tiny(name)).train()
        assert torch.equal(plain(x), plain(x)), "without regularisers training mode is deterministic"
        model = stir(tiny(name, **{regulariser: 0.5})).train()
        assert not torch.equal(model(x), model(x))
        # stochastic depth acts before pooling, dropout of the head only after it
        same = torch.equal(model.forward_features(x), model.forward_features(x))
        assert same == (regulariser == "drop_rate")
        model.eval()
        assert torch.equal(model(x), model(x))
        torch.testing.assert_close(stir(tiny(name))(x), stir(tiny(name, **{regulariser: 0.5}))(x))


@pytest.mark.parametrize("name", DISTINCT)
def test_samples_do_not_see_each_other(name):
    model = stir(tiny(name, dtype=torch.float64))
    with torch.no_grad():
        for height, width in ((64, 96), (75, 50)):
            x = image(height, width, batch=3).double()
            alone = torch.cat([model.forward_features(x[i : i + 1]) for i in range(3)])
            torch.testing.assert_close(model.forward_features(x), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DISTINCT)
def test_memory_format_does_not_matter(name):
    model = stir(tiny(name, dtype=torch.float64))
    with torch.no_grad():
        for height, width in ((64, 96), (75, 50)):
            x = image(height, width).double()
            expected = model.forward_features(x)
            rows_last = x.to(memory_format=torch.channels_last)
            torch.testing.assert_close(model.forward_features(rows_last), expected, rtol=1e-9, atol=1e-9)
            flipped = x.flip(3).clone().flip(3)
            strided = torch.stack([x, x], dim=-1)[..., 0]
            torch.testing.assert_close(model.forward_features(flipped), expected, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(model.forward_features(strided), expected, rtol=1e-9, atol=1e-9)
    moved = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved.forward_features(rows_last), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DISTINCT)
def test_every_input_pixel_is_seen(name):
    """At odd sizes nothing is lost but, in published models that do not pad, an incomplete last patch."""
    model = stir(tiny(name))
    stride = model.feature_info[0]["reduction"]
    for height, width in ((33, 47), (75, 50)):
        x = image(height, width, batch=1).requires_grad_()
        sum(output.square().sum() for output in model.forward_intermediates(x, intermediates_only=True)).backward()
        seen = x.grad.abs().sum(dim=(0, 1)) > 0
        assert seen[: height - height % stride, : width - width % stride].all()


@pytest.mark.parametrize("name", DISTINCT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_factory_dtype(name, dtype):
    model = tiny(name, device="cpu", dtype=dtype)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [n for n, t in tensors if t.is_floating_point() and t.dtype != dtype]
    final, maps = model.forward_intermediates(image(75, 50).to(dtype))
    logits = model.forward_head(final)
    assert all(t.dtype == dtype and t.isfinite().all() for t in (*maps, logits))


@pytest.mark.parametrize("name", DISTINCT)
def test_double_precision_agrees_with_single(name):
    model = stir(tiny(name))
    with torch.no_grad():
        single = model(image(33, 47))
        double = model.double()(image(33, 47).double())
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-3 * double.abs().max().item())
    assert model.float()(image(33, 47)).dtype == torch.float32, "no cached tensor may keep the dtype before"


@pytest.mark.parametrize("name", DISTINCT)
def test_inference_mode_leaves_nothing_behind(name):
    """Tables that are cached in a first pass must serve a later training step."""
    model = tiny(name, num_classes=3)
    with torch.inference_mode():
        expected = model(image(56, 72)).clone()
    actual = model(image(56, 72))
    torch.testing.assert_close(actual, expected.clone())
    actual.sum().backward()


@pytest.mark.parametrize("name", DISTINCT)
def test_merged_form_is_the_same_function(name):
    model = stir(tiny(name, num_classes=5), std=0.05)
    with torch.no_grad():
        expected = model(image(64, 96))
        merged = reparameterize_model(model)
        torch.testing.assert_close(merged(image(64, 96)), expected, rtol=1e-3, atol=1e-4)
