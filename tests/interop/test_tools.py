"""Other people's tools on one model of every family; they come with the interop extra."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from backbones.checkpoints.export import export
from backbones.models import family_of
from backbones.utils.profiling import count_macs
from tests.interop.families import FAMILIES
from tests.models.zoo import image, stir, tiny

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore")]
x = image(64, 96)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_transformers_timm_wrapper(name, tmp_path):
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    config = TimmWrapperConfig(architecture=name, model_args=dict(family_of(name).tiny), num_labels=5)
    model = TimmWrapperForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    again = TimmWrapperForImageClassification.from_pretrained(tmp_path).eval()
    expected = model(pixel_values=x).logits
    assert expected.shape == (2, 5)
    assert torch.equal(again(pixel_values=x).logits, expected)


@torch.no_grad()
def test_transformers_timm_backbone():
    """At full size, as its configuration takes no arguments of the model."""
    from transformers import TimmBackbone, TimmBackboneConfig

    config = TimmBackboneConfig(backbone="van_b0", use_pretrained_backbone=False, out_indices=(0, 1, 2, 3))
    model = TimmBackbone(config).eval()
    maps = model(x).feature_maps
    assert [one.shape[1] for one in maps] == list(model.channels) == [32, 64, 160, 256]
    assert [one.shape[2] for one in maps] == [16, 8, 4, 2]


@torch.no_grad()
def test_transformers_load_an_exported_folder(tmp_path):
    """As its model card says."""
    from transformers import TimmBackbone, TimmWrapperForImageClassification, TimmWrapperImageProcessor

    torch.manual_seed(0)
    model = timm.create_model("van_b0", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    folder = export("van_b0", tmp_path / "van", tmp_path / "own.pth")
    wrapped = TimmWrapperForImageClassification.from_pretrained(folder).eval()
    logits = model(x)
    assert logits.std() > 0 and torch.equal(wrapped(pixel_values=x).logits, logits)
    processor = TimmWrapperImageProcessor.from_pretrained(folder)
    assert processor.data_config["mean"] == (0.5, 0.5, 0.5) and processor.data_config["crop_pct"] == 0.9
    backbone = TimmBackbone.from_pretrained(f"local-dir:{folder}", out_indices=(0, 1, 2, 3)).eval()
    expected = model.forward_intermediates(x, intermediates_only=True)
    for found, map_ in zip(backbone(x).feature_maps, expected, strict=True):
        assert close(found, map_)


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_lora(name):
    """Every adapter counts, in evaluation too, and learns; merging changes nothing."""
    from peft import LoraConfig, get_peft_model

    model = stir(tiny(name, num_classes=5))
    head = model.get_classifier()
    targets = [
        key
        for key, module in model.named_modules()
        if module is not head and (isinstance(module, nn.Linear) or (type(module) is nn.Conv2d and module.groups == 1))
    ]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()
    layers = {key: module for key, module in adapted.named_modules() if hasattr(module, "lora_B")}
    assert len(layers) == len(targets)
    with torch.no_grad():
        expected = adapted(x)
        for key, module in layers.items():
            weight = module.lora_B["default"].weight
            kept = weight.clone()
            weight.zero_()
            assert not torch.equal(adapted(x), expected), f"{key} has no part in the result"
            weight.copy_(kept)
    adapted(x).square().sum().backward()
    assert not [key for key, value in adapted.named_parameters() if value.requires_grad and value.grad is None]
    with torch.no_grad():
        assert close(adapted.merge_and_unload()(x), expected, 1e-3)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_torchao_int8(name):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = stir(tiny(name, num_classes=5))
    expected = model(x)
    quantize_(model, Int8WeightOnlyConfig())
    found = model(x)
    assert not torch.equal(found, expected) and close(found, expected, 0.3)


@pytest.mark.parametrize("name", FAMILIES)
def test_counters_of_operations(name):
    """Products of layers alone, which is what these counters know, are most of ours."""
    from calflops import calculate_flops
    from fvcore.nn import FlopCountAnalysis

    model = tiny(name)
    ours = count_macs(model, (3, 64, 96))
    fvcore = FlopCountAnalysis(model, x[:1]).unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
    _, calflops, _ = calculate_flops(model, (1, 3, 64, 96), print_results=False, output_as_string=False)
    assert 0.75 * ours < fvcore < 1.1 * ours
    assert 0.75 * ours < calflops < 1.1 * ours


@pytest.mark.parametrize("name", FAMILIES)
def test_grad_cam(name):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = stir(tiny(name, num_classes=5))
    layer = model.get_submodule(model.feature_info[-1]["module"])
    with GradCAM(model=model, target_layers=[layer]) as cam:
        maps = [cam(input_tensor=x, targets=[ClassifierOutputTarget(label)] * 2) for label in range(5)]
    assert all(one.shape == (2, 64, 96) for one in maps) and max(one.max() for one in maps) > 0.5


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_ahead_of_time_compilation(name, tmp_path):
    model = stir(tiny(name, num_classes=5))
    program = torch.export.export(model, (x,))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    assert close(torch._inductor.aoti_load_package(path)(x), model(x))
