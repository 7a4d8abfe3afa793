"""What the repository's configs build and run has the values of the authors' own configs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import HOOKS, MODELS, TRANSFORMS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from timm.layers import DropPath
from torch import nn

from backbones.dense.costs import build_model
from backbones.features import BATCH_NORMS
from tests.openmmlab.samples import SIDE, read, segmentation_batch
from tests.openmmlab.test_configs import PATHS, STEPS, TINY_DINAT

HEIGHT, WIDTH = 300, 400  # of the image of the multi-scale tests
SHORT_SIDES = {512: (256, 384, 512, 640, 768, 896), 640: (320, 480, 640, 800, 960, 1120)}
MAXVIT_RETINANET = "detection/maxvit/retinanet_maxvit-b_fpn_32xb8-amp-72e_coco-640x640"
CITYSCAPES = (512, 768, 1024, 1280, 1536, 1792)
WITHOUT_BATCH_NORM = ("nat", "dinat", "davit", "gcvit", "crossformer", "sgformer", "transnext", "agent")
NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def load_config(name: str) -> Config:
    cfg = Config.fromfile(PATHS[name])
    init_default_scope(cfg.default_scope)
    return cfg


# ---------------------------------------------------------------------------------------------------------- multi-scale


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """What a data set hands to a test pipeline of mmseg."""
    folder = tmp_path_factory.mktemp("image")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(folder / "a.png")
    files = {"img_path": str(folder / "a.jpg"), "seg_map_path": str(folder / "a.png")}
    return {**files, "label_map": None, "reduce_zero_label": True, "seg_fields": []}


def _run(pipeline: list, image: dict) -> dict:
    with TRANSFORMS.switch_scope_and_registry(scope="mmseg"):
        return Compose(pipeline)(dict(image, seg_fields=[]))


def _multi_scale_sides(name: str) -> tuple[int, ...]:
    """Short sides of the authors' multi-scale tests: ratios of (2048, 512), of (2560, 640), and Mask2Former's own."""
    if "cityscapes" in name:
        return CITYSCAPES
    return SHORT_SIDES[640 if "640x640" in name else 512]


@pytest.mark.parametrize("name", [name for name in PATHS if "miou_ms" in load_config(name).get("published", {})])
def test_multi_scale_test_has_the_authors_sizes(name, image):
    found = _run(load_config(name).tta_pipeline, image)
    sizes = [tuple(scaled.shape[1:]) for scaled in found["inputs"]]
    flips = [bool(sample.flip) for sample in found["data_samples"]]
    assert sorted(zip(sizes, flips)) == sorted((size, flip) for size in set(sizes) for flip in (False, True))
    expected = [(side, math.floor(side * WIDTH / HEIGHT + 0.5)) for side in _multi_scale_sides(name)]
    if "/van/" in name or "/crossformer/" in name:  # both sides brought to multiples of 32
        expected = [(height, 32 * math.ceil(width / 32)) for height, width in expected]
    assert sorted(set(sizes)) == expected
    assert all(sample.ori_shape == (HEIGHT, WIDTH) for sample in found["data_samples"])


@pytest.mark.parametrize("name", [name for name in STEPS if name.startswith("segmentation")])
def test_multi_scale_test_has_the_size_of_the_plain_test(name, image):
    cfg = load_config(name)
    plain = tuple(_run(cfg.test_dataloader.dataset.pipeline, image)["inputs"].shape[1:])
    assert plain in {tuple(scaled.shape[1:]) for scaled in _run(cfg.tta_pipeline, image)["inputs"]}


def test_scores_of_scales_are_averaged():
    """Not their softmax, by which the second class would win here."""
    tta = MODELS.build(dict(type="backbones.ScoreTTAModel", module=SimpleModel()))
    samples = []
    for scores in ((1.0, 0.0), (0.0, 0.495), (0.0, 0.495)):
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 1, 1)))
        sample.seg_logits = PixelData(data=torch.tensor(scores)[:, None, None])
        samples.append(sample)
    (merged,) = tta.merge_preds([samples])
    assert merged.pred_sem_seg.data.tolist() == [[[0]]]
    assert merged.gt_sem_seg.data.shape == (1, 1, 1)


class SimpleModel(nn.Module):
    def test_step(self, data):
        return data["data_samples"]


def test_mask2former_runs_its_multi_scale_test():
    name = "segmentation/dinat/mask2former_dinat-l_8xb2-160k_ade20k-640x640"
    dilations = {"model.backbone.dilations": ((1,), (2,), (1, 2), (1,))}
    cfg = read(f"{name}.py", {**STEPS[name], **TINY_DINAT, **dilations})
    init_default_scope("mmseg")
    torch.manual_seed(0)
    tta = MODELS.build(dict(**cfg.tta_model, module=cfg.model)).eval()
    batch = segmentation_batch()
    flipped = [sample.clone() for sample in batch["data_samples"]]
    for sample in flipped:
        sample.set_metainfo({"flip": True, "flip_direction": "horizontal"})
    images = batch["inputs"]
    with torch.no_grad():
        merged = tta.test_step(
            {"inputs": [images, [x.flip(2) for x in images]], "data_samples": [batch["data_samples"], flipped]}
        )
        plain = tta.module.test_step(segmentation_batch())
    assert [sample.pred_sem_seg.data.shape for sample in merged] == [(1, SIDE, SIDE)] * 2
    assert (merged[0].pred_sem_seg.data == plain[0].pred_sem_seg.data).float().mean() > 0.5


# ------------------------------------------------------------------------------------------------- anchors, assignment


@pytest.mark.parametrize("name", [name for name in PATHS if "ssdlite" in name])
def test_anchors_of_ssdlite(name):
    """At 512 they are those of 320."""
    head = build_model(load_config(name), "meta").bbox_head
    priors = head.prior_generator
    assert [stride[0] for stride in priors.strides] == [16, 32, 64, 107, 160, 320]
    boxes = [anchors[:, 2:] - anchors[:, :2] for anchors in priors.base_anchors]
    sides = [sorted({round(float(w), 2) for w, h in level if abs(w - h) < 0.01}) for level in boxes]
    low, high = (48, 100, 150, 202, 253, 304), (100, 150, 202, 253, 304, 320)
    assert sides == [[a, round(math.sqrt(a * b), 2)] for a, b in zip(low, high)]
    ratios = {round(float(h / w), 2) for level in boxes for w, h in level}
    assert ratios == {0.33, 0.5, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("name", [name for name in PATHS if "cascade-mask-rcnn_maxvit" in name])
def test_maxvits_first_stage_ignores_what_half_overlaps(name):
    roi_head = build_model(load_config(name), "meta").roi_head
    assert [(a.pos_iou_thr, a.neg_iou_thr) for a in roi_head.bbox_assigner] == [(0.6, 0.5), (0.7, 0.7)]


@pytest.mark.parametrize("name", [name for name in STEPS if "cascade-mask-rcnn_maxvit" in name] + [MAXVIT_RETINANET])
def test_pyramid_of_maxvit_has_norms_behind_its_outputs_alone(name):
    neck = build_model(load_config(name), "meta").neck
    assert not any(conv.with_norm for conv in neck.lateral_convs)
    assert [conv.norm.eps for conv in neck.fpn_convs] == [1e-3] * 5


PADDED = {"coco": 1024, "ade20k": 640, "cityscapes": 128}  # Cityscapes' crops are all of one size


@pytest.mark.parametrize("name", [name for name in PATHS if "mask2former" in name and name.startswith("detection")])
def test_mask2former_trains_on_images_of_one_size(name):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    cfg = load_config(name)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    sample = DetDataSample(metainfo={"img_shape": (100, 120)})
    sample.gt_instances = InstanceData(masks=BitmapMasks(np.ones((1, 100, 120), np.uint8), 100, 120))
    if "panoptic" in name:
        sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, 100, 120))
    data = {"inputs": [torch.zeros(3, 100, 120, dtype=torch.uint8)], "data_samples": [sample]}
    batch = preprocessor(data, training=True)
    side = next(side for dataset, side in PADDED.items() if dataset in name)
    assert batch["inputs"].shape[2:] == (side, side)
    assert batch["data_samples"][0].gt_instances.masks.masks.shape[1:] == (side, side)
    if "panoptic" in name:
        labels = batch["data_samples"][0].gt_sem_seg.sem_seg
        assert labels.shape[1:] == (side, side) and labels[0, -1, -1] == 255


@pytest.mark.parametrize("name", [name for name in PATHS if "/smt/" in name])
def test_backbones_of_smt_drop_single_values(name):
    """As the authors' dense code does; DINO was trained by other code."""
    cfg = load_config(name)
    backbone = build_model(cfg, "meta").backbone
    rates = [m.p for m in backbone.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    paths = [m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)]
    found, other = (paths, rates) if "dino" in name else (rates, paths)
    assert not other
    assert len(found) == 2 * (sum(len(stage.blocks) for stage in backbone.model.stages) - 1)
    assert max(found) == pytest.approx(cfg.model.backbone.drop_path_rate) == (0.3 if "smt-b" in name else 0.2)


# ------------------------------------------------------------------------------------------------------------ BatchNorm


def _as_in_a_distributed_run(cfg: Config, model: nn.Module) -> nn.Module:
    """The network after mmengine's Runner and the config's hooks have prepared it for several GPUs."""
    if cfg.get("sync_bn"):
        model = convert_sync_batchnorm(model, cfg.sync_bn)
    for options in cfg.get("custom_hooks", ()):
        if options.type == "backbones.SyncBatchNormHook":
            HOOKS.build(options).convert(model)
    return model


def _kinds(part: nn.Module) -> set[str]:
    return {
        "synchronised" if isinstance(module, nn.SyncBatchNorm) else "plain"
        for module in part.modules()
        if isinstance(module, BATCH_NORMS)
    }


@pytest.mark.parametrize("name", STEPS)
def test_batch_norm_is_synchronised_where_the_authors_do(name):
    task, family, stem = name.split("/")
    cfg = load_config(name)
    model = _as_in_a_distributed_run(cfg, build_model(cfg, "meta"))
    if family in WITHOUT_BATCH_NORM:
        expected = set()
    elif family in ("overlock", "transxnet", "van", "maxvit", "soft", "stvit", "ravlt", "mavit") or (
        family == "biformer" and task == "segmentation"
    ):
        expected = {"synchronised"}
    else:
        expected = {"plain"}
    assert _kinds(model.backbone) == expected
    if family not in WITHOUT_BATCH_NORM:
        eps = {module.eps for module in model.backbone.modules() if isinstance(module, BATCH_NORMS)}
        assert eps == {{"maxvit": 1e-3, "emov2": 1e-6}.get(family, 1e-5)}
    others = set().union(*(_kinds(part) for key, part in model.named_children() if key != "backbone"))
    if "ssdlite" in stem or "retinanet_maxvit" in stem or "upernet_davit" in stem:
        assert others == {"plain"}
    elif stem.startswith("cascade") or (task == "segmentation" and "mask2former" not in stem):
        assert others == {"synchronised"}
    else:
        assert not others


def test_retinanet_of_maxvit_synchronises_its_backbone_alone():
    cfg = load_config(MAXVIT_RETINANET)
    model = _as_in_a_distributed_run(cfg, build_model(cfg, "meta"))
    found = {key: _kinds(part) for key, part in model.named_children() if _kinds(part)}
    assert found == {"backbone": {"synchronised"}, "neck": {"plain"}, "bbox_head": {"plain"}}


def test_synchronised_batch_norm_keeps_its_state():
    model = nn.ModuleDict({"neck": nn.Sequential(nn.BatchNorm2d(3, eps=0.1)), "head": nn.BatchNorm2d(2)})
    state = {key: id(value) for key, value in model.named_parameters()}
    wrapped = SimpleNamespace(model=model, distributed=True)
    hook = HOOKS.build(dict(type="backbones.SyncBatchNormHook", parts=["neck"]))
    hook.before_run(wrapped)
    assert isinstance(model.neck[0], nn.SyncBatchNorm) == torch.cuda.is_available()
    hook.convert(model)
    assert isinstance(model.neck[0], nn.SyncBatchNorm) and not isinstance(model.head, nn.SyncBatchNorm)
    assert model.neck[0].eps == 0.1 and {key: id(value) for key, value in model.named_parameters()} == state
    with pytest.raises(ValueError, match="no part 'tail', but neck, head"):
        HOOKS.build(dict(type="backbones.SyncBatchNormHook", parts=["tail"])).convert(model)
