"""BiFormer and its attention operators against what the authors' code computes."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from backbones.dense import DenseBackbone
from backbones.layers.attention.global_attention import GlobalAttention2d
from backbones.layers.attention.routing import BiLevelRoutingAttention
from backbones.models import family_of
from tests.parity.parity import load, make_input, official_state_dict, worst_error

FIXTURES = Path(__file__).parent / "fixtures" / "biformer"
TOLERANCE = 1e-5
NAMES = {
    "biformer_tiny": "biformer_t",
    "biformer_small": "biformer_s",
    "biformer_base": "biformer_b",
    "biformer_stl": "biformer_stl",
    "biformer_stl_nchw": "biformer_stl_nchw",
}
PARAMETERS = {
    "biformer_t": 13_142_760,
    "biformer_s": 25_536_232,
    "biformer_b": 56_804_968,
    "biformer_stl": 28_372_552,
    "biformer_stl_nchw": 28_372_552,
}
CLASSIFIERS = sorted(p.name.removesuffix(".json.gz") for p in FIXTURES.glob("biformer_*") if "-" not in p.name)
DENSE = sorted(p.name.removesuffix(".json.gz") for p in FIXTURES.glob("*-dense.json.gz"))
OPERATORS = load(FIXTURES / "bra-op.json.gz")


@pytest.mark.parametrize("fixture_name", CLASSIFIERS)
@torch.inference_mode()
def test_classification(fixture_name):
    fixture = load(FIXTURES / f"{fixture_name}.json.gz")
    overlay = {"state_dict": official_state_dict(fixture)}
    model = timm.create_model(NAMES[fixture_name], pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert sum(p.numel() for p in model.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"])
        assert worst_error(run["logits"], model(x)) < TOLERANCE
        maps = model.forward_intermediates(x, intermediates_only=True)
        for expected, got in zip(run["features"], maps, strict=True):
            assert worst_error(expected, got) < TOLERANCE


# Single precision itself errs by 2e-5 here: activations double every other block, the largest reach 25 deviations, and
# oneDNN adds the 9 * C terms of a channels-last convolution in one chain. Double precision pins the function.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, TOLERANCE), (torch.float32, 3 * TOLERANCE)])
@pytest.mark.parametrize("fixture_name", DENSE)
@torch.inference_mode()
def test_dense(fixture_name, dtype, tolerance):
    fixture = load(FIXTURES / f"{fixture_name}.json.gz")
    backbone = DenseBackbone(NAMES[fixture_name.removesuffix("-dense")], n_win=fixture["config"]["n_win"]).eval()
    backbone.load_state_dict(backbone.convert_checkpoint(official_state_dict(fixture)))
    backbone.to(dtype)
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        x = make_input(run["input"]).to(dtype)
        for expected, got in zip(run["features"], backbone(x), strict=True):
            assert worst_error(expected, got) < tolerance
        for expected, got in zip(run["stages"], backbone.model.forward_stages(x), strict=True):
            assert worst_error(expected, got) < tolerance


def _operator(name: str) -> nn.Module:
    """Our layer for the authors' operator, from the fixture's constructor arguments."""
    config = OPERATORS["config"][name]
    dim, heads = config["dim"], config["num_heads"]
    if name.startswith("full"):
        lepe_input = "v" if name.endswith("nchw") else "x"
        return GlobalAttention2d(dim, heads, config["qkv_bias"], config.get("side_dwconv", 0), lepe_input)
    return BiLevelRoutingAttention(
        dim,
        heads,
        config["n_win"],
        config["topk"],
        qk_dim=config.get("qk_dim"),
        lepe_kernel=config["side_dwconv"],
        pad="qkv" if name == "nchw" else "input",
        kv_pool=nn.AdaptiveAvgPool2d(config["kv_per_win"]) if "kv_per_win" in config else None,
        soft_routing=config.get("soft_routing", False),
        diff_routing=config.get("diff_routing", False),
        param_routing=config.get("param_routing", False),
    )


def _operator_weights(name: str, layer: nn.Module) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    out = {}
    for key, value in official_state_dict(OPERATORS).items():
        if not key.startswith(prefix):
            continue
        key = key.removeprefix(prefix).replace("router.emb.", "router.")
        if key.startswith(("qkv.qkv.", "qkv_linear.")):
            kind = key.rpartition(".")[2]
            split = value.squeeze((2, 3)) if value.ndim == 4 else value
            out[f"q.{kind}"], out[f"kv.{kind}"] = split[: layer.qk_dim], split[layer.qk_dim :]
        else:
            key = key.replace("wo.", "proj.").replace("output_linear.", "proj.")
            out[key] = value.squeeze((2, 3)) if value.shape[2:] == (1, 1) else value
    return out


@pytest.mark.parametrize(
    "run", OPERATORS["runs"], ids=lambda run: f"{run['module']}-{'x'.join(map(str, run['input'][2:]))}"
)
@torch.inference_mode()
def test_operator(run):
    layer = _operator(run["module"]).eval()
    layer.load_state_dict(_operator_weights(run["module"], layer))
    x = make_input(run["input"]).permute(0, 2, 3, 1)
    assert worst_error(run["features"][0], layer(x).permute(0, 3, 1, 2)) < TOLERANCE
    if "regions" in run:
        routes = layer.routes(x)
        assert list(routes.shape[1:]) == run["regions"]
        if "routed_first_image" in run:
            assert routes[0].sort(-1).values.tolist() == run["routed_first_image"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def _authors_nchw_layout(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict of ours under the names and shapes of the authors' nchw checkpoint (section 5 of their layout)."""
    out = {}
    own = model.state_dict()
    for key, value in own.items():
        if key.endswith((".fc1.weight", ".fc2.weight", ".proj.weight")) or ".attn.qkv." in key:
            value = value[:, :, None, None]
        if ".attn.q." in key:
            value = torch.cat((value, own[key.replace(".q.", ".kv.")]))
            value = value[:, :, None, None] if value.ndim == 2 else value
        elif ".attn.kv." in key:
            continue
        for ours, theirs in (
            ("stem.conv1.", "downsample_layers.0.0."),
            ("stem.norm1.", "downsample_layers.0.1."),
            (".attn.q.", ".attn.qkv_linear."),
            (".mlp.fc1.", ".mlp.0."),
            (".mlp.fc2.", ".mlp.2."),
            ("head.fc.", "head."),
        ):
            key = key.replace(ours, theirs)
        if ".downsample." in key:
            part = "0" if ".norm." in key else "1"
            key = f"downsample_layers.{key.split('.')[1]}.{part}.{key.rpartition('.')[2]}"
        if not key.startswith("stages.3.") and ".attn.proj." in key:
            key = key.replace(".attn.proj.", ".attn.output_linear.")
        out[key] = value
    return out


def test_nchw_checkpoint_keys():
    family = family_of("biformer_stl_nchw")
    model = timm.create_model("biformer_stl_nchw", **family.tiny, num_classes=3)
    authors = _authors_nchw_layout(model)
    assert "stages.0.blocks.0.attn.qkv_linear.weight" in authors and "downsample_layers.1.1.weight" in authors
    converted = family.convert_checkpoint({"model": authors}, model)
    own = model.state_dict()
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[key], own[key]) for key in own)
