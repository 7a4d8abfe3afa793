"""The backbone that configs name: what it computes, takes, loads and refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import load_checkpoint
from torch import nn

import backbones.dense
from backbones.checkpoints import WeightsError, load_into
from backbones.dense import DenseBackbone
from backbones.models import family_of
from tests.checkpoints.zoo import TINY_NAME, as_published, publish, tiny_state
from tests.models.zoo import DISTINCT, MODELS, image, stir, tiny
from tests.parity.cases import FIXTURES, cases, families, smallest
from tests.parity.parity import load, make_input, official_state_dict, worst_error

#: The authors' dense models. `make test` runs the smallest of every family, in single precision.
DENSE = [
    case
    for case in cases()
    if case.form == "dense" and not (case.only or case.dtype or case.elsewhere)  # of a dense checkpoint
]
SMALLEST = [smallest(case for case in DENSE if case.family == family) for family in families()]
MAXVIT = "maxvit/maxvit_tiny_tf_224-dense"  # its dense form has no norms, and so no checkpoints of its own
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


@pytest.fixture(autouse=True)
def repeatable():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Detector(nn.Module):
    """What mmengine loads checkpoints into: a backbone and further parts."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(backbone.channels[-1], 4, 1)


def build(**args) -> nn.Module:
    """As a config of mmdet or mmseg does: from a registry below the root, by name."""
    return ROOT.build({"type": "backbones.Backbone", **args})


def small(name: str, **args) -> nn.Module:
    return build(model=name, **{**family_of(name).tiny, **args})


def detector_file(path: Path, detector: nn.Module, backbone: dict[str, torch.Tensor]) -> Path:
    """A detector as its authors publish it."""
    neck = {f"neck.{key}": value for key, value in detector.neck.state_dict().items()}
    state = {**{f"backbone.{key}": value for key, value in backbone.items()}, **neck}
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, path)
    return path


# ------------------------------------------------------------------------------------------------------------ fixtures


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(case), marks=() if case in SMALLEST else pytest.mark.extra) for case in DENSE],
)
@torch.inference_mode()
def test_published_detectors_compute_what_the_authors_do(case, tmp_path):
    fixture = case.load()
    detector = Detector(build(model=case.model, **case.args))
    file = detector_file(tmp_path / "detector.pth", detector, official_state_dict(fixture))
    load_checkpoint(detector, str(file), strict=True)
    backbone = detector.backbone.eval()
    assert sum(p.numel() for p in backbone.parameters()) == fixture["parameters"]
    for run in fixture["runs"]:
        for expected, got in zip(run["features"], backbone(make_input(run["input"])), strict=True):
            assert worst_error(expected, got) < case.tolerance[""]


@torch.inference_mode()
def test_maxvit_gives_raw_maps(tmp_path):
    fixture = load(FIXTURES / f"{MAXVIT}.json.gz")
    torch.save(official_state_dict(fixture), tmp_path / "maxvit.pth")
    backbone = build(model="maxvit_t", pretrained=str(tmp_path / "maxvit.pth"))
    backbone.init_weights()
    for run in fixture["runs"]:
        maps = backbone.eval()(make_input(run["input"]))
        for expected, got in zip(run["features"][-4:], maps, strict=True):
            assert worst_error(expected, got) < 1e-5


# ------------------------------------------------------------------------------------------------------------ contract


@pytest.mark.parametrize("scope", [None, "other"])
def test_registered_below_the_root_registry(scope):
    registry = ROOT
    if scope:
        registry = ROOT.children.get(scope) or Registry("model", parent=ROOT, scope=scope)
    with DefaultScope.overwrite_default_scope(scope):
        backbone = registry.build({"type": "backbones.Backbone", "model": "nat_m", **family_of("nat_m").tiny})
    assert type(backbone) is backbones.dense.Backbone and isinstance(backbone, DenseBackbone)


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_maps_are_as_described(name):
    backbone = small(name)
    for out_indices in ((0, 1, 2, 3), (1, 3), (0, 2)):
        part = small(name, out_indices=out_indices)
        maps = part.eval()(image(64, 96, batch=1))
        assert [m.shape[1] for m in maps] == part.channels == [backbone.channels[i] for i in out_indices]
        assert [tuple(m.shape[2:]) for m in maps] == [(64 // r, 96 // r) for r in part.reductions]
        assert sum(p.numel() for p in part.model.parameters()) <= sum(p.numel() for p in backbone.model.parameters())


@pytest.mark.parametrize("name", DISTINCT)
@torch.inference_mode()
def test_any_size_of_image(name):
    backbone = stir(small(name).eval())
    for height, width in ((75, 50), (97, 130)):
        maps = backbone(image(height, width, batch=1))
        assert all(m.isfinite().all() and m.shape[1] == c for m, c in zip(maps, backbone.channels, strict=True))
        for m, r in zip(maps, backbone.reductions):
            assert abs(m.shape[2] - height / r) < 1 and abs(m.shape[3] - width / r) < 1


@pytest.mark.parametrize("out_norm", ["layer", "batch", "group", None])
@pytest.mark.parametrize("name", DISTINCT)
def test_every_parameter_is_trained(name, out_norm):
    for out_indices in ((0, 1, 2, 3), (0, 2)):
        backbone = small(name, out_indices=out_indices, out_norm=out_norm, drop_path_rate=0.1)
        sum(m.square().mean() for m in backbone(image())).backward()
        unused = [key for key, p in backbone.named_parameters() if p.grad is None]
        # OverLoCK's context of stage 3 goes on to stage 4 alone.
        assert not unused or (name.startswith("overlock") and out_indices == (0, 2)), unused


@pytest.mark.parametrize("name", DISTINCT)
def test_gradient_checkpointing_changes_nothing(name):
    plain, checkpointed = stir(small(name)), stir(small(name, grad_checkpointing=True))
    checkpointed.load_state_dict(plain.state_dict())
    grads = []
    for backbone in (plain, checkpointed):
        sum(m.square().mean() for m in backbone(image())).backward()
        grads.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    recomputed = [m for m in checkpointed.modules() if getattr(m, "grad_checkpointing", False)]
    assert recomputed and not [m for m in plain.modules() if getattr(m, "grad_checkpointing", False)]


@pytest.mark.parametrize("frozen", range(-1, 5))
@pytest.mark.parametrize("name", DISTINCT)
def test_frozen_stages(name, frozen):
    backbone = small(name, frozen_stages=frozen)
    for mode in (True, False, True):
        assert backbone.train(mode) is backbone
    model = backbone.model
    parts = [(0, module) for name, module in model.named_children() if name in ("stem", "cls_token", "pos_embed")]
    parts += [(i, model.get_submodule(info["module"])) for i, info in enumerate(model.feature_info, 1)]
    for i, part in parts:
        assert all(p.requires_grad == (i > frozen) for p in part.parameters())
        assert all(m.training == (i > frozen) for m in part.modules())
    rest = [p for key, p in backbone.named_parameters() if not key.startswith("model.")]
    assert all(p.requires_grad for p in rest)


@pytest.mark.parametrize("norm_eval", [False, True])
@pytest.mark.parametrize("name", [name for name in DISTINCT if any(isinstance(m, NORMS) for m in tiny(name).modules())])
def test_norm_eval(name, norm_eval):
    backbone = small(name, norm_eval=norm_eval).train()
    before = {key: value.clone() for key, value in backbone.named_buffers()}
    sum(m.square().mean() for m in backbone(image())).backward()
    kept = [torch.equal(value, before[key]) for key, value in backbone.named_buffers() if "running" in key]
    assert kept and (all(kept) if norm_eval else not any(kept))
    norms = [m for m in backbone.modules() if isinstance(m, NORMS)]
    assert all(m.training != norm_eval and m.weight.grad is not None for m in norms)
    assert backbone.training and backbone.out_norms.training


def test_arguments_reach_the_model():
    backbone = small("nat_m", in_chans=4, drop_path_rate=0.3, dilations=[[1], [1], [1, 2], [1]], dtype=torch.float64)
    assert backbone.model.in_chans == 4
    assert backbone.model.stages[-1].blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert all(m.dtype == torch.float64 for m in backbone(image(channels=4).double()))
    assert all(p.is_meta for p in build(model="overlock_b", device="meta").parameters())


def test_inner_norms_of_published_models_stay_without_their_output():
    backbone = small("overlock_xt", out_indices=(0, 3)).eval()
    whole = small("overlock_xt").eval()
    whole.load_state_dict(stir(whole).state_dict())
    load_into(backbone, _saved(whole))
    x = image()
    torch.testing.assert_close(backbone(x)[1], whole(x)[3])


TIMM = {
    "resnet18": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "mobilenetv3_small_100": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_models(name):
    backbone = build(model=name, frozen_stages=1, norm_eval=True, grad_checkpointing=True, **TIMM[name])
    maps = backbone(image())
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // r, 64 // r) for c, r in zip(backbone.channels, (4, 8, 16, 32))
    ]
    sum(m.square().mean() for m in maps).backward()
    trained = [key for key, p in backbone.named_parameters() if p.grad is not None]
    frozen = [key for key, p in backbone.named_parameters() if not p.requires_grad]
    assert frozen and len(trained) + len(frozen) == len(list(backbone.parameters()))
    assert not any(m.training for m in backbone.modules() if isinstance(m, NORMS))
    other = build(model=name, **TIMM[name])
    other.load_state_dict(backbone.state_dict())
    torch.testing.assert_close(other.eval()(image()), backbone.eval()(image()))


# ------------------------------------------------------------------------------------------------------------- loading

_FILES: list[Path] = []


def _saved(module: nn.Module) -> Path:
    torch.save(module.state_dict(), _FILES[0] / "weights.pth")
    return _FILES[0] / "weights.pth"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBONES_CHECKPOINTS", str(tmp_path / "store"))
    _FILES[:] = [tmp_path]


def _same(module: nn.Module, expected: nn.Module) -> bool:
    own = module.state_dict()
    theirs = {key: value for key, value in expected.state_dict().items() if key in own}
    return theirs.keys() == own.keys() and all(torch.equal(own[key], theirs[key]) for key in own)


@pytest.mark.parametrize("option", ["pretrained", "init_cfg"])
@pytest.mark.parametrize("name", DISTINCT)
def test_classifier_file(name, option):
    classifier = stir(tiny(name, num_classes=7))
    path = str(_saved(classifier))
    args = {"pretrained": path} if option == "pretrained" else {"init_cfg": {"type": "Pretrained", "checkpoint": path}}
    backbone = small(name, out_indices=(0, 1, 2), **args)
    assert not _same(backbone.model, classifier)
    backbone.init_weights()
    assert _same(backbone.model, classifier)
    assert all((p == float("weight" in key)).all() for key, p in backbone.out_norms.named_parameters())
    with torch.no_grad():
        next(backbone.parameters()).zero_()
    backbone.init_weights()
    assert not next(backbone.parameters()).any(), "loaded twice"


@pytest.mark.parametrize("name", DISTINCT)
def test_dense_file(name):
    trained = stir(small(name))
    path = detector_file(_FILES[0] / "detector.pth", Detector(trained), trained.state_dict())
    for out_indices in ((0, 1, 2, 3), (1, 2)):
        backbone = small(name, out_indices=out_indices, init_cfg={"type": "Pretrained", "checkpoint": str(path)})
        backbone.init_weights()
        assert _same(backbone, trained)


def test_overlock_for_detection_from_a_classifier():
    classifier = stir(tiny("overlock_xt"))
    backbone = small("overlock_xt", overview_out=True, pretrained=str(_saved(classifier)))
    fresh = {key: value.clone() for key, value in backbone.state_dict().items() if "overview_" in key}
    backbone.init_weights()
    assert fresh and all(torch.equal(backbone.state_dict()[key], value) for key, value in fresh.items())
    own = {key: value for key, value in backbone.model.state_dict().items() if f"model.{key}" not in fresh}
    assert own and all(torch.equal(value, classifier.state_dict()[key]) for key, value in own.items())


@pytest.mark.parametrize("pretrained", [True, "in1k"])
def test_tag(monkeypatch, pretrained, tmp_path):
    publish(monkeypatch, "http://127.0.0.1:9/never-asked.pth")
    state = tiny_state()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / f"{TINY_NAME}.pth").write_bytes(as_published(state, "model"))
    backbone = build(model="nat_m", pretrained=pretrained, in_chans=1, drop_path_rate=0.1)
    backbone.init_weights()
    own = backbone.model.state_dict()
    torch.testing.assert_close(own.pop("stem.conv1.weight"), state["stem.conv1.weight"].sum(1, keepdim=True))
    assert own and all(torch.equal(own[key], state[key]) for key in own)


def test_mmengine_loads_it_when_training_begins():
    class Segmentor(BaseModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = small("nat_m", pretrained=str(_FILES[0] / "weights.pth"))

    classifier = stir(tiny("nat_m"))
    _saved(classifier)
    segmentor = Segmentor()
    segmentor.init_weights()
    assert _same(segmentor.backbone.model, classifier)
    average = copy.deepcopy(segmentor)  # as its hook for averaged weights does
    average.load_state_dict(stir(segmentor).state_dict())
    assert _same(average, segmentor)


def test_timm_file():
    classifier = stir(timm.create_model("resnet18", num_classes=3))
    backbone = build(model="resnet18", out_indices=(1, 2, 3), pretrained=str(_saved(classifier)))
    backbone.init_weights()
    assert _same(backbone.trunk, classifier)


def test_part_of_a_file():
    classifier = stir(tiny("nat_m"))
    state = {f"teacher.net.{key}": value for key, value in classifier.state_dict().items()}
    torch.save({"state_dict": state}, _FILES[0] / "all.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(_FILES[0] / "all.pth"), "prefix": "teacher.net."}
    backbone = small("nat_m", init_cfg=cfg)
    backbone.init_weights()
    assert _same(backbone.model, classifier)
    with pytest.raises(WeightsError, match=r"all\.pth has no weights below 'student\.'"):
        small("nat_m", init_cfg={**cfg, "prefix": "student"}).init_weights()


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "args, message",
    [
        ({"model": "nat_x"}, r"there is no model 'nat_x': did you mean nat_"),
        ({"model": "nat_m", "out_indices": (0, 4)}, r"out_indices \(0, 4\) of nat_m must be ascending, from 0 to 3"),
        ({"model": "nat_m", "out_indices": (2, 1)}, r"out_indices \(2, 1\) of nat_m must be ascending"),
        ({"model": "nat_m", "out_indices": ()}, r"out_indices \(\) of nat_m must be ascending"),
        ({"model": "resnet18", "out_indices": (5,)}, r"out_indices \(5,\) of resnet18 must be .* from 0 to 4"),
        ({"model": "nat_m", "out_norm": "instance"}, r"out_norm must be .* or None, not 'instance'"),
        ({"model": "nat_m", "frozen_stages": 5}, r"frozen_stages of nat_m must be from -1 to 4, not 5"),
        ({"model": "nat_m", "n_win": 8}, r"cannot build nat_m: .*'n_win'; check the backbone's arguments"),
        ({"model": "nat_m", "dilations": "cocoa"}, r"unknown dilations 'cocoa'; choose one of"),
        ({"model": "nat_m.in1k", "pretrained": "in22k"}, r"model 'nat_m\.in1k' and pretrained 'in22k' name different"),
        ({"model": "nat_m", "init_cfg": {"type": "Normal"}}, r"init_cfg must be dict\(type=\"Pretrained\", checkpoint"),
        (
            {"model": "nat_m", "pretrained": True, "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}},
            r"give pretrained or init_cfg, not both",
        ),
    ],
)
def test_bad_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        build(**args)


def test_unknown_tag():
    with pytest.raises((ValueError, RuntimeError), match="in99k"):
        build(model="nat_m", pretrained="in99k").init_weights()


def _zeros(path: str) -> dict[str, torch.Tensor]:
    """A published file of that fixture's model, without its numbers."""
    state = load(FIXTURES / f"{path}.json.gz")["state_dict"]
    return {key: torch.zeros(shape, dtype=torch.float16) for key, (_, shape, _) in state.items()}


@pytest.mark.parametrize(
    "path, model, likely",
    [
        ("nat/nat_mini", "nat_t", r"this looks like .*nat_m"),
        ("overlock/overlock_xt", "overlock_t", "this looks like overlock_xt"),
        ("nat/nat_mini", "resnet18", r"this looks like .*nat_m"),
    ],
)
def test_classifier_of_another_model(path, model, likely):
    torch.save(_zeros(path), _FILES[0] / "other.pth")
    backbone = build(model=model, pretrained=str(_FILES[0] / "other.pth"))
    with pytest.raises(WeightsError, match=rf"other\.pth does not fit {model}.*; {likely}.*\.$") as caught:
        backbone.init_weights()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path, model, likely",
    [
        ("nat/nat_mini-dense", "nat_t", r"nat_m.* \(dense-prediction form\)"),
        ("overlock/overlock_xt-dense-seg", "overlock_t", r"overlock_xt(\.in1k)? \(dense-prediction form\)"),
        ("overlock/overlock_xt-dense-seg", "nat_m", r"overlock_xt(\.in1k)? \(dense-prediction form\)"),
    ],
)
def test_detector_of_another_model(path, model, likely):
    detector = Detector(build(model=model))
    file = detector_file(_FILES[0] / "other.pth", detector, _zeros(path))
    with pytest.raises(WeightsError, match=rf"does not fit the dense {model}: .*; this looks like .*{likely}\.$"):
        load_checkpoint(detector, str(file))


def test_own_detector_of_another_depth():
    # mmengine itself would only warn: what is there fits, but half of the blocks would stay random.
    shallow, deep = Detector(small("nat_m")), Detector(small("nat_m", depths=(1, 1, 4, 1), dilations="none"))
    torch.save({"state_dict": shallow.state_dict()}, _FILES[0] / "shallow.pth")
    with pytest.raises(WeightsError, match=r"28 keys missing|keys missing \(model\.stages\.2\.blocks\.2"):
        load_checkpoint(deep, str(_FILES[0] / "shallow.pth"))
    load_checkpoint(shallow, str(_FILES[0] / "shallow.pth"), strict=True)


def test_unreadable_file():
    (_FILES[0] / "bad.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"bad\.pth is truncated or not a checkpoint"):
        small("nat_m", pretrained=str(_FILES[0] / "bad.pth")).init_weights()
    with pytest.raises(WeightsError, match=r"Cannot read .*gone\.pth: No such file"):
        small("nat_m", pretrained=str(_FILES[0] / "gone.pth")).init_weights()
