"""What a detector or segmentor finds on images: pictures with it drawn in, and json."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, VISUALIZERS
from PIL import Image
from torch import nn

from backbones.dense.config import classes_of, datasets
from backbones.dense.errors import DenseError
from backbones.dense.loading import NamingPipeline
from backbones.utils.files import replacing, write_json

LEAST_SIDE = 480  # pixels, of the longer side of a picture


def pipeline_of(cfg: Config) -> NamingPipeline:
    """The config's test pipeline for a bare image, without annotations."""
    _, dataset = next(datasets(cfg, ["test"]))
    steps = [step for step in dataset.pipeline if not step["type"].endswith(("LoadAnnotations", "PanopticAnnotations"))]
    with _scope(cfg):
        return NamingPipeline(Compose(steps))


def _scope(cfg: Config):
    return DATASETS.switch_scope_and_registry(scope=cfg.default_scope)


def describe_data(model: nn.Module, cfg: Config) -> dict[str, Any]:
    """Class names and colours: the checkpoint's, or those of the config's test data."""
    meta = dict(getattr(model, "dataset_meta", None) or {})
    _, dataset = next(datasets(cfg, ["test"]))
    if not meta.get("classes"):
        meta["classes"] = classes_of(cfg, dataset)
    if not meta.get("palette"):
        with _scope(cfg) as registry:
            known = getattr(registry.get(dataset.type), "METAINFO", {})
        same = len(known.get("classes", ())) == len(meta["classes"])
        meta["palette"] = dataset.get("metainfo", {}).get("palette") or (known.get("palette") if same else None)
        if not meta["palette"]:
            meta["palette"] = "random"
    return meta


class Predictor:
    """Runs a model on images and draws and tells what it finds.

    Args:
        model: From `runner.build_model`.
        cfg: Its config.
        score_thr: Instances below are neither drawn nor told.
    """

    def __init__(self, model: nn.Module, cfg: Config, score_thr: float = 0.3) -> None:
        self.model, self.cfg, self.score_thr = model, cfg, score_thr
        self.pipeline = pipeline_of(cfg)
        self.meta = describe_data(model, cfg)
        self.visualizer = make_visualizer(cfg, self.meta)

    def __call__(self, image: str | Path) -> Any:
        """The data sample of mmdet or mmseg for an image file.

        Raises:
            DenseError: The image cannot be read.
        """
        data = self.pipeline({"img_path": str(image), "img_id": 0})
        batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
        with torch.inference_mode():
            return self.model.test_step(batch)[0].cpu()

    def draw(self, image: str | Path, sample: Any, path: str | Path) -> None:
        """Write the image with what was found on it to `path`, a PNG."""
        pixels = mmcv.imread(str(image), channel_order="rgb")
        options = {"pred_score_thr": self.score_thr} if self.cfg.default_scope == "mmdet" else {"with_labels": False}
        draw_sample(self.visualizer, pixels, sample, path, draw_gt=False, **options)

    def describe(self, image: str | Path, sample: Any) -> dict[str, Any]:
        """What was found, for json: instances (COCO's boxes and run-length masks), or each class's share of pixels."""
        height, width = sample.ori_shape
        told: dict[str, Any] = {"image": str(image), "height": int(height), "width": int(width)}
        classes = list(self.meta["classes"])
        if "pred_instances" in sample:
            told["instances"] = list(_instances(sample.pred_instances, classes, self.score_thr))
        labels = sample.get("pred_sem_seg")
        if labels is not None:
            values = (labels.data if "data" in labels else labels.sem_seg).flatten()
            counts = torch.bincount(values, minlength=len(classes))[: len(classes)]
            told["shares"] = {
                classes[i]: round(float(counts[i]) / values.numel(), 6) for i in counts.nonzero().flatten().tolist()
            }
        if "pred_panoptic_seg" in sample:
            told["segments"] = list(_segments(sample.pred_panoptic_seg.sem_seg[0].numpy(), classes))
        return told


def _instances(found: Any, classes: list[str], score_thr: float) -> Iterator[dict[str, Any]]:
    from mmdet.structures.mask import encode_mask_results

    keep = found.scores >= score_thr
    masks = encode_mask_results(found.masks[keep].numpy()) if "masks" in found else None
    rows = zip(found.bboxes[keep].tolist(), found.scores[keep].tolist(), found.labels[keep].tolist())
    for i, ((x1, y1, x2, y2), score, label) in enumerate(rows):
        told: dict[str, Any] = {
            "category": classes[label],
            "score": round(score, 5),
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        }
        if masks is not None:
            told["segmentation"] = {"size": list(masks[i]["size"]), "counts": masks[i]["counts"].decode("ascii")}
        yield told


def _segments(ids: np.ndarray, classes: list[str]) -> Iterator[dict[str, Any]]:
    from mmdet.evaluation import INSTANCE_OFFSET

    for number in np.unique(ids):
        label = int(number) % INSTANCE_OFFSET
        if label < len(classes):
            yield {"id": int(number), "category": classes[label], "pixels": int((ids == number).sum())}


def label_map(sample: Any) -> np.ndarray | None:
    """The map of class numbers of a segmentation, counted from 0 (uint8, or uint16 above 255 classes)."""
    if "pred_sem_seg" not in sample or "data" not in sample.pred_sem_seg:
        return None
    labels = sample.pred_sem_seg.data[0].numpy()
    return labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)


def make_visualizer(cfg: Config, meta: Mapping[str, Any]) -> Any:
    """The config's visualizer, for files only."""
    options = dict(cfg.visualizer)
    options.pop("vis_backends", None)
    if cfg.default_scope == "mmseg":
        options["alpha"] = options.get("alpha", 0.6)
    with VISUALIZERS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        visualizer = registry.build({**options, "name": "backbones"})
    meta = dict(meta)
    if not isinstance(meta.get("palette"), str | None):
        meta["palette"] = [tuple(colour) for colour in meta["palette"]]  # as lists mmdet cannot draw them
    visualizer.dataset_meta = meta
    return visualizer


def draw_sample(visualizer: Any, image: np.ndarray, sample: Any, path: str | Path, **options: Any) -> None:
    """Draw a data sample on an RGB image of `(H, W, 3)` and write it to `path`, a PNG, whole.

    Small images are enlarged, as labels have a size of their own.
    """
    scale = -(-LEAST_SIDE // max(image.shape[:2]))
    if scale > 1:
        image, sample = mmcv.imrescale(image, scale, interpolation="bicubic"), _enlarged(sample, scale)
    with replacing(path) as aside:
        picture = aside.with_suffix(".png")  # OpenCV goes by the suffix
        visualizer.add_datasample("image", image, sample, out_file=str(picture), **options)
        picture.replace(aside)


def _enlarged(sample: Any, scale: int) -> Any:
    """A copy of a data sample for an image of `scale` times the size."""
    sample = copy.deepcopy(sample)
    for key, value in sample.items():
        for name, tensor in value.items():
            if name == "bboxes":
                setattr(value, name, getattr(tensor, "tensor", tensor) * scale)
            elif name == "masks":
                tensor = tensor if isinstance(tensor, torch.Tensor) else torch.from_numpy(tensor.to_ndarray())
                setattr(value, name, _repeated(tensor, scale))
            elif "seg" in key and isinstance(tensor, torch.Tensor):
                value.set_field(_repeated(tensor, scale), name)
    return sample


def _repeated(maps: torch.Tensor, scale: int) -> torch.Tensor:
    return maps.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def predict(
    predictor: Predictor, images: Sequence[Path], folder: Path, done: Callable[[], None] = lambda: None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write `<name>.png` for every image, its map of classes (`<name>_labels.png`) and `predictions.json` to a folder.

    Returns:
        What `predictions.json` holds, and a sentence for every image that nothing could be predicted for.
    """
    told, failed = [], []
    used: set[str] = set()
    for image in images:
        try:
            sample = predictor(image)
        except Exception as error:  # whatever it is about one image, the others are predicted
            reason = " ".join(str(error).split()) or type(error).__name__
            failed.append(
                reason if isinstance(error, DenseError) else f"The image {image} cannot be predicted: {reason}"
            )
            done()
            continue
        name = image.stem
        while name in used:
            name += "_"
        used.add(name)
        predictor.draw(image, sample, folder / f"{name}.png")
        entry = {**predictor.describe(image, sample), "picture": f"{name}.png"}
        labels = label_map(sample)
        if labels is not None:
            entry["labels"] = f"{name}_labels.png"
            with replacing(folder / entry["labels"]) as aside:
                Image.fromarray(labels).save(aside, format="png")
        told.append(entry)
        done()
    write_json(folder / "predictions.json", told)
    return told, failed
