"""What the repository's configs train with has the values of the authors' own: clipping, decay, rates, averages."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from timm.layers import DropPath
from torch import nn

from backbones.dense.costs import build_model
from backbones.features import BATCH_NORMS
from tests.openmmlab.test_config_values import load_config
from tests.openmmlab.test_configs import PATHS, STEPS

NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def _optimizer(name: str, model: nn.Module):
    """The optimiser wrapper of a config, without mixed precision, which is for GPUs."""
    options = load_config(name).optim_wrapper
    options.type = "OptimWrapper"
    for key in ("loss_scale", "dtype"):
        options.pop(key, None)
    return build_optim_wrapper(model, options)


def _clip_norm(name: str) -> float | None:
    """The authors' limit of the gradient's norm."""
    if "cascade-mask-rcnn_maxvit" in name:
        return 1.0
    for part, norm in (("mask2former", 0.01), ("sparse-rcnn", 1.0), ("dino-", 0.1)):
        if part in name:
            return norm
    return 0.1 if "emov2" in name and not any(key in name for key in ("segformer", "semantic-fpn")) else None


@pytest.mark.parametrize("name", PATHS)
def test_gradients_are_clipped_as_the_authors_do(name):
    layer = nn.Linear(4, 4)
    wrapper = _optimizer(name, layer)
    wrapper.backward(1e4 * layer(torch.ones(1, 4)).sum())
    before = nn.utils.get_total_norm([p.grad for p in layer.parameters()])
    wrapper.step()
    after = nn.utils.get_total_norm([p.grad for p in layer.parameters()])
    torch.testing.assert_close(after, before if _clip_norm(name) is None else torch.tensor(_clip_norm(name)))
    assert wrapper.optimizer.defaults.get("eps", 1e-8) == (1e-7 if "cascade-mask-rcnn_maxvit" in name else 1e-8)


def _groups(name: str) -> tuple[dict[str, tuple[float, float]], nn.Module]:
    """Learning rate and weight decay of every parameter, as shares of the optimiser's, and the network."""
    cfg = load_config(name)
    model = build_model(cfg, "meta")
    wrapper = _optimizer(name, model)
    lr, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"] / lr, group["weight_decay"] / decay)
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }, model


@pytest.mark.parametrize("name", [name for name in PATHS if "mask2former" in name])
def test_mask2former_decays_all_but_norms_and_embeddings(name):
    groups, model = _groups(name)
    expected = {}
    for prefix, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            # In the original, the level embedding of the pixel decoder is no nn.Embedding.
            embedding = isinstance(module, nn.Embedding) and "pixel_decoder" not in prefix
            free = isinstance(module, NORMS) or embedding
            expected[f"{prefix}.{key}"] = (0.1 if prefix.startswith("backbone.") else 1.0, 0.0 if free else 1.0)
    assert {key: pytest.approx(value) for key, value in groups.items()} == expected


@pytest.mark.parametrize(
    "name", [name for name in STEPS if re.search("/davit/|/l2vit/|cascade-mask-rcnn_maxvit", name)]
)
def test_configs_that_decay_everything(name):
    groups, _ = _groups(name)
    assert set(groups.values()) == {(1.0, 1.0)}


def test_retinanet_of_maxvit_decays_kernels_of_neck_and_heads():
    groups, model = _groups("detection/maxvit/retinanet_maxvit-b_fpn_32xb8-amp-72e_coco-640x640")
    for prefix, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            kernel = isinstance(module, nn.Conv2d) and key == "weight" and not prefix.startswith("backbone.")
            assert groups[f"{prefix}.{key}"] == (1.0, float(kernel)), f"{prefix}.{key}"


@pytest.mark.parametrize("name", [name for name in PATHS if "amp" in name and "maxvit" not in name])
def test_losses_are_scaled_as_mmcv_does(name):
    """Where the authors' configs name no scale, it was 512."""
    assert load_config(name).optim_wrapper.loss_scale == 512.0


@pytest.mark.parametrize("method", ["segformer", "semantic-fpn"])
def test_heads_of_emov2_learn_ten_times_as_fast(method):
    groups, _ = _groups(f"segmentation/emov2/{method}_emov2-1m_4xb8-160k_ade20k-512x512")
    for key, (lr, _) in groups.items():
        assert lr == pytest.approx(10.0 if key.startswith("decode_head.") else 1.0), key


def _rates(name: str, steps: int, by_epoch: int = 0) -> list[float]:
    """Learning rates of the first steps, as shares of the base; epochs of `by_epoch` steps."""
    cfg = load_config(name)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    with PARAM_SCHEDULERS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        schedulers = [registry.build(dict(options, optimizer=optimizer)) for options in cfg.param_scheduler]
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (by_epoch and step % by_epoch == by_epoch - 1):
                scheduler.step()
    return rates


@pytest.mark.parametrize("name", [name for name in STEPS if "-160k_ade20k" in name])
def test_rates_of_ade20k_fall_from_the_first_iteration(name):
    """By mmcv's rule, with which all but EMOv2 and Mask2Former were trained: the warm-up multiplies a linear decay."""
    rates = _rates(name, 3001)
    if "mask2former" in name:
        expected = [(1 - t / 160000) ** 0.9 for t in range(3001)]
    elif "emov2" in name:
        expected = [min(1e-6 + (1 - 1e-6) * t / 1499, 1.0) for t in range(3001)]
    else:
        expected = [(1 - t / 160000) * min(1e-6 + (1 - 1e-6) * t / 1499, 1.0) for t in range(3001)]
    assert rates == pytest.approx(expected, rel=1e-4)


def test_rates_of_semantic_fpn_are_a_cosine_from_the_first_iteration():
    rates = _rates("segmentation/transxnet/semantic-fpn_transxnet-t_8xb4-80k_ade20k-512x512", 40001)
    assert rates[500] == pytest.approx(0.1 + 0.9 * 500 / 999, rel=1e-3)
    for t in (1000, 20000, 40000):
        assert rates[t] == pytest.approx((1 + math.cos(math.pi * t / 80000)) / 2, rel=1e-4)


def test_rates_of_emov2s_detectors_fall_once_an_epoch():
    rates = _rates("detection/emov2/mask-rcnn_emov2-1m_fpn_4xb4-1x_coco", 12 * 600, by_epoch=600)
    assert rates[:2] == pytest.approx([1e-5, 1e-5 + (1 - 1e-5) / 499])
    assert len(set(rates[500:])) == 6
    expected = [1.0] * 7 + [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(1, 6)]
    assert rates[599::600] == pytest.approx(expected)


@pytest.mark.parametrize("name", [name for name in PATHS if "_davit-" in name or "_gcvit-" in name])
def test_davit_and_gcvit_train_as_published(name):
    """Stochastic depth, and for detectors warm-up and the two steps of the rate, in epochs of 100 iterations here."""
    rates = [
        module.drop_prob for module in build_model(load_config(name), "meta").modules() if isinstance(module, DropPath)
    ]
    assert max(rates) == pytest.approx(0.3 if "upernet" in name else 0.1 if "-1x_" in name else 0.2)
    if "upernet" in name:
        return
    epochs, steps, warmup = (12, (8, 11), 500) if "-1x_" in name else (36, (27, 33), 2500 if "gcvit" in name else 500)
    rates = _rates(name, 100 * epochs, by_epoch=100)
    for t, rate in enumerate(rates):
        stepped = 0.1 ** sum(t >= 100 * step for step in steps)
        assert rate == pytest.approx(stepped * min(0.001 + 0.999 * t / (warmup - 1), 1.0), rel=1e-4), t


@pytest.mark.parametrize("name", [name for name in PATHS if "/l2vit/" in name])
def test_stochastic_depth_of_l2vit(name):
    backbone = build_model(load_config(name), "meta").backbone
    base = 0.2 if "l2vit-b" in name else 0.1
    expected = 0.3 if "upernet" in name else base + (0.1 if "-3x_" in name else 0.0)
    assert max(m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)) == pytest.approx(expected)


AGENT_DROP_PATH = {
    "mask-rcnn_agent-pvt": {"t": 0.1, "s": 0.2, "m": 0.1, "l": 0.2},
    "retinanet_agent-pvt": {"t": 0.1, "s": 0.1, "m": 0.2, "l": 0.3},
    "semantic-fpn_agent-pvt": {"t": 0.1, "s": 0.1, "m": 0.2, "l": 0.1},
    "mask-rcnn_agent-swin": {"t": 0.1, "s": 0.1},
    "cascade-mask-rcnn_agent-swin": {"t": 0.1, "s": 0.1, "b": 0.4},
    "upernet_agent-swin": {"t": 0.3, "s": 0.3, "b": 0.5},
}


@pytest.mark.parametrize("name", [name for name in PATHS if "/agent/" in name])
def test_agent_attention_trains_as_published(name):
    """Agents a stage, stochastic depth, batch, rate, decay and shifts of windows."""
    method, size = name.rsplit("/", 1)[1].split("_")[:2]
    host, size = size.rsplit("-", 1)
    cfg = load_config(name)
    network = build_model(cfg, "meta")
    backbone = network.backbone.model
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert max(rates) == pytest.approx(AGENT_DROP_PATH[f"{method}_{host}"][size])
    pools = [stage.blocks[0].attn.pool_size for stage in backbone.stages if hasattr(stage.blocks[0].attn, "pool_size")]
    if host == "agent-pvt":
        assert pools == [(side, side) for side in (12, 16, 28, 28)]
        assert {module.map_size for module in network.modules() if hasattr(module, "pool_size")} == {
            (side, side) for side in (56, 28, 14, 7)
        }
    else:
        assert pools == [(side, side) for side in {"t": (9, 12, 14), "s": (9, 12), "b": (9, 12, 14)}[size]]
        assert backbone.stages[3].blocks[1].attn.shift == (3, 3)
        kinds = {type(block.attn).__name__ for block in backbone.stages[2].blocks[2:]}
        assert kinds == {"AgentAttention" if size == "t" else "ShiftedWindowAttention"}
    optimizer = cfg.optim_wrapper.optimizer
    coco = name.startswith("detection")
    if host == "agent-pvt":
        expected = (1e-4 if method == "retinanet" else 2e-4, 1e-4)
    else:
        expected = (1e-4, 0.05) if coco else (6e-5, 0.01)
    assert (optimizer.lr, optimizer.weight_decay) == expected
    assert cfg.auto_scale_lr.base_batch_size == 16
    if host == "agent-pvt":
        assert set(_groups(name)[0].values()) == {(1.0, 1.0)}


@pytest.mark.parametrize("name", [name for name in PATHS if "ssdlite" in name])
def test_ssdlite_sees_its_data_600_times(name):
    cfg = load_config(name)
    assert cfg.train_cfg.max_epochs * cfg.train_dataloader.dataset.times == 600
    rates = _rates(name, 120 * 10, by_epoch=10)[9::10]
    expected = [1.0] * 10 + [(1 + math.cos(math.pi * k / 60)) / 2 for k in range(60)]
    assert rates[50:] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("cascade-mask-rcnn_maxvit-s_fpn_32xb8-amp-lsj-116k_coco-896x896", 90000),
        ("cascade-mask-rcnn_maxvit-t_fpn_32xb8-amp-lsj-90k_coco-640x640", 115750),
    ],
)
def test_rates_of_maxvit_fall_from_the_first_iteration(name, length):
    rates = _rates(f"detection/maxvit/{name}", 9001)
    for t in (100, 3000, 6000, 9000):
        cosine = 0.03 + 0.97 * (1 + math.cos(math.pi * t / length)) / 2
        assert rates[t] == pytest.approx(cosine * min(t / 6000, 1.0), rel=2e-3)


def test_average_of_maxvits_weights_warms_up():
    """The share that stays is t / (9 + t) in update t, until that is 0.9998."""
    (options,) = load_config(
        "detection/maxvit/cascade-mask-rcnn_maxvit-t_fpn_32xb8-amp-lsj-90k_coco-896x896"
    ).custom_hooks
    hook = HOOKS.build(options)
    model = nn.Linear(1, 1, bias=False)
    hook.before_run(SimpleNamespace(model=model, logger=None))
    average = hook.ema_model
    for t, share in ((0, 0.0), (1, 1 / 10), (2, 2 / 11), (3, 3 / 12)):
        old = average.module.weight.item()
        with torch.no_grad():
            model.weight.fill_(10.0 * (t + 1))
        average.update_parameters(model)
        assert average.module.weight.item() == pytest.approx(share * old + (1 - share) * 10 * (t + 1))
    average.steps.fill_(10**6)
    old = average.module.weight.item()
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.9998 * old + 0.0002 * 40)
