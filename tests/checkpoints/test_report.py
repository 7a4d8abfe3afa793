"""The report of what was loaded."""

from __future__ import annotations

import timm
import torch
from safetensors.torch import save_file

from backbones.checkpoints.report import load_report, record_loading
from backbones.checkpoints.store import file_sha256


def test_complete_weights(tmp_path):
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    report = load_report(model, tmp_path / "w.safetensors")
    assert report.complete and report.percent == 100 and report.matched == report.total == len(model.state_dict())
    assert report.sha256 == file_sha256(tmp_path / "w.safetensors")
    assert report.sha256 in report.render() and "WARNING" not in report.render()


def test_incomplete_weights_are_loud():
    model = timm.create_model("test_vit")
    state = model.state_dict()
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["head.bias"] = torch.zeros(3)
    report = load_report(model, state)
    assert (report.missing, report.unexpected, report.mismatched) == (["norm.bias"], ["extra"], ["head.bias"])
    assert report.matched == report.total - 2 and not report.complete
    text = report.render()
    assert "WARNING" in text and "RANDOM" in text and "norm.bias" in text and f"{report.percent:.1f} %" in text
    assert "NOTHING" in load_report(model, {"x": torch.zeros(1)}).render()


def test_published_weights_are_reported_as_they_are_loaded(tmp_path):
    source = timm.create_model("test_vit", num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    overlay = {"file": str(tmp_path / "w.pth")}
    with record_loading() as reports:
        model = timm.create_model("test_vit", pretrained=True, num_classes=7, pretrained_cfg_overlay=overlay)
    [report] = reports
    assert report.missing == ["head.weight", "head.bias"] and report.sha256 == file_sha256(tmp_path / "w.pth")
    assert torch.equal(model.cls_token, source.cls_token)
    before = torch.nn.Module.load_state_dict
    assert before.__name__ == "load_state_dict"
